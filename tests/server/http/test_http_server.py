"""The shared server on real sockets: sharing, disconnects in each state, start and end."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys

import anyio
import pytest
from mcp.client import Client
from mcp.server.streamable_http import EventStore
from mechinterp_runner.schemas.errors import RequestError
from mechinterp_runner.server.http.app import build
from mechinterp_runner.server.http.serve import listen, url_of
from mechinterp_runner.server.http.settings import HttpSettings

TOOL = "family_1d_sweep"
QUESTION = {"feature_id": 7, "family": "special_charge_up"}
WAITING = QUESTION | {"mode": "wait"}
OTHER = QUESTION | {"feature_id": 8}


def until_watched(app, count):
    """The run in flight, once so many callers wait for it."""

    async def main():
        with anyio.fail_after(20):
            while not (runs := app.runs.in_flight()) or sum(run._watchers for run in runs) < count:
                await anyio.sleep(0.01)
            return runs[-1]

    return anyio.run(main)


def stored(app, run_id):
    [path] = (app.home.runs / "results").glob(f"{run_id}__*.json")
    return json.loads(path.read_text())


def test_a_client_of_2025_has_a_session_and_gets_its_answers_as_a_stream(live):
    """With answers as plain JSON no progress could be told; without sessions nothing could be cancelled."""
    session = live.open_session()
    assert session["mcp-session-id"]
    listed = live.ask("POST", "/mcp", b'{"jsonrpc": "2.0", "id": 2, "method": "tools/list"}', session)
    assert listed.headers["content-type"].startswith("text/event-stream")
    assert TOOL in {tool["name"] for tool in listed.message["result"]["tools"]}


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_a_client_lists_calls_with_progress_and_reads_over_http(live, mode):
    told = []

    async def progress(done, total, message):
        told.append((done, total, message))

    async def main():
        with anyio.fail_after(30):
            async with Client(live.url, mode=mode) as client:
                tools = (await client.list_tools()).tools
                called = await client.call_tool(
                    TOOL, WAITING | {"options": {"wait_s": 0.5}}, progress_callback=progress
                )
                await client.call_tool("cancel_run", {"run_id": called.structured_content["run_id"]})
                page = await client.read_resource("mechinterp://skill")
                return tools, called.structured_content, page

    tools, begun, page = anyio.run(main)
    assert TOOL in {tool.name for tool in tools}
    assert begun["status"] == "running"
    assert told[0][:2] == (7, 1000)
    assert "mechinterp-runner" in page.contents[0].text


def test_two_clients_that_ask_the_same_share_one_run(live, era, toy):
    first = live.call(era, WAITING | {"options": {"wait_s": 30}})
    assert toy.started.wait(10)
    second = live.call("legacy", WAITING | {"options": {"wait_s": 30}})
    run = until_watched(live.app, 2)
    assert live.app.runs.in_flight() == [run]
    live.app.runs.cancel(run)
    answers = [read_answer(wire) for wire in (first, second)]
    assert [answer["structuredContent"]["run_id"] for answer in answers] == [run.id, run.id]
    assert toy.runs == 1


def read_answer(wire):
    """The result on a socket, after whatever came before it."""
    got = b""
    while b'"result"' not in got or not got.rstrip(b"0\r\n").endswith(b"}"):
        part = wire.recv(65536)
        assert part, got
        got += part
    lines = got.decode().splitlines()
    return next(json.loads(line[line.index("{") :])["result"] for line in lines if '"result"' in line)


# -- a client that disconnects, in each state --------------------------------------------------------------------------


def test_a_client_that_goes_in_the_middle_of_its_request_leaves_nothing_behind(live, toy):
    wire = live.send("POST", "/mcp", b"{" + b" " * 5000, {"content-type": "application/json"}, part=300)
    wire.close()
    assert live.ask().status == 200
    assert toy.runs == 0


def test_a_client_that_goes_while_its_run_goes_on_stops_it_and_frees_the_slot(live, era, toy):
    wire = live.call(era, WAITING)
    assert toy.started.wait(10)
    [run] = live.app.runs.in_flight()
    wire.close()
    result = run.ended.result(timeout=10)
    assert result.status == "cancelled"
    assert "has gone" in result.error_message
    assert toy.stopped.is_set()
    kept = stored(live.app, run.id)
    assert (kept["status"], list(kept["tables"])) == ("cancelled", ["rung_deltas"])
    after = read_answer(live.call(era, OTHER))
    assert after["structuredContent"]["status"] == "done"


def test_a_client_that_goes_while_its_run_waits_keeps_it_from_beginning(live, era, toy):
    busy = live.call(era, WAITING)
    assert toy.started.wait(10)
    waits = live.call(era, OTHER)
    queued = until_watched(live.app, 2)
    assert queued.state == "queued"
    waits.close()

    async def until_stopping():
        with anyio.fail_after(10):
            while not queued.stopping:
                await anyio.sleep(0.01)

    anyio.run(until_stopping)
    busy.close()
    with pytest.raises(RequestError, match="before it began"):
        queued.ended.result(timeout=10)
    assert toy.runs == 1


def test_a_client_that_goes_does_not_stop_a_run_that_another_waits_for(live, era, toy):
    first, second = (live.call(era, WAITING | {"options": {"wait_s": 30}}) for _ in range(2))
    run = until_watched(live.app, 2)
    first.close()
    assert until_watchers(run, 1)
    assert not run.stopping
    second.close()
    assert run.ended.result(timeout=10).status == "cancelled"
    assert toy.runs == 1


def until_watchers(run, count):
    async def main():
        with anyio.fail_after(10):
            while run._watchers != count:
                await anyio.sleep(0.01)
            return True

    return anyio.run(main)


def test_a_client_that_goes_with_a_handle_lets_the_run_go_on(live, era, toy):
    wire = live.call(era, WAITING | {"options": {"wait_s": 0}})
    handle = read_answer(wire)["structuredContent"]["run_id"]
    wire.close()
    assert toy.started.wait(10)
    assert live.ask().status == 200
    run = live.app.runs.find(handle)
    assert not run.stopping
    live.app.runs.cancel(run)
    assert run.ended.result(timeout=10).status == "cancelled"


def test_a_session_that_its_client_ends_stops_the_run_it_waits_for(live, toy):
    live.call("legacy", WAITING)
    assert toy.started.wait(10)
    [run] = live.app.runs.in_flight()
    assert live.ask("DELETE", "/mcp", headers=live.sessions[-1]).status == 200
    assert run.ended.result(timeout=10).status == "cancelled"


class Remembering(EventStore):
    """Keeps every message."""

    def __init__(self):
        self.kept = []

    async def store_event(self, stream_id, message):
        self.kept.append((stream_id, message))
        return str(len(self.kept))

    async def replay_events_after(self, last_event_id, send_callback):
        raise NotImplementedError


def test_with_an_event_store_a_disconnect_of_2025_is_no_cancellation(start, toy):
    live = start(event_store=Remembering())
    wire = live.call("legacy", WAITING)
    assert toy.started.wait(10)
    [run] = live.app.runs.in_flight()
    wire.close()
    assert live.ask().status == 200
    assert not run.stopping
    live.app.runs.cancel(run)


# -- start and end -----------------------------------------------------------------------------------------------------


def test_health_says_that_it_is_well_and_nothing_else(live):
    answer = live.ask()
    assert set(json.loads(answer.body)) == {"status", "name", "version"}
    assert json.loads(answer.body)["status"] == "ok"


def test_a_server_that_stops_tells_who_waits_and_stores_the_run_as_cancelled(live, era, toy):
    wire = live.call(era, WAITING)
    assert toy.started.wait(10)
    [run] = live.app.runs.in_flight()
    until_watched(live.app, 1)
    live.stop()
    told = read_answer(wire)["structuredContent"]
    assert (told["run_id"], told["status"]) == (run.id, "cancelled")
    kept = stored(live.app, run.id)
    assert (kept["status"], kept["error_message"]) == ("cancelled", "cancelled: the server was stopped")


def test_streams_that_stay_open_are_ended_in_order_when_the_server_stops(live, caplog):
    session = live.open_session()
    waiting = live.send("GET", "/mcp", b"", session)
    assert b"200 OK" in waiting.recv(1000)
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params = {"notifications": {"resourcesListChanged": True}, "_meta": meta}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params}).encode()
    headers = {
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "subscriptions/listen",
    }
    listening = live.send("POST", "/mcp", body, headers)
    assert b"200 OK" in listening.recv(1000)
    with caplog.at_level(logging.WARNING):
        live.stop()
    assert not caplog.records
    for wire in (waiting, listening):
        rest = b""
        while part := wire.recv(65536):
            rest += part
        assert rest.endswith(b"0\r\n\r\n"), "the stream has its proper end"


def test_a_port_in_use_or_a_host_that_is_none_is_told_with_what_to_do(live):
    with pytest.raises(RequestError, match=f"127.0.0.1:{live.port}.*another program listens there.*--port"):
        listen(HttpSettings(port=live.port))
    with pytest.raises(RequestError, match=r"cannot listen on 203\.0\.113\.1"):
        listen(HttpSettings(host="203.0.113.1", port=0))


def test_the_url_is_one_that_clients_can_use():
    with listen(HttpSettings(port=0)) as listener:
        port = listener.getsockname()[1]
        for given, host in (
            ({"host": "::1"}, f"[::1]:{port}"),
            ({"host": "0.0.0.0", "allowed_hosts": ("lab.example.org",)}, f"lab.example.org:{port}"),
            ({"host": "0.0.0.0", "allowed_hosts": ("lab.example.org:*",)}, f"lab.example.org:{port}"),
            ({"host": "0.0.0.0", "allowed_hosts": ("lab.example.org:443",)}, "lab.example.org:443"),
        ):
            assert url_of(HttpSettings(**given), listener) == f"http://{host}/mcp"


def test_wrong_settings_build_nothing(app):
    with pytest.raises(RequestError, match="--allowed-host"):
        build(app, HttpSettings(host="0.0.0.0", token="x" * 20))


_SERVE = """
import sys
from pathlib import Path
from mechinterp_runner.context.home import Home
from mechinterp_runner.server.http.serve import serve_http
from mechinterp_runner.server.http.settings import HttpSettings
serve_http(Home.find(Path(sys.argv[1])), HttpSettings(port=0))
"""


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_a_process_answers_without_torch_and_ends_in_order_when_it_is_told_to(tmp_path, name):
    log = tmp_path / "imports.txt"
    command = [sys.executable, "-X", "importtime", "-c", _SERVE, str(tmp_path / "home")]
    with log.open("w") as stderr:
        process = subprocess.Popen(command, stderr=stderr, env=os.environ | {"PYTHONUNBUFFERED": "1"})
        try:
            url = anyio.run(announced, log)
            server = anyio.run(ask_name, url)
            imported = {line.rsplit("|", 1)[-1].strip() for line in log.read_text().splitlines()}
            process.send_signal(name)
            assert process.wait(20) == 0
        finally:
            process.kill()
    assert server == "mechinterp-runner"
    assert "mcp.server" in imported
    assert not {"torch", "prometheus_client", "pandas"} & imported
    said = [line for line in log.read_text().splitlines() if not line.startswith("import time:")]
    assert said == [f"mechinterp-runner: serving MCP at {url}"]


async def announced(log):
    with anyio.fail_after(20):
        while "serving MCP at" not in log.read_text():
            await anyio.sleep(0.01)
    return log.read_text().split("serving MCP at ")[1].split()[0]


async def ask_name(url):
    async with Client(url, mode="legacy") as client:
        await client.list_tools()
        return client.server_info.name


_BUSY = """
import sys, time
from pathlib import Path
from mechinterp_runner.context.home import Home
from mechinterp_runner.schemas.errors import RequestError
from mechinterp_runner.server.executor import Executor
from mechinterp_runner.server.http.serve import serve_http
from mechinterp_runner.server.http.settings import HttpSettings

def until_stopped(self, spec, ctx, *, job, fresh):
    print("waiting", file=sys.stderr, flush=True)
    while not job.is_cancelled():
        time.sleep(0.01)
    time.sleep(1.5)  # its last batch: longer than sse_starlette takes to see that a server it knows of ends
    raise RequestError("stopped in order")

Executor.execute = until_stopped
serve_http(Home.find(Path(sys.argv[1])), HttpSettings(port=0))
"""


def test_a_process_that_is_told_to_end_first_answers_who_waits(home, data_bundle, era, connected):
    command = [sys.executable, "-c", _BUSY, str(home.root)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        url = process.stderr.readline().split()[-1]
        live = connected(int(url.split(":")[2].removesuffix("/mcp")))
        wire = live.call(era, {"feature_id": 1, "family": "swim_speed_up"})
        assert process.stderr.readline() == "waiting\n"
        process.send_signal(signal.SIGTERM)
        answer = read_answer(wire)
        assert answer["content"][0]["text"] == "stopped in order"
        assert process.wait(20) == 0
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()
