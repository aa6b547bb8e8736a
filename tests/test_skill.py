"""The skill is true: its calls give the headlines it shows, its names exist, and it is short."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from pathlib import Path

import anyio
import mechinterp_runner
import pytest
from mcp.client import Client
from mechinterp_runner.context.home import Home
from mechinterp_runner.schemas.catalogue import catalogue
from mechinterp_runner.server.app import App
from mechinterp_runner.server.mcp_server import make_server

TEXT = (Path(mechinterp_runner.__file__).resolve().parent / "skill.md").read_text(encoding="utf-8")
CALLS = re.findall(r"```call\n(\w+) (.+)\n> (.+)\n```", TEXT)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The skill's calls made over the protocol, in its order: answers by call; and the tools there are."""
    app = App.at(Home.find(tmp_path_factory.mktemp("home")))

    async def main():
        async with Client(make_server(app)) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            answers = [await client.call_tool(name, json.loads(arguments)) for name, arguments, _ in CALLS]
            return answers, tools

    return anyio.run(main)


def test_the_skill_is_short_and_has_a_head_that_says_when_to_use_it():
    assert len(TEXT.splitlines()) < 300
    head = TEXT.split("---")[1]
    assert re.search(r"^name: mechinterp-runner$", head, re.MULTILINE)
    description = re.search(r"^description: (.+)$", head, re.MULTILINE)[1]
    assert "Use when" in description
    assert len(description) < 1024


def test_there_are_calls_to_execute_and_none_is_malformed():
    assert len(CALLS) == TEXT.count("```call")
    assert len(CALLS) > 10


@pytest.mark.slow
@pytest.mark.parametrize("at", range(len(CALLS)), ids=[f"{at}-{name}" for at, (name, _, _) in enumerate(CALLS)])
def test_a_call_of_the_skill_gives_the_headline_shown_below_it(shown, at):
    answer = shown[0][at]
    assert not answer.is_error, answer.content[0].text
    expected = CALLS[at][2]
    got = answer.structured_content["headline"]
    assert fnmatchcase(got, expected.replace("[", "[[]")), got


@pytest.mark.slow
def test_the_followups_it_speaks_of_are_there(shown):
    by_call = {(name, arguments): answer for (name, arguments, _), answer in zip(CALLS, shown[0], strict=True)}
    crab = by_call["weapon_sweep", '{"feature_id": 7}'].structured_content["followups"]
    assert crab[0]["spec"]["type"] == "kit_sweep"
    assert all(item["spec"]["parent_spec_id"] for item in crab)


def test_every_experiment_and_every_tool_is_spoken_of(shown):
    missing = [name for name in {*catalogue(), *shown[1]} if f"`{name}" not in TEXT]
    assert missing == []


def test_every_call_in_the_prose_names_a_tool_and_its_arguments(shown):
    for name, arguments in re.findall(r"`(\w+)\(([^`]*)\)`", TEXT):
        properties = shown[1][name].input_schema["properties"]
        assert set(re.findall(r"(\w+)=", arguments)) <= set(properties), name


def test_the_columns_it_explains_are_columns_of_some_table():
    columns = {column for item in catalogue().values() for row in item.tables.values() for column in row.model_fields}
    explained = {"n_to_settle", "specificity_p", "sim_low", "sim_high", "mean_pre_delta", "high_rate_ratio"}
    explained |= {"causal_delta", "sparse", "status"}
    assert all(f"`{name}`" in TEXT for name in explained)
    assert explained <= columns
