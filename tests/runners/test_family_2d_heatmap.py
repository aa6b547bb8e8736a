"""The heatmap of two families against rules whose cells can be worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import statsmodels.api as sm
from mechinterp_runner.context.contexts import load_context
from mechinterp_runner.context.directions import RandomDirections
from mechinterp_runner.runners.design.specificity import NullEffects
from mechinterp_runner.runners.parts.heatmap import effects as hot
from mechinterp_runner.runners.parts.heatmap.grid import make_grid, write_cells
from mechinterp_runner.runners.stats.cells import Grouping
from mechinterp_runner.runners.stats.fixed_effects import FixedEffects
from mechinterp_runner.runners.stats.moments import Moments
from mechinterp_runner.schemas.catalogue import find
from mechinterp_runner.schemas.errors import RequestError
from mechinterp_runner.schemas.facts import WEAPONS
from mechinterp_runner.schemas.job import Job
from mechinterp_runner.schemas.spec import parse_spec
from mechinterp_runner.schemas.vocabulary import Vocabulary
from scipy import stats

HEATMAP = "family_2d_heatmap"
TINY = SimpleNamespace(vocabulary=Vocabulary.from_mapping({"a_family_5": 0, "b_family_7": 1, "<NULL>": 2, "<PAD>": 3}))


def sampled(world, n: int, among=None) -> np.ndarray:
    among = np.arange(len(world.data)) if among is None else among
    return np.sort(np.random.default_rng([0, 1]).choice(among, n, replace=False))


def level(world, family: str, rows=slice(None)) -> np.ndarray:
    return np.asarray(world.data.levels[rows, world.vocabulary.family_index[family]]).astype(int)


def cell(answer, x: int, y: int) -> dict:
    return answer.row("heatmap", x=x, y=y)


@pytest.fixture
def heat(ask):
    return lambda ctx, rule, x, y, **given: ask(ctx, HEATMAP, rule, family_x=x, family_y=y, **given)


@pytest.mark.parametrize(
    ("rule", "x", "y", "pattern", "interaction", "words"),
    [
        ("and", "run_speed_up", "ink_resistance_up", "and", 2.5, "drive feature 2 only together"),
        ("or", "special_saver", "special_power_up", "or", -2.0, "either special_saver (SS) or special_power_up"),
        ("xor", "intensify_action", "haunt", "xor", -4.0, "alone and not together"),
        ("suppressed", "swim_speed_up", "ink_saver_sub", "suppression", -2.0, "(ISS) takes that away"),
        ("suppressed", "ink_saver_sub", "swim_speed_up", "suppression", -2.0, "(ISS) takes that away"),
        ("dampened", "swim_speed_up", "ink_saver_main", "floor_artifact", -0.9, "through its floor"),
    ],
)
def test_the_pattern_of_two_parts_of_a_rule_is_named(heat, world, rule, x, y, pattern, interaction, words):
    answer = heat(world, rule, x, y, slice={"sample_size": 400})
    found = answer.custom
    assert found["pattern"] == pattern
    assert found["max_interaction"] == pytest.approx(interaction, abs=1e-6)
    assert found["max_interaction_low"] - 1e-6 <= interaction <= found["max_interaction_high"] + 1e-6
    assert found["verdict"] == "present"
    assert found["specificity_p"] <= 0.05
    assert words in answer.headline
    assert "400 contexts of all examples; interventional" in answer.headline


@pytest.mark.parametrize(
    ("rule", "x", "y", "alone"),
    [
        ("threshold", "special_charge_up", "swim_speed_up", (1.5, 0.0)),
        ("dose", "swim_speed_up", "quick_respawn", (0.0, 3.0)),
        ("additive", "quick_super_jump", "ninja_squid", (1.2, 1.5)),
        ("main_only", "comeback", "ninja_squid", (1.5, 0.0)),
    ],
)
def test_effects_that_add_up_are_additive_and_no_interaction_is_found(heat, world, rule, x, y, alone):
    answer = heat(world, rule, x, y)
    assert (answer.custom["x_alone"], answer.custom["y_alone"]) == pytest.approx(alone, abs=1e-6)
    assert answer.custom["pattern"] == "additive"
    assert answer.custom["max_interaction"] == pytest.approx(0.0, abs=1e-6)
    assert answer.custom["peak_activation"] == pytest.approx(sum(alone), abs=1e-6)
    assert answer.custom["peak_confirmed"] is True
    assert "no interaction found" in answer.headline
    assert {each.spec["type"] for each in answer.findings.followups} == {"family_1d_sweep"}


def test_every_cell_equals_a_loop_over_the_contexts_that_applies_the_rule(heat, world):
    answer = heat(world, "modulated", "quick_super_jump", "tenacity", rungs_x=[3, 6], slice={"sample_size": 150})
    partner = level(world, "sub_resistance_up", sampled(world, 150))
    assert [(row["x"], row["y"]) for row in answer.rows("heatmap")] == [(x, y) for x in (0, 3, 6) for y in (0, 10)]
    for row in answer.rows("heatmap"):
        each = np.array([2.4 if row["x"] >= 6 and other >= 6 and row["y"] == 0 else 0.0 for other in partner])
        assert row["mean_activation"] == pytest.approx(each.mean(), abs=1e-6)
        assert row["std_error"] == pytest.approx(stats.sem(each) * np.sqrt(1 - 150 / len(world.data)), abs=1e-6)
        assert (row["n"], row["n_active"]) == (150, int((each > 0).sum()))
        assert row["active_rate"] == pytest.approx((each > 0).mean())
        assert row["mean_when_active"] == (pytest.approx(2.4, abs=1e-5) if (each > 0).any() else None)
    expected = np.mean([2.4 if other >= 6 else 0.0 for other in partner])
    assert cell(answer, 6, 0)["delta"] == pytest.approx(expected, abs=1e-6)
    for name in ("interaction", "interaction_pre"):
        assert cell(answer, 6, 10)[name] == pytest.approx(-expected, abs=1e-6)


def test_the_interaction_is_the_contrast_of_the_four_means_and_shapiqs_order_2_index(heat, world):
    from shapiq import ExactComputer

    for rule, x, y in (("xor", "intensify_action", "haunt"), ("dampened", "swim_speed_up", "ink_saver_main")):
        answer = heat(world, rule, x, y, rungs_x=[3, 6], slice={"sample_size": 60})
        for row in (row for row in answer.rows("heatmap") if row["x"] and row["y"]):
            ends = ((0, 0), (row["x"], 0), (0, row["y"]), (row["x"], row["y"]))
            f = np.array([cell(answer, *each)["mean_activation"] for each in ends])
            game = lambda sets, f=f: f[np.atleast_2d(sets).astype(int) @ [1, 2]]  # noqa: E731
            index = ExactComputer(n_players=2, game=game)("SII", order=2)[(0, 1)]
            assert row["interaction"] == pytest.approx(index, abs=1e-5)
            assert row["interaction"] == pytest.approx(f[3] - f[1] - f[2] + f[0], abs=1e-5)


def test_a_hand_computed_2x2_table_gives_its_contrast_per_context():
    grid = make_grid(TINY, ("a_family", "b_family"), ((5,), (7,)))
    assert grid.cells == ((0, 0), (5, 0), (0, 7), (5, 7))
    values = np.array([[0.0, 1.0], [2.0, 1.0], [0.5, 4.0], [6.0, 2.0]])
    assert hot.contrasts(values, grid.pairs).tolist() == [[3.5, -2.0]]
    assert (grid.pairs.matrix(4) @ np.array([2.0, 0.5, 6.0])).tolist() == [3.5]


def test_two_main_only_abilities_of_different_slots_make_four_cells(heat, world):
    answer = heat(world, "additive", "ninja_squid", "comeback")
    assert [(row["x"], row["y"]) for row in answer.rows("heatmap")] == [(0, 0), (0, 10), (10, 0), (10, 10)]
    assert cell(answer, 10, 10)["delta"] == pytest.approx(1.5, abs=1e-6)
    assert answer.headline.startswith("ninja_squid (NS) drives feature 13: +1.50 [1.50, 1.50]; C alone ")
    base = cell(answer, 0, 0)
    assert (base["delta"], base["delta_status"], base["interaction"]) == (0.0, None, None)
    assert "by definition" in base["reason"]
    assert cell(answer, 10, 0)["interaction"] is None


def test_a_main_only_ability_clears_its_slot_so_that_no_context_is_skipped(heat, world):
    rows = sampled(world, 300)
    assert (level(world, "tenacity", rows) > 0).sum() > 20
    answer = heat(world, "modulated", "quick_super_jump", "comeback", rungs_x=[6], slice={"sample_size": 300})
    assert all(row["n"] == 300 for row in answer.rows("heatmap"))
    assert "valid_gear_combinations" not in {v.id for v in answer.findings.diagnostics.constraint_violations}
    # Tenacity shares comeback's slot and would modulate: it is out of every cell.
    expected = 2.4 * np.mean(level(world, "sub_resistance_up", rows) >= 6)
    assert cell(answer, 6, 0)["delta"] == pytest.approx(expected, abs=1e-6)
    assert cell(answer, 6, 10)["interaction"] == pytest.approx(0.0, abs=1e-6)


def test_two_main_only_abilities_of_one_slot_cannot_be_crossed(heat, world):
    with pytest.raises(RequestError, match=r"same gear slot.*no build can hold both.*Nothing was run"):
        heat(world, "main_only", "comeback", "tenacity")
    answer = heat(world, "main_only", "comeback", "tenacity", method="observational")
    empty = cell(answer, 10, 10)
    assert (empty["n"], empty["mean_activation"], empty["delta"], empty["interaction"]) == (0, None, None, None)
    assert "no example" in empty["reason"]
    assert (answer.custom["n_empty_cells"], answer.custom["pattern"]) == (1, None)
    assert any("share a gear slot" in warning for warning in answer.job.warnings)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"family_y": "swim_speed_up"}, "are both 'swim_speed_up'"),
        ({"family_x": "swim_speed"}, "did you mean 'swim_speed_up'"),
        ({"rungs_x": [0]}, "rungs_x holds no level above 0"),
        ({"rungs_y": [2]}, "out of range"),
        ({"stable_tokens": ["comeback"]}, "is what is varied"),
        ({"stable_tokens": ["tenacity"]}, "takes the gear slot of 'comeback'"),
        ({"base_weapon": "Splatershot"}, "unknown weapon"),
        ({"base_weapon": 40, "stable_tokens": ["weapon_id_41"]}, "one weapon is allowed"),
        ({"base_weapon": 40, "method": "observational"}, "base_weapon is written into builds"),
        ({"encoding": "single", "method": "observational"}, "encoding is written into builds"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(ask, world, variables, message):
    fields = {"family_x": "swim_speed_up", "family_y": "comeback"} | variables
    with pytest.raises(RequestError, match=message):
        ask(world, HEATMAP, "main_only", **fields)
    with pytest.raises(RequestError, match=message):
        find(HEATMAP).plan(parse_spec({"type": HEATMAP, "feature_id": 0, "variables": fields}), world)


def test_the_base_weapon_is_set_in_all_conditions(heat, world):
    for weapon in (11, "weapon_id_11", WEAPONS[11].name):
        answer = heat(world, "weapon", "swim_speed_up", "comeback", base_weapon=weapon, slice={"sample_size": 60})
        assert {row["mean_activation"] for row in answer.rows("heatmap")} == {2.0}
        assert f"all on {WEAPONS[11].name}" in answer.headline


def test_stable_tokens_hold_in_every_cell(heat, world):
    pair, part = ("quick_super_jump", "sub_resistance_up"), {"rungs_x": [6], "rungs_y": [6]}
    held = heat(world, "modulated", *pair, stable_tokens=["tenacity"], **part)
    assert cell(held, 6, 6)["delta"] == 0.0
    assert held.headline.startswith("nothing")
    assert "each with tenacity" in held.headline
    free = heat(world, "modulated", *pair, stable_tokens=["comeback"], slice={"sample_size": 100}, **part)
    skipped = int((level(world, "tenacity", sampled(world, 100)) > 0).sum())
    assert cell(free, 6, 6)["n"] == 100 - skipped < 100
    assert cell(free, 6, 6)["interaction"] == pytest.approx(2.4, abs=1e-6)


def test_levels_are_written_as_asked_resolved_downwards_alone_or_on_top(heat, world):
    answer = heat(world, "threshold", "special_charge_up", "haunt", rungs_x=[38, 41], slice={"sample_size": 60})
    assert {(row["x"], row["resolved_x"]) for row in answer.rows("heatmap")} == {(0, 0), (38, 38), (41, 38)}
    assert cell(answer, 41, 10)["delta"] == cell(answer, 38, 10)["delta"]
    assert any("rung 41 of special_charge_up" in warning for warning in answer.job.warnings)
    part = {"rungs_x": [12], "slice": {"sample_size": 60}}
    assert cell(heat(world, "gap", "swim_speed_up", "haunt", **part), 12, 0)["delta"] == 0.0
    single = heat(world, "gap", "swim_speed_up", "haunt", encoding="single", **part)
    assert cell(single, 12, 0)["delta"] == pytest.approx(2.0)
    # Without one_rung_per_family a level is written on top of what the context holds.
    part = {"rungs_x": [3], "slice": {"family_filter": ["special_charge_up"], "sample_size": 300}}
    assert cell(heat(world, "threshold", "special_charge_up", "haunt", **part), 3, 0)["delta"] == 0.0
    on_top = heat(world, "threshold", "special_charge_up", "haunt", constraints=[], **part)
    rows = sampled(world, 300, np.flatnonzero(level(world, "special_charge_up") > 0))
    expected = 1.5 * np.mean(level(world, "special_charge_up", rows) >= 29)
    assert cell(on_top, 3, 0)["delta"] == pytest.approx(expected, abs=1e-6)
    assert cell(on_top, 0, 0)["mean_activation"] == 0.0


def test_a_conditional_interaction_is_read_off_the_contexts_in_which_it_acts(heat, world):
    answer = heat(world, "modulated", "quick_super_jump", "tenacity", min_effect=1.0)
    assert answer.custom["max_interaction_status"] == answer.custom["verdict"] == "conditional"
    assert answer.custom["pattern"] == "suppression"
    assert answer.custom["pattern_cells"] == pytest.approx([0.0, 2.4, 0.0, 0.0], abs=1e-5)
    rate = answer.custom["max_interaction_responder_rate"]
    assert f"-2.40 in {rate:.1%} of contexts" in answer.headline
    assert "in some contexts only" in answer.findings.followups[0].reason


def test_few_changed_contexts_bound_an_interaction_by_its_range_of_12():
    d = np.zeros((1, 200))
    d[0, :5] = 8.0
    found = hot.measure(d, d, terms=2, population=10_000, min_effect=0.1, null=None, seed=0)
    assert found.mean[0] == pytest.approx(0.2)
    assert found.high[0] == pytest.approx(12 * stats.beta.ppf(0.975, 6, 195), rel=1e-6)


def test_an_interaction_that_does_not_act_is_additive_only_when_small_beside_the_effects():
    near = {"pre_status": "unclear", "min_effect": 0.1, "status": None}
    means = np.array([0.0, 2.0, 0.0, 2.05])
    assert hot.name_pattern(means, 3, bounds=(-0.1, 0.3), **near).name == "additive"
    assert hot.name_pattern(means, 3, bounds=(-0.1, 0.9), **near).name == "other"


def test_random_directions_are_measured_as_a_loop_over_cells_and_contexts_does(monkeypatch):
    rng = np.random.default_rng(5)
    nulls = RandomDirections.from_reference(rng.normal(size=(500, 4)), k=6)
    ctx = SimpleNamespace(random_directions=lambda: nulls, effective_max=lambda _: 3.0, active_rate=lambda _: 0.4)
    grid = make_grid(TINY, ("a_family", "b_family"), ((5,), (7,)))
    pooled = rng.normal(size=(4, 70, 4))
    monkeypatch.setattr(hot, "_BLOCK", 16)
    effects, crossed = hot.random_effects(ctx, 0, pooled, grid.pairs, min_effect=0.3, job=Job())
    a = np.stack([nulls.matched(0.4, 3.0).activation(each) for each in pooled])
    for k in range(6):
        both = a[3, :, k] - a[1, :, k] - a[2, :, k] + a[0, :, k]
        single = max(abs((a[i, :, k] - a[0, :, k]).mean()) for i in (1, 2, 3))
        assert effects.largest_mean[k] == pytest.approx(single)
        assert crossed.largest_mean[k] == pytest.approx(abs(both.mean()))
        assert crossed.largest_responders[k] == pytest.approx(abs(both[np.abs(both) > 0.3].mean()))


def test_a_feature_drawn_as_the_random_directions_are_is_headlined_about_5_times_in_100(world):
    grid = make_grid(world, ("swim_speed_up", "quick_respawn"), ((6, 57), (6, 57)))
    sets = write_cells(world.sets(sampled(world, 120)), grid, world, encoding="thermometer", clear=True)
    a = np.stack([world.random_directions().matched(0.06, 3.0).activation(world.oracle.pooled(one)) for one in sets])
    headlined = np.zeros(a.shape[2], dtype=bool)
    for terms, d in enumerate((a[1:] - a[0], hot.contrasts(a, grid.pairs)), start=1):
        beyond = np.abs(d) > 0.15
        there = np.abs((d * beyond).sum(axis=1)) / np.maximum(beyond.sum(axis=1), 1) * (beyond.mean(axis=1) >= 0.01)
        largest = np.abs(d.mean(axis=1)).max(axis=0), there.max(axis=0)
        for k in range(0, len(headlined), 2):
            null = NullEffects(*(np.delete(each, k) for each in largest))
            one = d[:, :, k]
            found = hot.measure(one, one, terms=terms, population=3000, min_effect=0.15, null=null, seed=0)
            headlined[k] |= bool(found.acting())
    assert headlined[::2].mean() <= 0.08


@pytest.mark.parametrize("method", ["interventional", "observational"])
def test_random_directions_and_families_outside_the_rule_get_nothing(heat, world, method):
    pairs = ("random_0", "quick_respawn", "comeback"), ("random_1", "special_saver", "haunt")
    for rule, x, y in (*pairs, ("random_0", "swim_speed_up", "run_speed_up"), ("and", "swim_speed_up", "comeback")):
        answer = heat(world, rule, x, y, method=method)
        assert answer.headline.startswith("nothing")
        judged = any(row["interaction_status"] for row in answer.rows("heatmap"))
        assert (answer.custom["verdict"], answer.custom["pattern"]) == ("nothing_specific", "none" if judged else None)
        assert answer.findings.followups == []


def test_a_dead_feature_and_a_silent_slice_answer_with_the_reason(heat, world):
    dead = heat(world, "dead", "swim_speed_up", "comeback")
    assert dead.findings.findings[0].status == "dead"
    assert dead.rows("heatmap") == []
    part = {"family_exclude": ["comeback"], "sample_size": 60}
    written = heat(world, "main_only", "swim_speed_up", "comeback", rungs_x=[6], slice=part)
    assert (cell(written, 0, 0)["mean_activation"], cell(written, 0, 10)["delta"]) == pytest.approx((0.0, 1.5))
    silent = heat(world, "main_only", "swim_speed_up", "comeback", method="observational", slice=part)
    assert silent.headline.startswith("nothing found")
    assert "none of the" in silent.custom["reason"]


def test_cells_that_the_budget_forbids_are_dropped_from_the_top_and_say_so(heat, world):
    listed = ["one_rung_per_family", "max_ap_budget"]
    answer = heat(world, "and", "run_speed_up", "ink_resistance_up", constraints=listed)
    top = cell(answer, 57, 57)
    assert (top["n"], top["mean_activation"]) == (0, None)
    assert "constraints leave too few contexts" in top["reason"]
    assert cell(answer, 6, 6)["interaction"] == pytest.approx(2.5, abs=1e-6)
    assert answer.custom["n_empty_cells"] == sum(row["n"] == 0 for row in answer.rows("heatmap")) > 0
    bare = heat(world, "and", "run_speed_up", "ink_resistance_up", rungs_x=[57], rungs_y=[57], constraints=listed)
    assert (bare.custom["max_interaction"], bare.custom["max_interaction_reason"]) == (None, "no cell holds both")


def test_the_plan_announces_the_passes_the_run_makes_and_the_same_spec_gives_the_same_numbers(fresh_world):
    ctx, _ = fresh_world
    fields = {"type": HEATMAP, "feature_id": 2, "dataset_slice": {"sample_size": 80}}
    spec = parse_spec(fields | {"variables": {"family_x": "run_speed_up", "family_y": "haunt"}})
    announced, job = find(HEATMAP).plan(spec, ctx), Job()
    first = find(HEATMAP).run(spec, ctx, job)
    assert (announced.forward_passes, announced.saved_passes) == (job.passes_made, job.passes_saved)
    assert find(HEATMAP).plan(spec, ctx).forward_passes == 0
    assert find(HEATMAP).run(spec, ctx, Job()).model_dump() == first.model_dump()


def test_observational_cells_equal_a_plain_loop_and_statsmodels_within_weapon(heat, world, feature):
    answer = heat(world, "random_0", "intensify_action", "haunt", method="observational")
    x, y, weapon = level(world, "intensify_action"), level(world, "haunt"), np.asarray(world.data.weapon)
    a, builds = world.activations(feature["random_0"]).astype(float), np.asarray(world.data.build_id)
    pairs = sorted({*zip(x.tolist(), y.tolist(), strict=True)} - {(0, 0)})
    dummies, k = np.stack([(x == p) & (y == q) for p, q in pairs], axis=1).astype(float), len(pairs)
    design = np.hstack([dummies, (weapon[:, None] == np.unique(weapon)).astype(float)])
    fit = sm.OLS(a, design).fit(cov_type="cluster", cov_kwds={"groups": builds})
    label = weapon * (k + 1) + dummies.astype(int) @ np.arange(1, k + 1)
    grouping = Grouping.of(label, (int(weapon.max()) + 1) * (k + 1), builds)
    own = FixedEffects.of(grouping.cells, k + 1).fit(Moments.of(grouping.sums(a)))
    np.testing.assert_allclose(own.covariance, np.asarray(fit.cov_params())[:k, :k], rtol=1e-6, atol=1e-12)
    assert sum(row["n"] for row in answer.rows("heatmap")) == len(world.data)
    for row in answer.rows("heatmap"):
        here = (row["x"], row["y"])
        values = [float(a[i]) for i in range(len(a)) if (x[i], y[i]) == here]
        assert (row["n"], row["n_active"], row["n_data"]) == (len(values), sum(v > 0 for v in values), len(values))
        assert row["mean_activation"] == (pytest.approx(np.mean(values), rel=1e-5) if values else None)
        if len(values) < 20:
            assert (row["sparse"], row["delta_status"], row["interaction_status"]) == (True, None, None)
            assert row["reason"]
        if values and here != (0, 0):
            assert row["delta"] == pytest.approx(fit.params[pairs.index(here)], abs=1e-6)
        if row["interaction"] is not None:
            contrast = np.zeros(len(fit.params))
            contrast[[pairs.index(cell) for cell in (here, (row["x"], 0), (0, row["y"]))]] = 1, -1, -1
            expected = fit.t_test(contrast)
            assert row["interaction"] == pytest.approx(expected.effect.item(), abs=1e-6)
            # Simultaneous, and guarded where few are active: never narrower than statsmodels' own interval.
            assert row["interaction_high"] - row["interaction"] >= 1.96 * expected.sd.item()


def test_an_xor_is_seen_in_the_data_and_its_followup_asks_the_network(heat, world):
    answer = heat(world, "xor", "intensify_action", "haunt", method="observational")
    assert "CORRELATIONAL" in answer.headline
    assert (answer.custom["pattern"], answer.custom["verdict"]) == ("xor", "present")
    assert cell(answer, answer.custom["peak_x"], answer.custom["peak_y"])["n"] >= 20
    assert answer.findings.followups[0].spec["variables"]["method"] == "interventional"
    few = heat(world, "xor", "intensify_action", "haunt", rungs_x=[6], method="observational")
    left_out = int((~np.isin(level(world, "intensify_action"), [0, 6])).sum())
    assert any(warning.startswith(f"{left_out:,} examples are at levels") for warning in few.job.warnings)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return load_context("demo", home=tmp_path_factory.mktemp("home"), device="cpu")


@pytest.mark.parametrize(
    ("rule", "x", "y", "pattern", "interaction"),
    [
        (0, "special_charge_up", "ink_recovery_up", "additive", 0.0),
        (2, "swim_speed_up", "ink_resistance_up", "suppression", -2.2),
        (3, "run_speed_up", "ink_resistance_up", "and", 2.5),
        (4, "quick_super_jump", "stealth_jump", "and", 2.4),
        (5, "special_power_up", "special_saver", "or", -2.0),
        (13, "special_charge_up", "swim_speed_up", "none", None),
        (15, "comeback", "quick_respawn", "none", None),
    ],
)
def test_the_demo_shows_its_planted_pairs_in_the_network_and_in_the_data(heat, demo, rule, x, y, pattern, interaction):
    done = heat(demo, rule, x, y, slice={"sample_size": 60}, rungs_x=[12, 29], rungs_y=[12, 29])
    data = heat(demo, rule, x, y, method="observational")
    for answer in (done, data):
        assert answer.custom["pattern"] == pattern
        assert answer.headline.startswith("nothing") is (interaction is None)
        assert interaction is None or answer.custom["max_interaction"] == pytest.approx(interaction, abs=0.08)
