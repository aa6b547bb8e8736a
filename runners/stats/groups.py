"""Means of groups of examples that are not independent: cluster-robust standard errors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


def sum_by(group: Ints, value: Floats, n_groups: int) -> Floats:
    """Sum of the values of each group, [n_groups]."""
    return np.asarray(np.bincount(group, value, n_groups), dtype=np.float64)


def _ratio(top: Floats, bottom: Floats | Ints) -> Floats:
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=np.asarray(bottom) > 0)


def cell_clusters(group: Ints, cluster: Ints) -> tuple[Ints, Ints]:
    """Number the (group, cluster) cells; returns the cell of each example [n] and the group of each cell."""
    width = int(cluster.max()) + 1 if len(cluster) else 1
    cells, cell = np.unique(group.astype(np.int64) * width + cluster, return_inverse=True)
    return cell, cells // width


def group_means(value: Floats, group: Ints, n_groups: int, cluster: Ints) -> GroupMeans:
    """Mean of each group with its cluster-robust standard error.

    The variance of a mean is the sum over clusters of squared within-cluster sums of residuals, divided by n^2 and
    multiplied by G / (G - 1) (Liang and Zeger 1986): what OLS on a constant with clustered errors gives.

    Args:
        value: [n].
        group: int [n], 0 .. n_groups - 1.
        n_groups: number of groups.
        cluster: int [n].
    """
    value = np.asarray(value, dtype=np.float64)
    n = np.bincount(group, minlength=n_groups)
    total = sum_by(group, value, n_groups)
    mean = _ratio(total, n)
    residual = value - mean[group]
    squares = sum_by(group, residual**2, n_groups)
    cell, cell_group = cell_clusters(group, cluster)
    sums = sum_by(cell, residual, len(cell_group))
    n_clusters = np.bincount(cell_group, minlength=n_groups)
    robust = sum_by(cell_group, sums**2, n_groups) / np.maximum(n, 1) ** 2
    robust = robust * _ratio(n_clusters.astype(np.float64), np.maximum(n_clusters - 1, 0))
    error = np.where(n_clusters >= MIN_CLUSTERS, np.sqrt(robust), np.nan)
    active = value > 0
    n_active = np.bincount(group[active], minlength=n_groups)
    return GroupMeans(
        n=n,
        n_active=n_active,
        n_clusters=n_clusters,
        mean=mean,
        std=np.sqrt(_ratio(squares, np.maximum(n - 1, 0))),
        std_error=error,
        mean_when_active=_ratio(sum_by(group[active], value[active], n_groups), n_active),
    )


def exchangeable(residual: Floats, cluster: Ints, n_parameters: int) -> tuple[float, float]:
    """Variance of the residuals and their correlation within clusters, both taken to be the same everywhere.

    Args:
        residual: [n].
        cluster: int [n], 0 .. n_clusters - 1.
        n_parameters: parameters that were fitted.
    """
    sizes = np.bincount(cluster)
    squares, pairs = float(residual @ residual), float((sizes * (sizes - 1)).sum())
    between = float(np.square(sum_by(cluster, residual, len(sizes))).sum()) - squares
    if squares == 0.0 or pairs == 0.0:
        return squares / max(len(residual) - n_parameters, 1), 0.0
    correlation = (between / pairs) / (squares / len(residual))
    return squares / max(len(residual) - n_parameters, 1), float(np.clip(correlation, 0.0, 1.0))


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


def deltas_from_global(value: Floats, group: Ints, n_groups: int, cluster: Ints) -> GroupDeltas:
    """Difference of each group's mean to the mean of all examples, by influence functions summed over clusters.

    The influence of example i on delta_g is 1[i in g] (a_i - m_g) / n_g - (a_i - m) / n; the covariance is the sum
    over clusters of outer products of summed influences, times G / (G - 1).
    """
    value = np.asarray(value, dtype=np.float64)
    means = group_means(value, group, n_groups, cluster)
    n = len(value)
    cluster = np.unique(cluster, return_inverse=True)[1]
    n_all = int(cluster.max()) + 1
    inside = (value - means.mean[group]) / means.n[group]
    overall = sum_by(cluster, (value - value.mean()) / n, n_all)
    cell, cell_group = cell_clusters(group, cluster)
    cell_cluster = np.zeros(len(cell_group), dtype=np.int64)
    cell_cluster[cell] = cluster
    sums = sum_by(cell, inside, len(cell_group))
    cross = sum_by(cell_group, sums * overall[cell_cluster], n_groups)
    covariance = _cell_products(sums, cell_group, cell_cluster, n_groups)
    covariance += np.square(overall).sum() - cross[:, None] - cross[None, :]
    covariance *= n_all / max(n_all - 1, 1)
    variance, correlation = exchangeable(value - means.mean[group], cell, int((means.n > 0).sum()))
    squared_sizes = sum_by(cell_group, np.bincount(cell).astype(np.float64) ** 2, n_groups)
    effective = _ratio((1.0 - correlation) * means.n + correlation * squared_sizes, means.n) / np.maximum(means.n, 1)
    pooled = variance * effective * (1.0 - means.n / n)
    return GroupDeltas(means.mean - value.mean(), covariance, pooled, means.n_clusters)


def _cell_products(sums: Floats, cell_group: Ints, cell_cluster: Ints, n_groups: int) -> Floats:
    """Sum over clusters of s_g s_h, [g, h]; clusters that span groups give the off-diagonal."""
    from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

    matrix = sparse.csr_matrix((sums, (cell_cluster, cell_group)), shape=(int(cell_cluster.max()) + 1, n_groups))
    return gram_matrix(matrix)


def gram_matrix(matrix: Any) -> Floats:  # noqa: ANN401 - any scipy.sparse matrix
    """X'X of a sparse matrix, dense."""
    return np.asarray((matrix.T @ matrix).toarray(), dtype=np.float64)
