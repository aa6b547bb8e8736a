"""What the examples say of subs and specials: the observational half of the kit sweep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ....context.context import Context
from ....context.population import Population
from ....schemas.job import Job
from ....schemas.result import Aggregates, ConstraintViolation, Finding, Findings, Followup
from ....schemas.spec import ExperimentSpec
from ...design.effect_report import summarise
from ...design.report import CORRELATIONAL, followup, interval, number, observed_scope, plural
from ...design.specificity import SPECIFIC
from ..weapon_groups.null import WeaponSums, weapon_sums
from ..weapons.gating import GATING, never_active
from ..weapons.observed import specificity_reason
from .tables import ALONE, Kind, PartTable

LARGEST_Q = 0.05
EXPLAINED = 0.5


@dataclass(frozen=True)
class KitReading:
    """What may be said of the subs and specials of a table.

    Attributes:
        table: subs and specials.
        combos: their combinations; None when not asked for.
        population: the examples.
        specificity: p of the largest |delta| over usable parts against random directions; None where unknown.
        min_effect: smallest effect of interest.
    """

    table: PartTable
    combos: PartTable | None
    population: Population
    specificity: float | None
    min_effect: float

    @property
    def specific(self) -> bool:
        """Whether parts differ more than under random directions, as far as that is known."""
        return self.specificity is None or self.specificity <= SPECIFIC

    @property
    def certain(self) -> list[int]:
        """Parts whose effect is present and more than random deals of the kits give, largest first."""
        status, q = self.table.status, self.table.q_value
        return self._largest_first([i for i in range(len(q)) if status[i] == "present" and q[i] <= LARGEST_Q])

    @property
    def separate(self) -> list[int]:
        """Those of them that one weapon does not carry."""
        return [i for i in self.certain if self.table.separable[i]]

    @property
    def acting(self) -> list[int]:
        """Parts that may be headlined."""
        return self.separate if self.specific else []

    @property
    def leader(self) -> int | None:
        """The part to speak of; None where none has a verdict."""
        usable = self._largest_first(np.flatnonzero(self.table.usable).tolist())
        return next(iter([*self.separate, *self.certain, *usable]), None)

    def explained(self, index: int) -> bool:
        """Whether abilities that go with the part explain most of its effect."""
        delta, adjusted = float(self.table.effects.delta[index]), float(self.table.adjusted.delta[index])
        return bool(np.sign(delta) * adjusted < EXPLAINED * abs(delta))

    def _largest_first(self, indices: list[int]) -> list[int]:
        return sorted(indices, key=lambda i: -abs(float(self.table.effects.delta[i])))


def read_kits(
    spec: ExperimentSpec,
    ctx: Context,
    table: PartTable,
    combos: PartTable | None,
    *,
    population: Population,
    min_effect: float,
) -> KitReading:
    """Compare the largest difference with those of random directions on the same examples."""
    sums = weapon_sums(ctx, spec.feature_id, population, spec.dataset_slice.random_seed) if table.usable.any() else None
    return KitReading(table, combos, population, _specificity(table, sums), min_effect)


def _specificity(table: PartTable, sums: WeaponSums | None) -> float | None:
    if sums is None:
        return None
    return sums.p_value(table.parts.member[table.usable][:, table.kits.of_weapon])


def silent_parts(table: PartTable, min_examples: int, *, listed: bool) -> ConstraintViolation | None:
    """The violation by subs and specials with enough examples, none of them active; None where there is none."""
    eligible = table.parts.known & (table.effects.n >= min_examples)
    n_active = table.moments["n_active"]
    kits = table.parts.member[eligible & (n_active == 0)].any(axis=0)
    names = [table.parts.title(i) for i in range(len(table.parts.names))]
    return never_active(n_active, eligible, names, examples=int(table.counts[kits].sum()), listed=listed)


def observed_findings(spec: ExperimentSpec, ctx: Context, job: Job, reading: KitReading) -> Findings:
    """Headline, findings, numbers and followups of the examples by sub and special."""
    job.warn(CORRELATIONAL)
    table = reading.table
    among = np.flatnonzero(table.eligible & ~np.isnan(table.effects.delta))
    custom = {"method": "observational", **part_numbers(table, reading.combos), **_verdict_numbers(reading)}
    n = len(reading.population)
    leader = reading.leader
    shown = reading.acting[:5] or ([] if leader is None else [leader])
    return Findings(
        headline=_headline(spec, reading),
        findings=[_finding(spec, reading, i) for i in shown],
        aggregates=summarise(table.effects.delta[among], n, custom)
        if len(among)
        else Aggregates(n_samples=n, custom=custom),
        followups=_followups(spec, ctx, reading),
    )


def part_numbers(table: PartTable, combos: PartTable | None) -> dict[str, Any]:
    """The highest sub, special and combination by mean activation, for ``custom``; null where there is none."""
    numbers: dict[str, Any] = {}
    kinds: tuple[Kind, ...] = ("sub", "special")
    for kind in kinds:
        numbers |= _top(table, kind)
    numbers |= {"top_combo": None, "top_combo_reason": "analyze_combinations is false"}
    if combos is not None:
        numbers |= {"top_combo_reason": None, **_top(combos, "combo")}
    known = [kit for kit, n in zip(table.kits.facts, table.counts, strict=True) if n > 0]
    return numbers | {
        "n_subs": len(table.ranked("sub")),
        "n_specials": len(table.ranked("special")),
        "n_kits": len(known),
        "n_unknown_weapons": sum(not kit.known for kit in known),
    }


def _top(table: PartTable, kind: Kind) -> dict[str, Any]:
    ranked = table.ranked(kind)
    if not ranked:
        reason = f"no {kind} has enough examples"
        if table.n_dropped(kind):
            reason += " and activates the feature"
        nothing = (f"top_{kind}", f"top_{kind}_mean", f"top_{kind}_delta", f"top_{kind}_separable")
        return dict.fromkeys(nothing) | {f"top_{kind}_reason": reason}
    top = ranked[0]
    return {
        f"top_{kind}": table.parts.names[top],
        f"top_{kind}_reason": ALONE if np.isnan(table.effects.delta[top]) else None,
        f"top_{kind}_mean": float(table.effects.mean[top]),
        f"top_{kind}_delta": float(table.effects.delta[top]),
        f"top_{kind}_separable": table.separable[top],
    }


def _verdict_numbers(reading: KitReading) -> dict[str, Any]:
    table, acting, leader = reading.table, reading.acting, reading.leader
    strongest = -1 if leader is None or acting else int(table.effects.strongest[leader])
    carried = strongest >= 0 and leader is not None and (table.reasons[leader] or "").startswith("mostly carried")
    return {
        "acting_parts": [table.parts.title(i) for i in acting],
        "carried_by": table.kits.facts[strongest].name if carried else None,
        "explained_by_abilities": reading.explained(acting[0]) if acting else None,
        "specificity_p": reading.specificity,
        "specificity_reason": specificity_reason(reading.specificity, table.usable),
        "verdict": "present" if acting else "nothing_specific",
    }


def _headline(spec: ExperimentSpec, reading: KitReading) -> str:
    table, top, tail = reading.table, reading.leader, observed_scope(reading.population)
    feature = f"feature {spec.feature_id}"
    if top is None:
        return f"nothing can be said: {_unusable(table)}; {tail}"
    if not reading.acting:
        return f"{_nothing(reading, top, feature)}; {tail}"
    others = len(reading.acting) - 1
    more = f" ({plural(others, 'more sub or special') if others == 1 else f'{others} more subs or specials'} too)"
    title, adjusted = table.parts.title(top), float(table.adjusted.delta[top])
    held = "adjusted unknown" if np.isnan(adjusted) else f"{number(adjusted)} with abilities held fixed"
    if reading.explained(top):
        held = f"but only {held}: the abilities its builds hold explain it"
    within = float(table.effects.within[top])
    same_main = "" if np.isnan(within) else f", {number(within)} within main weapons"
    weapons = plural(int(table.effects.kits[top]), "weapon")
    effect = f"{_effect(reading, top)} against the mean, over {weapons}{same_main}, {held}"
    return f"{title} goes with {feature}{more if others else ''}: {effect}; {tail}"


def _unusable(table: PartTable) -> str:
    """Why no part has a verdict."""
    if table.dropped.any() and not table.eligible.any():
        return f"no sub or special with enough examples activates it ({GATING})"
    return "no sub or special has 20 examples of two weapons, with two weapons beside them"


def _effect(reading: KitReading, index: int) -> str:
    low, high = reading.table.effects.interval(reading.table.level)
    return f"{number(float(reading.table.effects.delta[index]))} {interval(float(low[index]), float(high[index]))}"


def _nothing(reading: KitReading, top: int, feature: str) -> str:
    """Why no part is headlined."""
    table = reading.table
    title, effect = table.parts.title(top), _effect(reading, top)
    if table.separable[top] is False:
        return (
            f"nothing specific to a sub or special found on {feature}: {title} differs most ({effect}), "
            f"{table.reasons[top]}"
        )
    if top not in reading.certain:
        p = float(table.effects.p_value[top])
        return (
            f"nothing above {reading.min_effect:.2f} found: no sub or special stands out on {feature}, {title} most "
            f"({effect}; kits dealt at random do as much in {p:.1%})"
        )
    return (
        f"nothing specific found: {title} differs most on {feature}, {effect} against the mean, no more than subs and "
        f"specials do on random directions (p = {reading.specificity:.2g})"
    )


def _finding(spec: ExperimentSpec, reading: KitReading, index: int) -> Finding:
    table = reading.table
    low, high = table.effects.interval(table.level)
    relation = "goes with" if index in reading.acting else "is nothing specific to"
    return Finding(
        subject=table.parts.title(index),
        relation=f"{relation} feature {spec.feature_id}",
        effect=float(table.effects.delta[index]),
        ci_low=float(low[index]),
        ci_high=float(high[index]),
        status=table.status[index] or "unclear",
        specificity_p=reading.specificity,
        n=int(table.effects.n[index]),
        method="observational",
        population=reading.population.description,
        table=f"{table.parts.kinds[index]}_stats",
    )


def _followups(spec: ExperimentSpec, ctx: Context, reading: KitReading) -> list[Followup]:
    if not ctx.has_model:
        return []
    if reading.acting:
        again = spec.variables.model_dump(mode="json", exclude_defaults=True) | {"method": "interventional"}
        reason = f"{reading.table.parts.title(reading.acting[0])} goes with the feature: do kits with it do it?"
        return [followup(spec, "kit_sweep", again, reason)]
    leader = reading.leader
    if leader is not None and reading.specific and reading.table.separable[leader] is False:
        reason = f"{reading.table.parts.title(leader)} is {reading.table.reasons[leader]}: which weapon does it?"
        return [followup(spec, "weapon_sweep", {"method": "interventional"}, reason)]
    return []
