"""Subs, specials and their combinations: which kits have them, what the examples say, and the tables of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ....context.context import Context
from ....context.population import Population
from ....schemas.facts import UNKNOWN_CLASS, Weapon
from ....schemas.result import Row, Status, Table
from ...design.observed import interval_status
from ...design.report import number, plural
from ...stats.cells import sum_by
from ...stats.groups import MIN_N
from ...stats.tails import benjamini_hochberg, sidak_level
from ..weapons.by_weapon import by_weapon
from ..weapons.gating import dropped_note
from .contrasts import PartEffects, part_effects

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
Kind = Literal["sub", "special", "combo"]
DEALS_STREAM = 23
ALONE = "all examples have it: nothing to compare it with"
NOT_TOLD = "delta_adjusted is unknown: these examples do not tell the weapons from abilities"


class PartStat(Row):
    """Examples of the kits with one sub, special or combination, against all examples; errors are over kits."""

    name: str = Field(description="Sub, special, or sub + special; unknown for kits outside the project's table.")
    mean_activation: float | None = Field(description="Mean activation over n.")
    std: float | None = Field(description="Standard deviation.")
    std_error: float | None = Field(description="Standard error of the mean over kits (CR2), at least the pooled one.")
    n: int = Field(description="Examples.")
    n_active: int = Field(description="Examples on which the feature is active.")
    n_weapons: int = Field(description="Kits with it; replicas count with their original.")
    mean_when_active: float | None = Field(description="Mean over the active.")
    sparse: bool = Field(description="Fewer than 20 examples: not to be read as suppression.")
    delta_from_global: float | None = Field(description="Mean minus the mean of all examples of the population.")
    ci_low: float | None = Field(description="Lower end of its 95 % interval (Welch's t over kits).")
    ci_high: float | None = Field(description="Upper end of its 95 % interval (Welch's t over kits).")
    sim_low: float | None = Field(description="Lower end of the interval that holds for all rows at once (Sidak).")
    sim_high: float | None = Field(description="Upper end of the interval that holds for all rows at once (Sidak).")
    p_value: float | None = Field(description="Share of random deals of the kits with a |delta| at least as large.")
    q_value: float | None = Field(description="Benjamini-Hochberg q of p_value; subs and specials together.")
    status: Status | None = Field(description="Verdict on delta_from_global; null without an interval.")
    within_main_delta: float | None = Field(
        description="Kits with it minus kits of the same main weapon without it, mean over main weapons."
    )
    within_main_low: float | None = Field(description="Lower end of its 95 % interval (t over main weapons).")
    within_main_high: float | None = Field(description="Upper end of its 95 % interval (t over main weapons).")
    n_mains: int = Field(description="Main weapons that have both.")
    delta_adjusted: float | None = Field(description="The delta of the weapons' effects with abilities held fixed.")
    adjusted_low: float | None = Field(description="Lower end of its 95 % interval (Welch's t over kits).")
    adjusted_high: float | None = Field(description="Upper end of its 95 % interval (Welch's t over kits).")
    strongest_weapon: str | None = Field(description="Kit that carries most of the delta.")
    delta_without_strongest: float | None = Field(description="Delta without that kit's main weapon.")
    separable: bool | None = Field(description="False: not separable from one weapon; null: no effect to separate.")
    reason: str | None = Field(description="Why a number is null or the part not separable.")


@dataclass(frozen=True)
class Kits:
    """The distinct kits of a weapon vocabulary: main weapon, sub and special; a replica is the kit it replicates.

    Attributes:
        of_weapon: int [k], the kit of each weapon token.
        main: int [u], id of each kit's main weapon.
        facts: [u], what is known of each kit.
    """

    of_weapon: NDArray[np.intp]
    main: NDArray[np.intp]
    facts: tuple[Weapon, ...]

    @classmethod
    def of(cls, facts: Sequence[Weapon]) -> Kits:
        """Find the kits of some weapons."""
        keys = [(kit.main_id, kit.sub or "", kit.special or "") for kit in facts]
        index = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        originals = {index[key]: kit for key, kit in zip(keys, facts, strict=True)}
        originals |= {index[key]: kit for key, kit in zip(keys, facts, strict=True) if kit.replica_of is None}
        chosen = tuple(originals[i] for i in range(len(index)))
        return cls(np.array([index[key] for key in keys]), np.array([kit.main_id for kit in chosen]), chosen)

    def __len__(self) -> int:
        return len(self.facts)

    def summed(self, by_weapon: NDArray[Any]) -> Floats:
        """Sum over the weapons of each kit, [u]."""
        return sum_by(self.of_weapon, by_weapon, len(self))


@dataclass(frozen=True)
class Parts:
    """Subs, specials or combinations.

    Attributes:
        kinds: [g], what each is.
        names: [g].
        member: bool [g, u], which kits have it.
    """

    kinds: tuple[Kind, ...]
    names: tuple[str, ...]
    member: Bools

    @classmethod
    def of(cls, kits: Kits, kinds: Sequence[Kind]) -> Parts:
        """The parts of some kits, by kind and name."""
        labels = {kind: [part_of(kit, kind) for kit in kits.facts] for kind in kinds}
        pairs: list[tuple[Kind, str]] = [(kind, name) for kind in kinds for name in sorted(set(labels[kind]))]
        member = np.array([[label == name for label in labels[kind]] for kind, name in pairs])
        return cls(tuple(kind for kind, _ in pairs), tuple(name for _, name in pairs), member)

    def take(self, kept: NDArray[np.intp]) -> Parts:
        """Some of the parts."""
        return Parts(tuple(self.kinds[i] for i in kept), tuple(self.names[i] for i in kept), self.member[kept])

    @property
    def known(self) -> Bools:
        """Which are subs and specials that the project's table names."""
        return np.array([name != UNKNOWN_CLASS for name in self.names])

    @property
    def family(self) -> NDArray[np.intp]:
        """Number of each part's kind."""
        return np.unique(np.array(self.kinds), return_inverse=True)[1]

    def title(self, index: int) -> str:
        """Name of a part with its kind, as headlines write it."""
        return f"{self.kinds[index]} {self.names[index]}"


def part_of(kit: Weapon, kind: Kind) -> str:
    """A kit's sub, special or both; "unknown" outside the project's table."""
    if kit.sub is None or kit.special is None:
        return UNKNOWN_CLASS
    return {"sub": kit.sub, "special": kit.special, "combo": f"{kit.sub} + {kit.special}"}[kind]


@dataclass(frozen=True)
class PartTable:
    """Parts with what the examples say of them; arrays are [g].

    Attributes:
        kits: the kits.
        parts: the parts.
        counts: [u], examples of each kit.
        effects: of the activation.
        adjusted: of the weapons' effects with the abilities held fixed.
        moments: columns over the examples: std, n_active, mean_when_active.
        eligible: parts of known kits with at least ``min_examples`` examples.
        usable: eligible ones of two kits and 20 examples with others beside them, so that verdicts are possible.
        dropped: eligible parts left out because none of their examples activates the feature.
        level: level of each simultaneous interval.
        q_value: of the random deals.
        status: verdict on each part; None where not usable.
        separable: False where one weapon, or the main weapons, may carry the effect; None where there is none.
        reasons: why not, or why a number is unknown.
    """

    kits: Kits
    parts: Parts
    counts: Floats
    effects: PartEffects
    adjusted: PartEffects
    moments: dict[str, Floats]
    eligible: Bools
    usable: Bools
    dropped: Bools
    level: float
    q_value: Floats
    status: list[Status | None]
    separable: list[bool | None]
    reasons: list[str | None]

    def ranked(self, kind: Kind) -> list[int]:
        """Eligible parts of a kind by falling mean."""
        order = np.argsort(-np.nan_to_num(self.effects.mean, nan=-np.inf), kind="stable").tolist()
        return [i for i in order if self.parts.kinds[i] == kind and self.eligible[i]]

    def n_dropped(self, kind: Kind) -> int:
        """Parts of a kind that were dropped."""
        return sum(bool(self.dropped[i]) for i, each in enumerate(self.parts.kinds) if each == kind)

    @property
    def shown_reasons(self) -> list[str | None]:
        """Why a number of each part is null or the part not separable, the adjusted delta included."""
        untold = np.isnan(self.adjusted.delta) & ~np.isnan(self.effects.delta)
        both = [
            [*([why] if why else []), *([NOT_TOLD] if no else [])] for why, no in zip(self.reasons, untold, strict=True)
        ]
        return ["; ".join(each) or None for each in both]


def part_table(
    ctx: Context,
    population: Population,
    kinds: Sequence[Kind],
    adjusted_by_weapon: Floats,
    *,
    min_examples: int,
    min_effect: float,
    seed: int,
    gated: bool = False,
) -> PartTable:
    """Statistics of every part of some kinds over a population.

    ``adjusted_by_weapon`` [k] is the effect of each weapon with the abilities held fixed, NaN where unknown. Parts of
    fewer than ``min_examples`` are left out of rankings; where ``gated``, so are parts that never activate the feature.
    """
    kits = Kits.of(ctx.weapons.facts)
    parts = Parts.of(kits, kinds)
    sums = by_weapon(ctx, population).grouping.sums(population.activation)
    counts = sums.cells.group_sizes.astype(np.float64)
    n, total, squares, active = (
        kits.summed(by_group)
        for by_group in (counts, *map(sums.cells.by_group, (sums.total, sums.squares, sums.n_active)))
    )
    rng = np.random.default_rng([seed, DEALS_STREAM])
    effects = part_effects(n, total, parts.member, kits.main, family=parts.family, rng=rng)
    adjusted = _adjusted(kits, parts, counts, adjusted_by_weapon)
    enough = parts.known & (effects.n >= min_examples)
    dropped = enough & (parts.member @ active == 0) & gated
    eligible = enough & ~dropped
    usable = eligible & (effects.n >= MIN_N) & ~np.isnan(effects.error)
    level = sidak_level(0.95, int(usable.sum()))
    separable, reasons = separability(kits, parts, effects, usable, np.abs(effects.delta) > min_effect)
    return PartTable(
        kits=kits,
        parts=parts,
        counts=n,
        effects=effects,
        adjusted=adjusted,
        moments=_moments(parts.member, effects, squares, active, total),
        eligible=eligible,
        usable=usable,
        dropped=dropped,
        level=level,
        q_value=benjamini_hochberg(np.where(usable, effects.p_value, np.nan)),
        status=_status(effects, usable, level, min_effect),
        separable=separable,
        reasons=reasons,
    )


def _status(effects: PartEffects, usable: Bools, level: float, min_effect: float) -> list[Status | None]:
    low, high = effects.interval(level)
    return [
        interval_status(float(low[i]), float(high[i]), min_effect) if usable[i] else None for i in range(len(usable))
    ]


def _adjusted(kits: Kits, parts: Parts, counts: Floats, effects: Floats) -> PartEffects:
    counts = np.where(np.isnan(effects), 0.0, counts)
    total = kits.summed(counts * np.nan_to_num(effects))
    return part_effects(kits.summed(counts), total, parts.member, kits.main, family=parts.family)


def _moments(member: Bools, effects: PartEffects, squares: Floats, active: Floats, total: Floats) -> dict[str, Floats]:
    n_active, n = member @ active, effects.n
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = (member @ squares - n * np.nan_to_num(effects.mean) ** 2) / (n - 1)
        when_active = np.where(n_active > 0, (member @ total) / n_active, np.nan)
    std = np.where(n > 1, np.sqrt(np.maximum(variance, 0.0)), np.nan)
    return {"std": std, "n_active": n_active, "mean_when_active": when_active}


def separability(
    kits: Kits, parts: Parts, effects: PartEffects, usable: Bools, notable: Bools
) -> tuple[list[bool | None], list[str | None]]:
    """Which effects may be the part's own and not one weapon's, and why not.

    Not separable: one kit or main weapon only; more than half of the effect, or its sign, lost without one main
    weapon; kits of the same main weapon that differ by less than half of it, as far as their interval tells.

    Args:
        kits: the kits.
        parts: the parts.
        effects: their effects.
        usable: parts with a verdict.
        notable: parts with an effect to separate.
    """
    separable: list[bool | None] = []
    reasons: list[str | None] = []
    within_low, within_high = effects.within_interval()
    for i in range(len(parts.names)):
        sign = -1.0 if effects.delta[i] < 0 else 1.0
        reason = None
        if parts.names[i] == UNKNOWN_CLASS:
            reason = "kits outside the project's table: sub and special unknown"
        elif effects.n[i] > 0 and np.isnan(effects.delta[i]):
            reason = ALONE
        elif effects.kits[i] == 1:
            reason = "one weapon only: not separable from it"
        elif not usable[i]:
            reason = f"fewer than {MIN_N} examples, or no kit without it: no verdict"
        elif notable[i]:
            reason = _entangled(kits, effects, i, max(sign * within_low[i], sign * within_high[i]))
        shown = usable[i] and notable[i]
        alone = effects.kits[i] == 1 and reason != ALONE
        separable.append(reason is None if shown else (False if alone else None))
        reasons.append(reason)
    return separable, reasons


def _entangled(kits: Kits, effects: PartEffects, index: int, within: float) -> str | None:
    """Why an effect is not separable from a main weapon; None where it is.

    Args:
        kits: the kits.
        effects: effects of the parts.
        index: the part.
        within: end of the interval of its contrast within main weapons, on the side of its delta.
    """
    if effects.carried[index]:
        strongest = int(effects.strongest[index])
        if strongest < 0:
            return "one main weapon only: not separable from it"
        without = number(float(effects.delta_without[index]))
        return f"mostly carried by one weapon: without {kits.facts[strongest].name} it is {without}"
    if within < 0.5 * abs(float(effects.delta[index])):
        contrast = number(float(effects.within[index]))
        return f"not separable from the main weapons: kits of one main weapon with and without it differ by {contrast}"
    return None


def part_stats(table: PartTable, kind: Kind, top_k: int) -> Table:
    """The table of one kind of parts: unknown kits and those of too few examples last."""
    effects, usable = table.effects, table.usable
    low, high = effects.interval()
    sim_low, sim_high = effects.interval(table.level)
    within_low, within_high = effects.within_interval()
    adjusted_low, adjusted_high = table.adjusted.interval()
    strongest = [table.kits.facts[i].name if i >= 0 else None for i in effects.strongest]
    columns: dict[str, Any] = table.moments | {
        "name": table.parts.names,
        "mean_activation": effects.mean,
        "std_error": effects.std_error,
        "n": effects.n.astype(np.int64),
        "n_active": table.moments["n_active"].astype(np.int64),
        "n_weapons": effects.kits,
        "sparse": effects.n < MIN_N,
        "delta_from_global": effects.delta,
        "ci_low": np.where(usable, low, np.nan),
        "ci_high": np.where(usable, high, np.nan),
        "sim_low": np.where(usable, sim_low, np.nan),
        "sim_high": np.where(usable, sim_high, np.nan),
        "p_value": np.where(usable, effects.p_value, np.nan),
        "q_value": table.q_value,
        "status": table.status,
        "within_main_delta": effects.within,
        "within_main_low": within_low,
        "within_main_high": within_high,
        "n_mains": effects.within_mains,
        "delta_adjusted": table.adjusted.delta,
        "adjusted_low": np.where(usable, adjusted_low, np.nan),
        "adjusted_high": np.where(usable, adjusted_high, np.nan),
        "strongest_weapon": strongest,
        "delta_without_strongest": effects.delta_without,
        "separable": table.separable,
        "reason": table.shown_reasons,
    }
    held = (effects.n > 0) & ~table.dropped
    there = [i for i in range(len(usable)) if table.parts.kinds[i] == kind and held[i]]
    ranked = table.ranked(kind)
    order = [*ranked, *(i for i in there if i not in ranked)]
    notes = ["errors are over kits, not examples: a part belongs to the kit"]
    if len(order) > top_k:
        notes.append(f"{top_k} of {plural(len(order), kind)}: the highest means")
    if n_dropped := table.n_dropped(kind):
        notes.append(dropped_note(n_dropped, kind, "never active"))
    rows = {name: [values[i] for i in order[:top_k]] for name, values in columns.items()}
    return Table.from_columns(f"{kind}_stats", PartStat, rows, notes)
