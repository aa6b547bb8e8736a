"""Pooled vectors on disk: what one process computed, the next one reads.

A folder belongs to one set of weights, precision and kind of device, and several processes may share it. Each adds
files of its own and changes none: a pair ``ID.keys.npy``, ``ID.vectors.npy``, written aside, flushed and renamed, keys
last, so that a pair that is seen is whole. A file of another form or length is not used.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from ..schemas.errors import RequestError
from .bundle import Bundle

Vectors = NDArray[np.floating[Any]]
MAX_BYTES = 8 << 30
"""A folder that holds so much is read and not added to."""
EXAMPLES = ("examples/weapon.npy", "examples/indptr.npy", "examples/tokens.npy")
BLOCK = 10_000
_KEYS, _VECTORS = ".keys.npy", ".vectors.npy"
_FORM = 1
_ROW_BITS = 32
_log = logging.getLogger(__name__)


def folder_of(root: Path, bundle: Bundle, dtype: str, device: str) -> Path:
    """The folder for a bundle's network, named by its weights and vocabulary, the precision and the kind of device."""
    weights = _digest(bundle, ("model.safetensors", "vocab.json"))
    return root / f"{weights}-{dtype}-{device.partition(':')[0]}-{_FORM}"


def _digest(bundle: Bundle, names: Iterable[str]) -> str:
    """Short digest of some of a bundle's files, from the hashes its manifest states."""
    hashes = "".join(bundle.manifest.files[name].sha256 for name in names)
    return hashlib.sha256(hashes.encode()).hexdigest()[:24]


class PooledStore:
    """Pooled vectors of constructed sets in a folder.

    Args:
        folder: see `folder_of`; it is made when there is none.
        dim: length of a vector.
        dtype: precision of the vectors.
        max_bytes: see `MAX_BYTES`.

    Raises:
        RequestError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path, dim: int, dtype: str, max_bytes: int = MAX_BYTES) -> None:
        self.folder, self._dim, self._dtype, self._max_bytes = folder, dim, np.dtype(dtype), max_bytes
        self._vectors: list[Vectors] = []
        self._where: dict[bytes, int] = {}
        self._seen: set[str] = set()
        self._waiting: list[tuple[list[bytes], Vectors]] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError(f"the folder for pooled vectors cannot be made: {error}. Name another.") from error

    def __len__(self) -> int:
        return len(self._where)

    @property
    def nbytes(self) -> int:
        """Bytes of vectors in the files that were read."""
        return sum(vectors.nbytes for vectors in self._vectors)

    def find(self, keys: list[bytes]) -> tuple[NDArray[np.intp], Vectors]:
        """Which of the keys are held (indices, ascending), and their vectors [found, dim]."""
        self._look()
        where = np.fromiter((self._where.get(key, -1) for key in keys), dtype=np.int64, count=len(keys))
        found = np.flatnonzero(where >= 0)
        files, rows = where[found] >> _ROW_BITS, where[found] & ((1 << _ROW_BITS) - 1)
        vectors = np.empty((len(found), self._dim), self._dtype)
        for file in np.unique(files).tolist():
            vectors[files == file] = self._vectors[file][rows[files == file]]
        return found, vectors

    def add(self, keys: list[bytes], vectors: Vectors) -> None:
        """Keep vectors [n, dim] of keys; they are written together with others, at the latest by `flush`."""
        self._waiting.append((keys, vectors))
        if sum(len(waiting) for waiting, _ in self._waiting) >= BLOCK:
            self.flush()

    def flush(self) -> None:
        """Write what waits; a disk that takes no more costs what it would have remembered, not the run."""
        waiting, self._waiting = self._waiting, []
        if not waiting or self.nbytes + sum(vectors.nbytes for _, vectors in waiting) > self._max_bytes:
            return
        keys, name = [key for part, _ in waiting for key in part], uuid.uuid4().hex
        try:
            _publish(self.folder / f"{name}{_VECTORS}", np.concatenate([vectors for _, vectors in waiting]))
            _publish(self.folder / f"{name}{_KEYS}", np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), -1))
        except OSError as error:
            _log.warning("pooled vectors were not kept in %s: %s", self.folder, error)

    def of_examples(
        self, bundle: Bundle, shape: tuple[int, int], make: Callable[[NDArray[np.intp]], Vectors]
    ) -> Vectors:
        """Pooled vectors of all examples, mapped from a file that is computed once.

        It is computed in blocks; each is kept as soon as it is there, so that what was stopped goes on where it was.

        Args:
            bundle: the bundle whose examples they are.
            shape: (n, dim).
            make: computes the vectors of some rows.
        """
        whole = self.folder / f"examples-{_digest(bundle, EXAMPLES)}.npy"
        with FileLock(whole.with_suffix(".lock")):
            known = _read(whole, shape, self._dtype)
            if known is not None:
                return known
            blocks = [np.arange(start, min(start + BLOCK, shape[0])) for start in range(0, shape[0], BLOCK)]
            parts = [whole.with_suffix(f".{number}.npy") for number in range(len(blocks))]
            for part, rows in zip(parts, blocks, strict=True):
                if _read(part, (len(rows), shape[1]), self._dtype) is None:
                    _publish(part, make(rows))
            _join(whole, parts, shape, self._dtype)
            for part in parts:
                part.unlink()
            return np.lib.format.open_memmap(whole, mode="r")

    def _look(self) -> None:
        """Take in what was added since, by this process or others."""
        names = {path.name.removesuffix(_KEYS) for path in self.folder.glob(f"*{_KEYS}")}
        for name in sorted(names - self._seen):
            self._seen.add(name)
            keys = _read(self.folder / f"{name}{_KEYS}", (None, None), np.dtype(np.uint8))
            if keys is None:
                continue
            vectors = _read(self.folder / f"{name}{_VECTORS}", (len(keys), self._dim), self._dtype)
            if vectors is None:
                continue
            start = len(self._vectors) << _ROW_BITS
            self._vectors.append(vectors)
            packed = np.ascontiguousarray(keys).view(np.dtype((np.void, keys.shape[1]))).ravel().tolist()
            self._where.update(zip(packed, range(start, start + len(packed)), strict=True))


def _join(whole: Path, parts: list[Path], shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
    """Write blocks one after the other into one file, which appears whole."""
    aside = whole.with_suffix(".part")
    joined: NDArray[Any] = np.lib.format.open_memmap(aside, mode="w+", dtype=dtype, shape=shape)
    start = 0
    for part in parts:
        block = np.load(part, mmap_mode="r", allow_pickle=False)
        joined[start : start + len(block)] = block
        start += len(block)
    joined.flush()  # pyright: ignore[reportAttributeAccessIssue]  # numpy declares open_memmap as an array
    aside.replace(whole)


def _publish(path: Path, array: NDArray[Any]) -> None:
    """Write an array; the file appears whole or not at all."""
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as stream:
        try:
            np.save(stream, array, allow_pickle=False)
            stream.flush()
            os.fsync(stream.fileno())
            Path(stream.name).replace(path)
        except BaseException:
            Path(stream.name).unlink(missing_ok=True)
            raise


def _read(path: Path, shape: tuple[int | None, ...], dtype: np.dtype[Any]) -> NDArray[Any] | None:
    """Map an array; None when there is none of that shape (None: any length) and precision."""
    if not path.is_file():
        return None
    try:
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError) as error:
        _log.warning("%s is not used: %s", path, error)
        return None
    fits = len(array.shape) == len(shape) and all(
        want is None or want == got for want, got in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype != dtype:
        _log.warning("%s is not used: it holds %s of shape %s", path, array.dtype, array.shape)
        return None
    return array
