"""How modulated interactions are worded: headline, numbers, findings, followups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....schemas.result import Finding, Followup
from ....schemas.spec import ExperimentSpec
from ...design.effect_report import conditional_text
from ...design.effect_rows import EffectTable
from ...design.report import followup, interval, number, plural
from .candidates import Pair
from .modulated import Modulator
from .report import FINDINGS


@dataclass(frozen=True)
class ModulatedReport:
    """What is said of the pairs of a run.

    Attributes:
        spec: what was asked.
        modulator: what may change them.
        columns: the columns of `ModulatedRow`.
        pairs: the units of each row.
        acting: rows that may be headlined, strongest first.
        table: effects of the modulator on the interactions.
        single: units are single tokens.
    """

    spec: ExperimentSpec
    modulator: Modulator
    columns: dict[str, Any]
    pairs: Sequence[Pair]
    acting: list[int]
    table: EffectTable
    single: bool

    @property
    def top(self) -> int:
        """The leading pair; the one whose interaction differs most where none acts."""
        return self.acting[0] if self.acting else int(np.argmax(np.abs(self.table.effects.mean)))

    def value(self, name: str, index: int) -> float:
        """A number of a row."""
        return float(self.columns[name][index])

    def pair(self, index: int) -> str:
        """The units of a row."""
        return f"{self.columns['unit_a'][index]} and {self.columns['unit_b'][index]}"

    def change(self, index: int) -> str:
        """The difference with its simultaneous interval."""
        low, high = self.value("sim_low", index), self.value("sim_high", index)
        return f"{number(self.value('difference', index))} {interval(low, high)}"

    def either(self, index: int) -> str:
        """The interaction without the modulator and with it."""
        without, held = (number(self.value(f"interaction_{name}", index)) for name in ("without", "with"))
        return f"interaction {without} without it, {held} with it"

    def headline(self, min_effect: float) -> str:
        """The headline, without its scope."""
        top, feature = self.top, f"feature {self.spec.feature_id}"
        if not self.acting:
            return self._nothing(min_effect)
        verb = f"{self.columns['reading'][top]} what {self.pair(top)} do together"
        more = f", {plural(len(self.acting) - 1, 'more pair')} in the tables" if len(self.acting) > 1 else ""
        if self.table.status[top] == "conditional":
            return f"{self.modulator.label} {verb} on {feature} {conditional_text(self.table, top)}{more}"
        return f"{self.modulator.label} {verb} on {feature}: {self.either(top)}, change {self.change(top)}{more}"

    def _nothing(self, min_effect: float) -> str:
        """What was seen at most, and what would have been."""
        table, label, feature = self.table, self.modulator.label, f"feature {self.spec.feature_id}"
        certain = [i for i, status in enumerate(table.status) if status in {"present", "conditional"}]
        if certain:
            top = table.strongest(certain)
            text = conditional_text(table, top) if table.status[top] == "conditional" else self.change(top)
            return (
                f"nothing specific found: {label} changes what {self.pair(top)} do together on {feature} {text}, no "
                f"more than random directions do (p = {float(table.specificity[top]):.2f})"
            )
        return (
            f"nothing above {min_effect:.2f} found: {label} changes what {self.pair(self.top)} do together most on "
            f"{feature}, {self.change(self.top)}; a change of {table.detectable(min_effect):.2f} would have been"
        )

    def numbers(self, alone: EffectTable, left_out: int) -> dict[str, Any]:
        """The type's own numbers."""
        columns, top, effects = self.columns, self.top, alone.effects
        return {
            "method": "interventional",
            "family_mode": not self.single,
            "modulator": self.modulator.label,
            "modulator_effect": float(effects.mean[0]),
            "modulator_low": float(effects.sim_low[0]),
            "modulator_high": float(effects.sim_high[0]),
            "modulator_status": alone.status[0],
            "modulator_specificity_p": float(alone.specificity[0]),
            "units": list(dict.fromkeys([*columns["unit_a"], *columns["unit_b"]])),
            "n_pairs": len(self.pairs),
            "n_pairs_left_out": left_out,
            "n_modulated": len(self.acting),
            "top_pair": [columns["unit_a"][top], columns["unit_b"][top]],
            "top_reading": columns["reading"][top] if self.acting else "none",
            "top_difference": self.value("difference", top),
            "top_difference_low": self.value("sim_low", top),
            "top_difference_high": self.value("sim_high", top),
            "interaction_without": self.value("interaction_without", top),
            "interaction_with": self.value("interaction_with", top),
            "specificity_p": self.value("specificity_p", top),
            "verdict": columns["status"][top] if self.acting else "nothing_specific",
        }

    def findings(self, population: str) -> list[Finding]:
        """The pairs that change, or the one that changes most where none acts."""
        return [self._finding(index, population) for index in self.acting[:FINDINGS] or [self.top]]

    def _finding(self, index: int, population: str) -> Finding:
        acts = index in self.acting
        verb = self.columns["reading"][index] if acts else "leaves"
        return Finding(
            subject=self.modulator.label,
            relation=f"{verb} what {self.pair(index)} do together on feature {self.spec.feature_id}",
            effect=self.value("difference", index),
            ci_low=self.value("sim_low", index),
            ci_high=self.value("sim_high", index),
            status=self.columns["status"][index],
            responder_rate=self.value("responder_rate", index),
            specificity_p=self.value("specificity_p", index),
            n=int(self.columns["n"][index]),
            method="interventional",
            population=population,
            table="modulated" if acts else "pairs",
        )

    def followups(self) -> list[Followup]:
        """What the pair does over the whole grid with the modulator there, or from which AP on the modulator works."""
        if not self.acting or self.single or self.modulator.unit is None:
            return []
        first, second = self.pairs[self.top]
        both = [self.columns[name][self.top] for name in ("unit_a", "unit_b")]
        if self.modulator.label != self.modulator.unit.family:
            reason = f"{self.modulator.label} changes what the two do together: from which AP on?"
            wanted = {"family": self.modulator.unit.family, "stable_tokens": both}
            return [followup(self.spec, "family_1d_sweep", wanted, reason)]
        if self.columns["reading"][self.top] == "blocks":
            return []
        reason = (
            f"{self.modulator.label} lets {self.pair(self.top)} act together: what does their whole grid look like?"
        )
        wanted = {"family_x": first.family, "family_y": second.family, "stable_tokens": [self.modulator.label]}
        return [followup(self.spec, "family_2d_heatmap", wanted, reason)]
