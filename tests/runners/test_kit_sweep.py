"""The kit sweep against rules whose answers can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from mechinterp_runner.context.contexts import load_context
from mechinterp_runner.schemas.catalogue import find
from mechinterp_runner.schemas.errors import EmptySliceError, RequestError
from mechinterp_runner.schemas.facts import WEAPONS
from mechinterp_runner.schemas.job import Job
from mechinterp_runner.schemas.spec import parse_spec

KIT = "kit_sweep"
DRIVEN = (41, 21, 3000)
WORLD = (0, 1, 10, 11, 20, 21, 30, 31, 40, 41, 50, 51, 60, 61, 70, 71, 80, 81, 90, 91, 100, 101, 3000, 3010)
"""Kits of the world, in the order of its vocabulary."""
GATED = ["one_rung_per_family", "no_weapon_gating_if_relu_floor"]


# -- rules ------------------------------------------------------------------------------------------------------------


def part_means(world, activation, part: str) -> dict[str, tuple[float, int, int]]:
    """Mean, examples and weapons of every sub or special, example by example."""
    values: dict[str, list[float]] = {}
    kits: dict[str, set[int]] = {}
    for weapon, value in zip(np.asarray(world.data.weapon).tolist(), activation.tolist(), strict=True):
        kit = world.weapons.facts[weapon]
        name = getattr(kit, part)
        values.setdefault(name, []).append(value)
        kits.setdefault(name, set()).add(kit.weapon_id)
    return {name: (float(np.mean(each)), len(each), len(kits[name])) for name, each in values.items()}


@pytest.mark.parametrize("part", ["sub", "special"])
def test_means_and_deltas_equal_a_plain_loop_over_the_examples(ask, world, feature, part):
    answer = ask(world, KIT, "confounded", top_k=100)
    activation = np.asarray(world.activations(feature["confounded"]), float)
    expected = part_means(world, activation, part)
    rows = answer.rows(f"{part}_stats")
    assert {row["name"] for row in rows} == set(expected)
    for row in rows:
        mean, n, n_weapons = expected[row["name"]]
        own = activation[[getattr(world.weapons.facts[w], part) == row["name"] for w in world.data.weapon]]
        assert (row["n"], row["n_weapons"], row["n_active"]) == (n, n_weapons, int((own > 0).sum()))
        assert row["mean_activation"] == pytest.approx(mean, rel=1e-6)
        assert row["delta_from_global"] == pytest.approx(mean - activation.mean(), rel=1e-6)
        assert row["std"] == pytest.approx(own.std(ddof=1), rel=1e-6)


def test_a_special_that_drives_the_feature_is_named_with_its_contrast_within_main_weapons(ask, world):
    answer = ask(world, KIT, "special")
    assert answer.headline.startswith("special Triple Inkstrike goes with feature")
    assert "CORRELATIONAL" in answer.headline
    row = answer.rows("special_stats")[0]
    share = float(np.isin(world.data.weapon, [world.weapons.resolve(kit) for kit in DRIVEN]).mean())
    assert row["name"] == "Triple Inkstrike"
    assert row["delta_from_global"] == pytest.approx(2.0 * (1 - share))
    assert row["within_main_delta"] == pytest.approx(2.0)
    assert row["status"] == "present"
    assert row["separable"] is True
    assert row["delta_adjusted"] == pytest.approx(row["delta_from_global"], rel=0.02)
    assert answer.custom["verdict"] == "present"
    assert answer.custom["acting_parts"] == ["special Triple Inkstrike"]
    assert answer.custom["specificity_p"] <= 0.05
    assert answer.findings.followups[0].spec["variables"]["method"] == "interventional"


def test_a_sub_that_drives_the_feature_is_named(ask, world):
    answer = ask(world, KIT, "sub")
    assert answer.headline.startswith(f"sub {WEAPONS[40].sub} goes with feature")
    assert answer.custom["top_sub"] == WEAPONS[40].sub
    assert answer.custom["top_sub_mean"] == pytest.approx(1.8)


@pytest.mark.parametrize("method", ["observational", "interventional"])
def test_a_single_weapon_is_never_called_a_sub_or_special(ask, world, method):
    answer = ask(world, KIT, "weapon", method=method)
    assert answer.headline.startswith("nothing")
    assert answer.custom["verdict"] == "nothing_specific"
    assert answer.custom["acting_parts"] == []
    row = answer.row("special_stats", name=WEAPONS[11].special)
    assert row["n_weapons"] == 1
    assert row["separable"] is False
    assert row["status"] is row["ci_low"] is row["std_error"] is row["q_value"] is None
    assert "not separable from it" in row["reason"]


@pytest.mark.parametrize("name", ["random_0", "random_1", "confounded", "threshold", "constant", "dose"])
def test_where_no_part_drives_the_feature_nothing_is_found(ask, world, name):
    answer = ask(world, KIT, name)
    assert answer.headline.startswith("nothing")
    assert answer.custom["verdict"] == "nothing_specific"
    assert answer.findings.followups == []


def test_a_dead_feature_and_a_slice_without_an_active_example_say_so(ask, world):
    dead = ask(world, KIT, "dead")
    assert dead.findings.findings[0].status == "dead"
    quiet = ask(world, KIT, "special", slice={"weapon_exclude": list(DRIVEN)})
    assert quiet.headline.startswith("nothing found: none of the")
    for answer in (dead, quiet):
        assert [table.name for table in answer.findings.tables] == ["sub_stats", "special_stats", "combo_stats"]
        assert all(table.rows == [] and table.notes for table in answer.findings.tables)


def test_combinations_are_empty_with_a_note_until_they_are_asked_for(ask, world):
    plain, asked = ask(world, KIT, "special"), ask(world, KIT, "special", analyze_combinations=True, top_k=100)
    table = next(table for table in plain.findings.tables if table.name == "combo_stats")
    assert table.rows == []
    assert "analyze_combinations" in table.notes[0]
    assert plain.custom["top_combo"] is None
    names = {f"{kit.sub} + {kit.special}" for kit in world.weapons.facts}
    assert {row["name"] for row in asked.rows("combo_stats")} == names
    assert "Triple Inkstrike" in asked.custom["top_combo"]
    assert asked.headline == plain.headline


def test_top_k_limits_the_rows_and_min_examples_the_ranking(ask, world):
    answer = ask(world, KIT, "special", top_k=3)
    assert len(answer.rows("sub_stats")) == 3
    assert any("3 of 14" in note for note in answer.findings.tables[0].notes)
    sizes = {row["name"]: row["n"] for row in ask(world, KIT, "special", top_k=100).rows("special_stats")}
    bound = sizes["Triple Inkstrike"] + 1
    assert ask(world, KIT, "special", min_examples=bound).custom["top_special"] != "Triple Inkstrike"


def test_weapons_outside_the_table_are_a_group_of_their_own_and_warned_about(ask, tmp_path, make_world):
    ctx, _ = make_world(tmp_path / "outside", n_builds=400, weapons=(*tuple(WEAPONS)[:22], 9998, 9999))
    answer = ask(ctx, KIT, "weapon", top_k=100)
    for table in ("sub_stats", "special_stats"):
        row = answer.rows(table)[-1]
        assert (row["name"], row["n_weapons"], row["status"]) == ("unknown", 2, None)
        assert "outside the project's table" in row["reason"]
    assert answer.custom["n_unknown_weapons"] == 2
    assert any("outside the project's table" in warning for warning in answer.job.warnings)


def test_the_same_spec_gives_the_same_numbers(ask, world):
    first, again = ask(world, KIT, "confounded", top_k=100), ask(world, KIT, "confounded", top_k=100)
    assert [table.rows for table in first.findings.tables] == [table.rows for table in again.findings.tables]


def test_without_pooled_vectors_specificity_is_unknown_with_a_reason(ask, world, monkeypatch):
    monkeypatch.setattr(world, "random_directions", lambda: None)
    answer = ask(world, KIT, "special")
    assert answer.custom["specificity_p"] is None
    assert "unknown" in answer.custom["specificity_reason"]
    assert answer.custom["verdict"] == "present"


# -- interventions ----------------------------------------------------------------------------------------------------


def test_swapped_kits_have_the_effect_of_their_special_against_the_mean_over_weapons(ask, world):
    answer = ask(world, KIT, "special", method="interventional", top_k=100, slice={"sample_size": 80})
    k = len(world.weapons)
    row = answer.row("special_effects", name="Triple Inkstrike")
    assert row["mean_delta"] == pytest.approx(2.0 - 6.0 / k)
    assert row["within_main_delta"] == pytest.approx(2.0)
    assert row["separable"] is True
    assert row["deal_p"] < 0.01
    assert row["n_weapons"] == 3
    assert answer.row("special_effects", name="Killer Wail 5.1")["mean_delta"] == pytest.approx(-6.0 / k)
    assert answer.headline.startswith("special Triple Inkstrike drives feature")
    assert "80 contexts" in answer.headline
    assert answer.custom["verdict"] == "present"
    assert answer.findings.findings[0].relation.startswith("raises")


def test_the_effect_of_every_part_equals_a_loop_over_its_kits_on_each_context(ask, world, feature):
    answer = ask(world, KIT, "modulated", method="interventional", top_k=100, slice={"sample_size": 60})
    population = world.population(
        parse_spec({"type": KIT, "feature_id": 0, "dataset_slice": {"sample_size": 60}}).dataset_slice,
        feature["modulated"],
    )
    sets = world.sets(population.rows)
    by_weapon = [
        world.evaluate(sets.with_weapon(weapon), feature["modulated"]).activation
        for weapon in range(len(world.weapons))
    ]
    for part in ("sub", "special"):
        for row in answer.rows(f"{part}_effects"):
            own = [
                a for a, kit in zip(by_weapon, world.weapons.facts, strict=True) if getattr(kit, part) == row["name"]
            ]
            d = np.mean(own, axis=0) - np.mean(by_weapon, axis=0)
            assert row["mean_delta"] == pytest.approx(float(d.mean()), abs=1e-6)


def test_a_part_whose_kits_favour_the_ability_does_nothing_when_swapped_in(ask, world):
    answer = ask(world, KIT, "confounded", method="interventional", top_k=100)
    assert all(row["mean_delta"] == 0.0 for row in answer.rows("sub_effects"))
    assert any(abs(row["observational_delta"]) > 0.5 for row in answer.rows("sub_effects"))
    assert answer.headline.startswith("nothing above")


def test_a_constant_feature_does_not_depend_on_the_kit(ask, world):
    answer = ask(world, KIT, "constant", method="interventional", slice={"sample_size": 100})
    assert answer.headline.startswith("nothing above")


def test_the_plan_announces_the_passes_the_run_makes(fresh_world):
    ctx, _ = fresh_world
    fields = {
        "type": KIT,
        "feature_id": 7,
        "variables": {"method": "interventional"},
        "dataset_slice": {"sample_size": 40},
    }
    announced, job = find(KIT).plan(parse_spec(fields), ctx), Job()
    find(KIT).run(parse_spec(fields), ctx, job)
    assert announced.forward_passes == job.passes_made > 0
    again = Job()
    find(KIT).run(parse_spec(fields | {"variables": {"method": "interventional", "top_k": 3}}), ctx, again)
    assert again.passes_made == 0


def test_requests_that_cannot_be_met_are_refused_before_anything_runs(ask, world):
    with pytest.raises(EmptySliceError, match=r"fewer than two weapons.*Nothing was run"):
        ask(world, KIT, "weapon", method="interventional", slice={"weapon_filter": [11]})
    for given in ({"min_examples": 0}, {"top_k": 0}, {"method": "causal"}, {"combos": True}):
        with pytest.raises(RequestError, match="Nothing was run"):
            ask(world, KIT, "weapon", **given)


def test_one_weapon_alone_has_nothing_to_be_compared_with(ask, world):
    answer = ask(world, KIT, "weapon", slice={"weapon_filter": [11]})
    assert answer.headline.startswith("nothing can be said")
    row = answer.rows("sub_stats")[0]
    assert row["delta_from_global"] is row["delta_adjusted"] is row["ci_low"] is row["separable"] is None
    assert "nothing to compare it with" in row["reason"]
    assert answer.custom["top_sub_delta"] is answer.findings.aggregates.mean_delta is None
    assert "nothing to compare it with" in answer.custom["top_sub_reason"]


def test_a_sub_that_every_weapon_swapped_in_has_gets_no_effect(ask, world):
    same = [k for k in WORLD if WEAPONS[k].sub == WEAPONS[40].sub]
    answer = ask(world, KIT, "special", method="interventional", slice={"weapon_filter": same, "sample_size": 40})
    assert len(same) > 1
    assert answer.rows("sub_effects") == []
    assert answer.custom["top_sub_delta"] is None
    assert "every weapon swapped in has it" in answer.custom["top_sub_reason"]
    assert {row["name"] for row in answer.rows("special_effects")} == {WEAPONS[k].special for k in same}


def test_subs_and_specials_that_never_leave_the_floor_are_counted_and_dropped_when_listed(ask, world):
    weapon = np.asarray(world.data.weapon)
    active = {getattr(WEAPONS[k], part) for k in DRIVEN for part in ("sub", "special")}
    silent = [i for i, k in enumerate(WORLD) if not {WEAPONS[k].sub, WEAPONS[k].special} <= active]
    plain, listed = ask(world, KIT, "special", top_k=100), ask(world, KIT, "special", top_k=100, constraints=GATED)
    counted = plain.findings.diagnostics.constraint_violations[0]
    assert (counted.contexts, counted.hard) == (int(np.isin(weapon, silent).sum()), False)
    assert listed.findings.diagnostics.constraint_violations[0].hard is True
    for table in ("sub_stats", "special_stats"):
        assert {row["name"] for row in plain.rows(table)} > {row["name"] for row in listed.rows(table)}
        assert {row["name"] for row in listed.rows(table)} <= active
    notes = next(table.notes for table in listed.findings.tables if table.name == "special_stats")
    assert any("specials dropped: never active" in note for note in notes)
    quiet = ask(world, KIT, "special", slice={"weapon_exclude": list(DRIVEN)})
    assert quiet.findings.diagnostics.constraint_violations[0].contexts == quiet.findings.aggregates.n_samples


def test_where_every_part_swapped_in_stays_on_the_floor_nothing_can_be_said(ask, world):
    given = {"method": "interventional", "slice": {"weapon_exclude": list(DRIVEN), "sample_size": 50}}
    plain, listed = ask(world, KIT, "special", **given), ask(world, KIT, "special", **given, constraints=GATED)
    assert plain.headline.startswith("nothing above")
    counted = {each.id: each.contexts for each in plain.findings.diagnostics.constraint_violations}
    assert counted["no_weapon_gating_if_relu_floor"] == 50
    assert listed.headline.startswith("nothing can be said: no sub or special is left to compare")
    assert listed.custom["top_sub"] is listed.custom["top_special_delta"] is listed.custom["winner_confirmed"] is None
    assert "dropped" in listed.custom["top_sub_reason"]
    assert all(not table.rows and table.notes for table in listed.findings.tables)


def test_a_special_that_drives_the_feature_is_confirmed_on_the_other_half_of_the_contexts(ask, world):
    given = {"method": "interventional", "slice": {"sample_size": 60}}
    assert ask(world, KIT, "special", **given).custom["winner_confirmed"] is True
    assert ask(world, KIT, "constant", **given).custom["winner_confirmed"] is None


# -- the demo network -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return load_context("demo", home=tmp_path_factory.mktemp("home"), device="cpu")


def test_the_planted_special_is_found_in_the_data_and_in_the_network(ask, demo):
    seen = ask(demo, KIT, 7)
    assert seen.headline.startswith("special Crab Tank goes with feature 7")
    assert seen.custom["top_special"] == "Crab Tank"
    done = ask(demo, KIT, 7, method="interventional", slice={"sample_size": 30})
    assert done.headline.startswith("special Crab Tank drives feature 7")
    assert done.custom["acting_parts"] == ["special Crab Tank"]
    row = done.rows("special_effects")[0]
    crabs = sum(kit.special == "Crab Tank" for kit in demo.weapons.facts)
    assert row["mean_delta"] == pytest.approx(1.8 * (1 - crabs / len(demo.weapons)), rel=0.03)
    assert row["within_main_delta"] == pytest.approx(1.8, rel=0.03)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(("number", "size", "given"), [(247, 15, {"min_examples": 1}), (235, 40, {})])
def test_a_slice_too_small_to_hold_abilities_fixed_has_no_adjusted_delta_and_says_why(ask, demo, number, size, given):
    answer = ask(demo, KIT, number, slice={"sample_size": size}, top_k=100, **given)
    rows = answer.rows("sub_stats") + answer.rows("special_stats")
    assert sum(row["n"] for row in rows) == 2 * size
    assert all(row["delta_adjusted"] is None and "do not tell" in row["reason"] for row in rows)
    assert answer.headline.startswith("nothing can be said")


def test_parts_swapped_in_that_never_leave_the_floor_are_those_whose_every_kit_stays_there(ask, demo):
    ids = [221, 5040, 2041, 6001]
    given = {"method": "interventional", "slice": {"weapon_filter": ids}}
    plain, listed = ask(demo, KIT, 235, **given), ask(demo, KIT, 235, **given, constraints=GATED)
    weapons = ask(demo, "weapon_sweep", 235, **given, constraints=GATED).rows("weapon_effects")
    active = [WEAPONS[row["weapon_id"]] for row in weapons]
    for part in ("sub", "special"):
        shown = {row["name"] for row in listed.rows(f"{part}_effects")}
        assert shown == {getattr(kit, part) for kit in active}
        assert shown < {row["name"] for row in plain.rows(f"{part}_effects")}
    assert plain.findings.diagnostics.constraint_violations[0].contexts == 500
    assert listed.custom["n_dropped_parts"] == 4
    assert "4 parts dropped" in listed.headline


def test_the_planted_weapon_carries_its_sub_and_special_and_is_named(ask, demo):
    name = WEAPONS[40].name
    for given in ({}, {"method": "interventional", "slice": {"sample_size": 30}}):
        answer = ask(demo, KIT, 8, **given)
        assert answer.headline.startswith("nothing specific to a sub or special found")
        assert f"carried by one weapon: without {name}" in answer.headline
        assert answer.custom["carried_by"] == name
        assert answer.custom["acting_parts"] == []
        assert answer.findings.followups[0].spec["type"] == "weapon_sweep"
    row = ask(demo, KIT, 8).row("special_stats", name=WEAPONS[40].special)
    assert row["separable"] is False
    assert abs(row["delta_without_strongest"]) < 0.05
    assert row["within_main_low"] < 0.0 < row["within_main_high"]


def test_parts_whose_kits_favour_the_driving_ability_lose_most_of_it_with_abilities_held_fixed(ask, demo):
    answer = ask(demo, KIT, 9, top_k=100)
    assert answer.custom["verdict"] == "nothing_specific"
    tempting = [row for row in answer.rows("sub_stats") if (row["q_value"] or 1) <= 0.05]
    assert tempting
    for row in tempting:
        assert abs(row["delta_adjusted"]) < 0.2 * row["delta_from_global"]


@pytest.mark.parametrize("direction", [13, 14, 15])
def test_random_directions_of_the_demo_get_nothing(ask, demo, direction):
    for given in ({}, {"method": "interventional", "slice": {"sample_size": 30, "random_seed": 1}}):
        answer = ask(demo, KIT, direction, **given)
        assert answer.headline.startswith("nothing")
        assert answer.custom["verdict"] == "nothing_specific"
