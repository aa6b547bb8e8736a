"""The runs of a server, without a server: slots, order, sharing, handles, cancellation, limits."""

from __future__ import annotations

import threading
from concurrent.futures import wait

import pytest
from mechinterp_runner.schemas.errors import RequestError, StoreError
from mechinterp_runner.server.executor import Executor
from mechinterp_runner.server.store.store import Store
from mechinterp_runner.server.work.runs import Limits, NotStartedError, Runs


@pytest.fixture
def make_runs(executor, contexts):
    made = []

    def make(**limits):
        made.append(Runs(executor, contexts, Limits(**limits)))
        return made[-1]

    yield make
    for runs in made:
        runs.close()


@pytest.fixture
def runs(make_runs):
    return make_runs()


@pytest.fixture
def busy(runs, make_spec, toy):
    """The model slot taken by a run that goes on until it is stopped."""
    run = runs.submit(make_spec(mode="wait"))
    assert toy.started.wait(10)
    return run


def ended(*asked):
    assert not wait([run.ended for run in asked], timeout=20).not_done
    return [run.ended.result() for run in asked]


def test_a_run_ends_with_its_stored_result(runs, make_spec, store):
    run = runs.submit(make_spec())
    [result] = ended(run)
    assert (run.state, result.status, result.spec_id) == ("ended", "done", run.id)
    assert store.result(run.id).headline == result.headline
    assert runs.in_flight() == []


def test_the_same_question_in_flight_is_one_run(runs, make_spec, toy, busy):
    assert runs.submit(make_spec(mode="wait")) is busy
    assert runs.tally.shared == 1
    assert runs.submit(make_spec(mode="wait", outputs={"tables": False})) is not busy, "it shows something else"
    assert toy.runs == 1


def test_a_question_with_words_of_its_own_waits_for_the_one_in_flight_and_takes_its_answer(
    runs, make_spec, toy, busy, store
):
    leader = runs.submit(make_spec(rungs=[3]))
    follower = runs.submit(make_spec(rungs=[3], id="mine", rationale="my own reason"))
    assert follower is not leader
    runs.cancel(busy)
    first, second = ended(leader, follower)
    assert toy.runs == 2, "the one that was cancelled, and one for both"
    assert (second.spec_id, second.cached_from) == ("mine", first.spec_id)
    assert store.result("mine").provenance.rationale == "my own reason"


def test_a_fresh_run_is_never_shared(runs, make_spec, busy):
    assert runs.submit(make_spec(mode="wait"), fresh=True) is not busy


def test_models_run_one_at_a_time_in_the_order_they_were_asked_for(runs, make_spec, busy):
    later = [runs.submit(make_spec(rungs=[rung])) for rung in (3, 6, 12)]
    assert [runs.behind(run) for run in (busy, *later)] == [0, 1, 2, 3]
    assert {run.state for run in later} == {"queued"}
    runs.cancel(busy)
    starts = [result.provenance.started_at for result in ended(*later)]
    assert starts == sorted(starts)


def test_what_only_reads_data_does_not_wait_for_the_model(runs, make_spec, busy):
    [result] = ended(runs.submit(make_spec(method="observational")))
    assert result.success
    assert busy.state == "running"


def test_a_stored_answer_does_not_wait_for_the_model(make_runs, make_spec, toy):
    runs = make_runs()
    ended(runs.submit(make_spec(id="first")))
    blocker = runs.submit(make_spec(mode="wait"))
    assert toy.started.wait(10)
    [again] = ended(runs.submit(make_spec()))
    assert (again.cached, again.cached_from) == (True, "first")
    assert blocker.state == "running"


def test_a_wrong_request_does_not_wait_for_the_model_to_hear_it(runs, make_spec, busy):
    with pytest.raises(RequestError, match="out of range"):
        ended(runs.submit(make_spec(feature_id=1000)))
    assert runs.tally.ended["family_1d_sweep", "refused"] == 1


def test_a_cancelled_run_is_stored_as_cancelled_with_its_finished_tables(runs, busy, store, toy):
    runs.cancel(busy, "cancelled: for a reason")
    [result] = ended(busy)
    assert toy.stopped.is_set()
    assert (result.status, result.success) == ("cancelled", False)
    stored = store.result(busy.id)
    assert stored.error_message == "cancelled: for a reason"
    assert len(stored.tables["rung_deltas"].rows) == 2


def test_a_run_cancelled_while_it_waits_never_starts_and_is_not_stored(runs, make_spec, busy, store, toy):
    waiting = runs.submit(make_spec(rungs=[3]))
    runs.keep(waiting)
    runs.cancel(waiting)
    with pytest.raises(NotStartedError, match="nothing was run or stored"):
        ended(waiting)
    runs.cancel(busy)
    ended(busy)
    assert toy.runs == 1
    assert store.find(waiting.id) is None
    assert runs.find(waiting.id) is waiting, "its handle still says what became of it"


def test_a_run_goes_on_as_long_as_somebody_waits_for_it(busy, runs):
    busy.watch()
    busy.watch()
    busy.leave(keep=False)
    assert not busy.stopping
    busy.leave(keep=False)
    assert busy.stopping
    [result] = ended(busy)
    assert "has gone" in result.error_message


def test_a_run_whose_handle_was_given_away_goes_on_without_anybody_waiting(busy, runs):
    busy.watch()
    busy.leave(keep=True)
    assert not busy.stopping
    runs.cancel(busy)


def test_a_full_queue_refuses_and_says_so(make_runs, make_spec, toy):
    runs = make_runs(queue=1)
    first = runs.submit(make_spec(mode="wait"))
    assert toy.started.wait(10)
    waiting = runs.submit(make_spec(rungs=[3]))
    with pytest.raises(RequestError, match=r"the queue is full: 1 runs wait.*Nothing was run"):
        runs.submit(make_spec(rungs=[6]))
    runs.cancel(first)
    ended(waiting)


def test_a_run_that_takes_too_long_is_stopped_and_says_so(make_runs, make_spec):
    runs = make_runs(run_seconds=0.05)
    [result] = ended(runs.submit(make_spec(mode="wait")))
    assert result.status == "cancelled"
    assert result.error_message == "cancelled: it ran longer than the server allows (0.05 s)"


def test_an_id_in_flight_is_not_taken_by_another_question(make_runs, make_spec, toy):
    runs = make_runs()
    first = runs.submit(make_spec(mode="wait", id="mine"))
    assert toy.started.wait(10)
    assert runs.submit(make_spec(mode="wait", id="mine")) is first
    with pytest.raises(RequestError, match="id 'mine' is that of a run in flight"):
        runs.submit(make_spec(rungs=[3], id="mine"))
    runs.cancel(first)


def test_progress_counts_the_passes_that_were_planned(busy):
    progress = busy.progress
    assert (progress.done, progress.total, progress.unit) == (7, 1000, "forward passes")
    assert progress.seconds_left == pytest.approx(progress.seconds / 7 * 993)


def test_closing_stops_what_goes_on_and_stores_it(make_runs, make_spec, toy, store):
    runs = make_runs()
    going, waiting = runs.submit(make_spec(mode="wait")), runs.submit(make_spec(rungs=[3]))
    assert toy.started.wait(10)
    runs.close()
    assert store.result(going.id).error_message == "cancelled: the server was stopped"
    assert isinstance(waiting.ended.exception(), NotStartedError)
    with pytest.raises(RequestError, match="the server is stopping"):
        runs.submit(make_spec(rungs=[6]))
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("model_", "data_"))]


def test_only_so_many_ended_runs_are_kept(make_runs, make_spec):
    runs = make_runs(results_in_memory=2)
    asked = [runs.submit(make_spec(rungs=[rung])) for rung in (3, 6, 12)]
    ended(*asked)
    assert [runs.find(run.id) is not None for run in asked] == [False, True, True]


def test_the_tally_counts_types_outcomes_seconds_and_passes(runs, make_spec):
    ended(runs.submit(make_spec()))
    ended(runs.submit(make_spec()))
    ended(runs.submit(make_spec(mode="fail")))
    tally = runs.tally
    assert dict(tally.ended) == {
        ("family_1d_sweep", "done"): 1, ("family_1d_sweep", "cached"): 1, ("family_1d_sweep", "failed"): 1
    }  # fmt: skip
    assert (tally.passes_made, tally.passes_saved) == (14, 6)
    assert tally.seconds["family_1d_sweep"] > 0


def test_a_handle_is_given_away_only_when_it_is_on_disk(make_runs, make_spec, toy, home):
    runs = make_runs()
    blocker = runs.submit(make_spec(mode="wait"))
    assert toy.started.wait(10)
    other = Runs(Executor(Store(home.root / "file")), runs.contexts)
    (home.root / "file").write_text("")
    other_first = other.submit(make_spec(rungs=[3]))
    with pytest.raises(StoreError):
        ended(other_first)
    waiting = runs.submit(make_spec(rungs=[3]))
    runs.keep(waiting)
    assert [path.stem for path in sorted((home.runs / "running").glob("*/*.json"))] == sorted([blocker.id, waiting.id])
    runs.cancel(blocker)
    ended(blocker, waiting)
    assert list((home.runs / "running").glob("*/*.json")) == []
    other.close()
