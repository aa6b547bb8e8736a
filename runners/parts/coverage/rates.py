"""How much of a range of examples holds something, and ratios of such shares for clustered examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...stats.enrichment import Ratio
from ...stats.groups import FEW, MIN_CLUSTERS
from ...stats.tails import clopper_pearson, t_quantile

if TYPE_CHECKING:
    from scipy import sparse

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Coverage:
    """How many examples of a range hold each of k columns.

    Attributes:
        size: examples of the range.
        count: [k], how many of them hold each column.
        held: CSR [clusters, k], the same by cluster.
        sizes: [clusters], examples of the range by cluster.
    """

    size: int
    count: Floats
    held: sparse.csr_matrix
    sizes: Floats

    @classmethod
    def of(cls, columns: sparse.csr_matrix, inside: NDArray[np.bool_], cluster: Ints, n_clusters: int) -> Coverage:
        """Count columns [n, k] of 0 and 1 over the examples inside; cluster [n] is 0 .. n_clusters - 1."""
        from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

        rows = np.flatnonzero(inside)
        where = (cluster[rows], np.arange(len(rows)))
        member = sparse.csr_matrix((np.ones(len(rows)), where), shape=(n_clusters, len(rows)))
        held = (member @ columns[rows]).tocsr()
        count = np.asarray(held.sum(axis=0), dtype=np.float64).ravel()
        return cls(len(rows), count, held, np.bincount(cluster[rows], minlength=n_clusters).astype(np.float64))

    @property
    def share(self) -> Floats:
        """Share of the range that holds each column, [k]; NaN for an empty range."""
        return self.count / self.size if self.size else np.full(len(self.count), np.nan)

    @property
    def n_clusters(self) -> int:
        """Clusters with an example in the range."""
        return int((self.sizes > 0).sum())

    def support(self) -> Ints:
        """Clusters of the range with an example that holds each column, or without it, whichever are fewer, [k]."""
        held = self.held.tocoo()
        k = len(self.count)
        some = np.bincount(held.col[held.data > 0], minlength=k)
        full = np.bincount(held.col[held.data >= self.sizes[held.row]], minlength=k)
        return np.minimum(some, self.n_clusters - full)

    def bounds(self, level: float) -> tuple[Floats, Floats]:
        """Clopper-Pearson bounds of the shares, as if each cluster were one example."""
        n = self.n_clusters
        low = clopper_pearson(np.floor(self.share * n), n, level)[0]
        return low, clopper_pearson(np.ceil(self.share * n), n, level)[1]


def share_ratio(first: Coverage, second: Coverage, level: float, *, nested: bool = False) -> Ratio:
    """Ratio of the shares of two ranges, with an interval that holds for examples which come in clusters.

    The log ratio is linearised: example i adds x_i / c_1 - 1 / n_1 where it is in the first range and takes
    x_i / c_2 - 1 / n_2 where it is in the second; the variance is the sum over clusters of the squared sums, times
    G / (G - 1) (the sandwich of Liang and Zeger 1986 for a log link). Where fewer than 30 clusters decide, it is at
    least what shares of independent clusters would have. Where nothing of a range holds a column the bounds are
    ratios of Clopper-Pearson bounds of the two shares.

    Args:
        first: range of the numerator.
        second: range of the denominator, over the same clusters.
        level: level of the interval.
        nested: whether the first range is a part of the second; else they share no example.

    Returns:
        Arrays [k]; NaN where the second share is 0 or a range is empty, and bounds NaN with fewer than 10 clusters.
    """
    k = len(first.count)
    if min(first.size, second.size) == 0:
        return Ratio(*(np.full(k, np.nan) for _ in range(3)))
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.where(second.count > 0, first.share / second.share, np.nan)
    clusters = min(first.n_clusters, second.n_clusters)
    if clusters < MIN_CLUSTERS:
        return Ratio(value, np.full(k, np.nan), np.full(k, np.nan))
    error = np.sqrt(_log_variance(first, second, nested=nested))
    half = float(t_quantile(0.5 + level / 2, clusters - 1)) * error
    none = (first.count == 0) | (second.count == 0)
    apart = 1.0 - (1.0 - level) / 2.0
    (low_1, high_1), (low_2, high_2) = first.bounds(apart), second.bounds(apart)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        low = np.where(none, low_1 / high_2, value * np.exp(-half))
        high = np.where(none, np.where(low_2 > 0, high_1 / low_2, np.nan), value * np.exp(half))
    return Ratio(value, low, high)


def _log_variance(first: Coverage, second: Coverage, *, nested: bool) -> Floats:
    """Variance of the log ratio of two shares, [k]; meaningless where one of them is 0."""
    from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

    scale = [sparse.diags(1.0 / np.maximum(each.count, 1.0)) for each in (first, second)]
    part = (first.held @ scale[0] - second.held @ scale[1]).tocsr()
    rest = second.sizes / second.size - first.sizes / first.size
    squares = np.asarray(part.power(2).sum(axis=0), dtype=np.float64).ravel()
    total = squares + 2.0 * np.asarray(part.T @ rest, dtype=np.float64) + float(rest @ rest)
    n = int(((first.sizes > 0) | (second.sizes > 0)).sum())
    variance = np.maximum(total, 0.0) * n / (n - 1)
    odds = [_odds_against(each) for each in (first, second)]
    if nested:
        floor = odds[0] * max(1.0 / first.n_clusters - 1.0 / second.n_clusters, 0.0)
        support = first.support()
    else:
        floor = odds[0] / first.n_clusters + odds[1] / second.n_clusters
        support = np.minimum(first.support(), second.support())
    return np.where(support < FEW, np.maximum(variance, floor), variance)


def _odds_against(coverage: Coverage) -> Floats:
    """Odds against holding each column, half a cluster added either way (so that no share is 0 or 1)."""
    n = coverage.n_clusters
    share = (coverage.share * n + 0.5) / (n + 1.0)
    return (1.0 - share) / share
