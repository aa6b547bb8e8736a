"""The cells of a heatmap in the data: examples grouped by the levels at which they hold two families."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....context.context import Context
from ....context.population import Population
from ....schemas.job import Job
from ....schemas.result import Status
from ...design.observed import interval_status
from ...design.specificity import null_activations
from ...stats.groups import MIN_CLUSTERS, MIN_N, GroupMeans, group_means
from ...stats.regression import ClusteredFit
from ...stats.tails import benjamini_hochberg, sidak_level, t_quantile, t_two_sided
from .cells import CellDesign
from .effects import Effects, Read, name_pattern, no_effects
from .grid import Grid

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
SPLIT_STREAM = 12


@dataclass(frozen=True)
class ObservedCells:
    """A heatmap in the data.

    Attributes:
        means: statistics of each cell.
        effects: of the cells 1.. against cell 0, the weapon held fixed.
        interactions: of the cells that hold both, from those effects.
        pre_status: verdict on each interaction of pre-activations; None where those are unknown.
        confirmed: whether the highest cell of half of the builds lies above cell 0 in the other half.
        n: examples in the grid.
        left_out: examples at levels outside it.
    """

    means: GroupMeans
    effects: Effects
    interactions: Effects
    pre_status: tuple[Status | None, ...]
    confirmed: bool | None
    n: int
    left_out: int


def grid_cells(ctx: Context, population: Population, grid: Grid) -> NDArray[np.integer[Any]]:
    """The cell of each example of the population, [n]; -1 outside the grid. An example counts once, at its levels."""
    columns = [ctx.vocabulary.family_index[family] for family in grid.families]
    levels = np.asarray(ctx.data.levels[population.rows])
    return grid.positions(levels[:, columns[0]], levels[:, columns[1]])


def observe_cells(
    ctx: Context, feature: int, population: Population, grid: Grid, *, min_effect: float, seed: int, job: Job
) -> ObservedCells:
    """Group a population by cell; effects are OLS on cell dummies with weapon fixed effects, errors by build."""
    cell = grid_cells(ctx, population, grid)
    inside = cell >= 0
    part = replace(population, rows=population.rows[inside], activation=population.activation[inside])
    cell, k = cell[inside], len(grid.cells)
    if ctx.data.build_id is None:
        job.warn("builds are unknown: errors are clustered by distinct (weapon, set), which may be too narrow")
    clusters = ctx.data.clusters[part.rows]
    means = group_means(part.activation, cell, k, clusters)
    if not len(cell):
        nothing, crossed = no_effects(k - 1), no_effects(len(grid.pairs.both))
        return ObservedCells(means, nothing, crossed, (None,) * len(crossed.status), None, 0, int((~inside).sum()))
    design = CellDesign.of(cell, k, ctx.data.weapon[part.rows], clusters)
    fit = design.fit(part.activation).guarded(means.support[1:])
    shares = _random_shares(ctx, feature, part, design, grid, means=means, seed=seed)
    pre = _pre_fit(ctx, feature, part, design)
    own, matrix = np.eye(k - 1), grid.pairs.matrix(k)
    enough, many = means.n_clusters >= MIN_CLUSTERS, means.n >= MIN_N
    effects = _estimates(
        fit, own, enough[1:] & enough[0], many[1:] & many[0], min_effect=min_effect, specificity=shares[0]
    )
    effects = replace(effects, pre=np.full(k - 1, np.nan) if pre is None else pre.coefficient)
    sound, ample = _all_four(enough, grid), _all_four(many, grid)
    crossed = _estimates(fit, matrix, sound, ample, min_effect=min_effect, specificity=shares[1])
    crossed = replace(crossed, mean=np.where(sound, crossed.mean, np.nan))
    pre_status: tuple[Status | None, ...] = (None,) * len(sound)
    if pre is not None:
        crossed_pre = _estimates(pre, matrix, sound, ample, min_effect=min_effect, specificity=crossed.specificity)
        crossed = replace(crossed, pre=np.where(sound, crossed_pre.mean, np.nan))
        pre_status = crossed_pre.status
    confirmed = _confirmed(part.activation, cell, means, clusters, np.random.default_rng([seed, SPLIT_STREAM]))
    return ObservedCells(means, effects, crossed, pre_status, confirmed, len(cell), int((~inside).sum()))


def _all_four(cells: Bools, grid: Grid) -> Bools:
    """Which interactions have all of their four cells, [q]."""
    pairs = grid.pairs
    return cells[pairs.both] & cells[pairs.first] & cells[pairs.second] & cells[0]


def _usable(means: GroupMeans) -> Bools:
    """Cells of 20 examples in 10 clusters."""
    return (means.n >= MIN_N) & (means.n_clusters >= MIN_CLUSTERS)


def _estimates(
    fit: ClusteredFit, weights: Floats, enough: Bools, ample: Bools, *, min_effect: float, specificity: Floats
) -> Effects:
    """Contrasts of a fit: intervals (Sidak) where there are clusters enough, verdicts where examples are ample too."""
    unknown = np.isnan(fit.coefficient)
    mean = np.where((np.abs(weights) @ unknown) > 0, np.nan, weights @ np.nan_to_num(fit.coefficient))
    variance = np.einsum("ij,jk,ik->i", weights, fit.covariance, weights, optimize=True)
    known = enough & ~np.isnan(mean) & (fit.n_clusters >= MIN_CLUSTERS)
    error = np.where(known, np.sqrt(np.maximum(variance, 0.0)), np.nan)
    half = t_quantile(0.5 + sidak_level(0.95, int(known.sum())) / 2, fit.df) * error
    low, high, alone = mean - half, mean + half, t_quantile(0.975, fit.df) * error
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.where(error > 0, t_two_sided(mean / error, fit.df), np.nan)
    status: list[Status | None] = [
        interval_status(float(low[i]), float(high[i]), min_effect) if ample[i] else None for i in range(len(mean))
    ]
    blank = np.full(len(mean), np.nan)
    return Effects(
        mean=mean,
        std_error=error,
        ci_low=mean - alone,
        ci_high=mean + alone,
        low=low,
        high=high,
        p_value=p,
        q_value=benjamini_hochberg(p),
        pre=blank,
        specificity=specificity,
        responder_rate=blank,
        responder_low=blank,
        responder_high=blank,
        mean_responders=blank,
        status=tuple(status),
        n_to_settle=(None,) * len(mean),
    )


def _random_shares(
    ctx: Context, feature: int, part: Population, design: CellDesign, grid: Grid, *, means: GroupMeans, seed: int
) -> tuple[Floats, Floats]:
    """Share of random directions whose largest effect, and largest interaction, is that of each cell; doubled.

    Only cells with a verdict take part, on the rows on which the directions were read, the feature included.
    """
    usable = _usable(means)
    single, crossed = usable[1:] & usable[0], _all_four(usable, grid)
    unknown = np.full(len(single), np.nan), np.full(len(crossed), np.nan)
    null = null_activations(ctx, feature, part, seed)
    if null is None:
        return unknown
    if len(null.positions) < len(part):
        at = null.positions
        design = CellDesign.of(design.cell[at], len(means.n), design.group[at], design.cluster[at])
    outcomes = np.column_stack([part.activation[null.positions], null.activation]).astype(np.float32, copy=False)
    beta = np.nan_to_num(design.coefficients(outcomes))
    results: list[Floats] = []
    for values, chosen in ((beta, single), (grid.pairs.matrix(len(means.n)) @ beta, crossed)):
        size, p = np.abs(values[chosen]), np.full(len(chosen), np.nan)
        if len(size):
            largest = size[:, 1:].max(axis=0)
            p[chosen] = (1 + (largest[None, :] >= size[:, :1]).sum(axis=1)) / (1 + len(largest))
        results.append(np.minimum(1.0, 2.0 * p))
    return results[0], results[1]


def _pre_fit(ctx: Context, feature: int, part: Population, design: CellDesign) -> ClusteredFit | None:
    """The same regression of pre-activations; None where the examples' pooled vectors are unknown."""
    if ctx.sae is None or ctx.random_directions() is None:
        return None
    return design.fit(ctx.read(ctx.pooled_of(part.rows), feature).pre)


def _confirmed(
    value: Floats,
    cell: NDArray[np.integer[Any]],
    means: GroupMeans,
    clusters: NDArray[np.integer[Any]],
    rng: np.random.Generator,
) -> bool | None:
    """Whether the highest cell of n >= 20 in half of the clusters lies above cell 0 in the other half.

    Cells that have fewer than 10 clusters in the half that must confirm take no part. None where the base is highest.
    """
    number = np.unique(clusters, return_inverse=True)[1]
    first = (rng.random(int(number.max()) + 1) < 0.5)[number]
    if first.all() or not first.any():
        return None
    choose, confirm = (group_means(value[half], cell[half], len(means.n), clusters[half]) for half in (first, ~first))
    possible = (means.n >= MIN_N) & (confirm.n_clusters >= MIN_CLUSTERS) & (choose.n > 0)
    if not possible[0]:
        return None
    top = int(np.argmax(np.where(possible, choose.mean, -np.inf)))
    if top == 0:
        return None
    error = float(np.hypot(confirm.std_error[top], confirm.std_error[0]))
    df = int(min(confirm.n_clusters[top], confirm.n_clusters[0])) - 1
    return bool(confirm.mean[top] - confirm.mean[0] > float(t_quantile(0.975, df)) * error)


def observed_pattern(observed: ObservedCells, grid: Grid, min_effect: float) -> Read:
    """Name the pattern where the interaction is largest, or when none acts where the effects are.

    The top levels, at which it is read in contexts, seldom have data.
    """
    crossed, pairs, effect = observed.interactions, grid.pairs, observed.effects.mean
    known = [i for i, status in enumerate(crossed.status) if status is not None]
    if not known:
        return Read(None, None, np.full(4, np.nan), "no pair of levels has four cells of 20 examples in 10 builds")
    acting = crossed.acting()
    cells = np.stack([pairs.first, pairs.second, pairs.both]) - 1
    at = crossed.leading(acting) if acting else max(known, key=lambda i: float(np.abs(effect[cells[:, i]]).max()))
    if at is None:
        raise AssertionError("an acting interaction has a leader")
    means = np.r_[0.0, effect[cells[:, at]]]
    return name_pattern(
        means,
        int(pairs.both[at]),
        status=crossed.status[at] if acting else None,
        bounds=(float(crossed.low[at]), float(crossed.high[at])),
        pre_status=observed.pre_status[at] or "unclear",
        min_effect=min_effect,
    )
