"""The columns that every table of interventional effects shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ...schemas.result import Row, Status
from ..stats.paired import PairedEffects, bootstrap_weights, paired_effects, verdicts
from .specificity import SPECIFIC, NullEffects

Floats = NDArray[np.floating[Any]]
BOOTSTRAP_STREAM = 3


class EffectRow(Row):
    """One condition against its base, on the same contexts."""

    mean_delta: float | None = Field(description="Mean of a(condition) - a(base) over the contexts, in activation.")
    std_error: float | None = Field(description="Its standard error, corrected for the finite population.")
    n: int = Field(description="Contexts.")
    ci_low: float | None = Field(description="Lower end of the 95 % interval of mean_delta.")
    ci_high: float | None = Field(description="Upper end of the 95 % interval of mean_delta.")
    sim_low: float | None = Field(description="Lower end of the 95 % interval that holds for all rows at once.")
    sim_high: float | None = Field(description="Upper end of the 95 % interval that holds for all rows at once.")
    p_value: float | None = Field(description="Two-sided p that the mean effect is 0.")
    q_value: float | None = Field(description="Benjamini-Hochberg q over the rows of the table.")
    mean_pre_delta: float | None = Field(description="The same mean of the pre-activation h, which has no floor.")
    responder_rate: float | None = Field(description="Share of contexts whose |effect| exceeds min_effect.")
    responder_low: float | None = Field(description="Lower end of its Clopper-Pearson interval.")
    responder_high: float | None = Field(description="Upper end of its Clopper-Pearson interval.")
    mean_responders: float | None = Field(description="Mean effect on those contexts.")
    status: Status = Field(description="present, conditional, negligible or unclear; see the methods.")
    n_to_settle: int | None = Field(description="Contexts that would settle an unclear row.")
    specificity_p: float | None = Field(description="Share of random directions that respond at least as much.")
    mean_activation: float | None = Field(description="Mean activation under the condition.")
    active_rate: float | None = Field(description="Share of contexts active under the condition.")


@dataclass(frozen=True)
class EffectTable:
    """Effects of k conditions with their verdicts.

    Attributes:
        effects: the estimates.
        status: verdict of each condition.
        specificity: p of each condition against random directions; NaN where unknown.
        columns: the shared columns, ready for `Table.from_columns`.
        differences: [m, k], the paired differences.
        weights: bootstrap weights [B, m].
    """

    effects: PairedEffects
    status: list[Status]
    specificity: Floats
    columns: dict[str, Any]
    differences: Floats
    weights: Floats

    def acting(self) -> list[int]:
        """Conditions that may be headlined: present or conditional, and specific to the feature."""
        return [
            index
            for index, status in enumerate(self.status)
            if status in {"present", "conditional"} and not self.specificity[index] > SPECIFIC
        ]

    def strongest(self, among: list[int]) -> int:
        """The condition with the largest mean effect; where it acts, for conditional ones."""
        effects = self.effects
        size = [
            abs(float(effects.mean_responders[i] if self.status[i] == "conditional" else effects.mean[i]))
            for i in among
        ]
        return among[int(np.argmax(size))]

    def detectable(self, min_effect: float) -> float:
        """Smallest effect that every row would have shown as present: min_effect plus the widest half-interval."""
        widths = (self.effects.sim_high - self.effects.sim_low) / 2.0
        return float(min_effect + np.max(widths)) if len(widths) else float("nan")


def effect_table(
    activation: Floats,
    pre: Floats,
    *,
    base: tuple[Floats, Floats],
    population: int,
    min_effect: float,
    null: NullEffects | None,
    seed: int,
) -> EffectTable:
    """Compare conditions with their base.

    Args:
        activation: [k, m] under the conditions.
        pre: [k, m], pre-activations.
        base: (activation, pre) to compare with: [m], or [k, m] where every condition has its own.
        population: examples the contexts were drawn from.
        min_effect: smallest effect of interest.
        null: what random directions do; None where unknown.
        seed: the spec's seed.
    """
    d = (activation - base[0]).T.astype(np.float64)
    weights = bootstrap_weights(d.shape[0], np.random.default_rng([seed, BOOTSTRAP_STREAM]))
    effects = paired_effects(d, population, min_effect, weights)
    status, needed = verdicts(effects, min_effect)
    rows = zip(status, effects.mean.tolist(), effects.mean_responders.tolist(), strict=True)
    specificity = np.array([np.nan if null is None else null.p_value(*row) for row in rows])
    columns = {
        "mean_delta": effects.mean,
        "std_error": effects.std_error,
        "n": np.full(len(status), effects.n),
        "ci_low": effects.ci_low,
        "ci_high": effects.ci_high,
        "sim_low": effects.sim_low,
        "sim_high": effects.sim_high,
        "p_value": effects.p_value,
        "q_value": effects.q_value,
        "mean_pre_delta": (pre - base[1]).mean(axis=1, dtype=np.float64),
        "responder_rate": effects.responder_rate,
        "responder_low": effects.responder_low,
        "responder_high": effects.responder_high,
        "mean_responders": effects.mean_responders,
        "status": status,
        "n_to_settle": needed,
        "specificity_p": specificity,
        "mean_activation": activation.mean(axis=1, dtype=np.float64),
        "active_rate": (activation > 0).mean(axis=1),
    }
    return EffectTable(effects, status, specificity, columns, d, weights)
