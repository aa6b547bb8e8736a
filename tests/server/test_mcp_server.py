"""The MCP server, through the client, in both eras of the protocol."""

from __future__ import annotations

import json
import re
import threading
from contextlib import asynccontextmanager

import anyio
import pytest
from jsonschema import Draft202012Validator
from mcp.client import Client
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase, FuncMetadata
from mechinterp_runner.schemas.catalogue import find
from mechinterp_runner.schemas.result import Record
from mechinterp_runner.server import mcp_server
from mechinterp_runner.server.answers import compact_json
from mechinterp_runner.server.app import App
from mechinterp_runner.server.mcp_server import make_server
from mechinterp_runner.server.tools import schema as tool_schema
from mechinterp_runner.server.tools.served import make_tool

QUESTION = {"feature_id": 7, "family": "special_charge_up"}
TOOL = "family_1d_sweep"


@pytest.fixture(params=["legacy", "auto"])
def era(request):
    return request.param


@pytest.fixture
def app(toy, home, contexts):
    return App(home, contexts)


def serve(app, era, use):
    """Run ``use(client)`` against a server of the app."""

    async def main():
        async with Client(make_server(app), mode=era) as client:
            return await use(client)

    return anyio.run(main)


async def call(client, name, **arguments):
    called = await client.call_tool(name, arguments)
    assert not called.is_error, called.content
    return called.structured_content


async def refused(client, name, **arguments):
    called = await client.call_tool(name, arguments)
    assert called.is_error
    assert called.structured_content is None
    return called.content[0].text


def test_every_tool_is_listed_as_clients_need_it(app, era):
    async def use(client):
        return (await client.list_tools()).tools

    tools = serve(app, era, use)
    names = {tool.name for tool in tools}
    assert {TOOL, "list_experiment_types", "run_spec", "validate_spec", "get_run"} <= names
    assert {"list_results", "describe_context"} <= names
    for tool in tools:
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", tool.name)
        assert tool.title
        assert tool.description
        assert len(tool.description) < 300
        Draft202012Validator.check_schema(tool.input_schema)
        Draft202012Validator.check_schema(tool.output_schema)
        assert tool.input_schema["additionalProperties"] is False
        assert not {"anyOf", "oneOf", "allOf"} & tool.input_schema.keys()
        assert "$ref" not in json.dumps([tool.input_schema, tool.output_schema])
        hints = tool.annotations
        assert hints.destructive_hint == (tool.name == "cancel_run")
        assert (hints.idempotent_hint, hints.open_world_hint) == (True, False)
        assert hints.read_only_hint == (tool.name not in {TOOL, "run_spec", "run_batch", "cancel_run", "take_census"})


def test_structured_answers_fit_their_schema_and_the_text_says_the_same(app, era):
    async def use(client):
        schemas = {tool.name: tool.output_schema for tool in (await client.list_tools()).tools}
        spec = {"type": TOOL, "feature_id": 8, "variables": {"family": "swim_speed_up"}}
        run = await call(client, TOOL, **QUESTION)
        calls = {
            TOOL: [QUESTION, QUESTION | {"mode": "nan"}, QUESTION | {"mode": "fail"}],
            "run_spec": [{"spec": spec}],
            "validate_spec": [{"spec": spec}],
            "get_run": [
                {"spec_id": run["spec_id"], "response_format": form} for form in ("concise", "detailed", "markdown")
            ],
            "list_results": [{}, {"feature_id": 12}],
            "list_experiment_types": [{}, {"type": TOOL}],
            "describe_context": [{}],
        }
        for name, asked in calls.items():
            for arguments in asked:
                called = await client.call_tool(name, arguments)
                Draft202012Validator(schemas[name]).validate(called.structured_content)
                text = called.content[0].text
                assert "NaN" not in text
                note = called.structured_content.get("note")
                assert text == note if note else json.loads(text) == called.structured_content

    serve(app, era, use)


def test_an_experiment_answers_headline_tables_and_handles(app, era, toy):
    async def use(client):
        answer = await call(client, TOOL, **QUESTION, options={"spec_id": "mine", "parent_hypothesis": "h1"})
        assert answer["headline"] == "special_charge_up drives feature 7"
        assert answer["warnings"] == ["a warning of the run"]
        assert answer["tables"]["rung_deltas"]["rows"][1] == {"rung": 57, "mean_delta": 7.037, "note": ""}
        assert answer["spec_id"] == "mine"
        assert answer["followups"][0]["spec"]["parent_spec_id"] == "mine"
        assert "provenance" not in answer
        again = await call(client, TOOL, **QUESTION)
        assert (again["cached"], again["cached_from"]) == (True, "mine")
        fresh = await call(client, TOOL, **QUESTION, options={"fresh": True})
        assert not fresh["cached"]
        listed = await call(client, "list_results", parent_hypothesis="h1")
        assert [row["spec_id"] for row in listed["runs"]] == ["mine"]
        follow = await call(client, "run_spec", spec=answer["followups"][0]["spec"])
        listed = await call(client, "list_results", parent_spec_id="mine")
        assert [row["spec_id"] for row in listed["runs"]] == [follow["spec_id"]]

    serve(app, era, use)
    assert toy.runs == 3


def test_the_stored_result_is_whole_whatever_was_shown(app, era):
    async def use(client):
        answer = await call(client, TOOL, **QUESTION)
        whole = await call(client, "get_run", spec_id=answer["spec_id"], response_format="detailed")
        assert whole["tables"]["rung_deltas"]["rows"][0]["mean_delta"] == 0.123456789 * 3
        assert whole["provenance"]["spec_passed"]["variables"] == {"family": "special_charge_up"}
        note = await call(client, "get_run", spec_id=answer["spec_id"], response_format="markdown")
        assert note["note"].startswith("# special_charge_up drives feature 7")
        assert "**Warning:** a warning of the run" in note["note"]

    serve(app, era, use)


def test_a_long_answer_is_cut_to_eight_thousand_tokens_and_says_how_to_get_the_rest(app, era):
    async def use(client):
        answer = await call(client, TOOL, **QUESTION, mode="long")
        assert len(json.dumps(answer)) <= 8000 * 4
        page = answer["tables"]["rung_deltas"]
        assert page["total_rows"] == 300
        assert f'table="rung_deltas", offset={len(page["rows"])}' in page["more"]
        rest = await call(client, "get_run", spec_id=answer["spec_id"], table="rung_deltas", offset=290, max_rows=100)
        assert [row["rung"] for row in rest["tables"]["rung_deltas"]["rows"]] == list(range(290, 300))
        assert "more" not in rest["tables"]["rung_deltas"] or rest["tables"]["rung_deltas"]["more"] is None
        text = await refused(client, "get_run", spec_id=answer["spec_id"], table="rung_delta")
        assert "did you mean 'rung_deltas'" in text

    serve(app, era, use)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (TOOL, {"feature_id": 7, "famly": "x"}, "unknown argument 'famly': did you mean 'family'? Allowed: feature_id"),
        (TOOL, {"family": "x"}, "missing argument feature_id"),
        (TOOL, {"feature_id": 7}, "missing argument family"),
        (TOOL, QUESTION | {"feature_id": -1}, "feature_id: Input should be greater than or equal to 0; got -1"),
        (TOOL, QUESTION | {"feature_id": 100}, "feature_id 100 is out of range"),
        (TOOL, QUESTION | {"model_type": "ultra"}, "unknown bundle 'ultra'"),
        (TOOL, QUESTION | {"model_type": "../x"}, "model_type: Input should be letters, digits"),
        (TOOL, QUESTION | {"mode": "refuse"}, "unknown family 'special_charge_up'"),
        (TOOL, QUESTION | {"options": {"fesh": True}}, "unknown argument 'options.fesh': did you mean 'fresh'?"),
        ("family_sweep", QUESTION, "unknown tool 'family_sweep': did you mean 'family_1d_sweep'?"),
        ("run_spec", {"spec": {"type": "family_1d_swep", "feature_id": 1}}, "did you mean 'family_1d_sweep'"),
        ("run_spec", {"spec": {"feature_id": 1}}, "a spec needs a type"),
        ("run_spec", {"spec": "not json"}, "spec: expected a JSON object; got 'not json'"),
        ("run_spec", {"spec": {"type": TOOL, "feature_id": 1, "variables": {"famly": "x"}}}, "did you mean 'family'"),
        ("validate_spec", {"spec": {"type": "kit_swep", "feature_id": 1}}, "unknown experiment type 'kit_swep'"),
        ("get_run", {"run_id": "nothing"}, "unknown run id 'nothing'"),
        ("cancel_run", {"run_id": "nothing"}, "unknown run id 'nothing'"),
        ("get_run", {"spec_id": "../../etc/passwd"}, "run_id: Input should be letters, digits"),
        ("list_results", {"limit": 0}, "limit: Input should be greater than or equal to 1; got 0"),
        ("list_results", {"featur_id": 0}, "did you mean 'feature_id'"),
        ("list_results", {"type": "family_swep"}, "unknown experiment type 'family_swep'"),
        ("list_experiment_types", {"type": "weapon"}, "unknown experiment type 'weapon'"),
        ("describe_context", {"model_type": "ultra"}, "unknown bundle 'ultra'"),
    ],
)
def test_a_wrong_call_says_what_would_be_right_and_the_server_lives_on(app, home, name, arguments, message):
    async def use(client):
        assert message in await refused(client, name, **arguments)
        return await call(client, "describe_context")

    assert serve(app, "legacy", use)["context"]["name"] == "demo"
    assert not list(home.runs.rglob("*.json")) if home.runs.exists() else True


def test_a_failed_experiment_is_an_answer_that_says_so(app, era):
    async def use(client):
        answer = await call(client, TOOL, **QUESTION, mode="fail")
        assert not answer["success"]
        assert "the experiment's own fault" in answer["error_message"]
        assert answer["tables"]["rung_deltas"]["total_rows"] == 2

    serve(app, era, use)


def test_a_store_that_cannot_be_written_is_a_tool_error(app, home, toy):
    home.root.mkdir(parents=True)
    home.runs.write_text("")

    async def use(client):
        assert "--home" in await refused(client, TOOL, **QUESTION)

    serve(app, "legacy", use)
    assert toy.runs == 0


def test_a_fault_of_the_server_shows_no_internals(app, monkeypatch, caplog):
    def broken():
        raise KeyError("an internal detail")

    monkeypatch.setattr(app.contexts.context, "describe", broken)

    async def use(client):
        text = await refused(client, "describe_context")
        assert "internal detail" not in text
        assert "a fault of the server" in text

    serve(app, "legacy", use)
    assert "an internal detail" in caplog.text


def test_progress_reaches_a_client_that_asks_for_it(app, era, toy):
    async def use(client):
        seen = []
        arrived = anyio.Event()

        async def progress(done, total, message):
            seen.append((done, total, message))
            arrived.set()

        async with anyio.create_task_group() as group:
            group.start_soon(_ignore_errors, client.call_tool, TOOL, QUESTION | {"mode": "wait"}, None, progress)
            with anyio.fail_after(10):
                await arrived.wait()
            group.cancel_scope.cancel()
        done, total, message = seen[0]
        assert (done, total) == (7, 1000), "forward passes made, of those that were planned"
        assert re.fullmatch(r"7 of 1,000 forward passes, about [\d,]+ s left", message)

    serve(app, era, use)
    assert toy.stopped.wait(10)


async def _ignore_errors(function, *arguments):
    await function(*arguments)


@asynccontextmanager
async def running(client, app, toy):
    """A run that waits, started by the client; leaving cancels the call."""
    async with anyio.create_task_group() as group:
        group.start_soon(client.call_tool, TOOL, QUESTION | {"mode": "wait"})
        with anyio.fail_after(10):
            while not toy.started.is_set():
                await anyio.lowlevel.checkpoint()
        yield
        group.cancel_scope.cancel()


def test_a_cancelled_call_stops_the_run_frees_the_slot_and_keeps_what_was_finished(app, era, toy):
    async def use(client):
        async with running(client, app, toy):
            assert [run.state for run in app.runs.in_flight()] == ["running"]
        assert await anyio.to_thread.run_sync(toy.stopped.wait, 10)
        answer = await call(client, TOOL, **QUESTION)
        assert answer["success"]
        listed = await call(client, "list_results", success=False)
        [row] = listed["runs"]
        assert row["status"] == "cancelled"
        assert "the client that asked for it cancelled" in row["error_message"]
        kept = await call(client, "get_run", run_id=row["spec_id"])
        assert kept["tables"]["rung_deltas"]["total_rows"] == 2, "its finished table is kept"

    serve(app, era, use)
    assert app.runs.in_flight() == []


def test_a_client_that_goes_away_stops_its_run(app, toy):
    async def main():
        server = make_server(app)
        with anyio.move_on_after(10) as limit:
            async with Client(server, mode="legacy") as client, anyio.create_task_group() as group:
                group.start_soon(client.call_tool, TOOL, QUESTION | {"mode": "wait"})
                while not toy.started.is_set():
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
        assert not limit.cancelled_caught
        async with Client(server, mode="legacy") as client:
            assert (await call(client, TOOL, **QUESTION))["success"]

    anyio.run(main)
    assert toy.stopped.is_set()


def test_reads_are_answered_while_the_model_is_busy(app, toy):
    async def use(client):
        async with running(client, app, toy):
            with anyio.fail_after(5):
                assert (await call(client, "list_results"))["total"] == 0
                assert (await call(client, TOOL, **QUESTION, method="observational"))["success"]

    serve(app, "legacy", use)


def test_the_semi_private_parts_of_the_package_are_as_we_use_them(app):
    class Nothing(Record):
        pass

    async def handler(_arguments, _client):
        return Nothing()

    tool = make_tool(
        "x", handler, title="X", description="x", schema={"type": "object"}, output=Nothing, reads_only=True
    )
    assert tool.output_schema["type"] == "object"
    assert FuncMetadata(arg_model=ArgModelBase, output_schema={"type": "object"}).output_model is None


def test_names_descriptions_and_schemas_fit_the_budget(app):
    async def use(client):
        return (await client.list_tools()).tools

    tools = serve(app, "auto", use)
    cost = {tool.name: len(compact_json([tool.name, tool.description, tool.input_schema])) // 4 for tool in tools}
    variables = tool_schema.schema_of(find(TOOL).variables)["properties"]
    frame = cost[TOOL] - len(compact_json(variables)) // 4
    others = sum(value for name, value in cost.items() if name != TOOL)
    # 17 experiment tools of 250 tokens for variables and summary (240 measured), their frames, and the others: 12,000
    # together. The list as it is, with the real types, is held under the same limit beside the census.
    assert 17 * (frame + 250) + others < 12_000


def test_the_server_imports_torch_in_the_background_when_it_is_up(app, monkeypatch):
    asked, done = [], threading.Event()

    def import_module(name):
        asked.append((name, threading.current_thread() is threading.main_thread()))
        if name == mcp_server._HEAVY[-1]:
            done.set()

    monkeypatch.setattr(mcp_server, "import_module", import_module)
    monkeypatch.setattr(mcp_server, "_WARM_AFTER", 0)

    async def main():
        async with Client(make_server(app, warm=True)) as client:
            await client.list_tools()
            assert await anyio.to_thread.run_sync(done.wait, 10)

    anyio.run(main)
    assert asked == [("torch", False), ("scipy.sparse", False), ("scipy.special", False)]
