"""The family sweep against rules whose answers can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mechinterp_runner.schemas.catalogue import find
from mechinterp_runner.schemas.errors import EmptySliceError, RequestError, UnknownNameError
from mechinterp_runner.schemas.facts import STACKABLE
from mechinterp_runner.schemas.job import Job
from mechinterp_runner.schemas.spec import parse_spec

SWEEP = "family_1d_sweep"


def test_a_planted_threshold_is_found_at_its_rung_with_its_height(ask, world):
    answer = ask(world, SWEEP, "threshold", family="special_charge_up")
    assert answer.custom["shape"] == "step"
    assert answer.custom["threshold_rung"] == 29
    assert answer.custom["onset_rung"] == 29
    assert [row["rung"] for row in answer.rows("rung_deltas")] == [0, 3, 6, 12, 15, 21, 29, 38, 51, 57]
    for row in answer.rows("rung_deltas"):
        assert row["mean_delta"] == pytest.approx(1.5 if row["rung"] >= 29 else 0.0, abs=1e-6)
    assert answer.custom["specificity_p"] <= 0.05
    assert "a step at 29 AP" in answer.headline
    assert "500 contexts of all examples; interventional" in answer.headline


def test_every_delta_equals_a_loop_over_the_contexts_that_applies_the_rule(ask, world):
    answer = ask(world, SWEEP, "and", family="run_speed_up", rungs=[3, 6, 57], slice={"sample_size": 120})
    rows = np.sort(np.random.default_rng([0, 1]).choice(len(world.data), 120, replace=False))
    column = world.vocabulary.family_index["ink_resistance_up"]
    other = [int(world.data.levels[row, column]) for row in rows]
    for rung in (3, 6, 57):
        expected = np.mean([2.5 if rung >= 6 and level >= 6 else 0.0 for level in other])
        assert answer.row("rung_deltas", rung=rung)["mean_delta"] == pytest.approx(expected, abs=1e-6)
        assert answer.row("rung_deltas", rung=rung)["n"] == 120


def test_a_linear_dose_is_graded_and_its_trend_is_the_slope(ask, world):
    answer = ask(world, SWEEP, "dose", family="quick_respawn")
    assert answer.custom["shape"] == "graded"
    assert answer.custom["threshold_rung"] is None
    assert answer.custom["trend"] == pytest.approx(3.0 / 57.0, rel=1e-3)
    assert answer.custom["half_max_rung"] == 29


def test_the_leg_of_an_and_acts_in_some_contexts_only_and_says_so(ask, world):
    answer = ask(world, SWEEP, "and", family="ink_resistance_up")
    top = answer.row("rung_deltas", rung=57)
    assert top["status"] in {"present", "conditional"}
    assert top["mean_responders"] == pytest.approx(2.5, abs=1e-6)
    share = np.mean(world.data.levels[:, world.vocabulary.family_index["run_speed_up"]] >= 6)
    assert top["responder_low"] <= share <= top["responder_high"]


def test_a_rare_leg_is_conditional_and_its_followup_looks_for_the_partner(ask, world):
    kept = {"family_exclude": ["ink_resistance_up"], "sample_size": 400}
    answer = ask(world, SWEEP, "and", family="run_speed_up", slice=kept)
    assert answer.custom["verdict"] == "nothing_specific"
    answer = ask(world, SWEEP, "and", family="run_speed_up", rungs=[6], min_effect=2.4)
    assert answer.rows("rung_deltas")[1]["status"] == "conditional"
    assert answer.findings.followups[0].spec["type"] == "pairwise_interactions"


@settings(max_examples=12, deadline=None)
@given(family=st.sampled_from([f for f in STACKABLE if f != "special_charge_up"]), seed=st.integers(0, 50))
def test_a_family_the_rule_does_not_use_changes_nothing(ask, world, family, seed):
    answer = ask(world, SWEEP, "threshold", family=family, slice={"sample_size": 60, "random_seed": seed})
    assert all(row["mean_delta"] == 0.0 for row in answer.rows("rung_deltas"))
    assert answer.custom["verdict"] == "nothing_specific"
    assert answer.headline.startswith("nothing above")


def test_a_main_only_ability_is_present_or_absent(ask, world):
    answer = ask(world, SWEEP, "main_only", family="comeback")
    assert [row["label"] for row in answer.rows("rung_deltas")] == ["absent", "present"]
    assert answer.row("rung_deltas", label="present")["mean_delta"] == pytest.approx(1.5)
    assert "when present" in answer.headline
    assert {row["label"] for row in answer.rows("rung_stats")} == {"absent", "present"}


def test_contexts_whose_gear_would_clash_are_skipped_and_counted(ask, world):
    answer = ask(world, SWEEP, "main_only", family="comeback", slice={"sample_size": 600})
    violation = next(v for v in answer.findings.diagnostics.constraint_violations if v.id == "valid_gear_combinations")
    column = world.vocabulary.family_index["tenacity"]
    rows = np.sort(np.random.default_rng([0, 1]).choice(len(world.data), 600, replace=False))
    expected = int((world.data.levels[rows, column] > 0).sum())
    assert violation.contexts == expected > 0
    assert violation.hard
    assert answer.row("rung_deltas", label="present")["n"] == 600 - expected


def test_the_budget_only_counts_unless_it_is_listed(ask, world):
    counted = ask(world, SWEEP, "threshold", family="special_charge_up", rungs=[29, 38, 57])
    listed = ["one_rung_per_family", "max_ap_budget"]
    skipped = ask(world, SWEEP, "threshold", family="special_charge_up", rungs=[29, 38, 57], constraints=listed)
    assert not counted.findings.diagnostics.constraint_violations[-1].hard
    assert counted.row("rung_deltas", rung=57)["n"] == 500
    assert skipped.findings.diagnostics.constraint_violations[-1].hard
    assert skipped.rows("rung_deltas")[1]["n"] < 500


def test_conditions_are_dropped_from_the_top_when_too_few_contexts_admit_them(ask, world):
    listed = ["one_rung_per_family", "max_ap_budget"]
    busy = {"family_filter": ["swim_speed_up", "quick_respawn"], "sample_size": 60}
    answer = ask(world, SWEEP, "threshold", family="special_charge_up", constraints=listed, slice=busy)
    assert 57 not in [row["rung"] for row in answer.rows("rung_deltas")]
    assert any("dropped" in warning for warning in answer.job.warnings)


def test_a_rung_between_two_of_the_vocabulary_resolves_downwards_and_warns(ask, world):
    answer = ask(world, SWEEP, "threshold", family="special_charge_up", rungs=[3, 12, 29, 41, 57])
    row = answer.row("rung_deltas", rung=41)
    assert row["resolved_rung"] == 38
    assert any("rung 41" in warning and "38" in warning for warning in answer.job.warnings)


@pytest.mark.parametrize("rung", [1, 2])
def test_rungs_no_gear_gives_are_errors(ask, world, rung):
    with pytest.raises(RequestError, match="out of range"):
        ask(world, SWEEP, "threshold", family="special_charge_up", rungs=[rung])


def test_rung_0_is_absent_and_legal(ask, world):
    answer = ask(world, SWEEP, "threshold", family="special_charge_up", rungs=[0, 29])
    assert [row["rung"] for row in answer.rows("rung_deltas")] == [0, 29]


def test_the_absent_row_can_be_left_out(ask, world):
    answer = ask(world, SWEEP, "threshold", family="special_charge_up", rungs=[29], include_absent=False)
    assert [row["rung"] for row in answer.rows("rung_deltas")] == [29]


def test_stable_tokens_hold_in_every_condition(ask, world):
    answer = ask(world, SWEEP, "and", family="run_speed_up", stable_tokens=["ink_resistance_up_12"])
    assert answer.row("rung_deltas", rung=6)["mean_delta"] == pytest.approx(2.5)
    assert answer.row("rung_deltas", rung=3)["mean_delta"] == pytest.approx(0.0)
    weapon = ask(world, SWEEP, "weapon", family="run_speed_up", stable_tokens=["weapon_id_11"])
    assert weapon.row("rung_deltas", rung=0)["mean_activation"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["special_charge_up_12"], "is what is varied"),
        (["weapon_id_40", "weapon_id_41"], "two weapons"),
        (["swim_speed_up"], "needs its AP"),
        (["swim_speed_up_3", "swim_speed_up_12"], "twice"),
        (["comebac"], "did you mean 'comeback'"),
    ],
)
def test_bad_stable_tokens_are_errors_that_say_why(ask, world, tokens, message):
    with pytest.raises(RequestError, match=message):
        ask(world, SWEEP, "threshold", family="special_charge_up", stable_tokens=tokens)


def test_an_unknown_family_is_an_error_with_the_nearest_name(ask, world):
    with pytest.raises(UnknownNameError, match="swim_speed_up"):
        ask(world, SWEEP, "threshold", family="swim_speed")


def test_an_empty_slice_names_the_filter_that_emptied_it(ask, world):
    families = ["special_charge_up", "swim_speed_up", "quick_respawn", "run_speed_up", "ink_saver_sub", "haunt"]
    with pytest.raises(EmptySliceError, match="family_filter"):
        ask(world, SWEEP, "threshold", family="special_charge_up", slice={"family_filter": families})


def test_a_dead_feature_succeeds_with_nulls_and_a_reason(ask, world):
    answer = ask(world, SWEEP, "dead", family="special_charge_up")
    assert answer.findings.findings[0].status == "dead"
    assert answer.findings.aggregates.mean_delta is None
    assert "dead" in answer.custom["reason"]
    assert answer.rows("rung_deltas") == []


def test_selecting_on_the_outcome_is_named_in_the_headline(ask, world):
    answer = ask(world, SWEEP, "and", family="run_speed_up", slice={"percentile_min": 10, "percentile_max": 90})
    assert "selected on the outcome" in answer.headline
    assert any("selects on the outcome" in warning for warning in answer.job.warnings)


def test_single_encoding_writes_the_rung_alone(fresh_world, ask):
    ctx, seen = fresh_world
    spec = {"family": "special_charge_up", "rungs": [29], "slice": {"sample_size": 2}}
    ask(ctx, SWEEP, "threshold", encoding="single", **spec)
    keys = set(seen.seen)
    ask(ctx, SWEEP, "threshold", encoding="thermometer", **spec)
    assert len(set(seen.seen) - keys) == 2


def test_without_one_rung_per_family_a_level_is_written_on_top(ask, world):
    high = {"family_filter": ["special_charge_up"], "sample_size": 300}
    replaced = ask(world, SWEEP, "threshold", family="special_charge_up", rungs=[3], slice=high)
    on_top = ask(world, SWEEP, "threshold", family="special_charge_up", rungs=[3], slice=high, constraints=[])
    assert replaced.row("rung_deltas", rung=3)["mean_delta"] == 0.0
    assert on_top.row("rung_deltas", rung=3)["mean_delta"] > 0.1


def test_the_observational_curve_groups_each_example_once_at_its_highest_rung(ask, world):
    answer = ask(world, SWEEP, "threshold", family="special_charge_up", method="observational")
    levels = world.data.levels[:, world.vocabulary.family_index["special_charge_up"]]
    counts = {row["rung"]: row["n"] for row in answer.rows("rung_stats")}
    assert counts == {rung: int((levels == rung).sum()) for rung in (0, 3, 6, 12, 15, 21, 29, 38, 51, 57)}
    assert sum(counts.values()) == len(world.data)
    empty = answer.row("rung_stats", rung=57)
    assert empty["n"] == 0
    assert empty["mean_activation"] is None
    assert empty["reason"] == "no example at this level"
    assert "CORRELATIONAL" in answer.headline


def test_holding_the_weapon_fixed_removes_what_the_weapon_does(ask, world):
    answer = ask(world, SWEEP, "weapon", family="sub_power_up", method="observational")
    top = max((row for row in answer.rows("rung_stats")[1:] if not row["sparse"]), key=lambda row: row["n"])
    assert abs(top["within_weapon_delta"]) < 1e-9
    assert abs(top["delta_from_baseline"]) > 0.05


def test_the_confounding_gap_is_observational_minus_interventional(ask, world):
    answer = ask(world, SWEEP, "weapon", family="sub_power_up")
    for row in answer.rows("confounding"):
        assert row["gap"] == pytest.approx(row["observational_delta"] - row["interventional_delta"])
        assert row["interventional_delta"] == 0.0
        assert row["ci_low"] <= row["gap"] <= row["ci_high"]


def test_the_same_spec_gives_the_same_numbers_and_another_seed_other_contexts(ask, world):
    first = ask(world, SWEEP, "and", family="run_speed_up", slice={"sample_size": 80})
    second = ask(world, SWEEP, "and", family="run_speed_up", slice={"sample_size": 80})
    assert first.findings.model_dump() == second.findings.model_dump()
    other = ask(world, SWEEP, "and", family="run_speed_up", slice={"sample_size": 80, "random_seed": 1})
    assert other.rows("rung_deltas") != first.rows("rung_deltas")


def test_one_context_is_too_few_to_estimate_anything(ask, world):
    with pytest.raises(RequestError, match="at least 2 contexts"):
        ask(world, SWEEP, "threshold", family="special_charge_up", slice={"sample_size": 1})


def test_the_plan_announces_the_passes_the_run_makes(fresh_world, ask):
    ctx, _ = fresh_world
    fields = {"type": SWEEP, "feature_id": 0, "variables": {"family": "special_charge_up"}}
    announced = find(SWEEP).plan(parse_spec(fields), ctx)
    job = Job()
    find(SWEEP).run(parse_spec(fields), ctx, job)
    assert (announced.forward_passes, announced.saved_passes) == (job.passes_made, job.passes_saved)
    assert announced.contexts == 500
    assert find(SWEEP).plan(parse_spec(fields), ctx).forward_passes == 0


def test_the_plan_says_which_rungs_resolve_downwards(world):
    fields = {"type": SWEEP, "feature_id": 0, "variables": {"family": "special_charge_up", "rungs": [41]}}
    assert any("rung 41" in note and "38" in note for note in find(SWEEP).plan(parse_spec(fields), world).notes)


def test_a_followup_of_another_type_keeps_the_slice_but_not_the_sample_size(ask, world):
    part = {"sample_size": 100, "weapon_exclude": [40]}
    answer = ask(world, SWEEP, "threshold", family="special_charge_up", slice=part)
    assert answer.findings.followups[0].spec["type"] == "minimal_cores"
    assert answer.findings.followups[0].spec["dataset_slice"] == {"weapon_exclude": [40]}


def test_a_second_feature_on_the_same_contexts_costs_no_pass(fresh_world, ask):
    ctx, _ = fresh_world
    ask(ctx, SWEEP, "threshold", family="special_charge_up")
    assert ask(ctx, SWEEP, "dose", family="special_charge_up").job.passes_made == 0


def test_an_unclear_row_says_how_many_contexts_would_settle_it(ask, world):
    answer = ask(world, SWEEP, "and", family="run_speed_up", rungs=[6], slice={"sample_size": 30}, min_effect=0.25)
    row = answer.row("rung_deltas", rung=6)
    assert row["status"] in {"unclear", "conditional", "present"}
    if row["status"] == "unclear":
        assert row["n_to_settle"] > 30
    else:
        assert row["n_to_settle"] is None


def test_an_association_is_compared_with_random_directions_on_the_same_rows(ask, world, feature):
    answer = ask(world, SWEEP, "suppressed", family="ink_saver_sub", method="observational")
    levels = np.asarray(world.data.levels[:, world.vocabulary.family_index["ink_saver_sub"]])
    weapon = np.asarray(world.data.weapon)
    rungs = sorted(set(levels.tolist()) - {0})
    design = np.hstack([levels[:, None] == rungs, weapon[:, None] == np.unique(weapon)]).astype(float)
    column = feature["suppressed"]
    matched = world.random_directions().matched(world.active_rate(column), world.effective_max(column))
    outcomes = np.column_stack([world.activations(column), matched.activation(world.pooled_of(np.arange(len(weapon))))])
    known = [i for i, rung in enumerate(rungs) if answer.row("rung_stats", rung=rung)["status"] is not None]
    largest = np.abs(np.linalg.lstsq(design, outcomes, rcond=None)[0][known]).max(axis=0)
    expected = (1 + (largest[1:] >= largest[0]).sum()) / (1 + len(largest[1:]))
    assert answer.custom["specificity_p"] == pytest.approx(expected)
    assert expected > 0.05
    assert any(row["status"] == "present" for row in answer.rows("rung_stats"))
    assert answer.headline.startswith("nothing specific found")
    assert (answer.custom["verdict"], answer.findings.followups) == ("nothing_specific", [])


def test_a_planted_association_beats_random_directions_and_random_directions_seldom_do(ask, world):
    planted = ask(world, SWEEP, "threshold", family="special_charge_up", method="observational")
    assert planted.custom["specificity_p"] <= 0.05
    assert planted.custom["verdict"] == "present"
    assert "goes with feature 0" in planted.headline
    assert planted.findings.followups[0].spec["variables"]["method"] == "interventional"
    verdicts = [
        ask(world, SWEEP, rule, family=family, method="observational").custom["verdict"]
        for rule in ("random_0", "random_1")
        for family in STACKABLE
    ]
    assert verdicts.count("present") <= 3
