"""Means of groups of examples that are not independent: cluster-robust standard errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cells import sum_by
from .moments import Moments
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


def means_of(moments: Moments) -> GroupMeans:
    """Mean of each group with its cluster-robust standard error; see `error_of_mean`."""
    cells = moments.cells
    sums = (moments.total, moments.squares, moments.n_active, moments.active_total)
    return means_from(cells.group_sizes, cells.group_clusters, sums, lambda mean: moments.residual(mean).own)


def means_from(
    n: Ints, n_clusters: Ints, sums: tuple[Floats, Floats, Floats, Floats], squared: Callable[[Floats], Floats]
) -> GroupMeans:
    """The same from sums over each group, [g].

    Args:
        n: examples.
        n_clusters: clusters.
        sums: of the outcome, of its squares, of the examples above 0, and of the outcome over those.
        squared: gives the squared sums by cluster of the outcome minus a value for each group [g], added up.
    """
    total, squares, n_active, active_total = sums
    mean, n_active = ratio(total, n), n_active.astype(np.int64)
    known = np.nan_to_num(mean)
    around = np.maximum(squares - known * total, 0.0)
    return GroupMeans(
        n=n,
        n_active=n_active,
        n_clusters=n_clusters,
        mean=mean,
        std=np.sqrt(ratio(around, np.maximum(n - 1, 0))),
        std_error=error_of_mean(np.maximum(squared(known), 0.0), n, n_clusters),
        mean_when_active=ratio(active_total, n_active),
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
    n_pairs = float((sizes.astype(np.float64) * (sizes - 1.0)).sum())
    return exchangeable_squares(squares, float(np.square(sums).sum()), int(sizes.sum()), n_pairs, n_parameters)


def exchangeable_squares(
    squares: float, squared_sums: float, n: int, n_pairs: float, n_parameters: int
) -> tuple[float, float]:
    """The same from sums over all clusters.

    Args:
        squares: of the residuals.
        squared_sums: of the residuals' sums by cluster.
        n: residuals.
        n_pairs: ordered pairs of residuals of one cluster.
        n_parameters: parameters that were fitted.
    """
    if squares == 0.0 or n_pairs == 0.0:
        return squares / max(n - n_parameters, 1), 0.0
    correlation = ((squared_sums - squares) / n_pairs) / (squares / n)
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


def deltas_of(moments: Moments) -> GroupDeltas:
    """Difference of each group's mean to the mean of all examples, by influence functions summed over clusters.

    The influence of example i on delta_g is 1[i in g] (a_i - m_g) / n_g - (a_i - m) / n; the covariance is the sum
    over clusters of outer products of summed influences, times G / (G - 1).
    """
    cells = moments.cells
    size, n, n_all, n_groups = cells.group_sizes, float(cells.group_sizes.sum()), cells.n_clusters, cells.n_groups
    mean, grand = ratio(moments.total, size), float(moments.total.sum()) / n
    known, counted = np.nan_to_num(mean), np.maximum(size, 1)
    products = moments.residual(known)
    inside = products.merged(np.arange(n_groups), n_groups) / counted / counted[:, None]
    overall = float(moments.residual(np.full(n_groups, grand)).by_group().sum()) / n**2
    cross = moments.residual_with_whole(known, grand) / (counted * n)
    covariance = (inside + overall - cross[:, None] - cross) * (n_all / max(n_all - 1, 1))
    squares = max(float((moments.squares - known * moments.total).sum()), 0.0)
    # Residuals of a group that lie in one cluster count as correlated, those of different groups as independent.
    squared_sizes = cells.size_products.own
    variance, correlation = exchangeable_squares(
        squares, float(products.own.sum()), int(n), float(squared_sizes.sum()) - n, int((size > 0).sum())
    )
    share = ratio((1.0 - correlation) * size + correlation * squared_sizes, size) / counted
    return GroupDeltas(mean - grand, covariance, variance * share * (1.0 - size / n), cells.group_clusters)
