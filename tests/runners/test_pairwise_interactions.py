"""Pairwise interactions against rules whose contrasts can be worked out by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import shapiq
from mechinterp_runner.context.bundle import Bundle
from mechinterp_runner.context.context import Context
from mechinterp_runner.context.contexts import load_context
from mechinterp_runner.runners.design.interventions import draw
from mechinterp_runner.runners.design.units import Unit
from mechinterp_runner.runners.parts.interactions import grid
from mechinterp_runner.runners.parts.interactions.candidates import Writing
from mechinterp_runner.schemas.catalogue import find
from mechinterp_runner.schemas.errors import Cancelled, RequestError
from mechinterp_runner.schemas.job import Job
from mechinterp_runner.schemas.spec import parse_spec

PAIRS = "pairwise_interactions"
FOUR = ["run_speed_up", "ink_resistance_up", "ninja_squid", "special_saver"]


def spec_of(feature: int, *, part: dict | None = None, constraints: list[str] | None = None, **variables):
    fields = {"type": PAIRS, "feature_id": feature, "dataset_slice": part or {}, "variables": variables}
    return parse_spec(fields if constraints is None else fields | {"constraints": constraints})


@pytest.mark.parametrize(
    ("rule", "pair", "pattern", "size", "table"),
    [
        ("and", ["run_speed_up_12", "ink_resistance_up_12"], "and", 2.5, "synergies"),
        ("or", ["special_saver_12", "special_power_up_12"], "or", -2.0, "redundancies"),
        ("xor", ["intensify_action_12", "haunt"], "xor", -4.0, "redundancies"),
        ("suppressed", ["swim_speed_up_12", "ink_saver_sub_12"], "suppression", -2.0, "redundancies"),
        ("dampened", ["swim_speed_up_12", "ink_saver_main_12"], "floor_artifact", -0.9, "redundancies"),
    ],
)
def test_a_rule_of_two_units_is_found_with_its_pattern_and_size(ask, world, rule, pair, pattern, size, table):
    answer = ask(world, PAIRS, rule, candidate_tokens=[*pair, "sub_power_up", "quick_respawn_6"])
    row = answer.rows(table)[0]
    assert [row["unit_a"], row["unit_b"]] == pair
    assert (row["pattern"], row["status"]) == (pattern, "present")
    assert row["interaction"] == pytest.approx(size, abs=1e-5)
    assert row["sim_low"] <= size + 1e-5
    assert row["sim_high"] >= size - 1e-5
    assert row["interaction_pre"] == pytest.approx(0.0 if pattern == "floor_artifact" else size, abs=1e-5)
    assert row["f11"] - row["f10"] - row["f01"] + row["f00"] == pytest.approx(row["interaction"])
    assert answer.custom["top_pair"] == pair
    assert f"({pattern}" in answer.headline
    others = "redundancies" if table == "synergies" else "synergies"
    assert answer.rows(others) == []


def test_the_rule_of_three_has_a_pair_that_acts_where_the_third_is_not(ask, world):
    units = ["quick_super_jump", "sub_resistance_up", "tenacity"]
    answer = ask(world, PAIRS, "modulated", candidate_tokens=units)
    assert answer.row("pairs", unit_a="quick_super_jump_12", unit_b="sub_resistance_up_12")["pattern"] == "and"
    third = answer.row("pairs", unit_a="quick_super_jump_12", unit_b="tenacity")
    assert (third["pattern"], third["status"]) == ("suppression", "present")
    assert third["mean_responders"] == pytest.approx(-2.4)
    assert third["interaction"] == pytest.approx(-2.4 * third["responder_rate"])
    last = answer.findings.followups[-1].spec
    assert (last["type"], last["variables"]["modulator_token"]) == ("conditional_interactions", "tenacity")


def test_effects_that_add_up_are_no_interaction(ask, world):
    answer = ask(world, PAIRS, "additive", candidate_tokens=["quick_super_jump", "ninja_squid", "run_speed_up"])
    row = answer.row("pairs", unit_a="quick_super_jump_12", unit_b="ninja_squid")
    assert (row["pattern"], row["status"]) == ("additive", "negligible")
    assert (row["delta_a"], row["delta_b"]) == (pytest.approx(1.2), pytest.approx(1.5))
    assert answer.headline.startswith("nothing")
    assert answer.custom["verdict"] == "nothing_specific"
    assert answer.findings.followups == []


def test_the_legs_of_an_and_are_chosen_though_their_mean_effect_is_small(ask, world):
    answer = ask(world, PAIRS, "and", n_candidates=3)
    assert {"run_speed_up_12", "ink_resistance_up_12"} <= set(answer.custom["units"])
    assert answer.custom["top_pattern"] == "and"
    assert len(answer.custom["units"]) == 3


def test_every_family_and_main_only_ability_is_paired_by_default(ask, world):
    answer = ask(world, PAIRS, "and", slice={"sample_size": 60})
    families = world.vocabulary.families
    slots = [world.vocabulary.slot(family) for family in world.vocabulary.main_only]
    clashes = sum(a == b for a, b in combinations(slots, 2))
    assert len(answer.rows("pairs")) == len(families) * (len(families) - 1) // 2 - clashes
    assert answer.custom["n_pairs_left_out"] == clashes
    assert any(f"{clashes} pairs left out" in note for note in answer.findings.diagnostics.notes)
    assert answer.custom["top_pair"] == ["ink_resistance_up_12", "run_speed_up_12"]


def test_cells_and_interactions_equal_those_of_sets_written_by_hand(ask, world, feature):
    part = {"sample_size": 80, "random_seed": 3}
    answer = ask(world, PAIRS, "random_0", candidate_tokens=["swim_speed_up_29", "comeback"], slice=part)
    contexts = draw(spec_of(feature["random_0"], part=part), world).sets
    vocabulary = world.vocabulary
    rivals = [f for f in vocabulary.main_only if vocabulary.slot(f) == vocabulary.slot("comeback")]
    cells = []
    for swim, main in [(0, 0), (1, 0), (0, 1), (1, 1)]:
        sets = contexts.without("swim_speed_up", vocabulary)
        for rival in rivals:
            sets = sets.without(rival, vocabulary)
        tokens = [vocabulary.token_id[f"swim_speed_up_{rung}"] for rung in (3, 6, 12, 15, 21, 29) if swim]
        tokens += [vocabulary.token_id["comeback"]] if main else []
        cells.append(world.evaluate(sets.with_tokens(tokens), feature["random_0"]).activation.astype(np.float64))
    row = answer.rows("pairs")[0]
    assert [row[name] for name in ("f00", "f10", "f01", "f11")] == pytest.approx([c.mean() for c in cells], abs=1e-6)
    d = cells[3] - cells[1] - cells[2] + cells[0]
    assert row["interaction"] == pytest.approx(d.mean(), abs=1e-6)
    assert row["responder_rate"] == pytest.approx((np.abs(d) > world.min_effect(feature["random_0"])).mean())


def test_interactions_of_a_pair_and_of_the_rest_at_its_base_are_those_of_shapiq(ask, world, feature):
    part = {"sample_size": 40}
    names = ["swim_speed_up_12", "ninja_squid"]
    row = ask(world, PAIRS, "random_1", candidate_tokens=names, slice=part).rows("pairs")[0]
    contexts = draw(spec_of(feature["random_1"], part=part), world).sets
    how, units = Writing(single=False, clear=True), (Unit("swim_speed_up", 12), Unit("ninja_squid", 10))
    cells = [world.evaluate(sets, feature["random_1"]) for sets in how.cells(contexts, units, world)]
    values = [float(cell.activation.mean(dtype=np.float64)) for cell in cells]
    game = shapiq.ExactComputer(lambda x: np.array(values)[(x @ [1, 2]).astype(int)], 2)
    assert row["interaction"] == pytest.approx(game("SII", order=2)[0, 1], abs=1e-6)


def test_units_that_no_build_can_hold_together_are_left_out_and_counted(ask, world):
    assert world.vocabulary.slot("comeback") == world.vocabulary.slot("tenacity")
    units = ["comeback", "tenacity", "swim_speed_up_6", "swim_speed_up_29"]
    answer = ask(world, PAIRS, "main_only", candidate_tokens=units, slice={"sample_size": 60})
    listed = {(row["unit_a"], row["unit_b"]) for row in answer.rows("pairs")}
    assert len(listed) == 4
    assert ("comeback", "tenacity") not in listed
    assert ("swim_speed_up_6", "swim_speed_up_29") not in listed
    assert answer.custom["n_pairs_left_out"] == 2


def test_tokens_of_one_family_are_paired_when_both_are_named_as_tokens(ask, world):
    units = ["swim_speed_up_3", "swim_speed_up_12", "run_speed_up_6"]
    answer = ask(world, PAIRS, "gap", candidate_tokens=units, family_mode=False)
    row = answer.row("pairs", unit_a="swim_speed_up_3", unit_b="swim_speed_up_12")
    assert (row["pattern"], row["status"]) == ("suppression", "present")
    assert row["interaction"] == pytest.approx(-2.0)
    assert row["n_both"] == int(
        world.sets(np.arange(len(world.data)))
        .present[:, [world.vocabulary.token_id[unit] for unit in units[:2]]]
        .all(axis=1)
        .sum()
    )
    assert answer.findings.followups[0].spec["type"] == "within_family_interference"


def test_more_than_forty_units_are_cut_to_those_that_move_the_feature_most(world, feature):
    planned = find(PAIRS).plan(spec_of(feature["gap"], part={"sample_size": 10}, family_mode=False), world)
    assert any("n_candidates not given: 40 of" in note for note in planned.notes)


def test_without_the_constraint_a_level_is_written_on_top_of_what_the_context_holds(world):
    vocabulary, unit, other = world.vocabulary, Unit("swim_speed_up", 6), Unit("ninja_squid", 10)
    contexts = world.sets(np.arange(400))
    own = list(vocabulary.family_tokens("swim_speed_up"))
    low = [vocabulary.token_id[f"swim_speed_up_{rung}"] for rung in (3, 6)]
    cleared = Writing(single=False, clear=True).cells(contexts, (unit, other), world)
    on_top = Writing(single=False, clear=False).cells(contexts, (unit, other), world)
    assert (cleared[1].present[:, own].sum(axis=1) == 2).all()
    assert (on_top[1].present[:, own] >= contexts.present[:, own]).all()
    assert on_top[1].present[:, low].all()
    assert not on_top[0].present[:, own].any()
    assert not on_top[2].present[:, own].any()


def test_a_listed_budget_skips_contexts_and_an_unlisted_one_only_counts(ask, world):
    units = ["swim_speed_up_38", "run_speed_up_3"]
    counted = ask(world, PAIRS, "and", candidate_tokens=units)
    listed = ["one_rung_per_family", "max_ap_budget"]
    skipped = ask(world, PAIRS, "and", candidate_tokens=units, constraints=listed)
    broken = counted.findings.diagnostics.constraint_violations[0]
    assert (broken.id, broken.hard) == ("max_ap_budget", False)
    assert counted.rows("pairs")[0]["n"] == 500
    assert skipped.rows("pairs")[0]["n"] == 500 - broken.contexts


@pytest.mark.parametrize("name", ["random_0", "random_1"])
@pytest.mark.parametrize("method", ["interventional", "observational"])
def test_a_random_direction_gets_nothing(ask, world, name, method):
    answer = ask(world, PAIRS, name, method=method, slice={"sample_size": 300} if method == "interventional" else {})
    assert answer.headline.startswith("nothing")
    assert answer.custom["verdict"] == "nothing_specific"
    assert answer.rows("synergies") == answer.rows("redundancies") == []


@pytest.mark.parametrize("method", ["interventional", "observational"])
def test_a_dead_feature_is_answered_without_a_pass(ask, world, method):
    dead = ask(world, PAIRS, "dead", method=method)
    assert dead.findings.findings[0].status == "dead"
    assert dead.job.passes_made == 0


def test_in_a_silent_slice_the_data_say_nothing_and_the_network_still_shows_the_pair(ask, world):
    silent = {"family_exclude": ["run_speed_up"], "sample_size": 60}
    data = ask(world, PAIRS, "and", method="observational", slice=silent)
    assert data.headline.startswith("nothing found: none of the")
    network = ask(world, PAIRS, "and", candidate_tokens=FOUR, slice=silent)
    assert set(network.custom["top_pair"]) == {"run_speed_up_12", "ink_resistance_up_12"}
    assert network.custom["top_interaction"] == pytest.approx(2.5)


def test_the_plan_announces_exactly_the_passes_of_given_candidates(fresh_world, feature):
    ctx, _ = fresh_world
    spec = spec_of(feature["or"], part={"sample_size": 70}, candidate_tokens=[*FOUR, "comeback"])
    planned, job = find(PAIRS).plan(spec, ctx), Job()
    find(PAIRS).run(spec, ctx, job)
    assert planned.forward_passes == job.passes_made
    assert planned.saved_passes == job.passes_saved
    assert find(PAIRS).plan(spec, ctx).forward_passes == 0


def test_the_plan_is_close_where_units_are_still_to_be_chosen_and_says_so(fresh_world, feature):
    ctx, _ = fresh_world
    spec = spec_of(feature["and"], part={"sample_size": 100}, n_candidates=8)
    planned, job = find(PAIRS).plan(spec, ctx), Job()
    assert any("a first pass chooses 8 of" in note for note in planned.notes)
    find(PAIRS).run(spec, ctx, job)
    assert planned.forward_passes == pytest.approx(job.passes_made, rel=0.1)
    assert find(PAIRS).plan(spec, ctx).forward_passes == 0


def test_results_do_not_depend_on_the_blocks_and_no_block_is_larger_than_it_may_be(ask, world, monkeypatch):
    whole = ask(world, PAIRS, "random_0", candidate_tokens=FOUR, slice={"sample_size": 50})
    asked: list[int] = []
    answer_sets = world.oracle.pooled
    monkeypatch.setattr(grid, "BLOCK_SETS", 401)
    monkeypatch.setattr(
        world.oracle, "pooled", lambda sets, job=None: (asked.append(len(sets)), answer_sets(sets, job))[1]
    )
    blocked = ask(world, PAIRS, "random_0", candidate_tokens=FOUR, slice={"sample_size": 50})
    assert max(asked) == 400
    assert blocked.rows("pairs") == whole.rows("pairs")


def test_progress_rises_to_its_total_and_a_cancelled_run_stops(world, feature):
    seen: list[tuple[int, int]] = []
    spec = spec_of(feature["and"], part={"sample_size": 60}, n_candidates=6)
    find(PAIRS).run(spec, world, Job(on_progress=lambda done, total, _: seen.append((done, total))))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1]
    with pytest.raises(Cancelled):
        find(PAIRS).run(spec, world, Job(is_cancelled=lambda: True))


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"candidate_tokens": ["comeback", "haunt"], "n_candidates": 3}, "exclude each other"),
        ({"candidate_tokens": []}, "candidate_tokens is empty"),
        ({"n_candidates": 1}, "n_candidates"),
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(variables, message):
    with pytest.raises(RequestError, match=message):
        spec_of(0, **variables)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"candidate_tokens": ["comeback", "swimspeed_up"]}, "did you mean 'swim_speed_up'"),
        ({"candidate_tokens": ["comeback"]}, "no two of the candidates fit"),
        ({"candidate_tokens": ["swim_speed_up_3", "swim_speed_up_6"]}, "no two of the candidates fit"),
        ({"candidate_tokens": ["comeback", "comeback"]}, "given twice"),
        ({"rung": 2}, "rung 2 is out of range"),
    ],
)
def test_a_wrong_candidate_is_refused_before_anything_runs(world, feature, variables, message):
    for act in (find(PAIRS).plan, lambda spec, ctx: find(PAIRS).run(spec, ctx, Job())):
        with pytest.raises(RequestError, match=message):
            act(spec_of(feature["and"], **variables), world)


def test_an_intervention_without_a_model_is_refused_and_the_data_still_answer(ask, world):
    ctx = Context("data only", Bundle.open(world.bundle.path))
    with pytest.raises(RequestError, match="needs the model"):
        ask(ctx, PAIRS, "and")
    answer = ask(ctx, PAIRS, "and", method="observational")
    assert answer.custom["top_pair"] == ["ink_resistance_up_12", "run_speed_up_12"]
    assert answer.findings.followups == []


def test_the_data_show_the_and_within_weapons_and_say_that_they_only_correlate(ask, world):
    answer = ask(world, PAIRS, "and", method="observational")
    row = answer.rows("synergies")[0]
    assert [row["unit_a"], row["unit_b"]] == ["ink_resistance_up_12", "run_speed_up_12"]
    assert (row["pattern"], row["status"]) == ("and", "present")
    assert row["specificity_p"] <= 0.05
    assert "CORRELATIONAL" in answer.headline
    assert row["responder_rate"] is None
    again = answer.findings.followups[0].spec
    assert again["variables"]["candidate_tokens"] == ["ink_resistance_up_12", "run_speed_up_12"]


def test_shuffling_the_activations_over_the_builds_destroys_the_interaction(ask, world, feature):
    found = 0
    values = np.array(world.activations(feature["and"])).reshape(-1, 2)
    for seed in range(10):
        ctx = Context("shuffled", Bundle.open(world.bundle.path), oracle=world.oracle)
        ctx._columns[feature["and"]] = values[np.random.default_rng(seed).permutation(len(values))].ravel()
        answer = ask(ctx, PAIRS, "and", method="observational")
        found += answer.custom["verdict"] != "nothing_specific"
    assert found <= 1


def test_additive_effects_show_no_interaction_in_the_data_however_often_units_occur_together(ask, world):
    answer = ask(world, PAIRS, "additive", method="observational")
    assert answer.headline.startswith("nothing")
    assert answer.row("pairs", unit_a="quick_super_jump_12", unit_b="ninja_squid")["status"] != "present"


def test_counts_and_lift_are_those_of_the_examples(ask, world):
    level = np.asarray(world.data.levels)
    a = level[:, world.vocabulary.family_index["run_speed_up"]] >= 6
    b = level[:, world.vocabulary.family_index["ink_resistance_up"]] >= 15
    for method in ("interventional", "observational"):
        units = ["run_speed_up_6", "ink_resistance_up"]
        answer = ask(world, PAIRS, "and", candidate_tokens=units, rung=15, method=method)
        row = answer.rows("pairs")[0]
        assert row["n_both"] == int((a & b).sum())
        assert row["cooccurrence_lift"] == pytest.approx((a & b).mean() / (a.mean() * b.mean()))


def test_a_pair_that_few_examples_hold_is_null_with_its_reason(ask, fresh_world):
    ctx, _ = fresh_world
    answer = ask(ctx, PAIRS, "and", method="observational", slice={"sample_size": 60})
    scarce = [row for row in answer.rows("pairs") if row["n_both"] < 20]
    assert scarce
    for row in scarce:
        assert (row["interaction"], row["status"], row["pattern"]) == (None, None, None)
        assert row["reason"] == "a cell has fewer than 20 examples or 10 builds"


def test_the_same_spec_gives_the_same_numbers(ask, world):
    first, second = (ask(world, PAIRS, "random_0", n_candidates=4, slice={"sample_size": 60}) for _ in range(2))
    assert first.findings == second.findings


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return load_context("demo", home=tmp_path_factory.mktemp("home"), device="cpu")


@pytest.mark.parametrize(
    ("feature", "pair", "pattern", "size"),
    [
        (2, {"swim_speed_up_12", "ink_resistance_up_12"}, "suppression", -2.2),
        (3, {"run_speed_up_12", "ink_resistance_up_12"}, "and", 2.5),
        (4, {"quick_super_jump_12", "stealth_jump"}, "and", 2.4),
        (5, {"special_power_up_12", "special_saver_12"}, "or", -2.0),
        (6, {"swim_speed_up_12", "ink_saver_main_12"}, "and", 2.4),
        (10, {"sub_resistance_up_12", "quick_super_jump_12"}, "and", 2.3),
    ],
)
def test_planted_pairs_are_found_in_the_network_among_six_chosen_units(ask, demo, feature, pair, pattern, size):
    answer = ask(demo, PAIRS, feature, n_candidates=6, slice={"sample_size": 150})
    assert set(answer.custom["top_pair"]) == pair
    assert answer.custom["top_pattern"] == pattern
    assert answer.custom["top_interaction"] == pytest.approx(size, rel=0.08)
    assert answer.custom["specificity_p"] <= 0.05
    assert answer.custom["winner_confirmed"] is True


@pytest.mark.parametrize("feature", [13, 14, 15])
@pytest.mark.parametrize("method", ["interventional", "observational"])
def test_random_directions_of_the_network_get_nothing(ask, demo, feature, method):
    variables = {"n_candidates": 6} if method == "interventional" else {}
    part = {"sample_size": 150} if method == "interventional" else {}
    answer = ask(demo, PAIRS, feature, method=method, slice=part, **variables)
    assert answer.headline.startswith("nothing")


@pytest.mark.parametrize(
    ("feature", "rung", "pair"),
    [
        (3, 12, {"run_speed_up_12", "ink_resistance_up_12"}),
        (4, 12, {"quick_super_jump_12", "stealth_jump"}),
        (6, 12, {"swim_speed_up_12", "ink_saver_main_12"}),
        (3, 6, {"run_speed_up_6", "ink_resistance_up_6"}),
        (10, 3, {"sub_resistance_up_3", "quick_super_jump_3"}),
    ],
)
def test_planted_ands_are_found_in_the_data_among_all_units(ask, demo, feature, rung, pair):
    answer = ask(demo, PAIRS, feature, method="observational", rung=rung)
    assert set(answer.custom["top_pair"]) == pair
    assert answer.custom["top_pattern"] == "and"
    assert answer.custom["specificity_p"] <= 0.05
