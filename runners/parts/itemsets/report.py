"""How the itemsets worth naming are worded: headline, findings, followups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ....context.context import Context
from ....context.population import Population
from ....schemas.result import Finding, Followup
from ....schemas.spec import ExperimentSpec
from ...design.high import HighSplit
from ...design.report import followup, interval, number, observed_scope, plural, with_short
from ...design.specificity import SPECIFIC
from .rows import SURE

Cells = dict[str, Any]


@dataclass(frozen=True)
class Named:
    """An itemset worth naming.

    Attributes:
        row: its row of the table.
        specificity_p: share of random directions with as telling a set; None where unknown.
    """

    row: Cells
    specificity_p: float | None

    @property
    def words(self) -> str:
        """Its name in words."""
        return set_words(self.row["tokens"])

    @property
    def specific(self) -> bool:
        """Whether random directions seldom have such a set."""
        return self.specificity_p is None or self.specificity_p <= SPECIFIC


def set_words(labels: Sequence[str]) -> str:
    """An itemset as headlines write it, families with their abbreviations."""
    return " and ".join(with_short(label) for label in labels)


def scope(split: HighSplit, population: Population) -> str:
    """The tail of the headline: how many high examples of how many, which ones, and that nothing was changed."""
    return f"{split.describe()} of {observed_scope(population)}"


def named_headline(feature: int, named: Sequence[Named], *, collapsed: bool, tail: str) -> str:
    """The headline where an itemset stands out, specific or not."""
    first, row = named[0], named[0].row
    if not first.specific:
        return (
            f"nothing specific found: {first.words} goes with {_effect(row)} activation of feature {feature}, but "
            f"random directions have sets as telling (p = {first.specificity_p:.2f}); {tail}"
        )
    verb = "marks" if row["size"] == 1 else "together mark"
    held = "held at any AP by" if collapsed else "held by"
    others = f"; where that is absent, {' or '.join(each.words for each in named[1:])}" if len(named) > 1 else ""
    return (
        f"{first.words} {verb} the high examples of feature {feature}: {held} {row['support_high']:.0%} of them "
        f"{_against(row)}, {_effect(row)} activation where held, weapon held fixed{others}; {tail}"
    )


def nothing_headline(feature: int, rows: Sequence[Cells], *, min_effect: float, tail: str) -> str:
    """The headline where no itemset stands out: what came nearest."""
    likely = [row for row in rows if row["p_adjusted"] < SURE]
    if not likely:
        reason = f"no itemset is commoner among the high examples of feature {feature} than their weapons explain"
        return f"nothing found: {reason} (smallest p_adjusted {min(row['p_adjusted'] for row in rows):.2f}); {tail}"
    top = max(likely, key=lambda row: (row["within_weapon_delta"] is not None, row["within_weapon_delta"]))
    more = f"{plural(len(likely), 'itemset')} {'is' if len(likely) == 1 else 'are'} commoner"
    return (
        f"nothing above {min_effect:.2f} found: {more} among the high examples of feature {feature} than chance, but "
        f"none surely goes with that much activation, {set_words(top['tokens'])} most ({_effect(top)}); {tail}"
    )


def _against(row: Cells) -> str:
    if row["support_baseline"] is None:
        return "(there is no baseline)"
    lift = "" if row["lift"] is None else f" (lift {row['lift']:.1f})"
    return f"against {row['support_baseline']:.1%} of the rest{lift}"


def _effect(row: Cells) -> str:
    if row["within_weapon_delta"] is None:
        return "an unknown effect"
    bounds = "" if row["ci_low"] is None else f" {interval(row['ci_low'], row['ci_high'])}"
    return f"{number(row['within_weapon_delta'])}{bounds}"


def named_finding(feature: int, named: Named, population: Population) -> Finding:
    """The statement of one itemset."""
    row = named.row
    found = f"marks the high examples of feature {feature}"
    return Finding(
        subject=named.words,
        relation=found if named.specific else "tells no more than sets of random directions do",
        effect=row["within_weapon_delta"],
        ci_low=row["ci_low"],
        ci_high=row["ci_high"],
        status=row["status"],
        specificity_p=named.specificity_p,
        n=row["n"],
        method="observational",
        population=population.description,
        table="itemsets",
    )


def causal_followups(spec: ExperimentSpec, ctx: Context, tokens: Sequence[str]) -> list[Followup]:
    """The causal question, where there is a model: one ability swept, two crossed, and whether they are enough."""
    if not ctx.has_model:
        return []
    vocabulary = ctx.vocabulary
    families = [each if each in vocabulary.family_index else vocabulary.parse_unit(each)[0] for each in tokens]
    families = list(dict.fromkeys(families))
    found: list[Followup] = []
    if len(families) == 1:
        reason = (
            f"{families[0]} marks the high examples: does writing it into builds raise the feature, and from where on?"
        )
        found.append(followup(spec, "family_1d_sweep", {"family": families[0]}, reason))
    elif len(families) == 2:
        reason = "two abilities mark the high examples together: does the feature need both?"
        found.append(followup(spec, "family_2d_heatmap", {"family_x": families[0], "family_y": families[1]}, reason))
    reason = "is what the high examples share enough by itself?"
    return [*found, followup(spec, "minimal_cores", {}, reason)]
