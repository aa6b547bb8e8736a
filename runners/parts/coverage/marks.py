"""What marks the core of a feature's activations, its tail, or nothing: tokens and weapons alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....context.context import Context
from ....context.population import Population
from ....schemas.result import Status
from ...design.observed import interval_status
from ...design.specificity import SPECIFIC, NullActivations, share_at_least
from ...design.unit_columns import UnitColumns, null_design
from ...stats.cells import CellSums
from ...stats.enrichment import Ratio
from ...stats.groups import MIN_N, deltas_of, means_of
from ...stats.held import weights_by_group
from ...stats.moments import Moments
from ...stats.tails import benjamini_hochberg, sidak_level, t_quantile, t_two_sided
from .prepared import things_of, weapons_of
from .rates import Coverage, share_ratio

Floats = NDArray[np.floating[Any]]
Bool = NDArray[np.bool_]
Rows = NDArray[np.integer[Any]]
TAIL_SHARE = 0.9
RATE_OF_INTEREST = 0.01


@dataclass(frozen=True)
class Ranges:
    """The ranges of a feature's activation in a population.

    Attributes:
        activation: [n].
        core: [n], lower < a <= upper.
        tail: [n], a > tail_from.
        lower, upper, tail_from: bounds in activation.
        effective_max: what they are shares of.
    """

    activation: Floats
    core: Bool
    tail: Bool
    lower: float
    upper: float
    tail_from: float
    effective_max: float

    @classmethod
    def of(cls, activation: Floats, effective_max: float, lower_pct: float, upper_pct: float) -> Ranges:
        """Cut activations at percents of the effective max; the tail is above 90 % of it."""
        a = np.asarray(activation, dtype=np.float64)
        lower, upper, tail_from = (share * effective_max for share in (lower_pct / 100, upper_pct / 100, TAIL_SHARE))
        return cls(a, (a > lower) & (a <= upper), a > tail_from, lower, upper, tail_from, effective_max)

    def rows(self, among: Rows) -> tuple[Rows, Rows]:
        """Which of some examples are of the core, and of the tail."""
        return among[self.core[among]], among[self.tail[among]]

    @cached_property
    def active(self) -> Bool:
        """Examples with a > 0."""
        return self.activation > 0

    @cached_property
    def n_core(self) -> int:
        """Examples of the core."""
        return int(self.core.sum())

    @cached_property
    def n_tail(self) -> int:
        """Examples of the tail."""
        return int(self.tail.sum())

    @cached_property
    def n_active(self) -> int:
        """Active examples."""
        return int(self.active.sum())

    @cached_property
    def has_core(self) -> bool:
        """Whether the core has the 20 examples that a verdict takes."""
        return self.n_core >= MIN_N

    @cached_property
    def comparable(self) -> bool:
        """Whether core and tail both have."""
        return self.has_core and self.n_tail >= MIN_N


@dataclass(frozen=True)
class Effects:
    """What goes with the presence of each of k things, in activation and in the rate of activation; arrays [k].

    Attributes:
        mean: difference of means.
        low, high: its interval, which holds for all k at once.
        q_value: Benjamini-Hochberg over the k.
        excess: difference of the shares of examples above min_effect.
        excess_low, excess_high: its interval, as above.
    """

    mean: Floats
    low: Floats
    high: Floats
    q_value: Floats
    excess: Floats
    excess_low: Floats
    excess_high: Floats

    def status(self, index: int, min_effect: float) -> Status | None:
        """Verdict: conditional is an effect below min_effect on average that moves 1 % of the examples by more."""
        found = interval_status(float(self.low[index]), float(self.high[index]), min_effect)
        if found is None or found == "present":
            return found
        if self.excess_low[index] >= RATE_OF_INTEREST or self.excess_high[index] <= -RATE_OF_INTEREST:
            return "conditional"
        rare = self.excess_low[index] > -RATE_OF_INTEREST and self.excess_high[index] < RATE_OF_INTEREST
        return "negligible" if found == "negligible" and rare else "unclear"


@dataclass(frozen=True)
class Marks:
    """Coverage, effect and verdicts of k things (tokens, or weapons).

    Attributes:
        ranges: the ranges.
        total: [k], activation summed over the examples with each.
        everything, active, core, tail: coverage of the population and of the ranges.
        lift: share of the core against the population.
        active_lift: share of the active examples against the population.
        enrichment: share of the tail against the core.
        effects: what goes with their presence.
        status: verdicts on the effects; None where unknown.
        specificity: p of each effect against random directions; NaN where unknown.
        threshold: share of the core below which a thing does not cover it.
    """

    ranges: Ranges
    total: Floats
    everything: Coverage
    active: Coverage
    core: Coverage
    tail: Coverage
    lift: Ratio
    active_lift: Ratio
    enrichment: Ratio
    effects: Effects
    status: list[Status | None]
    specificity: Floats
    threshold: float

    @property
    def range_coverage(self) -> Coverage:
        """Coverage of the core; of the active examples where the core has too few."""
        return self.core if self.ranges.has_core else self.active

    @property
    def range_lift(self) -> Ratio:
        """Its lift."""
        return self.lift if self.ranges.has_core else self.active_lift

    def means(self) -> tuple[Floats, Floats, Floats]:
        """Mean activation with each, with it where active, and without it, over all weapons; NaN without examples."""
        value, n = self.ranges.activation, self.everything.count
        with np.errstate(divide="ignore", invalid="ignore"):
            absent = (value.sum() - self.total) / (len(value) - n)
            return self.total / n, self.total / self.active.count, absent

    def rises(self, index: int) -> bool:
        """Whether activation is higher with it, certainly, and more than random directions have it."""
        certain = self.status[index] in {"present", "conditional"} and self.effects.mean[index] > 0
        return bool(certain and not self.specificity[index] > SPECIFIC)

    def above_base(self) -> list[int]:
        """Things of the feature that are more frequent in the range than their base rate, largest share first."""
        order = np.argsort(-np.nan_to_num(self.range_coverage.share), kind="stable")
        return [i for i in order.tolist() if self.rises(i) and self.range_lift.low[i] > 1]

    def covering(self) -> list[int]:
        """Those of them that cover at least the threshold."""
        return [i for i in self.above_base() if self.range_coverage.share[i] >= self.threshold]

    def tail_marker(self, index: int) -> bool | None:
        """Whether it covers too little of the core, and more of the tail; None where that cannot be told."""
        if not self.ranges.comparable or self.everything.count[index] < MIN_N or np.isnan(self.enrichment.low[index]):
            return None
        return bool(self.core.share[index] < self.threshold and self.enrichment.low[index] > 1)

    def owns_tail(self, index: int) -> bool | None:
        """Whether it is a tail marker that covers at least the threshold of the tail."""
        marker = self.tail_marker(index)
        return None if marker is None else bool(marker and self.tail.share[index] >= self.threshold)


@dataclass(frozen=True)
class _Ranged:
    """Coverage of the population and of each range, and activation summed over the examples with each thing, [k]."""

    total: Floats
    everything: Coverage
    active: Coverage
    core: Coverage
    tail: Coverage


def _marks(
    found: _Ranged,
    ranges: Ranges,
    *,
    threshold: float,
    effects: Effects,
    status: list[Status | None],
    specificity: Floats,
) -> Marks:
    everything, core = found.everything, found.core
    level = sidak_level(0.95, int((everything.count >= MIN_N).sum()))
    return Marks(
        ranges=ranges,
        total=found.total,
        everything=everything,
        active=found.active,
        core=core,
        tail=found.tail,
        lift=share_ratio(core, everything, level, nested=True),
        active_lift=share_ratio(found.active, everything, level, nested=True),
        enrichment=share_ratio(found.tail, core, level),
        effects=effects,
        status=status,
        specificity=specificity,
        threshold=threshold,
    )


def token_marks(
    ctx: Context,
    population: Population,
    units: Sequence[tuple[str, str, int]] | None,
    ranges: Ranges,
    *,
    null: NullActivations | None,
    threshold: float,
    min_effect: float,
) -> tuple[UnitColumns, Marks]:
    """Coverage of tokens, and their effect on activation with the weapon held fixed."""
    things = things_of(ctx, population, units)
    columns, design = things.columns, things.design
    usable = design.n_present >= MIN_N
    level = sidak_level(0.95, int(usable.sum()))
    seen = design.outcome(ranges.activation)
    found, rate = design.effects(seen), design.effects(design.above(seen, min_effect))
    (low, high), (rate_low, rate_high) = found.interval(level), rate.interval(level)
    q = benjamini_hochberg(np.where(usable, found.p_value(), np.nan))
    effects = Effects(found.coefficient, low, high, q, rate.coefficient, rate_low, rate_high)
    specificity = np.full(len(usable), np.nan)
    if null is not None and usable.any():
        other = null_design(ctx, population, columns, null)
        stackable, checked = ctx.vocabulary.stackable, [] if units is None else units
        at_rungs = np.zeros(len(usable), dtype=np.bool_)
        at_rungs[: len(checked)] = [level > 0 and family in stackable for _, family, level in checked]
        sizes = np.nan_to_num(np.abs(other.coefficients(null.activation)))
        specificity = _token_p_values(found.coefficient, sizes, usable, at_rungs)
    cluster, parts = design.cluster[seen.rows], (ranges.active, ranges.core, ranges.tail)
    covered = [Coverage.of(seen.held, inside[seen.rows], cluster, len(design.sizes)) for inside in parts]
    marks = _marks(
        _Ranged(seen.total, things.everything, *covered),
        ranges,
        threshold=threshold,
        effects=effects,
        status=[effects.status(i, min_effect) if usable[i] else None for i in range(len(usable))],
        specificity=specificity,
    )
    return columns, marks


def _token_p_values(effect: Floats, null: Floats, usable: Bool, at_rungs: Bool) -> Floats:
    """p of each token's effect [k] against the largest of each random direction [k, r] over the usable units like it.

    Few builds hold a family at a high rung, so any direction may have a large effect there by chance: families are
    compared with families and rungs with rungs. Rungs are a second look where families are checked too: their p counts
    double.
    """
    found = np.full(len(effect), np.nan)
    for like in (~at_rungs & usable, at_rungs & usable):
        if like.any():
            looks = 2.0 if like[at_rungs].any() and not at_rungs.all() else 1.0
            found[like] = np.minimum(looks * _p_values(effect[like], null[like].max(axis=0)), 1.0)
    return found


def _p_values(effect: Floats, null: Floats) -> Floats:
    """p of each effect against the largest of each random direction; NaN where the effect is unknown."""
    return np.array([np.nan if np.isnan(each) else share_at_least(abs(each), null) for each in effect.tolist()])


def weapon_marks(
    ctx: Context,
    population: Population,
    ranges: Ranges,
    *,
    null: NullActivations | None,
    threshold: float,
    min_effect: float,
) -> Marks:
    """Coverage of weapons [n_weapons], and their mean activation against that of all examples."""
    weapons, k = weapons_of(ctx, population), len(ctx.weapons)
    rows = np.flatnonzero(ranges.active)
    usable = weapons.everything.count >= MIN_N
    level = sidak_level(0.95, int(usable.sum()))
    sums = weapons.grouping.sums(ranges.activation)
    mean, low, high, p = _deltas(sums, level)
    above = weapons.grouping.sums((ranges.activation > min_effect).astype(np.float64))
    effects = Effects(
        mean,
        low,
        high,
        benjamini_hochberg(np.where(usable, p, np.nan)),
        *_deltas(above, level)[:3],
    )
    specificity = np.full(k, np.nan)
    if null is not None and usable.any():
        own = weapons.grouping.cells.group[weapons.grouping.cell[null.positions]]
        totals = weights_by_group(own, np.ones(len(own)), k) @ null.activation
        means = totals[usable] / np.maximum(np.bincount(own, minlength=k)[usable], 1)[:, None]
        largest = np.abs(means - null.activation.mean(axis=0)).max(axis=0)
        # Weapons are the second look, after the tokens: their p counts double.
        specificity = np.minimum(2.0 * _p_values(mean, largest), 1.0)
    parts = (rows, *ranges.rows(rows))
    covered = [weapons.coverage(part) for part in parts]
    return _marks(
        _Ranged(sums.cells.by_group(sums.total), weapons.everything, *covered),
        ranges,
        threshold=threshold,
        effects=effects,
        status=[effects.status(i, min_effect) if usable[i] else None for i in range(k)],
        specificity=specificity,
    )


def _deltas(sums: CellSums, level: float) -> tuple[Floats, Floats, Floats, Floats]:
    """Mean of each weapon minus the mean of all, its interval at a level, and its p."""
    moments = Moments.of(sums)
    deltas = deltas_of(moments).guarded(means_of(moments).support)
    half = t_quantile(0.5 + level / 2, deltas.df) * deltas.std_error
    with np.errstate(divide="ignore", invalid="ignore"):
        p = t_two_sided(deltas.delta / deltas.std_error, deltas.df)
    return deltas.delta, deltas.delta - half, deltas.delta + half, p
