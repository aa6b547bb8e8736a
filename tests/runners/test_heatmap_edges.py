"""Where a heatmap can say little or nothing, and the columns that say how sure each cell is."""

from __future__ import annotations

import numpy as np
import pytest
from mechinterp_runner.context.contexts import load_context
from mechinterp_runner.runners.parts.heatmap import effects as hot
from scipy import stats

HEATMAP = "family_2d_heatmap"
CENSUS = "all examples of the slice were run: no sampling error is left"


def level(world, family: str, rows=slice(None)) -> np.ndarray:
    return np.asarray(world.data.levels[rows, world.vocabulary.family_index[family]]).astype(int)


def sampled(world, n: int) -> np.ndarray:
    return np.sort(np.random.default_rng([0, 1]).choice(len(world.data), n, replace=False))


def notes_of(answer) -> list[str]:
    return next(table.notes for table in answer.findings.tables if table.name == "heatmap")


@pytest.fixture
def heat(ask):
    return lambda ctx, rule, x, y, **given: ask(ctx, HEATMAP, rule, family_x=x, family_y=y, **given)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return load_context("demo", home=tmp_path_factory.mktemp("home"), device="cpu")


def test_without_a_judged_interaction_not_even_that_there_is_no_pattern_can_be_said(heat, demo):
    active = {"activation_threshold": 0}
    answer = heat(demo, 3, "run_speed_up", "ink_resistance_up", method="observational", slice=active)
    assert not any(row["interaction_status"] for row in answer.rows("heatmap"))
    assert answer.custom["pattern"] is None
    assert "20 examples in 10 builds" in answer.custom["pattern_reason"]
    assert answer.headline.startswith("nothing can be said")


def test_fewer_than_20_contexts_name_no_pattern(heat, world):
    few = heat(world, "and", "swim_speed_up", "haunt", rungs_x=[6], slice={"sample_size": 19})
    assert (few.custom["pattern"], few.custom["pattern_reason"]) == (None, "fewer than 20 contexts: no verdict")
    enough = heat(world, "and", "swim_speed_up", "haunt", rungs_x=[6], slice={"sample_size": 20})
    assert (enough.custom["pattern"], enough.custom["pattern_reason"]) == ("none", None)


def test_sparse_cells_that_differ_are_not_denied(heat, demo):
    answer = heat(demo, 9, "ink_saver_sub", "comeback", method="observational", slice={"sample_size": 600})
    large = [row for row in answer.rows("heatmap") if row["delta"] is not None and abs(row["delta"]) > 0.101]
    assert large
    assert all(row["delta_status"] is None for row in large)
    assert answer.headline.startswith("nothing certain above 0.10 found")
    assert f"{len(large)} cells above it have too few examples to judge" in answer.headline


def test_rows_without_a_p_value_are_counted_in_a_note(heat, world):
    answer = heat(world, "xor", "intensify_action", "haunt", method="observational")
    rows = answer.rows("heatmap")
    cells = [row for row in rows if (row["x"], row["y"]) != (0, 0)]
    missing = sum(row["delta_p_value"] is None for row in cells)
    crossed = sum(row["interaction_p_value"] is None for row in rows if row["x"] and row["y"])
    assert missing > 0
    assert f"{missing} cells without a p value: left out of q" in notes_of(answer)
    assert f"{crossed} interactions without a p value: left out of q" in notes_of(answer)
    p = [row["delta_p_value"] for row in cells if row["delta_p_value"] is not None]
    q = [row["delta_q_value"] for row in cells if row["delta_p_value"] is not None]
    assert q == pytest.approx(stats.false_discovery_control(p).tolist())
    for row in cells:
        if row["delta_p_value"] is not None:
            assert (row["delta_p_value"] < 0.05) is (row["delta_ci_low"] > 0 or row["delta_ci_high"] < 0)
            assert row["delta_low"] <= row["delta_ci_low"] <= row["delta"] <= row["delta_ci_high"] <= row["delta_high"]


def test_each_delta_and_interaction_has_the_error_interval_p_and_rate_of_scipy(heat, world):
    rows, part = sampled(world, 400), {"rungs_x": [6], "slice": {"sample_size": 400}}
    answer = heat(world, "modulated", "quick_super_jump", "tenacity", **part)
    d = np.where(level(world, "sub_resistance_up", rows) >= 6, 2.4, 0.0)
    assert (d > 0).sum() >= 30
    error = stats.sem(d) * np.sqrt(1 - 400 / len(world.data))
    low, high = stats.t.interval(0.95, 399, d.mean(), error)
    p = 2 * stats.t.sf(d.mean() / error, 399)
    rate = stats.binomtest(int((d > 0).sum()), 400).proportion_ci(method="exact")
    single = answer.row("heatmap", x=6, y=0)
    both = answer.row("heatmap", x=6, y=10)
    for row, name, sign in ((single, "delta", 1), (both, "interaction", -1)):
        assert row[f"{name}_std_error"] == pytest.approx(error, rel=1e-5)
        assert sorted(sign * row[f"{name}_ci_{end}"] for end in ("low", "high")) == pytest.approx([low, high], rel=1e-5)
        assert row[f"{name}_p_value"] == pytest.approx(p, rel=1e-4)
        assert row[f"{name}_responder_low"] == pytest.approx(rate.low, rel=1e-6)
        assert row[f"{name}_responder_high"] == pytest.approx(rate.high, rel=1e-6)
    found = [answer.row("heatmap", x=x, y=y)["delta_q_value"] for x, y in ((0, 10), (6, 0), (6, 10))]
    assert found == pytest.approx(stats.false_discovery_control([1.0, p, 1.0]).tolist(), rel=1e-4)


def test_contexts_that_lose_another_ability_of_the_slot_are_counted_in_a_note(heat, world):
    part = {"rungs_x": [6], "slice": {"sample_size": 200}}
    answer = heat(world, "main_only", "swim_speed_up", "comeback", **part)
    lost = int((level(world, "tenacity", sampled(world, 200)) > 0).sum())
    assert lost > 0
    note = f"comeback takes the head slot: another head ability was taken out of {lost} of 200 contexts"
    assert note in answer.findings.diagnostics.notes
    plain = heat(world, "main_only", "swim_speed_up", "quick_respawn", rungs_y=[6], **part)
    assert not any("slot" in note for note in plain.findings.diagnostics.notes)


def test_where_all_examples_are_run_a_note_says_that_no_sampling_error_is_left(heat, world):
    kit = {"weapon_filter": [40]}
    n = int((np.asarray(world.data.weapon) == world.weapons.resolve(40)).sum())
    answer = heat(world, "and", "run_speed_up", "haunt", rungs_x=[6], slice=kit)
    assert {row["n"] for row in answer.rows("heatmap")} == {n}
    assert {row["std_error"] for row in answer.rows("heatmap")} == {0.0}
    assert CENSUS in answer.findings.diagnostics.notes
    some = heat(world, "and", "run_speed_up", "haunt", rungs_x=[6], slice=kit | {"sample_size": n - 1})
    assert CENSUS not in some.findings.diagnostics.notes


def test_a_peak_is_confirmed_on_the_half_that_did_not_choose_it_and_noise_seldom_is():
    rng = np.random.default_rng(3)
    planted = rng.normal(0, 1, (9, 200))
    planted[4] += 1.5
    assert hot.peak_confirmed(planted, np.random.default_rng(0)) is True
    assert hot.peak_confirmed(planted[:, :39], np.random.default_rng(0)) is None
    noise = [hot.peak_confirmed(rng.normal(0, 1, (9, 80)), np.random.default_rng(i)) for i in range(200)]
    assert np.mean([each is True for each in noise]) <= 0.08
