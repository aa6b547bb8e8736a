"""Stored specs and results: JSON files are the truth, the index only finds them.

``runs/specs`` and ``runs/results`` hold one file each a run, of the same name; ``runs/running`` what is in flight. A
file appears whole or not at all and is never overwritten. Names are written for people and never parsed: an id finds
its file through the index, which is filled from what the files say.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ...schemas.errors import IdTakenError, RequestError, StoreError, nearest
from ...schemas.manifest import is_name
from ...schemas.result import ExperimentResult, Outcome
from ...schemas.spec import ExperimentSpec, parse_spec_json
from . import files, index
from .index import Answer, Entry, Index, IndexUnusableError, Query
from .journal import Journal
from .records import INTERRUPTED, entry_of, read_result, read_spec, same_question, unfinished

_LATEST = 5
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reindexed:
    """What reading every stored result anew found.

    Attributes:
        count: results the index now knows.
        unreadable: file name and reason of each result that could not be read; the files are left alone.
        removed: temporary files and folders of interrupted writers that were deleted.
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
        self._reading = threading.Lock()
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
        running = self.journal.root
        files.check_writable(running)
        for folder in (self.specs, self.results):
            files.check_writable(folder, running)

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

        The index is locked meanwhile, so that an id goes to one question only on this host. When it cannot be, the
        files are stored all the same: they are the truth, and the index takes them up when it is next read.

        Raises:
            IdTakenError: the id was taken meanwhile.
            StoreError: the folder cannot be written; neither file was left in it.
        """
        for folder in (self.specs, self.results):
            files.make_folder(folder)
        name, stored = spec.file_name(), False

        def store(connection: sqlite3.Connection) -> None:
            nonlocal stored
            with index.writing(connection):
                if not stored:
                    self._publish(spec, result)
                    stored = True
                index.put(connection, entry_of(result, name))

        try:
            self.index.use(store)
        except IndexUnusableError as error:
            if not stored:
                self._publish(spec, result)
            _log.warning("%s is stored, but the index has not taken it up yet: %s", name, error)
        return self.results / name

    def publish_all(self, runs: Sequence[tuple[ExperimentSpec, ExperimentResult]]) -> list[str]:
        """Store many specs with their results as one group, which costs less than each alone, and index them.

        Returns:
            Ids that were taken meanwhile, whose results were not stored; all others are on disk.

        Raises:
            StoreError: the folder cannot be written; none of the files was left in it.
        """
        taken: list[str] | None = None

        def store(connection: sqlite3.Connection) -> None:
            nonlocal taken
            with index.writing(connection):
                if taken is None:
                    known = {
                        entry.spec_id for entry in index.having(connection, "spec_id", [each.id for each, _ in runs])
                    }
                    taken = [*known, *self.write_all([run for run in runs if run[0].id not in known])]
                for spec, result in runs:
                    if spec.id not in taken:
                        index.put(connection, entry_of(result, spec.file_name()))

        try:
            self.index.use(store)
        except IndexUnusableError as error:
            taken = self.write_all(runs) if taken is None else taken
            _log.warning("%d results are stored, but the index has not taken them up yet: %s", len(runs), error)
        return taken or []

    def write_all(self, runs: Sequence[tuple[ExperimentSpec, ExperimentResult]]) -> list[str]:
        """Store the files of `publish_all` and leave the index to the host that it belongs to."""
        for folder in (self.specs, self.results):
            files.make_folder(folder)
        contents = {self.specs / spec.file_name(): _json_of(spec) for spec, _ in runs}
        contents |= {self.results / spec.file_name(): _json_of(result) for spec, result in runs}
        there = files.publish_all(contents)
        return [spec.id for spec, _ in runs if self.results / spec.file_name() in there]

    def take_up(self, entries: Sequence[Entry]) -> None:
        """Index results whose files are stored; when the index cannot be written, it takes them up when next read."""

        def put(connection: sqlite3.Connection) -> None:
            with index.writing(connection):
                for entry in entries:
                    index.put(connection, entry)

        try:
            self.index.use(put)
        except IndexUnusableError as error:
            _log.warning("%d results are stored, but the index has not taken them up yet: %s", len(entries), error)

    def publish_unfinished(self, spec: ExperimentSpec, status: Outcome, message: str) -> Path:
        """Store a run that ended without a result of its own, as a record with no tables; errors as for `publish`."""
        return self.publish(spec, unfinished(spec, status, message))

    def _publish(self, spec: ExperimentSpec, result: ExperimentResult) -> None:
        self.check_id(spec)
        name = spec.file_name()
        new_spec = files.publish(self.specs / name, _json_of(spec))
        try:
            stored = files.publish(self.results / name, _json_of(result))
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
        """Store an interrupted run, unless its result was stored before its process died.

        A note that is no spec, or whose id another question has taken since, is dropped with a warning.
        """
        try:
            spec = parse_spec_json(noted, spec_id)
            if not (self.results / spec.file_name()).exists():
                self.publish_unfinished(spec, "interrupted", INTERRUPTED)
        except RequestError as error:
            _log.warning("the note of the interrupted run %s was dropped: %s", spec_id, error)

    # -- reading ----------------------------------------------------------------------------------------------------

    def find(self, spec_id: str) -> Entry | None:
        """The entry of an id, or None."""
        self._check_name(spec_id)
        return self._ask(lambda connection: index.get(connection, spec_id))

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
        near = nearest(spec_id, self.index.use(index.ids))
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
        return self._ask(lambda connection: index.by_digest(connection, digest))

    def having(self, column: Literal["digest", "spec_id"], values: Sequence[str]) -> list[Entry]:
        """The entries of many digests or ids, successful originals first."""
        return self._ask(lambda connection: index.having(connection, column, values))

    def search(self, query: Query) -> tuple[int, list[Entry]]:
        """How many results match, and the page asked for, newest first."""
        return self._ask(lambda connection: index.search(connection, query))

    # -- the index --------------------------------------------------------------------------------------------------

    def _ask(self, question: Callable[[sqlite3.Connection], Answer]) -> Answer:
        """Ask the index after reading into it what others have stored since it was last read."""
        if not self._recovered:
            self._recovered = True
            self.recover()

        def ask(connection: sqlite3.Connection) -> Answer:
            if not index.is_current(connection, self.results):
                with self._reading:  # what one thread reads, others need not
                    self._read_folder(connection)
            return question(connection)

        return self.index.use(ask)

    def _read_folder(self, connection: sqlite3.Connection) -> None:
        stamp = index.changed_ns(self.results)
        there, known = _json_names(self.results), index.file_names(connection)
        gone, new = sorted(known - there), sorted(there - known - self._unreadable.keys())
        if not gone and not new and not index.can_be_trusted(stamp):
            return
        # Reading takes seconds when much is new: before the transaction, which keeps others from storing.
        entries = [entry for name in new if (entry := self._read_entry(name))]
        with index.writing(connection):
            index.forget(connection, gone)
            for entry in entries:
                self._take_up(connection, entry)
            if index.can_be_trusted(stamp):
                index.mark_current(connection, stamp)

    def _take_up(self, connection: sqlite3.Connection, entry: Entry) -> None:
        twin = index.get(connection, entry.spec_id)
        if twin is not None and twin.file != entry.file:
            path = self.results / entry.file
            self._unreadable[entry.file] = f"{path} has the id of {twin.file}; only that one is found."
        else:
            index.put(connection, entry)

    def reindex(self) -> Reindexed:
        """Read every result anew; unreadable ones are reported and left alone."""
        removed = self.journal.clear_leftovers()
        removed += sum(files.remove_leftovers(folder) for folder in (self.specs, self.results))
        self._unreadable.clear()
        self.index.use(index.clear)
        count = len(self._ask(index.ids))
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


def _json_of(record: ExperimentSpec | ExperimentResult) -> bytes:
    return record.model_dump_json(indent=1).encode()


def _json_names(folder: Path) -> set[str]:
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as found:  # names alone: the folder is listed after every run
        return {entry.name for entry in found if entry.name.endswith(".json") and not entry.name.startswith(".")}
