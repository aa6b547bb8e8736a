"""``activations/batch_0000.zarr``, ...: dense activations, a row an example."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...schemas.errors import RequestError
from .columns import RUN_COUNTS, RUN_ROWS, RUN_VALUES, merge_runs, run_arrays, sorted_by_column
from .metadata import Metadata, check_numbers, numbered
from .sources import NOTHING, ImportOptions
from .work import Pieces, Report, Work
from .zarr_arrays import Matrix, check_activations, open_matrix


@dataclass(frozen=True, slots=True)
class DenseBatches:
    """The dense batches of an activations folder.

    Attributes:
        n_features: columns of every batch.
        n_rows: rows of all.
        matrices: one a batch, in order.
        starts: int64 [n_batches], position of each batch's first row.
    """

    n_features: int
    n_rows: int
    matrices: tuple[Matrix, ...]
    starts: NDArray[np.int64]

    def origin(self) -> tuple[str, Path]:
        """What it is, and where."""
        return "activations", self.matrices[0].path.parent

    def notes(self) -> tuple[str, ...]:
        """Chunks without a file, which read as zeros."""
        lost = {matrix.path.name: matrix.unstored_chunks() for matrix in self.matrices}
        return tuple(
            f"{name}: {count} of its chunks are not stored and read as zeros, as if nothing were active: was it copied "
            f"whole?"
            for name, count in lost.items()
            if count
        )

    def grow(self, work: Work, options: ImportOptions, report: Report) -> None:
        """Sort blocks of rows by feature, then merge them."""
        units = self._units(options.block_bytes)
        work.grow(
            "read activations", run_arrays(self.n_features), len(units), lambda unit: self._run(*units[unit]), report
        )
        merge_runs(work, self.n_features, options, report)

    def _units(self, block_bytes: int) -> list[tuple[int, int, int]]:
        """Batch, first and last row of each block: whole chunks, so that none is decompressed twice."""
        units: list[tuple[int, int, int]] = []
        for batch, matrix in enumerate(self.matrices):
            chunk = max(1, matrix.chunks[0])
            size = chunk * max(1, block_bytes // (4 * chunk * max(1, self.n_features)))
            n = matrix.shape[0]
            units += [(batch, start, min(start + size, n)) for start in range(0, n, size)]
        return units

    def _run(self, batch: int, start: int, stop: int) -> Pieces:
        matrix = self.matrices[batch]
        rows, values, counts = sorted_by_column(matrix.read(slice(start, stop)))
        check_activations(values, f"{matrix.path}, rows {start} to {stop - 1}")
        yield {RUN_ROWS: self.starts[batch] + start + rows, RUN_VALUES: values, RUN_COUNTS: counts[None]}


def open_batches(folder: Path, metadata: Metadata) -> DenseBatches:
    """Open every batch and compare its shape with the metadata; no row is read.

    Raises:
        RequestError: a batch is missing, is no zarr array, or has other rows or columns.
    """
    found = numbered(folder, r"batch_(\d+)\.zarr")
    check_numbers(found, len(metadata.files), "batches", folder)
    matrices = [open_matrix(path) for path in found.values()]
    n_features = matrices[0].shape[1]
    for matrix, rows in zip(matrices, metadata.rows.tolist(), strict=True):
        if matrix.shape != (rows, n_features):
            raise RequestError(
                f"{matrix.path} has the shape {matrix.shape} where {(rows, n_features)} is expected: the rows of its "
                f"metadata and the features of the first batch. Copy the folder again. {NOTHING}"
            )
    return DenseBatches(n_features, len(metadata), tuple(matrices), metadata.starts)
