"""Runs as answers."""

from __future__ import annotations

from ...schemas.spec import ExperimentSpec
from ..answers import Answer, Cut, FlightRow, ProgressView, answer
from ..store.store import Store
from .run import Run
from .runs import Runs


def ended_answer(store: Store, run: Run, cut: Cut) -> Answer:
    """The answer of a run that has ended.

    Raises:
        MechinterpError: the run ended in this error instead of a result.
    """
    result = run.outcome()
    own = result.spec_id == run.id  # else it came from the store, under the id it was first run with
    return answer(result, store.results / run.spec.file_name() if own else store.path(result.spec_id), cut)


def unended_answer(runs: Runs, run: Run) -> Answer:
    """The answer of a run that waits or goes on."""
    spec, progress, behind, state = run.spec, run.progress, runs.behind(run), run.state
    if run.stopping:
        how = "stopping at its next batch"
    elif state == "queued":
        how = f"queued behind {behind}"
    else:
        how = f"running: {progress}" if progress else "running"
    hint = f'get_run(run_id="{run.id}", wait_s=45) waits for it; cancel_run(run_id="{run.id}") stops it.'
    return Answer(
        headline=f"{spec.type} of feature {spec.feature_id} {how}",
        run_id=run.id,
        spec_id=run.id,
        experiment_type=spec.type,
        feature_id=spec.feature_id,
        status="queued" if state == "queued" else "running",
        progress=progress_view(run, behind),
        hints=[hint],
    )


def elsewhere_answer(spec: ExperimentSpec) -> Answer:
    """The answer of a run that another process, which shares the folder of runs, has in flight."""
    return Answer(
        headline=f"{spec.type} of feature {spec.feature_id} goes on in another process that shares this folder of runs",
        run_id=spec.id,
        spec_id=spec.id,
        experiment_type=spec.type,
        feature_id=spec.feature_id,
        status="running",
        hints=["Its result can be read here when it has ended: ask again. Only that process can cancel it."],
    )


def progress_view(run: Run, behind: int) -> ProgressView:
    """How far a run is, and how many are before it."""
    now = run.progress
    if now is None:
        return ProgressView(done=0, total=None, unit="steps", seconds=0.0, seconds_left=None, queued_behind=behind)
    left = None if now.seconds_left is None else round(now.seconds_left, 1)
    return ProgressView(done=now.done, total=now.total, unit=now.unit, seconds=round(now.seconds, 1), seconds_left=left)


def flight_row(runs: Runs, run: Run) -> FlightRow:
    """A run in flight as a row of a list."""
    progress = run.progress
    return FlightRow(
        run_id=run.id,
        experiment_type=run.spec.type,
        feature_id=run.spec.feature_id,
        status=run.state,
        progress=f"behind {runs.behind(run)}" if progress is None else str(progress),
    )
