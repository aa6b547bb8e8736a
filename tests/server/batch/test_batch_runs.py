"""A batch in one process: what is run, skipped, tried again, summarised, and left when it stops."""

from __future__ import annotations

import errno
import os
import shutil

import pyarrow.parquet as pq
import pytest
from mechinterp_runner.schemas.errors import RequestError, StoreError
from mechinterp_runner.server.batch.batch import run_batch
from mechinterp_runner.server.batch.summary import COLUMNS, read_summary, row_of, write_summary
from mechinterp_runner.server.store import files
from mechinterp_runner.server.store.index import Query


def ask(feature, mode="fine", **given):
    variables = {"family": "swim_speed_up", "mode": mode, "method": "observational"}
    return {"type": "family_1d_sweep", "feature_id": feature, "variables": variables, **given}


@pytest.fixture
def batch(toy, home, data_bundle):
    """Run a batch of the toy experiment."""
    return lambda specs, **how: run_batch(specs, home=home.root, **how)


def without(rows, *names):
    return [[getattr(row, name) for name in COLUMNS if name not in names] for row in rows]


def test_every_spec_has_one_stored_result_and_one_row_in_the_order_given(batch, toy, store):
    features = [5, 0, 7, 2]
    done = batch([ask(feature) for feature in features])
    assert done.success
    assert toy.runs == 4
    assert [row.feature_id for row in done.rows] == features
    total, entries = store.search(Query())
    assert total == 4
    assert {entry.spec_id for entry in entries} == {row.spec_id for row in done.rows}
    for row in done.rows:
        assert row == row_of(store.result(row.spec_id))
        assert store.spec(row.spec_id).feature_id == row.feature_id
    assert store.reindex().unreadable == ()


def test_the_summary_holds_the_headline_numbers_and_always_the_same_columns(batch, tmp_path):
    path = tmp_path / "deep" / "summary.parquet"
    done = batch([ask(1, rationale="why", parent_hypothesis="h1"), ask(2, "fail")], summary=path)
    table = pq.read_table(path)
    assert table.column_names == list(COLUMNS)
    first, second = table.to_pylist()
    assert first["headline"] == "swim_speed_up drives feature 1"
    assert (first["subject"], first["relation"], first["finding_status"]) == ("swim_speed_up", "raises", "present")
    assert first["effect"] == pytest.approx(0.123456789 * 57)
    assert (first["n"], first["forward_passes"], first["warnings"], first["unit"]) == (500, 7, 1, "activation")
    assert (first["model_type"], first["parent_hypothesis"], first["error"]) == ("toy", "h1", None)
    assert (second["status"], second["subject"]) == ("failed", None)
    assert "ZeroDivisionError" in second["error"]
    write_summary(tmp_path / "empty.parquet", [])
    assert pq.read_schema(tmp_path / "empty.parquet").equals(table.schema)
    assert read_summary(path) == done.rows
    assert list(done.frame()["feature_id"]) == [1, 2]


def test_a_batch_asked_again_runs_nothing_and_gives_the_same_rows(batch, toy, monkeypatch):
    first = batch([ask(feature) for feature in range(5)])
    again = batch([ask(feature) for feature in range(5)])
    assert toy.runs == 5
    assert (again.progress.skipped, again.progress.done) == (5, 0)
    assert again.summary == first.summary
    assert without(again.rows, "cached") == without(first.rows, "cached")
    assert all(row.cached for row in again.rows)
    # Without the summary its rows are made from the stored results.
    again.summary.unlink()
    assert batch([ask(feature) for feature in range(5)]).rows == again.rows
    assert batch([ask(3)], fresh=True).progress.done == 1


def test_what_failed_or_was_refused_is_listed_and_tried_again(batch, toy, store):
    specs = [ask(0), ask(1, "fail"), ask(2, "refuse"), ask(3)]
    done = batch(specs)
    assert not done.success
    assert [row.status for row in done.rows] == ["done", "failed", "refused", "done"]
    assert [row.feature_id for row in done.failures] == [1, 2]
    assert "unknown family" in done.failures[1].error
    assert store.search(Query(success=False))[0] == 1
    again = batch(specs)
    assert toy.runs == 6
    assert (again.progress.skipped, again.progress.failed) == (2, 2)


def test_a_failure_that_holds_the_id_is_tried_again_under_another(batch, toy, store, monkeypatch):
    with monkeypatch.context() as once:
        once.setattr(toy, "_findings", lambda spec, table: 1 / 0)
        failed = batch([ask(1, id="mine")]).rows[0]
    assert (failed.spec_id, failed.status) == ("mine", "failed")
    again = batch([ask(1, id="mine")]).rows[0]
    assert again.status == "done"
    assert again.spec_id != "mine"
    assert store.result("mine").status == "failed"
    assert batch([ask(1, id="mine")]).rows[0].spec_id == again.spec_id
    assert toy.runs == 2


def test_a_run_that_is_stopped_half_way_leaves_its_id_free(batch, toy, store):
    stopped = batch([ask(1), ask(2, "wait", id="mine"), ask(3)], is_cancelled=toy.started.is_set)
    assert toy.stopped.is_set()
    assert [row.feature_id for row in stopped.rows] == [1]
    assert stopped.progress.left == 2
    assert store.find("mine") is None
    assert list((store.root / "running").glob("*/*.json")) == []


def test_a_question_asked_twice_is_run_once(batch, toy, store):
    done = batch([ask(1), ask(1), ask(1, id="mine"), ask(1, rationale="why")])
    assert toy.runs == 1
    assert done.success
    assert len(done.rows) == 4
    assert done.rows[0].spec_id == done.rows[1].spec_id
    assert done.rows[2].spec_id == "mine"
    assert store.result("mine").cached_from == done.rows[0].spec_id
    assert store.result(done.rows[3].spec_id).provenance.rationale == "why"
    assert [row.cached for row in done.rows] == [False, True, True, True]
    again = batch([ask(1), ask(1), ask(1, id="mine"), ask(1, rationale="why")])
    assert [row.spec_id for row in again.rows][2:] == [row.spec_id for row in done.rows][2:]
    assert store.search(Query())[0] == 3


@pytest.mark.parametrize(
    ("specs", "told"),
    [
        ([ask(1, id="mine"), ask(2, id="mine")], "spec 2: id 'mine' is that of another spec of the batch"),
        ([ask(2), ask(1, id="stored")], "spec 2: id 'stored' is that of a stored run"),
        ([ask(1), ask(99)], "spec 2: feature_id 99 is out of range"),
        ([ask(1), ask(2, model_type="ultra")], "spec 2: unknown bundle 'ultra'"),
        ([ask(1), {"type": "family_1d_sweep"}], "spec 2: "),
    ],
)
def test_nothing_is_run_when_one_spec_is_wrong(batch, toy, specs, told):
    batch([ask(7, id="stored")])
    with pytest.raises(RequestError, match="1 of 2 specs are wrong, and none was run") as error:
        batch(specs)
    assert told in str(error.value)
    assert toy.runs == 1


def test_a_bundle_that_no_spec_can_name_is_told_before_anything_is_run(batch, toy, home, data_bundle, tmp_path):
    folder = shutil.copytree(data_bundle, tmp_path / "bündle")
    with pytest.raises(RequestError, match=r"2 of 2 specs are wrong, and none was run:\nspec 1: .* is called 'bündle'"):
        batch([ask(1), ask(2)], bundle=folder)
    assert toy.runs == 0
    assert not home.runs.exists()


def test_a_batch_that_is_stopped_is_summarised_and_goes_on_when_asked_again(batch, toy, store):
    specs = [ask(feature, id=f"run-{feature}") for feature in range(6)]
    stopped = batch(specs, is_cancelled=lambda: toy.runs >= 3)
    kept = read_summary(stopped.summary)
    assert kept == stopped.rows
    assert 0 < len(kept) < 6
    assert stopped.progress.left == 6 - len(kept)
    assert not stopped.success
    assert {entry.status for entry in store.search(Query())[1]} == {"done"}
    before = toy.runs
    done = batch(specs)
    assert done.success
    assert done.progress.skipped == len(kept)
    assert toy.runs - before == 6 - len(kept)
    assert [row.spec_id for row in done.rows] == [f"run-{feature}" for feature in range(6)]
    assert store.search(Query())[0] == 6


def test_a_batch_that_runs_already_is_not_run_twice(batch, toy, store, monkeypatch):
    findings, refused = toy._findings, []

    def ask_again(spec, table):
        if not refused:
            with pytest.raises(RequestError, match=r"another process runs this batch .* Nothing was run\.") as error:
                batch([ask(1), ask(2)])
            refused.append(error)
        return findings(spec, table)

    monkeypatch.setattr(toy, "_findings", ask_again)
    assert batch([ask(1), ask(2)]).progress.done == 2
    assert toy.runs == len(refused) + 1 == 2
    assert batch([ask(1), ask(2)]).progress.skipped == 2
    assert list((store.root / "running").glob(".*")) == []


def test_an_answer_that_another_batch_stored_under_the_id_meanwhile_is_taken(batch, toy, store, monkeypatch):
    findings = toy._findings

    def overtaken(spec, table):
        if toy.runs == 1:
            batch([ask(1, id="mine")])
        return findings(spec, table)

    monkeypatch.setattr(toy, "_findings", overtaken)
    done = batch([ask(1, id="mine"), ask(2)])
    assert done.success
    assert [row.cached for row in done.rows] == [True, False]
    assert done.rows[0].spec_id == "mine"
    assert store.search(Query())[0] == 2


def test_an_id_that_another_question_got_meanwhile_is_refused(batch, toy, store, monkeypatch):
    findings = toy._findings

    def overtaken(spec, table):
        if toy.runs == 1:
            batch([ask(3, id="mine")])
        return findings(spec, table)

    monkeypatch.setattr(toy, "_findings", overtaken)
    done = batch([ask(1, id="mine"), ask(2)])
    assert [row.status for row in done.rows] == ["refused", "done"]
    assert "id 'mine' was taken meanwhile" in done.failures[0].error
    assert store.result("mine").feature_id == 3


def test_results_that_cannot_be_written_end_the_batch_and_the_summary_has_those_that_were(
    batch, toy, store, monkeypatch, tmp_path
):
    path = tmp_path / "summary.parquet"
    monkeypatch.setattr("mechinterp_runner.server.batch.here._GROUP", 2)
    real, linked = os.link, []

    def link(source, target):
        if str(target).startswith(str(store.results)):
            linked.append(target)
            if len(linked) > 2:
                raise OSError(errno.ENOSPC, "full")
        real(source, target)

    monkeypatch.setattr(files.os, "link", link)
    with pytest.raises(StoreError, match="No space left on device"):
        batch([ask(feature) for feature in range(6)], summary=path)
    monkeypatch.undo()
    assert [row.feature_id for row in read_summary(path)] == [0, 1]
    assert len(list(store.results.glob("*.json"))) == len(list(store.specs.glob("*.json"))) == 2


def test_a_file_that_is_no_summary_is_not_written_over(batch, toy, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(RequestError, match="is there and is no Parquet file"):
        batch([ask(1)], summary=path)
    with pytest.raises(StoreError, match="is a folder"):
        batch([ask(1)], summary=tmp_path)
    assert path.read_text() == "mine"
    assert toy.runs == 0


def test_specs_on_the_same_contexts_are_run_one_after_the_other(batch, toy, monkeypatch):
    order = []
    run = toy._findings
    monkeypatch.setattr(
        toy, "_findings", lambda spec, table: (order.append(spec.dataset_slice.random_seed), run(spec, table))[1]
    )
    batch([ask(feature, dataset_slice={"random_seed": feature % 3}) for feature in range(8)])
    assert order == sorted(order)


def test_progress_is_told_after_each_spec(batch):
    told = []
    batch([ask(0), ask(1, "fail")])
    batch([ask(0), ask(1, "fail"), ask(2)], on_progress=told.append)
    assert [(now.skipped, now.done, now.failed, now.left) for now in told] == [
        (1, 0, 0, 2),
        (1, 0, 1, 1),
        (1, 1, 1, 0),
    ]
    assert told[-1].rate > 0


def test_rows_of_stored_results_are_taken_from_an_earlier_summary(batch, monkeypatch):
    first = batch([ask(1), ask(2)])
    monkeypatch.setattr("mechinterp_runner.server.batch.batch.row_of", None)
    again = batch([ask(1), ask(2)])
    assert without(again.rows, "cached") == without(first.rows, "cached")
