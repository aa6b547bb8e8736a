"""Exchanging what clusters of examples have: permutation tests when examples are not independent.

Examples of one cluster (a build) go together, so exchanging single examples would call any clustered number
significant. Here a cluster's values move as a whole, to another cluster of the same size in the same stratum (a
weapon), and are turned round by a random number of members there. Under the null that values have nothing to do with
what the examples hold, beyond the stratum, every such exchange is as likely as the data, so p is uniform however much
the values of a cluster have in common.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy import sparse

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
_TIE = 1e-9
_NO_SPREAD = 1e-12


@dataclass(frozen=True)
class Exchange:
    """Which clusters can be exchanged.

    A block is the clusters of one size in one stratum. Clusters are numbered so that blocks are contiguous, and every
    method takes and gives examples by place: place p is example ``order[p]``, so that what is exchanged lies together.

    Attributes:
        order: int [n], the examples by cluster.
        first: int [c], place where each cluster begins.
        block: int [c], block of each cluster.
        size: int [b], examples in each cluster of a block.
        count: int [b], clusters of a block.
    """

    order: Ints
    first: Ints
    block: Ints
    size: Ints
    count: Ints

    @classmethod
    def of(cls, stratum: Ints, cluster: Ints) -> Exchange:
        """From the stratum and the cluster of each example, [n] each, any integers.

        A cluster that spans strata counts as one cluster in each.
        """
        cluster = np.unique(cluster, return_inverse=True)[1]
        stratum = np.asarray(stratum, dtype=np.int64) - int(stratum.min())
        cell, own = np.unique(stratum * (int(cluster.max()) + 1) + cluster, return_inverse=True)
        size = np.bincount(own)
        by_block = np.lexsort((size, cell // (int(cluster.max()) + 1)))
        rank = np.empty_like(by_block)
        rank[by_block] = np.arange(len(by_block))
        size, of_stratum = size[by_block], (cell // (int(cluster.max()) + 1))[by_block]
        new = np.r_[True, (np.diff(of_stratum) != 0) | (np.diff(size) != 0)]
        block = np.cumsum(new) - 1
        order = np.argsort(rank[own], kind="stable")
        return cls(order, np.cumsum(size) - size, block, size[new], np.bincount(block))

    @property
    def cluster(self) -> Ints:
        """Cluster of each place, [n]."""
        return np.repeat(np.arange(len(self.first), dtype=np.int32), self.size[self.block])

    def movable(self) -> NDArray[np.bool_]:
        """Places [n] whose cluster has another to be exchanged with."""
        return np.repeat(self.count > 1, self.size * self.count)

    def draw(self, value: Floats, n_shuffles: int, rng: np.random.Generator) -> tuple[Floats, Ints]:
        """Shuffle values [n], given by place.

        Returns:
            The q values that are not 0, and int32 [n_shuffles, q], the place where each of them goes in each shuffle.
        """
        at = np.flatnonzero(value)
        mine = self.cluster[at]
        moving, own = np.unique(mine, return_inverse=True)
        block = self.block[moving]
        target = np.empty((n_shuffles, len(moving)), dtype=np.int32)
        start = np.cumsum(self.count) - self.count
        edges = np.flatnonzero(np.r_[True, np.diff(block) != 0, True])
        for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            every = np.arange(int(self.count[block[low]]), dtype=np.int32) + int(start[block[low]])
            shuffled = rng.permuted(np.tile(every, (n_shuffles, 1)), axis=1)
            target[:, low:high] = shuffled[:, : high - low]
        # A cluster without another to change with keeps its values where they are.
        size = np.where(self.count[block] > 1, self.size[block], 1)
        turn = (rng.random(target.shape, dtype=np.float32) * size.astype(np.float32)).astype(np.int32)
        begin = self.first.astype(np.int32)[target]
        member = (at - self.first[mine]).astype(np.int32) + np.take(turn, own, axis=1)
        whole = self.size[block][own].astype(np.int32)
        member -= whole * (member >= whole)
        return value[at], np.take(begin, own, axis=1) + member

    def moments(self, matrix: sparse.csr_matrix) -> Moments:
        """Sums and squares of columns [n, k], by place, over each block: no exchange changes them."""
        from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

        n, c, b = len(self.order), len(self.first), len(self.size)
        places, clusters = np.arange(n + 1), np.arange(c + 1)
        by_cluster = sparse.csr_matrix((np.ones(n), places[:-1], np.r_[self.first, n]), shape=(c, n))
        ends = np.r_[0, np.cumsum(self.count)]
        by_block = sparse.csr_matrix((np.ones(c), clusters[:-1], ends), shape=(b, c))
        whole_block = sparse.csr_matrix((np.ones(n), places[:-1], np.r_[self.first, n][ends]), shape=(b, n))
        sums = by_cluster @ matrix
        total = np.asarray((whole_block @ matrix).toarray(), dtype=np.float64)
        every = np.asarray((whole_block @ _squared(matrix)).toarray(), dtype=np.float64)
        squares = np.asarray((by_block @ _squared(sums)).toarray(), dtype=np.float64)
        return Moments(total, squares - total**2 / self.count[:, None], every - squares / self.size[:, None])

    def null_moments(self, columns: Moments, values: Moments, fixed: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation, [k, r], of the sum of columns x values over all exchanges.

        The mean is exact. So is the deviation when the order of members within a cluster says nothing (Hoeffding
        1951, block by block). Both are the same for the data and for every shuffle, so a sum less its mean over its
        deviation is a t whose error is valid for each column, and the largest of them can be compared.

        Args:
            columns: `moments` of the columns [n, k].
            values: `moments` of the values [n, r].
            fixed: [k, r], sum of columns x values over the places that are not `movable`.
        """
        size, count = self.size[:, None], self.count[:, None]
        moves = (count > 1).astype(np.float64)
        mean = columns.total.T @ (moves * values.total / (size * count)) + fixed
        between = columns.between.T @ (moves * values.between / (size**2 * np.maximum(count - 1, 1)))
        within = columns.within.T @ (moves * values.within / (np.maximum(size - 1, 1) * count))
        return mean, np.sqrt(np.maximum(between + within, 0.0))


@dataclass(frozen=True)
class Moments:
    """Columns by block; every array is [b, k].

    Attributes:
        total: sum over the examples.
        between: squared deviations of cluster sums from their mean.
        within: squared deviations of members from their cluster's mean.
    """

    total: Floats
    between: Floats
    within: Floats


def _squared(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """Each entry squared."""
    squared = matrix.copy()
    squared.data = squared.data**2
    return squared


def standardised(sums: Floats, mean: Floats, deviation: Floats) -> Floats:
    """(sum - mean) / deviation; NaN where no exchange changes the sum."""
    spread = deviation > _NO_SPREAD * np.maximum(np.abs(mean), 1.0)
    return np.divide(sums - mean, deviation, out=np.full(sums.shape, np.nan), where=spread)


def column_sums(values: Floats, places: Ints, columns: sparse.csr_matrix) -> Floats:
    """Sum of the shuffled values over each column, [n_shuffles, k], from what `Exchange.draw` gave.

    Args:
        values: [q].
        places: int [n_shuffles, q].
        columns: CSR [n, k], by place.
    """
    from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

    m, q = places.shape
    starts = np.arange(m + 1, dtype=np.int64) * q
    moved = sparse.csr_matrix((np.tile(values, m), places.ravel(), starts), shape=(m, columns.shape[0]))
    return np.asarray((moved @ columns).toarray(), dtype=np.float64)


def permutation_p(observed: float, null: Floats) -> float:
    """(1 + number of shuffles with at least as much) / (1 + shuffles); ties up to rounding count as as much."""
    return float((1 + int((null >= observed - _TIE * abs(observed)).sum())) / (1 + len(null)))
