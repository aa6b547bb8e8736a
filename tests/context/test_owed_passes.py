"""Pooled vectors of examples that nobody stored: computed once, with progress, and not against one's will."""

from __future__ import annotations

import numpy as np
import pytest
from mechinterp_runner.context import oracle
from mechinterp_runner.context.contexts import load_context
from mechinterp_runner.runners.census.census import Census
from mechinterp_runner.schemas.errors import Cancelled
from mechinterp_runner.schemas.job import Job
from mechinterp_runner.schemas.spec import parse_spec
from mechinterp_runner.server.executor import Executor
from mechinterp_runner.server.store.store import Store

SWEEP = {"type": "family_1d_sweep", "feature_id": 0, "variables": {"family": "swim_speed_up"}}


@pytest.fixture
def opened(small_bundle, monkeypatch):
    monkeypatch.setattr(oracle, "_BLOCK", 7)
    return load_context(bundle=small_bundle, device="cpu", dtype="float64")


def stopped_after(blocks: int) -> tuple[Job, list[tuple[int, int]]]:
    """A job that is cancelled once it has told of so many blocks, and what it tells."""
    told = list[tuple[int, int]]()
    return Job(lambda done, total, _: told.append((done, total)), lambda: len(told) >= blocks), told


def test_they_are_computed_block_by_block_with_progress_and_once(opened, naive_pooled):
    n, told = len(naive_pooled), list[tuple[int, int]]()
    assert opened.passes_owed == n
    opened.prepare(Job(lambda done, total, _: told.append((done, total))))
    assert [done for done, total in told if total == n][:3] == [0, 7, 14]
    assert opened.passes_owed == 0
    np.testing.assert_allclose(opened.pooled_of(np.arange(n)), naive_pooled, atol=1e-10)
    said = len(told)
    opened.prepare(Job(lambda done, total, _: told.append((done, total))))
    assert len(told) == said


def test_a_bundle_that_stores_vectors_or_activations_owes_none(write_variant, naive_pooled, without_examples):
    stored = write_variant("stored", pooled=naive_pooled.astype(np.float32))
    assert load_context(bundle=stored).passes_owed == 0
    assert load_context(bundle=write_variant("bare", **without_examples)).passes_owed == 0
    assert load_context("demo").passes_owed == 0


def test_a_run_that_is_cancelled_meanwhile_ends_as_cancelled_and_the_next_one_computes_them(opened, tmp_path):
    executor, (job, told) = Executor(Store(tmp_path / "runs")), stopped_after(2)
    result = executor.execute(parse_spec(SWEEP), opened, job=job)
    assert (result.status, told) == ("cancelled", [(0, len(opened.data)), (7, len(opened.data))])
    assert opened.passes_owed == len(opened.data)
    assert executor.execute(parse_spec(SWEEP), opened).status == "done"


def test_a_census_that_is_cancelled_meanwhile_stops(opened):
    job, told = stopped_after(1)
    with pytest.raises(Cancelled):
        Census.of(opened, job=job)
    assert told == [(0, len(opened.data))]


def test_a_plan_counts_them_without_computing_them(opened, tmp_path):
    executor, spec = Executor(Store(tmp_path / "runs")), parse_spec(SWEEP)
    owed = executor.plan(spec, opened)
    assert owed.plan.forward_passes == len(opened.data) == opened.passes_owed
    assert "--no-pooled" in owed.plan.notes[0]
    opened.prepare(Job())
    assert "--no-pooled" not in " ".join(executor.plan(spec, opened).plan.notes)
