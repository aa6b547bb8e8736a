"""Activations by feature (CSC): the arrays of a bundle, and dense batches turned into them in bounded memory.

Dense batches come row by row, and a bundle wants feature by feature. A block of rows is sorted by feature and appended
to a scratch file as a run; the runs are then merged, a block of features at a time. Both passes read and write in
sequence, and neither holds more than a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from .sources import ImportOptions
from .work import SCRATCH, ArrayFile, Pieces, Report, Work

STAGE = "activations"
ROWS, VALUES, INDPTR = "activations/rows.npy", "activations/values.npy", "activations/indptr.npy"
ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {ROWS: ("int32", ()), VALUES: ("float32", ()), INDPTR: ("int64", ())}
RUN_ROWS, RUN_VALUES, RUN_COUNTS = (f"{SCRATCH}/run_{name}.npy" for name in ("rows", "values", "counts"))
_ENTRY = 24
"""Bytes of memory an entry takes while it is merged: row, value, feature and place."""


class ActivationSource(Protocol):
    """Where activations are read from."""

    @property
    def n_features(self) -> int:
        """Features there are."""
        ...

    @property
    def n_rows(self) -> int:
        """Examples there are."""
        ...

    def origin(self) -> tuple[str, Path]:
        """What it is, and where."""
        ...

    def notes(self) -> tuple[str, ...]:
        """What the user should know of it."""
        ...

    def grow(self, work: Work, options: ImportOptions, report: Report) -> None:
        """Write the three arrays of activations."""
        ...


@dataclass(slots=True)
class ColumnWriter:
    """Turns finished columns into pieces: where a column begins follows from all columns before it."""

    n_entries: int
    begun: bool

    @classmethod
    def after(cls, work: Work) -> ColumnWriter:
        """A writer that goes on where the finished units ended."""
        return cls(work.length(STAGE, ROWS), work.length(STAGE, INDPTR) > 0)

    def entries(self, rows: NDArray[np.integer[Any]], values: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Entries of the column at hand, or of several whole ones."""
        return {ROWS: rows, VALUES: values}

    def ends(self, counts: NDArray[np.integer[Any]]) -> dict[str, NDArray[Any]]:
        """The ends of columns with so many entries each, once all of these were given."""
        start = [] if self.begun else [np.zeros(1, np.int64)]
        ends = self.n_entries + np.cumsum(counts, dtype=np.int64)
        self.n_entries, self.begun = int(ends[-1]), True
        return {INDPTR: np.concatenate([*start, ends])}


def sorted_by_column(block: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32]]:
    """The non-zero entries of a block [n, F] by column, then row: their rows, their values, and how many a column."""
    mask = block != 0
    indptr = np.concatenate([[0], np.cumsum(mask.sum(axis=1))])
    by_row = sparse.csr_array((block[mask], np.nonzero(mask)[1].astype(np.int32), indptr), shape=block.shape)
    by_column: Any = by_row.tocsc()  # scipy's stubs know its arrays as one union
    return by_column.indices, by_column.data, np.diff(by_column.indptr)


def run_arrays(n_features: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The scratch arrays of sorted runs: entries one run after the other, and counts [n_runs, F]."""
    return {RUN_ROWS: ("int32", ()), RUN_VALUES: ("float32", ()), RUN_COUNTS: ("int32", (n_features,))}


def merge_runs(work: Work, n_features: int, options: ImportOptions, report: Report) -> None:
    """Write the columns of sorted runs, a block of features at a time."""
    counts = work.array(RUN_COUNTS)
    per_feature = np.zeros(n_features, dtype=np.int64)
    per_run = np.zeros(len(counts), dtype=np.int64)
    for run, row in enumerate(counts):  # one row at a time: the table may be larger than the block
        per_feature += row
        per_run[run] = row.sum(dtype=np.int64)
    blocks = blocks_of(per_feature, max(1, options.block_bytes // _ENTRY))
    done = work.done(STAGE)
    with ArrayFile(work.path(RUN_ROWS)) as rows, ArrayFile(work.path(RUN_VALUES)) as values:
        merger = _Merger(rows, values, counts, np.cumsum(per_run) - per_run, ColumnWriter.after(work))
        if done and done < len(blocks):
            merger.skip(slice(0, blocks[done].start))
        work.grow(STAGE, ARRAYS, len(blocks), lambda unit: merger.pieces(blocks[unit]), report)


def blocks_of(size: NDArray[np.int64], most: int) -> list[slice]:
    """Cut a sequence into blocks of at most that size in all, each of at least one item."""
    blocks: list[slice] = []
    ends, start = np.cumsum(size), 0
    while start < len(size):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + most, side="right")))
        blocks.append(slice(start, stop))
        start = stop
    return blocks


class _Merger:
    """Reads the same features off all runs, in the order of the features."""

    def __init__(
        self,
        rows: ArrayFile,
        values: ArrayFile,
        counts: NDArray[np.int32],
        starts: NDArray[np.int64],
        writer: ColumnWriter,
    ) -> None:
        self._rows, self._values = rows, values
        self._counts, self._next, self._writer = counts, starts.copy(), writer

    def skip(self, features: slice) -> None:
        """Go past features that are written."""
        for run, row in enumerate(self._counts):
            self._next[run] += int(row[features].sum(dtype=np.int64))

    def pieces(self, features: slice) -> Pieces:
        """The columns of a block of features.

        Each run holds the block's features one after the other; the entries of one feature from all runs are brought
        together by sending each stretch (run, feature) to its place.
        """
        counts = np.asarray(self._counts[:, features], dtype=np.int64)
        stops = self._next + counts.sum(axis=1)
        spans = list(zip(self._next.tolist(), stops.tolist(), strict=True))
        total = counts.sum(axis=0)
        begins = np.cumsum(total) - total + np.cumsum(counts, axis=0) - counts
        lengths = counts.ravel()
        place = np.repeat(begins.ravel() - (np.cumsum(lengths) - lengths), lengths)
        place += np.arange(len(place))
        rows, values = np.empty(len(place), np.int32), np.empty(len(place), np.float32)
        rows[place] = np.concatenate([self._rows.read(start, stop) for start, stop in spans])
        values[place] = np.concatenate([self._values.read(start, stop) for start, stop in spans])
        self._next = stops
        yield self._writer.entries(rows, values)
        yield self._writer.ends(total)
