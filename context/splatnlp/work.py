"""The work folder of an import: arrays that grow piece by piece, and how far each stage has come.

A stage is a number of units (batches, blocks of features). After each unit its arrays are on disk and the state is
replaced, so that an import that was killed goes on with the first unit it had not finished.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from ...schemas.errors import StoreError

Report = Callable[[str, int, int, str], None]
"""Told (stage, done, total, note)."""
Pieces = Iterable[Mapping[str, NDArray[Any]]]
"""Blocks to append, by array."""
SCRATCH = "scratch"
_STATE = "state.json"


class _Open:
    """An open file, closed at the end of a ``with`` block."""

    _stream: BinaryIO

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self._stream.close()


class GrowingArray(_Open):
    """A ``.npy`` file that grows along its first axis, by plain writes: a full disk is an error, not a crash.

    Args:
        path: the file; made if it is not there.
        dtype: of every element.
        tail: shape of one row.
        length: rows to keep of what is there; the rest is cut off.
    """

    def __init__(self, path: Path, dtype: str, tail: tuple[int, ...] = (), length: int = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._dtype, self._tail, self.length = np.dtype(dtype), tail, length
        self._stream = path.open("r+b" if path.exists() else "w+b")
        # numpy leaves room in the header for the first axis to grow, so its size does not depend on the length.
        self._write_header()
        row = int(np.prod(tail, dtype=np.int64)) * self._dtype.itemsize
        self._stream.truncate(self._stream.tell() + length * row)
        self._stream.seek(0, os.SEEK_END)

    def _write_header(self) -> None:
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self.length, *self._tail)}
        self._stream.seek(0)
        np.lib.format.write_array_header_1_0(self._stream, header)

    def append(self, block: NDArray[Any]) -> None:
        """Add rows [n, *tail]."""
        if block.shape[1:] != self._tail:
            raise ValueError(f"rows of shape {block.shape[1:]} do not fit an array of rows {self._tail}")
        if block.size:
            self._stream.write(np.ascontiguousarray(block, self._dtype).data.cast("B"))
        self.length += len(block)

    def sync(self) -> None:
        """Put everything, the length in the header included, on the disk."""
        self._write_header()
        self._stream.seek(0, os.SEEK_END)
        self._stream.flush()
        os.fsync(self._stream.fileno())


class ArrayFile(_Open):
    """A ``.npy`` file of one axis, read a stretch at a time by plain reads: what was read does not stay in memory.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._stream = path.open("rb")
        np.lib.format.read_magic(self._stream)
        _, _, self._dtype = np.lib.format.read_array_header_1_0(self._stream)
        self._start = self._stream.tell()

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Elements start .. stop - 1."""
        self._stream.seek(self._start + start * self._dtype.itemsize)
        return np.fromfile(self._stream, self._dtype, stop - start)


class Work:
    """A work folder: ``bundle/`` becomes the bundle, ``scratch/`` is thrown away, ``state.json`` says what is done.

    Args:
        folder: made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.bundle = folder, folder / "bundle"
        self.bundle.mkdir(parents=True, exist_ok=True)
        state = folder / _STATE
        self._state: dict[str, Any] = json.loads(state.read_text(encoding="utf-8")) if state.is_file() else {}
        self._stages: dict[str, dict[str, Any]] = self._state.setdefault("stages", {})
        self.facts: dict[str, Any] = self._state.setdefault("facts", {})
        """What stages found out, kept with their progress."""

    def path(self, name: str) -> Path:
        """Where an array is: below ``scratch/`` if its name says so, else in the bundle."""
        return (self.folder if name.startswith(f"{SCRATCH}/") else self.bundle) / name

    def array(self, name: str) -> NDArray[Any]:
        """Map a finished array, read-only."""
        return np.load(self.path(name), mmap_mode="r", allow_pickle=False)

    def length(self, stage: str, name: str) -> int:
        """Rows that finished units of a stage have added to an array."""
        return int(self._stages.get(stage, {}).get("lengths", {}).get(name, 0))

    def done(self, stage: str) -> int:
        """Finished units of a stage."""
        return int(self._stages.get(stage, {}).get("units", 0))

    def grow(
        self,
        stage: str,
        arrays: Mapping[str, tuple[str, tuple[int, ...]]],
        units: int,
        make: Callable[[int], Pieces],
        report: Report,
    ) -> None:
        """Run the units of a stage that are not finished.

        Args:
            stage: its name.
            arrays: dtype and shape of a row of every array it makes, by name.
            units: how many there are.
            make: gives the pieces to append for a unit; it may also change `facts`.
            report: told the progress.
        """
        record = self._stages.setdefault(stage, {"units": 0, "lengths": {}})
        report(stage, record["units"], units, "")
        with self.room(), ExitStack() as stack:
            files = {
                name: stack.enter_context(
                    GrowingArray(self.path(name), dtype, tail, int(record["lengths"].get(name, 0)))
                )
                for name, (dtype, tail) in arrays.items()
            }
            for unit in range(record["units"], units):
                for piece in make(unit):
                    for name, block in piece.items():
                        files[name].append(block)
                for file in files.values():
                    file.sync()
                record |= {"units": unit + 1, "lengths": {name: file.length for name, file in files.items()}}
                self._save()
                report(stage, unit + 1, units, "")

    def once(self, stage: str, do: Callable[[], None], report: Report) -> None:
        """Run a stage that is one unit and writes its own files."""

        def make(_unit: int) -> Pieces:
            do()
            return ()

        self.grow(stage, {}, 1, make, report)

    def _save(self) -> None:
        fresh = self.folder / f"{_STATE}.new"
        with fresh.open("w", encoding="utf-8") as stream:
            json.dump(self._state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(self.folder / _STATE)

    @contextmanager
    def room(self) -> Generator[None]:
        """Say what to do when something cannot be read or written, such as on a full disk."""
        try:
            yield
        except OSError as error:
            full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            what = f"the disk of {self.folder} is full" if full else f"{error}"
            raise StoreError(
                f"{what}. What is finished is kept in {self.folder}: {'make room' if full else 'cure that'} and run "
                f"the same command again to go on, or remove that folder to give up."
            ) from error
