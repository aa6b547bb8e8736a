"""How much of a range of examples holds something, and ratios of such shares for clustered examples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...stats.cells import sum_by
from ...stats.enrichment import Ratio
from ...stats.groups import FEW, MIN_CLUSTERS
from ...stats.held import Columns, among, dense, held_counts, smallest
from ...stats.tails import clopper_pearson, t_quantile

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
_BLOCK = 1 << 18


@dataclass(frozen=True)
class Coverage:
    """How many examples of a range hold each of k columns.

    Attributes:
        size: examples of the range.
        count: [k], how many of them hold each column.
        clusters: [c], the clusters with an example of the range, ascending.
        sizes: [c], how many each has.
        held: [c, k], how many of these hold each column: an array, or CSR.
    """

    size: int
    count: Floats
    clusters: Ints
    sizes: Ints
    held: Any

    @classmethod
    def of(cls, columns: Columns, inside: NDArray[np.bool_], cluster: Ints, n_clusters: int) -> Coverage:
        """Count columns [n, k] of 0 and 1 over the examples inside; cluster [n] is 0 .. n_clusters - 1."""
        rows = np.flatnonzero(inside)
        clusters, own, sizes = _gathered(cluster[rows], n_clusters)
        return cls.counted(clusters, sizes, held_counts(among(columns, rows), own, sizes))

    @classmethod
    def counted(cls, clusters: Ints, sizes: Ints, held: Any) -> Coverage:  # noqa: ANN401 - CSR matrix or array
        """From the counts of each cluster."""
        count = np.asarray(held.sum(axis=0), dtype=np.float64).ravel()
        return cls(int(sizes.sum()), count, clusters, sizes, held)

    @property
    def share(self) -> Floats:
        """Share of the range that holds each column, [k]; NaN for an empty range."""
        return self.count / self.size if self.size else np.full(len(self.count), np.nan)

    @property
    def n_clusters(self) -> int:
        """Clusters with an example in the range."""
        return len(self.clusters)

    @cached_property
    def support(self) -> Ints:
        """Clusters of the range with an example that holds each column, or without it, whichever are fewer, [k]."""
        some, full = np.zeros((2, len(self.count)), dtype=np.int64)
        for run, held in self._blocks(np.arange(len(self.clusters))):
            some += np.count_nonzero(held, axis=0)
            full += np.count_nonzero(held >= self.sizes[run, None], axis=0)
        return np.minimum(some, self.n_clusters - full)

    def bounds(self, level: float, at: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        """Clopper-Pearson bounds of some of the shares, as if each cluster were one example."""
        n, share = self.n_clusters, self.share[at]
        return clopper_pearson(np.floor(share * n), n, level)[0], clopper_pearson(np.ceil(share * n), n, level)[1]

    @cached_property
    def squares(self) -> Floats:
        """Sum over clusters of their squared influence on the logarithm of each share, [k]."""
        return self.products(self)

    def products(self, other: Coverage) -> Floats:
        """Sum over clusters of the products of their influences on the logarithms of two ranges' shares, [k].

        Example i of a range adds x_i / count - 1 / size.
        """
        at = _shared(self.clusters, other.clusters)
        own, theirs = self.sizes[at[0]].astype(np.float64), other.sizes[at[1]].astype(np.float64)
        held, mixed = np.zeros(len(self.count)), np.zeros((2, len(self.count)))
        for (run, mine), (_, others) in zip(self._blocks(at[0]), other._blocks(at[1]), strict=True):
            held += np.einsum("ck,ck->k", mine, others)
            mixed += theirs[run] @ mine, own[run] @ others
        counts = [np.maximum(each.count, 1.0) for each in (self, other)]
        total = held / (counts[0] * counts[1]) + float(own @ theirs) / (float(self.size) * other.size)
        return total - mixed[0] / (counts[0] * other.size) - mixed[1] / (counts[1] * self.size)

    def _blocks(self, at: Ints) -> Iterator[tuple[slice, Floats]]:
        """Some of the clusters, in runs of positions, with their ``held`` as an array."""
        step = max(1, _BLOCK // max(len(self.count), 1))
        for start in range(0, len(at), step):
            run = slice(start, start + step)
            yield run, dense(self.held[at[run]]).astype(np.float64)


@dataclass(frozen=True)
class GroupCoverage(Coverage):
    """Coverage where a column is a group, such as a weapon, and no cluster is of two: ``held`` [c] says of which."""

    @classmethod
    def of_rows_by_group(cls, rows: Ints, cluster: Ints, home: Ints, n_groups: int) -> GroupCoverage:
        """Count some examples; cluster [n] is 0 .. c - 1, and home [c] the group of each."""
        clusters, _, sizes = _gathered(cluster[rows], len(home))
        count = sum_by(home[clusters], sizes.astype(np.float64), n_groups)
        return cls(len(rows), count, clusters, sizes, home[clusters])

    @cached_property
    def support(self) -> Ints:
        """As of any coverage: a cluster with an example of the group has no other."""
        some = np.bincount(self.held, minlength=len(self.count))
        return np.minimum(some, self.n_clusters - some)

    def products(self, other: Coverage) -> Floats:
        """As of any coverage: outside its group a cluster's influence is -sizes / size."""
        own, theirs = _shared(self.clusters, other.clusters)
        both = sum_by(self.held[own], self.sizes[own].astype(np.float64) * other.sizes[theirs], len(self.count))
        inside = [1.0 / np.maximum(each.count, 1.0) - 1.0 / each.size for each in (self, other)]
        return both * inside[0] * inside[1] + (both.sum() - both) / (float(self.size) * other.size)


def _gathered(cluster: Ints, n_clusters: int) -> tuple[Ints, Ints, Ints]:
    """The clusters that examples [m] are of, which of these each is of, and how many each has."""
    sizes = np.bincount(cluster, minlength=n_clusters)
    clusters = np.flatnonzero(sizes).astype(np.int32)
    place = np.zeros(n_clusters, dtype=np.int32)
    place[clusters] = np.arange(len(clusters))
    return clusters, place[cluster], smallest(sizes[clusters])


def _n_of_either(first: Ints, second: Ints) -> int:
    return len(first) + len(second) - len(_shared(first, second)[0])


def _shared(first: Ints, second: Ints) -> tuple[Ints, Ints]:
    """Positions in each of two ascending lists of what both hold."""
    at = np.minimum(np.searchsorted(second, first), max(len(second) - 1, 0))
    both = np.flatnonzero(second[at] == first) if len(second) else np.arange(0)
    return both, at[both]


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
    (low_1, high_1), (low_2, high_2) = first.bounds(apart, none), second.bounds(apart, none)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        low, high = value * np.exp(-half), value * np.exp(half)
        low[none], high[none] = low_1 / high_2, np.where(low_2 > 0, high_1 / low_2, np.nan)
    return Ratio(value, low, high)


def _log_variance(first: Coverage, second: Coverage, *, nested: bool) -> Floats:
    """Variance of the log ratio of two shares, [k]; meaningless where one of them is 0."""
    total = first.squares + second.squares - 2.0 * first.products(second)
    n = second.n_clusters if nested else _n_of_either(first.clusters, second.clusters)
    variance = np.maximum(total, 0.0) * n / (n - 1)
    odds = [_odds_against(each) for each in (first, second)]
    if nested:
        floor = odds[0] * max(1.0 / first.n_clusters - 1.0 / second.n_clusters, 0.0)
        support = first.support
    else:
        floor = odds[0] / first.n_clusters + odds[1] / second.n_clusters
        support = np.minimum(first.support, second.support)
    return np.where(support < FEW, np.maximum(variance, floor), variance)


def _odds_against(coverage: Coverage) -> Floats:
    """Odds against holding each column, half a cluster added either way (so that no share is 0 or 1)."""
    n = coverage.n_clusters
    share = (coverage.share * n + 0.5) / (n + 1.0)
    return (1.0 - share) / share
