"""The observational table of weapons and of weapon classes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ....context.context import Context
from ....context.population import Population
from ....schemas.job import Job
from ....schemas.result import Row, Status, Table
from ...design.observed import interval_status
from ...stats.cells import CellSums
from ...stats.groups import MIN_CLUSTERS, MIN_N, GroupDeltas, GroupMeans, deltas_of, means_of
from ...stats.moments import Moments
from ...stats.regression import ClusteredFit
from ...stats.tails import benjamini_hochberg, sidak_level, t_quantile, t_two_sided
from .by_weapon import adjusted_weapons, by_weapon, class_names
from .gating import dropped_note

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.intp]
NOT_TOLD = "delta_adjusted is unknown: these examples do not tell the weapon from abilities"


class GroupRow(Row):
    """Examples of one group (a weapon, a class) against all examples of the population."""

    mean_activation: float | None = Field(description="Mean activation over n.")
    std: float | None = Field(description="Standard deviation.")
    std_error: float | None = Field(description="Cluster-robust standard error of the mean.")
    n: int = Field(description="Examples.")
    n_active: int = Field(description="Examples on which the feature is active.")
    n_clusters: int = Field(description="Builds, or distinct examples where builds are unknown, behind them.")
    mean_when_active: float | None = Field(description="Mean over the active.")
    sparse: bool = Field(description="Fewer than 20 examples: not to be read as suppression.")
    delta_from_global: float | None = Field(description="Mean minus the mean of all examples of the population.")
    ci_low: float | None = Field(description="Lower end of its 95 % interval.")
    ci_high: float | None = Field(description="Upper end of its 95 % interval.")
    sim_low: float | None = Field(description="Lower end of the interval that holds for all rows at once (Sidak).")
    sim_high: float | None = Field(description="Upper end of the interval that holds for all rows at once (Sidak).")
    q_value: float | None = Field(description="Benjamini-Hochberg q of delta_from_global.")
    status: Status | None = Field(description="Verdict on delta_from_global; null for sparse groups.")
    reason: str | None = Field(description="Why a number is null.")


class WeaponStat(GroupRow):
    """Examples of one weapon kit."""

    weapon_id: int = Field(description="The game's kit id.")
    weapon_name: str = Field(description="Name of the kit; its token where the table has none.")
    weapon_class: str = Field(description="Weapon class, or unknown.")
    sub: str | None = Field(description="Sub weapon.")
    special: str | None = Field(description="Special weapon.")
    delta_adjusted: float | None = Field(
        description="Effect of the weapon with the abilities held fixed (additive), minus the n-weighted mean effect."
    )
    adjusted_low: float | None = Field(description="Lower end of its 95 % interval.")
    adjusted_high: float | None = Field(description="Upper end of its 95 % interval.")


class ClassStat(GroupRow):
    """Examples of one weapon class."""

    weapon_class: str = Field(description="Weapon class.")
    n_weapons: int = Field(description="Kits of the class in the population.")


@dataclass(frozen=True)
class WeaponTable:
    """Statistics by weapon token id; arrays are [n_weapons].

    Attributes:
        sums: the activation by weapon and cluster.
        means: group means.
        deltas: differences to the mean of all examples.
        adjusted: effects with the abilities held fixed.
        eligible: weapons with at least ``min_examples`` examples.
        usable: eligible ones that also have 20 examples in 10 clusters, and others beside them, so that verdicts are
            possible.
        level: level of each simultaneous interval.
        status: verdict on each weapon; None where not usable.
    """

    sums: CellSums
    means: GroupMeans
    deltas: GroupDeltas
    adjusted: ClusteredFit
    eligible: NDArray[np.bool_]
    usable: NDArray[np.bool_]
    level: float
    status: list[Status | None]

    def simultaneous(self) -> tuple[Floats, Floats]:
        """Sidak intervals of the deltas."""
        return delta_intervals(self.deltas, self.level)

    def ranked(self) -> list[int]:
        """Eligible weapons by falling mean."""
        order = np.argsort(-np.where(self.eligible, self.means.mean, -np.inf), kind="stable")
        return [int(index) for index in order if self.eligible[index]]


def delta_intervals(deltas: GroupDeltas, level: float) -> tuple[Floats, Floats]:
    """Student's t intervals of the deltas."""
    half = t_quantile(0.5 + level / 2, deltas.df) * deltas.std_error
    return deltas.delta - half, deltas.delta + half


def without_alone(deltas: GroupDeltas, means: GroupMeans) -> GroupDeltas:
    """The same with an unknown delta where all examples are in one group: there is nothing to compare it with."""
    return replace(deltas, delta=np.where(means.n < means.n.sum(), deltas.delta, np.nan))


def comparable(means: GroupMeans) -> NDArray[np.bool_]:
    """Groups of 10 clusters beside which there are other examples."""
    return (means.n_clusters >= MIN_CLUSTERS) & (means.n < means.n.sum())


def group_reason(means: GroupMeans, index: int) -> str | None:
    """Why a group has no error; None where it has one."""
    if means.n[index] == means.n.sum():
        return "all examples are in this group: nothing to compare it with"
    if means.n_clusters[index] < MIN_CLUSTERS:
        return f"fewer than {MIN_CLUSTERS} clusters: no standard error"
    return None


def verdicts(deltas: GroupDeltas, usable: NDArray[np.bool_], level: float, min_effect: float) -> list[Status | None]:
    """Verdicts on the deltas from their simultaneous intervals; None where not usable."""
    low, high = delta_intervals(deltas, level)
    return [
        interval_status(float(low[i]), float(high[i]), min_effect) if usable[i] else None for i in range(len(usable))
    ]


def weapon_table(
    ctx: Context, population: Population, *, min_examples: int, min_effect: float, job: Job
) -> WeaponTable:
    """Statistics of every weapon over a population.

    Args:
        ctx: the context.
        population: the population.
        min_examples: weapons with fewer are left out of rankings.
        min_effect: smallest effect of interest.
        job: receives warnings.
    """
    grouping = by_weapon(ctx, population).grouping
    if ctx.data.build_id is None:
        job.warn("builds are unknown: errors are clustered by distinct (weapon, set), which may be too narrow")
    sums = grouping.sums(population.activation)
    moments = Moments.of(sums)
    means = means_of(moments)
    deltas = without_alone(deltas_of(moments).guarded(means.support), means)
    adjusted = adjusted_weapons(ctx, population, grouping).fit(population.activation).guarded(means.support)
    adjusted = replace(adjusted, coefficient=np.where(np.isnan(deltas.delta), np.nan, adjusted.coefficient))
    eligible = means.n >= min_examples
    usable = eligible & (means.n >= MIN_N) & comparable(means)
    level = sidak_level(0.95, int(usable.sum()))
    status = verdicts(deltas, usable, level, min_effect)
    return WeaponTable(sums, means, deltas, adjusted, eligible, usable, level, status)


def group_columns(means: GroupMeans, deltas: GroupDeltas, status: list[Status | None], level: float) -> dict[str, Any]:
    """The columns of `GroupRow`."""
    enough = comparable(means)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = t_two_sided(deltas.delta / deltas.std_error, deltas.df)
    bounds = (*delta_intervals(deltas, 0.95), *delta_intervals(deltas, level))
    low, high, sim_low, sim_high = (np.where(enough, bound, np.nan) for bound in bounds)
    return {
        "mean_activation": means.mean,
        "std": means.std,
        "std_error": means.std_error,
        "n": means.n,
        "n_active": means.n_active,
        "n_clusters": means.n_clusters,
        "mean_when_active": means.mean_when_active,
        "sparse": means.sparse,
        "delta_from_global": deltas.delta,
        "ci_low": low,
        "ci_high": high,
        "sim_low": sim_low,
        "sim_high": sim_high,
        "q_value": benjamini_hochberg(np.where(enough, p, np.nan)),
        "status": status,
        "reason": [group_reason(means, index) for index in range(len(means.n))],
    }


def weapon_stats(ctx: Context, table: WeaponTable, shown: list[int], n_dropped: int = 0) -> Table:
    """The table ``weapon_stats``: the weapons shown, by falling mean.

    Args:
        ctx: the context.
        table: statistics of every weapon.
        shown: token ids of the weapons shown.
        n_dropped: eligible weapons that were dropped because they never activate the feature.
    """
    columns = group_columns(table.means, table.deltas, table.status, table.level)
    enough = comparable(table.means)
    low, high = (np.where(enough, bound, np.nan) for bound in table.adjusted.interval())
    facts, untold = ctx.weapons.facts, np.isnan(table.adjusted.coefficient)
    columns["reason"] = [NOT_TOLD if untold[i] and why is None else why for i, why in enumerate(columns["reason"])]
    columns |= {
        "weapon_id": [kit.weapon_id for kit in facts],
        "weapon_name": [kit.name for kit in facts],
        "weapon_class": [kit.weapon_class for kit in facts],
        "sub": [kit.sub for kit in facts],
        "special": [kit.special for kit in facts],
        "delta_adjusted": table.adjusted.coefficient,
        "adjusted_low": low,
        "adjusted_high": high,
    }
    rows = {name: [values[i] for i in shown] for name, values in columns.items()}
    notes = ["delta_adjusted is an additive adjustment; interactions remain confounded"]
    n_ranked = int(table.eligible.sum()) - n_dropped
    if len(shown) < n_ranked:
        notes.append(f"{len(shown)} of {n_ranked} weapons: the highest means")
    if n_dropped:
        notes.append(dropped_note(n_dropped, "weapon", "never active"))
    return Table.from_columns("weapon_stats", WeaponStat, rows, notes)


def class_stats(ctx: Context, population: Population, table: WeaponTable, min_effect: float) -> Table:
    """The table ``class_stats`` beside that of the weapons: weapon classes by falling mean."""
    grouped, (names, class_of) = by_weapon(ctx, population), class_names(ctx)
    cells = grouped.grouping.cells
    sums = table.sums.merged(grouped.classes)
    moments = Moments.of(sums)
    means = means_of(moments)
    deltas = without_alone(deltas_of(moments).guarded(means.support), means)
    usable = (means.n >= MIN_N) & comparable(means)
    level = sidak_level(0.95, int(usable.sum()))
    columns = group_columns(means, deltas, verdicts(deltas, usable, level, min_effect), level)
    columns["weapon_class"] = names
    columns["n_weapons"] = np.bincount(class_of[np.unique(cells.group)], minlength=len(names))
    order = [i for i in np.argsort(-np.nan_to_num(means.mean, nan=-np.inf)).tolist() if means.n[i] > 0]
    return Table.from_columns(
        "class_stats", ClassStat, {name: [values[i] for i in order] for name, values in columns.items()}
    )
