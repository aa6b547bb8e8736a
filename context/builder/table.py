"""Reading a table of builds: every row that no gear allows is counted, named by its line and skipped."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
from numpy.typing import NDArray

from ...schemas.errors import RequestError, nearest
from ...schemas.facts import (
    ABILITIES,
    MAIN_AP,
    MAIN_ONLY,
    MAX_MAINS,
    MAX_SUBS,
    REACHABLE_AP,
    SLOTS,
    STACKABLE,
    WEAPONS,
    mains_and_subs,
)
from .generate import COLUMNS, Builds

Bool = NDArray[np.bool_]
Floats = NDArray[np.float64]

WEAPON_COLUMN = "weapon_id"
COUNT_COLUMNS = ("count", "n")
KNOWN_COLUMNS = frozenset({"wins", "losses", "build_id", "date", "source", "rank", "mode", "stage", "player", "name"})
"""Columns that tables of builds often have and that are no abilities."""
_LINES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Skipped:
    """Rows that were skipped for one reason: how many, and the first few in words."""

    reason: str
    count: int
    first: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TableReport:
    """What was read of a table.

    Attributes:
        rows: Rows of the table.
        used: Rows that hold a legal build.
        distinct: Distinct builds among them.
        kits: Distinct kits among them.
        skipped: The others, by reason.
        ignored_columns: Columns that are no abilities.
    """

    rows: int
    used: int
    distinct: int
    kits: int
    skipped: tuple[Skipped, ...]
    ignored_columns: tuple[str, ...]

    def summary(self) -> str:
        """One line: what was used and how much was skipped."""
        lost = self.rows - self.used
        held = f"{self.distinct:,} builds, {self.kits} kits"
        return f"{self.used:,} of {self.rows:,} rows used ({held}), {lost:,} skipped"

    def lines(self) -> list[str]:
        """The report line by line, skipped rows by reason with their first lines."""
        out = [self.summary()]
        for entry in self.skipped:
            more = f"; and {entry.count - len(entry.first):,} more" if entry.count > len(entry.first) else ""
            out.append(f"{entry.reason}: {entry.count:,} ({'; '.join(entry.first)}{more})")
        if self.ignored_columns:
            out.append(f"columns ignored: {', '.join(self.ignored_columns)}")
        return out

    def as_dict(self) -> dict[str, Any]:
        """The counts, for a manifest."""
        counts = {entry.reason: entry.count for entry in self.skipped}
        return {"rows": self.rows, "used": self.used, "distinct_builds": self.distinct, "skipped": counts}


@dataclass(frozen=True, slots=True)
class ReadTable:
    """Distinct legal builds, how often each was seen, and the report."""

    builds: Builds
    count: Floats
    report: TableReport


@dataclass(frozen=True, slots=True)
class _Raw:
    """A table as read: columns of text or numbers, the line of each row, and lines that hold no row at all."""

    columns: Mapping[str, NDArray[Any]]
    lines: NDArray[np.int64]
    ragged: tuple[str, ...] = ()


def read_table(path: Path, ignore_columns: Sequence[str] = ()) -> ReadTable:
    """Read and check a table of builds.

    Args:
        path: ``.parquet`` or ``.csv``: ``weapon_id`` (the game's kit id, or ``weapon_id_1111``), one AP column per
            ability (a missing column or an empty cell is 0 AP), optionally ``count`` (or ``n``).
        ignore_columns: Further columns that are no abilities.

    Returns:
        The legal builds, equal ones merged and their counts added.

    Raises:
        RequestError: The file is missing, is no such table, or holds no legal build.
    """
    raw = _read(path)
    if WEAPON_COLUMN not in raw.columns:
        raise RequestError(f"{path.name} has no column {WEAPON_COLUMN!r}; its columns are {', '.join(raw.columns)}")
    if not any(ability in raw.columns for ability in ABILITIES):
        raise RequestError(f"{path.name} has no ability column; abilities are {', '.join(ABILITIES)}")
    aside = {WEAPON_COLUMN, *COUNT_COLUMNS, *KNOWN_COLUMNS, *ignore_columns}
    unknown = [name for name in raw.columns if name not in ABILITIES and name not in aside]
    weapon = _numbers(raw.columns[WEAPON_COLUMN], blank=np.nan, prefix="weapon_id_")
    ap = np.zeros((len(weapon), len(COLUMNS)))
    for index, ability in enumerate(COLUMNS):
        if ability in raw.columns:
            ap[:, index] = _numbers(raw.columns[ability])
    stray = np.zeros((len(weapon), len(unknown)))
    for index, name in enumerate(unknown):
        stray[:, index] = _numbers(raw.columns[name])
    count_column = next((name for name in COUNT_COLUMNS if name in raw.columns), None)
    count = np.ones(len(weapon)) if count_column is None else _numbers(raw.columns[count_column], blank=1.0)
    checks = _Checks(raw, weapon, ap, count, stray, unknown)
    return _merge(path, checks, tuple(name for name in raw.columns if name in aside - {WEAPON_COLUMN, count_column}))


def _read(path: Path) -> _Raw:
    """The columns of the file; RequestError when it cannot be read."""
    if not path.is_file():
        raise RequestError(f"no table of builds at {path}: give a .parquet or .csv file")
    suffix = path.suffix.lower()
    if suffix not in {".parquet", ".csv"}:
        raise RequestError(f"{path.name}: a table of builds is a .parquet or a .csv file, not {suffix or 'this'}")
    try:
        return _read_csv(path) if suffix == ".csv" else _read_parquet(path)
    except (pa.ArrowInvalid, UnicodeDecodeError, csv.Error) as error:
        raise RequestError(f"{path.name} cannot be read as {suffix[1:]}: {error}") from error


def _columns(table: Any) -> dict[str, NDArray[Any]]:  # noqa: ANN401 - pyarrow's Table has no published type
    """Columns of a pyarrow table by their stripped lower-case names."""
    return {
        name.strip().lower(): column.to_numpy() for name, column in zip(table.column_names, table.columns, strict=True)
    }


def _read_parquet(path: Path) -> _Raw:
    """A parquet file; row i counts as line i + 1."""
    table = pa_parquet.read_table(path)
    return _Raw(_columns(table), np.arange(1, table.num_rows + 1))


def _read_csv(path: Path) -> _Raw:
    """A CSV file, all cells as text; lines whose number of cells is wrong are set aside."""
    with path.open(newline="", encoding="utf-8-sig") as stream:
        names = next(csv.reader(stream), [])
    if not names:
        raise RequestError(f"{path.name} is empty: its first line must name the columns, {WEAPON_COLUMN} among them")
    ragged: list[Any] = []

    def set_aside(row: Any) -> str:  # noqa: ANN401 - pyarrow's InvalidRow has no published type
        ragged.append(row)
        return "skip"

    text = dict.fromkeys(names, pa.string())
    table = pa_csv.read_csv(
        path,
        read_options=pa_csv.ReadOptions(use_threads=False, column_names=names, skip_rows=1),
        parse_options=pa_csv.ParseOptions(invalid_row_handler=set_aside, ignore_empty_lines=False),
        convert_options=pa_csv.ConvertOptions(column_types=text, strings_can_be_null=False),
    )
    bad_lines = np.array([row.number for row in ragged], dtype=np.int64)
    lines = np.setdiff1d(np.arange(2, table.num_rows + len(ragged) + 2), bad_lines)
    told = tuple(f"line {row.number}: {row.actual_columns} cells, not {row.expected_columns}" for row in ragged)
    return _Raw(_columns(table), lines, told)


def _numbers(cells: NDArray[Any], *, blank: float = 0.0, prefix: str = "") -> Floats:
    """Cells as numbers: ``blank`` for an empty or missing one, NaN for what is no number."""
    if np.issubdtype(cells.dtype, np.number):
        values = cells.astype(np.float64)
        return np.where(np.isnan(values), blank, values)
    texts = np.array(["" if cell is None else cell for cell in cells.tolist()], dtype=object).astype(str)
    distinct, where = np.unique(texts, return_inverse=True)
    return np.array([_number(text.strip().removeprefix(prefix), blank) for text in distinct])[where]


def _number(text: str, blank: float) -> float:
    """One cell's number."""
    if text in {"", "nan", "None"}:
        return blank
    try:
        return float(text)
    except ValueError:
        return float("nan")


@dataclass(frozen=True, slots=True)
class _Checks:
    """The numbers of a table and the checks on its rows."""

    raw: _Raw
    weapon: Floats
    ap: Floats
    count: Floats
    stray: Floats
    stray_names: Sequence[str]

    def failures(self) -> dict[str, Bool]:
        """Reason -> which rows fail that check; a row is skipped for the first that it fails."""
        reachable = np.array([0, *REACHABLE_AP])
        stackable, main_only = self.ap[:, : len(STACKABLE)], self.ap[:, len(STACKABLE) :]
        legal = np.isin(stackable, reachable).all(axis=1) & np.isin(main_only, [0, MAIN_AP]).all(axis=1)
        worn = main_only == MAIN_AP
        slots = np.array([[ABILITIES[name].slot == slot for slot in SLOTS] for name in MAIN_ONLY])
        split = np.array([mains_and_subs(ap) or (0, 0) for ap in range(int(reachable.max()) + 1)])
        used = split[np.where(np.isin(stackable, reachable), stackable, 0).astype(np.int64)].sum(axis=1)
        failed = {
            "unknown weapon": ~np.isin(self.weapon, list(WEAPONS)),
            "not a number": np.isnan(self.ap).any(axis=1) | np.isnan(self.count),
            "unknown ability": (self.stray != 0).any(axis=1),
            "AP that no gear gives": ~legal,
            "two main-only abilities in one slot": (worn.astype(np.int64) @ slots > 1).any(axis=1),
            "more gear than three mains and nine subs": (used[:, 0] + worn.sum(axis=1) > MAX_MAINS)
            | (used[:, 1] > MAX_SUBS),
            "no ability at all": ~(self.ap > 0).any(axis=1),
            "count below 1": self.count < 1,
        }
        return {reason: np.asarray(rows, dtype=np.bool_) for reason, rows in failed.items()}

    def describe(self, reason: str, row: int) -> str:
        """What is wrong with a row, in words."""
        return f"line {self.raw.lines[row]}: {self._detail(reason, row)}"

    def _detail(self, reason: str, row: int) -> str:
        """The cells that are to blame."""
        if reason == "unknown weapon":
            return f"{WEAPON_COLUMN} = {self.raw.columns[WEAPON_COLUMN][row]}"
        if reason == "unknown ability":
            name = self.stray_names[int(np.flatnonzero(self.stray[row] != 0)[0])]
            near = nearest(name, ABILITIES)
            return f"{name} = {self.raw.columns[name][row]}" + (f" (did you mean {near}?)" if near else "")
        if reason == "count below 1":
            return f"count = {self.count[row]:g}"
        shown = np.isnan(self.ap[row])
        if reason == "AP that no gear gives":
            allowed = [(0, *REACHABLE_AP) if name in STACKABLE else (0, MAIN_AP) for name in COLUMNS]
            shown = np.array([value not in choices for value, choices in zip(self.ap[row], allowed, strict=True)])
        elif reason != "not a number":
            shown = self.ap[row] > 0
        cells = [f"{COLUMNS[i]} = {self._cell(COLUMNS[i], row)}" for i in np.flatnonzero(shown)]
        return ", ".join(cells) or "nothing but zeros"

    def _cell(self, column: str, row: int) -> str:
        """A cell as the table has it."""
        return str(self.raw.columns[column][row])


def _merge(path: Path, checks: _Checks, ignored: tuple[str, ...]) -> ReadTable:
    """Skip the bad rows, merge equal builds, report."""
    good = np.ones(len(checks.weapon), dtype=np.bool_)
    skipped: list[Skipped] = []
    if checks.raw.ragged:
        ragged = checks.raw.ragged
        skipped.append(Skipped("wrong number of cells", len(ragged), ragged[:_LINES_SHOWN]))
    for reason, failed in checks.failures().items():
        rows = np.flatnonzero(failed & good)
        good &= ~failed
        if rows.size:
            first = tuple(checks.describe(reason, int(row)) for row in rows[:_LINES_SHOWN])
            skipped.append(Skipped(reason, int(rows.size), first))
    table = np.hstack([checks.weapon[good, None], checks.ap[good]]).astype(np.int64)
    distinct, where = np.unique(table, axis=0, return_inverse=True)
    report = TableReport(
        rows=len(good) + len(checks.raw.ragged),
        used=int(good.sum()),
        distinct=len(distinct),
        kits=len(np.unique(distinct[:, 0])),
        skipped=tuple(skipped),
        ignored_columns=ignored,
    )
    if not len(distinct):
        hint = "a column that is no ability can be named in ignore_columns"
        raise RequestError(f"{path.name} holds no usable build ({hint}). " + "; ".join(report.lines()))
    count = np.bincount(where.ravel(), checks.count[good], minlength=len(distinct)).astype(np.float64)
    return ReadTable(Builds(distinct[:, 0], distinct[:, 1:].astype(np.uint8)), count, report)
