"""Sparse matrices of small whole numbers in a byte or two an entry, read block by block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy import sparse

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
BLOCK_ROWS = 50_000
_BLOCK_ENTRIES = 1 << 20


@dataclass(frozen=True)
class CompactRows:
    """A sparse matrix [n, k] that is kept for long: what holds for all features of a bundle.

    Attributes:
        indptr: int32 [n + 1], where each row begins; int64 where that is too small.
        indices: uint8 or uint16 [nnz], columns.
        data: uint8 [nnz]; None where every entry is 1.
        width: k.
    """

    indptr: Ints
    indices: Ints
    data: NDArray[np.uint8] | None
    width: int

    @classmethod
    def stacked(cls, parts: Iterable[sparse.csr_matrix]) -> CompactRows:
        """Put CSR blocks of rows below one another; entries are whole numbers, 1 to 255, columns below 65,536."""
        indices: list[Ints] = []
        data: list[NDArray[np.uint8]] = []
        lengths: list[Ints] = []
        width = 0
        for part in parts:
            width = part.shape[1]
            indices.append(part.indices.astype(np.uint8 if width <= 256 else np.uint16))
            data.append(part.data.astype(np.uint8))
            lengths.append(np.diff(part.indptr))
        ones = all(bool((each == 1).all()) for each in data)
        indptr = np.concatenate([[0], *lengths]).cumsum(dtype=np.int64)
        return cls(_narrow(indptr), np.concatenate(indices), None if ones else np.concatenate(data), width)

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def rows(self, start: int, stop: int) -> sparse.csr_matrix:
        """Some rows that follow one another, as CSR of float64."""
        from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

        low, high = int(self.indptr[start]), int(self.indptr[stop])
        data = np.ones(high - low) if self.data is None else self.data[low:high].astype(np.float64)
        indptr = (self.indptr[start : stop + 1] - low).astype(np.int32)
        indices = self.indices[low:high].astype(np.int32)
        return sparse.csr_matrix((data, indices, indptr), shape=(stop - start, self.width))

    def counts(self) -> Ints:
        """Entries of each column, [k]."""
        total = np.zeros(self.width, dtype=np.int64)
        for at in range(0, len(self.indices), _BLOCK_ENTRIES):  # it counts 8 bytes an entry, which are one here
            total += np.bincount(self.indices[at : at + _BLOCK_ENTRIES], minlength=self.width)
        return total

    def largest(self) -> int:
        """The largest entry; 0 where there is none."""
        if not len(self.indices):
            return 0
        return 1 if self.data is None else int(self.data.max())

    def take(self, keep: Ints) -> CompactRows:
        """The chosen columns, ascending."""
        if len(keep) == self.width:
            return self
        chosen, place = np.zeros(self.width, dtype=np.bool_), np.zeros(self.width, dtype=self.indices.dtype)
        chosen[keep], place[keep] = True, np.arange(len(keep))
        kept = chosen[self.indices]
        # Entries are counted block by block: a count of 8 bytes for each would take more than all the rest.
        before = [np.zeros(1, dtype=np.int64)]
        for start in range(0, len(self), BLOCK_ROWS):
            bounds = self.indptr[start : start + BLOCK_ROWS + 1]
            counted = np.cumsum(np.concatenate([[0], kept[bounds[0] : bounds[-1]]]))
            before.append(before[-1][-1] + counted[bounds[1:] - bounds[0]])
        indices, data = place[self.indices[kept]], None if self.data is None else self.data[kept]
        return CompactRows(_narrow(np.concatenate(before)), indices, data, len(keep))

    def blocks(self) -> Iterator[tuple[slice, sparse.csr_matrix]]:
        """All rows, in blocks."""
        for start in range(0, len(self), BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, len(self))
            yield slice(start, stop), self.rows(start, stop)

    def some(self, rows: Ints) -> sparse.csr_matrix:
        """Some rows, as CSR of float64."""
        from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

        starts, lengths = self.indptr[rows], self.indptr[rows + 1] - self.indptr[rows]
        indptr = np.zeros(len(rows) + 1, dtype=self.indptr.dtype)
        np.cumsum(lengths, out=indptr[1:])
        at = np.repeat(starts - indptr[:-1], lengths)
        at += np.arange(len(at), dtype=at.dtype)
        data = np.ones(len(at)) if self.data is None else self.data[at].astype(np.float64)
        return sparse.csr_matrix((data, self.indices[at].astype(np.int32), indptr), shape=(len(rows), self.width))

    def sums(self, outcomes: Floats) -> Floats:
        """Sums of outcomes [r, n] over the columns, [k, r]."""
        total = np.zeros((self.width, len(outcomes)))
        for where, part in self.blocks():
            total += part.T @ np.ascontiguousarray(outcomes[:, where].T)
        return total

    def column(self, index: int) -> Floats:
        """One column, [n]."""
        at = np.flatnonzero(self.indices == index)
        found = np.zeros(len(self))
        found[np.searchsorted(self.indptr, at, side="right") - 1] = 1.0 if self.data is None else self.data[at]
        return found


def _narrow(indptr: Ints) -> Ints:
    """The same in int32 where it fits."""
    return indptr.astype(np.int32 if int(indptr[-1]) <= np.iinfo(np.int32).max else np.int64)
