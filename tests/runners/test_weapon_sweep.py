"""The weapon sweep against rules whose answers can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from mechinterp_runner.context.bundle import Bundle
from mechinterp_runner.context.context import Context
from mechinterp_runner.context.contexts import load_context
from mechinterp_runner.schemas.catalogue import find
from mechinterp_runner.schemas.errors import EmptySliceError, RequestError
from mechinterp_runner.schemas.facts import WEAPONS
from mechinterp_runner.schemas.job import Job
from mechinterp_runner.schemas.spec import parse_spec

SWEEP = "weapon_sweep"
WORLD = (0, 1, 10, 11, 20, 21, 30, 31, 40, 41, 50, 51, 60, 61, 70, 71, 80, 81, 90, 91, 100, 101, 3000, 3010)
"""Kits of the world, in the order of its vocabulary."""
NAME = {weapon: WEAPONS[weapon].name for weapon in (11, 21, 41)}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return load_context("demo", home=tmp_path_factory.mktemp("home"), device="cpu")


def test_a_single_weapon_that_drives_the_feature_is_dominant_and_its_kit_is_recommended(ask, world):
    answer = ask(world, SWEEP, "weapon")
    assert answer.custom["top_weapon"] == NAME[11]
    assert answer.custom["dominant_weapon_detected"] is True
    assert answer.custom["recommended_followup"] == "kit_sweep"
    assert any(warning.startswith(f"DOMINANT WEAPON {NAME[11]}") for warning in answer.job.warnings)
    assert answer.findings.followups[0].spec["type"] == "kit_sweep"
    assert "CORRELATIONAL" in answer.headline


def test_means_and_deltas_equal_plain_averages_over_the_examples(ask, world, feature):
    answer = ask(world, SWEEP, "confounded", top_k_weapons=100)
    activation, weapon = world.activations(feature["confounded"]), np.asarray(world.data.weapon)
    assert len(answer.rows("weapon_stats")) == len(world.weapons)
    for row in answer.rows("weapon_stats"):
        own = activation[weapon == world.weapons.weapon_ids.index(row["weapon_id"])]
        assert row["n"] == len(own)
        assert row["mean_activation"] == pytest.approx(float(own.mean()), rel=1e-5)
        assert row["delta_from_global"] == pytest.approx(float(own.mean() - activation.mean()), rel=1e-4, abs=1e-6)


def test_a_weapon_that_only_favours_the_ability_stands_out_and_vanishes_when_adjusted(ask, world):
    answer = ask(world, SWEEP, "confounded")
    row = answer.rows("weapon_stats")[0]
    assert row["weapon_name"] == NAME[11]
    assert row["status"] == "present"
    assert abs(row["delta_adjusted"]) < 0.1 * row["delta_from_global"]
    assert row["adjusted_low"] <= row["delta_adjusted"] <= row["adjusted_high"]
    assert any(spec.spec["variables"].get("method") == "interventional" for spec in answer.findings.followups)


def test_swapping_in_the_favoured_weapon_does_nothing(ask, world):
    answer = ask(world, SWEEP, "confounded", method="interventional")
    row = answer.row("weapon_effects", weapon_name=NAME[11])
    assert row["mean_delta"] == 0.0
    assert row["observational_delta"] > 0.5
    assert answer.custom["acting_weapons"] == []
    assert answer.headline.startswith("nothing above")


def test_swapping_in_the_causal_weapon_has_its_effect_against_the_mean_over_weapons(ask, world):
    answer = ask(world, SWEEP, "weapon", method="interventional")
    k = len(world.weapons)
    assert answer.custom["acting_weapons"][0] == NAME[11]
    assert answer.row("weapon_effects", weapon_name=NAME[11])["mean_delta"] == pytest.approx(2.0 - 2.0 / k)
    assert answer.row("weapon_effects", weapon_name=NAME[21])["mean_delta"] == pytest.approx(-2.0 / k)
    assert answer.custom["verdict"] == "present"


def test_dominance_does_not_fire_when_activations_are_shuffled_over_the_examples(ask, world, feature):
    fired = 0
    for seed in range(12):
        shuffled = _shuffled(world, feature["weapon"], seed)
        fired += bool(ask(shuffled, SWEEP, "weapon").custom["dominant_weapon_detected"])
    assert fired <= 1


def _shuffled(world: Context, column: int, seed: int) -> Context:
    """The same world, with one feature's activations permuted over the builds."""
    ctx = Context("shuffled", Bundle.open(world.bundle.path), oracle=world.oracle)
    values = np.array(world.activations(column))
    builds = np.random.default_rng(seed).permutation(len(values) // 2)
    permuted = values.reshape(-1, 2)[builds].ravel()
    ctx._columns[column] = permuted
    return ctx


def test_weapons_that_share_a_special_recommend_the_kit_sweep_even_without_dominance(ask, world):
    answer = ask(world, SWEEP, "special")
    assert WEAPONS[41].special == WEAPONS[21].special == WEAPONS[3000].special == "Triple Inkstrike"
    assert answer.custom["dominant_weapon_detected"] is False
    assert answer.custom["shared_part"] == "special: Triple Inkstrike"
    assert answer.custom["recommended_followup"] == "kit_sweep"


def test_a_condition_restricts_the_examples_to_those_that_hold_the_family(ask, world, feature):
    answer = ask(world, SWEEP, "threshold", condition_family="special_charge_up", condition_rung=29)
    levels = world.data.levels[:, world.vocabulary.family_index["special_charge_up"]]
    assert answer.findings.aggregates.n_samples == int((levels >= 29).sum())
    assert "holding at least special_charge_up at 29 AP" in answer.headline


def test_a_condition_is_written_into_the_contexts_of_an_intervention(ask, world):
    plain = ask(world, SWEEP, "threshold", method="interventional", slice={"sample_size": 60})
    held = ask(
        world,
        SWEEP,
        "threshold",
        method="interventional",
        condition_family="special_charge_up",
        condition_rung=29,
        slice={"sample_size": 60},
    )
    assert held.rows("weapon_effects")[0]["mean_activation"] == pytest.approx(1.5)
    assert plain.rows("weapon_effects")[0]["mean_activation"] < 0.5


def test_a_rung_without_its_family_is_an_error():
    with pytest.raises(RequestError, match="condition_rung needs condition_family"):
        parse_spec({"type": SWEEP, "feature_id": 0, "variables": {"condition_rung": 29}})


def test_weapons_below_min_examples_are_left_out_of_rankings_but_not_of_the_mean(ask, world):
    counts = np.bincount(world.data.weapon)
    bound = int(np.sort(counts)[-3])
    answer = ask(world, SWEEP, "weapon", min_examples=bound)
    assert answer.custom["n_weapons"] == int((counts >= bound).sum())
    assert answer.findings.aggregates.n_samples == len(world.data)


def test_top_k_limits_the_rows_and_the_table_says_so(ask, world):
    answer = ask(world, SWEEP, "weapon", top_k_weapons=3)
    assert len(answer.rows("weapon_stats")) == 3
    table = next(table for table in answer.findings.tables if table.name == "weapon_stats")
    assert any("3 of 24" in note for note in table.notes)
    assert answer.custom["n_weapons"] == 24


def test_a_weapon_outside_the_table_is_shown_by_its_token_and_warned_about(ask, tmp_path, make_world):
    ctx, _ = make_world(tmp_path / "outside", n_builds=300, weapons=(*tuple(WEAPONS)[:23], 9999))
    answer = ask(ctx, SWEEP, "weapon", top_k_weapons=100)
    row = answer.row("weapon_stats", weapon_id=9999)
    assert (row["weapon_name"], row["weapon_class"]) == ("weapon_id_9999", "unknown")
    assert answer.custom["n_unknown_weapons"] == 1
    assert any("outside the project's table" in warning for warning in answer.job.warnings)


def test_weapons_that_never_leave_the_floor_are_counted_and_dropped_when_listed(ask, world):
    counted = ask(world, SWEEP, "weapon", top_k_weapons=100)
    listed = ["one_rung_per_family", "no_weapon_gating_if_relu_floor"]
    dropped = ask(world, SWEEP, "weapon", top_k_weapons=100, constraints=listed)
    assert len(counted.rows("weapon_stats")) == 24
    assert [row["weapon_name"] for row in dropped.rows("weapon_stats")] == [NAME[11]]
    assert counted.findings.diagnostics.constraint_violations[0].hard is False


def test_weapon_filters_change_the_population(ask, world):
    answer = ask(world, SWEEP, "weapon", slice={"weapon_exclude": [NAME[11], 21, "weapon_id_41"]})
    assert answer.findings.aggregates.n_samples == int((~np.isin(world.data.weapon, [3, 5, 9])).sum())
    assert answer.custom["top_weapon_mean"] is None


GATED = ["one_rung_per_family", "no_weapon_gating_if_relu_floor"]
NULLS = (
    "top_weapon", "top_weapon_id", "top_weapon_mean", "top_weapon_delta", "top_weapon_delta_adjusted", "bottom_weapon",
    "weapon_range", "dominant_weapon_ratio", "recommended_followup", "winner_confirmed",
)  # fmt: skip


@pytest.mark.parametrize("constraints", [["one_rung_per_family"], GATED])
def test_a_slice_without_an_active_example_has_nulls_and_a_reason_and_its_silent_weapons_counted(
    ask, world, constraints
):
    answer = ask(world, SWEEP, "weapon", slice={"weapon_exclude": [11]}, constraints=constraints)
    assert answer.headline.startswith("nothing found: none of the")
    assert all(answer.custom[name] is None for name in NULLS)
    assert all(table.rows == [] and table.notes for table in answer.findings.tables)
    counted = answer.findings.diagnostics.constraint_violations[0]
    assert counted.contexts == int((np.asarray(world.data.weapon) != WORLD.index(11)).sum())
    assert counted.hard is (constraints == GATED)


def test_examples_that_meet_a_condition_and_are_all_inactive_give_nothing(ask, world):
    answer = ask(world, SWEEP, "threshold", condition_family="haunt", slice={"family_filter": ["haunt"]})
    assert answer.custom["top_weapon"] is not None
    held = {"condition_family": "tenacity", "slice": {"family_filter": ["comeback"]}}
    with pytest.raises(EmptySliceError, match="holds tenacity"):
        ask(world, SWEEP, "main_only", **held)
    answer = ask(world, SWEEP, "main_only", condition_family="tenacity")
    assert answer.headline.startswith("nothing found: none of the")
    assert "holding at least tenacity" in answer.headline


def test_a_ranking_that_gating_empties_says_so_and_keeps_its_keys(ask, world):
    counts = np.bincount(world.data.weapon)
    others = [each for each in range(len(counts)) if counts[each] > counts[WORLD.index(11)]]
    kept = [11, *(WORLD[each] for each in others)]
    least = int(counts[WORLD.index(11)]) + 1
    answer = ask(world, SWEEP, "weapon", min_examples=least, slice={"weapon_filter": kept}, constraints=GATED)
    assert f"{len(others)} weapons with {least} examples never activate it and are dropped" in answer.headline
    assert all(answer.custom[name] is None for name in NULLS)
    table = next(table for table in answer.findings.tables if table.name == "weapon_stats")
    assert any(note.startswith(f"{len(others)} weapons dropped") for note in table.notes)
    few = ask(world, SWEEP, "weapon", min_examples=10_000)
    assert few.headline.startswith("nothing can be said: no weapon has 10000 examples")
    assert all(few.custom[name] is None for name in NULLS)


def test_where_no_weapon_has_a_verdict_none_is_said_to_differ_most(ask, world):
    answer = ask(world, SWEEP, "dose", min_examples=3, slice={"sample_size": 100})
    assert answer.headline.startswith("nothing can be said: no weapon has 20 examples in 10 builds")
    assert answer.findings.findings == []
    assert answer.custom["winner_confirmed"] is None
    seen = ask(world, SWEEP, "dose")
    row = max(seen.rows("weapon_stats"), key=lambda row: abs(row["delta_from_global"]))
    assert f"{row['weapon_name']} most ({row['delta_from_global']:+.2f} [{row['sim_low']:.2f}, " in seen.headline


def test_one_weapon_alone_is_compared_with_nothing(ask, world):
    answer = ask(world, SWEEP, "dose", slice={"weapon_filter": [40]})
    assert answer.headline.startswith("nothing can be said")
    assert answer.findings.aggregates.mean_delta is answer.custom["top_weapon_delta"] is None
    assert answer.custom["weapon_range"] is answer.custom["bottom_weapon"] is None
    for row in (answer.rows("weapon_stats")[0], answer.rows("class_stats")[0]):
        assert row["delta_from_global"] is row.get("delta_adjusted") is row["q_value"] is None
        assert "nothing to compare it with" in row["reason"]


def test_the_weapon_that_drives_the_feature_is_confirmed_on_the_other_half_of_the_builds(ask, world):
    assert ask(world, SWEEP, "weapon").custom["winner_confirmed"] is True
    unclear = ask(world, SWEEP, "dose").custom
    assert unclear["winner_confirmed"] is None
    assert unclear["winner_confirmed_reason"] == "no weapon stands out"


def test_weapons_swapped_in_that_never_leave_the_floor_are_dropped_before_anything_is_ranked(ask, demo):
    ids = [221, 5040, 2041, 6001]
    given = {"method": "interventional", "slice": {"weapon_filter": ids}}
    counted, dropped = ask(demo, SWEEP, 235, **given), ask(demo, SWEEP, 235, **given, constraints=GATED)
    rows = np.flatnonzero(np.isin(demo.data.weapon, [demo.weapons.resolve(each) for each in ids]))
    rows = np.sort(np.random.default_rng(0).choice(rows, 200, replace=False))
    pre = {each: demo.evaluate(demo.sets(rows).with_weapon(demo.weapons.resolve(each)), 235).pre for each in ids}
    assert demo.evaluate(demo.sets(rows), 235).pre.max() <= 0
    never = {WEAPONS[each].name for each in ids if pre[each].max() <= 0}
    shown = {row["weapon_name"] for row in dropped.rows("weapon_effects")}
    assert 0 < len(shown) < 4
    assert {WEAPONS[each].name for each in ids} - never <= shown
    assert shown & {counted.custom["bottom_weapon"]} == set()
    assert (counted.custom["n_weapons"], dropped.custom["n_weapons"]) == (4, len(shown))
    assert dropped.custom["n_dropped_weapons"] == 4 - len(shown)
    assert dropped.custom["bottom_weapon"] is None
    notes = dropped.findings.tables[-1].notes
    assert any(f"{4 - len(shown)} weapons dropped" in note for note in notes)
    assert not any("largest effects" in note for note in notes)
    kept = counted.row("weapon_effects", weapon_name=next(iter(shown)))
    assert dropped.rows("weapon_effects")[0]["mean_delta"] == pytest.approx(kept["mean_delta"])


def test_where_every_weapon_swapped_in_stays_on_the_floor_nothing_can_be_said(ask, world):
    given = {"method": "interventional", "slice": {"weapon_exclude": [11], "sample_size": 50}}
    answer = ask(world, SWEEP, "weapon", **given, constraints=GATED)
    assert answer.headline.startswith("nothing can be said: each of the 23 weapons swapped in was dropped")
    assert answer.rows("weapon_effects") == []
    assert answer.custom["top_weapon"] is answer.custom["weapon_range"] is None
    plain = ask(world, SWEEP, "weapon", **given)
    assert plain.headline.startswith("nothing above")
    assert plain.custom["n_weapons"] == 23


def test_a_condition_that_no_example_holds_is_written_in_all_the_same(ask, world):
    given = {"condition_family": "special_charge_up", "condition_rung": 57, "slice": {"weapon_filter": [40, 41]}}
    answer = ask(world, SWEEP, "threshold", method="interventional", **given)
    assert [row["mean_activation"] for row in answer.rows("weapon_effects")] == pytest.approx([1.5, 1.5])
    assert all(row["observational_delta"] is None for row in answer.rows("weapon_effects"))
    assert any("no example of the slice holds the condition" in note for note in answer.findings.tables[-1].notes)
    assert answer.rows("weapon_stats") == []
    with pytest.raises(EmptySliceError, match=r"holds special_charge_up at 57 AP.*Nothing was run"):
        ask(world, SWEEP, "threshold", **given)


def test_one_weapon_alone_cannot_be_swapped(ask, world):
    with pytest.raises(EmptySliceError, match="fewer than two weapons"):
        ask(world, SWEEP, "weapon", method="interventional", slice={"weapon_filter": [40]})


def test_a_constant_feature_gives_nothing_in_either_method(ask, world):
    for method, contexts in (("observational", 2000), ("interventional", 200)):
        answer = ask(world, SWEEP, "constant", method=method, slice={"sample_size": contexts})
        assert answer.headline.startswith("nothing above")


def test_a_dead_feature_succeeds_with_nulls_and_a_reason(ask, world):
    answer = ask(world, SWEEP, "dead")
    assert answer.findings.findings[0].status == "dead"
    assert answer.rows("weapon_stats") == []


def test_the_plan_announces_the_passes_the_run_makes(fresh_world):
    ctx, _ = fresh_world
    fields = {
        "type": SWEEP,
        "feature_id": 0,
        "variables": {"method": "interventional"},
        "dataset_slice": {"sample_size": 40},
    }
    announced, job = find(SWEEP).plan(parse_spec(fields), ctx), Job()
    find(SWEEP).run(parse_spec(fields), ctx, job)
    assert announced.forward_passes == job.passes_made > 0


def test_classes_are_averages_over_their_examples(ask, world, feature):
    answer = ask(world, SWEEP, "weapon")
    activation = world.activations(feature["weapon"])
    classes = np.array([kit.weapon_class for kit in world.weapons.facts])[np.asarray(world.data.weapon)]
    for row in answer.rows("class_stats"):
        assert row["mean_activation"] == pytest.approx(
            float(activation[classes == row["weapon_class"]].mean()), rel=1e-5
        )


@pytest.mark.parametrize("name", ["random_0", "random_1", "and", "suppressed"])
def test_where_no_weapon_drives_the_feature_nothing_is_found_and_nothing_recommended(ask, world, name):
    answer = ask(world, SWEEP, name)
    assert answer.headline.startswith("nothing")
    assert answer.custom["verdict"] == "nothing_specific"
    assert answer.custom["dominant_weapon_detected"] is False
    assert answer.custom["recommended_followup"] is None
    assert answer.findings.followups == []
    assert not any(warning.startswith("DOMINANT") for warning in answer.job.warnings)


def test_the_specificity_of_the_data_is_the_share_of_random_directions_whose_weapons_differ_as_much(
    ask, world, feature
):
    answer = ask(world, SWEEP, "special")
    column = feature["special"]
    weapon, pooled = np.asarray(world.data.weapon), world.pooled_of(np.arange(len(world.data)))
    matched = world.random_directions().matched(world.active_rate(column), world.effective_max(column))

    def largest(activation):
        means = [activation[weapon == each].mean(axis=0) for each in range(len(world.weapons))]
        return np.abs(np.array(means) - activation.mean(axis=0)).max(axis=0)

    null, observed = largest(matched.activation(pooled)), largest(world.activations(column))
    assert answer.custom["specificity_p"] == pytest.approx((1 + (null >= observed).sum()) / (1 + len(null)))
    assert answer.custom["verdict"] == "present"


def test_weapons_that_are_merely_below_a_few_high_ones_do_not_stand_out(ask, world):
    answer = ask(world, SWEEP, "special", top_k_weapons=100)
    below = [row for row in answer.rows("weapon_stats") if row["status"] == "present" and row["delta_from_global"] < 0]
    assert below
    assert "and 2 more weapons stand out" in answer.headline


def test_a_certain_difference_that_random_directions_have_too_is_nothing_specific(ask, world, monkeypatch):
    monkeypatch.setattr("mechinterp_runner.runners.parts.weapons.observed.observed_specificity", lambda *_: 0.4)
    answer = ask(world, SWEEP, "weapon")
    assert answer.headline.startswith(f"nothing specific found: {NAME[11]}")
    assert "p = 0.4" in answer.headline
    assert answer.custom["verdict"] == "nothing_specific"
    assert answer.custom["dominant_weapon_detected"] is False
    assert answer.custom["shared_part"] is None
    assert answer.findings.followups == []


def test_without_pooled_vectors_specificity_is_unknown_with_a_reason(ask, world, monkeypatch):
    monkeypatch.setattr(world, "random_directions", lambda: None)
    answer = ask(world, SWEEP, "weapon")
    assert answer.custom["specificity_p"] is None
    assert "unknown" in answer.custom["specificity_reason"]
    assert answer.custom["dominant_weapon_detected"] is True


@pytest.mark.parametrize("method", ["observational", "interventional"])
def test_both_methods_give_a_verdict_and_a_specificity(ask, world, method):
    answer = ask(world, SWEEP, "weapon", method=method, slice={"sample_size": 900})
    assert answer.custom["verdict"] == "present"
    assert 0 < answer.custom["specificity_p"] <= 0.05
