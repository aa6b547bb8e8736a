"""Completions over the protocol, against the vocabularies and the store."""

from __future__ import annotations

import csv
import json
import threading
from pathlib import Path

import anyio
import mechinterp_runner
import pytest
from mcp.client import Client
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS, PromptReference, ResourceTemplateReference
from mechinterp_runner.context.bundle import MANIFEST
from mechinterp_runner.context.contexts import Contexts
from mechinterp_runner.schemas.experiment_type import runner_names
from mechinterp_runner.schemas.vocabulary import WeaponVocabulary
from mechinterp_runner.server.app import App
from mechinterp_runner.server.mcp_server import make_server

PACKAGE = Path(mechinterp_runner.__file__).resolve().parent
DEMO = PACKAGE / "context" / "demo"
PLAN = PromptReference(type="ref/prompt", name="plan_experiments")
SUMMARY = PromptReference(type="ref/prompt", name="summarize_result")
RESULT = ResourceTemplateReference(type="ref/resource", uri="mechinterp://results/{id}")
SPEC = ResourceTemplateReference(type="ref/resource", uri="mechinterp://specs/{id}")
TABLE = ResourceTemplateReference(type="ref/resource", uri="mechinterp://results/{id}/tables/{name}")
TYPE = ResourceTemplateReference(type="ref/resource", uri="mechinterp://experiment-types/{type}")


@pytest.fixture(params=["legacy", "auto"])
def era(request):
    return request.param


@pytest.fixture
def app(home):
    return App(home, Contexts(home))


def serve(app, era, use):
    """Run ``use(client)`` against a server of the app."""

    async def main():
        async with Client(make_server(app), mode=era) as client:
            return await use(client)

    return anyio.run(main)


def completed(app, era, reference, name, typed, **chosen):
    """What the server offers for an argument."""

    async def use(client):
        given = {"name": name, "value": typed}
        return (await client.complete(reference, given, context_arguments=chosen or None)).completion

    return serve(app, era, use)


@pytest.fixture
def large_bundle(data_bundle):
    """The bundle of the home, its manifest saying that it has as many features as the largest SAE there is."""
    file = data_bundle / MANIFEST
    file.write_text(json.dumps(json.loads(file.read_text()) | {"n_features": 24_576}))
    return data_bundle


def test_feature_numbers_of_the_default_bundle_begin_with_what_was_typed(app, era, toy, large_bundle):
    offered = completed(app, era, PLAN, "feature_id", "2457")
    assert offered.values == ["2457", *(str(number) for number in range(24_570, 24_576))]
    assert (offered.total, offered.has_more) == (7, False)
    everything = completed(app, era, PLAN, "feature_id", "")
    assert everything.values == [str(number) for number in range(100)]
    assert (everything.total, everything.has_more) == (24_576, True)
    assert completed(app, era, PLAN, "feature_id", "24576").values == []
    assert completed(app, era, PLAN, "feature_id", "x").values == []


def test_a_bundle_chosen_before_gives_its_own_features(app, era, toy, large_bundle):
    n_features = json.loads((DEMO / MANIFEST).read_text())["n_features"]
    offered = completed(app, era, PLAN, "feature_id", "", model_type="demo")
    assert offered.total == n_features
    assert completed(app, era, PLAN, "model_type", "").values == ["demo", "toy"]


def test_families_that_begin_with_what_was_typed_come_before_those_that_hold_it(app, era, toy):
    names = {token.rsplit("_", 1)[0] if token[-1].isdigit() else token for token in json.loads(
        (DEMO / "vocab.json").read_text()) if not token.startswith("<")}  # fmt: skip
    begin = sorted(name for name in names if name.startswith("sub"))
    within = sorted(name for name in names if "sub" in name and not name.startswith("sub"))
    assert begin
    assert within
    assert completed(app, era, PLAN, "family", "SUB").values == begin + within
    assert set(completed(app, era, PLAN, "family", "").values) == names


def test_weapons_are_offered_as_slices_accept_them(app, era, toy):
    vocabulary = json.loads((DEMO / "weapon_vocab.json").read_text())
    with (PACKAGE / "schemas" / "data" / "weapons.csv").open(encoding="utf-8") as stream:
        names = {f"weapon_id_{row['weapon_id']}": row["name"] for row in csv.DictReader(stream)}
    splat = sorted(names[token] for token in vocabulary if names[token].casefold().startswith("splat"))
    offered = completed(app, era, PLAN, "weapon", "splat").values
    assert splat
    assert offered[: len(splat)] == splat
    assert all("splat" in name.casefold() for name in offered)
    everything = completed(app, era, PLAN, "weapon", "")
    assert everything.values == sorted(names[token] for token in vocabulary)[:100]
    assert everything.has_more
    accepted = WeaponVocabulary.from_mapping(vocabulary)
    token = next(iter(vocabulary))
    by_id = completed(app, era, PLAN, "weapon", token).values
    assert token in by_id
    assert {accepted.resolve(name) for name in by_id} <= set(vocabulary.values())


def test_types_are_offered_from_all_there_are(app, era):
    assert completed(app, era, TYPE, "type", "").values == list(runner_names())
    sweeps = completed(app, era, TYPE, "type", "weapon").values
    assert sweeps == ["weapon_group_analysis", "weapon_sweep"]


@pytest.fixture
def stored(make_spec, executor, ctx):
    """Ids of three results, in the order they were stored."""
    return [executor.execute(make_spec(id=name, rungs=[rung]), ctx).spec_id
            for name, rung in (("apple", 3), ("pineapple", 6), ("apricot", 12))]  # fmt: skip


def test_result_ids_are_offered_newest_first(app, era, stored):
    for reference, name in ((RESULT, "id"), (SPEC, "id"), (TABLE, "id"), (SUMMARY, "run_id")):
        assert completed(app, era, reference, name, "").values == ["apricot", "pineapple", "apple"]
        assert completed(app, era, reference, name, "apple").values == ["apple", "pineapple"]
        # The words of a headline are found by list_results, and are no ids.
        assert completed(app, era, reference, name, "drives").values == []


def test_more_ids_than_an_answer_holds_are_counted(app, era, make_spec, executor, ctx):
    for number in range(103):
        executor.execute(make_spec(id=f"run{number:03d}", rungs=[3], mode="nan"), ctx)
    offered = completed(app, era, RESULT, "id", "run")
    assert offered.values == [f"run{number:03d}" for number in range(102, 2, -1)]
    assert (offered.total, offered.has_more) == (103, True)


def test_tables_are_those_of_the_result_that_was_chosen(app, era, stored):
    assert completed(app, era, TABLE, "name", "", id="apple").values == ["rung_deltas"]
    assert completed(app, era, TABLE, "name", "delta", id="apple").values == ["rung_deltas"]
    assert completed(app, era, TABLE, "name", "x", id="apple").values == []
    assert completed(app, era, TABLE, "name", "", id="nothing").values == []
    assert completed(app, era, TABLE, "name", "", id="../apple").values == []


def test_without_a_result_the_tables_of_every_type_are_offered(app, era):
    offered = completed(app, era, TABLE, "name", "")
    assert {"rung_deltas", "weapon_stats", "itemsets", "cores"} <= set(offered.values)


def test_an_argument_nobody_knows_has_no_completions_and_an_unknown_reference_is_an_error(app, era, toy):
    assert completed(app, era, PLAN, "question", "Wh").values == []

    async def use(client):
        found = []
        for reference in (
            PromptReference(type="ref/prompt", name="plan_experiment"),
            ResourceTemplateReference(type="ref/resource", uri="mechinterp://result/{id}"),
        ):
            with pytest.raises(MCPError) as caught:
                await client.complete(reference, {"name": "feature_id", "value": ""})
            found.append((caught.value.code, str(caught.value)))
        return found

    (first, prompt), (second, template) = serve(app, era, use)
    assert (first, second) == (INVALID_PARAMS, INVALID_PARAMS)
    assert "unknown prompt 'plan_experiment': did you mean 'plan_experiments'?" in prompt
    assert "did you mean 'mechinterp://results/{id}'?" in template


def test_completing_opens_no_bundle_and_stays_off_the_event_loop(app, era, stored, large_bundle, monkeypatch):
    threads = []
    real = app.home.__class__.bundle_path

    def noting(home, name):
        threads.append(threading.current_thread())
        return real(home, name)

    monkeypatch.setattr(app.home.__class__, "bundle_path", noting)
    for name in ("feature_id", "family", "weapon"):
        completed(app, era, PLAN, name, "")
    assert len(threads) == 3
    assert threading.main_thread() not in threads
    assert app.contexts.loaded() == ()
    assert not (app.home.root / "verified").exists()
