"""The batch of a tool: its specs, and its runs shown as a list of handles."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from pydantic import Field

from ...schemas.errors import MechinterpError, RequestError
from ...schemas.result import ExperimentResult, Record
from ...schemas.spec import ExperimentSpec
from ..store.store import Store
from ..work.run import NotStartedError, Run
from .specs import Item, Reader, each_checked, lines_of
from .summary import Row, check_summary, row_of, row_without_result, write_summary

MAX_SPECS = 200
_MAX_BYTES = 4 * 1024 * 1024
_log = logging.getLogger(__name__)


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
    summary: str = Field(description="Parquet file, a row a spec; written when all have ended.")
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
    items: list[tuple[str, Item]] = [(f"spec {at}", item) for at, item in enumerate(given or (), 1)]
    if path is not None:
        items = [(f"line {at}", line) for at, line in lines_of(_inside(path, home))]
    if not 0 < len(items) <= MAX_SPECS:
        raise RequestError(
            f"a batch holds 1 to {MAX_SPECS} specs; got {len(items):,}. Send them in parts, or run them all with "
            f"`mechinterp-runner batch`. Nothing was run."
        )
    read = Reader()

    def check(item: Item) -> ExperimentSpec:
        spec = read(item)
        accept(spec)
        return spec

    return each_checked(items, check)


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


def summarise_at_end(runs: Sequence[Run], store: Store, path: Path) -> None:
    """Write the summary of some runs when the last of them has ended, on the thread that ended it.

    Raises:
        StoreError: it cannot be written there.
    """
    check_summary(path)
    left, guard = len(runs), threading.Lock()

    def one_ended(_ended: Future[ExperimentResult]) -> None:
        nonlocal left
        with guard:
            left -= 1
            last = not left
        if last:
            try:
                write_summary(path, [_summary_row(run, store) for run in runs])
            except MechinterpError as error:
                _log.warning("the summary of a batch was not written: %s", error)

    for run in runs:
        run.ended.add_done_callback(one_ended)


def _summary_row(run: Run, store: Store) -> Row:
    error = run.ended.exception()
    if error is not None:
        status = "cancelled" if isinstance(error, NotStartedError) else "refused"
        return row_without_result(run.spec, status, str(error))
    shown = run.ended.result()  # what the spec's outputs show of it
    return row_of(store.result(shown.spec_id), cached=shown.cached)


def batch_view(runs: Sequence[Run], summary: Path) -> BatchView:
    """How the runs of a batch stand."""
    rows = [_row(run) for run in runs]
    counts = Counter(row.status for row in rows)
    told = ", ".join(f"{count:,} {status}" for status, count in counts.items())
    return BatchView(
        headline=f"{len(rows):,} specs: {told}",
        runs=rows,
        summary=str(summary),
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
