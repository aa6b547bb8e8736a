"""Searching the census finds the demo bundle's planted features, through every door."""

from __future__ import annotations

import json
import re
from pathlib import Path

import anyio
import mechinterp_runner
import numpy as np
import pytest
from mcp.client import Client
from mechinterp_runner import find_features, load_context
from mechinterp_runner.context.home import Home
from mechinterp_runner.runners.census.subjects import KINDS
from mechinterp_runner.schemas.errors import RequestError, UnknownNameError
from mechinterp_runner.schemas.spec import parse_spec
from mechinterp_runner.server.answers import compact_json
from mechinterp_runner.server.app import App
from mechinterp_runner.server.census import take
from mechinterp_runner.server.census.find import counts
from mechinterp_runner.server.command_line.cli import main
from mechinterp_runner.server.mcp_server import make_server

DEAD = (16, 17)


@pytest.fixture(scope="module")
def home_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def demo(home_folder):
    return load_context("demo", home=home_folder, device="cpu")


@pytest.fixture(scope="module")
def ask(demo, home_folder):
    def find(query=None, **arguments):
        return find_features(query, demo, home=home_folder, **arguments)

    return find


def test_the_feature_of_a_special_weapon_is_the_first(ask):
    found = ask(special="Crab Tank")
    assert found.features[0].feature_id == 7
    effect = found.features[0].effects[0]
    assert effect.subject == "special Crab Tank"
    assert effect.effect == pytest.approx(1.8, abs=0.05)
    assert effect.share > 0.9
    assert effect.beyond_chance
    assert effect.explained_by_abilities is False
    assert "feature 7 +1.80 (95% of its max)" in found.headline
    assert "22,982 examples" in found.headline
    assert found.warnings[0].startswith("CORRELATIONAL")


@pytest.mark.parametrize(
    ("query", "feature", "subject", "effect"),
    [
        ("Splattershot", 8, "Splattershot", 2.0),
        ("weapon_id_40", 8, "Splattershot", 2.0),
        ("special_charge_up", 0, "special_charge_up_29", 2.0),
        ("SCU", 0, "special_charge_up_29", 2.0),
        ("Special Charge Up", 0, "special_charge_up_29", 2.0),
        ("intensify_action_12", 12, "intensify_action_12", 1.7),
        ("crab tank", 7, "special Crab Tank", 1.8),
    ],
)
def test_a_planted_feature_is_found_by_any_name(ask, query, feature, subject, effect):
    first = ask(query).features[0]
    assert (first.feature_id, first.effects[0].subject) == (feature, subject)
    assert first.effects[0].effect == pytest.approx(effect, abs=0.1)


def test_a_weapon_that_abilities_explain_is_said_to_be(ask):
    """Feature 9 follows Ink Saver (Sub), which Splattershot Jr. favours."""
    found = ask(weapon="Splattershot Jr.", min_z=2)
    nine = next(row for row in found.features if row.feature_id == 9)
    assert nine.effects[0].effect > 0.5
    assert nine.effects[0].explained_by_abilities
    assert any("by chance" in warning for warning in found.warnings)


def test_dead_features_are_listed_when_asked_for_and_only_then(ask, demo):
    found = ask(dead=True, limit=50)
    dead = [feature for feature in range(demo.n_features) if not np.any(demo.activations(feature))]
    assert [row.feature_id for row in found.features] == dead
    assert set(DEAD) <= set(dead)
    assert all(row.label == "dead" for row in found.features)
    assert ask(limit=1).total == demo.n_features - len(dead)


def test_direction_tells_what_rises_from_what_falls(ask):
    rising, falling = (ask("ink_resistance_up", direction=way, min_share=0.01) for way in ("raises", "lowers"))
    assert all(row.effects[0].effect > 0 for row in rising.features)
    assert all(row.effects[0].effect < 0 for row in falling.features)
    assert 3 in [row.feature_id for row in rising.features]
    assert 2 in [row.feature_id for row in falling.features]


def test_the_strongest_token_is_that_of_the_direction_and_so_is_what_came_nearest(ask, demo):
    census = take.small_census(demo)
    tokens = [at for at, family in enumerate(census.meta.families) if family == "swim_speed_up"]
    z = np.nan_to_num(census.matrix("ability_z")[:, tokens])
    found = ask("swim_speed_up", direction="lowers", min_z=2, min_share=0, limit=50)
    assert found.total == (z.min(axis=1) <= -2).sum()
    assert any(z[row.feature_id].max() > -z[row.feature_id].min() for row in found.features)  # another raises it more
    none = ask("swim_speed_up", direction="lowers", min_share=0.99)
    assert f"The nearest: feature {z.min(axis=1).argmin()} -0." in none.headline


def test_a_headline_rounds_once(ask):
    found = ask("special_charge_up")
    assert found.features[0].label == "special_charge_up_29 +1.99"
    assert "feature 0 +1.99 (97% of its max)" in found.headline


def test_several_names_must_all_go_with_a_feature(ask):
    found = ask("run_speed_up_6", ability="ink_resistance_up_6")
    assert found.features[0].feature_id == 3
    assert [each.subject for each in found.features[0].effects] == ["run_speed_up_6", "ink_resistance_up_6"]


def test_activity_redundancy_and_sorting_narrow_the_list(ask):
    rates = [row.rate for row in ask(min_rate=0.05, max_rate=0.1, limit=50).features]
    assert rates == sorted(rates, reverse=True)
    assert all(0.05 <= rate <= 0.1 for rate in rates)
    alike = ask(min_cosine=0.95, sort="cosine", limit=50).features
    assert all(row.nearest_cosine >= 0.95 for row in alike)
    assert alike[0].nearest_cosine == max(row.nearest_cosine for row in alike)
    near = {row.feature_id: row.nearest_feature for row in ask(redundant_with=0, limit=50).features}
    assert near[86] == 0
    assert all(other == 0 or feature == 86 for feature, other in near.items())


def test_nothing_found_names_what_came_nearest(ask):
    found = ask("haunt", min_share=0.99)
    assert found.features == []
    assert found.headline.startswith("nothing found: none of 256 features go with haunt")
    assert "The nearest: feature" in found.headline


def test_a_small_effect_has_a_share_that_says_more_than_none(ask):
    found = ask("Charger", min_share=0)
    assert found.features == []
    assert "0%" not in found.headline.split("asked for:")[0]


def test_of_a_special_that_one_kit_carries_nothing_can_be_said(home, data_bundle):
    """Three kits, each with a special of its own: what one weapon does cannot be told from what its special does."""
    found = find_features(special="Trizooka", ctx="toy", home=home.root)
    assert re.match(
        r"nothing can be said of special Trizooka: \d+ examples have it, and it takes 2 kits with it and 2 kits w",
        found.headline,
    )
    assert (found.features, found.followups) == ([], [])
    assert not any("followups" in warning for warning in found.warnings)


def test_followups_are_specs_that_would_test_it(ask):
    kinds = {"special": "kit_sweep", "weapon": "weapon_sweep", "ability": "family_1d_sweep"}
    for kind, name in (("special", "Crab Tank"), ("weapon", "Splattershot"), ("ability", "SCU")):
        first = ask(**{kind: name}).followups[0]
        spec = parse_spec(first.spec)
        assert (spec.type, spec.model_type) == (kinds[kind], "demo")
        assert spec.variables.method == "interventional"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"special": "Crab Tnk"}, r"unknown special 'Crab Tnk': did you mean 'Crab Tank'\? Allowed: .*Ink Storm"),
        ({"query": "special_charge"}, r"unknown name 'special_charge': did you mean 'special_charge_up'"),
        ({"ability": "Crab Tank"}, "unknown ability 'Crab Tank'"),
        ({"weapon_class": "shooters"}, r"unknown weapon class 'shooters': did you mean 'shooter'"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(ask, arguments, message):
    with pytest.raises(UnknownNameError, match=message):
        ask(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dead": True, "special": "Crab Tank"}, "dead features go with nothing"),
        ({"min_rate": 0.5, "max_rate": 0.1}, "min_rate 0.5 is above max_rate 0.1"),
        ({"sort": "z"}, "sort 'z' needs a name"),
        ({"redundant_with": 256}, r"redundant_with 256 is out of range.*0 to 255"),
        ({"limit": 0}, "limit: .*greater than or equal to 1; got 0"),
        ({"specail": "Crab Tank"}, "specail"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(ask, arguments, message):
    with pytest.raises(RequestError, match=message):
        ask(**arguments)


def test_without_decoder_columns_nothing_is_said_of_redundancy(ask, demo, monkeypatch):
    census = take.small_census(demo)
    assert "27 with another of cosine 0.9 or more" in counts(census)
    unknown = np.full(len(census), np.nan)
    monkeypatch.setitem(census._kept, "nearest_cosine", unknown)
    assert "cosine" not in counts(census)
    for arguments in ({"min_cosine": 0.5}, {"redundant_with": 3}, {"sort": "cosine"}):
        with pytest.raises(RequestError, match="has no SAE weights"):
            ask(**arguments)


def test_a_large_bundle_without_a_census_says_how_to_take_one(demo, tmp_path, monkeypatch):
    monkeypatch.setattr(take, "_SMALL", 0)
    with pytest.raises(RequestError, match=r"no census yet.*`mechinterp-runner census --model demo`.*Nothing was run"):
        find_features("Crab Tank", demo, home=tmp_path)


def test_a_bundle_outside_the_home_is_named_by_its_folder(home, data_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(take, "_SMALL", 0)
    elsewhere = tmp_path / "some where" / "toy"
    elsewhere.parent.mkdir()
    data_bundle.rename(elsewhere)
    ctx = load_context(bundle=elsewhere, home=home.root, device="cpu")
    with pytest.raises(RequestError, match=re.escape(f"`mechinterp-runner census --bundle '{elsewhere}'`")):
        find_features("comeback", ctx, home=home.root)


def test_a_small_bundle_is_searched_without_writing_anything(ask, home_folder):
    assert ask("Crab Tank").total == 1
    assert not (home_folder / "census").exists()


def test_the_commands_take_the_census_and_search_it(tmp_path, capsys):
    where = ["--home", str(tmp_path), "--device", "cpu"]
    assert main(["census", "--features", "0-12", "--block", "5", *where]) == 0
    done = capsys.readouterr()
    assert "| 7 | 7.09% | special Crab Tank +1.80" in done.out
    assert "13 features, 22,982 examples: 0 dead" in done.out
    assert "13 of 13" in done.err
    assert (tmp_path / "census").is_dir()
    assert main(["find-features", "Crab", "Tank", *where, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["features"][0]["feature_id"] == 7
    assert main(["find-features", "--special", "Crab Tank", *where, "--format", "markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("# 1 of 256 features goes with special Crab Tank beyond chance: feature 7")
    assert "  mechinterp-runner kit-sweep --feature-id 7 --method interventional --model demo" in lines


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["census", "--features", "a-b"], "--features 'a-b' is no range"),
        (["census", "--features", "5-999"], "features 5 to 999 are out of range"),
        (["find-features", "Crab Tnk"], "did you mean 'Crab Tank'"),
        (["find-features", "--limit", "0"], "--limit"),
    ],
)
def test_a_wrong_command_says_what_is_wrong(tmp_path, capsys, words, message):
    assert main([*words, "--home", str(tmp_path), "--device", "cpu"]) == 2
    assert message in capsys.readouterr().err


def test_the_tool_answers_in_its_schema_and_within_the_budget(demo, home_folder):
    app = App.at(Home.find(home_folder))

    async def use():
        async with Client(make_server(app)) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            first = await client.call_tool("find_features", {"special": "Crab Tank"})
            longest = await client.call_tool(
                "find_features", {"limit": 50, "query": "swim_speed_up", "min_z": 0, "min_share": 0}
            )
            wrong = await client.call_tool("find_features", {"special": "Crab Tnk"})
            return tools, first, longest, wrong

    tools, first, longest, wrong = anyio.run(use)
    assert first.structured_content["features"][0]["feature_id"] == 7
    assert len(longest.structured_content["features"]) == 50
    assert len(compact_json(longest.structured_content)) < 8_000 * 4
    assert wrong.is_error
    assert "did you mean 'Crab Tank'" in wrong.content[0].text
    listed = [len(compact_json([tool.name, tool.description, tool.input_schema])) // 4 for tool in tools.values()]
    assert sum(listed) < 12_000


def test_the_page_names_every_column_and_its_example_is_true(ask, demo, home_folder, capsys):
    page = (Path(mechinterp_runner.__file__).parent / "docs" / "census.md").read_text(encoding="utf-8")
    columns = take.small_census(demo).columns
    wide = {f"{kind}_{what}" for kind in KINDS for what in ("effect", "z", "adjusted")}
    assert [name for name in columns if name not in wide and f"`{name}`" not in page] == []
    command, headline = re.search(r"^\$ mechinterp-runner (.+)\n# (.+)$", page, re.MULTILINE).groups()
    assert main([*command.split(), "--home", str(home_folder), "--device", "cpu", "--format", "markdown"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"# {headline}"
