"""What a tool answers with: a result cut to what a reader can take in, and how to get the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, Field

from ..schemas.errors import RequestError, UnknownNameError
from ..schemas.result import ExperimentResult, Finding, Followup, Record, Table
from .render import to_markdown
from .store.index import Entry

Form = Literal["concise", "detailed", "markdown"]
DEFAULT_ROWS = 20
_DIGITS = 4
_MOST_CONTEXTS = 10
_BUDGET = 8_000 * 4
"""Characters of a default answer: 8,000 tokens at four characters each."""
_LIMIT = 20_000 * 4
"""Characters of any answer: clients cut or refuse what is over 25,000 tokens."""


class TableView(Record):
    """A page of a table."""

    columns: list[str]
    rows: list[dict[str, Any]]
    first_row: int = Field(description="Position of the first row shown, from 0.")
    total_rows: int
    notes: list[str] = Field(default_factory=list)
    more: str | None = Field(default=None, description="The call that shows further rows.")


class ProgressView(Record):
    """How far a run is."""

    done: int = Field(description="Forward passes made, or steps where it makes none.")
    total: int | None
    unit: str
    seconds: float
    seconds_left: float | None
    queued_behind: int = 0


class Answer(Record):
    """The answer to an experiment, headline first."""

    headline: str
    run_id: str = Field(description="Handle for get_run and cancel_run.")
    spec_id: str = Field(description="Id of spec and result: the run_id again.")
    experiment_type: str
    feature_id: int
    status: Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
    success: bool | None = Field(default=None, description="Null while it has not ended.")
    progress: ProgressView | None = None
    error_message: str | None = None
    warnings: list[str] = Field(default_factory=list)
    cached: bool = Field(default=False, description="True: from the store; nothing was run.")
    cached_from: str | None = None
    findings: list[Finding] = Field(default_factory=list)
    aggregates: dict[str, Any] | None = None
    tables: dict[str, TableView] = Field(default_factory=dict)
    diagnostics: dict[str, Any] | None = None
    followups: list[Followup] = Field(default_factory=list, description="Specs for run_spec, each with its reason.")
    provenance: dict[str, Any] | None = Field(default=None, description="Only in response_format detailed.")
    duration_seconds: float | None = None
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
    status: str
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


class FlightRow(Record):
    """One run in flight."""

    run_id: str
    experiment_type: str
    feature_id: int
    status: str
    progress: str


class RunList(Record):
    """A page of stored results, newest first."""

    total: int = Field(description="Stored results that match.")
    offset: int
    runs: list[RunRow]
    in_flight: list[FlightRow] = Field(default_factory=list, description="Runs that wait or go on, and match.")
    more: str | None = Field(default=None, description="How to see the next page.")
    hint: str | None = None


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
        RequestError: the table asked for ends before ``offset``.
    """
    cut = cut or Cut()
    if cut.table is not None:
        _check_page(result, cut.table, cut.offset)
    limit = _BUDGET if cut.max_rows is None and cut.form != "detailed" else _LIMIT
    shown = _shown(result, path, cut)
    for rows in _fewer(cut.rows):
        if len(shown.model_dump_json()) <= limit:
            break
        shown = _shown(result, path, replace(cut, max_rows=rows))
    return shown


@dataclass(frozen=True, slots=True)
class Sent:
    """An answer as it is sent: structured content, and the same as text."""

    content: dict[str, Any]
    text: str

    @classmethod
    def of(cls, shown: BaseModel) -> Sent:
        """Dump a model; in a worker thread where it is large, so that the event loop goes on."""
        content = as_sent(shown)
        note = content.get("note")
        return cls(content, note if isinstance(note, str) else compact_json(content))


def as_sent(shown: BaseModel) -> dict[str, Any]:
    """The model as plain values, without what is empty and may be left out."""
    required = {name for name, info in type(shown).model_fields.items() if info.is_required()}
    whole = shown.model_dump(mode="json")
    return {name: value for name, value in whole.items() if name in required or value not in (None, [], {})}


def compact_json(value: object) -> str:
    """JSON without the spaces, which cost a reader tokens."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _fewer(rows: int) -> list[int]:
    return [fewer for fewer in (400, 250, 150, 100, 60, 40, 25, 16, 12, 8, 5, 3, 1) if fewer < rows]


def _check_page(result: ExperimentResult, name: str, offset: int) -> None:
    if name not in result.tables:
        raise UnknownNameError("table", name, result.tables)
    total = len(result.tables[name].rows)
    if offset and offset >= total:
        kept = cast("dict[str, Any]", result.provenance.spec_resolved.get("variables") or {}).get("top_k")
        further = f" A run with a larger top_k (this one: {kept}) stores more." if kept is not None else ""
        raise RequestError(f"table {name!r} has {total:,} rows, and offset {offset:,} is past its end.{further}")


def _shown(result: ExperimentResult, path: Path | None, cut: Cut) -> Answer:
    if cut.form == "markdown":
        return _head(result, path).model_copy(update={"note": to_markdown(result, path, max_rows=cut.rows)})
    return _apply(result, path, cut)


def _head(result: ExperimentResult, path: Path | None) -> Answer:
    return Answer(
        run_id=result.spec_id,
        spec_id=result.spec_id,
        status=result.status,
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
            "followups": [each.model_copy(update={"spec": in_short(each.spec)}) for each in result.followups],
            "provenance": in_short(result.provenance.model_dump(mode="json")) if cut.form == "detailed" else None,
            "hints": _hints(result, len(findings), cut.form),
        }
    return _head(result, path).model_copy(update=parts)


def _page(spec_id: str, table: Table, cut: Cut) -> TableView:
    shown = table.rows[cut.offset : cut.offset + cut.rows]
    after = cut.offset + len(shown)
    more = None
    if after < len(table.rows):
        more = f'get_run(run_id="{spec_id}", table="{table.name}", offset={after}, max_rows=100)'
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
        whole = f'get_run(run_id="{result.spec_id}", response_format="detailed")'
        hints.append(
            f"Numbers are rounded and the provenance is left out: {whole} has all. Whole tables as CSV: "
            f"mechinterp://results/{result.spec_id}/tables/NAME."
        )
    if any(in_short(each.spec) != each.spec for each in result.followups):
        hints.append("Each followup's spec can be passed to run_spec once the contexts of this run are put back.")
    elif result.followups:
        hints.append("Each followup's spec can be passed to run_spec as it is.")
    return hints


def in_short(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A spec, or what holds one, with words in place of a long list of contexts: whoever asked has it."""
    return {key: _in_short(key, value) for key, value in fields.items()}


def _in_short(key: str, value: Any) -> Any:  # noqa: ANN401 - JSON values of any depth
    if key == "contexts" and isinstance(value, list) and len(cast("list[Any]", value)) > _MOST_CONTEXTS:
        return f"the {len(cast('list[Any]', value))} contexts that were given"
    return in_short(cast("dict[str, Any]", value)) if isinstance(value, dict) else value


def _rounded(value: Any) -> Any:  # noqa: ANN401 - JSON values of any depth
    """Floats at four significant digits: what a reader can use, at half the length."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in cast("list[Any]", value)]
    return value
