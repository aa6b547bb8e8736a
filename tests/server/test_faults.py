"""What goes wrong around a server process: kills, full disks, read-only folders, neighbours, clients that leave."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from mechinterp_runner.schemas.result import ExperimentResult
from mechinterp_runner.server.store.store import Store

LONG = {"spec": {"type": "pairwise_interactions", "feature_id": 3, "dataset_slice": {"sample_size": 5000}}}
QUICK = {"feature_id": 1, "options": {"fresh": True}}
CLIENT = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}


class Server:
    """A server process over stdio, spoken to in plain JSON-RPC."""

    def __init__(self, home: Path, before: tuple[str, ...] = ()) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [*before, sys.executable, "-m", "mechinterp_runner", "serve", "--home", str(home)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self.ids = count(1)
        self.ask("initialize", CLIENT)
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def send(self, message: dict) -> None:
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def begin(self, method: str, params: dict) -> int:
        at = next(self.ids)
        self.send({"jsonrpc": "2.0", "id": at, "method": method, "params": params})
        return at

    def ask(self, method: str, params: dict) -> dict:
        at = self.begin(method, params)
        for line in self.process.stdout:
            message = json.loads(line)
            if message.get("id") == at:
                return message["result"]
        raise EOFError(self.process.stderr.read())

    def call(self, tool: str, **arguments) -> dict:
        answer = self.ask("tools/call", {"name": tool, "arguments": arguments})
        assert not answer.get("isError"), answer["content"][0]["text"]
        return answer["structuredContent"]

    def refuse(self, tool: str, **arguments) -> str:
        answer = self.ask("tools/call", {"name": tool, "arguments": arguments})
        assert answer["isError"], answer
        return answer["content"][0]["text"]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def hang_up(self) -> str:
        """Leave as a client does, and return what the server wrote to stderr."""
        _, stderr = self.process.communicate(timeout=60)
        return stderr


@contextmanager
def serving(home: Path, *before: str):
    server = Server(home, before)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.communicate()


def stored(home: Path) -> dict[str, ExperimentResult]:
    """Every result file of a home, each of which must be whole."""
    found = (home / "runs" / "results").glob("*.json")
    results = [ExperimentResult.model_validate_json(path.read_bytes()) for path in found]
    return {result.spec_id: result for result in results}


def leftovers(home: Path) -> list[str]:
    """Files a writer left behind, and records of runs that nobody runs."""
    running = home / "runs" / "running"
    return [path.name for path in (home / "runs").rglob(".tmp-*")] + [path.name for path in running.glob("*/*.json")]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "home"


def test_a_server_killed_in_the_middle_of_a_run_leaves_a_store_that_opens_clean(folder):
    with serving(folder) as server:
        done = server.call("feature_overview", feature_id=1)
        going = server.call("run_spec", **LONG, options={"wait_s": 2})
        queued = server.call("family_1d_sweep", feature_id=2, family="comeback", options={"wait_s": 0})
        assert (going["status"], queued["status"]) == ("running", "queued")
        server.kill()
    with serving(folder) as server:
        for run in (going, queued):
            answer = server.call("get_run", run_id=run["run_id"])
            assert answer["status"] == "interrupted"
            assert "Ask again" in answer["headline"]
        assert server.call("get_run", run_id=done["run_id"])["status"] == "done"
        listed = server.call("list_results")
        assert sorted(row["status"] for row in listed["runs"]) == ["done", "interrupted", "interrupted"]
        again = server.call("family_1d_sweep", feature_id=2, family="comeback", options={"wait_s": 120})
        assert (again["status"], again.get("cached", False)) == ("done", False)
    assert leftovers(folder) == []


@pytest.mark.slow
def test_what_was_acknowledged_is_stored_whenever_the_server_is_killed(folder):
    acknowledged = []
    for delay in range(6):
        with serving(folder) as server:
            acknowledged += [server.call("feature_overview", **QUICK)["run_id"] for _ in range(3 + delay)]
            for _ in range(delay):
                server.begin("tools/call", {"name": "feature_overview", "arguments": QUICK})
            server.kill()
    results = stored(folder)
    assert all(results[run_id].status == "done" for run_id in acknowledged)
    found = Store(folder / "runs").reindex()
    assert found.unreadable == ()
    assert found.count >= len(acknowledged)


def test_a_client_that_hangs_up_during_a_run_leaves_it_stored_as_cancelled(folder):
    with serving(folder) as server:
        handle = server.call("run_spec", **LONG, options={"wait_s": 2})["run_id"]
        stderr = server.hang_up()
        assert server.process.returncode == 0
    assert "Traceback" not in stderr
    assert stored(folder)[handle].error_message == "cancelled: the server was stopped"
    assert leftovers(folder) == []


@pytest.mark.parametrize("asked", [0, 1, 2])
def test_a_client_that_hangs_up_at_once_gets_no_traceback(folder, asked):
    with serving(folder) as server:
        for _ in range(asked):
            server.begin("tools/call", {"name": "feature_overview", "arguments": QUICK})
        stderr = server.hang_up()
        assert server.process.returncode == 0
    assert "Traceback" not in stderr


def test_two_servers_on_one_folder_see_what_the_other_stores_and_runs(folder):
    with serving(folder) as one, serving(folder) as two:
        first = one.call("feature_overview", feature_id=1)
        assert two.call("get_run", run_id=first["run_id"])["headline"] == first["headline"]
        assert two.call("feature_overview", feature_id=1)["cached_from"] == first["run_id"]
        going = one.call("run_spec", **LONG, options={"wait_s": 1})["run_id"]
        elsewhere = two.call("get_run", run_id=going)
        assert elsewhere["status"] == "running"
        assert "another process" in elsewhere["headline"]
        mine = two.call("feature_overview", feature_id=2, options={"spec_id": "mine"})
        assert mine["run_id"] == "mine"
        refused = one.refuse("feature_overview", feature_id=3, options={"spec_id": "mine"})
        assert "id 'mine' is taken" in refused
        one.call("cancel_run", run_id=going)
        assert two.call("get_run", run_id=going)["status"] == "cancelled"
        one.kill()
        assert two.call("list_results")["total"] == 3


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of sixteen megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)]
    made = subprocess.run(command, capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {made.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Leave no room on a file system; returns the file to delete."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"x" * 4096)
        except OSError:
            return ballast


def test_a_full_disk_refuses_what_is_new_serves_what_is_stored_and_recovers(small_disk):
    home = small_disk / "home"
    with serving(home) as server:
        kept = server.call("feature_overview", feature_id=1)
        ballast = fill(small_disk)
        refused = server.refuse("feature_overview", feature_id=2)
        assert "No space left on device" in refused
        assert "--home" in refused
        assert server.call("get_run", run_id=kept["run_id"])["headline"] == kept["headline"]
        assert server.call("feature_overview", feature_id=1)["cached"]
        ballast.unlink()
        assert server.call("feature_overview", feature_id=2)["status"] == "done"
        assert "Traceback" not in server.hang_up()
    assert {result.status for result in stored(home).values()} == {"done"}
    assert leftovers(home) == []


def test_a_disk_that_fills_up_during_a_run_loses_that_run_alone_and_says_so(small_disk):
    home = small_disk / "home"
    with serving(home) as server:
        server.call("feature_overview", feature_id=1)
        going = server.call("run_spec", **LONG, options={"wait_s": 1})["run_id"]
        ballast = fill(small_disk)
        assert "No space left on device" in server.refuse("cancel_run", run_id=going)
        assert "No space left on device" in server.refuse("get_run", run_id=going)
        ballast.unlink()
        assert server.call("feature_overview", feature_id=2)["status"] == "done"
    assert len(stored(home)) == 2
    assert Store(home / "runs").reindex().unreadable == ()


def forbid_writing(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o500 if path.is_dir() else 0o400)


@pytest.fixture
def bound_by_modes():
    """Words before a command that make it heed the modes of files even when it runs as root."""
    if os.geteuid():
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("root heeds no file modes, and setpriv is not there to make it")
    return ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


def test_a_folder_turned_read_only_serves_what_is_stored_and_refuses_what_is_new(folder, bound_by_modes):
    with serving(folder, *bound_by_modes) as server:
        kept = server.call("feature_overview", feature_id=1)
        forbid_writing(folder)
        refused = server.refuse("feature_overview", feature_id=2)
        assert "Permission denied. Make the folder writable for you" in refused
        assert server.call("feature_overview", feature_id=1)["cached_from"] == kept["run_id"]
        assert server.call("list_results")["total"] == 1
    with serving(folder, *bound_by_modes) as server:
        assert server.call("get_run", run_id=kept["run_id"])["headline"] == kept["headline"]
        assert "Traceback" not in server.hang_up()
    assert len(stored(folder)) == 1
