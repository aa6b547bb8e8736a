"""Results for people: markdown, and tables with bars for a terminal."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..schemas.catalogue import find
from ..schemas.experiment_type import runner_names
from ..schemas.result import ExperimentResult, Finding, Followup, Scalar, Table
from ..schemas.spec import ExperimentSpec

PROGRAM = "mechinterp-runner"
CHARTED = (
    "mean_delta",
    "delta_adjusted",
    "delta_from_global",
    "coverage",
    "mean_drop",
    "delta",
    "mean_activation",
)
"""Columns a bar is drawn for: the first of these that a table has."""


def number(value: Scalar | Sequence[Any] | Mapping[str, Any]) -> str:
    """A value as people read it: four significant digits, a dash for none."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {number(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(number(item) for item in value) or "-"
    return str(value)


def to_markdown(result: ExperimentResult, path: Path | None = None, *, max_rows: int = 20) -> str:
    """The whole result as a markdown note, headline first; tables show their first ``max_rows`` rows."""
    blocks = [f"# {result.headline or result.get_summary()}", _line_of_facts(result)]
    if not result.success:
        blocks.append(f"**Failed:** {result.error_message}")
    if result.diagnostics and result.diagnostics.warnings:
        blocks.append("\n".join(f"> **Warning:** {warning}" for warning in result.diagnostics.warnings))
    if result.findings:
        shown = "\n".join(f"- {finding_line(finding)}" for finding in result.findings[:max_rows])
        blocks.append("## Findings\n\n" + shown + _more(len(result.findings), max_rows, "findings"))
    if result.aggregates:
        blocks.append("## Aggregates\n\n" + _markdown_table(["name", "value"], _aggregates(result)))
    blocks += [_table_block(table, max_rows) for table in result.tables.values()]
    if result.diagnostics:
        blocks.append("## Diagnostics\n\n" + _diagnostics(result))
    if result.followups:
        blocks.append("## Next\n\n" + "\n".join(_followup_line(followup) for followup in result.followups))
    if path is not None:
        blocks.append(f"Stored in `{path}`.")
    return "\n\n".join(blocks) + "\n"


def _line_of_facts(result: ExperimentResult) -> str:
    origin = result.provenance
    parts = [
        f"`{result.experiment_type}` of feature {result.feature_id}",
        f"bundle `{origin.bundle}`" if origin.bundle else "",
        f"id `{result.spec_id}`",
        f"stored answer of `{result.cached_from}`" if result.cached else f"{result.duration_seconds:.2f} s",
        f"{origin.forward_passes_made:,} forward passes" if origin.forward_passes_made else "",
    ]
    return " · ".join(part for part in parts if part)


def finding_line(finding: Finding) -> str:
    """A finding in one line."""
    interval = f" [{number(finding.ci_low)}, {number(finding.ci_high)}]" if finding.ci_low is not None else ""
    rate = f", in {finding.responder_rate:.1%} of contexts" if finding.responder_rate is not None else ""
    return (
        f"{finding.subject} {finding.relation}: {number(finding.effect)}{interval} {finding.unit} "
        f"({finding.status}{rate}; n = {finding.n:,}; {finding.method}; {finding.population})"
    )


def _aggregates(result: ExperimentResult) -> list[list[str]]:
    if result.aggregates is None:
        return []
    values = result.aggregates.model_dump(exclude={"custom"}) | result.aggregates.custom
    return [[name, number(value)] for name, value in values.items() if value is not None]


def _table_block(table: Table, max_rows: int) -> str:
    notes = "".join(f"\n{note}\n" for note in table.notes)
    if not table.rows:
        return f"## Table `{table.name}`\n{notes}\nNo rows."
    columns = [name for name in table.columns if any(row.get(name) is not None for row in table.rows)]
    rows = [[number(row.get(name)) for name in columns] for row in table.rows[:max_rows]]
    body = _markdown_table(columns, rows)
    return f"## Table `{table.name}`\n{notes}\n{body}{_more(len(table.rows), max_rows, 'rows')}"


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([line(columns), line(["---"] * len(columns)), *(line(row) for row in rows)])


def _more(total: int, shown: int, what: str) -> str:
    return f"\n\n… {total - shown:,} more {what}" if total > shown else ""


def _diagnostics(result: ExperimentResult) -> str:
    if result.diagnostics is None:
        return ""
    values = result.diagnostics.model_dump(exclude={"warnings", "notes", "constraint_violations"})
    lines = [f"- {name}: {number(value)}" for name, value in values.items() if value not in {None, ""}]
    for violation in result.diagnostics.constraint_violations:
        example = f", such as {violation.example}" if violation.example else ""
        lines.append(f"- constraint {violation.id}: {violation.contexts:,} contexts{example}")
    lines += [f"- {note}" for note in result.diagnostics.notes]
    return "\n".join(lines)


def _followup_line(followup: Followup) -> str:
    command = command_of(followup.spec)
    shown = f"`{command}`" if command else f"a `{followup.spec.get('type')}` (this version cannot run it yet)"
    return f"- {followup.reason}: {shown}"


def command_of(spec: Mapping[str, Any]) -> str | None:
    """The command line that runs a spec given as JSON; None when this version has no runner for its type."""
    if spec.get("type") not in runner_names():
        return None
    experiment = find(str(spec["type"]))
    typed = ExperimentSpec.model_validate({key: value for key, value in spec.items() if key != "created_at"})
    given: dict[str, Any] = {"feature_id": typed.feature_id}
    given |= typed.variables.model_dump(mode="json", exclude_defaults=True)
    given |= {"model": typed.model_type, "parent_spec_id": typed.parent_spec_id}
    given |= typed.dataset_slice.model_dump(mode="json", exclude_defaults=True, exclude={"contexts"})
    if typed.dataset_slice.contexts is not None:
        given["contexts"] = "FILE"  # the file that holds them: a command has no room for a thousand
    if typed.constraints != ExperimentSpec.model_fields["constraints"].default:
        given["constraints"] = list(typed.constraints)
    flags = [_flag(name, value) for name, value in given.items() if value is not None]
    return " ".join([PROGRAM, experiment.cli, *flags])


def _flag(name: str, value: Any) -> str:  # noqa: ANN401 - a JSON value
    flag = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return flag if value else f"--no-{name.replace('_', '-')}"
    text = ",".join(str(item) for item in value) if isinstance(value, list) else str(value)
    return f"{flag} {shlex.quote(text)}"


def bars(values: Sequence[float | None], width: int, *, plain: bool = False) -> list[str]:
    """A bar for each value on one scale; a negative one is drawn shaded."""
    positive, negative = ("#", "-") if plain else ("█", "▒")
    top = max((abs(value) for value in values if value is not None), default=0.0)
    drawn: list[str] = []
    for value in values:
        length = 0 if value is None or not top else round(width * abs(value) / top)
        drawn.append((positive if (value or 0) >= 0 else negative) * length)
    return drawn


def charted_column(table: Table) -> str | None:
    """The column a table's bars show."""
    return next((name for name in CHARTED if name in table.columns), None)
