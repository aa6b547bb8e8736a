"""Every experiment type over the protocol: its answer fits its schema, its budget and what is stored."""

from __future__ import annotations

import csv
import io
import json
import re

import anyio
import pytest
from jsonschema import Draft202012Validator
from mcp.client import Client
from mechinterp_runner.context.home import Home
from mechinterp_runner.schemas.catalogue import catalogue
from mechinterp_runner.server.app import App
from mechinterp_runner.server.mcp_server import make_server

FEATURE = 11
FEW = {"dataset_slice": {"sample_size": 60}}
CALLS = {
    "family_1d_sweep": {"family": "swim_speed_up"} | FEW,
    "family_2d_heatmap": {"family_x": "swim_speed_up", "family_y": "quick_respawn"} | FEW,
    "pairwise_interactions": FEW,
    "conditional_interactions": {"modulator_token": "comeback"} | FEW,
    "minimal_cores": {"max_examples": 10},
    "within_family_interference": {"family": "swim_speed_up"} | FEW,
    "token_influence_sweep": FEW,
    "binary_presence_effect": FEW,
}
TOKENS, LIMIT = 8_000, 20_000


def tokens(text: str) -> float:
    return len(text) / 4


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Per type: its tool, the concise answer, the detailed one, the note, the next page of each cut table, the CSVs."""
    app = App.at(Home.find(tmp_path_factory.mktemp("home")))

    async def one(client, name):
        first = await client.call_tool(name, {"feature_id": FEATURE} | CALLS.get(name, {}))
        assert not first.is_error, first.content[0].text
        handle = first.structured_content["run_id"]
        forms = {"concise": first}
        for form in ("detailed", "markdown"):
            forms[form] = await client.call_tool("get_run", {"run_id": handle, "response_format": form})
        pages, sheets = {}, {}
        for table, view in first.structured_content.get("tables", {}).items():
            if view.get("more"):
                pages[table] = await client.call_tool("get_run", arguments_of(view["more"]))
            read = await client.read_resource(f"mechinterp://results/{handle}/tables/{table}")
            sheets[table] = read.contents[0].text
        return {"forms": forms, "pages": pages, "sheets": sheets, "stored": app.store.result(handle)}

    async def main():
        async with Client(make_server(app)) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            return {name: await one(client, name) | {"tools": tools} for name in catalogue()}

    return anyio.run(main)


def arguments_of(call: str) -> dict:
    found = re.fullmatch(r"get_run\((.+)\)", call)
    return {name: json.loads(value) for name, value in re.findall(r'(\w+)=("[^"]*"|\d+)', found[1])}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(catalogue()))
def test_every_form_of_an_answer_fits_its_published_schema_and_the_limits(answers, name):
    found = answers[name]
    for form, called in found["forms"].items():
        tool = found["tools"][name if form == "concise" else "get_run"]
        Draft202012Validator(tool.output_schema).validate(called.structured_content)
        text = called.content[0].text
        assert tokens(text) < (LIMIT if form == "detailed" else TOKENS), form
        assert "NaN" not in text
        assert text == called.structured_content["note"] if form == "markdown" else json.loads(text)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(catalogue()))
def test_an_answer_begins_with_its_headline_and_says_where_the_rest_is(answers, name):
    found = answers[name]
    shown, stored = found["forms"]["concise"].structured_content, found["stored"]
    assert next(iter(shown)) == "headline"
    assert shown["headline"] == stored.headline
    assert shown.get("warnings", []) == stored.diagnostics.warnings
    assert set(shown.get("tables", {})) == set(stored.tables)
    assert any("response_format=" in hint and "mechinterp://results/" in hint for hint in shown["hints"])
    for table, view in shown.get("tables", {}).items():
        assert view["total_rows"] == len(stored.tables[table].rows)
        assert (view["total_rows"] > len(view["rows"])) == bool(view.get("more"))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(catalogue()))
def test_the_call_that_shows_more_rows_shows_the_next_ones(answers, name):
    found = answers[name]
    for table, called in found["pages"].items():
        assert not called.is_error, called.content[0].text
        view = called.structured_content["tables"][table]
        first = found["forms"]["concise"].structured_content["tables"][table]
        assert view["first_row"] == len(first["rows"])
        assert view["rows"]
        assert tokens(called.content[0].text) < LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(catalogue()))
def test_a_table_as_csv_holds_every_row_unrounded(answers, name):
    found = answers[name]
    for table, text in found["sheets"].items():
        stored = found["stored"].tables[table]
        rows = list(csv.DictReader(io.StringIO(text)))
        assert len(rows) == len(stored.rows)
        for shown, kept in zip(rows, stored.rows, strict=True):
            numbers = [key for key, value in kept.items() if isinstance(value, float)]
            assert all(float(shown[key]) == kept[key] for key in numbers)


@pytest.mark.slow
def test_some_tables_are_cut_so_that_the_limits_mean_something(answers):
    assert sum(len(found["pages"]) for found in answers.values()) >= 8
    assert max(tokens(found["forms"]["concise"].content[0].text) for found in answers.values()) > TOKENS / 2
