"""The experiments on the demo bundle must find what was planted in its network, and nothing where nothing was."""

from __future__ import annotations

import numpy as np
import pytest
from mechinterp_runner.context.contexts import load_context
from mechinterp_runner.schemas.facts import WEAPONS

SWEEP, CORES, WEAPON_SWEEP = "family_1d_sweep", "minimal_cores", "weapon_sweep"
RANDOM, DEAD = (13, 14, 15), (16, 17)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return load_context("demo", home=tmp_path_factory.mktemp("home"), device="cpu")


@pytest.mark.parametrize(
    ("feature", "family", "threshold", "height"),
    [
        (0, "special_charge_up", 29, 2.0),
        (9, "ink_saver_sub", 6, 2.0),
        (12, "intensify_action", 12, 1.7),
    ],
)
def test_a_planted_threshold_is_found_at_its_rung_with_its_sign_and_height(
    ask, demo, feature, family, threshold, height
):
    answer = ask(demo, SWEEP, feature, family=family)
    assert answer.custom["shape"] == "step"
    assert answer.custom["threshold_rung"] == threshold
    assert answer.custom["verdict"] == "present"
    assert answer.custom["specificity_p"] <= 0.05
    assert answer.row("rung_deltas", rung=57)["mean_delta"] == pytest.approx(height, rel=0.05)
    below = [row for row in answer.rows("rung_deltas") if row["rung"] < threshold]
    assert all(abs(row["mean_delta"]) < 0.02 * height for row in below)


def test_the_linear_dose_is_graded_and_rises_by_its_slope(ask, demo):
    answer = ask(demo, SWEEP, 1, family="quick_respawn")
    assert answer.custom["shape"] == "graded"
    assert answer.custom["trend"] == pytest.approx(3.0 / 57.0, rel=0.05)
    assert answer.custom["verdict"] == "present"


@pytest.mark.parametrize(
    ("feature", "family", "sign"),
    [
        (2, "ink_resistance_up", -1),
        (3, "run_speed_up", 1),
        (3, "ink_resistance_up", 1),
        (4, "quick_super_jump", 1),
        (4, "stealth_jump", 1),
        (6, "comeback", -1),
        (10, "sub_resistance_up", 1),
    ],
)
def test_a_part_of_a_rule_acts_with_its_sign_where_the_rest_is_there(ask, demo, feature, family, sign):
    answer = ask(demo, SWEEP, feature, family=family, slice={"sample_size": 1500})
    assert answer.custom["verdict"] in {"present", "conditional"}
    last = answer.rows("rung_deltas")[-1]
    assert np.sign(last["mean_responders"]) == sign
    assert answer.findings.findings[0].relation.startswith("raises" if sign > 0 else "lowers")


@pytest.mark.parametrize(
    ("feature", "units"),
    [
        (0, ["special_charge_up"]),
        (3, ["ink_resistance_up", "run_speed_up"]),
        (4, ["quick_super_jump", "stealth_jump"]),
        (7, ["weapon"]),
        (8, ["weapon"]),
        (10, ["quick_super_jump", "sub_resistance_up"]),
    ],
)
def test_the_minimal_core_is_exactly_the_units_of_the_rule(ask, demo, feature, units):
    answer = ask(demo, CORES, feature, max_examples=24)
    assert answer.custom["top_core_units"] == units
    assert answer.custom["verdict"] == "present"
    assert answer.custom["top_core_coverage"] >= 0.9


def test_either_leg_of_the_redundant_or_is_a_core(ask, demo):
    answer = ask(demo, CORES, 5, max_examples=24)
    assert {row["core"] for row in answer.rows("cores")[:2]} == {"special_power_up", "special_saver"}


def test_the_single_weapon_is_dominant_in_the_data_and_causal_in_the_network(ask, demo):
    seen = ask(demo, WEAPON_SWEEP, 8)
    assert seen.custom["top_weapon"] == WEAPONS[40].name
    assert seen.custom["dominant_weapon_detected"] is True
    done = ask(demo, WEAPON_SWEEP, 8, method="interventional", slice={"sample_size": 60})
    assert done.custom["acting_weapons"][0] == WEAPONS[40].name
    assert done.rows("weapon_effects")[0]["mean_delta"] == pytest.approx(2.0, rel=0.05)


def test_the_weapons_of_the_planted_special_share_it_beyond_chance(ask, demo):
    answer = ask(demo, WEAPON_SWEEP, 7)
    assert answer.custom["shared_part"] == "special: Crab Tank"
    assert answer.custom["recommended_followup"] == "kit_sweep"


def test_a_weapon_that_only_favours_the_ability_correlates_and_does_not_cause(ask, demo):
    rule = next(rule for rule in demo.bundle.manifest.planted if rule.kind == "confounded_ability")
    names = {WEAPONS[int(weapon)].name for weapon in rule.confounded_weapons}
    seen = ask(demo, WEAPON_SWEEP, rule.feature_id, top_k_weapons=1000)
    tempting = [row for row in seen.rows("weapon_stats") if row["weapon_name"] in names and row["status"] == "present"]
    assert tempting
    done = ask(
        demo,
        WEAPON_SWEEP,
        rule.feature_id,
        method="interventional",
        top_k_weapons=1000,
        slice={"sample_size": 80},
    )
    assert not names & set(done.custom["acting_weapons"])
    for row in tempting:
        assert row["delta_from_global"] > 0.3
        assert abs(row["delta_adjusted"]) < 0.2 * row["delta_from_global"]
        assert abs(done.row("weapon_effects", weapon_name=row["weapon_name"])["mean_delta"]) < 0.02


@pytest.mark.parametrize("feature", DEAD)
@pytest.mark.parametrize(
    ("type_name", "variables"), [(SWEEP, {"family": "swim_speed_up"}), (WEAPON_SWEEP, {}), (CORES, {})]
)
def test_a_dead_feature_gets_nothing_from_any_type(ask, demo, feature, type_name, variables):
    answer = ask(demo, type_name, feature, **variables)
    assert answer.headline.startswith("nothing found")
    assert answer.findings.findings[0].status == "dead"
    assert all(table.rows == [] for table in answer.findings.tables)


@pytest.mark.parametrize("feature", [0, 8, 12])
def test_a_family_outside_the_rule_gets_nothing(ask, demo, feature):
    answer = ask(demo, SWEEP, feature, family="ink_recovery_up")
    assert answer.custom["verdict"] == "nothing_specific"
    assert answer.headline.startswith("nothing")
