"""How pairs of units are worded: headlines, numbers, findings, followups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....context.context import Context
from ....schemas.result import Finding, Followup, Method
from ....schemas.spec import ExperimentSpec
from ...design.effect_report import conditional_text
from ...design.effect_rows import EffectTable
from ...design.report import followup, interval, number, plural
from ...design.units import Unit, exclusive
from .candidates import Pair

FINDINGS = 5
MEANING = {
    "and": "only both together act",
    "or": "either acts, both do no more",
    "suppression": "one acts, the other takes it away",
    "xor": "each acts alone, both together do not",
    "floor_artifact": "their pre-activations do not, the floor makes it so",
}


@dataclass(frozen=True)
class PairReport:
    """What is said of the pairs of a run.

    Attributes:
        spec: what was asked.
        method: how it was answered.
        columns: the columns of `PairRow`.
        pairs: the units of each row.
        acting: rows that may be headlined, strongest first.
        single: units are single tokens.
    """

    spec: ExperimentSpec
    method: Method
    columns: dict[str, Any]
    pairs: Sequence[Pair]
    acting: list[int]
    single: bool

    @property
    def feature(self) -> str:
        """The feature in words."""
        return f"feature {self.spec.feature_id}"

    @property
    def top(self) -> int:
        """The leading pair; the one with the largest |I| where none acts."""
        if self.acting:
            return self.acting[0]
        return int(np.nanargmax(np.abs(np.asarray(self.columns["interaction"], dtype=np.float64))))

    def value(self, name: str, index: int) -> float:
        """A number of a row."""
        return float(self.columns[name][index])

    def pair(self, index: int) -> str:
        """The units of a row."""
        return f"{self.columns['unit_a'][index]} and {self.columns['unit_b'][index]}"

    def effect(self, index: int) -> str:
        """The interaction with its simultaneous interval."""
        low, high = self.value("sim_low", index), self.value("sim_high", index)
        return f"{number(self.value('interaction', index))} {interval(low, high)}"

    def kind(self, index: int) -> str:
        """The pattern in brackets, with what it means."""
        name = self.columns["pattern"][index]
        return f" ({name}: {MEANING[name]})" if name in MEANING else ""

    def alone(self, index: int) -> str:
        """What each unit does alone, and both."""
        both = self.value("f11", index) - self.value("f00", index)
        first, second = (number(self.value(name, index)) for name in ("delta_a", "delta_b"))
        return f"{first} and {second} alone, {number(both)} together"

    def others(self) -> str:
        """How many more pairs act."""
        return f", {plural(len(self.acting) - 1, 'more pair')} in the tables" if len(self.acting) > 1 else ""

    def caused(self, table: EffectTable, min_effect: float) -> str:
        """The headline of an intervention, without its scope."""
        if not self.acting:
            return self._nothing_caused(table, min_effect)
        start = f"{self.pair(self.top)} interact on {self.feature}{self.kind(self.top)}"
        if table.status[self.top] == "conditional":
            return f"{start} {conditional_text(table, self.top)}{self.others()}"
        return f"{start}: interaction {self.effect(self.top)}; {self.alone(self.top)}{self.others()}"

    def _nothing_caused(self, table: EffectTable, min_effect: float) -> str:
        """What was seen at most, and what would have been."""
        certain = [i for i, status in enumerate(table.status) if status in {"present", "conditional"}]
        if certain:
            top = table.strongest(certain)
            text = conditional_text(table, top) if table.status[top] == "conditional" else self.effect(top)
            return (
                f"nothing specific found: {self.pair(top)} interact on {self.feature} {text}, no more than random "
                f"directions do (p = {float(table.specificity[top]):.2f})"
            )
        return (
            f"nothing above {min_effect:.2f} found: {self.pair(self.top)} interact most on {self.feature}, "
            f"{self.effect(self.top)}; an interaction of {table.detectable(min_effect):.2f} would have been"
        )

    def observed(self, min_effect: float, detectable: float) -> str:
        """The headline of an observational run, without its scope."""
        top, size = self.top, f"{self.effect(self.top)}, weapon held fixed"
        if self.acting:
            most = f"interaction {size}; {self.alone(top)}"
            return f"{self.pair(top)} go together with {self.feature}{self.kind(top)}: {most}{self.others()}"
        if self.columns["status"][top] == "present":
            p = self.value("specificity_p", top)
            return (
                f"nothing specific found: {self.pair(top)} go together with {self.feature} most, {size}, no more than "
                f"with random directions (p = {p:.2f})"
            )
        return (
            f"nothing above {min_effect:.2f} found: {self.pair(top)} go together with {self.feature} most, {size}; in "
            f"half of the pairs {detectable:.2f} would have been"
        )

    def numbers(self, left_out: int) -> dict[str, Any]:
        """The type's own numbers."""
        columns, top = self.columns, self.top
        signs = [np.sign(self.value("interaction", i)) for i in self.acting]
        return {
            "method": self.method,
            "family_mode": not self.single,
            "units": list(dict.fromkeys([*columns["unit_a"], *columns["unit_b"]])),
            "n_pairs": len(self.pairs),
            "n_pairs_left_out": left_out,
            "top_pair": [columns["unit_a"][top], columns["unit_b"][top]],
            "top_pattern": columns["pattern"][top],
            "top_interaction": columns["interaction"][top],
            "top_interaction_low": columns["sim_low"][top],
            "top_interaction_high": columns["sim_high"][top],
            "n_synergies": signs.count(1),
            "n_redundancies": signs.count(-1),
            "specificity_p": columns["specificity_p"][top],
            "verdict": columns["status"][top] if self.acting else "nothing_specific",
        }

    def findings(self, population: str) -> list[Finding]:
        """The pairs that act, or the one with the largest interaction where none does."""
        return [self._finding(index, population) for index in self.acting[:FINDINGS] or [self.top]]

    def _finding(self, index: int, population: str) -> Finding:
        acts, size = index in self.acting, self.value("interaction", index)
        relation = (
            f"interact on {self.feature}{self.kind(index)}" if acts else f"show no specific pair on {self.feature}"
        )
        table = "pairs" if not acts else "synergies" if size > 0 else "redundancies"
        return Finding(
            subject=self.pair(index),
            relation=relation,
            effect=size,
            ci_low=self.value("sim_low", index),
            ci_high=self.value("sim_high", index),
            status=self.columns["status"][index] or "unclear",
            responder_rate=self.columns["responder_rate"][index],
            specificity_p=self.columns["specificity_p"][index],
            n=int(self.columns["n"][index]),
            method=self.method,
            population=population,
            table=table,
        )

    def followups(self, ctx: Context) -> list[Followup]:
        """The grid of the leading pair, and the unit that may modulate it."""
        if not self.acting or self.columns["pattern"][self.top] == "floor_artifact":
            return []
        pair = self.pairs[self.top]
        if self.method == "observational":
            return self._to_the_network(ctx)
        if pair[0].family == pair[1].family:
            reason = f"{self.pair(self.top)} interact: which rungs of the family take from which?"
            return [followup(self.spec, "within_family_interference", {"family": pair[0].family}, reason)]
        reason = f"{self.pair(self.top)} interact: from which AP on, and what does the whole grid look like?"
        grid = {"family_x": pair[0].family, "family_y": pair[1].family}
        return [followup(self.spec, "family_2d_heatmap", grid, reason), *self._modulator(pair, ctx)]

    def _modulator(self, pair: Pair, ctx: Context) -> list[Followup]:
        """Does a unit that interacts with one of the two change what they do together?"""
        thirds = (third for i in self.acting[1:] if (third := third_unit(pair, self.pairs[i], ctx)) is not None)
        third = next(thirds, None)
        if third is None:
            return []
        wanted = {
            "candidate_tokens": [unit.label(ctx) for unit in pair],
            "modulator_token": third.label(ctx),
            **({"family_mode": False} if self.single else {}),
        }
        reason = f"{third.label(ctx)} interacts with one of the two as well: does it change what they do together?"
        return [followup(self.spec, "conditional_interactions", wanted, reason)]

    def _to_the_network(self, ctx: Context) -> list[Followup]:
        if not ctx.has_model:
            return []
        units = [self.columns[name][self.top] for name in ("unit_a", "unit_b")]
        again = self.spec.variables.model_dump(mode="json", include={"family_mode"}, exclude_defaults=True)
        reason = f"{self.pair(self.top)} go together with the feature: do they act together when written in?"
        return [followup(self.spec, "pairwise_interactions", {**again, "candidate_tokens": units}, reason)]


def third_unit(top: Pair, other: Pair, ctx: Context) -> Unit | None:
    """The unit of another pair that shares its partner with the top pair, and fits into a build with both."""
    rest = [unit for unit in other if unit not in top]
    if len(rest) != 1 or any(exclusive(rest[0], unit, ctx) for unit in top):
        return None
    return rest[0]
