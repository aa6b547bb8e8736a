"""The outside proof: official suites and fuzzers against the server, run by `make proof` and skipped otherwise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import mechinterp_runner
import pytest

HERE = Path(__file__).resolve().parent
NODE_TOOLS = Path(mechinterp_runner.__file__).resolve().parent / ".proof" / "node_modules" / ".bin"
TO_START, TO_STOP, TO_RUN = 60, 30, 200
SKIPPED = (
    "not run: the official MCP suites and the fuzzers, which need Node >= 22.19 and packages of their own; "
    "`make proof` fetches and runs them"
)
Run = Callable[..., subprocess.CompletedProcess[str]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is in this folder unless it was asked for; the rest of the suite is collected with it."""
    if os.environ.get("MECHINTERP_PROOF") != "1":
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=SKIPPED))


@dataclass
class Served:
    """A server that runs as a process of its own.

    Attributes:
        url: where it serves.
        stderr: what it has printed so far.
    """

    url: str = ""
    stderr: str = ""
    ready: threading.Event = field(default_factory=threading.Event)

    def read(self, process: subprocess.Popen[str]) -> None:
        """Read what the process prints to its end; it is ready when it names its URL."""
        for line in process.stderr:
            self.stderr += line
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/mcp", line):
                # The conformance suite takes no address, only the name.
                self.url = f"http://localhost:{found[1]}/mcp"
                self.ready.set()
        self.ready.set()


@pytest.fixture(scope="session")
def own_environment() -> Iterator[dict[str, str]]:
    """The environment of every process: the tools first on the path, nobody's home folder, nobody's settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MECHINTERP_")}
    path = os.pathsep.join([str(NODE_TOOLS), str(Path(sys.executable).parent), os.environ["PATH"]])
    with tempfile.TemporaryDirectory(prefix="proof-") as home:
        yield {**inherited, "PATH": path, "HOME": home, "MECHINTERP_HOME": home, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def tool(own_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run an outside tool to its end in a folder of its own."""
    assert NODE_TOOLS.is_dir(), f"{NODE_TOOLS} is missing: run `make proof`"
    folder = tmp_path_factory.mktemp("tool")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, capture_output=True, text=True, check=False, timeout=TO_RUN, env=own_environment, cwd=folder
        )

    version = run("node", "--version").stdout.strip()
    assert [int(part) for part in version[1:].split(".")] >= [22, 19], f"Node >= 22.19 is needed; got {version}"
    return run


@contextmanager
def serving(environment: dict[str, str], *words: str) -> Iterator[Served]:
    """Start a server over HTTP, and stop it at the end, which must be an orderly one."""
    served = Served()
    with (
        tempfile.TemporaryDirectory(prefix="proof-") as home,
        subprocess.Popen(
            [sys.executable, *words],
            stderr=subprocess.PIPE,
            text=True,
            env={**environment, "MECHINTERP_HOME": home},
        ) as process,
    ):
        reader = threading.Thread(target=served.read, args=(process,))
        reader.start()
        try:
            assert served.ready.wait(TO_START), f"the server did not start in {TO_START} s: {served.stderr}"
            assert served.url, f"the server did not start: {served.stderr}"
            yield served
            process.terminate()
            assert process.wait(TO_STOP) == 0, f"the server failed at its end: {served.stderr}"
        finally:
            process.kill()
            reader.join()


@pytest.fixture(scope="session")
def bare_server(own_environment: dict[str, str]) -> Iterator[Served]:
    """The server as it is."""
    with serving(own_environment, "-m", "mechinterp_runner", "serve", "--transport", "http", "--port", "0") as served:
        yield served


@pytest.fixture(scope="session")
def fixture_server(own_environment: dict[str, str]) -> Iterator[Served]:
    """The server with the fixtures of the conformance suite mounted."""
    with serving(own_environment, str(HERE / "proof_server.py")) as served:
        yield served


@pytest.fixture(scope="session")
def resumable_server(own_environment: dict[str, str]) -> Iterator[Served]:
    """The same, built with a store for the messages of streams that end early."""
    with serving(own_environment, str(HERE / "proof_server.py"), "--resumable") as served:
        yield served
