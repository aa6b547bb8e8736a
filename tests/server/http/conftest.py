"""The shared server in a thread, on a free port, and requests to it as bytes on a socket."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import threading
from dataclasses import dataclass, field

import pytest
from mechinterp_runner.server.app import App
from mechinterp_runner.server.http.app import build
from mechinterp_runner.server.http.serve import HttpServer, listen
from mechinterp_runner.server.http.settings import HttpSettings

MODERN = "2026-07-28"
LEGACY = "2025-11-25"
QUESTION = {"feature_id": 7, "family": "special_charge_up"}
WAITING = QUESTION | {"mode": "wait"}
TOOL = "family_1d_sweep"
TYPES = {"content-type": "application/json", "accept": "application/json, text/event-stream"}


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def message(self):
        """The last JSON-RPC message, of JSON or of a stream."""
        lines = [line for line in self.body.decode().splitlines() if line.startswith("data:")]
        return json.loads(lines[-1].removeprefix("data:") if lines else self.body)


@dataclass
class Wires:
    """What clients write to a server."""

    port: int
    opened: list[socket.socket] = field(default_factory=list)
    sessions: list[dict] = field(default_factory=list)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/mcp"

    def ask(self, method="GET", path="/healthz", body=None, headers=None):
        """One request, and its whole answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            got = connection.getresponse()
            return Answer(got.status, got.headers, got.read())

    def open_session(self):
        """The headers of a session of the 2025 protocol."""
        params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
        begun = self.ask("POST", "/mcp", rpc("initialize", params), TYPES)
        headers = TYPES | {"mcp-session-id": begun.headers["mcp-session-id"], "mcp-protocol-version": LEGACY}
        assert self.ask("POST", "/mcp", rpc("notifications/initialized", number=None), headers).status == 202
        self.sessions.append(headers)
        return headers

    def call(self, era, arguments, number=1):
        """Send a call of the toy experiment; the socket on which its answer comes."""
        if era == "legacy":
            head, params = self.open_session(), {"name": TOOL, "arguments": arguments}
        else:
            head = TYPES | {"mcp-protocol-version": MODERN, "mcp-method": "tools/call", "mcp-name": TOOL}
            meta = {
                "io.modelcontextprotocol/protocolVersion": MODERN,
                "io.modelcontextprotocol/clientCapabilities": {},
            }
            params = {"name": TOOL, "arguments": arguments, "_meta": meta}
        return self.send("POST", "/mcp", rpc("tools/call", params, number), head)

    def send(self, method, path, body, headers, part=None):
        """Write a request, or only its first bytes; the socket, open."""
        lines = [f"{method} {path} HTTP/1.1", f"host: 127.0.0.1:{self.port}", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        wire = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        self.opened.append(wire)
        wire.sendall(("\r\n".join([*lines, "", ""]).encode() + body)[:part])
        return wire

    def hang_up(self):
        for wire in self.opened:
            wire.close()


@dataclass
class Live(Wires):
    """A server in a thread."""

    app: App = None
    server: HttpServer = None
    thread: threading.Thread = None

    def stop(self):
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()


def rpc(method, params=None, number=1):
    message = {"jsonrpc": "2.0", "method": method}
    if number is not None:
        message["id"] = number
    if params is not None:
        message["params"] = params
    return json.dumps(message).encode()


@pytest.fixture(params=["legacy", "modern"])
def era(request):
    return request.param


@pytest.fixture
def app(toy, home, contexts):
    return App(home, contexts)


@pytest.fixture
def start(app):
    """Start a server with the given settings; all are stopped at the end."""
    running = []

    def begin(mount=None, event_store=None, **settings):
        given = HttpSettings(**{"port": 0} | settings)
        listener, ready = listen(given), threading.Event()
        server = HttpServer(build(app, given, warm=False, mount=mount, event_store=event_store), ready.set)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        live = Live(listener.getsockname()[1], app=app, server=server, thread=thread)
        running.append(live)
        assert ready.wait(20)
        return live

    yield begin
    for live in running:
        live.hang_up()
        live.stop()


@pytest.fixture
def connected():
    """Clients of a server in another process, by its port."""
    made = []

    def connect(port):
        made.append(Wires(port))
        return made[-1]

    yield connect
    for wires in made:
        wires.hang_up()


@pytest.fixture
def live(start):
    return start()
