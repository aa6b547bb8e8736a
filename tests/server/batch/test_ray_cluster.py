"""A batch on a local Ray with two workers: deaths cost the spec in hand alone, and every spec has one result."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
from collections import deque
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from mechinterp_runner.context.device import Compute
from mechinterp_runner.schemas.errors import BundleError, RequestError
from mechinterp_runner.schemas.result import ExperimentResult
from mechinterp_runner.schemas.spec import parse_spec
from mechinterp_runner.server.batch import cluster
from mechinterp_runner.server.batch.batch import run_batch
from mechinterp_runner.server.batch.cluster import Actor, ClusterOptions
from mechinterp_runner.server.batch.dispatch import Answered, Dispatch, Place, shards
from mechinterp_runner.server.batch.here import Task
from mechinterp_runner.server.batch.summary import row_without_result
from mechinterp_runner.server.executor import code_digest
from mechinterp_runner.server.store.index import Query
from mechinterp_runner.server.store.store import Store

KILLS_ALWAYS = 5
PROGRAM = Path(__file__).with_name("ray_batch.py")


def spec_of(feature: int) -> dict:
    variables = {"family": "swim_speed_up", "method": "observational"}
    return {"type": "family_1d_sweep", "feature_id": feature, "variables": variables}


def science(result: ExperimentResult) -> dict:
    """A result but for its id and its times."""
    whole = result.model_dump(mode="json", exclude={"spec_id", "duration_seconds", "spec_path"})
    for name in ("started_at", "spec_passed", "versions", "threads"):
        del whole["provenance"][name]
    for name in ("id", "created_at"):
        del whole["provenance"]["spec_resolved"][name]
    for followup in whole["followups"]:
        followup["spec"].pop("parent_spec_id", None)
    return whole


@pytest.mark.slow
def test_every_spec_has_one_result_as_of_one_process_though_workers_are_killed(home, data_bundle, tmp_path):
    specs, marks, apart = [spec_of(feature) for feature in range(8)], tmp_path / "marks", tmp_path / "apart"
    marks.mkdir()
    command = [sys.executable, str(PROGRAM), str(home.root), str(marks)]
    # With a token of its own, Ray makes none in the folder of the user.
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    ended = subprocess.run(
        command, input=json.dumps(specs), env=os.environ | own, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    rows = {row["feature_id"]: row for row in json.loads((marks / "rows.json").read_text())}
    assert {path.name for path in marks.iterdir()} == {"died", "rows.json"}
    assert list(rows) == list(range(8))
    killer = rows.pop(KILLS_ALWAYS)
    assert killer["status"] == "failed"
    assert "2 workers died while they ran it" in killer["error"]
    assert {row["status"] for row in rows.values()} == {"done"}

    store = Store(home.runs)
    total, entries = store.search(Query())
    assert total == len(list(store.results.glob("*.json"))) == 7
    assert {entry.spec_id for entry in entries} == {row["spec_id"] for row in rows.values()}

    alone = run_batch(specs, home=apart, bundle=data_bundle, device="cpu")
    for row in alone.rows:
        if row.feature_id != KILLS_ALWAYS:
            expected = science(Store(apart / "runs").result(row.spec_id))
            assert science(store.result(rows[row.feature_id]["spec_id"])) == expected


def test_a_second_try_takes_the_result_that_a_dead_worker_had_written(home, data_bundle, monkeypatch):
    spec = parse_spec(spec_of(2))
    first = Actor(home.root, data_bundle, Compute(device="cpu")).answer(spec)
    second = Actor(home.root, data_bundle, Compute(device="cpu"))
    monkeypatch.setattr(second._worker, "run", None)
    assert second.answer(spec) == first
    assert first.row.status == "done"
    assert first.entry.spec_id == spec.id
    assert not list(home.runs.glob("index-*"))


def test_a_worker_never_takes_the_result_of_another_question_for_an_answer(home, data_bundle):
    actor = Actor(home.root, data_bundle, Compute(device="cpu"))
    first, second = spec_of(2) | {"id": "mine"}, spec_of(2) | {"id": "mine", "dataset_slice": {"random_seed": 9}}
    assert actor.answer(parse_spec(first)).row.status == "done"
    answered = actor.answer(parse_spec(second))
    assert (answered.row.status, answered.entry) == ("refused", None)
    assert "id 'mine' was taken meanwhile" in answered.row.error


def test_a_worker_says_what_is_wrong_with_specs_and_which_it_had_to_refuse(home, data_bundle):
    actor = Actor(home.root, data_bundle, Compute(device="cpu"))
    good, far = actor.examine([parse_spec(spec_of(2)), parse_spec(spec_of(99))])
    assert (len(good.digest), good.fault) == (64, None)
    assert "feature_id 99 is out of range" in far.fault
    refused = actor.answer(parse_spec(spec_of(2) | {"dataset_slice": {"weapon_filter": [40], "weapon_exclude": [40]}}))
    assert refused.entry is None
    assert refused.row.status == "refused"


def tasks_of(*seeds: int) -> list[Task]:
    specs = [parse_spec(spec_of(at) | {"dataset_slice": {"random_seed": seed}}) for at, seed in enumerate(seeds)]
    return [Task(at, spec, "") for at, spec in enumerate(specs)]


def test_specs_on_the_same_contexts_stay_together_and_large_sets_are_shared_out():
    few = shards(tasks_of(1, 1, 2, 2, 2, 3), workers=1)
    assert [[task.place for task in shard] for shard in few] == [[0, 1], [2, 3], [4], [5]]
    many = shards(tasks_of(*[7] * 100), workers=5)
    assert [len(shard) for shard in many] == [5] * 20
    assert [task.place for shard in many for task in shard] == list(range(100))
    assert shards([], workers=3) == []
    assert all(isinstance(shard, deque) for shard in many)


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"cpus_per_worker": 0}, {"gpus_per_worker": -1}])
def test_a_cluster_without_workers_or_cores_is_refused(wrong):
    with pytest.raises(RequestError, match="a cluster needs at least one worker"):
        ClusterOptions(**wrong)


def test_without_ray_the_message_says_how_to_get_it(home, data_bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RequestError, match=r"pip install 'mechinterp-runner\[ray\]'"):
        run_batch([spec_of(1)], home=home.root, cluster=ClusterOptions(workers=1))
    assert not home.runs.exists()


HERE = Place("here", 1, code_digest())


class LostError(Exception):
    """What Ray raises when an actor has died."""


@dataclass(eq=False)
class Reference:
    """What a call gives: a value to come, an error, or "never"."""

    value: object


class FakeActor:
    """An actor whose calls end at once: it dies of the specs it is told to, and comes back unless it is lost."""

    def __init__(self, dies_of=(), *, comes_back=True):
        self.dies_of, self.asked = set(dies_of), []
        self.answer = SimpleNamespace(remote=self._answer)
        back = HERE if comes_back else "never" if comes_back is None else LostError("no room for it")
        self.where = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda: Reference(back)))

    def _answer(self, spec):
        self.asked.append(spec.feature_id)
        killed = spec.feature_id in self.dies_of
        return Reference(LostError("killed") if killed else Answered(row_without_result(spec, "done", "")))


@pytest.fixture
def dispatch(monkeypatch):
    """Hand eight tasks to fake actors; gives the status of each by its place."""

    def get(reference):
        if isinstance(reference.value, Exception):
            raise reference.value
        return reference.value

    def wait(references, timeout):
        ready = [reference for reference in references if reference.value != "never"][:1]
        assert ready, "only calls that never end are waited for"
        return ready, []

    errors = SimpleNamespace(RayError=LostError, RayTaskError=KeyError)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=get, wait=wait, exceptions=errors))
    monkeypatch.setitem(sys.modules, "ray.exceptions", errors)

    def dispatch(*actors, stopped=lambda: False, late=()):
        ended = Dispatch.of(tasks_of(*[7] * 8), actors, stopped, late).answers()
        told = [(task.place, answered.row.status) for task, answered in ended]
        assert len(dict(told)) == len(told)
        return dict(told)

    return dispatch


DONE = dict.fromkeys(range(8), "done")


def test_a_worker_lost_for_good_leaves_its_specs_to_the_others(dispatch):
    lost, other = FakeActor(dies_of=[0], comes_back=None), FakeActor()
    assert dispatch(lost, other) == DONE
    assert lost.asked == [0]
    assert sorted(other.asked) == list(range(8))


def test_a_worker_that_comes_back_works_on(dispatch):
    alone = FakeActor(dies_of=[3])
    assert dispatch(alone) == DONE | {3: "failed"}
    assert sorted(alone.asked) == sorted([*range(8), 3])


def test_a_spec_that_two_workers_die_of_is_failed_and_the_others_are_not(dispatch):
    workers = [FakeActor(dies_of=[5]) for _ in range(3)]
    assert dispatch(*workers) == DONE | {5: "failed"}
    assert sum(worker.asked.count(5) for worker in workers) == 2


def test_workers_without_room_at_first_join_when_there_is_some(dispatch):
    busy, joins, waits = FakeActor(dies_of=[0], comes_back=False), FakeActor(), FakeActor()
    assert dispatch(busy, joins, waits, late=[Reference(HERE), Reference("never")]) == DONE
    assert sorted(joins.asked) == list(range(8))
    assert waits.asked == []


def test_a_worker_that_comes_back_with_other_code_is_left_out(dispatch, caplog):
    here, strange = FakeActor(), FakeActor()
    assert dispatch(here, strange, late=[Reference(Place("far", 1, "other code"))]) == DONE
    assert strange.asked == []
    assert "the worker on far has other code than this process" in caplog.text


def test_without_any_worker_left_the_batch_ends_and_says_so(dispatch):
    with pytest.raises(BundleError, match="no worker of the cluster is left; the same command goes on"):
        dispatch(FakeActor(dies_of=[0], comes_back=False), FakeActor(dies_of=range(8), comes_back=False))


def test_a_stopped_batch_sends_nothing_more_and_takes_what_is_in_hand(dispatch):
    first, second = FakeActor(), FakeActor()
    told = dispatch(first, second, stopped=lambda: len(first.asked) + len(second.asked) >= 4)
    assert len(told) == len(first.asked) + len(second.asked) == 4


def test_an_address_where_nothing_listens_is_told_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(RequestError, match=rf"no Ray cluster at {address}: .*refused.* `ray start --head`"):
        cluster._connect(None, ClusterOptions(address=address))


class FakeRay:
    """A cluster of that many cores."""

    def __init__(self, **resources: float) -> None:
        self.cluster_resources = lambda: resources


@pytest.fixture
def started(monkeypatch):
    """How `_connect` starts Ray on a machine of four cores."""
    monkeypatch.setattr(os, "cpu_count", lambda: 4)

    def started(**options):
        asked = {}
        cluster._connect(SimpleNamespace(init=lambda **given: asked.update(given)), ClusterOptions(**options))
        return asked

    return started


@pytest.mark.parametrize(("options", "cores"), [({}, 4), ({"workers": 2}, 2), ({"workers": 99}, 4)])
def test_ray_started_here_has_no_more_cores_than_the_machine(started, options, cores):
    assert started(**options)["num_cpus"] == cores


def test_a_batch_waits_with_a_word_until_the_cluster_has_room_for_one_worker(caplog):
    told = iter([([], ["a", "b"]), ([], ["a", "b"]), (["b"], ["a"])])
    ray = SimpleNamespace(wait=lambda calls, num_returns, timeout: next(told))
    assert cluster._first_to_live(ray, ["a", "b"]) == (["b"], ["a"])
    assert caplog.text.count("the cluster has no room for a worker yet") == 2
    assert "1 of 2 workers have no room yet: they join when there is some" in caplog.text


@pytest.mark.parametrize(
    ("resources", "options", "told"),
    [
        (
            {"CPU": 4},
            {"workers": 5},
            "5 workers do not fit: each takes 1 cores and 0 GPUs, and the cluster has 4 and 0",
        ),
        ({"CPU": 4}, {"gpus_per_worker": 1}, "enough for 0"),
        (
            {"CPU": 16, "GPU": 2},
            {"workers": 3},
            "each takes 1 cores and 1 GPUs, and the cluster has 16 and 2, enough for 2",
        ),
    ],
)
def test_workers_that_do_not_fit_are_refused_with_what_there_is(home, resources, options, told):
    with pytest.raises(RequestError, match=told):
        cluster._start(FakeRay(**resources), home, None, Compute(), ClusterOptions(**options))


@pytest.mark.parametrize(("code", "refused"), [("other code", True), (code_digest(), False)])
def test_workers_with_other_code_are_refused_at_the_start(home, code, refused):
    said = Reference(Place("far", 1, code))
    actor = SimpleNamespace(where=SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda: said)))
    ray = SimpleNamespace(
        cluster_resources=lambda: {"CPU": 1},
        remote=lambda _: SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *_: actor)),
        wait=lambda calls, **_: (calls, []),
        get=lambda calls: [call.value for call in calls],
        exceptions=SimpleNamespace(RayError=LostError),
    )
    start = partial(cluster._start, ray, home, None, Compute(), ClusterOptions())
    if refused:
        with pytest.raises(RequestError, match=r"the worker on far has other code .* Nothing was run\."):
            start()
    else:
        assert start() == ([actor], [])
