"""The executor: one question, one stored answer, and every fault in its place."""

from __future__ import annotations

import json

import pytest
from mechinterp_runner.schemas.errors import IdTakenError, RequestError, StoreError, UnknownNameError
from mechinterp_runner.schemas.job import Job
from mechinterp_runner.schemas.result import ExperimentResult
from mechinterp_runner.server import executor as executor_module
from mechinterp_runner.server.executor import FIGURES_WARNING
from mechinterp_runner.server.store import files


def stored_files(store):
    return sorted(path.name for path in store.results.glob("*")) if store.results.is_dir() else []


def test_a_run_is_stored_and_loads_back_as_it_was_returned(executor, ctx, make_spec, store):
    result = executor.execute(make_spec(id="first"), ctx)
    assert store.result("first") == result
    assert stored_files(store) == ["first__f7__family-1d-sweep.json"]
    assert json.loads(store.path("first").read_text())["tables"]["rung_deltas"]["rows"][0]["rung"] == 3


def test_the_record_says_what_was_asked_what_was_run_and_on_what(executor, ctx, make_spec):
    spec = make_spec(id="first", parent_hypothesis="h001", dataset_slice={"random_seed": 5})
    origin = executor.execute(spec, ctx, spec_path="here.json").provenance
    assert origin.spec_passed["variables"] == {"family": "special_charge_up"}
    assert origin.spec_resolved["variables"]["rungs"] == [3, 57]
    assert origin.spec_resolved["model_type"] == "demo"
    assert (origin.bundle, origin.bundle_fingerprint) == ("demo", "f" * 64)
    assert (origin.forward_passes_made, origin.forward_passes_saved) == (7, 3)
    assert origin.seeds == {"random_seed": 5}
    assert origin.parent_hypothesis == "h001"
    assert {"python", "mechinterp-runner"} <= origin.versions.keys()


def test_warnings_of_the_job_reach_the_result(executor, ctx, make_spec):
    assert executor.execute(make_spec(), ctx).diagnostics.warnings == ["a warning of the run"]


def test_the_same_question_is_answered_from_the_store(executor, ctx, make_spec, toy, store):
    first = executor.execute(make_spec(), ctx)
    second = executor.execute(make_spec(), ctx)
    assert (first.cached, second.cached) == (False, True)
    assert second.spec_id == second.cached_from == first.spec_id
    assert second.tables == first.tables
    assert toy.runs == 1
    assert len(stored_files(store)) == 1


def test_a_hit_under_an_id_of_its_own_is_stored_as_an_alias(executor, ctx, make_spec, toy, store, tmp_path):
    executor.execute(make_spec(id="first"), ctx)
    alias = executor.execute(make_spec(id="second", parent_hypothesis="h2"), ctx, output_dir=tmp_path / "out")
    assert toy.runs == 1
    assert (alias.spec_id, alias.cached, alias.cached_from) == ("second", True, "first")
    assert store.result("second").tables == store.result("first").tables
    assert store.result("second").provenance.parent_hypothesis == "h2"
    copy = tmp_path / "out" / "second__f7__family-1d-sweep.json"
    assert ExperimentResult.model_validate_json(copy.read_text()).spec_id == "second"
    third = executor.execute(make_spec(id="third"), ctx)
    assert third.cached_from == "first"


@pytest.mark.parametrize(
    "change",
    [
        {"feature_id": 8},
        {"rungs": [3]},
        {"dataset_slice": {"random_seed": 1}},
        {"constraints": []},
    ],
)
def test_another_question_is_run(executor, ctx, make_spec, toy, change):
    executor.execute(make_spec(), ctx)
    assert not executor.execute(make_spec(**change), ctx).cached
    assert toy.runs == 2


@pytest.mark.parametrize("attribute", ["fingerprint", "dtype", "device", "version"])
def test_another_bundle_precision_device_or_version_is_run(executor, ctx, make_spec, toy, attribute, monkeypatch):
    executor.execute(make_spec(), ctx)
    if attribute == "fingerprint":
        ctx.bundle.fingerprint = "0" * 64
    elif attribute == "version":
        monkeypatch.setattr(executor_module, "version", lambda _name: "99")
    else:
        setattr(ctx, attribute, {"dtype": "float64", "device": "cuda:0"}[attribute])
    assert not executor.execute(make_spec(), ctx).cached


def test_the_order_of_constraints_does_not_make_another_question(executor, ctx, make_spec, toy):
    executor.execute(make_spec(constraints=["max_ap_budget", "one_rung_per_family"]), ctx)
    assert executor.execute(make_spec(constraints=["one_rung_per_family", "max_ap_budget"]), ctx).cached


def test_an_observational_run_asks_for_no_device(executor, ctx, make_spec):
    del ctx.device
    assert executor.execute(make_spec(method="observational"), ctx).provenance.device == "none"


def test_fresh_runs_again_under_its_own_id(executor, ctx, make_spec, toy, store):
    executor.execute(make_spec(), ctx)
    assert not executor.execute(make_spec(), ctx, fresh=True).cached
    assert toy.runs == 2
    assert len(stored_files(store)) == 2


def test_the_same_spec_with_the_same_id_gets_its_stored_answer(executor, ctx, make_spec, toy, store):
    executor.execute(make_spec(id="first"), ctx)
    assert executor.execute(make_spec(id="first", description="other words"), ctx).cached
    assert toy.runs == 1
    assert len(stored_files(store)) == 1


@pytest.mark.parametrize("change", [{"feature_id": 8}, {"rungs": [3]}])
def test_an_id_of_another_spec_is_refused_and_nothing_is_run(executor, ctx, make_spec, toy, store, change):
    executor.execute(make_spec(id="first"), ctx)
    with pytest.raises(IdTakenError, match=r"'first' is taken by another spec .*feature 7.*Nothing was run"):
        executor.execute(make_spec(id="first", **change), ctx)
    assert toy.runs == 1
    assert len(stored_files(store)) == 1


def test_fresh_never_overwrites_the_result_of_its_id(executor, ctx, make_spec, toy):
    executor.execute(make_spec(id="first"), ctx)
    with pytest.raises(IdTakenError, match="never overwritten"):
        executor.execute(make_spec(id="first"), ctx, fresh=True)
    assert toy.runs == 1


def test_an_id_with_an_answer_of_another_bundle_is_refused(executor, ctx, make_spec):
    executor.execute(make_spec(id="first"), ctx)
    ctx.bundle.fingerprint = "0" * 64
    with pytest.raises(IdTakenError, match="another version, bundle content"):
        executor.execute(make_spec(id="first"), ctx)


def test_a_fault_of_the_experiment_is_stored_with_its_finished_tables(executor, ctx, make_spec, store, caplog):
    result = executor.execute(make_spec(id="first", mode="fail"), ctx)
    assert not result.success
    assert result.error_message == "ZeroDivisionError: the experiment's own fault"
    assert store.result("first").tables["rung_deltas"].column("rung") == [3, 57]
    assert store.result("first").diagnostics.warnings == ["a warning of the run"]
    assert "the experiment's own fault" in caplog.text


def test_a_failure_is_never_taken_for_an_answer(executor, ctx, make_spec, toy):
    executor.execute(make_spec(id="first", mode="fail"), ctx)
    assert not executor.execute(make_spec(mode="fail"), ctx).cached
    with pytest.raises(IdTakenError, match="a run that failed"):
        executor.execute(make_spec(id="first", mode="fail"), ctx)
    assert toy.runs == 2


def test_a_cancelled_run_is_stored_with_its_finished_tables(executor, ctx, make_spec, store):
    result = executor.execute(
        make_spec(id="first", mode="wait"), ctx, job=Job(is_cancelled=iter([False, True]).__next__)
    )
    assert (result.success, result.error_message) == (False, "cancelled")
    assert "rung_deltas" in store.result("first").tables


def test_a_refusal_of_the_experiment_is_raised_and_nothing_is_stored(executor, ctx, make_spec, store):
    with pytest.raises(UnknownNameError, match="did you mean 'special_charge_up'"):
        executor.execute(make_spec(mode="refuse", family="special_charge"), ctx)
    assert stored_files(store) == []
    assert list(store.specs.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [({"feature_id": 100}, "out of range"), ({"model_type": "ultra"}, "'ultra', the open bundle is 'demo'")],
)
def test_a_request_that_cannot_be_right_writes_nothing(executor, ctx, make_spec, home, change, message):
    with pytest.raises(RequestError, match=message):
        executor.execute(make_spec(**change), ctx)
    assert not list(home.runs.rglob("*.json")) if home.runs.exists() else True


def test_a_folder_that_cannot_be_written_is_known_before_anything_runs(executor, ctx, make_spec, toy, store):
    store.root.parent.mkdir(parents=True)
    store.root.write_text("a file where the folder should be")
    with pytest.raises(StoreError, match=r"runs.*--home"):
        executor.execute(make_spec(), ctx)
    assert toy.runs == 0


def test_an_output_folder_that_cannot_be_written_is_known_before_anything_runs(executor, ctx, make_spec, toy, tmp_path):
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    with pytest.raises(StoreError, match="blocked"):
        executor.execute(make_spec(), ctx, output_dir=blocked)
    assert toy.runs == 0


def test_a_disk_that_fills_up_during_the_run_leaves_nothing_half_written(executor, ctx, make_spec, store, monkeypatch):
    real = files.os.fsync

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(StoreError, match=r"No space left on device\. Free some space"):
        executor.execute(make_spec(id="first"), ctx)
    monkeypatch.setattr(files.os, "fsync", real)
    assert [path.name for folder in (store.specs, store.results) for path in folder.iterdir()] == []
    assert executor.execute(make_spec(id="first"), ctx).success


def test_outputs_hide_parts_of_the_answer_and_of_nothing_stored(executor, ctx, make_spec, store):
    off = {"aggregates": False, "tables": False, "diagnostics": False}
    shown = executor.execute(make_spec(id="first", outputs=off), ctx)
    assert (shown.aggregates, shown.tables, shown.diagnostics) == (None, {}, None)
    kept = store.result("first")
    assert kept.aggregates is not None
    assert kept.tables
    assert kept.diagnostics is not None
    assert executor.execute(make_spec(), ctx).tables == kept.tables


def test_asking_for_figures_warns_that_there_are_none_yet(executor, ctx, make_spec, store):
    shown = executor.execute(make_spec(id="first", outputs={"figures": True}), ctx)
    assert FIGURES_WARNING in shown.diagnostics.warnings
    assert FIGURES_WARNING not in store.result("first").diagnostics.warnings


def test_a_plan_counts_passes_and_runs_nothing(executor, ctx, make_spec, toy):
    planned = executor.plan(make_spec(), ctx)
    assert planned.estimated_seconds == pytest.approx(1.0)
    assert (planned.stored, toy.runs) == (None, 0)
    done = executor.execute(make_spec(), ctx)
    assert executor.plan(make_spec(), ctx).stored == done.spec_id


def test_nan_never_reaches_the_stored_result(executor, ctx, make_spec, store):
    executor.execute(make_spec(id="first", mode="nan"), ctx)
    assert "NaN" not in store.path("first").read_text()
    assert store.result("first").tables["rung_deltas"].column("mean_delta") == [None, None]


def test_a_spec_whose_writer_was_killed_before_its_result_can_be_run_again(executor, ctx, make_spec, store):
    store.check_writable()
    spec = make_spec(id="first")
    (store.specs / spec.file_name()).write_text(spec.model_dump_json())
    assert executor.execute(make_spec(id="first"), ctx).success
    with pytest.raises(IdTakenError):
        executor.execute(make_spec(id="first", feature_id=8), ctx)


def test_a_bundle_whose_name_no_spec_could_hold_is_refused(executor, ctx, make_spec, toy):
    ctx.name = "my bundle"
    with pytest.raises(RequestError, match="'my bundle', which is no name"):
        executor.execute(make_spec(), ctx)
    assert toy.runs == 0


def test_one_spec_object_run_again_is_answered_or_refused_before_it_runs(executor, ctx, make_spec, toy):
    spec = make_spec()
    assert executor.execute(spec, ctx).spec_id == executor.execute(spec, ctx).spec_id
    with pytest.raises(IdTakenError, match="never overwritten"):
        executor.execute(spec, ctx, fresh=True)
    failing = make_spec(mode="fail")
    executor.execute(failing, ctx)
    with pytest.raises(IdTakenError, match="a run that failed"):
        executor.execute(failing, ctx)
    assert toy.runs == 2


def test_an_answer_of_other_code_is_not_taken_for_one_of_this_code(executor, make_spec, ctx, toy, monkeypatch):
    first = executor.execute(make_spec(), ctx)
    assert executor.execute(make_spec(), ctx).cached_from == first.spec_id
    monkeypatch.setattr(executor_module, "code_digest", lambda: "the code as it was changed")
    assert not executor.execute(make_spec(), ctx).cached
    assert toy.runs == 2
