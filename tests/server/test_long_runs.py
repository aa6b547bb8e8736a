"""Work that takes longer than a call waits: handles, progress, sharing, batches, over the protocol in both eras."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

import anyio
import pytest
from jsonschema import Draft202012Validator
from mcp.client import Client
from mechinterp_runner.server.app import App
from mechinterp_runner.server.mcp_server import make_server
from mechinterp_runner.server.work.runs import Limits

QUESTION = {"feature_id": 7, "family": "special_charge_up"}
TOOL = "family_1d_sweep"
WAITING = QUESTION | {"mode": "wait"}
AT_ONCE = {"options": {"wait_s": 0}}


@pytest.fixture(params=["legacy", "auto"])
def era(request):
    return request.param


@pytest.fixture
def app(toy, home, contexts):
    return App(home, contexts)


def serve(app, era, use, clients=1):
    """Run ``use(*clients)`` against one server."""

    async def main():
        server = make_server(app)
        with anyio.fail_after(60):
            async with several(server, era, clients) as connected:
                return await use(*connected)

    return anyio.run(main)


@asynccontextmanager
async def several(server, era, count):
    async with Client(server, mode=era) as first:
        if count == 1:
            yield (first,)
        else:
            async with several(server, era, count - 1) as others:
                yield (first, *others)


async def call(client, name, **arguments):
    called = await client.call_tool(name, arguments)
    assert not called.is_error, called.content
    return called.structured_content


async def until_ended(client, run_id):
    while (answer := await call(client, "get_run", run_id=run_id, wait_s=5))["status"] in {"queued", "running"}:
        pass
    return answer


def test_a_run_that_takes_longer_than_the_call_waits_answers_with_its_handle_and_goes_on(app, era, toy):
    async def use(client):
        schemas = {tool.name: tool.output_schema for tool in (await client.list_tools()).tools}
        begun = await call(client, TOOL, **WAITING, options={"wait_s": 0.3})
        Draft202012Validator(schemas[TOOL]).validate(begun)
        assert begun["status"] == "running"
        assert begun["progress"]["done"] == 7
        assert begun["progress"]["total"] == 1000
        assert begun["headline"].startswith(f"{TOOL} of feature 7 running: 7 of 1,000 forward passes, about ")
        looked = await call(client, "get_run", run_id=begun["run_id"])
        Draft202012Validator(schemas["get_run"]).validate(looked)
        assert looked["status"] == "running"
        assert not toy.stopped.is_set()
        ended = await call(client, "cancel_run", run_id=begun["run_id"])
        Draft202012Validator(schemas["cancel_run"]).validate(ended)
        assert (ended["status"], ended["error_message"]) == ("cancelled", "cancelled")
        assert ended["tables"]["rung_deltas"]["total_rows"] == 2
        stored = await call(client, "get_run", run_id=begun["run_id"])
        assert stored["status"] == "cancelled"

    serve(app, era, use)


def test_a_handle_is_good_for_the_result_when_the_run_has_ended(app, era):
    async def use(client):
        begun = await call(client, TOOL, **QUESTION, **AT_ONCE)
        answer = await until_ended(client, begun["run_id"])
        assert answer["status"] == "done"
        assert answer["headline"] == "special_charge_up drives feature 7"
        for name in ("spec_id", "id"):
            assert (await call(client, "get_run", **{name: begun["run_id"]}))["run_id"] == begun["run_id"]

    serve(app, era, use)


def test_queued_runs_say_how_many_are_before_them(app, era, toy):
    async def use(client):
        first = await call(client, TOOL, **WAITING, **AT_ONCE)
        second = await call(client, TOOL, **QUESTION, rungs=[3], **AT_ONCE)
        third = await call(client, TOOL, **QUESTION, rungs=[6], **AT_ONCE)
        assert (second["status"], second["progress"]["queued_behind"]) == ("queued", 1)
        assert third["headline"] == f"{TOOL} of feature 7 queued behind 2"
        listed = await call(client, "list_results")
        assert [row["run_id"] for row in listed["in_flight"]] == [run["run_id"] for run in (first, second, third)]
        assert [row["status"] for row in listed["in_flight"]] == ["running", "queued", "queued"]
        assert "in_flight" not in await call(client, "list_results", feature_id=8)
        never = await call(client, "cancel_run", run_id=second["run_id"])
        assert never["status"] == "cancelled"
        assert "before it began" in never["error_message"]
        await call(client, "cancel_run", run_id=first["run_id"])
        assert (await until_ended(client, third["run_id"]))["status"] == "done"

    serve(app, era, use)
    assert toy.runs == 2


def test_two_clients_who_ask_the_same_share_one_run(app, era, toy):
    async def use(one, two):
        first = await call(one, TOOL, **WAITING, **AT_ONCE)
        second = await call(two, TOOL, **WAITING, **AT_ONCE)
        assert first["run_id"] == second["run_id"]
        await call(one, "cancel_run", run_id=first["run_id"])
        assert (await until_ended(two, first["run_id"]))["status"] == "cancelled"

    serve(app, era, use, clients=2)
    assert toy.runs == 1


def test_a_shared_run_goes_on_when_one_of_its_clients_cancels(app, era, toy):
    async def use(one, two):
        async with anyio.create_task_group() as group:
            group.start_soon(_swallow_nothing, two, WAITING | {"options": {"wait_s": 30}})
            assert await anyio.to_thread.run_sync(toy.started.wait, 10)
            with anyio.move_on_after(20) as scope:
                async with anyio.create_task_group() as second:
                    second.start_soon(one.call_tool, TOOL, WAITING)
                    while not app.runs.tally.shared:
                        await anyio.sleep(0.01)
                    second.cancel_scope.cancel()
            assert not scope.cancelled_caught
            assert [run.stopping for run in app.runs.in_flight()] == [False]
            await call(one, "cancel_run", run_id=app.runs.in_flight()[0].id)

    serve(app, era, use, clients=2)
    assert toy.runs == 1


async def _swallow_nothing(client, arguments):
    assert (await client.call_tool(TOOL, arguments)).structured_content["status"] == "cancelled"


def test_cancelling_what_has_ended_changes_nothing_and_says_so(app, era):
    async def use(client):
        done = await call(client, TOOL, **QUESTION)
        again = await call(client, "cancel_run", run_id=done["run_id"])
        assert again["status"] == "done"
        assert again["hints"][0] == "It had ended before: nothing was cancelled."

    serve(app, era, use)


def test_a_run_refused_after_its_handle_was_given_says_so_when_asked(app, era):
    async def use(client):
        blocker = await call(client, TOOL, **WAITING, **AT_ONCE)
        asked = await call(client, TOOL, **QUESTION, mode="refuse", **AT_ONCE)
        await call(client, "cancel_run", run_id=blocker["run_id"])
        told = await until_ended(client, asked["run_id"])
        assert told["status"] == "failed"
        assert "unknown family 'special_charge_up'" in told["error_message"]

    serve(app, era, use)


def test_a_handle_given_for_a_question_whose_answer_is_stored_leads_to_it(app, era, toy):
    async def use(client):
        first = await call(client, TOOL, **QUESTION)
        for _ in range(5):
            again = await call(client, TOOL, **QUESTION, **AT_ONCE)
            assert again["status"] in {"queued", "running", "done"}
            assert (await until_ended(client, again["run_id"]))["headline"] == first["headline"]
        spec = {"type": TOOL, "feature_id": 7, "variables": {"family": "special_charge_up"}}
        batch = await call(client, "run_batch", specs=[spec])
        assert (await until_ended(client, batch["runs"][0]["run_id"]))["status"] == "done"
        over = await call(client, "cancel_run", run_id=batch["runs"][0]["run_id"])
        assert "It had ended before" in over["hints"][0]

    serve(app, era, use)
    assert toy.runs == 1


def test_a_cancelled_batch_call_stops_its_runs(app, era, toy):
    specs = [{"type": TOOL, "feature_id": f, "variables": {"family": "x", "mode": "wait"}} for f in (1, 2, 3)]

    async def use(client):
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "run_batch", {"specs": specs, "wait_s": 100})
            assert await anyio.to_thread.run_sync(toy.started.wait, 10)
            group.cancel_scope.cancel()
        with anyio.fail_after(10):
            while app.runs.in_flight():
                await anyio.sleep(0.01)

    serve(app, era, use)
    assert toy.runs == 1


def test_a_batch_with_a_wrong_feature_or_bundle_is_refused_whole(app, era, toy):
    good = {"type": TOOL, "feature_id": 1, "variables": {"family": "x"}}

    async def use(client):
        for bad, message in (({"feature_id": 1000}, "out of range"), ({"model_type": "nope"}, "unknown bundle 'nope'")):
            refused = await client.call_tool("run_batch", {"specs": [good, good | bad]})
            assert refused.is_error
            assert "1 of 2 specs are wrong, and none was run:\nspec 2: " in refused.content[0].text
            assert message in refused.content[0].text
        as_text = await call(client, "run_batch", specs=[json.dumps(good)], wait_s=20)
        assert as_text["runs"][0]["status"] == "done"

    serve(app, era, use)
    assert toy.runs == 1


def test_waiting_for_a_run_often_leaves_nothing_behind(app, era, toy):
    async def use(client):
        begun = await call(client, TOOL, **WAITING, **AT_ONCE)
        for _ in range(30):
            await call(client, "get_run", run_id=begun["run_id"], wait_s=0.001)
        run = app.runs.find(begun["run_id"])
        assert len(run.ended._done_callbacks) <= 2
        assert run._watchers == 0
        await call(client, "cancel_run", run_id=begun["run_id"])

    serve(app, era, use)


def test_a_batch_is_checked_whole_before_one_is_run(app, era, toy):
    good = {"type": TOOL, "feature_id": 1, "variables": {"family": "x"}}
    bad = [
        {"type": TOOL, "feature_id": 1, "variables": {"famly": "x"}},
        {"type": "famly_sweep", "feature_id": 1},
    ]

    async def use(client):
        refused = await client.call_tool("run_batch", {"specs": [good, *bad]})
        assert refused.is_error
        text = refused.content[0].text
        assert text.startswith("2 of 3 specs are wrong, and none was run:")
        assert "spec 2: " in text
        assert "spec 3: " in text
        assert "did you mean 'family'" in text
        for arguments in ({}, {"specs": [good], "path": "x"}):
            assert "give either specs or path" in (await client.call_tool("run_batch", arguments)).content[0].text
        for arguments in ({"specs": []}, {"specs": [good] * 201}):
            assert "holds 1 to 200 specs" in (await client.call_tool("run_batch", arguments)).content[0].text

    serve(app, era, use)
    assert toy.runs == 0


def test_a_batch_returns_handles_in_order_and_can_wait_for_all(app, era, toy):
    specs = [{"type": TOOL, "feature_id": f, "variables": {"family": "x"}, "parent_hypothesis": "h"} for f in (1, 2)]

    async def use(client):
        schemas = {tool.name: tool.output_schema for tool in (await client.list_tools()).tools}
        seen = []

        async def progress(done, total, message):
            seen.append((done, total, message))

        called = await client.call_tool("run_batch", {"specs": specs, "wait_s": 20}, progress_callback=progress)
        batch = called.structured_content
        Draft202012Validator(schemas["run_batch"]).validate(batch)
        assert [row["feature_id"] for row in batch["runs"]] == [1, 2]
        assert {row["status"] for row in batch["runs"]} == {"done"}
        assert batch["headline"] == "2 specs: 2 done"
        assert seen[-1] == (2, 2, "2 of 2 runs")
        assert (await call(client, "list_results", parent_hypothesis="h"))["total"] == 2

    serve(app, era, use)


def test_a_batch_is_read_from_a_file_inside_the_home_and_nowhere_else(app, era, home, tmp_path):
    spec = {"type": TOOL, "feature_id": 1, "variables": {"family": "x"}}
    home.root.mkdir(parents=True, exist_ok=True)
    (home.root / "specs.jsonl").write_text(json.dumps(spec) + "\n\n" + json.dumps(spec | {"feature_id": 2}) + "\n")
    (home.root / "broken.jsonl").write_text(json.dumps(spec) + "\n{ no json\n[]\n")
    (tmp_path / "outside.jsonl").write_text(json.dumps(spec))
    (home.root / "link.jsonl").symlink_to(tmp_path / "outside.jsonl")

    async def use(client):
        batch = await call(client, "run_batch", path="specs.jsonl", wait_s=20)
        assert [row["status"] for row in batch["runs"]] == ["done", "done"]
        wrong = {
            "broken.jsonl": ("2 of 3 specs are wrong", "line 2: no JSON", "line 3: expected a spec"),
            "../outside.jsonl": ("outside the home folder",),
            str(tmp_path / "outside.jsonl"): ("outside the home folder",),
            "link.jsonl": ("outside the home folder",),
            "nothing.jsonl": ("there is no file",),
            "a\0b": ("is no path",),
            "x" * 5000: ("is no path",),
        }
        for path, parts in wrong.items():
            refused = await client.call_tool("run_batch", {"path": path})
            assert refused.is_error
            assert all(part in refused.content[0].text for part in parts), refused.content[0].text

    serve(app, era, use)


def test_a_full_queue_refuses_a_call_and_names_the_limit(toy, home, contexts):
    app = App(home, contexts, Limits(queue=1))

    async def use(client):
        await call(client, TOOL, **WAITING, **AT_ONCE)
        await call(client, TOOL, **QUESTION, rungs=[3], **AT_ONCE)
        refused = await client.call_tool(TOOL, QUESTION | {"rungs": [6]})
        assert refused.is_error
        assert "the queue is full: 1 runs wait and 1 may" in refused.content[0].text

    serve(app, "auto", use)


def test_a_new_result_is_announced_to_clients_of_both_eras(app, era):
    heard = []

    async def on_message(message):
        heard.append(type(message).__name__)

    async def main():
        async with Client(make_server(app), mode=era, message_handler=on_message) as client:
            if era == "auto":
                async with client.listen(resources_list_changed=True) as events:
                    begun = await call(client, TOOL, **QUESTION, **AT_ONCE)
                    await until_ended(client, begun["run_id"])
                    with anyio.fail_after(10):
                        async for event in events:
                            heard.append(type(event).__name__)
                            break
            else:
                await call(client, TOOL, **QUESTION)
                with anyio.fail_after(10):
                    while not heard:
                        await anyio.sleep(0.01)

    anyio.run(main)
    assert any("Resource" in name and "Changed" in name for name in heard), heard


def test_a_queued_run_that_nobody_waits_for_leaves_the_queue_at_once(app, era, toy):
    async def use(client):
        blocker = await call(client, TOOL, **WAITING, **AT_ONCE)
        assert await anyio.to_thread.run_sync(toy.started.wait, 10)
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, TOOL, QUESTION | {"rungs": [3]})
            with anyio.fail_after(10):
                while len(app.runs.in_flight()) < 2:
                    await anyio.sleep(0.01)
            group.cancel_scope.cancel()
        with anyio.fail_after(10):
            while len(app.runs.in_flight()) > 1:
                await anyio.sleep(0.01)
        await call(client, "cancel_run", run_id=blocker["run_id"])

    serve(app, era, use)
    assert toy.runs == 1
