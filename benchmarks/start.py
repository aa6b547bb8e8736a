"""How soon a server answers: from the start of its process to the answer to ``initialize``.

The reference is a server of the `mcp` package without a tool of its own, which is what the protocol alone takes.
Compiled modules are kept in a folder of the benchmark and are there before the first start that counts, as they are on
any machine that has run the server before.
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
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from ..schemas.errors import RequestError
from ..server.http.settings import MCP_PATH
from .frame import Bar, Call, Row, take_turns
from .process import address_of, running, serve_command

REPEATS, QUICK_REPEATS = 7, 1
BAR = Bar("seconds", 1.0)
_BARE = "a bare server of the mcp package"
_VERSION = "2025-11-25"
_INITIALIZE: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": _VERSION, "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}},
}
_HEADERS = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
Ask = Callable[[subprocess.Popen[str]], str]


def measure(*, quick: bool = False) -> list[Row]:
    """Measure the time to the first answer, over stdio and HTTP."""
    return asyncio.run(_measure(QUICK_REPEATS if quick else REPEATS))


async def _measure(repeats: int) -> list[Row]:
    with TemporaryDirectory(prefix="bench-") as folder:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = str(Path(folder, "compiled"))
        bare = "from mcp.server import MCPServer; MCPServer('bare').run"
        ours, theirs = serve_command(Path(folder)), [sys.executable, "-c"]
        calls = {
            "stdio": _start(ours, _over_stdio, environment),
            "HTTP": _start([*ours, "--transport", "http", "--port", "0"], _over_http, environment),
            "stdio, bare": _start([*theirs, f"{bare}('stdio')"], _over_stdio, environment),
            "HTTP, bare": _start([*theirs, f"{bare}('streamable-http', port=0)"], _over_http, environment),
        }
        await take_turns(calls, 1)
        medians = await take_turns(calls, repeats)
    return [
        Row(f"start to initialize over {way}", medians[way], _BARE, medians[f"{way}, bare"], repeats, BAR)
        for way in ("stdio", "HTTP")
    ]


def _start(command: list[str], ask: Ask, environment: dict[str, str]) -> Call:
    """A call that starts a server and asks it to initialize; its end is not timed."""

    async def start() -> float:
        began = time.perf_counter()
        with running(command, environment) as process:
            answer = ask(process)
            seconds = time.perf_counter() - began
        if f'"protocolVersion":"{_VERSION}"' not in answer:
            raise RequestError(f"the server answered initialize with {answer or 'nothing'!r}")
        return seconds

    return start


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
