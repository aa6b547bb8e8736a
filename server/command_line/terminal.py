"""Results on a terminal: the headline, tables that fit the width, bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from ...schemas.result import ExperimentResult, Table
from ...schemas.spec import DatasetSlice
from ..queries import DryRunView, TypeView
from ..render import bars, charted_column, command_of, finding_line, number
from ..store.index import Entry

_ROWS = 20
_BAR, _SHORT_BAR = 24, 10
_NARROW = 90
"""Columns below which a list is printed as paragraphs, and bars are short."""
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
    bar_width = _BAR if console.width >= _NARROW else _SHORT_BAR
    columns = _fitting(table, console.width - 2 - (max(bar_width, len(charted)) + 3 if charted else 0))
    grid = Grid(title=table.name, title_justify="left", caption_justify="left")
    grid.caption = _caption(table, len(rows), len(columns))
    for column in columns:
        texts = any(isinstance(row.get(column), str) for row in rows)
        grid.add_column(column, justify="left" if texts else "right", overflow="fold", no_wrap=not texts)
    drawn = [""] * len(rows)
    if charted:
        grid.add_column(charted, style="cyan", no_wrap=True)
        plain = not (console.encoding or "").lower().startswith("utf")
        drawn = bars([row.get(charted) for row in rows], bar_width, plain=plain)
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


def _fitting(table: Table, room: int) -> list[str]:
    """The columns that fit the room there is: those with values, the plainer ones first."""
    rows = table.rows[:_ROWS]
    filled = [name for name in table.columns if any(row.get(name) is not None for row in rows)]
    ranked = sorted(filled, key=lambda name: name.startswith(_SECOND_RANK))
    chosen: set[str] = set()
    for name in ranked:
        need = 3 + max(len(name), *(min(len(number(row.get(name))), 24) for row in rows))
        if chosen and need > room:
            continue
        room -= need
        chosen.add(name)
    return [name for name in filled if name in chosen]


def print_runs(console: Console, entries: Sequence[Entry], counted: str) -> None:
    """Print a list of stored results, newest first: a table, or a paragraph each where it is too narrow for one."""
    if console.width < _NARROW:
        for entry in entries:
            facts = f"{entry.experiment_type} of feature {entry.feature_id}, {entry.bundle}"
            _print_block(console, f"{entry.spec_id} {facts}", said(entry))
        console.print(Text(counted))
        return
    grid = Grid()
    for name in ("id", "type", "feature", "bundle", "headline"):
        grid.add_column(name, overflow="fold", no_wrap=name != "headline")
    for entry in entries:
        cells = (entry.spec_id, entry.experiment_type, str(entry.feature_id), entry.bundle, said(entry))
        grid.add_row(*(Text(cell) for cell in cells))
    console.print(grid)
    console.print(Text(counted))


def said(entry: Entry) -> str:
    """What a stored result says: its headline, or what went wrong."""
    return entry.headline if entry.success else f"failed: {entry.error_message}"


def print_types(console: Console, types: Sequence[TypeView]) -> None:
    """Print the experiment types."""
    for item in types:
        rest = f"{item.summary} ({', '.join(item.methods)}; {item.cost})"
        _print_block(console, f"{item.command} ({item.type})", rest)


def _print_block(console: Console, title: str, words: str) -> None:
    console.print(Text(title, style="bold"))
    console.print(Padding(Text(words), (0, 0, 0, 2)))


def dry_run_text(view: DryRunView) -> str:
    """What a spec would do, for people."""
    spec = view.spec
    part = DatasetSlice.model_validate(spec["dataset_slice"]).model_dump(mode="json", exclude_defaults=True)
    if "contexts" in part:
        part["contexts"] = f"{len(part['contexts'])} given"
    lines = [
        f"Dry run: {spec['type']} of feature {spec['feature_id']} on bundle {spec['model_type']}. Nothing was run.",
        f"- variables: {_listing(spec['variables'])}",
        f"- slice: {_listing(part) or 'all examples'}",
        f"- reads: {view.contexts:,} contexts; conditions: {view.conditions}",
        f"- forward passes: {_passes(view)}",
        f"- stored answer: {view.stored or 'none, so it would be run'}",
        *(f"- note: {note}" for note in view.notes),
    ]
    if view.stored is not None:
        lines.append(f"`mechinterp-runner show {view.stored}` prints the answer; --fresh would run it again.")
    return "\n".join(lines)


def _passes(view: DryRunView) -> str:
    if not view.forward_passes:
        return "none"
    saved = f" ({view.saved_passes:,} more saved by repeats and the cache)" if view.saved_passes else ""
    seconds = "" if view.estimated_seconds is None else f", about {max(view.estimated_seconds, 0.1):,.1f} s"
    return f"{view.forward_passes:,}{saved}{seconds}"


def _listing(fields: Mapping[str, Any]) -> str:
    """Fields that have a value, in a line."""
    return "; ".join(f"{name} {number(value)}" for name, value in fields.items() if value not in (None, []))
