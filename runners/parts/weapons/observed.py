"""What the examples by weapon say: the observational half of the weapon sweep."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....context.context import Context
from ....context.population import Population
from ....schemas.job import Job
from ....schemas.result import Aggregates, Finding, Findings, Followup
from ....schemas.spec import ExperimentSpec
from ...design.effect_report import summarise
from ...design.report import CORRELATIONAL, followup, interval, number, plural
from ...design.specificity import SPECIFIC
from ..weapon_groups.null import weapon_sums
from .confirm import CONFIRM_STREAM, halve, top_confirmed
from .dominance import Dominance, Shared, dominance, kit_numbers, shared_part
from .effects import ONE_WEAPON
from .stats import NOT_TOLD, WeaponTable, group_reason

UNUSABLE = "no weapon has 20 examples in 10 builds beside others"
NO_DIRECTIONS = "the examples' pooled vectors are unknown: no random directions to compare with"


@dataclass(frozen=True)
class Reading:
    """What may be said of the weapons of a table.

    Attributes:
        table: statistics of every weapon.
        ranked: weapons that count, by falling mean.
        scope: the examples in words.
        n: examples.
        specificity: p of the largest |delta| over usable weapons against random directions; None where unknown.
    """

    table: WeaponTable
    ranked: list[int]
    scope: str
    n: int
    specificity: float | None

    @property
    def specific(self) -> bool:
        """Whether weapons differ more than under random directions, as far as that is known."""
        return self.specificity is None or self.specificity <= SPECIFIC

    @property
    def certain(self) -> list[int]:
        """Weapons whose effect is present: those above the mean, or where there is none those below it.

        Beside a few weapons far above the mean every other one is a little below it.
        """
        present = [i for i in self.ranked if self.table.status[i] == "present"]
        return [i for i in present if self.table.deltas.delta[i] > 0] or present

    @property
    def acting(self) -> list[int]:
        """Weapons above the mean that may be headlined."""
        return [i for i in self.certain if self.specific and self.table.deltas.delta[i] > 0]

    @property
    def leader(self) -> int | None:
        """The weapon furthest from the mean among the certain, else among the usable; None where none is usable."""
        among = self.certain or [i for i in self.ranked if self.table.usable[i]]
        return max(among, key=lambda i: abs(float(self.table.deltas.delta[i])), default=None)


def observed_specificity(
    ctx: Context, feature: int, population: Population, table: WeaponTable, seed: int
) -> float | None:
    """p of the largest |delta| over the usable weapons against random directions; None where unknown."""
    sums = weapon_sums(ctx, feature, population, seed) if table.usable.any() else None
    return None if sums is None else sums.p_value(np.diag(table.usable)[table.usable])


def observed_findings(
    spec: ExperimentSpec,
    ctx: Context,
    job: Job,
    *,
    table: WeaponTable,
    ranked: list[int],
    population: Population,
    min_effect: float,
) -> Findings:
    """Headline, findings, numbers and followups of the examples by weapon.

    Args:
        spec: the spec of the sweep.
        ctx: the context.
        job: receives warnings.
        table: statistics of every weapon.
        ranked: weapons that count, by falling mean; not empty.
        population: the examples, those that meet the condition alone.
        min_effect: smallest effect of interest.
    """
    seed = spec.dataset_slice.random_seed
    p = observed_specificity(ctx, spec.feature_id, population, table, seed)
    reading = Reading(table, ranked, population.description, len(population), p)
    leader = dominance(table)
    leader = replace(leader, detected=leader.detected and reading.specific)
    shared = shared_part(ctx, reading.acting, ranked)
    _warn(ctx, job, reading, leader)
    custom = {
        **_numbers(ctx, reading),
        **_confirmation(ctx, reading, population, seed),
        **kit_numbers(leader, shared),
        "top_class": job.tables["class_stats"].rows[0]["weapon_class"],
    }
    known = table.deltas.delta[ranked]
    known = known[~np.isnan(known)]
    shown = reading.acting[:5] or ([] if reading.leader is None else [reading.leader])
    return Findings(
        headline=_headline(spec, ctx, reading, min_effect),
        findings=[_finding(spec, ctx, reading, i) for i in shown],
        aggregates=summarise(known, reading.n, custom)
        if len(known)
        else Aggregates(n_samples=reading.n, custom=custom),
        followups=_followups(spec, ctx, reading, leader, shared),
    )


def _confirmation(ctx: Context, reading: Reading, population: Population, seed: int) -> dict[str, Any]:
    """Whether the top weapon is confirmed on the builds that did not choose it, for ``custom``."""
    if not (reading.certain and reading.specific):
        return {"winner_confirmed": None, "winner_confirmed_reason": "no weapon stands out"}
    sums = reading.table.sums
    candidates = np.zeros(len(ctx.weapons), dtype=np.bool_)
    candidates[[i for i in reading.ranked if reading.table.usable[i]]] = True
    rng = np.random.default_rng([seed, CONFIRM_STREAM])
    halves = ctx.derived_for(population, ("halves by weapon", seed), lambda: halve(sums.cells, rng))
    confirmed, reason = top_confirmed(sums, halves, candidates)
    return {"winner_confirmed": confirmed, "winner_confirmed_reason": reason}


_UNKNOWN = (
    "top_weapon", "top_weapon_id", "top_weapon_mean", "top_weapon_delta", "top_weapon_delta_adjusted", "top_class",
    "bottom_weapon", "weapon_range", "specificity_p", "winner_confirmed", "dominant_weapon_ratio",
    "dominance_margin_low", "shared_part", "shared_part_p", "recommended_followup",
)  # fmt: skip


def no_numbers(reason: str) -> dict[str, Any]:
    """The numbers of a sweep in which no weapon is ranked, for ``custom``: null, with the reason."""
    return {
        "method": "observational",
        "reason": reason,
        **dict.fromkeys(_UNKNOWN),
        "n_weapons": 0,
        "n_unknown_weapons": 0,
        "specificity_reason": reason,
        "winner_confirmed_reason": reason,
        "dominant_weapon_detected": False,
        "verdict": "nothing_specific",
    }


def no_weapon(job: Job, reason: str, n: int, scope: str) -> Findings:
    """The answer where no weapon is ranked."""
    job.warn(CORRELATIONAL)
    classes = job.tables["class_stats"].rows
    custom = no_numbers(reason) | {"top_class": classes[0]["weapon_class"] if classes else None}
    return Findings(
        headline=f"nothing can be said: {reason}; {_tail(n, scope)}",
        aggregates=Aggregates(n_samples=n, custom=custom),
    )


def _tail(n: int, scope: str) -> str:
    return f"{n:,} examples: {scope}; observational, CORRELATIONAL."


def _warn(ctx: Context, job: Job, reading: Reading, leader: Dominance) -> None:
    job.warn(CORRELATIONAL)
    if leader.detected:
        top = reading.ranked[0]
        job.warn(
            f"DOMINANT WEAPON {ctx.weapons.facts[top].name}: {number(float(reading.table.deltas.delta[top]))} above "
            f"the mean, more than twice the next; look at its kit before reading the weapon as the cause"
        )


def _numbers(ctx: Context, reading: Reading) -> dict[str, Any]:
    facts, table, ranked = ctx.weapons.facts, reading.table, reading.ranked
    means, top, several = table.means.mean, ranked[0], len(ranked) > 1
    alone = bool(np.isnan(table.deltas.delta[top]))
    told = not np.isnan(table.adjusted.coefficient[top])
    why = group_reason(table.means, top) if alone else None
    return {
        "method": "observational",
        "top_weapon": facts[top].name,
        "top_weapon_id": facts[top].weapon_id,
        "top_weapon_mean": float(means[top]),
        "top_weapon_delta": float(table.deltas.delta[top]),
        "top_weapon_delta_reason": why,
        "top_weapon_delta_adjusted": float(table.adjusted.coefficient[top]),
        "top_weapon_delta_adjusted_reason": None if told else why or NOT_TOLD,
        "bottom_weapon": facts[ranked[-1]].name if several else None,
        "weapon_range": float(means[top] - means[ranked[-1]]) if several else None,
        "weapon_range_reason": None if several else ONE_WEAPON,
        "n_weapons": len(ranked),
        "n_unknown_weapons": sum(not facts[i].known for i in ranked),
        "specificity_p": reading.specificity,
        "specificity_reason": specificity_reason(reading.specificity, table.usable),
        "verdict": "present" if reading.certain and reading.specific else "nothing_specific",
    }


def specificity_reason(p: float | None, usable: NDArray[np.bool_]) -> str | None:
    """Why the specificity is unknown, given which groups are usable; None where it is known."""
    if p is not None:
        return None
    return NO_DIRECTIONS if usable.any() else "no group has 20 examples in 10 builds beside others: nothing to compare"


def _headline(spec: ExperimentSpec, ctx: Context, reading: Reading, min_effect: float) -> str:
    table, top, certain = reading.table, reading.leader, reading.certain
    tail = _tail(reading.n, reading.scope)
    if top is None:
        return f"nothing can be said: {UNUSABLE}; {tail}"
    name, feature = ctx.weapons.facts[top].name, f"feature {spec.feature_id}"
    low, high = table.simultaneous()
    effect = f"{number(float(table.deltas.delta[top]))} {interval(float(low[top]), float(high[top]))}"
    if not certain:
        nothing = f"nothing above {min_effect:.2f} found: no weapon stands out on {feature}"
        return f"{nothing}, {name} most ({effect}); {tail}"
    against = f"{effect} against the mean"
    if not reading.specific:
        return (
            f"nothing specific found: {name} differs most on {feature}, {against}, no more than weapons do on random "
            f"directions (p = {reading.specificity:.2g}); {tail}"
        )
    adjusted = float(table.adjusted.coefficient[top])
    adjusted_text = "adjusted unknown" if np.isnan(adjusted) else f"{number(adjusted)} with abilities held fixed"
    more = f" and {plural(len(certain) - 1, 'more weapon')} stand out" if len(certain) > 1 else " stands out"
    return f"{name}{more} on {feature}: {against}, {adjusted_text}; {tail}"


def _finding(spec: ExperimentSpec, ctx: Context, reading: Reading, index: int) -> Finding:
    table = reading.table
    low, high = table.simultaneous()
    specific = index in reading.certain and reading.specific
    return Finding(
        subject=ctx.weapons.facts[index].name,
        relation=f"goes with feature {spec.feature_id}"
        if specific
        else f"does not stand out on feature {spec.feature_id}",
        effect=float(table.deltas.delta[index]),
        ci_low=float(low[index]),
        ci_high=float(high[index]),
        status=table.status[index] or "unclear",
        specificity_p=reading.specificity,
        n=int(table.means.n[index]),
        method="observational",
        population=reading.scope,
        table="weapon_stats",
    )


def _followups(
    spec: ExperimentSpec, ctx: Context, reading: Reading, leader: Dominance, shared: Shared | None
) -> list[Followup]:
    found: list[Followup] = []
    if leader.detected or shared is not None:
        reason = (
            "one weapon dominates" if shared is None else f"{shared.hits} of {shared.drawn} weapons have {shared.name}"
        )
        variables = {"analyze_combinations": True}
        found.append(followup(spec, "kit_sweep", variables, f"{reason}: is it the sub or special?"))
    if reading.acting and ctx.has_model:
        again = spec.variables.model_dump(mode="json", exclude_defaults=True) | {"method": "interventional"}
        reason = "weapons stand out in the data: does swapping the weapon do it?"
        found.append(followup(spec, "weapon_sweep", again, reason))
    return found
