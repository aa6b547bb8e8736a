"""The observational curve of a family: examples grouped by the level at which they hold it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ...context.context import Context
from ...context.population import Population
from ...schemas.job import Job
from ...schemas.result import Row, Status, Table
from ..stats.cells import Grouping
from ..stats.fixed_effects import FixedEffects
from ..stats.groups import MIN_CLUSTERS, MIN_N, GroupMeans
from ..stats.moments import Moments
from ..stats.regression import ClusteredFit
from ..stats.tails import benjamini_hochberg, sidak_level

Floats = NDArray[np.floating[Any]]


class RungStat(Row):
    """Examples that hold the family at one level (their highest rung); level 0 is the baseline."""

    rung: int = Field(description="Level in AP; 0 is absent.")
    label: str = Field(description="The level in words.")
    n: int = Field(description="Examples.")
    n_active: int = Field(description="Examples on which the feature is active.")
    n_clusters: int = Field(description="Builds, or distinct examples where builds are unknown, behind them.")
    mean_activation: float | None = Field(description="Mean activation over n.")
    std: float | None = Field(description="Standard deviation.")
    std_error: float | None = Field(description="Cluster-robust standard error of the mean.")
    mean_when_active: float | None = Field(description="Mean over the active.")
    sparse: bool = Field(description="Fewer than 20 examples: not to be read as suppression.")
    delta_from_baseline: float | None = Field(description="Mean minus the mean at level 0, over all weapons.")
    delta_low: float | None = Field(description="Lower end of its 95 % interval.")
    delta_high: float | None = Field(description="Upper end of its 95 % interval.")
    within_weapon_delta: float | None = Field(description="The same with the weapon held fixed (fixed effects).")
    within_low: float | None = Field(description="Lower end of its 95 % interval.")
    within_high: float | None = Field(description="Upper end of its 95 % interval.")
    q_value: float | None = Field(description="Benjamini-Hochberg q of the within-weapon effect.")
    status: Status | None = Field(description="Verdict on the within-weapon effect; null at level 0 or when unknown.")
    reason: str | None = Field(description="Why a number is null.")


@dataclass(frozen=True)
class ObservedCurve:
    """Activation by level of one family.

    Attributes:
        levels: AP, 0 first.
        means: statistics of each level.
        raw: effects of the levels 1.. against level 0 over all weapons; NaN where unknown.
        within: the same with the weapon held fixed.
        status: verdicts on ``within``; None where unknown or not asked for.
        asked: the levels above 0 on which a verdict is asked.
    """

    levels: tuple[int, ...]
    means: GroupMeans
    raw: ClusteredFit | None
    within: ClusteredFit | None
    status: tuple[Status | None, ...]
    asked: tuple[int, ...]

    @property
    def unjudged(self) -> list[int]:
        """Levels asked for on which the examples are too few for a verdict."""
        return [level for level in self.asked if self.status[self.index(level)] is None]

    def index(self, level: int) -> int:
        """Position of a level among the effects."""
        return self.levels.index(level) - 1

    def usable(self, level: int) -> bool:
        """Whether the level has 20 examples in 10 clusters, and the baseline 10 clusters: what an interval needs."""
        at = self.levels.index(level)
        return bool(self.means.n[at] >= MIN_N and enough_clusters(self.means)[at])


def enough_clusters(means: GroupMeans) -> NDArray[np.bool_]:
    """Which levels have an error of their difference to level 0: 10 clusters there, and 10 at level 0."""
    return (means.n_clusters >= MIN_CLUSTERS) & (means.n_clusters[0] >= MIN_CLUSTERS)


def observed_curve(
    ctx: Context,
    population: Population,
    family: str,
    min_effect: float,
    job: Job,
    *,
    asked: Collection[int] | None = None,
) -> ObservedCurve:
    """Group the population by its level of a family.

    The within-weapon contrast is OLS on level dummies with weapon fixed effects, errors robust to clusters.
    Every level has its numbers; a verdict, and a share in the joint error, have those of ``asked`` (default: all).
    """
    levels = (0, *ctx.vocabulary.rungs(family))
    held = _by_level(ctx, population, family, levels)
    if ctx.data.build_id is None:
        job.warn("builds are unknown: errors are clustered by distinct (weapon, set), which may be too narrow")
    moments = Moments.of(held.grouping.sums(population.activation))
    means = held.within.means(moments)
    fits: list[ClusteredFit | None] = [None, None]
    if means.n[0] > 0 and moments.cells.n_clusters >= MIN_CLUSTERS and (means.n[1:] > 0).any():
        fits = [fit.guarded(means.support[1:]) for fit in (held.raw.fit(moments), held.within.fit(moments))]
    chosen = levels[1:] if asked is None else tuple(level for level in levels[1:] if level in asked)
    status = _observed_status(fits[1], means, min_effect, np.isin(levels[1:], chosen))
    return ObservedCurve(levels, means, fits[0], fits[1], status, chosen)


@dataclass(frozen=True)
class _ByLevel:
    """Where the examples of a population lie, by their level of one family.

    Attributes:
        grouping: by (weapon, level) and cluster.
        within: effects of the levels with the weapon held fixed.
        raw: effects of the levels over all weapons.
    """

    grouping: Grouping
    within: FixedEffects
    raw: FixedEffects


def _by_level(ctx: Context, population: Population, family: str, levels: tuple[int, ...]) -> _ByLevel:
    """Group a population's examples; made once for the rows, whatever the feature."""

    def make() -> _ByLevel:
        examples, rows, k = ctx.data, population.rows, len(levels)
        column = np.asarray(examples.levels)[rows, ctx.vocabulary.family_index[family]]
        label = np.asarray(examples.weapon)[rows] * k + np.searchsorted(np.asarray(levels), column)
        grouping = Grouping.of(label, len(ctx.weapons) * k, examples.clusters[rows])
        within = FixedEffects.of(grouping.cells, k)
        return _ByLevel(grouping, within, within.over_all())

    return ctx.derived_for(population, ("by level", family), make)


def _observed_status(
    fit: ClusteredFit | None, means: GroupMeans, min_effect: float, asked: NDArray[np.bool_]
) -> tuple[Status | None, ...]:
    """Verdicts from Sidak intervals; sparse cells and cells of fewer than 10 clusters get none."""
    if fit is None:
        return (None,) * (len(means.n) - 1)
    usable = asked & (means.n[1:] >= MIN_N) & enough_clusters(means)[1:]
    low, high = fit.interval(sidak_level(0.95, int(usable.sum())))
    return tuple(
        interval_status(float(low[i]), float(high[i]), min_effect) if usable[i] else None for i in range(len(usable))
    )


def interval_status(low: float, high: float, min_effect: float) -> Status | None:
    """Verdict on an effect from its simultaneous interval; None when the interval is unknown."""
    if np.isnan(low) or np.isnan(high):
        return None
    if low > min_effect or high < -min_effect:
        return "present"
    return "negligible" if low >= -min_effect and high <= min_effect else "unclear"


def rung_stats(curve: ObservedCurve, family: str, *, main_only: bool) -> Table:
    """The observational curve as the table ``rung_stats``."""
    means = curve.means
    padded = _padded_effects(curve)
    labels = ["absent" if level == 0 else ("present" if main_only else f"{family}_{level}") for level in curve.levels]
    reasons = [_reason(curve, i, padded["within_low"][i]) for i in range(len(labels))]
    columns = {
        "rung": list(curve.levels),
        "label": labels,
        "n": means.n,
        "n_active": means.n_active,
        "n_clusters": means.n_clusters,
        "mean_activation": means.mean,
        "std": means.std,
        "std_error": means.std_error,
        "mean_when_active": means.mean_when_active,
        "sparse": means.sparse,
        **padded,
        "status": [None, *curve.status],
        "reason": reasons,
    }
    return Table.from_columns("rung_stats", RungStat, columns, without_p(padded["q_value"][1:], "level"))


def without_p(q_values: Floats, noun: str) -> list[str]:
    """What to note of rows that have no p value, and so no q."""
    missing = int(np.isnan(q_values).sum())
    return [f"{missing} {noun}{'' if missing == 1 else 's'} without a p value: left out of q"] if missing else []


def _padded_effects(curve: ObservedCurve) -> dict[str, Floats]:
    """Effects with a leading row for level 0, and NaN where a level has too few clusters."""
    k = len(curve.levels) - 1
    names = ("delta_from_baseline", "delta_low", "delta_high", "within_weapon_delta", "within_low", "within_high")
    columns = {name: np.full(k + 1, np.nan) for name in (*names, "q_value")}
    if curve.raw is None or curve.within is None:
        return columns
    enough = enough_clusters(curve.means)[1:]
    empty = curve.means.n[1:] == 0
    series = [curve.raw.coefficient, *curve.raw.interval(), curve.within.coefficient, *curve.within.interval()]
    for name, values in zip(names, series, strict=True):
        kept = ~empty if name in {"delta_from_baseline", "within_weapon_delta"} else enough & ~empty
        columns[name][1:] = np.where(kept, values, np.nan)
    tested = enough & ~empty & np.isin(curve.levels[1:], curve.asked)
    columns["q_value"][1:] = benjamini_hochberg(np.where(tested, curve.within.p_value(), np.nan))
    return columns


def _reason(curve: ObservedCurve, index: int, within_low: float) -> str | None:
    means = curve.means
    if means.n[index] == 0:
        return "no example at this level"
    if means.n_clusters[index] < MIN_CLUSTERS:
        return f"fewer than {MIN_CLUSTERS} clusters: no standard error"
    if index > 0 and means.n_clusters[0] < MIN_CLUSTERS:
        return f"level 0, which it is compared with, has fewer than {MIN_CLUSTERS} clusters"
    if index > 0 and np.isnan(within_low):
        return "no weapon has this level and another one"
    if index > 0 and means.n[index] < MIN_N:
        return f"fewer than {MIN_N} examples: no verdict"
    return None if index == 0 or curve.levels[index] in curve.asked else "not among the rungs asked for: no verdict"
