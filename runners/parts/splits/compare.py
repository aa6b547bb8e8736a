"""The halves of a feature, and of random directions on the same splits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....context.context import Context
from ....context.population import Population
from ....schemas.job import Job
from ...design.high import HighSplit
from ...design.specificity import NullActivations, null_activations, share_at_least
from ...design.unit_columns import unit_columns
from ...stats.compact import BLOCK_ROWS, CompactRows
from ...stats.groups import MIN_CLUSTERS, MIN_N
from ...stats.held import compact
from ...stats.reliability import Agreement, pearson, split_clusters
from .values import Counts, Halves, Metric

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
Ints = NDArray[np.integer[Any]]
SPLIT_STREAM = 19
COMPARED_SPLITS = 10
DIRECTIONS: dict[Metric, int] = {"token_effects": 50, "token_frequency": 50, "weapon_means": 50, "pagerank": 20}
_AT_ONCE = 50


@dataclass(frozen=True)
class Reliability:
    """How a feature's halves agree, and how those of random directions do.

    Attributes:
        agreement: of the feature, over all splits.
        n_first: [s], examples in the first half.
        mean: mean Pearson correlation over the splits that have one; NaN without any.
        compared: the same over the first 10 splits and on the examples that random directions are read on.
        null: [r], that of each random direction; empty where unknown.
        n_compared: those examples.
        specificity_p: share of directions that agree at least as much on those splits; None where unknown.
    """

    agreement: Agreement
    n_first: NDArray[np.int64]
    mean: float
    compared: float
    null: Floats
    n_compared: int
    specificity_p: float | None


def split_labels(ctx: Context, population: Population, n_splits: int, seed: int) -> tuple[NDArray[np.int32], Bools]:
    """The splits a run makes: each example's cluster [n], and bool [n_splits, n_clusters], True in the first half.

    Example i is in the first half of split s where ``first[s, cluster[i]]``. Clusters are builds where builds are
    known, else distinct (weapon, set): no cluster is ever in both halves.
    """
    cluster = compact(ctx.data.clusters[population.rows])
    n_clusters = int(cluster.max()) + 1
    return cluster, split_clusters(n_clusters, n_splits, np.random.default_rng([seed, SPLIT_STREAM]))


def units_of(ctx: Context, population: Population, cluster: Ints) -> tuple[Halves, tuple[str, ...]]:
    """The examples with their units: tokens, and weapons, of at least 20 examples; and the labels of the tokens."""
    rows = population.rows
    names = unit_columns(ctx, rows[:0], "tokens")
    blocks = (rows[at : at + BLOCK_ROWS] for at in range(0, len(rows), BLOCK_ROWS))
    columns = CompactRows.stacked(unit_columns(ctx, block, "tokens").matrix for block in blocks)
    common = np.flatnonzero(columns.counts() >= MIN_N)
    weapon = np.asarray(ctx.data.weapon)[rows]
    usable = np.bincount(weapon, minlength=len(ctx.weapons)) >= MIN_N
    return Halves(columns.take(common), weapon, usable, cluster), names.take(common).labels


@dataclass(frozen=True)
class Splits:
    """Splits of a population, with what is the same for every feature.

    Attributes:
        halves: the examples and their units.
        first: bool [s, n_clusters], True in the first half.
        counts: tokens in the first halves, in batches of splits; the last batch may be short.
        n_first: [s], examples in the first half.
    """

    halves: Halves
    first: Bools
    counts: tuple[Counts, ...]
    n_first: NDArray[np.int64]

    @classmethod
    def of(cls, halves: Halves, first: Bools) -> Splits:
        """Count the tokens of each half."""
        counts = tuple(halves.counts(first[at : at + _AT_ONCE]) for at in range(0, len(first), _AT_ONCE))
        n_first = first.astype(np.int64) @ np.bincount(halves.cluster, minlength=first.shape[1])
        return cls(halves, first, counts, n_first)


def _splits(ctx: Context, population: Population, n_splits: int, seed: int, *, positions: Ints | None = None) -> Splits:
    """The splits of a population, or of some of its examples; a few of them are kept for the next feature."""

    def make() -> Splits:
        if positions is not None:
            whole = _splits(ctx, population, n_splits, seed)
            return Splits.of(whole.halves.at(positions), whole.first[:COMPARED_SPLITS])
        cluster, first = split_labels(ctx, population, n_splits, seed)
        return Splits.of(units_of(ctx, population, cluster)[0], first)

    if n_splits > _AT_ONCE:
        return make()
    sample = None if positions is None else positions.tobytes()
    return ctx.derived_for(population, ("splits", n_splits, seed, sample), make)


def reliability(
    ctx: Context,
    feature: int,
    population: Population,
    *,
    metric: Metric,
    high: HighSplit | None,
    n_splits: int,
    seed: int,
    job: Job,
) -> Reliability | None:
    """Split the examples, and correlate what is read off the halves.

    Args:
        ctx: the context.
        feature: the feature.
        population: with an active example.
        metric: what is read off each half.
        high: the high examples, for ``token_frequency``.
        n_splits: random splits.
        seed: the spec's seed.
        job: told of the progress.

    Returns:
        None with fewer than 10 clusters.
    """
    splits = _splits(ctx, population, n_splits, seed)
    if splits.first.shape[1] < MIN_CLUSTERS:
        return None
    outcome = (population.activation if high is None else high.high.astype(np.float32))[:, None]
    agreements: list[tuple[Floats, Floats]] = []
    for batch, counts in enumerate(splits.counts):
        at = batch * _AT_ONCE
        job.progress(at, n_splits, "splits")
        one, other = splits.halves.values(metric, outcome, splits.first[at : at + _AT_ONCE], counts)
        agreements.append((one[:, 0], other[:, 0]))
    agreement = Agreement.of(*(np.concatenate(part) for part in zip(*agreements, strict=True)))
    known = agreement.pearson[~np.isnan(agreement.pearson)]
    mean = float(known.mean()) if len(known) else float("nan")
    job.check()
    own, null = np.nan, np.zeros(0)
    found = null_activations(ctx, feature, population, seed)
    if found is not None:
        sample = _splits(ctx, population, n_splits, seed, positions=found.positions)
        own, null = _compared(sample, metric, outcome, found)
    p = None if np.isnan(own) or not len(null) else share_at_least(own, null)
    n_compared = 0 if found is None else len(found.positions)
    return Reliability(agreement, splits.n_first, mean, float(own), null, n_compared, p)


def _compared(splits: Splits, metric: Metric, outcome: Floats, found: NullActivations) -> tuple[float, Floats]:
    """Mean correlation of the feature, and of each random direction, on the same examples and splits."""
    others, own = found.activation[:, : DIRECTIONS[metric]], outcome[found.positions]
    if metric == "token_frequency":
        others = top_of_each(others, int(own.sum()))
    values = np.hstack([own, others]).astype(np.float64)
    one, other = splits.halves.values(metric, values, splits.first, splits.counts[0])
    r = pearson(one, other)
    count = (~np.isnan(r)).sum(axis=0)
    mean = np.divide(np.nansum(r, axis=0), count, out=np.full(count.shape, np.nan), where=count > 0)
    return float(mean[0]), mean[1:][~np.isnan(mean[1:])]


def top_of_each(activation: Floats, count: int) -> Bools:
    """Mark the highest ``count`` active examples of each column [n, r], ties included: as many as the feature has."""
    count = int(np.clip(count, 1, len(activation)))
    return (activation > 0) & (activation >= -np.partition(-activation, count - 1, axis=0)[count - 1])
