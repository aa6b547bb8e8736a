"""What stands out in an overview: units or weapons, which of them leads, and what to run next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ....context.context import Context
from ....context.population import Population
from ....schemas.result import Finding, Followup
from ....schemas.spec import ExperimentSpec
from ...design.report import followup, interval, number, observed_scope, with_short
from ...design.specificity import SPECIFIC
from ..weapons.dominance import Shared, shared_part
from ..weapons.stats import WeaponTable
from .units import Specificity, UnitEffects

FOLLOWED_UNITS = 6
MOST_FINDINGS = 5
TOO_FEW = "has 20 examples in 10 builds beside others"
ALSO = 0.3
"""A further unit is named in the headline when its effect is at least this share of the first one's."""


@dataclass(frozen=True)
class Seen:
    """What the overview found.

    Attributes:
        units: effects of families and levels.
        weapons: the table of weapons.
        chance: p of each against random directions.
        standing: columns of units with a present effect, one a family, the largest first.
        acting: weapons whose mean is certainly above the others', by falling mean.
        shared: the sub or special that those share beyond chance.
    """

    units: UnitEffects
    weapons: WeaponTable
    chance: Specificity
    standing: list[int]
    acting: list[int]
    shared: Shared | None

    def specific(self, p: float | None) -> bool:
        """Whether a p is below the limit, Bonferroni over units and weapons; true where it is unknown."""
        return p is None or 2.0 * p <= SPECIFIC

    def judged(self) -> str:
        """Of what anything can be said at all: "unit or weapon", one of them, or nothing."""
        able = {"unit": self.units.usable.any(), "weapon": self.weapons.usable.any()}
        return " or ".join(name for name, any_usable in able.items() if any_usable)

    @property
    def leader(self) -> Literal["unit", "weapon"] | None:
        """What stands out most: the larger effect, each with the other held fixed; None when nothing specific does."""
        unit = abs(self.unit_effect) if self.standing and self.specific(self.chance.units) else 0.0
        weapon = self.weapon_effect if self.acting and self.specific(self.chance.weapons) else 0.0
        if max(unit, weapon) <= 0.0:
            return None
        return "unit" if unit >= weapon else "weapon"

    @property
    def unit_effect(self) -> float:
        """Effect of the leading unit."""
        return float(self.units.effects.coefficient[self.standing[0]])

    @property
    def weapon_effect(self) -> float:
        """Effect of the top weapon with abilities held fixed, where that is known; never below 0."""
        top = self.acting[0]
        adjusted = float(self.weapons.adjusted.coefficient[top])
        return max(0.0, float(self.weapons.deltas.delta[top]) if np.isnan(adjusted) else adjusted)


def what_stands_out(ctx: Context, units: UnitEffects, weapons: WeaponTable, chance: Specificity) -> Seen:
    """Gather the units and weapons whose effects are certainly beyond min_effect."""
    strongest = [units.strongest(family) for family in units.ranked()]
    ranked = weapons.ranked()
    acting = [i for i in ranked if weapons.status[i] == "present" and weapons.deltas.delta[i] > 0]
    return Seen(
        units=units,
        weapons=weapons,
        chance=chance,
        standing=[i for i in strongest if units.status[i] == "present"],
        acting=acting,
        shared=shared_part(ctx, acting, ranked),
    )


def seen_numbers(ctx: Context, seen: Seen) -> dict[str, Any]:
    """The numbers of what stands out, for ``custom``."""
    top = seen.units.strongest(seen.units.ranked()[0])
    known = bool(seen.units.usable[top])
    ranked = [i for i in seen.weapons.ranked() if seen.weapons.usable[i]]
    leader = seen.leader
    return {
        "top_unit": seen.units.label(top) if known else None,
        "top_unit_effect": float(seen.units.effects.coefficient[top]) if known else None,
        "top_unit_reason": None if known else f"no unit {TOO_FEW}",
        "standing_units": [seen.units.label(i) for i in seen.standing],
        "top_weapon": ctx.weapons.facts[ranked[0]].name if ranked else None,
        "top_weapon_delta": float(seen.weapons.deltas.delta[ranked[0]]) if ranked else None,
        "top_weapon_delta_adjusted": float(seen.weapons.adjusted.coefficient[ranked[0]]) if ranked else None,
        "top_weapon_reason": None if ranked else f"no weapon {TOO_FEW}",
        "shared_part": None if seen.shared is None else f"{seen.shared.part}: {seen.shared.name}",
        "leader": leader,
        "specificity_p": seen.chance.both,
        "specificity_reason": None if seen.chance.both is not None else "too few examples, or unknown pooled vectors",
        "specificity_p_units": seen.chance.units,
        "specificity_p_weapons": seen.chance.weapons,
        "verdict": "nothing_specific" if leader is None else "present",
    }


def _bounds(seen: Seen, column: int) -> str:
    low, high = float(seen.units.low[column]), float(seen.units.high[column])
    return f"{number(float(seen.units.effects.coefficient[column]))} {interval(low, high)}"


def _unit_name(seen: Seen, column: int) -> str:
    """A unit in words: its family with the abbreviation, and the level where one level tells most."""
    name, level = with_short(seen.units.family(column)), seen.units.ap(column)
    return f"{name} at {level} AP" if level else name


def overview_headline(ctx: Context, feature: int, seen: Seen, population: Population, min_effect: float) -> str:
    """One sentence: how often the feature is active, and what goes with it most."""
    name = f"feature {feature} (active in {float(np.mean(population.activation > 0)):.1%})"
    scope = observed_scope(population)
    if seen.leader == "unit":
        return f"{name} goes most with {_units_text(seen)}, weapon held fixed; {scope}"
    if seen.leader == "weapon":
        return f"{name} goes most with the weapon {_weapon_text(ctx, seen)}; {scope}"
    if not seen.judged():
        return f"nothing can be said: no unit or weapon {TOO_FEW} to judge {name} by; {scope}"
    if not seen.standing and not seen.acting:
        return f"nothing above {min_effect:.2f} found: no {seen.judged()} stands out on {name}; {scope}"
    if seen.standing:
        most = f"{_unit_name(seen, seen.standing[0])} ({_bounds(seen, seen.standing[0])}, weapon held fixed)"
    else:
        weapon = ctx.weapons.facts[seen.acting[0]].name
        most = f"the weapon {weapon} ({number(seen.weapon_effect)} with abilities held fixed)"
    p = seen.chance.both
    chance = "" if p is None else f", no more than random directions go with something (p = {p:.2f})"
    return f"nothing specific found: {name} goes most with {most}{chance}; {scope}"


def _units_text(seen: Seen) -> str:
    """The leading unit with its interval, and up to two others of comparable effect."""
    effect = seen.units.effects.coefficient
    rest = [i for i in seen.standing[1:] if abs(float(effect[i])) >= ALSO * abs(seen.unit_effect)][:2]
    also = "".join(f", then {_unit_name(seen, i)} {number(float(effect[i]))}" for i in rest)
    return f"{_unit_name(seen, seen.standing[0])}: {_bounds(seen, seen.standing[0])}{also}"


def _weapon_text(ctx: Context, seen: Seen) -> str:
    top, kit = seen.acting[0], seen.shared
    low, high = (float(bound[top]) for bound in seen.weapons.simultaneous())
    effect = f"{number(float(seen.weapons.deltas.delta[top]))} {interval(low, high)} against the mean"
    shared = "" if kit is None else f"; {kit.hits} of the {kit.drawn} weapons that stand out have {kit.name}"
    return f"{ctx.weapons.facts[top].name}: {effect}, {number(seen.weapon_effect)} with abilities held fixed{shared}"


def overview_findings(ctx: Context, feature: int, seen: Seen, population: Population) -> list[Finding]:
    """The units and weapons that stand out, what leads first."""
    units = [_unit_finding(feature, seen, column, population) for column in seen.standing[:MOST_FINDINGS]]
    weapons = [_weapon_finding(ctx, feature, seen, weapon, population) for weapon in seen.acting[:MOST_FINDINGS]]
    return weapons + units if seen.leader == "weapon" else units + weapons


def _unit_finding(feature: int, seen: Seen, column: int, population: Population) -> Finding:
    effects = seen.units.effects
    return Finding(
        subject=seen.units.label(column),
        relation=f"goes with feature {feature}",
        effect=float(effects.coefficient[column]),
        ci_low=float(seen.units.low[column]),
        ci_high=float(seen.units.high[column]),
        status="present",
        specificity_p=seen.chance.units,
        n=int(effects.n_present[column]),
        method="observational",
        population=population.description,
        table="top_tokens",
    )


def _weapon_finding(ctx: Context, feature: int, seen: Seen, weapon: int, population: Population) -> Finding:
    low, high = seen.weapons.simultaneous()
    return Finding(
        subject=ctx.weapons.facts[weapon].name,
        relation=f"goes with feature {feature}",
        effect=float(seen.weapons.deltas.delta[weapon]),
        ci_low=float(low[weapon]),
        ci_high=float(high[weapon]),
        status="present",
        specificity_p=seen.chance.weapons,
        n=int(seen.weapons.means.n[weapon]),
        method="observational",
        population=population.description,
        table="weapons",
    )


def overview_followups(spec: ExperimentSpec, ctx: Context, seen: Seen) -> list[Followup]:
    """The experiments that the numbers suggest, at most four; none where nothing specific was found."""
    if seen.leader is None:
        return []
    seen_only: dict[str, Any] = {} if ctx.has_model else {"method": "observational"}
    if seen.leader == "weapon":
        return _weapon_followups(spec, ctx, seen)
    first = seen.standing[0]
    reason = f"{seen.units.label(first)} goes with the feature: does writing it into builds drive it, from which AP on?"
    found = [followup(spec, "family_1d_sweep", {"family": seen.units.family(first), **seen_only}, reason)]
    if ctx.has_model:
        reason = "which abilities raise or lower it in the network, suppressors included?"
        found.append(followup(spec, "token_influence_sweep", {}, reason))
    if len(seen.standing) > 1:
        units = [seen.units.label(i) for i in seen.standing[:FOLLOWED_UNITS]]
        reason = f"{len(seen.standing)} units stand out: do they act together, instead of each other, or apart?"
        found.append(followup(spec, "pairwise_interactions", {"candidate_tokens": units, **seen_only}, reason))
    if ctx.has_model:
        found.append(followup(spec, "minimal_cores", {}, "which parts of a build are enough, by themselves?"))
    return found


def _weapon_followups(spec: ExperimentSpec, ctx: Context, seen: Seen) -> list[Followup]:
    found: list[Followup] = []
    if ctx.has_model:
        reason = "weapons stand out in the data: does swapping the weapon change the feature?"
        found.append(followup(spec, "weapon_sweep", {"method": "interventional"}, reason))
    kit = seen.shared
    shared = "weapons stand out" if kit is None else f"{kit.hits} of {kit.drawn} weapons that stand out have {kit.name}"
    reason = f"{shared}: is it the sub or special?"
    found.append(followup(spec, "kit_sweep", {"analyze_combinations": True}, reason))
    return found
