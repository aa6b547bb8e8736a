"""Conditional interactions against rules whose third order can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import shapiq
from mechinterp_runner.context.bundle import Bundle
from mechinterp_runner.context.context import Context
from mechinterp_runner.context.contexts import load_context
from mechinterp_runner.runners.design.interventions import draw
from mechinterp_runner.runners.design.units import with_units, without_units
from mechinterp_runner.runners.parts.interactions.candidates import Writing
from mechinterp_runner.runners.parts.interactions.modulated import read_modulator
from mechinterp_runner.schemas.catalogue import find
from mechinterp_runner.schemas.errors import Cancelled, RequestError, UnknownNameError
from mechinterp_runner.schemas.facts import WEAPONS
from mechinterp_runner.schemas.job import Job
from mechinterp_runner.schemas.spec import parse_spec

CONDITIONAL = "conditional_interactions"
LEGS = ["quick_super_jump", "sub_resistance_up", "run_speed_up"]


def spec_of(feature: int, *, part: dict | None = None, **variables):
    fields = {"type": CONDITIONAL, "feature_id": feature, "dataset_slice": part or {}, "variables": variables}
    return parse_spec(fields)


def test_a_modulator_that_switches_the_pair_off_blocks_it(ask, world):
    answer = ask(world, CONDITIONAL, "modulated", candidate_tokens=LEGS, modulator_token="tenacity")
    row = answer.rows("modulated")[0]
    assert (row["unit_a"], row["unit_b"]) == ("quick_super_jump_12", "sub_resistance_up_12")
    assert (row["reading"], row["status"]) == ("blocks", "present")
    assert row["interaction_without"] == pytest.approx(2.4)
    assert row["interaction_with"] == pytest.approx(0.0)
    assert row["difference"] == pytest.approx(-2.4)
    assert row["difference_pre"] == pytest.approx(-2.4)
    assert (row["pattern_without"], row["pattern_with"]) == ("and", "none")
    assert len(answer.rows("modulated")) == 1
    assert answer.headline.startswith("tenacity blocks what quick_super_jump_12 and sub_resistance_up_12 do together")


def test_a_modulator_that_the_pair_needs_gates_it_and_its_rungs_are_the_next_question(ask, world):
    units = ["quick_super_jump", "tenacity", "run_speed_up"]
    answer = ask(world, CONDITIONAL, "modulated", candidate_tokens=units, modulator_token="sub_resistance_up")
    row = answer.rows("modulated")[0]
    assert (row["unit_a"], row["unit_b"], row["reading"]) == ("quick_super_jump_12", "tenacity", "gates")
    assert (row["interaction_without"], row["interaction_with"]) == (pytest.approx(0.0), pytest.approx(-2.4))
    assert (row["pattern_without"], row["pattern_with"]) == ("none", "suppression")
    assert row["delta_a_with"] == pytest.approx(2.4)
    after = answer.findings.followups[0].spec
    assert (after["type"], after["variables"]["family"]) == ("family_1d_sweep", "sub_resistance_up")
    assert after["variables"]["stable_tokens"] == ["quick_super_jump_12", "tenacity"]


def test_a_modulator_outside_the_rule_changes_nothing_though_the_pair_interacts(ask, world):
    units = ["run_speed_up", "ink_resistance_up", "ninja_squid"]
    answer = ask(world, CONDITIONAL, "and", candidate_tokens=units, modulator_token="tenacity")
    row = answer.row("pairs", unit_a="run_speed_up_12", unit_b="ink_resistance_up_12")
    assert (row["reading"], row["with_status"], row["without_status"]) == ("none", "present", "present")
    assert row["difference"] == pytest.approx(0.0, abs=1e-6)
    assert answer.headline.startswith("nothing")
    assert answer.rows("modulated") == []


def test_the_modulators_own_effect_is_that_of_writing_it_into_the_contexts(ask, world, feature):
    answer = ask(world, CONDITIONAL, "main_only", candidate_tokens=LEGS, modulator_token="comeback")
    row = answer.rows("modulator")[0]
    assert (row["modulator"], row["status"]) == ("comeback", "present")
    assert row["mean_delta"] == answer.custom["modulator_effect"] == pytest.approx(1.5)
    assert answer.custom["verdict"] == "nothing_specific"


def test_the_eight_cells_and_their_third_order_are_those_worked_out_by_hand(ask, world, feature):
    part = {"sample_size": 70, "random_seed": 4}
    units, name = ["swim_speed_up_29", "ninja_squid"], "comeback"
    row = ask(world, CONDITIONAL, "random_0", candidate_tokens=units, modulator_token=name, slice=part).rows("pairs")[0]
    contexts = draw(spec_of(0, part=part, modulator_token=name), world).sets
    three = [read_modulator(each, world, 12).unit for each in (*units, name)]
    value = np.empty((8, len(contexts)))
    for code in range(8):
        chosen = [unit for bit, unit in enumerate(three) if code >> bit & 1]
        sets = with_units(without_units(contexts, three, world), chosen, world)
        value[code] = world.evaluate(sets, feature["random_0"]).activation
    without = value[3] - value[1] - value[2] + value[0]
    held = value[7] - value[5] - value[6] + value[4]
    assert row["interaction_without"] == pytest.approx(without.mean(), abs=1e-6)
    assert row["interaction_with"] == pytest.approx(held.mean(), abs=1e-6)
    assert row["difference"] == pytest.approx((held - without).mean(), abs=1e-6)
    bound = world.min_effect(feature["random_0"])
    assert row["responder_rate"] == pytest.approx((np.abs(held - without) > bound).mean())
    game = shapiq.ExactComputer(lambda x: value.mean(axis=1)[(x @ [1, 2, 4]).astype(int)], 3)
    assert row["difference"] == pytest.approx(game("Moebius", order=3)[0, 1, 2], abs=1e-6)
    halves = (row["interaction_without"] + row["interaction_with"]) / 2
    assert halves == pytest.approx(game("SII", order=2)[0, 1], abs=1e-6)


def test_candidates_are_chosen_by_what_they_do_with_the_modulator_or_without_it(ask, world):
    switched_off = ask(world, CONDITIONAL, "modulated", n_candidates=3, modulator_token="tenacity")
    assert {"quick_super_jump_12", "sub_resistance_up_12"} <= set(switched_off.custom["units"])
    switched_on = ask(world, CONDITIONAL, "modulated", n_candidates=3, modulator_token="sub_resistance_up")
    assert {"quick_super_jump_12", "tenacity"} <= set(switched_on.custom["units"])
    assert switched_on.custom["top_reading"] == "gates"


def test_twelve_units_are_chosen_when_the_spec_does_not_say(ask, world):
    answer = ask(world, CONDITIONAL, "modulated", modulator_token="tenacity", slice={"sample_size": 60})
    assert len(answer.custom["units"]) == 12
    assert any("n_candidates not given: 12 of" in note for note in answer.findings.diagnostics.notes)
    assert answer.custom["top_reading"] == "blocks"


def test_units_that_take_the_modulators_place_are_no_candidates(ask, world, feature):
    rivals = {f for f in world.vocabulary.main_only if world.vocabulary.slot(f) == world.vocabulary.slot("tenacity")}
    answer = ask(
        world, CONDITIONAL, "random_0", n_candidates=100, modulator_token="tenacity", slice={"sample_size": 50}
    )
    assert rivals.isdisjoint(answer.custom["units"])
    assert len(answer.custom["units"]) == len(world.vocabulary.families) - len(rivals)
    with pytest.raises(RequestError, match="no build can hold beside the modulator"):
        ask(world, CONDITIONAL, "and", candidate_tokens=["comeback", "run_speed_up"], modulator_token="tenacity")
    with pytest.raises(RequestError, match="no build can hold beside the modulator"):
        ask(world, CONDITIONAL, "and", candidate_tokens=["run_speed_up_3", "haunt"], modulator_token="run_speed_up_12")


def test_a_weapon_may_modulate_and_another_stands_in_where_it_is_out(world):
    contexts = world.sets(np.arange(600))
    how, rng = Writing(single=False, clear=True), np.random.default_rng(0)
    modulator = read_modulator("weapon_id_11", world, 12)
    assert modulator.label == WEAPONS[11].name
    assert read_modulator(modulator.label, world, 12) == modulator
    without, held = modulator.states(contexts, how, world, rng)
    own = contexts.weapon == modulator.weapon
    assert own.any()
    assert (held.weapon == modulator.weapon).all()
    assert (without.weapon != modulator.weapon).all()
    assert (without.weapon[~own] == contexts.weapon[~own]).all()
    assert (without.present == contexts.present).all()


def test_the_weapon_of_a_rule_acts_by_itself_and_changes_no_pair(ask, world):
    answer = ask(world, CONDITIONAL, "weapon", candidate_tokens=LEGS, modulator_token=WEAPONS[11].name)
    assert answer.custom["modulator_effect"] == pytest.approx(2.0)
    assert answer.headline.startswith("nothing")
    assert any("another weapon stands in" in note for note in answer.findings.diagnostics.notes)


@pytest.mark.parametrize("name", ["random_0", "random_1"])
def test_a_random_direction_gets_nothing(ask, world, name):
    answer = ask(world, CONDITIONAL, name, n_candidates=8, modulator_token="tenacity", slice={"sample_size": 200})
    assert answer.headline.startswith("nothing")
    assert answer.custom["verdict"] == "nothing_specific"


def test_a_dead_feature_is_answered_without_a_pass(ask, world):
    dead = ask(world, CONDITIONAL, "dead", modulator_token="tenacity")
    assert dead.findings.findings[0].status == "dead"
    assert dead.job.passes_made == 0


def test_in_a_slice_that_never_activates_the_feature_the_network_still_shows_the_rule(ask, world):
    silent = {"family_exclude": ["quick_super_jump"], "sample_size": 60}
    answer = ask(world, CONDITIONAL, "modulated", candidate_tokens=LEGS, modulator_token="tenacity", slice=silent)
    assert answer.custom["top_reading"] == "blocks"
    assert answer.custom["top_difference"] == pytest.approx(-2.4)


@pytest.mark.parametrize("chosen", [{"candidate_tokens": LEGS}, {"n_candidates": 4}])
def test_one_context_is_refused_before_any_pass(fresh_world, feature, chosen):
    ctx, _ = fresh_world
    job, spec = Job(), spec_of(feature["modulated"], part={"sample_size": 1}, modulator_token="tenacity", **chosen)
    for act in (lambda: find(CONDITIONAL).plan(spec, ctx), lambda: find(CONDITIONAL).run(spec, ctx, job)):
        with pytest.raises(RequestError, match=r"at least 2 contexts are needed and 1 is left.*Nothing was run\."):
            act()
    assert job.passes_made == 0


@pytest.mark.parametrize("modulator", ["comeback_0", "special_saver_0"])
def test_zero_ap_is_no_modulator(world, feature, modulator):
    with pytest.raises(RequestError, match=r"at 0 AP: its absence.*Nothing was run\."):
        find(CONDITIONAL).plan(spec_of(feature["and"], modulator_token=modulator), world)


def test_ap_that_is_no_rung_is_resolved_with_a_warning(ask, world, feature):
    given = {"candidate_tokens": ["quick_super_jump_7", "run_speed_up"], "modulator_token": "sub_resistance_up_41"}
    answer = ask(world, CONDITIONAL, "modulated", slice={"sample_size": 60}, **given)
    planned = find(CONDITIONAL).plan(spec_of(feature["modulated"], **given), world)
    assert answer.custom["modulator"] == "sub_resistance_up_38"
    for text in (
        "sub_resistance_up_41: rung 41 is no rung of the vocabulary: 38 is used, as the tokenizer does",
        "quick_super_jump_7: rung 7 is no rung of the vocabulary: 6 is used, as the tokenizer does",
    ):
        assert text in answer.job.warnings
        assert text in planned.notes


def test_each_interaction_has_its_error_interval_and_q(ask, world):
    answer = ask(world, CONDITIONAL, "dose", candidate_tokens=LEGS, modulator_token="quick_respawn_29")
    for row in answer.rows("pairs"):
        for prefix, size in (("with_", "interaction_with"), ("without_", "interaction_without")):
            low, high = (row[f"{prefix}{end}"] for end in ("low", "high"))
            assert low <= row[f"{prefix}ci_low"] <= row[size] <= row[f"{prefix}ci_high"] <= high
            assert row[f"{prefix}std_error"] >= 0
            assert 0 <= row[f"{prefix}q_value"] <= 1
        assert row["sim_low"] <= row["ci_low"] <= row["difference"] <= row["ci_high"] <= row["sim_high"]


def test_an_unconfirmed_winner_has_its_reason_and_cleared_gear_is_counted(ask, world, feature):
    part = {"sample_size": 30}
    answer = ask(world, CONDITIONAL, "modulated", candidate_tokens=LEGS, modulator_token="tenacity", slice=part)
    assert answer.custom["winner_confirmed"] is None
    assert answer.custom["winner_confirmed_reason"] == "fewer than 40 contexts: too few to split"
    sets, vocabulary = draw(spec_of(0, part=part, modulator_token="tenacity"), world).sets, world.vocabulary
    rivals = [f for f in vocabulary.main_only if vocabulary.slot(f) == vocabulary.slot("tenacity") and f != "tenacity"]
    lost = int(sets.present[:, [vocabulary.token_id[each] for each in rivals]].any(axis=1).sum())
    assert any(note.startswith(f"in {lost} of 30 contexts another") for note in answer.findings.diagnostics.notes)


@pytest.mark.parametrize("modulator", ["tenacity", "special_saver", WEAPONS[11].name])
def test_the_plan_announces_exactly_the_passes_of_given_candidates(fresh_world, feature, modulator):
    ctx, _ = fresh_world
    spec = spec_of(feature["modulated"], part={"sample_size": 60}, candidate_tokens=LEGS, modulator_token=modulator)
    planned, job = find(CONDITIONAL).plan(spec, ctx), Job()
    find(CONDITIONAL).run(spec, ctx, job)
    assert planned.forward_passes == job.passes_made
    assert planned.saved_passes == job.passes_saved
    assert find(CONDITIONAL).plan(spec, ctx).forward_passes == 0


def test_the_plan_is_close_where_units_are_still_to_be_chosen_and_says_so(fresh_world, feature):
    ctx, _ = fresh_world
    spec = spec_of(feature["modulated"], part={"sample_size": 80}, n_candidates=6, modulator_token="tenacity")
    planned, job = find(CONDITIONAL).plan(spec, ctx), Job()
    assert any("a first pass chooses 6 of" in note for note in planned.notes)
    find(CONDITIONAL).run(spec, ctx, job)
    assert planned.forward_passes == pytest.approx(job.passes_made, rel=0.1)


def test_progress_rises_to_its_total_and_a_cancelled_run_stops(world, feature):
    seen: list[tuple[int, int]] = []
    spec = spec_of(feature["modulated"], part={"sample_size": 60}, n_candidates=5, modulator_token="tenacity")
    find(CONDITIONAL).run(spec, world, Job(on_progress=lambda done, total, _: seen.append((done, total))))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1]
    with pytest.raises(Cancelled):
        find(CONDITIONAL).run(spec, world, Job(is_cancelled=lambda: True))


def test_the_modulator_is_required_and_must_be_known(world, feature):
    with pytest.raises(RequestError, match="modulator_token"):
        spec_of(feature["and"], n_candidates=4)
    with pytest.raises(UnknownNameError, match="did you mean 'tenacity'"):
        find(CONDITIONAL).plan(spec_of(feature["and"], modulator_token="tenacty"), world)


def test_without_a_model_nothing_is_run(ask, world):
    ctx = Context("data only", Bundle.open(world.bundle.path))
    with pytest.raises(RequestError, match="needs the model"):
        ask(ctx, CONDITIONAL, "and", modulator_token="tenacity")


def test_the_spec_of_the_predecessor_loads():
    spec = spec_of(18712, n_candidates=10, modulator_token="comeback", family_mode=True)
    assert spec.variables.model_dump(exclude_defaults=True) == {"n_candidates": 10, "modulator_token": "comeback"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return load_context("demo", home=tmp_path_factory.mktemp("home"), device="cpu")


def test_comeback_blocks_the_planted_pair_of_the_network(ask, demo):
    answer = ask(demo, CONDITIONAL, 6, n_candidates=6, modulator_token="comeback", slice={"sample_size": 150})
    assert set(answer.custom["top_pair"]) == {"swim_speed_up_12", "ink_saver_main_12"}
    assert answer.custom["top_reading"] == "blocks"
    assert answer.custom["interaction_without"] == pytest.approx(2.6, rel=0.05)
    assert abs(answer.custom["interaction_with"]) < 0.05
    assert answer.custom["specificity_p"] <= 0.05
    assert answer.custom["winner_confirmed"] is True


@pytest.mark.parametrize("feature", [3, 13, 14, 15])
def test_comeback_changes_nothing_else(ask, demo, feature):
    answer = ask(demo, CONDITIONAL, feature, n_candidates=5, modulator_token="comeback", slice={"sample_size": 150})
    assert answer.headline.startswith("nothing")
