"""Runs in flight on disk: what is left when a process is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from mechinterp_runner.schemas.errors import StoreError
from mechinterp_runner.server.store.store import Store

KEEP = """
import sys, time
from pathlib import Path
from mechinterp_runner.schemas.spec import parse_spec_json
from mechinterp_runner.server.store.store import Store
store = Store(Path(sys.argv[1]))
store.journal.note(parse_spec_json(sys.argv[2].encode(), "spec"))
print("noted", flush=True)
time.sleep(600)
"""
SPEC = {
    "id": "lost",
    "type": "family_1d_sweep",
    "feature_id": 3,
    "model_type": "demo",
    "variables": {"family": "swim_speed_up"},
    "rationale": "why it was asked",
}


@pytest.fixture
def other_process(home):
    """A process that has a run in flight; ``kill()`` ends it without a chance to tidy up."""
    home.runs.mkdir(parents=True)
    process = subprocess.Popen(
        [sys.executable, "-c", KEEP, str(home.runs), json.dumps(SPEC)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "noted\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_run_of_a_killed_process_is_stored_as_interrupted(home, other_process):
    os.kill(other_process.pid, signal.SIGKILL)
    other_process.wait()
    store = Store(home.runs)
    result = store.result("lost")
    assert (result.status, result.success) == ("interrupted", False)
    assert "did not finish" in result.headline
    assert store.spec("lost").rationale == "why it was asked"
    assert list((home.runs / "running").iterdir()) == []


def test_a_run_of_a_live_process_is_left_alone(home, other_process):
    store = Store(home.runs)
    assert store.find("lost") is None
    assert json.loads(store.journal.elsewhere("lost"))["id"] == "lost"
    assert store.recover() == 0


def test_a_server_that_was_there_before_finds_what_a_killed_one_left(home, other_process):
    store = Store(home.runs)
    assert store.find("lost") is None
    other_process.kill()
    other_process.wait()
    assert store.result("lost").status == "interrupted"


def test_a_result_stored_before_the_kill_stands(home, other_process, toy, make_spec, executor, ctx):
    spec = make_spec(**{key: value for key, value in SPEC.items() if key != "variables"}, family="swim_speed_up")
    executor.execute(spec, ctx)
    other_process.kill()
    other_process.wait()
    store = Store(home.runs)
    assert store.recover() == 1
    assert store.result("lost").status == "done"


def test_a_record_that_cannot_be_read_does_not_stop_the_others(home, other_process, caplog):
    [folder] = (home.runs / "running").iterdir()
    (folder / "broken.json").write_text("{ no json")
    other_process.kill()
    other_process.wait()
    assert Store(home.runs).result("lost").status == "interrupted"
    assert "broken cannot be read and was dropped" in caplog.text


def test_a_run_of_this_process_is_noted_while_it_goes_on_and_no_longer(home, store, make_spec):
    spec = make_spec(id="mine")
    with store.in_flight(spec):
        [noted] = (home.runs / "running").glob("*/mine.json")
        assert json.loads(noted.read_text())["feature_id"] == 7
        assert Store(home.runs).journal.elsewhere("mine") is not None
    assert not noted.exists()
    store.journal.close()
    assert list((home.runs / "running").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_said(home, make_spec):
    home.runs.mkdir(parents=True)
    (home.runs / "running").write_text("")
    with pytest.raises(StoreError, match="running"):
        Store(home.runs).journal.note(make_spec())
