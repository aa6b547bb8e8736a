"""What a tool answers with: a result cut to what a reader can take in, and how to get the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import Field

from ..schemas.errors import UnknownNameError
from ..schemas.result import ExperimentResult, Finding, Followup, Record, Table
from .render import to_markdown
from .store.index import Entry

Form = Literal["concise", "detailed", "markdown"]
DEFAULT_ROWS = 20
_DIGITS = 4
_BUDGET = 8_000 * 4
"""Characters of a default answer: 8,000 tokens at four characters each."""


class TableView(Record):
    """A page of a table."""

    columns: list[str]
    rows: list[dict[str, Any]]
    first_row: int = Field(description="Position of the first row shown, from 0.")
    total_rows: int
    notes: list[str] = Field(default_factory=list)
    more: str | None = Field(default=None, description="The call that shows further rows.")


class Answer(Record):
    """The answer to an experiment, headline first."""

    spec_id: str = Field(description="Handle of the stored result: pass it to get_run.")
    experiment_type: str
    feature_id: int
    success: bool
    headline: str
    error_message: str | None = None
    warnings: list[str] = Field(default_factory=list)
    cached: bool = Field(description="True when the answer was in the store already and nothing was run.")
    cached_from: str | None = None
    findings: list[Finding] = Field(default_factory=list)
    aggregates: dict[str, Any] | None = None
    tables: dict[str, TableView] = Field(default_factory=dict)
    diagnostics: dict[str, Any] | None = None
    followups: list[Followup] = Field(default_factory=list, description="Specs for run_spec, each with its reason.")
    provenance: dict[str, Any] | None = Field(default=None, description="Only in response_format detailed.")
    duration_seconds: float
    result_file: str | None = Field(default=None, description="Where the whole result is stored.")
    note: str | None = Field(default=None, description="The result as markdown, in response_format markdown.")
    hints: list[str] = Field(default_factory=list, description="What was left out, and how to get it.")


class RunRow(Record):
    """One stored result in a list."""

    spec_id: str
    experiment_type: str
    feature_id: int
    bundle: str
    success: bool
    headline: str
    error_message: str | None
    cached: bool
    description: str | None
    rationale: str | None
    parent_hypothesis: str | None
    parent_spec_id: str | None
    stored_at: str
    duration_seconds: float

    @classmethod
    def of(cls, entry: Entry) -> RunRow:
        """The row of an entry of the index."""
        return cls(**{name: getattr(entry, name) for name in cls.model_fields})


class RunList(Record):
    """A page of stored results, newest first."""

    total: int = Field(description="Results that match.")
    offset: int
    runs: list[RunRow]
    more: str | None = Field(default=None, description="How to see the next page.")


@dataclass(frozen=True, slots=True)
class Cut:
    """How much of a result to show.

    Attributes:
        form: "concise" leaves out the provenance and rounds; "detailed" does neither; "markdown" gives a note.
        max_rows: rows of each table. Default: 20, and fewer of each when the answer would pass 8,000 tokens.
        offset: first row shown.
        table: show this table only.
    """

    form: Form = "concise"
    max_rows: int | None = None
    offset: int = 0
    table: str | None = None

    @property
    def rows(self) -> int:
        """Rows of each table."""
        return self.max_rows or DEFAULT_ROWS

    def shaped(self, value: Any) -> Any:  # noqa: ANN401 - JSON values of any depth
        """The value as this form shows it."""
        return _rounded(value) if self.form == "concise" else value


def answer(result: ExperimentResult, path: Path | None = None, cut: Cut | None = None) -> Answer:
    """Cut a result, whose file is ``path``, to an answer.

    Raises:
        UnknownNameError: the result has no table of the name asked for.
    """
    cut = cut or Cut()
    if cut.table is not None and cut.table not in result.tables:
        raise UnknownNameError("table", cut.table, result.tables)
    if cut.form == "markdown":
        note = to_markdown(result, path, max_rows=cut.rows)
        return _head(result, path).model_copy(update={"note": note})
    whole = _apply(result, path, cut)
    if cut.max_rows is not None or cut.form == "detailed":
        return whole
    for rows in (12, 8, 5, 3, 1):
        if len(json.dumps(whole.model_dump(mode="json"))) <= _BUDGET:
            break
        whole = _apply(result, path, replace(cut, max_rows=rows))
    return whole


def _head(result: ExperimentResult, path: Path | None) -> Answer:
    return Answer(
        spec_id=result.spec_id,
        experiment_type=result.experiment_type,
        feature_id=result.feature_id,
        success=result.success,
        headline=result.headline,
        error_message=result.error_message,
        warnings=result.diagnostics.warnings if result.diagnostics else [],
        cached=result.cached,
        cached_from=result.cached_from,
        duration_seconds=result.duration_seconds,
        result_file=str(path) if path else None,
    )


def _apply(result: ExperimentResult, path: Path | None, cut: Cut) -> Answer:
    chosen = {name: table for name, table in result.tables.items() if cut.table in {None, name}}
    parts: dict[str, Any] = {"tables": {name: _page(result.spec_id, table, cut) for name, table in chosen.items()}}
    if cut.table is None:
        findings = result.findings[: cut.rows]
        diagnostics = result.diagnostics.model_dump(exclude={"warnings"}) if result.diagnostics else None
        parts |= {
            "findings": [Finding.model_validate(cut.shaped(finding.model_dump())) for finding in findings],
            "aggregates": cut.shaped(result.aggregates.model_dump()) if result.aggregates else None,
            "diagnostics": cut.shaped(diagnostics),
            "followups": result.followups,
            "provenance": result.provenance.model_dump(mode="json") if cut.form == "detailed" else None,
            "hints": _hints(result, len(findings), cut.form),
        }
    return _head(result, path).model_copy(update=parts)


def _page(spec_id: str, table: Table, cut: Cut) -> TableView:
    shown = table.rows[cut.offset : cut.offset + cut.rows]
    after = cut.offset + len(shown)
    more = None
    if after < len(table.rows):
        more = f'get_run(spec_id="{spec_id}", table="{table.name}", offset={after}, max_rows=100)'
    return TableView(
        columns=table.columns,
        rows=[cut.shaped(row) for row in shown],
        first_row=cut.offset,
        total_rows=len(table.rows),
        notes=table.notes,
        more=more,
    )


def _hints(result: ExperimentResult, findings: int, form: Form) -> list[str]:
    hints: list[str] = []
    if findings < len(result.findings):
        hints.append(f"{len(result.findings) - findings} more findings: raise max_rows.")
    if form == "concise":
        whole = f'get_run(spec_id="{result.spec_id}", response_format="detailed")'
        hints.append(f"Numbers are rounded and the provenance is left out: {whole} has all.")
    if result.followups:
        hints.append("Each followup's spec can be passed to run_spec as it is.")
    return hints


def _rounded(value: Any) -> Any:  # noqa: ANN401 - JSON values of any depth
    """Floats at four significant digits: what a reader can use, at half the length."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in cast("list[Any]", value)]
    return value
