"""Runs in flight on disk: what is left when a process is killed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from mechinterp_runner.schemas.errors import StoreError
from mechinterp_runner.server.store import files
from mechinterp_runner.server.store import index as index_module
from mechinterp_runner.server.store import journal as journal_module
from mechinterp_runner.server.store.index import Query
from mechinterp_runner.server.store.journal import Journal
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
    assert result.headline.endswith("Ask again, under a new id if you gave one, to run it.")
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
    assert "the note of the interrupted run broken was dropped: broken is not JSON" in caplog.text


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


@pytest.fixture
def leave(home):
    """Leave the notes of a process that is gone."""

    def leave(*specs, host=None):
        folder = home.runs / "running" / f"{host or socket.gethostname()}-12-dead"
        folder.mkdir(parents=True, exist_ok=True)
        for spec in specs:
            (folder / f"{spec.id}.json").write_text(spec.model_dump_json())
        return folder

    return leave


def test_a_note_whose_id_was_taken_meanwhile_is_dropped(home, executor, ctx, make_spec, leave, caplog):
    executor.execute(make_spec(id="mine", feature_id=8), ctx)
    folder = leave(make_spec(id="mine", feature_id=7), make_spec(id="other"))
    store = Store(home.runs)
    assert store.search(Query())[0] == 2
    assert (store.find("mine").feature_id, store.find("other").status) == (8, "interrupted")
    assert "the note of the interrupted run mine was dropped: id 'mine' is taken by another spec" in caplog.text
    assert not folder.exists()


def test_a_run_that_cannot_be_stored_stays_noted_and_does_not_stop_the_others(home, store, make_spec, leave, caplog):
    spec = make_spec(id="a")
    store.check_writable()
    (store.specs / spec.file_name()).write_text("{")
    folder = leave(spec, make_spec(id="b"))
    assert store.find("b").status == "interrupted"
    assert [path.name for path in folder.glob("*.json")] == ["a.json"]
    assert "is no readable spec" in caplog.text


def test_interrupted_runs_are_stored_while_the_index_is_locked(home, store, make_spec, leave, monkeypatch):
    monkeypatch.setattr(index_module, "_BUSY_SECONDS", 0.05)
    leave(make_spec(id="lost"))
    with closing(sqlite3.connect(store.index.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert store.recover() == 1
        other.rollback()
    assert store.result("lost").status == "interrupted"


@pytest.mark.parametrize("cleared", ["runs", "runs/running"])
def test_runs_go_on_when_somebody_clears_the_folder_away(home, store, executor, ctx, make_spec, cleared):
    executor.execute(make_spec(), ctx)
    shutil.rmtree(home.root / cleared)
    assert executor.execute(make_spec(rungs=[6]), ctx).success
    store.journal.note(make_spec(id="first"))
    shutil.rmtree(home.root / cleared)
    store.journal.note(make_spec(id="second"))
    other = Store(home.runs)
    assert other.recover() == 0
    assert other.journal.elsewhere("second") is not None
    store.journal.strike("first")
    store.journal.strike("second")
    store.journal.close()
    assert list((home.runs / "running").iterdir()) == []


def test_noting_twice_is_noting_once(home, store, make_spec):
    spec = make_spec(id="mine")
    store.journal.note(spec)
    [noted] = (home.runs / "running").glob("*/*.json")
    before = noted.stat()
    store.journal.note(spec)
    assert (noted.stat().st_ino, noted.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_note_appears_whole_or_not_at_all(home, store, make_spec, monkeypatch):
    def full(_self, _target):
        raise OSError(errno.ENOSPC, "full")

    store.journal.note(make_spec(id="first"))
    monkeypatch.setattr(journal_module.Path, "replace", full)
    with pytest.raises(StoreError, match=r"running: No space left on device\. Free some space"):
        store.journal.note(make_spec(id="second"))
    [folder] = (home.runs / "running").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["alive.lock", "first.json"]


def test_a_process_that_ends_while_it_is_looked_at_has_nothing_in_flight(home, store, make_spec, leave, monkeypatch):
    leave(make_spec(id="lost"))
    real = Journal._folders

    def vanishing(journal):
        found = real(journal)
        for folder in found:
            shutil.rmtree(folder)
        return found

    monkeypatch.setattr(Journal, "_folders", vanishing)
    assert store.journal.elsewhere("lost") is None
    leave(make_spec(id="lost"))
    assert store.recover() == 0


def test_a_note_of_another_process_that_cannot_be_read_is_as_good_as_none(home, other_process, store, caplog):
    [folder] = (home.runs / "running").iterdir()
    (folder / "half.json").write_text('{"id": "ha')
    (folder / "odd.json").mkdir()
    assert store.journal.elsewhere("half") is store.journal.elsewhere("odd") is None
    assert "half is not JSON" in caplog.text
    assert "Is a directory" in caplog.text


@pytest.mark.parametrize("name", ["../lost", "a\0b", ""])
def test_a_handle_that_is_no_name_is_noted_nowhere(home, other_process, store, name):
    assert store.journal.elsewhere(name) is None


def test_a_journal_that_was_closed_gives_its_runs_up_and_notes_later_ones_anew(home, store, make_spec):
    store.journal.note(make_spec(id="before"))
    store.journal.close()
    store.journal.close()
    store.journal.note(make_spec(id="after"))
    other = Store(home.runs)
    assert other.recover() == 1
    assert other.find("before").status == "interrupted"
    assert (other.find("after"), other.journal.elsewhere("after") is not None) == (None, True)
    store.journal.strike("before")
    store.journal.close()


def test_a_folder_that_cannot_be_locked_is_not_left(home, store, make_spec, monkeypatch):
    def refuse(_self, **_how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(journal_module.FileLock, "acquire", refuse)
    with pytest.raises(StoreError, match="No locks available"):
        store.journal.note(make_spec())
    assert list((home.runs / "running").iterdir()) == []


def test_what_a_process_killed_while_it_made_its_folder_left_is_cleared_after_an_hour(home, store):
    old, young = (home.runs / "running" / f"{files.TEMPORARY}{age}" for age in ("old", "young"))
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "alive.lock").touch()
    os.utime(old, (0, 0))
    assert store.recover() == 0
    assert (old.exists(), young.exists()) == (False, True)


def test_on_a_network_folder_a_host_judges_its_own_processes_only(home, make_spec, leave, monkeypatch):
    monkeypatch.setattr(files, "on_network", lambda _folder: True)
    leave(make_spec(id="mine"))
    leave(make_spec(id="theirs"), host=f"{socket.gethostname()}-b")
    store = Store(home.runs)
    assert store.find("mine").status == "interrupted"
    assert store.find("theirs") is None
    assert json.loads(store.journal.elsewhere("theirs"))["id"] == "theirs"
