"""Where nineteen in twenty examples are inactive, every baseline is that of the whole population."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

FEATURE = "and"
OUTSIDER = "swim_speed_up"


@pytest.fixture(scope="module")
def truth(world, feature):
    """The activation, and which examples are high, by plain counting."""
    activation = np.asarray(world.activations(feature[FEATURE]), dtype=np.float64)
    active = np.sort(activation[activation > 0])
    assert (activation == 0).mean() > 0.9
    return activation, (activation >= np.quantile(active, 0.9)) & (activation > 0)


def held(world, family):
    return np.asarray(world.data.levels[:, world.vocabulary.family_index[family]]) > 0


def test_means_without_an_ability_are_over_everybody_without_it(ask, world, truth):
    activation, high = truth
    answer = ask(world, "binary_presence_effect", FEATURE, method="observational")
    row = answer.row("binary_effects", ability="comeback")
    has = held(world, "comeback")
    assert row["mean_without"] == pytest.approx(activation[~has].mean())
    assert row["mean_with"] == pytest.approx(activation[has].mean())
    assert row["n_absent"] == int((~has).sum())
    assert row["baseline_rate"] == pytest.approx(has[~high].mean())
    assert row["high_rate"] == pytest.approx(has[high].mean())


def test_low_rates_are_over_everything_that_is_not_high(ask, world, truth):
    _, high = truth
    answer = ask(world, "token_influence_sweep", FEATURE, method="observational")
    row = answer.row("all_tokens", token=OUTSIDER)
    assert row["low_rate"] == pytest.approx(held(world, OUTSIDER)[~high].mean())
    assert row["n_absent"] == int((~held(world, OUTSIDER)).sum())
    assert answer.custom["n_baseline"] == int((~high).sum())


def test_baseline_supports_are_over_everything_that_is_not_high(ask, world, truth):
    _, high = truth
    rows = ask(world, "frequent_itemsets", FEATURE, max_size=2, top_k=200).rows("itemsets")
    single = next(row for row in rows if row["tokens"] == [OUTSIDER])
    both = next(row for row in rows if set(row["tokens"]) == {"run_speed_up", "ink_resistance_up"})
    pair = held(world, "run_speed_up") & held(world, "ink_resistance_up")
    assert single["support_baseline"] == pytest.approx(held(world, OUTSIDER)[~high].mean())
    assert both["support_baseline"] == pytest.approx(pair[~high].mean())
    assert both["support_high"] == pytest.approx(1.0)


def test_shares_of_weapons_among_the_low_are_over_everything_that_is_not_high(ask, world, truth):
    _, high = truth
    weapon = np.asarray(world.data.weapon)
    for row in ask(world, "weapon_group_analysis", FEATURE, top_k=100).rows("weapon_enrichment"):
        of = weapon == world.weapons.weapon_ids.index(row["weapon_id"])
        assert row["n_low"] == int((of & ~high).sum())
        assert row["share_low"] == pytest.approx(of[~high].mean())


def test_base_rates_of_tokens_are_over_the_whole_population(ask, world, truth):
    activation, _ = truth
    row = ask(world, "core_coverage_analysis", FEATURE, tokens_to_check=[OUTSIDER]).row(
        "token_coverage", token=OUTSIDER
    )
    assert row["n"] == int(held(world, OUTSIDER).sum())
    assert row["baseline_pct"] == pytest.approx(100.0 * held(world, OUTSIDER).mean())
    assert row["n_active"] == int((held(world, OUTSIDER) & (activation > 0)).sum())


def test_means_of_kits_and_of_the_overview_are_over_all_examples(ask, world, truth):
    activation, _ = truth
    weapon = np.asarray(world.data.weapon)
    sub_of = np.array([kit.sub for kit in world.weapons.facts])
    for row in ask(world, "kit_sweep", FEATURE, min_examples=1, top_k=100).rows("sub_stats"):
        of = sub_of[weapon] == row["name"]
        assert row["n"] == int(of.sum())
        assert row["mean_activation"] == pytest.approx(activation[of].mean())
    answer = ask(world, "feature_overview", FEATURE)
    assert answer.custom["active_rate"] == pytest.approx((activation > 0).mean())
    top = answer.rows("top_tokens")[0]
    assert top["mean_without"] == pytest.approx(activation[~held(world, top["unit"])].mean())


def test_cells_of_a_heatmap_and_a_curve_hold_every_example_once(ask, world, truth):
    activation, _ = truth
    given = {"family_x": "run_speed_up", "family_y": "ink_resistance_up", "method": "observational"}
    cells = ask(world, "family_2d_heatmap", FEATURE, **given).rows("heatmap")
    assert sum(cell["n"] for cell in cells) == len(activation)
    none = ~held(world, "run_speed_up") & ~held(world, "ink_resistance_up")
    base = next(cell for cell in cells if (cell["x"], cell["y"]) == (0, 0))
    assert (base["n"], base["mean_activation"]) == (int(none.sum()), pytest.approx(activation[none].mean()))
    curve = ask(world, "family_1d_sweep", FEATURE, family="run_speed_up", method="observational").rows("rung_stats")
    assert sum(row["n"] for row in curve) == len(activation)
    assert curve[0]["mean_activation"] == pytest.approx(activation[~held(world, "run_speed_up")].mean())


SCU = "special_charge_up"
MADE: dict[str, tuple[dict[str, Any], str]] = {
    "family_1d_sweep": ({"family": SCU}, SCU),
    "family_2d_heatmap": ({"family_x": SCU, "family_y": "comeback", "rungs_x": [29]}, SCU),
    "token_influence_sweep": ({"method": "interventional"}, SCU),
    "pairwise_interactions": ({"candidate_tokens": ["run_speed_up", "haunt"]}, "nothing above"),
    "conditional_interactions": (
        {"modulator_token": "comeback", "candidate_tokens": ["run_speed_up", "haunt"]},
        "nothing above",
    ),
    "binary_presence_effect": ({"method": "interventional"}, "nothing above"),
    "weapon_sweep": ({"method": "interventional"}, "nothing above"),
    "kit_sweep": ({"method": "interventional"}, "nothing above"),
    "within_family_interference": ({"family": SCU, "rungs": [3, 12]}, "nothing above"),
}


@pytest.mark.parametrize("name", MADE)
def test_an_intervention_is_made_in_builds_none_of_which_activates_the_feature(name, ask, world):
    variables, said = MADE[name]
    part = {"family_exclude": [SCU], "sample_size": 80}
    answer = ask(world, name, "threshold", slice=part, **variables)
    assert answer.findings.diagnostics.n_contexts_tested == 80
    assert answer.findings.diagnostics.relu_floor_rate == 1.0
    assert said in answer.headline
