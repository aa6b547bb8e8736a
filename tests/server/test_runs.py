"""The runs of a server, without a server: slots, order, sharing, handles, cancellation, limits."""

from __future__ import annotations

import threading
from concurrent.futures import wait

import pytest
from mechinterp_runner.schemas.errors import RequestError, StoreError
from mechinterp_runner.server.work.run import NotStartedError
from mechinterp_runner.server.work.runs import Limits, Runs


@pytest.fixture
def make_runs(executor, contexts):
    made = []

    def make(**limits):
        made.append(Runs(executor, contexts, Limits(**limits)))
        return made[-1]

    yield make
    for runs in made:
        runs.close()
        runs.executor.store.journal.close()


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


def test_a_run_cancelled_while_it_waits_never_starts_and_its_handle_still_says_so(runs, make_spec, busy, store, toy):
    unknown, promised = runs.submit(make_spec(rungs=[3])), runs.submit(make_spec(rungs=[6]))
    runs.keep(promised)
    for run in (unknown, promised):
        runs.cancel(run)
        with pytest.raises(NotStartedError, match="was cancelled before it began"):
            ended(run)
    runs.cancel(busy)
    ended(busy)
    assert toy.runs == 1
    assert store.find(unknown.id) is None, "nobody has its handle"
    kept = store.result(promised.id)
    assert (kept.status, kept.tables) == ("cancelled", {})


def test_a_run_goes_on_as_long_as_somebody_waits_for_it(busy, runs, make_spec):
    assert runs.submit(make_spec(mode="wait")) is busy
    runs.leave(busy)
    assert not busy.stopping
    runs.leave(busy)
    assert busy.stopping
    [result] = ended(busy)
    assert "has gone" in result.error_message


def test_a_run_whose_handle_was_given_away_goes_on_without_anybody_waiting(busy, runs):
    runs.keep(busy)
    runs.leave(busy)
    assert not busy.stopping
    runs.cancel(busy)


def test_a_full_queue_refuses_and_says_so(make_runs, make_spec, toy):
    runs = make_runs(queue=1)
    first = runs.submit(make_spec(mode="wait"))
    assert toy.started.wait(10)
    waiting = runs.submit(make_spec(rungs=[3]))
    with pytest.raises(RequestError, match=r"the queue is full: 1 runs wait and 1 may.*Nothing was run"):
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


def test_closing_stops_what_goes_on_and_stores_it_and_what_was_promised(make_runs, make_spec, toy, store):
    runs = make_runs()
    going, waiting, promised = (
        runs.submit(make_spec(**of)) for of in ({"mode": "wait"}, {"rungs": [3]}, {"rungs": [6]})
    )
    runs.keep(promised)
    assert toy.started.wait(10)
    runs.close()
    assert store.result(going.id).error_message == "cancelled: the server was stopped"
    assert isinstance(waiting.ended.exception(), NotStartedError)
    assert "the server was stopped" in store.result(promised.id).error_message
    with pytest.raises(RequestError, match="the server is stopping"):
        runs.submit(make_spec(rungs=[6]))
    names = ("model_", "data_", "lookups_", "plans_")
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(names)]


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
    waiting = runs.submit(make_spec(rungs=[3]))
    runs.keep(waiting)
    assert [path.stem for path in sorted((home.runs / "running").glob("*/*.json"))] == sorted([blocker.id, waiting.id])
    runs.cancel(blocker)
    ended(blocker, waiting)
    runs.close()
    assert list((home.runs / "running").glob("*/*.json")) == []


def test_a_handle_that_cannot_be_noted_is_not_given_away(make_runs, make_spec, toy, monkeypatch):
    runs = make_runs()
    blocker = runs.submit(make_spec(mode="wait"))
    assert toy.started.wait(10)
    waiting = runs.submit(make_spec(rungs=[3]))

    def full(_spec):
        raise StoreError("no space left")

    monkeypatch.setattr(runs.executor.store.journal, "note", full)
    with pytest.raises(StoreError):
        runs.keep(waiting)
    runs.leave(waiting)
    assert waiting.ended.done(), "nobody waits for it and nobody has its handle"
    runs.cancel(blocker)


def test_the_handle_of_a_stored_answer_is_good_for_ever(make_runs, make_spec, store):
    runs = make_runs()
    ended(runs.submit(make_spec(id="first")))
    early, late = runs.submit(make_spec()), runs.submit(make_spec())
    runs.keep(early)
    ended(early, late)
    runs.keep(late)
    runs.close()
    for run in (early, late):
        assert store.result(run.id).cached_from == "first"


def test_a_refused_run_whose_handle_was_given_away_is_stored_with_the_reason(make_runs, make_spec, toy, store):
    runs = make_runs()
    blocker = runs.submit(make_spec(mode="wait"))
    assert toy.started.wait(10)
    wrong = runs.submit(make_spec(mode="refuse"))
    runs.keep(wrong)
    runs.cancel(blocker)
    with pytest.raises(RequestError, match="unknown family"):
        ended(wrong)
    runs.close()
    kept = store.result(wrong.id)
    assert kept.status == "failed"
    assert "unknown family" in kept.error_message


def test_a_follower_neither_displaces_its_leader_nor_takes_a_worker(make_runs, make_spec, toy):
    runs = make_runs(data_workers=2)
    leader = runs.submit(make_spec(mode="wait", method="observational"))
    assert toy.started.wait(10)
    followers = [runs.submit(make_spec(mode="wait", method="observational", id=f"f{at}")) for at in range(3)]
    assert runs.submit(make_spec(mode="wait", method="observational")) is leader
    [other] = ended(runs.submit(make_spec(method="observational")))
    assert other.success, "a worker was free"
    runs.cancel(followers[0])
    assert not leader.stopping
    for run in (*followers, leader):
        runs.cancel(run)


def test_all_specs_of_a_list_are_entered_or_none(make_runs, make_spec, toy):
    runs = make_runs(queue=2)
    blocker = runs.submit(make_spec(mode="wait"))
    assert toy.started.wait(10)
    with pytest.raises(RequestError, match="the queue is full: 0 runs wait and 2 may"):
        runs.submit_all([make_spec(rungs=[rung]) for rung in (3, 6, 12)])
    with pytest.raises(RequestError, match="id 'mine' is that of a run in flight"):
        runs.submit_all([make_spec(rungs=[3], id="mine"), make_spec(rungs=[6], id="mine")])
    assert runs.in_flight() == [blocker]
    runs.cancel(blocker)


def test_a_stored_answer_is_given_however_full_the_queue_is(make_runs, make_spec, toy):
    runs = make_runs(queue=1)
    ended(runs.submit(make_spec(id="first")))
    blocker = runs.submit(make_spec(mode="wait"))
    assert toy.started.wait(10)
    runs.submit(make_spec(rungs=[3]))
    [again] = ended(runs.submit(make_spec()))
    assert again.cached_from == "first"
    runs.cancel(blocker)


def test_only_one_may_end_a_run(busy, runs, make_spec):
    waiting = runs.submit(make_spec(rungs=[3]))
    takers = [threading.Thread(target=runs.cancel, args=(waiting,)) for _ in range(8)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    assert runs.tally.ended["family_1d_sweep", "cancelled"] == 1
    runs.cancel(busy)


def test_everybody_who_asks_for_a_failed_run_gets_an_error_of_their_own(runs, make_spec):
    run = runs.submit(make_spec(mode="refuse"))
    wait([run.ended], timeout=20)
    caught = []
    for _ in range(2):
        with pytest.raises(RequestError, match="unknown family") as error:
            run.outcome()
        caught.append(error.value)
    assert caught[0] is not caught[1]
