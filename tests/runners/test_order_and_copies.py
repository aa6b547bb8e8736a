"""The order of the examples does not matter, and writing every example twice changes no mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from mechinterp_runner.context.bundle import Bundle, BundleContents, write_bundle
from mechinterp_runner.context.context import Context

PAIR = {"family_x": "run_speed_up", "family_y": "ink_resistance_up", "method": "observational"}
ASKED: dict[str, tuple[dict[str, Any], dict[str, tuple[str, ...]]]] = {
    "family_1d_sweep": (
        {"family": "run_speed_up", "method": "observational"},
        {"rung_stats": ("mean_activation", "mean_when_active", "delta_from_baseline", "within_weapon_delta")},
    ),
    "family_2d_heatmap": (PAIR, {"heatmap": ("mean_activation", "delta")}),
    "weapon_sweep": ({"top_k_weapons": 100}, {"weapon_stats": ("mean_activation", "delta_from_global")}),
    "kit_sweep": ({"top_k": 100}, {"sub_stats": ("mean_activation", "delta_from_global", "within_main_delta")}),
    "weapon_group_analysis": ({"top_k": 100}, {"weapon_enrichment": ("share_high", "share_low", "mean_activation")}),
    "binary_presence_effect": (
        {"method": "observational"},
        {"binary_effects": ("mean_with", "mean_without", "delta", "high_rate", "baseline_rate")},
    ),
    "token_influence_sweep": (
        {"method": "observational", "min_samples": 20},
        {"all_tokens": ("high_rate", "low_rate", "delta", "high_rate_ratio")},
    ),
    "frequent_itemsets": (
        {"max_size": 2, "top_k": 500, "n_permutations": 20},
        {"itemsets": ("support_high", "support_baseline", "lift", "within_weapon_delta")},
    ),
    "core_coverage_analysis": ({"top_k": 30}, {"token_coverage": ("active_coverage_pct", "baseline_pct")}),
    "pairwise_interactions": (
        {"candidate_tokens": ["run_speed_up", "ink_resistance_up", "haunt"], "method": "observational"},
        {"pairs": ("f00", "f10", "f01", "f11", "interaction")},
    ),
    "feature_overview": ({"top_k": 50}, {"top_tokens": ("effect", "mean_with", "mean_without", "pagerank")}),
}


def rewritten(world: Context, order: np.ndarray, folder: Any) -> Context:
    """The world with its examples in another order, or several times over."""
    data, sets = world.data, world.data.sets(order)
    tokens, counts = np.nonzero(sets.present)[1], sets.present.sum(axis=1)
    assert data.build_id is not None
    assert world.sae is not None
    contents = BundleContents(
        model_params=None,
        model_state=None,
        sae_state=dict(world.sae.to_state()),
        vocabulary=dict(world.vocabulary.token_id),
        weapon_vocabulary=dict(world.weapons.token_id),
        weapon=np.asarray(data.weapon)[order],
        indptr=np.r_[0, np.cumsum(counts)].astype(np.int64),
        tokens=tokens.astype(np.int16),
        levels=np.asarray(data.levels)[order],
        build_id=np.asarray(data.build_id)[order],
        pooled=world.pooled_of(order),
    )
    write_bundle(folder, contents)
    return Context("rewritten", Bundle.open(folder), oracle=world.oracle)


def named_rows(answer: Any, table: str, columns: tuple[str, ...]) -> dict[str, list[float]]:
    """The columns of each row, by what identifies the row."""
    keys = ("rung", "x", "y", "weapon_id", "name", "ability", "token", "tokens", "unit", "unit_a", "unit_b")
    rows = answer.rows(table)
    return {
        str([row[key] for key in keys if key in row]): [
            np.nan if row[column] is None else row[column] for column in columns
        ]
        for row in rows
    }


@pytest.fixture(scope="module")
def variants(world, tmp_path_factory):
    n, rng = len(world.data), np.random.default_rng(4)
    folder = tmp_path_factory.mktemp("variants")
    return {
        "another order": rewritten(world, rng.permutation(n), folder / "order"),
        "every example twice": rewritten(world, np.repeat(np.arange(n), 2), folder / "twice"),
    }


@pytest.mark.parametrize("variant", ["another order", "every example twice"])
@pytest.mark.parametrize("name", ASKED)
def test_means_effects_and_rates_are_the_same_in(name, variant, world, variants, ask):
    variables, tables = ASKED[name]
    plain, other = ask(world, name, "and", **variables), ask(variants[variant], name, "and", **variables)
    for table, columns in tables.items():
        expected, found = named_rows(plain, table, columns), named_rows(other, table, columns)
        assert set(found) == set(expected)
        for key, values in expected.items():
            assert found[key] == pytest.approx(values, rel=1e-4, abs=1e-6, nan_ok=True), key


def test_a_family_that_the_rule_does_not_read_has_effects_of_exactly_0(ask, world):
    answer = ask(world, "family_1d_sweep", "and", family="ink_recovery_up", slice={"sample_size": 100})
    assert [row["mean_delta"] for row in answer.rows("rung_deltas")] == [0.0] * 10
    heat = ask(
        world, "family_2d_heatmap", "and", slice={"sample_size": 60}, family_x="ink_recovery_up", family_y="haunt"
    )
    assert {row["delta"] for row in heat.rows("heatmap")} == {0.0}
    assert {row["interaction"] for row in heat.rows("heatmap") if row["x"] and row["y"]} == {0.0}
