"""How a permutation test is told: its table, numbers, headline and finding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from ....context.population import Population
from ....schemas.result import Finding, Row, Status, Table
from ...design.observed import interval_status
from ...design.report import interval, number, observed_scope, plural
from ...design.specificity import SPECIFIC
from .significance import Question, Shuffled, simultaneous_interval, where
from .statistics import LARGEST_EFFECT, Prepared, Statistic

SIGNIFICANT = 0.05
WORDS: dict[Statistic, str] = {
    "max_token_effect": "the largest token effect",
    "max_weapon_effect": "the largest weapon effect",
    "top_token_concentration": "the largest excess of a token among high examples",
    "family_trend": "the slope of activation on level",
}


class NullDistribution(Row):
    """The statistic of the data against that of the shuffles."""

    statistic: str = Field(description="Which statistic.")
    unit: str | None = Field(description="Token, weapon or family that attains it in the data.")
    observed: float | None = Field(
        description="Statistic of the data: |t|, a difference of shares, or the size of a slope (activation per AP)."
    )
    null_mean: float | None = Field(description="Mean over the shuffles.")
    null_std: float | None = Field(description="Standard deviation over the shuffles.")
    q50: float | None = Field(description="Median of the shuffles.")
    q90: float | None = Field(description="Their 90 % quantile.")
    q95: float | None = Field(description="Their 95 % quantile.")
    q99: float | None = Field(description="Their 99 % quantile.")
    z: float | None = Field(description="(observed - null_mean) / null_std.")
    p_value: float | None = Field(description="(1 + shuffles with at least as much) / (1 + shuffles).")
    n_shuffles: int = Field(description="Shuffles.")
    reason: str | None = Field(description="Why a number is null.")


@dataclass(frozen=True)
class Answer:
    """A permutation test with what is needed to judge it.

    Attributes:
        question: what was asked.
        found: what came out.
        n_units: units compared.
        low, high: simultaneous 95 % interval of the unit's effect; NaN where there is none.
        status: verdict of that interval; None where there is none.
        share_movable: share of the examples that had another place to go.
        large: whether the effect is no smaller than the effect of interest.
    """

    question: Question
    found: Shuffled
    n_units: int
    low: float
    high: float
    status: Status | None
    share_movable: float
    large: bool

    @classmethod
    def of(
        cls, question: Question, found: Shuffled, prepared: Prepared, population: Population, min_effect: float
    ) -> Answer:
        """Judge the unit that attains the statistic.

        Shares and slopes have no interval; a slope is large enough where it gives the effect of interest from 0 to the
        highest level there is.
        """
        low = high = float("nan")
        if question.statistic in LARGEST_EFFECT:
            low, high = simultaneous_interval(prepared, found.index, population.activation)
        status = interval_status(low, high, min_effect)
        top = float(prepared.columns.largest()) if question.statistic == "family_trend" else 1.0
        trend = question.statistic != "family_trend" or abs(found.effect) * top >= min_effect
        return cls(
            question=question,
            found=found,
            n_units=len(prepared.labels),
            low=low,
            high=high,
            status=status,
            share_movable=float(prepared.exchange.movable().mean()),
            large=status == "present" if question.statistic in LARGEST_EFFECT else trend,
        )

    @property
    def significant(self) -> bool:
        """Whether shuffled data rarely show as much."""
        return self.found.p_value <= SIGNIFICANT

    @property
    def specific(self) -> bool:
        """Whether random directions rarely show as much."""
        return self.found.specificity_p is not None and self.found.specificity_p <= SPECIFIC

    @property
    def acts(self) -> bool:
        """Whether something is found: significant, specific, and no smaller than the effect of interest."""
        return self.significant and self.specific and self.large

    def row(self) -> NullDistribution:
        """The row of the table ``null_distribution``."""
        null, observed = self.found.null, self.found.observed
        quantiles = dict(zip(("q50", "q90", "q95", "q99"), np.quantile(null, [0.5, 0.9, 0.95, 0.99]), strict=True))
        spread = float(null.std(ddof=1))
        varies = spread > 1e-9 * max(abs(float(null.mean())), 1e-300)
        return NullDistribution(
            statistic=self.question.statistic,
            unit=self.found.unit,
            observed=observed,
            null_mean=float(null.mean()),
            null_std=spread,
            **{key: float(value) for key, value in quantiles.items()},
            z=(observed - float(null.mean())) / spread if varies else None,
            p_value=self.found.p_value,
            n_shuffles=len(null),
            reason=None if varies else "all shuffles give the same: no z",
        )

    def numbers(self) -> dict[str, Any]:
        """What the test reports in ``custom``."""
        found = self.found
        numbers = self.row().model_dump() | {
            "method": "observational",
            "stratify_by": self.question.stratify_by,
            "significant": self.significant,
            "effect": found.effect,
            "effect_low": self.low,
            "effect_high": self.high,
            "n_units": self.n_units,
            "share_movable": self.share_movable,
            "specificity_p": found.specificity_p,
            "verdict": "present" if self.acts else "nothing_specific",
        }
        if np.isnan(self.low):
            numbers["effect_interval_reason"] = (
                "fewer than 10 builds with or without it"
                if self.question.statistic in LARGEST_EFFECT
                else f"{self.question.statistic} has no interval: p is the statement"
            )
        if found.specificity_p is None:
            numbers["specificity_reason"] = "no random directions to compare with: pooled vectors are unknown"
        return numbers

    def table(self) -> Table:
        """The table ``null_distribution``."""
        return Table.of("null_distribution", NullDistribution, [self.row()])

    def finding(self, feature: int, population: Population) -> Finding:
        """The statement on the unit."""
        kind = {"family_trend": "activation per AP", "top_token_concentration": "share of examples"}
        fallback: Status = "present" if self.acts else "unclear"
        return Finding(
            subject=self.found.unit,
            relation=f"goes with feature {feature}",
            effect=self.found.effect,
            ci_low=self.low,
            ci_high=self.high,
            unit=kind.get(self.question.statistic, "activation"),
            status=self.status or fallback,
            specificity_p=self.found.specificity_p,
            n=len(population),
            method="observational",
            population=population.description,
            table="null_distribution",
        )

    def headline(self, feature: int, population: Population, min_effect: float) -> str:
        """What was found, or why nothing was."""
        found, scope = self.found, observed_scope(population)
        p, q = f"p = {found.p_value:.2g}", found.specificity_p
        what = f"{WORDS[self.question.statistic]} for feature {feature} ({found.unit}, {self._size()})"
        against = f"{plural(len(found.null), 'shuffle')} {where(self.question)}"
        if not self.significant:
            return f"nothing found: {what} is no more than in shuffled data ({p}, {against}); {scope}"
        if q is None:
            rest = f"differs from shuffled data ({p}, {against}), but no random directions are known to compare with"
            return f"nothing specific found: {what} {rest}; {scope}"
        if not self.specific:
            rest = f"differs from shuffled data ({p}, {against}), as random directions do (p = {q:.2g})"
            return f"nothing specific found: {what} {rest}; {scope}"
        if not self.acts:
            return f"nothing above {min_effect:.2f} found for certain: {what} differs from shuffled data ({p}); {scope}"
        start = f"{found.unit} goes with feature {feature} beyond chance: {self._size()}"
        return f"{start}, {p} in {against}, more than random directions (p = {q:.2g}); {scope}"

    def _size(self) -> str:
        """The effect in words, with its interval or its null."""
        effect, top = self.found.effect, float(np.quantile(self.found.null, 0.95))
        if self.question.statistic == "family_trend":
            return f"{effect:+.2g} per AP against {top:.2g}"
        if self.question.statistic == "top_token_concentration":
            return f"{number(effect)} of the examples against {top:.2f}"
        bounds = "" if np.isnan(self.low) else f" {interval(self.low, self.high)}"
        return f"{number(effect)}{bounds}, |t| = {self.found.observed:.1f} against {top:.1f}"
