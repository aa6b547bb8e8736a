"""Means of groups of examples that are not independent: cluster-robust standard errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .tails import t_quantile

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
MIN_CLUSTERS = 10
MIN_N = 20


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


@dataclass(frozen=True)
class GroupDeltas:
    """Group means minus the mean of all examples, with what contrasts between groups need.

    Attributes:
        delta: [g].
        std_error: [g], cluster-robust, covariance with the grand mean included; NaN with fewer than 10 clusters.
        covariance: [g, g] of the deltas.
        df: [g] degrees of freedom.
    """

    delta: Floats
    std_error: Floats
    covariance: Floats
    df: Ints


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
    enough = means.n_clusters >= MIN_CLUSTERS
    with np.errstate(invalid="ignore"):
        error = np.where(enough, np.sqrt(np.maximum(np.diag(covariance), 0.0)), np.nan)
    return GroupDeltas(means.mean - value.mean(), error, covariance, np.maximum(means.n_clusters - 1, 1))


def _cell_products(sums: Floats, cell_group: Ints, cell_cluster: Ints, n_groups: int) -> Floats:
    """Sum over clusters of s_g s_h, [g, h]; clusters that span groups give the off-diagonal."""
    from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

    matrix = sparse.csr_matrix((sums, (cell_cluster, cell_group)), shape=(int(cell_cluster.max()) + 1, n_groups))
    return gram_matrix(matrix)


def gram_matrix(matrix: Any) -> Floats:  # noqa: ANN401 - any scipy.sparse matrix
    """X'X of a sparse matrix, dense."""
    return np.asarray((matrix.T @ matrix).toarray(), dtype=np.float64)
