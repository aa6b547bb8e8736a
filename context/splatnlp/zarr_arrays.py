"""Dense matrices in zarr folders, read a block at a time; zarr is an optional extra."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...schemas.errors import RequestError
from ..sae import CLAMP
from .sources import NOTHING

_ROUNDING = 1e-3
_DAMAGED = (RuntimeError, ValueError, LookupError, TypeError)
_DESCRIPTIONS = ("zarr.json", ".zarray", ".zgroup")
"""One of them is in every zarr folder: of version 3, or of version 2."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix on disk.

    Attributes:
        path: its folder.
        shape: rows and columns.
        chunks: rows and columns of the pieces it is compressed in.
        array: zarr's array.
    """

    path: Path
    shape: tuple[int, int]
    chunks: tuple[int, int]
    array: Any

    def read(self, rows: slice, columns: slice = slice(None)) -> NDArray[np.float32]:
        """A block as float32; raises RequestError when it cannot be decoded, OSError when the disk fails."""
        with _naming(self.path):
            return np.asarray(self.array[rows, columns], dtype=np.float32)

    def unstored_chunks(self) -> int:
        """Chunks that have no file: they read as zeros, whether they were written so or lost."""
        with _naming(self.path):
            return int(self.array.nchunks - self.array.nchunks_initialized)


@contextmanager
def _naming(path: Path, *also: type[Exception]) -> Generator[None]:
    """Turn what zarr raises about a damaged folder, and other errors named, into a message with its path."""
    try:
        yield
    except (*_DAMAGED, *also) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RequestError(f"{path} cannot be read as a zarr array: {reason}. Copy it again. {NOTHING}") from error


def open_matrix(path: Path) -> Matrix:
    """Open a zarr array of two axes; only its description is read.

    Raises:
        RequestError: zarr is not installed, or there is no such array.
    """
    try:
        import zarr  # noqa: PLC0415 - an extra, and a quarter of a second
    except ImportError as error:
        raise RequestError(
            f"{path} is a zarr folder, and zarr is not installed: pip install 'mechinterp-runner[import]'. {NOTHING}"
        ) from error
    with _naming(path, OSError):
        if not path.is_dir():
            raise NotADirectoryError("there is no such folder")
        if not any((path / name).is_file() for name in _DESCRIPTIONS):
            raise FileNotFoundError(f"it holds no {_DESCRIPTIONS[0]}")
        array: Any = zarr.open(str(path), mode="r")
        if not isinstance(array, zarr.Array):
            raise TypeError("it is a group of arrays, and one array is expected")
        if array.ndim != 2 or array.dtype.kind != "f":
            raise ValueError(f"it holds {array.dtype} of shape {array.shape}; float32 of two axes is expected")
    return Matrix(path, (array.shape[0], array.shape[1]), (array.chunks[0], array.chunks[1]), array)


def check_activations(values: NDArray[np.float32], where: str) -> None:
    """Raise RequestError unless every value is one that an activation can have: finite and in [0, 6].

    Args:
        values: activations; the non-zero ones are enough.
        where: what they are of, in words.
    """
    wrong = ~((values >= 0) & (values <= CLAMP + _ROUNDING))
    if wrong.any():
        bad = float(values[wrong][0])
        hint = " (before ReLU and clamp?)" if np.isfinite(bad) else ""
        raise RequestError(
            f"{where}: {int(wrong.sum()):,} values are no activations, such as {bad:g}{hint}; they must lie in 0 to "
            f"{CLAMP:g}. {NOTHING}"
        )
