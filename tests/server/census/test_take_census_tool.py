"""The tool take_census: long work that a call waits for, joins, stops, and goes on with."""

from __future__ import annotations

import json
import threading
from contextlib import asynccontextmanager

import anyio
import pytest
from filelock import FileLock
from jsonschema import Draft202012Validator
from mcp.client import Client
from mechinterp_runner.context.contexts import Contexts
from mechinterp_runner.context.device import Compute
from mechinterp_runner.runners.census import census as census_module
from mechinterp_runner.schemas.errors import StoreError
from mechinterp_runner.server.app import App
from mechinterp_runner.server.census import take
from mechinterp_runner.server.census.store import CensusStore
from mechinterp_runner.server.mcp_server import make_server
from mechinterp_runner.server.work.runs import Limits


class Gate:
    """Holds a census at a feature, counts its blocks, and lets it go on."""

    def __init__(self, at):
        self.at, self.blocks, self.real = at, [], take._block
        self.reached, self.open = threading.Event(), threading.Event()

    def block(self, taken, meta, start, stop, job):
        if start >= self.at:
            self.reached.set()
            while not self.open.wait(0.005):
                job.check()
        table = self.real(taken, meta, start, stop, job)
        self.blocks.append(start)
        return table


@pytest.fixture
def gate(monkeypatch):
    """A census in blocks of three features that stops before the second one."""
    gate = Gate(at=3)
    monkeypatch.setattr(census_module, "LARGEST_BLOCK", 3)
    monkeypatch.setattr(take, "_block", gate.block)
    return gate


@pytest.fixture
def app(home, data_bundle):
    """The toy bundle: 600 examples, 8 features, no model."""
    return App(home, Contexts(home, compute=Compute(device="cpu")))


def serve(app, use):
    """Run ``use(client)`` against a server."""

    async def main():
        with anyio.fail_after(60):
            async with Client(make_server(app)) as client:
                return await use(client)

    return anyio.run(main)


async def call(client, **arguments):
    called = await client.call_tool("take_census", arguments)
    assert not called.is_error, called.content
    return called.structured_content


async def refusal(client, **arguments):
    called = await client.call_tool("take_census", arguments)
    assert called.is_error
    return called.content[0].text


async def happens(event):
    assert await anyio.to_thread.run_sync(event.wait, 20)


@asynccontextmanager
async def waiting_call(client):
    """A call that the server waits for in the background, and that is cancelled at the end."""
    waits = anyio.Event()

    async def progress(_done, _total, _message):
        waits.set()

    async def ask():
        await client.call_tool("take_census", {"wait_s": 100}, progress_callback=progress)

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await waits.wait()
        yield
        group.cancel_scope.cancel()


def blocks_folder(app):
    ctx = app.contexts.get("toy")
    return CensusStore.of(ctx, app.home).blocks(take.CensusOptions().span(ctx).blocks_key)


def kept_blocks(app):
    return sorted(path.name for path in blocks_folder(app).glob("*.parquet"))


def test_a_call_takes_the_census_reports_progress_and_find_features_searches_it(app, gate, monkeypatch):
    monkeypatch.setattr(take, "_SMALL", 0)
    gate.open.set()

    async def use(client):
        schema = {tool.name: tool.output_schema for tool in (await client.list_tools()).tools}["take_census"]
        refused = await client.call_tool("find_features", {"ability": "comeback"})
        assert refused.is_error
        assert "take it with the tool take_census" in refused.content[0].text
        called = await client.call_tool("take_census", {})
        taken = called.structured_content
        Draft202012Validator(schema).validate(taken)
        assert json.loads(called.content[0].text) == taken
        assert (taken["status"], taken["headline"][:24]) == ("done", "8 features, 600 examples")
        assert taken["file"].endswith(".parquet")
        searched = (await client.call_tool("find_features", {"ability": "comeback", "min_z": 0})).structured_content
        assert " of 8 features" in searched["headline"]
        assert (await call(client))["file"] == taken["file"]

    serve(app, use)
    assert gate.blocks == [0, 3, 6]


def test_progress_says_how_many_features_are_done_how_fast_and_how_long_yet(app, gate):
    seen = []

    async def progress(done, total, message):
        seen.append((done, total, message))
        if done == 3:
            gate.open.set()

    async def use(client):
        await client.call_tool("take_census", {}, progress_callback=progress)

    serve(app, use)
    done, total, message = next(each for each in seen if each[0] == 3)
    assert (done, total) == (3, 8)
    assert message.startswith("3 of 8 features")
    assert "a second" in message
    assert "left" in message
    assert [each[0] for each in seen] == sorted(each[0] for each in seen)


def test_what_takes_longer_than_a_call_waits_goes_on_and_is_joined(app, gate):
    async def use(client):
        begun = await call(client, wait_s=0)
        assert begun["status"] == "running"
        assert 'take_census(model_type="toy", stop=true)' in begun["hints"][0]
        await happens(gate.reached)
        later = await call(client, wait_s=0)
        assert later["headline"].startswith("census of bundle 'toy': 3 of 8 features")
        gate.open.set()
        assert (await call(client))["status"] == "done"

    serve(app, use)
    assert gate.blocks == [0, 3, 6]


def test_a_cancelled_call_stops_the_census_and_the_next_goes_on_from_what_is_kept(app, gate):
    async def use(client):
        async with waiting_call(client):
            await happens(gate.reached)
        assert kept_blocks(app) == ["0000000-0000002.parquet"]
        gate.open.set()
        assert (await call(client))["status"] == "done"

    serve(app, use)
    assert gate.blocks == [0, 3, 6]


def test_a_cancelled_call_stops_nothing_that_another_call_waits_for(app, gate):
    async def use(client):
        async with anyio.create_task_group() as group:
            answers = []

            async def wait():
                answers.append(await call(client))

            group.start_soon(wait)
            await happens(gate.reached)
            async with waiting_call(client):
                pass
            gate.open.set()
        assert [each["status"] for each in answers] == ["done"]

    serve(app, use)
    assert gate.blocks == [0, 3, 6]


def test_stop_stops_it_and_says_what_is_kept(app, gate):
    async def use(client):
        assert "no census of bundle 'toy' is being taken" in await refusal(client, stop=True)
        await call(client, wait_s=0)
        await happens(gate.reached)
        stopped = await call(client, stop=True)
        assert stopped["status"] == "stopped"
        assert "3 of 8 features are kept" in stopped["headline"]
        assert "no census of bundle 'toy' is being taken" in await refusal(client, stop=True)

    serve(app, use)
    assert kept_blocks(app) == ["0000000-0000002.parquet"]


def test_a_server_that_ends_stops_its_census_and_keeps_what_is_finished(app, gate):
    async def use(client):
        await call(client, wait_s=0)
        await happens(gate.reached)

    serve(app, use)
    with FileLock(blocks_folder(app) / ".lock", timeout=20):  # its thread holds it until it has stopped
        assert gate.blocks == [0]
    assert kept_blocks(app) == ["0000000-0000002.parquet"]


def test_a_census_runs_no_longer_than_the_server_allows(home, data_bundle, gate):
    app = App(home, Contexts(home, compute=Compute(device="cpu")), Limits(run_seconds=0.0))

    async def use(client):
        assert "0 of 8 features are kept" in await refusal(client)

    serve(app, use)
    assert gate.blocks == []


def test_an_error_that_nobody_waited_for_is_told_to_the_next_call_and_the_one_after_begins_anew(app, monkeypatch):
    real, answered = take.take_census, threading.Event()

    def fails(*_arguments, **_named):
        monkeypatch.setattr(take, "take_census", real)
        assert answered.wait(20)
        raise StoreError("the disk is full")

    monkeypatch.setattr(take, "take_census", fails)

    async def use(client):
        assert (await call(client, wait_s=0))["status"] == "running"
        answered.set()
        assert await refusal(client) == "the disk is full"
        assert (await call(client))["status"] == "done"

    serve(app, use)


def test_a_bundle_without_examples_is_refused_at_once(app):
    async def use(client):
        ctx = await anyio.to_thread.run_sync(app.contexts.get)
        ctx.examples = None
        assert "holds no examples" in await refusal(client, wait_s=0)

    serve(app, use)
    assert not (app.home.root / "census").exists()
