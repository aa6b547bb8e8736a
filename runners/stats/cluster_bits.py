"""Which examples of a cluster hold each column, a bit an example, so that holders are counted eight at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]
_BITS = 8


@dataclass(frozen=True)
class ClusterBits:
    """Binary columns of examples that lie cluster by cluster; each cluster fills up whole bytes.

    Attributes:
        bits: uint8 [k, bytes].
        first: int32 [c], position of the first example of each cluster.
        begin: int32 [c + 1], byte at which each cluster begins, and where the last ends.
    """

    bits: NDArray[np.uint8]
    first: Ints
    begin: Ints

    @classmethod
    def of(cls, held: Bools, order: Ints, sizes: Ints) -> ClusterBits:
        """From columns [n, k], the example at each position [n], and the sizes [c] of the clusters in their order."""
        first = np.cumsum(sizes) - sizes
        begin = np.concatenate([[0], np.cumsum(-(-sizes // _BITS))])
        place = np.arange(len(order)) + np.repeat(_BITS * begin[:-1] - first, sizes)
        bits = np.zeros((held.shape[1], int(begin[-1])), dtype=np.uint8)
        for column, own in enumerate(bits):
            filled = np.zeros(len(own) * _BITS, dtype=np.bool_)
            filled[place] = held[order, column]
            own[:] = np.packbits(filled, bitorder="little")
        return cls(bits, first.astype(np.int32), begin.astype(np.int32))

    def held(self, positions: Ints, cluster: Ints) -> Bools:
        """Which columns the examples at some positions [m], of these clusters [m], hold: [k, m]."""
        inside = positions - self.first[cluster]
        byte, bit = self.begin[cluster] + inside // _BITS, (inside % _BITS).astype(np.uint8)
        return ((np.take(self.bits, byte, axis=1) >> bit) & np.uint8(1)).view(np.bool_)

    def of_clusters(self, clusters: Ints) -> ClusterBits:
        """The bytes of some clusters alone; positions no longer count."""
        lengths = self.begin[clusters + 1] - self.begin[clusters]
        begin = np.concatenate([[0], np.cumsum(lengths)])
        byte = np.repeat(self.begin[clusters] - begin[:-1], lengths) + np.arange(begin[-1])
        return ClusterBits(np.take(self.bits, byte, axis=1), self.first[clusters], begin)

    def counts(self, columns: Ints, others: Ints) -> Floats:
        """Examples of each cluster that hold both of two columns, for some pairs of them: [pairs, c]."""
        counts = np.bitwise_count(self.bits[columns] & self.bits[others])
        if len(self.begin) == self.bits.shape[1] + 1:
            return counts.astype(np.float64)
        return np.add.reduceat(counts, self.begin[:-1], axis=1, dtype=np.float64)
