"""Many agents at once: nothing fails, nothing hangs, nothing leaks, and a busy server still answers at once.

``MECHINTERP_LOAD_SECONDS`` says for how long (default 45): a night of it is worth more than a minute.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from mcp import Client
from mechinterp_runner.server.store.store import Store

HERE = Path(__file__).resolve().parent
SECONDS = float(os.environ.get("MECHINTERP_LOAD_SECONDS", "45"))
ROUNDS = ("warm-up", "first half", "second half")
PROCESSES, EACH_ERA = 2, 10
TO_START, TO_STOP, TO_SETTLE = 60, 30, 20
# A client process needs a second or two to start, and its last calls wait in line before they are answered.
TO_COME_AND_GO = 5.0
LINUX = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads /proc, which only Linux has")

# What may differ between two moments at which no client is there.
# Threads: pools fill up when they are first needed that much; the readers' pool has 8. A thread lost with each session
# would make 20 a round.
MORE_THREADS = 8
# Open files: the index is three files (database, log, shared memory), open or not.
MORE_FILES = 3
# Memory: what the server keeps has limits, so low here that the warm-up reaches most of them. But freed memory
# does not all go back to the system, and late threads have heaps of their own: 9 to 24 MiB in the first half.
# In the second half there is no such excuse: 1 to 3 MiB were seen.
LIMITS = ("--results-in-memory", "4")
MORE_MEMORY_ONCE, MORE_MEMORY = 40 * 2**20, 10 * 2**20
# Clients that only connect, ask what needs no work, and leave: a session that is not forgotten keeps its last answer,
# 1 MB with the list of tools and 30 kB without.
VISITS, MORE_MEMORY_OF_VISITS = 60, 2**20

STATES, SLOTS = ("runs_running", "queue_length"), ("model", "data")

LIMIT, WAKING = 0.050, "(waking up)"
# Whatever else the machine does can only make answers later, never sooner: the least disturbed window counts.
WINDOWS, WINDOW_SECONDS = 3, max(6.0, SECONDS / 5)
PROBES_EACH_ERA, PERIOD = 2, 0.1
SHORT_SWEEP = {"feature_id": 0, "family": "special_charge_up", "dataset_slice": {"sample_size": 20}}
LONG_RUN = {"type": "pairwise_interactions", "feature_id": 3}


@dataclass
class Server:
    """A server process and where it keeps its runs.

    Attributes:
        process: the process.
        home: its home folder.
        stderr: what it printed so far.
        url: where it serves.
    """

    process: subprocess.Popen[str]
    home: Path
    stderr: list[str] = field(default_factory=list)
    url: str = ""

    def read(self, ready: threading.Event) -> None:
        """Read what it prints to the end."""
        for line in self.process.stderr:
            self.stderr.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+/mcp", line):
                self.url = found[0]
                ready.set()
        ready.set()

    @property
    def said(self) -> str:
        return "".join(self.stderr)


@contextmanager
def serving(environment: dict[str, str], home: Path) -> Iterator[Server]:
    """Run a server with its runs in this folder; its end must be orderly and silent."""
    words = [sys.executable, "-m", "mechinterp_runner", "serve", "--transport", "http", "--port", "0"]
    words += [*LIMITS, "--home", str(home)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment) as process:
        server, ready = Server(process, home), threading.Event()
        reader = threading.Thread(target=server.read, args=(ready,))
        reader.start()
        try:
            assert ready.wait(TO_START), f"the server did not start in {TO_START} s: {server.said}"
            assert server.url, f"the server did not start: {server.said}"
            yield server
            process.terminate()
            status = process.wait(TO_STOP)
            assert status == 0, f"the server ended with status {status}: {server.said}"
        finally:
            process.kill()
            reader.join()
    assert "Traceback" not in server.said, server.said


@pytest.fixture
def environment(own_environment):
    """As users run it: torch takes the cores it wants."""
    return {name: value for name, value in own_environment.items() if name != "OMP_NUM_THREADS"}


@dataclass(frozen=True)
class Held:
    """What a process holds: threads, open files, and memory that is its own (bytes)."""

    threads: int
    files: int
    memory: int


def held_by(pid: int) -> Held:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    [threads], [memory] = re.findall(r"Threads:\s+(\d+)", status), re.findall(r"RssAnon:\s+(\d+) kB", status)
    return Held(int(threads), len(list(Path(f"/proc/{pid}/fd").iterdir())), int(memory) * 1024)


def sockets_of(pid: int) -> int:
    """Open sockets; a file that is closed meanwhile is none."""
    found = 0
    for file in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found += file.readlink().name.startswith("socket:")
        except FileNotFoundError:
            continue
    return found


def wait_until_alone(server: Server, sockets: int) -> None:
    """Wait until the connections of all clients are closed and their last runs have ended."""
    until = time.monotonic() + TO_SETTLE
    while sockets_of(server.process.pid) > sockets or not is_idle(server):
        assert time.monotonic() < until, (
            f"{TO_SETTLE} s after the last client left, {sockets_of(server.process.pid) - sockets} connections are "
            f"open, or a run goes on: {metrics(server)}"
        )
        time.sleep(0.1)


def metrics(server: Server) -> dict[str, float]:
    with urllib.request.urlopen(server.url.replace("/mcp", "/metrics"), timeout=TO_STOP) as answer:
        rows = [line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in rows if name.startswith("mechinterp_")}


def is_idle(server: Server) -> bool:
    counts = metrics(server)
    return not any(counts[f'mechinterp_{what}{{slot="{slot}"}}'] for what in STATES for slot in SLOTS)


def load(server: Server, environment: dict[str, str], seconds: float, turn: int) -> list[dict]:
    """Let the clients ask for so long; what each process of them saw."""
    processes = [
        subprocess.Popen(
            [sys.executable, str(HERE / "load_clients.py"), server.url, str(seconds), str(EACH_ERA), str(seed)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for seed in range(turn * PROCESSES, (turn + 1) * PROCESSES)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=seconds + 200) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * PROCESSES, said
    return [json.loads(out) for out, _ in said]


def told(name: str, seen: list[dict], held: Held, seconds: float) -> str:
    """A line on a round."""
    asked, sessions = (sum(map(Counter, (one[key] for one in seen)), Counter()) for key in ("asked", "sessions"))
    slowest = {kind: max(one["slowest"].get(kind, 0.0) for one in seen) for kind in asked}
    kind = max(slowest, key=slowest.__getitem__)
    return (
        f"{name}: {asked.total()} requests in {sessions.total()} sessions, {seconds:.0f} s, slowest {kind} "
        f"{slowest[kind]:.1f} s; then {held.threads} threads, {held.files} open files, {held.memory / 2**20:.0f} MiB"
    )


@LINUX
@pytest.mark.timeout(SECONDS * 4 + 300)
def test_forty_clients_of_both_eras_see_no_error_and_leave_nothing_behind(environment, tmp_path, capsys):
    length = max(1.0, SECONDS / len(ROUNDS) - TO_COME_AND_GO)
    seen, held = list[dict](), list[Held]()
    with serving(environment, tmp_path / "home") as server:
        sockets = sockets_of(server.process.pid)
        for turn, name in enumerate(ROUNDS):
            began = time.monotonic()
            seen += load(server, environment, length, turn)
            wait_until_alone(server, sockets)
            held.append(held_by(server.process.pid))
            with capsys.disabled():
                print(f"\n  {told(name, seen[-PROCESSES:], held[-1], time.monotonic() - began)}", end="")
    assert [line for one in seen for line in one["wrong"]] == []
    assert_flat(held)
    assert_consistent(server.home, {run_id for one in seen for run_id in one["acknowledged"]})


def assert_flat(held: list[Held]) -> None:
    """Once warm, the server holds the same whenever nobody is there."""
    warm, middle, end = held
    assert max(middle.threads, end.threads) <= warm.threads + MORE_THREADS, held
    assert max(middle.files, end.files) <= warm.files + MORE_FILES, held
    assert middle.memory <= warm.memory + MORE_MEMORY_ONCE, held
    assert end.memory <= middle.memory + MORE_MEMORY, held


def assert_consistent(home: Path, acknowledged: set[str]) -> None:
    """All that was said to be done is stored and can be read; nothing is left of what was going on."""
    store = Store(home / "runs")
    again = store.reindex()
    assert (again.unreadable, list((home / "runs" / "running").iterdir())) == ((), [])
    assert acknowledged
    assert [run_id for run_id in acknowledged if store.result(run_id).status != "done"] == []


def run_probe(environment: dict[str, str], *words: str) -> str:
    """Run the lean clients to their end; what they printed."""
    done = subprocess.run(
        [sys.executable, str(HERE / "load_probe.py"), *words],
        capture_output=True, text=True, check=False, timeout=WINDOW_SECONDS + 100, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@LINUX
def test_clients_that_come_and_go_leave_nothing_behind(environment, tmp_path):
    with serving(environment, tmp_path / "home") as server:
        asyncio.run(called(server.url, "weapon_sweep", {"feature_id": 0}))
        sockets = sockets_of(server.process.pid)
        held = list[Held]()
        for _ in range(2):
            run_probe(environment, "visit", server.url, str(VISITS))
            wait_until_alone(server, sockets)
            held.append(held_by(server.process.pid))
    assert held[1].threads <= held[0].threads, held
    assert held[1].files <= held[0].files, held
    assert held[1].memory <= held[0].memory + MORE_MEMORY_OF_VISITS, held


@pytest.mark.timeout(WINDOWS * WINDOW_SECONDS + 300)
def test_tools_are_listed_and_pings_answered_within_50_ms_while_the_model_works(environment, tmp_path, capsys):
    with serving(environment, tmp_path / "home") as server:
        asyncio.run(called(server.url, "family_1d_sweep", SHORT_SWEEP))
        for window in range(1, WINDOWS + 1):
            seconds = probe_during_a_run(server, environment, seed=window)
            late = {method: at_percentile(99, seconds[method]) for method in ("tools/list", "ping")}
            with capsys.disabled():
                print(
                    "".join(f"\n  window {window}: {distribution(*pair)}" for pair in sorted(seconds.items())), end=""
                )
            if max(late.values()) < LIMIT:
                break
    woken = at_percentile(99, seconds[WAKING])
    assert max(late.values()) < LIMIT, f"{late}; the machine itself let a waiting thread wait {woken} s longer (p99)"


async def called(url: str, tool: str, arguments: dict) -> dict:
    """What a tool answers to a client that comes for this one call."""
    async with Client(url) as client:
        answer = await client.call_tool(tool, arguments)
    assert not answer.is_error, answer.content
    return answer.structured_content


def probe_during_a_run(server: Server, environment: dict[str, str], seed: int) -> dict[str, list[float]]:
    """Seconds of every answer from the begin of a long run on, its planning included."""
    few = {"sample_size": 5000, "random_seed": seed}
    asked = {"spec": {**LONG_RUN, "dataset_slice": few}, "options": {"wait_s": 0}}
    run_id = asyncio.run(called(server.url, "run_spec", asked))["run_id"]
    seconds = probe(server, environment)
    standing = asyncio.run(called(server.url, "get_run", {"run_id": run_id, "wait_s": 0}))
    assert standing["status"] == "running", f"the model was not busy all the while: {standing}"
    asyncio.run(called(server.url, "cancel_run", {"run_id": run_id}))
    return seconds


def probe(server: Server, environment: dict[str, str]) -> dict[str, list[float]]:
    """Seconds of every answer in a window of time, by what was asked."""
    said = run_probe(environment, "measure", server.url, str(WINDOW_SECONDS), str(PERIOD), str(PROBES_EACH_ERA))
    seen = json.loads(said)
    assert seen["wrong"] == []
    return seen["seconds"]


def at_percentile(percent: float, values: list[float]) -> float:
    """The value that so many percent do not exceed."""
    return sorted(values)[math.ceil(percent / 100 * len(values)) - 1]


def distribution(method: str, seconds: list[float]) -> str:
    """A line on how long answers took."""
    shown = ", ".join(f"p{percent} {at_percentile(percent, seconds) * 1e3:.1f} ms" for percent in (50, 90, 99))
    return f"{method}: {shown}, longest {max(seconds) * 1e3:.1f} ms of {len(seconds)}; load {os.getloadavg()[0]:.1f}"
