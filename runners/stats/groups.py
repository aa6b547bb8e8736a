"""Means of groups of examples that are not independent: cluster-robust standard errors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cells import Cells, CellSums, sum_by
from .tails import t_quantile

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
MIN_CLUSTERS = 10
MIN_N = 20
FEW = 30


@dataclass(frozen=True)
class GroupMeans:
    """Statistics of g groups; every array is [g], NaN where a group is empty.

    Attributes:
        n: examples.
        n_active: examples with a > 0.
        n_clusters: clusters with an example in the group.
        mean: mean activation over n.
        std: standard deviation (n - 1).
        std_error: cluster-robust; NaN with fewer than 10 clusters.
        mean_when_active: mean over the active; NaN without any.
    """

    n: Ints
    n_active: Ints
    n_clusters: Ints
    mean: Floats
    std: Floats
    std_error: Floats
    mean_when_active: Floats

    @property
    def support(self) -> Ints:
        """Active examples or clusters, whichever are fewer: what a group's own error rests on."""
        return np.minimum(self.n_active, self.n_clusters)

    @property
    def sparse(self) -> NDArray[np.bool_]:
        """Groups of fewer than 20 examples."""
        return self.n < MIN_N

    def interval(self, level: float = 0.95) -> tuple[Floats, Floats]:
        """Student's t interval of each mean, with n_clusters - 1 degrees of freedom."""
        half = t_quantile(0.5 + level / 2, np.maximum(self.n_clusters - 1, 1)) * self.std_error
        return self.mean - half, self.mean + half


def ratio(top: Floats, bottom: Floats | Ints) -> Floats:
    """The first over the second, NaN where the second is 0."""
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=np.asarray(bottom) > 0)


def means_of(sums: CellSums) -> GroupMeans:
    """Mean of each group with its cluster-robust standard error; see `error_of_mean`."""
    cells = sums.cells
    n = cells.group_sizes
    mean = ratio(sums.by_group(sums.total), n)
    residual = sums.residual(mean[cells.group])
    squares = cells.by_group(sums.squares_around(residual))
    n_active = sums.by_group(sums.n_active).astype(np.int64)
    return GroupMeans(
        n=n,
        n_active=n_active,
        n_clusters=cells.group_clusters,
        mean=mean,
        std=np.sqrt(ratio(squares, np.maximum(n - 1, 0))),
        std_error=error_of_mean(cells.by_group(residual**2), n, cells.group_clusters),
        mean_when_active=ratio(sums.by_group(sums.active_total), n_active),
    )


def error_of_mean(squares: Floats, n: Ints, n_clusters: Ints) -> Floats:
    """Standard error of each group's mean, [g], from the clusters' squared sums of residuals, added up.

    The variance of a mean is the sum over clusters of squared within-cluster sums of residuals, divided by n^2 and
    multiplied by G / (G - 1) (Liang and Zeger 1986): what OLS on a constant with clustered errors gives. NaN with fewer
    than 10 clusters.
    """
    robust = squares / np.maximum(n, 1) ** 2
    robust = robust * ratio(n_clusters.astype(np.float64), np.maximum(n_clusters - 1, 0))
    return np.where(n_clusters >= MIN_CLUSTERS, np.sqrt(robust), np.nan)


def exchangeable(residual: Floats, cluster: Ints, n_parameters: int) -> tuple[float, float]:
    """Variance of the residuals and their correlation within clusters, both taken to be the same everywhere.

    Args:
        residual: [n].
        cluster: int [n], 0 .. n_clusters - 1.
        n_parameters: parameters that were fitted.
    """
    sizes = np.bincount(cluster)
    return exchangeable_sums(float(residual @ residual), sum_by(cluster, residual, len(sizes)), sizes, n_parameters)


def exchangeable_sums(squares: float, sums: Floats, sizes: Ints, n_parameters: int) -> tuple[float, float]:
    """The same from the residuals' sum of squares, and their sums and number in each cluster."""
    return exchangeable_squares(squares, float(np.square(sums).sum()), sizes, n_parameters)


def exchangeable_squares(squares: float, squared_sums: float, sizes: Ints, n_parameters: int) -> tuple[float, float]:
    """The same from the residuals' sum of squares, their squared sums by cluster added up, and the clusters' sizes."""
    n, pairs = int(sizes.sum()), float((sizes.astype(np.float64) * (sizes - 1.0)).sum())
    if squares == 0.0 or pairs == 0.0:
        return squares / max(n - n_parameters, 1), 0.0
    correlation = ((squared_sums - squares) / pairs) / (squares / n)
    return squares / max(n - n_parameters, 1), float(np.clip(correlation, 0.0, 1.0))


def raised(covariance: Floats, floor: Floats, support: Ints) -> Floats:
    """The covariance [g, g] with variances of at least ``floor`` [g] where the support [g] is below 30.

    A group of few active examples or clusters looks too certain by itself: without any active one its own variance
    is 0.
    """
    short = np.maximum(np.nan_to_num(floor) - np.diag(covariance), 0.0)
    return covariance + np.diag(np.where(support < FEW, short, 0.0))


@dataclass(frozen=True)
class GroupDeltas:
    """Group means minus the mean of all examples, with what contrasts between groups need.

    Attributes:
        delta: [g].
        covariance: [g, g] of the deltas, cluster-robust, the grand mean's share included.
        pooled: [g], their variances if all groups had one variance and one correlation within clusters.
        n_clusters: [g], clusters with an example in the group.
    """

    delta: Floats
    covariance: Floats
    pooled: Floats
    n_clusters: Ints

    @property
    def df(self) -> Ints:
        """Degrees of freedom [g]."""
        return np.maximum(self.n_clusters - 1, 1)

    @property
    def std_error(self) -> Floats:
        """Standard errors [g]; NaN with fewer than 10 clusters."""
        known = (self.n_clusters >= MIN_CLUSTERS) & ~np.isnan(self.delta)
        return np.where(known, np.sqrt(np.maximum(np.diag(self.covariance), 0.0)), np.nan)

    def guarded(self, support: Ints) -> GroupDeltas:
        """The same with no variance below the pooled one where a group's `GroupMeans.support` is below 30."""
        return replace(self, covariance=raised(self.covariance, self.pooled, support))


def deltas_of(sums: CellSums) -> GroupDeltas:
    """Difference of each group's mean to the mean of all examples, by influence functions summed over clusters.

    The influence of example i on delta_g is 1[i in g] (a_i - m_g) / n_g - (a_i - m) / n; the covariance is the sum
    over clusters of outer products of summed influences, times G / (G - 1).
    """
    cells = sums.cells
    size, n, n_all = cells.group_sizes, float(cells.group_sizes.sum()), cells.n_clusters
    mean, grand = ratio(sums.by_group(sums.total), size), float(sums.total.sum()) / n
    residual = sums.residual(mean[cells.group])
    inside = residual / size[cells.group]
    overall = cells.by_cluster(sums.residual(grand)) / n
    cross = cells.by_group(inside * overall[cells.cluster])
    covariance = cells.gram(inside) + np.square(overall).sum() - cross[:, None] - cross[None, :]
    covariance *= n_all / max(n_all - 1, 1)
    squares = float(sums.squares_around(residual).sum())
    variance, correlation = exchangeable_sums(squares, residual, cells.size, int((size > 0).sum()))
    pooled = variance * _effective_share(cells, correlation) * (1.0 - size / n)
    return GroupDeltas(mean - grand, covariance, pooled, cells.group_clusters)


def _effective_share(cells: Cells, correlation: float) -> Floats:
    """Variance of each group's mean, [g], in variances of one example, of which those of a cluster are correlated."""
    size, squared_sizes = cells.group_sizes, cells.by_group(cells.size.astype(np.float64) ** 2)
    return ratio((1.0 - correlation) * size + correlation * squared_sizes, size) / np.maximum(size, 1)
