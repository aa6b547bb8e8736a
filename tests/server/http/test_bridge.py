"""A client that speaks only stdio, through the bridge as a process, to a shared server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import traceback

import anyio
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import DEFAULT_MAX_SSE_EVENT_SIZE
from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError
from mechinterp_runner.schemas.errors import RequestError
from mechinterp_runner.server.http.bridge import endpoint

TOOL = "family_1d_sweep"
QUESTION = {"feature_id": 7, "family": "special_charge_up"}
WAITING = QUESTION | {"mode": "wait"}
TOKEN = "a-token-that-nobody-would-guess"
_CONNECT = "import sys; from mechinterp_runner.server.http.bridge import connect; sys.exit(connect(*sys.argv[1:]))"
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": "first",
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


def command(url, *token):
    return [sys.executable, "-c", _CONNECT, url, *token]


@pytest.fixture(params=["legacy", "auto"])
def mode(request):
    return request.param


def through(url, mode, use, *token):
    """Run ``use(client)`` with a client of the SDK on the other end of a bridge."""
    words = command(url, *token)
    parameters = StdioServerParameters(command=words[0], args=words[1:], env=dict(os.environ))

    async def main():
        with anyio.fail_after(60):
            async with Client(parameters, mode=mode) as client:
                return await use(client)

    return anyio.run(main)


class Piped:
    """A bridge whose pipes the test holds."""

    def __init__(self, url, *token):
        self.process = subprocess.Popen(
            command(url, *token), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._deadline = threading.Timer(60, self.process.kill)
        self._deadline.start()
        self._others = {}

    def write(self, *messages):
        for message in messages:
            line = message if isinstance(message, bytes) else json.dumps(message).encode()
            self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def read(self):
        return json.loads(self.process.stdout.readline())

    def answer(self, number):
        """The answer of that id; others may come before it, and are kept."""
        while number not in self._others:
            message = self.read()
            self._others[message.get("id")] = message
        return self._others.pop(number)

    def call(self, era, number, arguments, tool=TOOL):
        """Call a tool, after the handshake where there is one."""
        params = {"name": tool, "arguments": arguments, "_meta": {"progressToken": number}}
        if era == "legacy":
            self.write(INITIALIZE)
            assert self.answer("first")["result"]["protocolVersion"] == "2025-11-25"
            self.write({"jsonrpc": "2.0", "method": "notifications/initialized"})
        else:
            params["_meta"] |= META
        self.write({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params})

    def end(self):
        """What it left: exit status, the rest of its answers, and its words."""
        out, err = self.process.communicate(timeout=30)
        self._deadline.cancel()
        return self.process.returncode, [json.loads(line) for line in out.splitlines()], err.decode()


@pytest.fixture
def pipe():
    """Start a bridge; none outlives its test."""
    begun = []

    def begin(url, *token):
        begun.append(Piped(url, *token))
        return begun[-1]

    yield begin
    for bridge in begun:
        bridge.process.kill()
        bridge.end()


def test_what_a_client_sees_through_the_bridge_is_what_it_sees_over_http(live, mode):
    async def use(client):
        called = await client.call_tool(TOOL, QUESTION)
        tools = await client.list_tools()
        pages = await client.list_resources()
        skill = await client.read_resource("mechinterp://skill")
        prompts = await client.list_prompts()
        unknown = await client.call_tool("famly_sweep", {})
        shown = (tools, pages, skill, prompts, unknown)
        return called.structured_content["headline"], [item.model_dump(mode="json") for item in shown]

    async def directly():
        async with Client(live.url, mode=mode) as client:
            return await use(client)

    assert through(live.url, mode, use) == anyio.run(directly)


def test_progress_comes_through_the_bridge(live, mode):
    told = []

    async def progress(done, total, _message):
        told.append((done, total))

    async def use(client):
        called = await client.call_tool(TOOL, WAITING | {"options": {"wait_s": 0.5}}, progress_callback=progress)
        await client.call_tool("cancel_run", {"run_id": called.structured_content["run_id"]})

    through(live.url, mode, use)
    assert told[0] == (7, 1000)


def test_a_call_that_its_client_cancels_stops_the_run_on_the_server(live, mode, toy):
    async def use(client):
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(client.call_tool, TOOL, WAITING)
                assert await anyio.to_thread.run_sync(toy.started.wait, 20)
                [run] = live.app.runs.in_flight()
                scope.cancel()
        result = await anyio.to_thread.run_sync(run.ended.result, 20)
        after = await client.call_tool(TOOL, QUESTION | {"feature_id": 8})
        return result, after.structured_content

    result, after = through(live.url, mode, use)
    assert (result.status, after["status"]) == ("cancelled", "done")


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_a_cancelled_call_is_not_answered(live, era, toy, pipe):
    bridge = pipe(live.url)
    bridge.call(era, 5, WAITING)
    assert toy.started.wait(20)
    bridge.write({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 5}})
    assert toy.stopped.wait(20)
    params = {"_meta": META} if era == "modern" else {}
    bridge.write({"jsonrpc": "2.0", "id": 6, "method": "tools/list", "params": params})
    seen = []
    while (message := bridge.read()).get("id") != 6:
        seen.append(message.get("id"))
    assert 5 not in seen
    assert message["result"]["tools"]


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_a_client_that_hangs_up_stops_its_run_and_ends_its_session(live, era, toy, pipe):
    bridge = pipe(live.url)
    bridge.call(era, 5, WAITING)
    assert toy.started.wait(20)
    [run] = live.app.runs.in_flight()
    status, _, said = bridge.end()
    assert (status, said) == (0, "")
    assert run.ended.result(20).status == "cancelled"


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_an_answer_larger_than_the_sdk_reads_by_default_comes_through_whole(start, era, pipe):
    async def large(context: Context) -> str:
        await context.report_progress(1, 2)
        return "x" * (2 * DEFAULT_MAX_SSE_EVENT_SIZE)

    bridge = pipe(start(mount=lambda server: server.add_tool(large)).url)
    bridge.call(era, 5, {}, tool="large")
    assert len(bridge.answer(5)["result"]["content"][0]["text"]) == 2 * DEFAULT_MAX_SSE_EVENT_SIZE


def test_a_line_that_is_no_message_is_left_out_and_said_so(live, pipe):
    bridge = pipe(live.url)
    bridge.write(b"this is no JSON", b"", b'{"jsonrpc": "2.0"}', INITIALIZE)
    assert bridge.answer("first")["result"]["serverInfo"]["name"] == "mechinterp-runner"
    status, _, said = bridge.end()
    assert status == 0
    assert said.count("no JSON-RPC message") == 2


def test_messages_of_any_alphabet_come_through(live, pipe):
    bridge = pipe(live.url)
    params = {"name": "get_run", "arguments": {"run_id": "はじめ ✓"}, "_meta": META}
    bridge.write({"jsonrpc": "2.0", "id": "ü", "method": "tools/call", "params": params})
    bridge.write({"jsonrpc": "2.0", "id": 8, "method": "prompts/get", "params": {"name": "はじめ", "_meta": META}})
    assert "はじめ ✓" in json.dumps(bridge.answer("ü"), ensure_ascii=False)
    assert bridge.answer(8)["error"]["code"] == -32602


# -- a server that does not answer -------------------------------------------------------------------------------------


def test_a_server_that_needs_a_token_is_told_of_with_what_to_give(start, pipe, mode):
    live = start(token=TOKEN)
    for given, told in (
        ((), "needs its bearer token"),
        (("another-token-altogether",), "does not know this bearer token"),
    ):
        bridge = pipe(live.url, *given)
        status, answers, said = bridge.end()
        assert (status, answers) == (1, [])
        assert told in said
        assert "--token-file" in said
        assert "Traceback" not in said

    async def use(client):
        return (await client.list_tools()).tools

    assert through(live.url, mode, use, TOKEN)


def test_a_server_that_is_away_is_told_of_with_what_to_do(live, pipe):
    live.stop()
    status, answers, said = pipe(live.url).end()
    assert (status, answers) == (1, [])
    assert said.count("\n") == 1
    assert f"no server answers at {live.url}" in said
    assert "mechinterp-runner serve --transport http" in said


def test_a_client_hears_from_the_bridge_itself_why_there_is_no_server(live, mode):
    live.stop()

    async def use(_client):
        pytest.fail("there is no server to connect to")

    with pytest.raises((ExceptionGroup, MCPError)) as caught:
        through(live.url, mode, use)
    assert f"no server answers at {live.url}" in "".join(traceback.format_exception(caught.value))


def test_an_address_without_a_server_behind_it_is_told_of(live, pipe):
    status, answers, said = pipe(live.url.removesuffix("/mcp") + "/wrong").end()
    assert (status, answers) == (1, [])
    assert "its address ends in /mcp" in said


def test_a_host_that_the_server_does_not_go_by_is_told_of(live, pipe):
    status, _, said = pipe(live.url.replace("127.0.0.1", "127.0.0.2")).end()
    assert status == 1
    assert "127.0.0.2" in said


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_a_server_that_is_killed_while_the_bridge_waits_leaves_an_error_for_every_call(home, data_bundle, era, pipe):
    server = subprocess.Popen([sys.executable, "-c", _SERVE, str(home.root)], stderr=subprocess.PIPE, text=True)
    try:
        bridge = pipe(server.stderr.readline().split()[-1])
        bridge.call(era, 5, {"feature_id": 1, "family": "swim_speed_up"})
        assert server.stderr.readline() == "waiting\n"
        server.send_signal(signal.SIGKILL)
        answer = bridge.answer(5)
        assert answer["error"]["code"] == -32000
        # A client that never hangs up does not keep the bridge.
        assert bridge.process.wait(20) == 1
        _, rest, said = bridge.end()
        assert rest == []
        assert "went away" in said
        assert "Traceback" not in said
    finally:
        server.kill()
        server.communicate()


_SERVE = """
import sys, threading
from pathlib import Path
from mechinterp_runner.context.home import Home
from mechinterp_runner.server.executor import Executor
from mechinterp_runner.server.http import serve
from mechinterp_runner.server.http.settings import HttpSettings

def never(self, spec, ctx, *, job, fresh):
    print("waiting", file=sys.stderr, flush=True)
    threading.Event().wait()

Executor.execute = never
serve.serve_http(Home.find(Path(sys.argv[1])), HttpSettings(port=0))
"""


def test_a_session_that_a_new_server_does_not_know_ends_the_bridge_with_a_reason(start, pipe):
    first = start()
    bridge = pipe(first.url)
    bridge.write(INITIALIZE)
    bridge.answer("first")
    bridge.write({"jsonrpc": "2.0", "method": "notifications/initialized"})
    bridge.write({"jsonrpc": "2.0", "id": 2, "method": "ping"})
    bridge.answer(2)
    first.stop()
    start(port=first.port)
    bridge.write({"jsonrpc": "2.0", "id": 3, "method": "ping"})
    assert "forgotten this session" in bridge.answer(3)["error"]["message"]
    assert bridge.process.wait(20) == 1


@pytest.mark.parametrize("url", ["", "127.0.0.1:8321", "ftp://127.0.0.1", "http://", "http://x:port"])
def test_a_url_that_is_none_is_refused(url):
    with pytest.raises(RequestError, match=r"http://127\.0\.0\.1:8321"):
        endpoint(url)


def test_the_path_of_a_url_may_be_left_out():
    assert str(endpoint("http://127.0.0.1:8321")) == "http://127.0.0.1:8321/mcp"
    assert str(endpoint("http://127.0.0.1:8321/")) == "http://127.0.0.1:8321/mcp"
    assert str(endpoint("https://lab.example.org/shared/mcp")) == "https://lab.example.org/shared/mcp"


def test_no_tool_wants_headers_that_the_bridge_does_not_send(live):
    async def main():
        async with Client(live.url) as client:
            return (await client.list_tools()).model_dump_json(by_alias=True)

    assert "x-mcp-header" not in anyio.run(main)


def test_the_token_of_the_bridge_is_in_none_of_its_words(start, pipe):
    live = start(token=TOKEN)
    bridge = pipe(live.url, TOKEN)
    bridge.write(b"no JSON", INITIALIZE)
    assert TOKEN not in json.dumps(bridge.answer("first"))
    live.stop()
    bridge.write({"jsonrpc": "2.0", "id": 2, "method": "ping"})
    status, answers, said = bridge.end()
    assert status == 1
    assert TOKEN not in said + json.dumps(answers)
