"""How soon there is an answer, from the start of a process: of a server, and of the command line.

* A server to ``initialize``; the reference is a server of the `mcp` package without a tool of its own, which is what
  the protocol alone takes.
* A server to its first interventional run, on the demo bundle; the reference is its answer to ``initialize``.
* The command line to an observational experiment on 200,000 examples; the reference is Python importing numpy and
  pandas.

Compiled modules are kept in a folder of the benchmark and are there before the first start that counts, as they are on
any machine that has run the program before.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from ..schemas.errors import RequestError
from ..server.http.settings import MCP_PATH
from .data import write_examples
from .frame import Bar, Call, Row, in_turn, take_turns
from .process import PACKAGE, address_of, running, serve_command

REPEATS, QUICK_REPEATS = 7, 1
BAR, FIRST_RUN_BAR, COMMAND_BAR = Bar("seconds", 1.0), Bar("seconds", 4.0), Bar("ratio", 2.5)
EXAMPLES, QUICK_EXAMPLES, HIDDEN = 200_000, 2_000, 512
_BARE = "a bare server of the mcp package"
_VERSION = "2025-11-25"
_INITIALIZE: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": _VERSION, "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}},
}
_CALL = {"name": "family_1d_sweep", "arguments": {"feature_id": 0, "family": "special_charge_up", "model_type": "demo"}}
_FIRST_RUN: list[dict[str, Any]] = [
    {"jsonrpc": "2.0", "method": "notifications/initialized"},
    {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": _CALL},
]
_HEADERS = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
Ask = Callable[[subprocess.Popen[str]], str]


def measure(*, quick: bool = False) -> list[Row]:
    """Measure the time to the first answer: of a server over stdio and HTTP, and of the command line."""
    repeats = QUICK_REPEATS if quick else REPEATS
    with TemporaryDirectory(prefix="bench-") as folder:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        if not quick:
            environment["PYTHONPYCACHEPREFIX"] = str(Path(folder, "compiled"))
        rows = asyncio.run(_servers(Path(folder), environment, repeats))
        n = QUICK_EXAMPLES if quick else EXAMPLES
        return [*rows, _command_line(Path(folder, "home"), n, environment, repeats)]


async def _servers(folder: Path, environment: dict[str, str], repeats: int) -> list[Row]:
    bare = "from mcp.server import MCPServer; MCPServer('bare').run"
    ours, theirs = serve_command(folder), [sys.executable, "-c"]
    homes = count()

    async def first_run() -> float:
        # A home of its own each time: a stored answer would be no run.
        return await _start(serve_command(folder / f"home-{next(homes)}"), _first_run, environment)()

    calls = {
        "stdio": _start(ours, _over_stdio, environment),
        "HTTP": _start([*ours, "--transport", "http", "--port", "0"], _over_http, environment),
        "stdio, bare": _start([*theirs, f"{bare}('stdio')"], _over_stdio, environment),
        "HTTP, bare": _start([*theirs, f"{bare}('streamable-http', port=0)"], _over_http, environment),
        "run": first_run,
    }
    if repeats > QUICK_REPEATS:
        await take_turns(calls, 1)
    medians = await take_turns(calls, repeats)
    rows = [
        Row(f"start to initialize over {way}", medians[way], _BARE, medians[f"{way}, bare"], repeats, BAR)
        for way in ("stdio", "HTTP")
    ]
    what, reference = "start to the first interventional run, demo bundle", "start to initialize over stdio"
    return [*rows, Row(what, medians["run"], reference, medians["stdio"], repeats, FIRST_RUN_BAR)]


def _command_line(home: Path, n: int, environment: dict[str, str], repeats: int) -> Row:
    """A cold observational run on so many examples."""
    bundle = home / "bundles" / "examples"
    bundle.parent.mkdir(parents=True)
    write_examples(bundle, n, HIDDEN)
    where = ["--home", str(home), "--bundle", str(bundle), "--fresh"]

    def call(*words: str) -> Callable[[], object]:
        command = [sys.executable, *words]
        return lambda: subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)

    calls = {
        "ours": call("-m", PACKAGE, "weapon-sweep", "--feature-id", "0", *where),
        "python": call("-c", "import numpy, pandas"),
    }
    if repeats > QUICK_REPEATS:
        in_turn(calls, 1)
    medians = in_turn(calls, repeats)
    what = f"command line, cold: weapon-sweep on {n:,} examples"
    return Row(what, medians["ours"], "python -c 'import numpy, pandas'", medians["python"], repeats, COMMAND_BAR)


def _start(command: list[str], ask: Ask, environment: dict[str, str]) -> Call:
    """A call that starts a server and asks it to initialize; its end is not timed."""

    async def start() -> float:
        began = time.perf_counter()
        with running(command, environment) as process:
            answer = ask(process)
            seconds = time.perf_counter() - began
        if _VERSION not in answer and '"success":true' not in answer:
            raise RequestError(f"the server answered {answer or 'nothing'!r}")
        return seconds

    return start


def _first_run(process: subprocess.Popen[str]) -> str:
    """The answer to a first run, over stdio; what is said in between is left out."""
    _over_stdio(process)
    if process.stdin is None or process.stdout is None:
        raise RequestError("the server was started without pipes")
    process.stdin.write("".join(json.dumps(message) + "\n" for message in _FIRST_RUN))
    process.stdin.flush()
    return next((line for line in process.stdout if '"id":2' in line), "")


def _over_stdio(process: subprocess.Popen[str]) -> str:
    if process.stdin is None or process.stdout is None:
        raise RequestError("the server was started without pipes")
    process.stdin.write(json.dumps(_INITIALIZE) + "\n")
    process.stdin.flush()
    return process.stdout.readline()


def _over_http(process: subprocess.Popen[str]) -> str:
    address = urlsplit(address_of(process))
    connection = http.client.HTTPConnection(address.hostname or "", address.port)
    connection.request("POST", MCP_PATH, json.dumps(_INITIALIZE), _HEADERS)
    answer = connection.getresponse().read().decode()
    connection.close()
    return answer
