"""The summary of a batch: a Parquet table with the headline numbers of each result, one row a result."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ...schemas.errors import RequestError, StoreError
from ...schemas.result import ExperimentResult
from ...schemas.spec import ExperimentSpec
from ..store import files

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Row:
    """The headline numbers of a result; of its findings the leading one, with None throughout where there is none.

    Attributes:
        spec_id: id of the result; of the spec, where it was refused and nothing is stored.
        model_type: the bundle.
        status: done, failed, or refused when the experiment could not be asked of this feature or slice.
        cached: not run for this row: answered before this batch, or by another row of it.
        n: contexts or examples behind the leading finding; tested, where there is none.
        finding_status: present, conditional, negligible, unclear or dead.
        warnings: how many there are.
        seconds: the run took.
        forward_passes: that were made.
        created_at: when the spec was made.
        dataset_slice: JSON.
        variables: JSON.
    """

    spec_id: str
    type: str
    feature_id: int
    model_type: str | None
    status: str
    headline: str
    cached: bool
    n: int | None = None
    subject: str | None = None
    relation: str | None = None
    effect: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    unit: str | None = None
    finding_status: str | None = None
    specificity_p: float | None = None
    warnings: int = 0
    seconds: float | None = None
    forward_passes: int | None = None
    created_at: datetime | None = None
    error: str | None = None
    parent_spec_id: str | None = None
    parent_hypothesis: str | None = None
    dataset_slice: str | None = None
    variables: str | None = None

    @property
    def ok(self) -> bool:
        """Whether there is an answer."""
        return self.status == "done"


COLUMNS = tuple(field.name for field in fields(Row))


def row_of(result: ExperimentResult, *, cached: bool = False) -> Row:
    """The row of a result.

    Args:
        result: whole, as it is stored.
        cached: whether it was answered from the store.
    """
    asked, origin = result.provenance.spec_resolved, result.provenance
    lead = result.findings[0] if result.findings else None
    diagnostics = result.diagnostics
    created = asked.get("created_at")
    return Row(
        spec_id=result.spec_id,
        type=result.experiment_type,
        feature_id=result.feature_id,
        model_type=origin.bundle or None,
        status=result.status,
        headline=result.headline,
        cached=cached or result.cached,
        n=lead.n if lead else diagnostics.n_contexts_tested if diagnostics else None,
        subject=lead.subject if lead else None,
        relation=lead.relation if lead else None,
        effect=lead.effect if lead else None,
        ci_low=lead.ci_low if lead else None,
        ci_high=lead.ci_high if lead else None,
        unit=lead.unit if lead else None,
        finding_status=lead.status if lead else None,
        specificity_p=lead.specificity_p if lead else None,
        warnings=len(diagnostics.warnings) if diagnostics else 0,
        seconds=result.duration_seconds,
        forward_passes=origin.forward_passes_made,
        created_at=datetime.fromisoformat(str(created)) if created else None,
        error=result.error_message,
        parent_spec_id=origin.parent_spec_id,
        parent_hypothesis=origin.parent_hypothesis,
        dataset_slice=_json(asked.get("dataset_slice")),
        variables=_json(asked.get("variables")),
    )


def row_without_result(spec: ExperimentSpec, status: str, error: str) -> Row:
    """The row of a spec that left no result: refused for its slice, or lost with the processes that ran it."""
    asked = spec.model_dump(mode="json")
    return Row(
        spec_id=spec.id,
        type=spec.type,
        feature_id=spec.feature_id,
        model_type=spec.model_type,
        status=status,
        headline=f"{spec.type} of feature {spec.feature_id} was not run: {error}",
        cached=False,
        created_at=spec.created_at,
        error=error,
        parent_spec_id=spec.parent_spec_id,
        parent_hypothesis=spec.parent_hypothesis,
        dataset_slice=_json(asked["dataset_slice"]),
        variables=_json(asked["variables"]),
    )


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _schema() -> Any:  # noqa: ANN401 - pyarrow has no types
    """Columns and their types; the same for every summary, whatever it holds."""
    import pyarrow as pa  # noqa: PLC0415 - not for --help

    kinds = {
        "feature_id": pa.int32(),
        "warnings": pa.int32(),
        "cached": pa.bool_(),
        "created_at": pa.timestamp("us", tz="UTC"),
        **dict.fromkeys(("n", "forward_passes"), pa.int64()),
        **dict.fromkeys(("effect", "ci_low", "ci_high", "specificity_p", "seconds"), pa.float64()),
    }
    return pa.schema([(name, kinds.get(name, pa.string())) for name in COLUMNS])


def _table(rows: Sequence[Row]) -> Any:  # noqa: ANN401 - pyarrow has no types
    import pyarrow as pa  # noqa: PLC0415

    return pa.table({name: [getattr(row, name) for row in rows] for name in COLUMNS}, schema=_schema())


def frame_of(rows: Sequence[Row]) -> pd.DataFrame:
    """The rows as a pandas DataFrame, with the types of the file."""
    return _table(rows).to_pandas()


def write_summary(path: Path, rows: Sequence[Row]) -> None:
    """Write the summary in one step: what was there stays until the new one is whole.

    Raises:
        StoreError: the folder cannot be written.
    """
    import pyarrow.parquet as pq  # noqa: PLC0415

    stream = io.BytesIO()
    pq.write_table(_table(rows), stream, compression="zstd")
    files.replace(path, stream.getvalue())


def read_summary(path: Path) -> list[Row]:
    """The rows of a summary; none when there is no file.

    Raises:
        RequestError: the file is no summary of a batch, and shall not be written over.
    """
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    if not path.exists():
        return []
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise RequestError(f"summary {path} is there and is no Parquet file: name another. Nothing was run.") from error
    if table.column_names != list(COLUMNS):
        raise RequestError(f"summary {path} is there and is no summary of a batch: name another. Nothing was run.")
    return [Row(**cast("dict[str, Any]", row)) for row in table.to_pylist()]


def check_summary(path: Path) -> None:
    """Raise StoreError unless a summary can be written there."""
    if path.is_dir():
        raise StoreError(f"the summary {path} is a folder: name a file in it, such as {path / 'summary.parquet'}.")
    files.check_writable(path.parent)


def default_path(runs: Path, digests: Sequence[str]) -> Path:
    """The summary's file: the same for the same questions, so that a batch asked again finds its own."""
    name = hashlib.sha256("\n".join(digests).encode()).hexdigest()[:12]
    return runs / "summaries" / f"batch-{name}.parquet"


def by_spec_id(rows: Iterable[Row]) -> dict[str, Row]:
    """The rows of stored results, by id: results never change, so their rows need not be made again."""
    return {row.spec_id: row for row in rows if row.ok}
