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
from ...stats.cells import Cells, Grouping, Part
from ...stats.fixed_effects import FixedEffects, LevelDesign
from ...stats.groups import MIN_CLUSTERS, MIN_N, GroupMeans, error_of_mean
from ...stats.moments import Moments
from ...stats.regression import ClusteredFit
from ...stats.tails import benjamini_hochberg, sidak_level, t_quantile, t_two_sided
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
        pre_status: verdict on each interaction of pre-activations; None where those are unknown or no interaction acts.
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


@dataclass(frozen=True)
class GridExamples:
    """Where the examples of a population lie in a grid.

    Attributes:
        inside: bool [n], those at levels of the grid; None where all are.
        grouping: those inside by (weapon, cell) and cluster.
        effects: of the cells 1.. against cell 0, the weapon held fixed.
    """

    inside: Bools | None
    grouping: Grouping
    effects: FixedEffects

    @property
    def counts(self) -> NDArray[np.int64]:
        """Examples of each cell."""
        return self.effects.level_sizes

    def part(self, population: Population, grid: Grid) -> Population:
        """The examples inside."""
        if self.inside is None:
            return population
        key = None if population.key is None else f"{population.key} in {grid.families} {grid.cells}"
        rows, activation = population.rows[self.inside], population.activation[self.inside]
        return replace(population, rows=rows, activation=activation, key=key)


def grid_examples(ctx: Context, population: Population, grid: Grid) -> GridExamples:
    """Group a population by cell, an example counting once, at its levels; made once for the rows."""

    def make() -> GridExamples:
        levels, rows, k = np.asarray(ctx.data.levels), population.rows, len(grid.cells)
        cell = grid.positions(*(levels[rows, ctx.vocabulary.family_index[family]] for family in grid.families))
        inside = cell >= 0
        kept = rows[inside]
        label = np.asarray(ctx.data.weapon)[kept] * k + cell[inside]
        grouping = Grouping.of(label, len(ctx.weapons) * k, ctx.data.clusters[kept])
        return GridExamples(None if inside.all() else inside, grouping, FixedEffects.of(grouping.cells, k))

    return ctx.derived_for(population, ("grid", grid.families, grid.cells), make)


def observe_cells(
    ctx: Context, feature: int, population: Population, grid: Grid, *, min_effect: float, seed: int, job: Job
) -> ObservedCells:
    """Group a population by cell; effects are OLS on cell dummies with weapon fixed effects, errors by build."""
    held = grid_examples(ctx, population, grid)
    part, k = held.part(population, grid), len(grid.cells)
    if ctx.data.build_id is None:
        job.warn("builds are unknown: errors are clustered by distinct (weapon, set), which may be too narrow")
    sums = held.grouping.sums(part.activation)
    moments = Moments.of(sums)
    means, left_out = held.effects.means(moments), len(population) - len(part)
    if not len(part):
        nothing, crossed = no_effects(k - 1), no_effects(len(grid.pairs.both))
        return ObservedCells(means, nothing, crossed, (None,) * len(crossed.status), None, 0, left_out)
    fit = held.effects.fit(moments).guarded(means.support[1:])
    shares = _random_shares(ctx, feature, part, held, grid, means=means, seed=seed)
    own, matrix = np.eye(k - 1), grid.pairs.matrix(k)
    enough, many = means.n_clusters >= MIN_CLUSTERS, means.n >= MIN_N
    effects = _estimates(
        fit, own, enough[1:] & enough[0], many[1:] & many[0], min_effect=min_effect, specificity=shares[0]
    )
    sound, ample = _all_four(enough, grid), _all_four(many, grid)
    crossed = _estimates(fit, matrix, sound, ample, min_effect=min_effect, specificity=shares[1])
    crossed = replace(crossed, mean=np.where(sound, crossed.mean, np.nan))
    pre_status: tuple[Status | None, ...] = (None,) * len(sound)
    pre = _pre_activations(ctx, feature, part)
    if pre is not None:
        coefficients = held.effects.coefficients(held.grouping.totals(pre))
        effects = replace(effects, pre=coefficients)
        crossed = replace(crossed, pre=np.where(sound, _contrasts(matrix, coefficients), np.nan))
    if pre is not None and crossed.acting():
        own_fit = held.effects.fit(Moments.of(held.grouping.sums(pre)))
        pre_status = _estimates(own_fit, matrix, sound, ample, min_effect=min_effect, specificity=shares[1]).status
    rng = np.random.default_rng([seed, SPLIT_STREAM])
    halves = ctx.derived_for(
        part, ("halves by cell", grid.families, grid.cells, seed), lambda: _halve(held.effects.levels(), rng)
    )
    confirmed = None if halves is None else _confirmed(sums.total, means, halves)
    return ObservedCells(means, effects, crossed, pre_status, confirmed, len(part), left_out)


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
    mean = _contrasts(weights, fit.coefficient)
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


def _contrasts(weights: Floats, coefficient: Floats) -> Floats:
    """Contrasts [q] of coefficients [k] with weights [q, k]; NaN where one that takes part is unknown."""
    unknown = (np.abs(weights) @ np.isnan(coefficient)) > 0
    return np.where(unknown, np.nan, weights @ np.nan_to_num(coefficient))


def _random_shares(
    ctx: Context, feature: int, part: Population, held: GridExamples, grid: Grid, *, means: GroupMeans, seed: int
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
    at, cells = held.grouping.cell[null.positions], held.grouping.cells
    counts = np.bincount(cells.group[at], minlength=cells.n_groups).reshape(-1, len(means.n))
    outcomes = np.column_stack([part.activation[null.positions], null.activation]).astype(np.float32, copy=False)
    group, level = np.divmod(cells.group[at], len(means.n))
    effects = LevelDesign.of(counts).coefficients(level, group, outcomes)
    beta = np.nan_to_num(effects)
    results: list[Floats] = []
    for values, chosen in ((beta, single), (grid.pairs.matrix(len(means.n)) @ beta, crossed)):
        size, p = np.abs(values[chosen]), np.full(len(chosen), np.nan)
        if len(size):
            largest = size[:, 1:].max(axis=0)
            p[chosen] = (1 + (largest[None, :] >= size[:, :1]).sum(axis=1)) / (1 + len(largest))
        results.append(np.minimum(1.0, 2.0 * p))
    return results[0], results[1]


def _pre_activations(ctx: Context, feature: int, part: Population) -> Floats | None:
    """Pre-activations of the examples [n]; None where their pooled vectors are unknown."""
    if ctx.sae is None or ctx.random_directions() is None:
        return None
    pre = ctx.pre_activations(feature)
    return pre if len(part) == len(pre) else pre[part.rows]


def _halve(cells: Cells, rng: np.random.Generator) -> tuple[Part, Part] | None:
    """Split the clusters at random; None where one half has none."""
    first = rng.random(cells.n_clusters) < 0.5
    return None if first.all() or not first.any() else (cells.part(first), cells.part(~first))


def _confirmed(total: Floats, means: GroupMeans, halves: tuple[Part, Part]) -> bool | None:
    """Whether the highest cell of n >= 20 in half of the clusters lies above cell 0 in the other half.

    Cells that have fewer than 10 clusters in the half that must confirm take no part. None where the base is highest.
    ``total`` is the activation summed by cell and cluster.
    """
    choose, confirm = halves
    n_clusters = confirm.cells.group_clusters
    possible = (means.n >= MIN_N) & (n_clusters >= MIN_CLUSTERS) & (choose.cells.group_sizes > 0)
    if not possible[0]:
        return None
    chosen = choose.cells.by_group(total[choose.kept]) / np.maximum(choose.cells.group_sizes, 1)
    top = int(np.argmax(np.where(possible, chosen, -np.inf)))
    if top == 0:
        return None
    (base, base_error), (highest, error) = (_half_mean(total, confirm, at) for at in (0, top))
    df = int(min(n_clusters[top], n_clusters[0])) - 1
    return bool(highest - base > float(t_quantile(0.975, df)) * np.hypot(base_error, error))


def _half_mean(total: Floats, half: Part, group: int) -> tuple[float, float]:
    """Mean of one cell of the grid among some of the clusters, and its standard error."""
    at = np.flatnonzero(half.cells.group == group)
    summed, size = total[half.kept[at]], half.cells.size[at]
    n = size.sum()
    mean = float(summed.sum() / n)
    squares = np.square(summed - mean * size).sum(keepdims=True)
    return mean, float(error_of_mean(squares, np.array([n]), np.array([len(at)]))[0])


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
