"""Results on a terminal: the headline, tables that fit the width, bars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from ...schemas.result import ExperimentResult, Table
from ..render import bars, charted_column, command_of, finding_line, number
from ..store.index import Entry

_ROWS = 20
_BAR = 24
_SECOND_RANK = (
    "mean_pre",
    "mean_responders",
    "responder_low",
    "responder_high",
    "ci_",
    "p_value",
    "q_value",
    "std",
    "specificity",
    "resolved",
    "reason",
    "n_clusters",
    "label",
)
"""How the names of columns begin that are left out first where the terminal is too narrow for all."""


def print_result(console: Console, result: ExperimentResult, path: Path | None, *, only: str | None = None) -> None:
    """Print a result: headline, warnings, findings, tables with bars, followups as commands, where it is stored.

    ``only`` names the one table to print; the others are mentioned.
    """
    console.print(Text(result.headline or result.get_summary(), style="bold"))
    if not result.success:
        console.print(Text(f"failed: {result.error_message}", style="bold red"))
    for warning in result.diagnostics.warnings if result.diagnostics else []:
        console.print(Text(f"warning: {warning}", style="yellow"))
    for finding in result.findings[:_ROWS]:
        console.print(Text(f"• {finding_line(finding)}"))
    chosen = [table for name, table in result.tables.items() if only in {None, name}]
    for table in chosen:
        print_table(console, table)
    others = [name for name in result.tables if only not in {None, name}]
    if others:
        console.print(Text(f"other tables of the stored result: {', '.join(others)}"))
    for followup in result.followups:
        command = command_of(followup.spec)
        console.print(Text(f"next: {followup.reason}", style="cyan"))
        if command:
            console.print(Text(f"  {command}"), soft_wrap=True)
    if path is not None:
        origin = f" (answer of {result.cached_from})" if result.cached else ""
        console.print(Text(f"stored: {path}{origin}"), soft_wrap=True)


def print_table(console: Console, table: Table, *, max_rows: int = _ROWS) -> None:
    """Print a table: the columns that fit, and a bar for the column that matters."""
    rows = table.rows[:max_rows]
    if not rows:
        console.print(Text(f"{table.name}: no rows. {' '.join(table.notes)}"))
        return
    charted = charted_column(table)
    columns = _fitting(table, console.width, with_bar=charted is not None)
    grid = Grid(title=table.name, title_justify="left", caption=_caption(table, len(rows), len(columns)))
    for column in columns:
        texts = any(isinstance(row.get(column), str) for row in rows)
        grid.add_column(column, justify="left" if texts else "right", overflow="fold", no_wrap=not texts)
    drawn = [""] * len(rows)
    if charted:
        grid.add_column(charted, style="cyan", no_wrap=True)
        plain = not (console.encoding or "").lower().startswith("utf")
        drawn = bars([row.get(charted) for row in rows], _BAR, plain=plain)
    for row, bar in zip(rows, drawn, strict=True):
        cells = [number(row.get(column)) for column in columns]
        grid.add_row(*(Text(cell) for cell in (*cells, bar) if charted or cell is not bar))
    console.print(grid)


def _caption(table: Table, shown: int, columns: int) -> str:
    hidden = [
        f"{len(table.rows) - shown:,} more rows" if len(table.rows) > shown else "",
        f"{len(table.columns) - columns} more columns in the stored result" if len(table.columns) > columns else "",
    ]
    return "; ".join(part for part in [*table.notes, *hidden] if part)


def _fitting(table: Table, width: int, *, with_bar: bool) -> list[str]:
    """The columns that fit the width: those with values, the plainer ones first."""
    rows = table.rows[:_ROWS]
    filled = [name for name in table.columns if any(row.get(name) is not None for row in rows)]
    ranked = sorted(filled, key=lambda name: name.startswith(_SECOND_RANK))
    room = width - 2 - (_BAR + 3 if with_bar else 0)
    chosen: set[str] = set()
    for name in ranked:
        need = 3 + max(len(name), *(min(len(number(row.get(name))), 24) for row in rows))
        if chosen and need > room:
            continue
        room -= need
        chosen.add(name)
    return [name for name in filled if name in chosen]


def print_runs(console: Console, total: int, entries: Sequence[Entry]) -> None:
    """Print a list of stored results."""
    grid = Grid(caption=f"{len(entries)} of {total:,} stored results, newest first")
    for name in ("id", "type", "feature", "bundle", "headline"):
        grid.add_column(name, overflow="fold", no_wrap=name == "id")
    for entry in entries:
        headline = entry.headline if entry.success else f"failed: {entry.error_message}"
        cells = (entry.spec_id, entry.experiment_type, str(entry.feature_id), entry.bundle, headline)
        grid.add_row(*(Text(cell) for cell in cells))
    console.print(grid)
