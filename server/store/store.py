"""Stored specs and results: JSON files are the truth, the index only finds them.

``runs/specs`` and ``runs/results`` hold one file each a run, of the same name; ``runs/running`` what is in flight. A
file appears whole or not at all and is never overwritten. Names are written for people and never parsed: an id finds
its file through the index, which is filled from what the files say.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ...schemas.errors import IdTakenError, RequestError, StoreError, nearest
from ...schemas.manifest import is_name
from ...schemas.result import ExperimentResult, Outcome
from ...schemas.spec import ExperimentSpec, parse_spec_json
from . import files, index
from .index import Entry, Index, Query
from .journal import Journal
from .records import INTERRUPTED, entry_of, read_result, read_spec, same_question, unfinished

_LEFTOVER_SECONDS = 3600
_LATEST = 5
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reindexed:
    """What reading every stored result anew found.

    Attributes:
        count: results the index now knows.
        unreadable: file name and reason of each result that could not be read; the files are left alone.
        removed: temporary files of interrupted writers that were deleted.
    """

    count: int
    unreadable: tuple[tuple[str, str], ...] = ()
    removed: int = 0


@dataclass
class Store:
    """The runs of one home folder; threads and processes may share the folder.

    Args:
        root: the folder ``runs``; it is created when something is first written.
        keep: results kept in memory.
    """

    root: Path
    keep: int = 32
    _unreadable: dict[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.index = Index(self.root)
        self.journal = Journal(self.root / "running")
        self._loaded: OrderedDict[str, tuple[int, ExperimentResult]] = OrderedDict()
        self._guard = threading.Lock()
        self._recovered = False

    @property
    def specs(self) -> Path:
        """Folder of specs."""
        return self.root / "specs"

    @property
    def results(self) -> Path:
        """Folder of results."""
        return self.root / "results"

    def check_writable(self) -> None:
        """Prove that a run could be stored.

        Raises:
            StoreError: it could not, and why.
        """
        for folder in (self.specs, self.results):
            files.check_writable(folder)

    # -- writing ----------------------------------------------------------------------------------------------------

    def check_id(self, spec: ExperimentSpec) -> None:
        """Raise IdTakenError when the spec's id belongs to another spec that is stored.

        The files are asked, not the index: another host may have stored them. An id that was made up is random.
        """
        if "id" not in spec.model_fields_set:
            return
        for path in self.specs.glob(f"{spec.id}__f*.json"):
            stored = read_spec(path)
            if stored.id == spec.id and not same_question(stored, spec):
                raise IdTakenError(
                    f"id {spec.id!r} is taken by another spec ({stored.type} of feature {stored.feature_id}, {path}). "
                    f"Leave the id out, or choose one that is free. Nothing was run."
                )

    def publish(self, spec: ExperimentSpec, result: ExperimentResult) -> Path:
        """Store a spec with its result and return the result's file; both are on disk when this returns.

        Raises:
            IdTakenError: the id was taken meanwhile.
            StoreError: the folder cannot be written; neither file was left in it.
        """
        for folder in (self.specs, self.results):
            files.make_folder(folder)
        path = self.results / spec.file_name()
        try:
            with self.index.connect(write=True) as connection:
                self.check_id(spec)
                self._publish(spec, result)
                index.put(connection, entry_of(result, path.name))
        except sqlite3.OperationalError as error:
            # The files are the truth: a result that is there is stored, and the index finds it when it can be written.
            if not path.exists():
                raise StoreError(f"the index of results {self.index.path} cannot be used: {error}.") from error
            _log.warning("the index %s could not take %s up: %s", self.index.path, path.name, error)
        return path

    def publish_unfinished(self, spec: ExperimentSpec, status: Outcome, message: str) -> Path:
        """Store a run that ended without a result of its own, as a record with no tables; errors as for `publish`."""
        return self.publish(spec, unfinished(spec, status, message))

    def _publish(self, spec: ExperimentSpec, result: ExperimentResult) -> None:
        name = spec.file_name()
        new_spec = files.publish(self.specs / name, spec.model_dump_json(indent=1).encode())
        try:
            stored = files.publish(self.results / name, result.model_dump_json(indent=1).encode())
        except BaseException:
            if new_spec:
                (self.specs / name).unlink(missing_ok=True)
            raise
        if not stored:
            raise IdTakenError(f"id {spec.id!r} has a result already: choose a free id, or leave it out.")

    @contextmanager
    def in_flight(self, spec: ExperimentSpec) -> Generator[None]:
        """Keep on disk, for as long as the block lasts, that the run of a spec is going on.

        Raises:
            StoreError: the folder cannot be written.
        """
        with self.journal.noted(spec):
            yield

    def recover(self) -> int:
        """Store the runs that dead processes had in flight as interrupted; says how many there were."""
        return self.journal.recover(self._bury)

    def _bury(self, noted: bytes, spec_id: str) -> None:
        """Store an interrupted run, unless its result was stored before its process died."""
        try:
            spec = parse_spec_json(noted, spec_id)
        except RequestError:
            _log.warning("the record of the interrupted run %s cannot be read and was dropped", spec_id)
            return
        if not (self.results / spec.file_name()).exists():
            self.publish_unfinished(spec, "interrupted", INTERRUPTED)

    # -- reading ----------------------------------------------------------------------------------------------------

    def find(self, spec_id: str) -> Entry | None:
        """The entry of an id, or None."""
        self._check_name(spec_id)
        with self._current() as connection:
            return index.get(connection, spec_id)

    def entry(self, spec_id: str) -> Entry:
        """The entry of an id.

        Raises:
            UnknownNameError: no result of that id is stored.
        """
        found = self.find(spec_id)
        if found is None and self.recover():
            found = self.find(spec_id)
        if found is None:
            raise self._unknown(spec_id)
        return found

    def _unknown(self, spec_id: str) -> RequestError:
        """No result of that id: name the nearest, and the latest there are."""
        total, latest = self.search(Query(limit=_LATEST))
        if not total:
            return RequestError(f"unknown run id {spec_id!r}: no result is stored in {self.results} yet.")
        with self.index.connect() as connection:
            near = nearest(spec_id, index.ids(connection))
        guess = f": did you mean {near!r}?" if near else "."
        lines = "\n".join(f"  {entry.spec_id}: {entry.headline[:90]}" for entry in latest)
        return RequestError(
            f"unknown run id {spec_id!r}{guess} {total:,} are stored in {self.results}; the latest:\n{lines}\n"
            f"list_results (or `mechinterp-runner results`) searches them."
        )

    def path(self, spec_id: str) -> Path:
        """File of the stored result of an id."""
        return self.results / self.entry(spec_id).file

    def result(self, spec_id: str) -> ExperimentResult:
        """Load the result of an id.

        Raises:
            UnknownNameError: no result of that id is stored.
            StoreError: its file cannot be read.
        """
        return self.load(self.entry(spec_id))

    def load(self, entry: Entry) -> ExperimentResult:
        """Load the result of an entry; the last ones loaded are kept in memory, as files never change."""
        path = self.results / entry.file
        changed = path.stat().st_mtime_ns if path.is_file() else 0
        with self._guard:
            kept = self._loaded.get(entry.file)
            if kept is not None and kept[0] == changed:
                self._loaded.move_to_end(entry.file)
                return kept[1]
        result = read_result(path)
        with self._guard:
            self._loaded[entry.file] = (changed, result)
            while len(self._loaded) > self.keep:
                self._loaded.popitem(last=False)
        return result

    def spec(self, spec_id: str) -> ExperimentSpec:
        """Load the spec of an id; errors as for `result`."""
        return read_spec(self.specs / self.entry(spec_id).file)

    def by_digest(self, digest: str) -> Entry | None:
        """The successful result of the same question, or None."""
        with self._current() as connection:
            return index.by_digest(connection, digest)

    def search(self, query: Query) -> tuple[int, list[Entry]]:
        """How many results match, and the page asked for, newest first."""
        with self._current() as connection:
            return index.search(connection, query)

    # -- the index --------------------------------------------------------------------------------------------------

    @contextmanager
    def _current(self) -> Generator[sqlite3.Connection]:
        """Open the index after reading into it what others have stored since it was last read."""
        if not self._recovered:
            self._recovered = True
            self.recover()
        with closing(self._up_to_date()) as connection:
            yield connection

    def _up_to_date(self) -> sqlite3.Connection:
        connection = self.index.open()
        try:
            if not index.is_current(connection, self.results):
                self._read_folder(connection)
        except sqlite3.OperationalError as error:
            connection.close()
            self.index.retreat(error)
            return self._up_to_date()
        except BaseException:
            connection.close()
            raise
        return connection

    def _read_folder(self, connection: sqlite3.Connection) -> None:
        stamp = index.changed_ns(self.results)
        there = {path.name for path in _json_files(self.results)}
        known = index.file_names(connection)
        gone, new = sorted(known - there), sorted(there - known - self._unreadable.keys())
        if not gone and not new and not index.can_be_trusted(stamp):
            return
        with index.writing(connection):
            index.forget(connection, gone)
            for name in new:
                self._read_file(connection, name)
            if index.can_be_trusted(stamp):
                index.mark_current(connection, stamp)

    def _read_file(self, connection: sqlite3.Connection, name: str) -> None:
        entry = self._read_entry(name)
        twin = index.get(connection, entry.spec_id) if entry else None
        if twin is not None and twin.file != name:
            self._unreadable[name] = f"{self.results / name} has the id of {twin.file}; only that one is found."
        elif entry is not None:
            index.put(connection, entry)

    def reindex(self) -> Reindexed:
        """Read every result anew; unreadable ones are reported and left alone."""
        self._unreadable.clear()
        with self.index.connect(write=True) as connection:
            index.clear(connection)
        with self._current() as connection:
            count = len(index.ids(connection))
        removed = sum(_remove_leftovers(folder) for folder in (self.specs, self.results))
        return Reindexed(count, tuple(sorted(self._unreadable.items())), removed)

    def _read_entry(self, name: str) -> Entry | None:
        try:
            return entry_of(read_result(self.results / name), name)
        except StoreError as error:
            self._unreadable[name] = str(error)
            return None

    @staticmethod
    def _check_name(spec_id: str) -> None:
        if not is_name(spec_id):
            raise RequestError(
                f"id {spec_id!r} is not allowed: letters, digits, '.', '_' and '-' only, at most 64, no path."
            )


def _json_files(folder: Path) -> Sequence[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if path.suffix == ".json" and not path.name.startswith(".")]


def _remove_leftovers(folder: Path) -> int:
    """Delete temporary files no writer can still be at work on."""
    old = time.time() - _LEFTOVER_SECONDS
    found = [path for path in folder.glob(f"{files.TEMPORARY}*") if path.stat().st_mtime < old]
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)
