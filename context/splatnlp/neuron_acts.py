"""``neuron_acts/neuron_0000/{acts,idxs}.npy``: the non-zero activations of each feature and their positions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...schemas.errors import RequestError
from .columns import ARRAYS, STAGE, ColumnWriter
from .metadata import check_numbers, numbered
from .sources import NOTHING, ImportOptions
from .work import Pieces, Report, Work
from .zarr_arrays import check_activations

_PER_UNIT = 64


@dataclass(frozen=True, slots=True)
class NeuronActs:
    """One folder a feature.

    Attributes:
        n_features: folders.
        n_rows: positions there are.
        folders: in the order of the features.
        counted: whether only the folders say how many features there are.
    """

    n_features: int
    n_rows: int
    folders: tuple[Path, ...]
    counted: bool

    def origin(self) -> tuple[str, Path]:
        """What it is, and where."""
        return "neuron_acts", self.folders[0].parent

    def notes(self) -> tuple[str, ...]:
        """What is not known where nothing states the number of features."""
        note = "nothing states the number of features: that none is missing at the end of neuron_acts cannot be known"
        return (note,) if self.counted else ()

    def grow(self, work: Work, options: ImportOptions, report: Report) -> None:
        """Copy every feature's entries, by ascending position; a feature at a time is in memory."""
        del options
        writer = ColumnWriter.after(work)
        starts = range(0, self.n_features, _PER_UNIT)

        def make(unit: int) -> Pieces:
            for folder in self.folders[starts[unit] : starts[unit] + _PER_UNIT]:
                rows, values = self._column(folder)
                yield writer.entries(rows, values)
                yield writer.ends(np.array([len(rows)]))

        work.grow(STAGE, ARRAYS, len(starts), make, report)

    def _column(self, folder: Path) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Positions, ascending, and values of one feature."""
        acts, idxs = _load(folder / "acts.npy", "f"), _load(folder / "idxs.npy", "iu")
        if acts.shape != idxs.shape:
            raise RequestError(f"{folder}: {len(acts):,} values in acts.npy, {len(idxs):,} positions. {NOTHING}")
        order = np.argsort(idxs, kind="stable")
        rows, values = idxs[order], acts[order].astype(np.float32)
        if len(rows) and (rows[0] < 0 or rows[-1] >= self.n_rows):  # before a cast could wrap it
            bad = rows[0] if rows[0] < 0 else rows[-1]
            raise RequestError(
                f"{folder / 'idxs.npy'}: position {bad:,} is not in the {self.n_rows:,} rows of metadata. {NOTHING}"
            )
        if (np.diff(rows) == 0).any():
            twice = rows[1:][np.diff(rows) == 0][0]
            raise RequestError(f"{folder / 'idxs.npy'}: position {twice:,} occurs twice. {NOTHING}")
        check_activations(values, str(folder / "acts.npy"))
        kept = values != 0
        return rows[kept].astype(np.int64), values[kept]


def _load(path: Path, kinds: str) -> NDArray[Any]:
    """A ``.npy`` file of one axis and of a kind of numbers; nothing pickled is read."""
    try:
        with path.open("rb") as stream:
            array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise RequestError(f"{path} cannot be read as an array: {error}. {NOTHING}") from error
    if array.ndim != 1 or array.dtype.kind not in kinds:
        raise RequestError(
            f"{path} holds {array.dtype} of shape {array.shape}; one axis of numbers is expected. {NOTHING}"
        )
    return array


def open_neuron_acts(path: Path, n_rows: int, n_features: int | None) -> NeuronActs:
    """List the features' folders: ``path`` holds them, or a folder ``neuron_acts`` that does.

    Args:
        path: the folder given.
        n_rows: rows of the metadata.
        n_features: features there must be, where that is known.

    Raises:
        RequestError: there are none, or one is missing: it may be dead or lost, and nothing says which.
    """
    folder = path / "neuron_acts" if (path / "neuron_acts").is_dir() else path
    found = numbered(folder, r"neuron_(\d+)")
    if not found:
        raise RequestError(f"{folder} holds no neuron_0000, neuron_0001, ... folders. {NOTHING}")
    wanted = n_features or max(found) + 1
    check_numbers(found, wanted, "features", folder)
    return NeuronActs(wanted, n_rows, tuple(found.values()), counted=n_features is None)
