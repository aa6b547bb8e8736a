"""``transposed_activations.zarr``: activations by feature; columns are positions counted over all batches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...schemas.errors import RequestError
from .columns import ARRAYS, STAGE, ColumnWriter
from .sources import NOTHING, ImportOptions
from .work import Pieces, Report, Work
from .zarr_arrays import Matrix, check_activations, open_matrix

NAME = "transposed_activations.zarr"


@dataclass(frozen=True, slots=True)
class Transposed:
    """Activations [F, N].

    Attributes:
        n_features: F.
        n_rows: N.
        matrix: the array.
    """

    n_features: int
    n_rows: int
    matrix: Matrix

    def origin(self) -> tuple[str, Path]:
        """What it is, and where."""
        return "transposed", self.matrix.path

    def notes(self) -> tuple[str, ...]:
        """Nothing to add: chunks without a file are the rule here, a dead feature has none."""
        return ()

    def grow(self, work: Work, options: ImportOptions, report: Report) -> None:
        """Copy the non-zero entries, a block of features at a time."""
        block = max(1, options.block_bytes // (4 * max(1, self.n_rows)))
        starts = range(0, self.n_features, block)
        writer = ColumnWriter.after(work)
        segment = max(self.matrix.chunks[1], options.block_bytes // (4 * block))

        def make(unit: int) -> Pieces:
            features = slice(starts[unit], min(starts[unit] + block, self.n_features))
            return self._pieces(features, segment if block == 1 else self.n_rows, writer)

        work.grow(STAGE, ARRAYS, len(starts), make, report)

    def _pieces(self, features: slice, segment: int, writer: ColumnWriter) -> Pieces:
        """The columns of a block of features; a single one may come in segments of positions."""
        counts = np.zeros(features.stop - features.start, dtype=np.int64)
        for start in range(0, self.n_rows, segment):
            block = self.matrix.read(features, slice(start, min(start + segment, self.n_rows)))
            where = np.flatnonzero(block)
            values = block.ravel()[where]
            check_activations(values, f"{self.matrix.path}, features {features.start} to {features.stop - 1}")
            counts += np.count_nonzero(block, axis=1)
            yield writer.entries(start + where % block.shape[1], values)
        yield writer.ends(counts)


def open_transposed(path: Path, n_rows: int) -> Transposed:
    """Open the array: ``path`` is it, or the folder that holds it.

    Raises:
        RequestError: there is no such array, or its columns are not the rows of the metadata.
    """
    inner = path / NAME
    matrix = open_matrix(inner if inner.is_dir() else path)
    if matrix.shape[1] != n_rows:
        raise RequestError(
            f"{matrix.path} has {matrix.shape[1]:,} positions where the metadata has {n_rows:,} rows. {NOTHING}"
        )
    return Transposed(*matrix.shape, matrix)
