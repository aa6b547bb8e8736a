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
from ...stats.groups import MIN_CLUSTERS, MIN_N
from ...stats.reliability import Agreement, pearson, split_clusters
from .values import Halves, Metric

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
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


def split_labels(ctx: Context, population: Population, n_splits: int, seed: int) -> tuple[NDArray[np.int64], Bools]:
    """The splits a run makes: each example's cluster [n], and bool [n_splits, n_clusters], True in the first half.

    Example i is in the first half of split s where ``first[s, cluster[i]]``. Clusters are builds where builds are
    known, else distinct (weapon, set): no cluster is ever in both halves.
    """
    cluster = np.unique(ctx.data.clusters[population.rows], return_inverse=True)[1].astype(np.int64)
    n_clusters = int(cluster.max()) + 1
    return cluster, split_clusters(n_clusters, n_splits, np.random.default_rng([seed, SPLIT_STREAM]))


def units_of(ctx: Context, population: Population, cluster: NDArray[np.int64]) -> tuple[Halves, tuple[str, ...]]:
    """The examples with their units: tokens, and weapons, of at least 20 examples; and the labels of the tokens."""
    columns = unit_columns(ctx, population.rows, "tokens")
    columns = columns.take(np.flatnonzero(columns.counts() >= MIN_N))
    weapon = np.asarray(ctx.data.weapon[population.rows], dtype=np.int64)
    usable = np.bincount(weapon, minlength=len(ctx.weapons)) >= MIN_N
    return Halves(columns.matrix, weapon, usable, cluster), columns.labels


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
    cluster, first = split_labels(ctx, population, n_splits, seed)
    if first.shape[1] < MIN_CLUSTERS:
        return None
    halves, _ = units_of(ctx, population, cluster)
    outcome = np.asarray(population.activation if high is None else high.high, dtype=np.float64)[:, None]
    agreements: list[tuple[Floats, Floats]] = []
    for at in range(0, n_splits, _AT_ONCE):
        job.progress(at, n_splits, "splits")
        one, other = halves.values(metric, outcome, first[at : at + _AT_ONCE])
        agreements.append((one[:, 0], other[:, 0]))
    agreement = Agreement.of(*(np.concatenate(part) for part in zip(*agreements, strict=True)))
    known = agreement.pearson[~np.isnan(agreement.pearson)]
    mean = float(known.mean()) if len(known) else float("nan")
    job.check()
    own, null = np.nan, np.zeros(0)
    found = null_activations(ctx, feature, population, seed)
    if found is not None:
        own, null = _compared(halves, metric, outcome, found, first[:COMPARED_SPLITS])
    p = None if np.isnan(own) or not len(null) else share_at_least(own, null)
    n_compared = 0 if found is None else len(found.positions)
    n_first = first.astype(np.int64) @ np.bincount(cluster, minlength=first.shape[1])
    return Reliability(agreement, n_first, mean, float(own), null, n_compared, p)


def _compared(
    halves: Halves, metric: Metric, outcome: Floats, found: NullActivations, first: Bools
) -> tuple[float, Floats]:
    """Mean correlation of the feature, and of each random direction, on the same examples and splits."""
    others, own = found.activation[:, : DIRECTIONS[metric]], outcome[found.positions]
    if metric == "token_frequency":
        others = top_of_each(others, int(own.sum()))
    one, other = halves.at(found.positions).values(metric, np.hstack([own, others]).astype(np.float64), first)
    r = pearson(one, other)
    count = (~np.isnan(r)).sum(axis=0)
    mean = np.divide(np.nansum(r, axis=0), count, out=np.full(count.shape, np.nan), where=count > 0)
    return float(mean[0]), mean[1:][~np.isnan(mean[1:])]


def top_of_each(activation: Floats, count: int) -> Bools:
    """Mark the highest ``count`` active examples of each column [n, r], ties included: as many as the feature has."""
    count = int(np.clip(count, 1, len(activation)))
    return (activation > 0) & (activation >= -np.partition(-activation, count - 1, axis=0)[count - 1])
