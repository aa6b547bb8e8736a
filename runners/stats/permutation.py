"""Exchanging what clusters of examples have: permutation tests when examples are not independent.

Examples of one cluster (a build) go together, so exchanging single examples would call any clustered number
significant. Here a cluster's values move as a whole, to another cluster of the same size in the same stratum (a
weapon), and are turned round by a random number of members there. Under the null that values have nothing to do with
what the examples hold, beyond the stratum, every such exchange is as likely as the data, so p is uniform however much
the values of a cluster have in common.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .compact import BLOCK_ROWS, CompactRows

if TYPE_CHECKING:
    from scipy import sparse

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
_TIE = 1e-9
_NO_SPREAD = 1e-12
_KEYS_AT_ONCE = 1 << 22
_VALUES_AT_ONCE = 1 << 21


@dataclass(frozen=True)
class Exchange:
    """Which clusters can be exchanged.

    A block is the clusters of one size in one stratum. Clusters are numbered so that blocks are contiguous, those of
    one size after another, and every method takes and gives examples by place: place p is example ``order[p]``, so
    that what is exchanged lies together.

    Attributes:
        order: int [n], the examples by cluster.
        first: int [c], place where each cluster begins.
        size: int [b], examples in each cluster of a block; ascending.
        count: int [b], clusters of a block.
        stratum: int [b], stratum of a block.
    """

    order: Ints
    first: Ints
    size: Ints
    count: Ints
    stratum: Ints

    @classmethod
    def of(cls, stratum: Ints, cluster: Ints) -> Exchange:
        """From the stratum and the cluster of each example, [n] each, any integers that are not negative.

        A cluster that spans strata counts as one cluster in each.
        """
        width = int(cluster.max()) + 1
        cell, own = np.unique(np.asarray(stratum, dtype=np.int64) * width + cluster, return_inverse=True)
        size, home = np.bincount(own), cell // width
        by_block = np.lexsort((home, size))
        rank = np.empty(len(by_block), dtype=np.int32)
        rank[by_block] = np.arange(len(by_block), dtype=np.int32)
        size, home = size[by_block], home[by_block]
        starts = np.flatnonzero(np.r_[True, (np.diff(home) != 0) | (np.diff(size) != 0)])
        order = np.argsort(rank[own], kind="stable").astype(np.int32)
        count = np.diff(np.r_[starts, len(size)])
        return cls(order, (np.cumsum(size) - size).astype(np.int32), size[starts], count, home[starts])

    @property
    def cluster(self) -> NDArray[np.int32]:
        """Cluster of each place, [n]."""
        return np.repeat(np.arange(len(self.first), dtype=np.int32), np.repeat(self.size, self.count))

    @property
    def group(self) -> NDArray[np.int32]:
        """Stratum of each place, [n]."""
        return np.repeat(self.stratum.astype(np.int32), self.size * self.count)

    @property
    def starts(self) -> Ints:
        """Place where each block begins, [b]."""
        return np.cumsum(self.size * self.count) - self.size * self.count

    def movable(self) -> NDArray[np.bool_]:
        """Places [n] whose cluster has another to be exchanged with."""
        return np.repeat(self.count > 1, self.size * self.count)

    def shuffles(
        self, value: Floats, n_shuffles: int, rng: np.random.Generator
    ) -> Iterator[tuple[slice, slice, Floats]]:
        """Shuffle values [n], given by place; in pieces of bounded memory.

        Yields:
            Some places, some of the shuffles, and float64 [places, shuffles], the values that are there then. Places
            that are left out have 0 in every shuffle.
        """
        for blocks in self._runs(max(_KEYS_AT_ONCE // n_shuffles, 1)):
            size, n_clusters = int(self.size[blocks.start]), int(self.count[blocks].sum())
            begin = int(self.starts[blocks.start])
            own = np.asarray(value[begin : begin + n_clusters * size], dtype=np.float64).reshape(n_clusters, size)
            if not own.any():
                continue
            # Read from any member on, a cluster's values turned round lie in a row.
            twice = np.hstack([own, own]).ravel()
            batch = max(_KEYS_AT_ONCE // n_clusters, 1)
            for at in range(0, n_shuffles, batch):
                some = slice(at, min(at + batch, n_shuffles))
                source = self._drawn(blocks, some.stop - at, rng)
                step = max(_VALUES_AT_ONCE // (size * (some.stop - at)), 1)
                for low in range(0, n_clusters, step):
                    high = min(low + step, n_clusters)
                    member = source[:, low:high].T[:, None] + np.arange(size)[:, None]
                    there = slice(begin + low * size, begin + high * size)
                    yield there, some, twice.take(member).reshape(-1, some.stop - at)

    def _runs(self, n_clusters: int) -> Iterator[slice]:
        """Blocks of one size that follow one another, of about so many clusters or a single one."""
        start, total = 0, 0
        for block, (size, count) in enumerate(zip(self.size.tolist(), self.count.tolist(), strict=True)):
            if total and (total + count > n_clusters or size != self.size[start]):
                yield slice(start, block)
                start, total = block, 0
            total += count
        yield slice(start, len(self.size))

    def _drawn(self, blocks: slice, n_shuffles: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """What each cluster of some blocks of one size has after each shuffle, int64 [n_shuffles, clusters].

        2 size times the cluster whose values it has, plus the member at which they begin. Every shuffle sorts random
        keys of 64 bits whose highest say the block and whose lowest the cluster. A cluster without another to change
        with keeps its values where they are.
        """
        count, size = self.count[blocks], int(self.size[blocks.start])
        block = np.repeat(np.arange(len(count)), count)
        low, high = (len(block) - 1).bit_length(), 64 - (len(count) - 1).bit_length()
        keys = rng.integers(np.iinfo(np.uint64).max, size=(n_shuffles, len(block)), dtype=np.uint64, endpoint=True)
        keys &= np.uint64((1 << high) - (1 << low))
        names = np.array([(b << high) % (1 << 64) for b in range(len(count))], dtype=np.uint64)[block]
        keys |= names | np.arange(len(block), dtype=np.uint64)
        keys.sort(axis=1)
        keys &= np.uint64((1 << low) - 1)
        source = keys.view(np.int64)
        source *= 2 * size
        if size > 1:
            turn = rng.integers(size, size=source.shape, dtype=np.min_scalar_type(size))
            source += turn * (count > 1)[block]
        return source

    def column_moments(self, columns: CompactRows) -> Moments:
        """`moments` of columns [n, k], by place."""
        from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

        n, block = len(self.order), np.repeat(np.arange(len(self.size)), self.count)
        ends, cluster = np.r_[self.first, n], self.cluster
        total, every, squares = (np.zeros((len(self.size), columns.width)) for _ in range(3))
        cuts = np.unique(np.r_[np.searchsorted(self.first, np.arange(0, n, BLOCK_ROWS)), len(self.first)])
        for low, high in itertools.pairwise(cuts.tolist()):
            start, stop = int(ends[low]), int(ends[high])
            part = columns.rows(start, stop)
            shape = (high - low, stop - start)
            members = sparse.csr_matrix((np.ones(shape[1]), np.arange(shape[1]), ends[low : high + 1] - start), shape)
            by_cluster = members @ part
            _add_by(total, block[low:high], by_cluster)
            _add_by(squares, block[low:high], by_cluster.power(2))
            _add_by(every, block[cluster[start:stop]], part.power(2))
        return self._moments(total, every, squares)

    def moments(self, values: Floats) -> Moments:
        """Sums and squares of values [r, n], by place, over each block: no exchange changes them."""
        by_cluster, blocks = np.add.reduceat(values, self.first, axis=1), np.cumsum(self.count) - self.count
        total, squares = (np.add.reduceat(each, blocks, axis=1).T for each in (by_cluster, by_cluster**2))
        return self._moments(total, np.add.reduceat(values**2, self.starts, axis=1).T, squares)

    def _moments(self, total: Floats, every: Floats, squares: Floats) -> Moments:
        between, within = squares - total**2 / self.count[:, None], every - squares / self.size[:, None]
        return Moments(total, every, between, within)

    def null_moments(self, columns: Moments, values: Moments, fixed: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation, [k, r], of the sum of columns x values over all exchanges.

        The mean is exact. So is the deviation when the order of members within a cluster says nothing (Hoeffding
        1951, block by block). Both are the same for the data and for every shuffle, so a sum less its mean over its
        deviation is a t whose error is valid for each column, and the largest of them can be compared.

        Args:
            columns: `column_moments` of the columns [n, k].
            values: `moments` of the values [r, n].
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
        squares: sum of squares over the examples.
        between: squared deviations of cluster sums from their mean.
        within: squared deviations of members from their cluster's mean.
    """

    total: Floats
    squares: Floats
    between: Floats
    within: Floats


def _add_by(total: Floats, label: Ints, matrix: sparse.csr_matrix) -> None:
    """Add the rows of a matrix [m, k] to those rows of ``total`` that their labels [m], ascending, name."""
    from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

    low, m = int(label[0]), len(label)
    dummies = sparse.csr_matrix((np.ones(m), (label - low, np.arange(m))), shape=(int(label[-1]) + 1 - low, m))
    total[low : int(label[-1]) + 1] += (dummies @ matrix).toarray()


def standardised(sums: Floats, mean: Floats, deviation: Floats) -> Floats:
    """(sum - mean) / deviation; NaN where no exchange changes the sum."""
    spread = deviation > _NO_SPREAD * np.maximum(np.abs(mean), 1.0)
    return np.divide(sums - mean, deviation, out=np.full(sums.shape, np.nan), where=spread)


def shuffled_sums(
    exchange: Exchange,
    value: Floats,
    columns: CompactRows,
    n_shuffles: int,
    *,
    rng: np.random.Generator,
    check: Callable[[], None] | None = None,
) -> Floats:
    """Sum of the shuffled values over each column, [k, n_shuffles].

    Args:
        exchange: what can be exchanged.
        value: [n], by place.
        columns: [n, k], by place.
        n_shuffles: shuffles.
        rng: draws them.
        check: called between pieces; may raise to stop.
    """
    total = np.zeros((columns.width, n_shuffles))
    for places, some, moved in exchange.shuffles(value, n_shuffles, rng):
        total[:, some] += columns.rows(places.start, places.stop).T @ moved
        if check is not None:
            check()
    return total


def permutation_p(observed: float, null: Floats) -> float:
    """(1 + number of shuffles with at least as much) / (1 + shuffles); ties up to rounding count as as much."""
    return float((1 + int((null >= observed - _TIE * abs(observed)).sum())) / (1 + len(null)))
