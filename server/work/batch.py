"""Many specs at once: read, all checked before one is run, and shown as a list of handles."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import Field

from ...schemas.errors import RequestError
from ...schemas.result import Record
from ...schemas.spec import ExperimentSpec, parse_spec
from .run import Run

MAX_SPECS = 200
_MAX_BYTES = 4 * 1024 * 1024
_SHOWN_ERRORS = 10


class BatchRow(Record):
    """One run of a batch."""

    run_id: str
    type: str
    feature_id: int
    status: str
    headline: str | None = None


class BatchView(Record):
    """The runs of a batch, in the order of its specs."""

    headline: str
    runs: list[BatchRow] = Field(description="The same run_id twice: two specs asked the same.")
    hints: list[str] = Field(default_factory=list)


def read_specs(
    given: Sequence[dict[str, Any]] | None, path: str | None, home: Path, accept: Callable[[ExperimentSpec], None]
) -> list[ExperimentSpec]:
    """The typed specs of a batch.

    Args:
        given: specs as plain values; or None.
        path: a JSONL file inside the home folder, relative to it or absolute; or None.
        home: the home folder.
        accept: raises what is wrong with a spec beyond its form.

    Raises:
        RequestError: neither or both were given, the file is not there or not inside the home, there are too many
            specs, or some are wrong, each named with its place.
    """
    if (given is None) == (path is None):
        raise RequestError("give either specs or path: a list of specs, or a JSONL file of them. Nothing was run.")
    items = list(enumerate(given or (), 1)) if path is None else list(_lines(_inside(path, home)))
    if not 0 < len(items) <= MAX_SPECS:
        raise RequestError(
            f"a batch holds 1 to {MAX_SPECS} specs; got {len(items):,}. Send them in parts. Nothing was run."
        )
    specs, wrong = list[ExperimentSpec](), list[str]()
    for at, item in items:
        try:
            specs.append(_spec(item))
            accept(specs[-1])
        except RequestError as error:
            wrong.append(f"{'spec' if path is None else 'line'} {at}: {error}")
    if wrong:
        more = f"\n... and {len(wrong) - _SHOWN_ERRORS:,} more" if len(wrong) > _SHOWN_ERRORS else ""
        raise RequestError(
            f"{len(wrong):,} of {len(items):,} specs are wrong, and none was run:\n"
            + "\n".join(wrong[:_SHOWN_ERRORS])
            + more
        )
    return specs


def _spec(item: object) -> ExperimentSpec:
    if isinstance(item, str):
        try:
            item = json.loads(item)
        except ValueError as error:
            raise RequestError(f"no JSON: {error}.") from error
    if not isinstance(item, dict):
        raise RequestError(f"expected a spec, a JSON object; got {type(item).__name__}.")
    return parse_spec(cast("dict[str, Any]", item))


def _inside(path: str, home: Path) -> Path:
    root = home.resolve()
    try:
        found = (root / path).resolve()
        there = found.is_file()
    except (OSError, ValueError, RuntimeError) as error:
        raise RequestError(f"path {path[:80]!r} is no path: {error}. Nothing was run.") from error
    if not found.is_relative_to(root):
        raise RequestError(f"path {path!r} is outside the home folder {root}: only files in it are read.")
    if not there:
        raise RequestError(f"path {path!r}: there is no file {found}. Nothing was run.")
    if found.stat().st_size > _MAX_BYTES:
        raise RequestError(f"path {path!r} is larger than {_MAX_BYTES:,} bytes: send it in parts. Nothing was run.")
    return found


def _lines(path: Path) -> Iterable[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"path {path}: it cannot be read as text: {error}. Nothing was run.") from error
    return ((at, line) for at, line in enumerate(text.split("\n"), 1) if line.strip())


def batch_view(runs: Sequence[Run]) -> BatchView:
    """How the runs of a batch stand."""
    rows = [_row(run) for run in runs]
    counts = Counter(row.status for row in rows)
    told = ", ".join(f"{count:,} {status}" for status, count in counts.items())
    return BatchView(
        headline=f"{len(rows):,} specs: {told}",
        runs=rows,
        hints=["get_run(run_id=..., wait_s=45) waits for one and shows it; list_results shows all that have ended."],
    )


def _row(run: Run) -> BatchRow:
    spec, state = run.spec, run.state
    if state != "ended":
        return BatchRow(run_id=run.id, type=spec.type, feature_id=spec.feature_id, status=state)
    error = run.ended.exception()
    if error is not None:
        return BatchRow(
            run_id=run.id, type=spec.type, feature_id=spec.feature_id, status="failed", headline=str(error)[:200]
        )
    result = run.ended.result()
    return BatchRow(
        run_id=result.spec_id,
        type=spec.type,
        feature_id=spec.feature_id,
        status=result.status,
        headline=result.headline[:200],
    )
