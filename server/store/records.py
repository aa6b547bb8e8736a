"""Records of the store: what their files hold, and what the index keeps of them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from ...schemas.errors import RequestError, StoreError
from ...schemas.result import ExperimentResult, Outcome, Provenance
from ...schemas.spec import ExperimentSpec, parse_spec_json
from . import files
from .index import Entry

INTERRUPTED = "interrupted: the process that ran it ended before the run did"
ASK_AGAIN = ". Ask again, under a new id if you gave one, to run it."


def same_question(first: ExperimentSpec, second: ExperimentSpec) -> bool:
    """Whether two specs ask the same, apart from the words around the question."""
    models = {first.model_type, second.model_type} - {None}
    return first.scientific_fields() == second.scientific_fields() and len(models) < 2


def unfinished(spec: ExperimentSpec, status: Outcome, message: str) -> ExperimentResult:
    """The record of a run that ended without a result of its own, and why; it has no tables."""
    advice = ASK_AGAIN if status == "interrupted" else ""
    return ExperimentResult(
        spec_id=spec.id,
        feature_id=spec.feature_id,
        experiment_type=spec.type,
        headline=f"{spec.type} of feature {spec.feature_id} did not finish: {message}{advice}",
        provenance=Provenance(
            spec_resolved=spec.model_dump(mode="json"),
            bundle=spec.model_type or "",
            started_at=datetime.now(UTC),
            parent_spec_id=spec.parent_spec_id,
            parent_hypothesis=spec.parent_hypothesis,
            rationale=spec.rationale,
            description=spec.description,
        ),
        success=False,
        status=status,
        error_message=message,
        duration_seconds=0.0,
    )


def entry_of(result: ExperimentResult, file: str) -> Entry:
    """What the index keeps of a result."""
    origin = result.provenance
    return Entry(
        spec_id=result.spec_id,
        file=file,
        experiment_type=result.experiment_type,
        feature_id=result.feature_id,
        bundle=origin.bundle,
        digest=origin.digest,
        success=result.success,
        status=result.status,
        cached=result.cached,
        headline=result.headline,
        error_message=result.error_message,
        description=origin.description,
        rationale=origin.rationale,
        parent_hypothesis=origin.parent_hypothesis,
        parent_spec_id=origin.parent_spec_id,
        stored_at=origin.started_at.isoformat() if origin.started_at else "",
        duration_seconds=result.duration_seconds,
    )


def read_result(path: Path) -> ExperimentResult:
    """Load a result file.

    Raises:
        StoreError: it is not there or is no result.
    """
    try:
        return ExperimentResult.model_validate_json(files.read(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise StoreError(
            f"{path} is no readable result: {where}: {first['msg']}. Restore or remove it, then `reindex`."
        ) from error


def read_spec(path: Path) -> ExperimentSpec:
    """Load a spec file of the store.

    Raises:
        StoreError: it is not there or is no spec.
    """
    try:
        return parse_spec_json(files.read(path), str(path))
    except RequestError as error:
        raise StoreError(f"{path} is no readable spec: {error} Restore or remove it.") from error
