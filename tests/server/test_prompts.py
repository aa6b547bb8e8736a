"""Prompts over the protocol: what they say is true of the tools there are."""

from __future__ import annotations

import json
import re
from typing import get_args

import anyio
import pytest
from mcp.client import Client
from mcp.shared.exceptions import MCPError
from mcp.types import INTERNAL_ERROR, INVALID_PARAMS
from mechinterp_runner.context.bundle import MANIFEST
from mechinterp_runner.context.contexts import Contexts
from mechinterp_runner.schemas.experiment_type import runner_names
from mechinterp_runner.schemas.result import Status
from mechinterp_runner.server.app import App
from mechinterp_runner.server.mcp_server import make_server

SWEEP = "family_1d_sweep"
QUESTION = {"feature_id": 7, "family": "special_charge_up"}
_CALL = re.compile(r"`(\w+)\(([^`]*)\)`")
_PLAN, _SUMMARY, _INVESTIGATION = "plan_experiments", "summarize_result", "investigate_feature"


@pytest.fixture(params=["legacy", "auto"])
def era(request):
    return request.param


@pytest.fixture
def app(home, contexts):
    return App(home, contexts)


def serve(app, era, use):
    """Run ``use(client)`` against a server of the app."""

    async def main():
        async with Client(make_server(app), mode=era) as client:
            return await use(client)

    return anyio.run(main)


async def said(client, name, **arguments):
    """The text of a prompt."""
    (message,) = (await client.get_prompt(name, arguments)).messages
    assert message.role == "user"
    return message.content.text


async def refused(client, name, **arguments):
    """Code and message of the error that a prompt gives."""
    with pytest.raises(MCPError) as caught:
        await client.get_prompt(name, arguments)
    return caught.value.code, str(caught.value)


async def stored(client, **more):
    """Run the toy and return the id of its result."""
    return (await client.call_tool(SWEEP, QUESTION | more)).structured_content["spec_id"]


def test_prompts_are_listed_with_titles_and_arguments_that_say_what_they_are(app, era, toy):
    async def use(client):
        return (await client.list_prompts()).prompts

    prompts = serve(app, era, use)
    arguments = {
        prompt.name: {argument.name: bool(argument.required) for argument in prompt.arguments} for prompt in prompts
    }
    assert arguments == {
        _PLAN: {"question": True, "feature_id": False, "budget": False, "model_type": False},
        _SUMMARY: {"run_id": True},
        _INVESTIGATION: {"feature_id": True, "model_type": False},
    }
    assert all(prompt.title and prompt.description for prompt in prompts)
    assert all(argument.description for prompt in prompts for argument in prompt.arguments)


def test_every_call_a_prompt_names_is_one_that_the_tool_takes(home, era):
    async def use(client):
        tools = {tool.name: tool.input_schema for tool in (await client.list_tools()).tools}
        run = (await client.call_tool("weapon_sweep", {"feature_id": 0})).structured_content
        texts = [
            await said(client, _PLAN, question="Why?", feature_id="3", budget="1000"),
            await said(client, _PLAN, question="Why?"),
            await said(client, _SUMMARY, run_id=run["spec_id"]),
            await said(client, _INVESTIGATION, feature_id="3"),
        ]
        return tools, texts

    tools, texts = serve(App(home, Contexts(home)), era, use)
    for text in texts:
        calls = _CALL.findall(text)
        assert len(calls) > 2
        for name, inside in calls:
            given = set(re.findall(r"(\w+)=", inside))
            assert name in tools, name
            assert given <= tools[name]["properties"].keys(), (name, given)
            assert set(tools[name].get("required", [])) <= given, (name, given)


def test_the_way_through_an_investigation_goes_on_with_the_feature_and_bundle_given(app, era, toy, data_bundle):
    async def use(client):
        return await said(client, _INVESTIGATION, feature_id="7", model_type="toy")

    text = serve(app, era, use)
    experiments = [inside for name, inside in _CALL.findall(text) if name in runner_names()]
    assert len(experiments) > 7
    assert all(inside.startswith('feature_id=7, model_type="toy"') for inside in experiments)
    assert "unchanged" in text
    assert "bundle `toy` (features 0 to 7)" in text


def test_a_plan_quotes_the_question_and_shows_every_type_with_its_cost(home, era):
    async def use(client):
        described = (await client.call_tool("list_experiment_types", {})).structured_content["types"]
        question = "Which abilities?\nAnd why {all} of them?"
        return described, await said(client, _PLAN, question=question, feature_id="5", budget="12000")

    described, text = serve(App(home, Contexts(home)), era, use)
    assert "> Which abilities?\n> And why {all} of them?" in text
    assert "feature 5" in text
    assert "12,000 forward passes" in text
    assert len(described) == len(runner_names())
    for kind in described:
        line = next(line for line in text.splitlines() if line.startswith(f"- `{kind['type']}` "))
        assert kind["summary"] in line
        assert f"costs {kind['cost']}" in line
    shown = re.search(r"```json\n(.*?)```", text, re.DOTALL)
    assert json.loads(shown[1].replace("{...}", "{}"))["feature_id"] == 5


def test_a_budget_of_nothing_leaves_observational_experiments(app, era, toy):
    text = serve(app, era, lambda client: said(client, _PLAN, question="Why?", budget="0", feature_id=""))
    assert "Budget: no forward passes." in text
    assert "No feature is named" in text


def test_a_summary_holds_the_note_of_the_stored_result_and_the_rules(app, era, toy):
    async def use(client):
        name = await stored(client)
        note = (await client.call_tool("get_run", {"run_id": name, "response_format": "markdown"})).structured_content
        return name, note, await said(client, _SUMMARY, run_id=name)

    name, note, text = serve(app, era, use)
    rules, shown = text.split("\n## The result\n\n")
    assert shown.startswith(f"# {note['headline']}\n")
    assert "**Warning:** a warning of the run" in shown
    assert "| 57 | 7.037 |" in shown
    assert "look closer" in shown
    assert f"`{name}`" in text
    for word in (*get_args(Status), "specificity_p", "correlational", "warning", "unchanged"):
        assert word in rules
    assert "did not finish" not in rules


def test_a_summary_of_a_failed_run_says_that_there_is_no_answer(app, era, toy):
    async def use(client):
        return await said(client, _SUMMARY, run_id=await stored(client, mode="fail"))

    text = serve(app, era, use)
    assert "**This run did not finish.**" in text
    assert "the experiment's own fault" in text


def test_a_summary_of_a_long_result_shows_fewer_rows_and_stays_readable(app, era, toy):
    async def use(client):
        return await said(client, _SUMMARY, run_id=await stored(client, mode="long"))

    text = serve(app, era, use)
    assert len(text) < 32_000
    assert "more rows" in text


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        (_SUMMARY, {}, [_SUMMARY, "run_id"]),
        (_SUMMARY, {"run_id": ""}, ["missing argument 'run_id'"]),
        (_SUMMARY, {"run_id": "firts"}, ["'firts'", "did you mean 'first'?", "list_results"]),
        (_SUMMARY, {"run_id": "../first"}, ["'../first'"]),
        (_SUMMARY, {"id": "first"}, ["unknown argument", "'id'", "run_id"]),
        (_INVESTIGATION, {"feature_id": "seven"}, ["feature_id", "'seven'"]),
        (_INVESTIGATION, {"feature_id": "-1"}, ["feature_id", "'-1'"]),
        (_INVESTIGATION, {"feature_id": "8", "model_type": "toy"}, ["feature_id 8", "0 to 7", "demo, toy"]),
        (_INVESTIGATION, {"feature_id": "8", "model_type": "toi"}, ["'toi'", "did you mean 'toy'?"]),
        (_PLAN, {"feature_id": "1"}, [_PLAN, "question"]),
        (_PLAN, {"question": "Why?", "budget": "much"}, ["budget", "'much'"]),
        ("investigate", {}, ["unknown prompt 'investigate'", _INVESTIGATION]),
    ],
)
def test_what_is_missing_unknown_or_wrong_is_named(
    app, era, toy, data_bundle, make_spec, executor, ctx, name, arguments, words
):
    executor.execute(make_spec(id="first"), ctx)
    code, message = serve(app, era, lambda client: refused(client, name, **arguments))
    assert code == INVALID_PARAMS
    assert [word for word in words if word not in message] == []


def test_a_bundle_or_result_that_is_damaged_is_an_error_in_words(app, era, data_bundle, make_spec, executor, ctx):
    executor.execute(make_spec(id="first"), ctx)
    app.store.path("first").write_text("{", encoding="utf-8")
    (data_bundle / MANIFEST).write_text("{", encoding="utf-8")

    async def use(client):
        return (
            await refused(client, _SUMMARY, run_id="first"),
            await refused(client, _INVESTIGATION, feature_id="1", model_type="toy"),
        )

    for (code, message), file in zip(serve(app, era, use), ("first__f7", MANIFEST), strict=True):
        assert code == INTERNAL_ERROR
        assert file in message
        assert "Traceback" not in message
