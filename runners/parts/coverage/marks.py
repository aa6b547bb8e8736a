"""What marks the core of a feature's activations, its tail, or nothing: tokens and weapons alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ....context.context import Context
from ....context.population import Population
from ....schemas.result import Status
from ...design.observed import interval_status
from ...design.specificity import SPECIFIC, NullActivations, share_at_least
from ...design.unit_columns import UnitColumns, unit_columns
from ...stats.enrichment import Ratio
from ...stats.groups import MIN_N, deltas_from_global, group_means
from ...stats.presence import PresenceDesign
from ...stats.tails import benjamini_hochberg, sidak_level, t_quantile, t_two_sided
from .rates import Coverage, share_ratio

if TYPE_CHECKING:
    from scipy import sparse

Floats = NDArray[np.floating[Any]]
Bool = NDArray[np.bool_]
Rows = NDArray[np.intp]
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


def _marks(
    columns: sparse.csr_matrix,
    clusters: NDArray[np.int64],
    ranges: Ranges,
    *,
    threshold: float,
    effects: Effects,
    status: list[Status | None],
    specificity: Floats,
) -> Marks:
    cluster = np.unique(clusters, return_inverse=True)[1]
    n_clusters = int(cluster.max()) + 1
    whole = np.ones(len(cluster), dtype=np.bool_)
    everything, active, core, tail = (
        Coverage.of(columns, inside, cluster, n_clusters) for inside in (whole, ranges.active, ranges.core, ranges.tail)
    )
    level = sidak_level(0.95, int((everything.count >= MIN_N).sum()))
    return Marks(
        ranges=ranges,
        total=np.asarray(columns.T @ ranges.activation, dtype=np.float64),
        everything=everything,
        active=active,
        core=core,
        tail=tail,
        lift=share_ratio(core, everything, level, nested=True),
        active_lift=share_ratio(active, everything, level, nested=True),
        enrichment=share_ratio(tail, core, level),
        effects=effects,
        status=status,
        specificity=specificity,
        threshold=threshold,
    )


def checked_columns(ctx: Context, rows: Rows, units: Sequence[tuple[str, str, int]] | None) -> UnitColumns:
    """Columns of the units checked, as (label, family, least level); every family at any AP where none are given."""
    if units is None:
        return unit_columns(ctx, rows, "families")
    from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

    levels = np.asarray(ctx.data.levels[rows])
    held = [levels[:, ctx.vocabulary.family_index[family]] >= max(level, 1) for _, family, level in units]
    labels, families, least = zip(*units, strict=True)
    matrix = sparse.csr_matrix(np.stack(held, axis=1).astype(np.float64))
    return UnitColumns(tuple(labels), tuple(families), tuple(least), matrix)


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
    columns, design = _design(ctx, population.rows, units)
    value = ranges.activation
    usable = columns.counts() >= MIN_N
    level = sidak_level(0.95, int(usable.sum()))
    found, rate = design.effects(value), design.effects((value > min_effect).astype(np.float64))
    (low, high), (rate_low, rate_high) = found.interval(level), rate.interval(level)
    q = benjamini_hochberg(np.where(usable, found.p_value(), np.nan))
    effects = Effects(found.coefficient, low, high, q, rate.coefficient, rate_low, rate_high)
    specificity = np.full(len(usable), np.nan)
    if null is not None and usable.any():
        whole = len(null.positions) == len(population)
        other = design if whole else _design(ctx, population.rows[null.positions], units)[1]
        stackable, checked = ctx.vocabulary.stackable, [] if units is None else units
        at_rungs = np.zeros(len(usable), dtype=np.bool_)
        at_rungs[: len(checked)] = [level > 0 and family in stackable for _, family, level in checked]
        sizes = np.nan_to_num(np.abs(other.coefficients(null.activation)))
        specificity = _token_p_values(found.coefficient, sizes, usable, at_rungs)
    marks = _marks(
        columns.matrix,
        ctx.data.clusters[population.rows],
        ranges,
        threshold=threshold,
        effects=effects,
        status=[effects.status(i, min_effect) if usable[i] else None for i in range(len(usable))],
        specificity=specificity,
    )
    return columns, marks


def _design(
    ctx: Context, rows: Rows, units: Sequence[tuple[str, str, int]] | None
) -> tuple[UnitColumns, PresenceDesign]:
    """Columns of some rows with weapon fixed effects; the families of all examples are taken apart once."""

    def make() -> tuple[UnitColumns, PresenceDesign]:
        columns = checked_columns(ctx, rows, units)
        return columns, PresenceDesign.of(columns.matrix, np.asarray(ctx.data.weapon[rows]), ctx.data.clusters[rows])

    whole = units is None and len(rows) == len(ctx.data)
    return ctx.derived("coverage of families", make) if whole else make()


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
    from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

    weapon = np.asarray(ctx.data.weapon[population.rows], dtype=np.intp)
    n, k = len(weapon), len(ctx.weapons)
    clusters = ctx.data.clusters[population.rows]
    columns = sparse.csr_matrix((np.ones(n), (np.arange(n), weapon)), shape=(n, k))
    usable = np.bincount(weapon, minlength=k) >= MIN_N
    level = sidak_level(0.95, int(usable.sum()))
    mean, low, high, p = _deltas(ranges.activation, weapon, k, clusters, level)
    above = (ranges.activation > min_effect).astype(np.float64)
    effects = Effects(
        mean,
        low,
        high,
        benjamini_hochberg(np.where(usable, p, np.nan)),
        *_deltas(above, weapon, k, clusters, level)[:3],
    )
    specificity = np.full(k, np.nan)
    if null is not None and usable.any():
        own = weapon[null.positions]
        member = columns[null.positions]
        means = (member.T @ null.activation)[usable] / np.maximum(np.bincount(own, minlength=k)[usable], 1)[:, None]
        largest = np.abs(means - null.activation.mean(axis=0)).max(axis=0)
        # Weapons are the second look, after the tokens: their p counts double.
        specificity = np.minimum(2.0 * _p_values(mean, largest), 1.0)
    return _marks(
        columns,
        clusters,
        ranges,
        threshold=threshold,
        effects=effects,
        status=[effects.status(i, min_effect) if usable[i] else None for i in range(k)],
        specificity=specificity,
    )


def _deltas(
    value: Floats, weapon: Rows, k: int, clusters: NDArray[np.int64], level: float
) -> tuple[Floats, Floats, Floats, Floats]:
    """Mean of each weapon minus the mean of all, its interval at a level, and its p."""
    deltas = deltas_from_global(value, weapon, k, clusters)
    deltas = deltas.guarded(group_means(value, weapon, k, clusters).support)
    half = t_quantile(0.5 + level / 2, deltas.df) * deltas.std_error
    with np.errstate(divide="ignore", invalid="ignore"):
        p = t_two_sided(deltas.delta / deltas.std_error, deltas.df)
    return deltas.delta, deltas.delta - half, deltas.delta + half, p
