"""The SQLite index that answers searches over stored results; derived from the files, and rebuilt when they differ.

The index belongs to a host. It lies beside the results as ``index-<host>.sqlite``, or, when that folder is on a
network file system (where SQLite's locks are not to be trusted) or cannot be written, in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import socket
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, TypeVar

from platformdirs import user_cache_path

from ...schemas.errors import StoreError
from . import files

Answer = TypeVar("Answer")

_VERSION = 3
_BUSY_SECONDS = 30.0
_RACY_NS = 2_000_000_000
_MOST_VALUES = 500
"""Values in one statement: SQLite takes 999 in its older versions."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the index knows of one stored result."""

    spec_id: str
    file: str
    experiment_type: str
    feature_id: int
    bundle: str
    digest: str
    success: bool
    status: str
    cached: bool
    headline: str
    error_message: str | None
    description: str | None
    rationale: str | None
    parent_hypothesis: str | None
    parent_spec_id: str | None
    stored_at: str
    duration_seconds: float


@dataclass(frozen=True, slots=True)
class Query:
    """Which results to list, newest first; a field that is None does not narrow the search.

    Attributes:
        text: words that must all occur in headline, description, rationale, hypothesis, type or id.
        since: earliest time, ISO 8601.
        until: latest time, ISO 8601.
    """

    feature_id: int | None = None
    experiment_type: str | None = None
    bundle: str | None = None
    parent_hypothesis: str | None = None
    parent_spec_id: str | None = None
    success: bool | None = None
    text: str | None = None
    since: str | None = None
    until: str | None = None
    limit: int = 20
    offset: int = 0


_COLUMNS = tuple(field.name for field in fields(Entry))
_SCHEMA = (
    "DROP TABLE IF EXISTS results",
    "DROP TABLE IF EXISTS folder",
    f"CREATE TABLE results ({', '.join(_COLUMNS)}, haystack, PRIMARY KEY (spec_id)) WITHOUT ROWID",
    "CREATE INDEX by_digest ON results (digest, success)",
    "CREATE INDEX by_time ON results (stored_at)",
    "CREATE INDEX by_file ON results (file)",
    "CREATE TABLE folder (seen_ns INTEGER)",
    f"PRAGMA user_version = {_VERSION}",
)


def index_path(runs: Path) -> Path:
    """Where this host keeps the index of a folder of runs, when that folder is local and can be written."""
    host = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
    return runs / f"index-{host}.sqlite"


class IndexUnusableError(StoreError):
    """The index cannot be used now; the files of the store may well be."""


class Index:
    """The index of one folder of runs; every use opens it anew, so that threads and forks may share the object."""

    def __init__(self, runs: Path) -> None:
        key = hashlib.sha256(f"{socket.gethostname()}:{runs.resolve()}".encode()).hexdigest()[:24]
        elsewhere = (user_cache_path("mechinterp-runner", appauthor=False), Path(tempfile.gettempdir()))
        self._places = [folder / f"mechinterp-index-{key}.sqlite" for folder in elsewhere]
        if not files.on_network(runs):
            self._places.insert(0, index_path(runs))
        self._chosen: Path | None = None
        self._guard = threading.RLock()
        self._mended = 0

    @property
    def path(self) -> Path:
        """The file of the index."""
        with self._guard:
            if self._chosen is None:
                self._chosen = next((place for place in self._places if _usable(place)), None)
            if self._chosen is None:
                tried = ", ".join(str(place) for place in self._places)
                raise IndexUnusableError(
                    f"no folder can hold the index of results; tried {tried}. Make one of them writable."
                )
            return self._chosen

    def use(self, work: Callable[[sqlite3.Connection], Answer]) -> Answer:
        """Open the index and do ``work`` with it; once more when the index proved unusable and could be mended.

        Raises:
            IndexUnusableError: it is locked, or no place can be used.
        """
        anew = False
        while True:
            seen = self._mended
            try:
                with closing(_prepare(self.path)) as connection:
                    return work(connection)
            except sqlite3.DatabaseError as error:
                broken = not isinstance(error, sqlite3.OperationalError)
                if broken and anew:
                    raise IndexUnusableError(f"the index of results {self.path} cannot be used: {error}.") from error
                anew = anew or broken
                self._mend(error, seen)

    def _mend(self, error: sqlite3.DatabaseError, seen: int) -> None:
        """Make the index usable again, unless another thread has mended it since it was ``seen``."""
        with self._guard:
            if seen != self._mended:
                return
            if isinstance(error, sqlite3.OperationalError):
                self._retreat(error)
            else:
                self.drop()  # it is derived data: a broken or foreign file is made anew and filled from the results
            self._mended += 1

    def _retreat(self, error: sqlite3.OperationalError) -> None:
        """Give up the present place, whose disk is full or can no longer be written, for the next one."""
        failed = self.path
        others = [place for place in self._places if place != failed]
        if "locked" in str(error) or not others:
            raise IndexUnusableError(f"the index of results {failed} cannot be used: {error}. Try again.") from error
        self._places, self._chosen = others, None

    def drop(self) -> None:
        """Delete the index; the next use makes it anew."""
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)


@contextmanager
def writing(connection: sqlite3.Connection) -> Generator[None]:
    """A transaction that other processes on this host wait for; nothing of it stays when it fails."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.rollback()
        raise
    connection.commit()


def _usable(place: Path) -> bool:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with closing(_prepare(place)) as connection:
            connection.execute("PRAGMA busy_timeout = 0")  # who finds it locked need not wait to know it for usable
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
    except sqlite3.OperationalError as error:
        return "locked" in str(error)
    except sqlite3.DatabaseError:
        return True  # what is there is no database; it will be replaced
    except OSError:
        return False
    return True


def _prepare(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
    try:
        if _version(connection) != _VERSION:
            with suppress(sqlite3.OperationalError):  # some file systems cannot do WAL: the default journal serves
                connection.execute("PRAGMA journal_mode = WAL")
            _create(connection)
        connection.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        connection.close()
        raise
    return connection


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _create(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    if _version(connection) != _VERSION:  # another process may have made it meanwhile
        for statement in _SCHEMA:
            connection.execute(statement)
    connection.commit()


def put(connection: sqlite3.Connection, entry: Entry) -> None:
    """Add or replace an entry."""
    values = [getattr(entry, name) for name in _COLUMNS]
    words = (
        entry.spec_id,
        entry.experiment_type,
        entry.headline,
        entry.error_message,
        entry.description,
        entry.rationale,
        entry.parent_hypothesis,
    )
    haystack = "\n".join(word for word in words if word).casefold()
    marks = ", ".join("?" * (len(values) + 1))
    connection.execute(f"INSERT OR REPLACE INTO results VALUES ({marks})", [*values, haystack])  # noqa: S608


def file_names(connection: sqlite3.Connection) -> set[str]:
    """Result files the index knows."""
    return {row[0] for row in connection.execute("SELECT file FROM results")}


def forget(connection: sqlite3.Connection, names: Sequence[str]) -> None:
    """Drop the entries of result files that are gone."""
    connection.executemany("DELETE FROM results WHERE file = ?", [(name,) for name in names])


def clear(connection: sqlite3.Connection) -> None:
    """Forget everything."""
    with writing(connection):
        connection.execute("DELETE FROM results")
        connection.execute("DELETE FROM folder")


def is_current(connection: sqlite3.Connection, folder: Path) -> bool:
    """Whether the folder has not changed since it was last read."""
    row = connection.execute("SELECT seen_ns FROM folder").fetchone()
    return row is not None and row[0] == changed_ns(folder)


def can_be_trusted(stamp: int) -> bool:
    """Whether a folder's time of change is old enough that a later change must show in it.

    A change within the clock's granularity leaves the time as it was.
    """
    return time.time_ns() - stamp > _RACY_NS


def mark_current(connection: sqlite3.Connection, stamp: int) -> None:
    """Note that the folder was read as it was at ``stamp``."""
    connection.execute("DELETE FROM folder")
    connection.execute("INSERT INTO folder VALUES (?)", (stamp,))


def changed_ns(folder: Path) -> int:
    """The folder's time of change, to be taken before it is listed; 0 when it is not there."""
    return folder.stat().st_mtime_ns if folder.is_dir() else 0


def get(connection: sqlite3.Connection, spec_id: str) -> Entry | None:
    """The entry of an id."""
    row = connection.execute(f"SELECT {', '.join(_COLUMNS)} FROM results WHERE spec_id = ?", (spec_id,)).fetchone()  # noqa: S608
    return _entry(row) if row else None


def by_digest(connection: sqlite3.Connection, digest: str) -> Entry | None:
    """The successful result of a digest; an original rather than an alias of it."""
    row = connection.execute(
        f"SELECT {', '.join(_COLUMNS)} FROM results WHERE digest = ? AND success ORDER BY cached, stored_at LIMIT 1",  # noqa: S608
        (digest,),
    ).fetchone()
    return _entry(row) if row else None


def having(connection: sqlite3.Connection, column: Literal["digest", "spec_id"], values: Sequence[str]) -> list[Entry]:
    """The entries that have one of the values in a column; successful originals come first."""
    found = list[Entry]()
    for at in range(0, len(values), _MOST_VALUES):
        part = values[at : at + _MOST_VALUES]
        rows = connection.execute(
            f"SELECT {', '.join(_COLUMNS)} FROM results WHERE {column} IN ({', '.join('?' * len(part))}) "  # noqa: S608
            "ORDER BY success DESC, cached, stored_at",
            part,
        )
        found += map(_entry, rows)
    return found


def ids(connection: sqlite3.Connection) -> list[str]:
    """Every id, newest first."""
    return [row[0] for row in connection.execute("SELECT spec_id FROM results ORDER BY stored_at DESC, spec_id DESC")]


def search(connection: sqlite3.Connection, query: Query) -> tuple[int, list[Entry]]:
    """How many entries match, and the page of them that was asked for."""
    where, values = _conditions(query)
    total = connection.execute(f"SELECT COUNT(*) FROM results WHERE {where}", values).fetchone()[0]  # noqa: S608
    rows = connection.execute(
        f"SELECT {', '.join(_COLUMNS)} FROM results WHERE {where} "  # noqa: S608 - names are ours, values are bound
        "ORDER BY stored_at DESC, spec_id DESC LIMIT ? OFFSET ?",
        [*values, query.limit, query.offset],
    ).fetchall()
    return int(total), [_entry(row) for row in rows]


def _conditions(query: Query) -> tuple[str, list[object]]:
    exact = ("feature_id", "experiment_type", "bundle", "parent_hypothesis", "parent_spec_id", "success")
    parts, values = ["1"], list[object]()
    for name in exact:
        value = getattr(query, name)
        if value is not None:
            parts.append(f"{name} = ?")
            values.append(value)
    for sign, moment in ((">=", query.since), ("<=", query.until)):
        if moment is not None:
            parts.append(f"stored_at {sign} ?")
            values.append(moment)
    for word in (query.text or "").casefold().split():
        parts.append("INSTR(haystack, ?)")
        values.append(word)
    return " AND ".join(parts), values


def _entry(row: Sequence[object]) -> Entry:
    values = dict(zip(_COLUMNS, row, strict=True))
    values["success"], values["cached"] = bool(values["success"]), bool(values["cached"])
    return Entry(**values)  # pyright: ignore[reportArgumentType] - the columns are the fields
