"""Resources over the protocol, against the files they are made from."""

from __future__ import annotations

import csv
import io
import json
import re
import threading
from pathlib import Path
from typing import get_args

import anyio
import mechinterp_runner
import pytest
from mcp.client import Client
from mcp.shared.exceptions import MCPError
from mcp.types import INTERNAL_ERROR, INVALID_PARAMS
from mechinterp_runner.schemas.experiment_type import runner_names
from mechinterp_runner.schemas.result import Diagnostics, ExperimentResult, Provenance, Status, Table
from mechinterp_runner.server.app import App
from mechinterp_runner.server.mcp_server import make_server

PACKAGE = Path(mechinterp_runner.__file__).resolve().parent
SWEEP = "family_1d_sweep"
CELLS = [
    {"rung": 3, "mean_delta": 1 / 3, "note": 'a "b", c', "parts": ["x", 1.5, None], "both": {"ü": 2}, "sure": True},
    {"rung": 57, "mean_delta": None, "note": "two\nlines", "parts": [], "both": None, "sure": False},
    {"rung": 0, "mean_delta": -1.2345678901234567e-09, "note": "", "parts": None, "both": {}, "sure": None},
]


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


async def read(client, uri):
    """Text and media type of a resource."""
    (content,) = (await client.read_resource(uri)).contents
    assert content.uri == uri
    return content.text, content.mime_type


def reading(app, era, uri):
    return serve(app, era, lambda client: read(client, uri))


def refused(app, era, uri):
    """Code and message of the error that reading gives."""

    async def use(client):
        with pytest.raises(MCPError) as caught:
            await read(client, uri)
        return caught

    caught = serve(app, era, use)
    assert caught.value.data == {"uri": uri}
    assert "Traceback" not in str(caught.value)
    return caught.value.code, str(caught.value)


def publish(app, make_spec, name="first", *, rows=CELLS, second=0, **given):
    """Store a result and return its file."""
    spec = make_spec(id=name, model_type="demo")
    result = ExperimentResult(
        spec_id=name,
        feature_id=7,
        experiment_type=SWEEP,
        headline=f"headline of {name}",
        tables={"rung_deltas": Table(name="rung_deltas", columns=list(CELLS[0]), rows=rows, notes=["a note"])},
        diagnostics=Diagnostics(warnings=["a warning"]),
        provenance=Provenance(bundle="demo", started_at=f"2026-01-02T03:04:{second:02d}+00:00"),
        success=True,
        duration_seconds=0.5,
    )
    return app.store.publish(spec, result.model_copy(update=given))


def test_the_guides_and_a_page_for_every_type_are_listed_and_read_as_they_lie_on_disk(app, era):
    guides = {"skill": "skill.md", "glossary": "docs/glossary.md", "methods": "docs/methods.md"}
    pages = {f"experiment-types/{name}": f"docs/experiments/{name}.md" for name in runner_names()}

    async def use(client):
        listed = {item.uri: item for item in (await client.list_resources()).resources}
        assert listed.keys() == {f"mechinterp://{path}" for path in guides | pages}
        for path, file in (guides | pages).items():
            item = listed[f"mechinterp://{path}"]
            assert item.title
            assert item.description
            assert item.mime_type == "text/markdown"
            text = (PACKAGE / file).read_text(encoding="utf-8")
            assert await read(client, item.uri) == (text, "text/markdown")

    serve(app, era, use)


def test_the_templates_say_what_they_give(app, era, toy):
    async def use(client):
        return (await client.list_resource_templates()).resource_templates

    templates = serve(app, era, use)
    assert {template.uri_template: template.mime_type for template in templates} == {
        "mechinterp://experiment-types/{type}": "text/markdown",
        "mechinterp://results/{id}": "application/json",
        "mechinterp://results/{id}/tables/{name}": "text/csv",
        "mechinterp://specs/{id}": "application/json",
    }
    assert all(template.title and template.description for template in templates)


def test_a_result_is_the_whole_stored_file(app, era, make_spec):
    file = publish(app, make_spec)
    text, kind = reading(app, era, "mechinterp://results/first")
    assert kind == "application/json"
    assert json.loads(text) == json.loads(file.read_text(encoding="utf-8"))


def test_a_table_as_csv_gives_back_every_cell_of_the_stored_table(app, era, make_spec):
    file = publish(app, make_spec)
    text, kind = reading(app, era, "mechinterp://results/first/tables/rung_deltas")
    assert kind == "text/csv"
    stored = json.loads(file.read_text(encoding="utf-8"))["tables"]["rung_deltas"]
    header, *rows = csv.reader(io.StringIO(text, newline=""))
    assert header == stored["columns"]
    assert len(rows) == len(stored["rows"])
    for cells, row in zip(rows, stored["rows"], strict=True):
        for name, cell in zip(header, cells, strict=True):
            value = row[name]
            if value is None:
                assert cell == ""
            elif isinstance(value, str):
                assert cell == value
            else:
                assert json.loads(cell) == value


def test_a_long_table_is_given_whole_though_answers_cut_it(app, era, toy):
    async def use(client):
        question = {"feature_id": 7, "family": "special_charge_up", "mode": "long"}
        called = await client.call_tool(SWEEP, question)
        shown = called.structured_content["tables"]["rung_deltas"]["rows"]
        name = called.structured_content["spec_id"]
        text, _ = await read(client, f"mechinterp://results/{name}/tables/rung_deltas")
        return len(shown), list(csv.DictReader(io.StringIO(text, newline="")))

    shown, rows = serve(app, era, use)
    assert shown < len(rows) == 300
    assert [float(row["mean_delta"]) for row in rows] == [index / 7 for index in range(300)]


@pytest.mark.parametrize("mode", ["fine", "fail"])
def test_a_spec_can_be_passed_to_run_spec_as_it_is(app, era, toy, mode):
    async def use(client):
        question = {"feature_id": 7, "family": "special_charge_up", "mode": mode}
        first = (await client.call_tool(SWEEP, question)).structured_content
        text, kind = await read(client, f"mechinterp://specs/{first['spec_id']}")
        assert kind == "application/json"
        again = await client.call_tool("run_spec", {"spec": json.loads(text)})
        assert not again.is_error, again.content
        return json.loads(text), first, again.structured_content

    spec, first, again = serve(app, era, use)
    assert (spec["type"], spec["feature_id"], spec["variables"]["mode"]) == (SWEEP, 7, mode)
    # A success is answered from the store; a failure is run again, under an id of its own.
    assert toy.runs == (1 if mode == "fine" else 2)
    assert (again["spec_id"] == first["spec_id"]) == (mode == "fine")
    assert again["headline"].split()[0] == first["headline"].split()[0]


def test_the_newest_results_are_listed_newest_first_with_their_headlines(app, era, make_spec):
    def newest(client):
        async def use():
            listed = (await client.list_resources()).resources
            return [item for item in listed if item.uri.startswith("mechinterp://results/")]

        return use()

    async def use(client):
        assert await newest(client) == []
        for second in range(23):
            publish(app, make_spec, f"run{second:02d}", second=second, headline="many words " * 40)
        failed = {"success": False, "status": "failed", "error_message": "out of luck", "headline": "did not finish"}
        publish(app, make_spec, "broken", second=30, **failed)
        return await newest(client)

    found = serve(app, era, use)
    assert [item.name for item in found] == ["broken", *(f"run{second:02d}" for second in range(22, 3, -1))]
    assert found[0].title == "did not finish"
    assert found[0].description.endswith("failed: out of luck")
    assert all(item.uri == f"mechinterp://results/{item.name}" for item in found)
    assert all(item.mime_type == "application/json" for item in found)
    assert all(len(item.title) <= 100 for item in found)
    assert found[1].title.startswith("many words many words")
    assert found[1].description == f"{SWEEP} of feature 7, bundle demo"
    assert found[1].annotations.last_modified == "2026-01-02T03:04:22+00:00"


@pytest.mark.parametrize("place", ["results/firts", "specs/firts", "results/firts/tables/rung_deltas"])
def test_an_id_that_is_not_stored_names_the_nearest_and_how_to_search(app, era, make_spec, place):
    publish(app, make_spec)
    code, message = refused(app, era, f"mechinterp://{place}")
    assert code == INVALID_PARAMS
    assert "'firts'" in message
    assert "did you mean 'first'?" in message
    assert "list_results" in message


def test_a_table_that_is_not_there_names_those_that_are(app, era, make_spec):
    publish(app, make_spec)
    code, message = refused(app, era, "mechinterp://results/first/tables/rung_delta")
    assert code == INVALID_PARAMS
    assert "unknown table 'rung_delta': did you mean 'rung_deltas'?" in message
    assert "mechinterp://results/first" in message


def test_a_type_that_is_not_there_names_those_that_are(app, era, toy):
    code, message = refused(app, era, "mechinterp://experiment-types/family_sweep")
    assert code == INVALID_PARAMS
    assert f"unknown experiment type 'family_sweep': did you mean '{SWEEP}'?" in message
    assert "mechinterp://experiment-types/" in message


@pytest.mark.parametrize(
    "place", ["results/..%2F..%2Fetc%2Fpasswd", "specs/%2Fetc%2Fpasswd", "results/a b", "experiment-types/..%2Fmethods"]
)
def test_an_id_is_never_read_as_a_path(app, era, make_spec, place):
    publish(app, make_spec)
    code, message = refused(app, era, f"mechinterp://{place}")
    assert code == INVALID_PARAMS
    assert "root:" not in message


def test_a_damaged_result_is_an_error_that_names_its_file(app, era, make_spec):
    file = publish(app, make_spec)
    file.write_text('{"spec_id": "first"}', encoding="utf-8")
    for uri in ("mechinterp://results/first", "mechinterp://results/first/tables/rung_deltas"):
        code, message = refused(app, era, uri)
        assert code == INTERNAL_ERROR
        assert file.name in message
        assert "no readable result" in message


def test_a_folder_of_results_that_cannot_be_read_is_an_error_of_the_list_too(app, era, toy):
    app.home.root.mkdir(parents=True)
    app.home.runs.write_text("not a folder", encoding="utf-8")
    app.store.index._places = [app.home.runs / "index.sqlite"]

    async def use(client):
        with pytest.raises(MCPError) as caught:
            await client.list_resources()
        return caught.value.code, str(caught.value)

    code, message = serve(app, era, use)
    assert code == INTERNAL_ERROR
    assert "no folder can hold the index" in message


def test_the_store_is_read_on_worker_threads_only(app, era, make_spec, monkeypatch):
    publish(app, make_spec)
    threads = []
    for name in ("result", "spec", "search"):
        real = getattr(app.store, name)

        def noting(*given, real=real):
            threads.append(threading.current_thread())
            return real(*given)

        monkeypatch.setattr(app.store, name, noting)

    async def use(client):
        await client.list_resources()
        for place in ("results/first", "results/first/tables/rung_deltas", "specs/first"):
            await read(client, f"mechinterp://{place}")

    serve(app, era, use)
    assert len(threads) == 4
    assert threading.main_thread() not in threads


def test_the_glossary_has_a_paragraph_for_every_word_in_alphabetical_order_and_uses_real_names():
    title, about, *entries = (PACKAGE / "docs" / "glossary.md").read_text(encoding="utf-8").strip().split("\n\n")
    assert title == "# Glossary"
    assert about
    found = [re.match(r"\*\*([^*]+)\*\*( \([^:]+\))?: \S", entry) for entry in entries]
    assert [entry for entry, match in zip(entries, found, strict=True) if match is None] == []
    terms = [match[1].replace("`", "") for match in found]
    assert terms == sorted(terms, key=str.casefold)
    wanted = {"feature", "SAE", "pooled vector", "AP", "rung", "family", "main-only ability", "token", "weapon", "kit"}
    wanted |= {"context", "condition", "forward pass", "activation", "pre-activation", "floor", "interventional"}
    wanted |= {"observational", "min_effect", "responder rate", "simultaneous interval", "specificity p", "core"}
    wanted |= {"random direction", "split half", "shuffle null", "coverage", "itemset", "lift", "modulator", "headline"}
    wanted |= {"confounding gap", "finding", "followup", "run", "bundle", "home", *get_args(Status)}
    assert wanted - set(terms) == set()
    pages = [*(PACKAGE / "docs" / "experiments").glob("*.md"), PACKAGE / "docs" / "methods.md"]
    sources = [*(PACKAGE / "schemas").glob("*.py"), *(PACKAGE / "server").rglob("*.py")]
    known = set(re.findall(r"\w+", "\n".join(file.read_text(encoding="utf-8") for file in [*pages, *sources])))
    assert [name for name in re.findall(r"`([a-z]\w+)`", "\n".join(entries)) if name not in known] == []
