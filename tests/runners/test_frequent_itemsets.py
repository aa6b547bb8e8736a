"""Frequent itemsets against plain counting, mlxtend, statsmodels and rules whose answer is known."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from mechinterp_runner.context.bundle import Bundle
from mechinterp_runner.context.context import Context
from mechinterp_runner.context.contexts import load_context
from mechinterp_runner.runners.parts.itemsets.null import Blocks, Mined, adjusted_p
from mechinterp_runner.runners.stats import itemsets
from mechinterp_runner.runners.stats.itemsets import GroupedItems, ItemRows, excess
from mechinterp_runner.schemas.catalogue import find
from mechinterp_runner.schemas.errors import EmptySliceError, RequestError, UnknownNameError
from mechinterp_runner.schemas.spec import parse_spec
from mlxtend.frequent_patterns import fpgrowth
from scipy import stats

TYPE = "frequent_itemsets"
MODES = [
    {},
    {"collapse_families": False},
    {"collapse_families": False, "rung_tokens": "all"},
]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return load_context("demo", home=tmp_path_factory.mktemp("home"), device="cpu")


def item_table(ctx: Context, rows: np.ndarray, mode: dict) -> pd.DataFrame:
    """What rows hold, one column an item, worked out row by row."""
    vocabulary = ctx.vocabulary
    sets = ctx.sets(rows).present
    found = []
    for present in sets:
        tokens = [token for token in np.flatnonzero(present).tolist() if vocabulary.token_family[token] >= 0]
        levels = vocabulary.levels(tokens)
        if not mode:
            found.append(set(levels))
        elif "rung_tokens" in mode:
            found.append({vocabulary.tokens[token] for token in tokens})
        else:
            found.append(
                {family if family in vocabulary.main_only else f"{family}_{r}" for family, r in levels.items()}
            )
    names = sorted(set().union(*found))
    return pd.DataFrame([[name in each for name in names] for each in found], columns=names)


def high_rows(ctx: Context, feature: int, pct: float = 10.0) -> np.ndarray:
    activation = ctx.activations(feature)
    active = activation[activation > 0]
    bound = np.quantile(active, 1 - pct / 100)
    if (activation >= bound).sum() < 50:
        bound = np.sort(active)[-50]
    return np.flatnonzero(activation >= bound)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [3, 14])
def test_itemsets_of_the_demo_and_their_counts_are_those_of_fp_growth(ask, demo, name, mode):
    answer = ask(demo, TYPE, name, max_size=4, top_k=100_000, constraints=[], **mode)
    held = item_table(demo, high_rows(demo, name), mode)
    theirs = fpgrowth(held, min_support=0.05, use_colnames=True, max_len=4)
    expected = {
        frozenset(each): round(share * len(held))
        for each, share in zip(theirs["itemsets"], theirs["support"], strict=True)
    }
    assert {frozenset(row["tokens"]): row["count"] for row in answer.rows("itemsets")} == expected
    assert answer.custom["n_itemsets"] == len(expected)


def test_every_number_of_a_row_is_what_plain_counting_gives(ask, world, feature):
    answer = ask(world, TYPE, "and")
    rows, activation = np.arange(len(world.data)), world.activations(feature["and"])
    held, high = item_table(world, rows, {}), np.isin(rows, high_rows(world, feature["and"]))
    assert len(answer.rows("itemsets")) > 30
    for row in answer.rows("itemsets"):
        holds = held[row["tokens"]].all(axis=1).to_numpy()
        a, c = int(holds[high].sum()), int(holds[~high].sum())
        b, d = int(high.sum()) - a, int((~high).sum()) - c
        assert (row["count"], row["count_baseline"], row["n"], row["size"]) == (a, c, a + c, len(row["tokens"]))
        assert row["support_high"] == pytest.approx(a / (a + b))
        assert row["support_baseline"] == pytest.approx(c / (c + d))
        assert row["lift"] == (pytest.approx(a / (a + b) / (c / (c + d))) if c else None)
        half = 0.5 if 0 in {a, b, c, d} else 0.0
        table = sm.stats.Table2x2(np.array([[a, b], [c, d]]) + half, shift_zeros=False)
        assert row["odds_ratio"] == pytest.approx(table.oddsratio)
        assert (row["odds_low"], row["odds_high"]) == pytest.approx(table.oddsratio_confint())
        assert row["p_value"] == pytest.approx(stats.fisher_exact([[a, b], [c, d]], "greater").pvalue, rel=1e-6)
        assert row["mean_activation"] == pytest.approx(float(activation[holds].mean()), rel=1e-5)
        assert row["n_active"] == int((activation[holds] > 0).sum())
        assert row["sparse"] == (a + c < 20)


def test_the_effect_of_holding_a_set_is_least_squares_with_weapon_dummies(ask, world, feature):
    answer, activation = ask(world, TYPE, "and"), world.activations(feature["and"]).astype(float)
    held = item_table(world, np.arange(len(world.data)), {})
    dummies = (np.asarray(world.data.weapon)[:, None] == np.arange(24)).astype(float)
    for row in answer.rows("itemsets")[:5]:
        column = held[row["tokens"]].all(axis=1).to_numpy().astype(float)
        fit = sm.OLS(activation, np.column_stack([column, dummies])).fit()
        assert row["within_weapon_delta"] == pytest.approx(fit.params[0])
        assert row["ci_low"] < fit.params[0] < row["ci_high"]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("threshold", [["special_charge_up"]]),
        ("dose", [["quick_respawn"]]),
        ("and", [["ink_resistance_up", "run_speed_up"]]),
        ("confounded", [["sub_power_up"]]),
        ("main_only", [["comeback"]]),
    ],
)
def test_the_units_of_a_rule_are_named_and_no_bystander_with_them(ask, world, rule, expected):
    answer = ask(world, TYPE, rule)
    assert answer.custom["named"] == expected
    assert answer.custom["verdict"] == "present"
    assert answer.custom["specificity_p"] <= 0.05
    assert "CORRELATIONAL" in answer.headline
    assert answer.findings.findings[0].status == "present"


def test_either_leg_of_an_or_is_named_and_the_other_where_it_is_absent(ask, world):
    answer = ask(world, TYPE, "or")
    assert sorted(answer.custom["named"]) == [["special_power_up"], ["special_saver"]]
    assert "where that is absent" in answer.headline


@pytest.mark.parametrize("name", ["random_0", "random_1", "weapon", "special", "constant"])
def test_random_directions_and_features_of_weapons_get_nothing(ask, world, name):
    answer = ask(world, TYPE, name)
    assert answer.headline.startswith("nothing")
    assert answer.custom["verdict"] == "nothing_specific"
    assert answer.findings.followups == []


@pytest.mark.parametrize(
    ("index", "allowed"),
    [
        (0, [["special_charge_up"]]),
        (1, [["quick_respawn"]]),
        (2, [["swim_speed_up"]]),
        (3, [["ink_resistance_up", "run_speed_up"]]),
        (4, [["quick_super_jump", "stealth_jump"]]),
        (5, [["special_power_up"], ["special_saver"]]),
        (6, [["ink_saver_main", "swim_speed_up"]]),
        (9, [["ink_saver_sub"]]),
        (10, [["quick_super_jump", "sub_resistance_up"]]),
        (11, [["swim_speed_up"]]),
        (12, [["intensify_action"]]),
    ],
)
@pytest.mark.parametrize("max_size", [3, 4])
def test_planted_rules_are_named_on_the_demo(ask, demo, index, allowed, max_size):
    answer = ask(demo, TYPE, index, max_size=max_size)
    assert answer.custom["verdict"] == "present"
    assert answer.custom["top_itemset"] in allowed
    assert all(each in allowed for each in answer.custom["named"])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("index", [7, 8, 13, 14, 15])
def test_weapon_features_and_random_directions_get_nothing_on_the_demo(ask, demo, index, mode):
    assert ask(demo, TYPE, index, **mode).headline.startswith("nothing")


@pytest.mark.parametrize(("index", "token"), [(0, "special_charge_up_29"), (11, "swim_speed_up_12")])
def test_tokens_name_the_rung_that_matters(ask, demo, index, token):
    answer = ask(demo, TYPE, index, collapse_families=False)
    assert answer.custom["top_itemset"] == [token]


def families_of(ctx: Context, row: dict) -> list[str]:
    return [each if each in ctx.vocabulary.families else ctx.vocabulary.parse_unit(each)[0] for each in row["tokens"]]


def test_no_set_holds_two_rungs_of_a_family_unless_the_constraint_is_lifted(ask, demo):
    given = {"collapse_families": False, "rung_tokens": "all"}
    rows = ask(demo, TYPE, 0, **given).rows("itemsets")
    assert any(len(row["tokens"]) > 1 for row in rows)
    assert all(len(set(families_of(demo, row))) == row["size"] for row in rows)
    free = ask(demo, TYPE, 0, constraints=[], **given).rows("itemsets")
    assert any(len(set(families_of(demo, row))) < row["size"] for row in free)


def test_rung_tokens_beside_collapsed_families_is_warned_about(ask, world):
    answer = ask(world, TYPE, "and", rung_tokens="all")
    assert any("rung_tokens" in warning for warning in answer.job.warnings)


def test_a_condition_restricts_the_examples_is_named_and_is_in_no_set(ask, world, feature):
    answer = ask(world, TYPE, "and", condition_on=["run_speed_up_6", "comeback"])
    levels = {family: world.data.levels[:, i] for i, family in enumerate(world.vocabulary.families)}
    kept = (levels["run_speed_up"] >= 6) & (levels["comeback"] > 0)
    assert answer.findings.aggregates.n_samples == int(kept.sum())
    assert answer.custom["n_high"] + answer.custom["n_baseline"] == int(kept.sum())
    assert "each holding run_speed_up at 6 AP or more and comeback" in answer.headline
    assert not {"run_speed_up", "comeback"} & {token for row in answer.rows("itemsets") for token in row["tokens"]}


def test_under_one_leg_of_an_and_the_other_is_named(ask, world):
    assert ask(world, TYPE, "and", condition_on=["run_speed_up"]).custom["named"] == [["ink_resistance_up"]]


def test_conditions_that_cannot_be_are_errors_that_say_what_to_do(ask, world):
    with pytest.raises(UnknownNameError, match="run_speed_up"):
        ask(world, TYPE, "and", condition_on=["run_sped_up"])
    with pytest.raises(RequestError, match="names run_speed_up twice"):
        ask(world, TYPE, "and", condition_on=["run_speed_up", "run_speed_up_6"])
    with pytest.raises(EmptySliceError, match=r"condition_on leaves no example.*Nothing was run\."):
        ask(world, TYPE, "and", condition_on=["comeback", "tenacity"])


def test_the_high_examples_are_the_top_percentage_of_the_active(ask, world, feature):
    activation = world.activations(feature["dose"])
    active = activation[activation > 0]
    answer = ask(world, TYPE, "dose", high_activation_pct=30.0)
    assert answer.custom["n_high"] == int((activation >= np.quantile(active, 0.7)).sum())
    assert ask(world, TYPE, "dose", high_activation_pct=100.0).custom["n_high"] == len(active)


def test_where_every_example_is_high_nothing_is_compared(ask, world):
    row = ask(world, TYPE, "constant").rows("itemsets")[0]
    names = ("support_baseline", "lift", "odds_ratio", "odds_low", "odds_high", "p_value")
    assert [row[name] for name in names] == [None] * len(names)
    assert row["p_adjusted"] == 1.0


def test_top_k_keeps_rows_and_changes_nothing_else(ask, world):
    whole, few = ask(world, TYPE, "and"), ask(world, TYPE, "and", top_k=4)
    assert few.rows("itemsets") == whole.rows("itemsets")[:4]
    assert few.headline == whole.headline
    table = next(table for table in few.findings.tables if table.name == "itemsets")
    assert any(note.startswith(f"4 of {whole.custom['n_itemsets']} itemsets") for note in table.notes)


def test_rows_are_ordered_by_excess(ask, world):
    values = [row["excess"] for row in ask(world, TYPE, "and").rows("itemsets")]
    assert values == sorted(values, reverse=True)


def test_a_support_that_no_set_has_finds_nothing_and_says_so(ask, world):
    answer = ask(world, TYPE, "or", min_support=1.0)
    assert answer.headline.startswith("nothing found: no itemset is held by")
    assert answer.rows("itemsets") == []
    assert answer.custom["reason"]


def test_too_many_itemsets_are_refused_by_run_and_plan_with_advice(ask, demo, monkeypatch):
    given = {"collapse_families": False, "rung_tokens": "all", "max_size": 6, "min_support": 0.001}
    monkeypatch.setattr(itemsets, "MAX_ITEMSETS", 500)
    with pytest.raises(RequestError, match=r"raise min_support, lower max_size .*Nothing was run\."):
        ask(demo, TYPE, 14, **given)
    with pytest.raises(RequestError, match="raise min_support"):
        find(TYPE).plan(parse_spec({"type": TYPE, "feature_id": 14, "variables": given}), demo)


def test_a_dead_feature_and_a_slice_without_an_active_example_find_nothing(ask, world):
    dead = ask(world, TYPE, "dead")
    assert dead.findings.findings[0].status == "dead"
    quiet = ask(world, TYPE, "main_only", slice={"family_exclude": ["comeback"]})
    for answer in (dead, quiet):
        assert answer.headline.startswith("nothing found")
        assert answer.rows("itemsets") == []


def test_the_plan_makes_no_passes_and_counts_the_itemsets(world, ask):
    spec = parse_spec({"type": TYPE, "feature_id": 2, "variables": {"condition_on": ["comeback"]}})
    plan, answer = find(TYPE).plan(spec, world), ask(world, TYPE, 2, condition_on=["comeback"])
    assert plan.forward_passes == 0
    assert plan.contexts == answer.findings.aggregates.n_samples
    assert any(note.startswith(f"{answer.custom['n_itemsets']} itemsets") for note in plan.notes)


def test_the_same_spec_gives_the_same_numbers_and_another_seed_other_permutations(ask, world):
    first, again = (ask(world, TYPE, "or") for _ in range(2))
    assert first.findings == again.findings
    other = ask(world, TYPE, "or", slice={"random_seed": 5})
    assert [row["excess"] for row in other.rows("itemsets")] == [row["excess"] for row in first.rows("itemsets")]
    adjusted = [[row["p_adjusted"] for row in answer.rows("itemsets")] for answer in (first, other)]
    assert adjusted[0] != adjusted[1]


def test_where_pooled_vectors_are_unknown_the_specificity_is_null_with_a_reason(ask, world, monkeypatch):
    monkeypatch.setattr(type(world), "random_directions", lambda _: None)
    answer = ask(world, TYPE, "and")
    assert answer.custom["specificity_p"] is None
    assert "pooled vectors" in answer.custom["specificity_reason"]
    assert answer.custom["named"] == [["ink_resistance_up", "run_speed_up"]]


def test_specs_of_the_predecessor_load():
    given = {"min_support": 0.05, "max_size": 4, "high_activation_pct": 10.0}
    text = json.dumps({"type": TYPE, "feature_id": 18712, "model_type": "ultra", "variables": given})
    assert parse_spec(json.loads(text)).variables.max_size == 4


# -- chance -----------------------------------------------------------


def some_blocks(seed: int, n_builds: int = 120):
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 4, n_builds)
    cluster = np.repeat(np.arange(n_builds), size)
    weapon = rng.integers(0, 4, n_builds)[cluster]
    high = (rng.random(n_builds) < 0.3)[cluster] & (rng.random(len(cluster)) < 0.7)
    order = rng.permutation(len(cluster))
    return weapon[order], cluster[order], high[order]


def test_permuted_labels_stay_in_their_weapon_and_move_in_whole_builds():
    weapon, cluster, high = some_blocks(0)
    rows = Blocks.of(weapon, cluster).labels(high).permuted(40, np.random.default_rng(1))
    size = np.bincount(cluster)

    def pattern(chosen: np.ndarray) -> list[tuple[int, int, int]]:
        held = np.bincount(cluster[chosen], minlength=len(size))
        kind = np.zeros(len(size), dtype=int)
        kind[cluster] = weapon
        return sorted(zip(kind[held > 0].tolist(), size[held > 0].tolist(), held[held > 0].tolist(), strict=True))

    assert all(len(set(each.tolist())) == high.sum() for each in rows)
    assert all(pattern(each) == pattern(np.flatnonzero(high)) for each in rows)


def test_every_example_of_a_weapon_and_build_size_is_equally_often_high():
    weapon, cluster, high = some_blocks(2)
    blocks, n = Blocks.of(weapon, cluster), 4000
    often = np.bincount(blocks.labels(high).permuted(n, np.random.default_rng(3)).ravel(), minlength=len(high)) / n
    expected = blocks.rate(high)[blocks.stratum]
    size = np.bincount(cluster)[cluster]
    for i in range(len(high)):
        same = (weapon == weapon[i]) & (size == size[i])
        assert expected[i] == pytest.approx(high[same].mean())
    assert np.abs(often - expected).max() < 5 * np.sqrt(0.25 / n)


def test_the_largest_excess_by_chance_is_what_mining_each_permutation_by_hand_gives():
    weapon, cluster, high = some_blocks(4)
    held = np.random.default_rng(5).random((len(high), 6)) < 0.35
    blocks = Blocks.of(weapon, cluster)
    rows = ItemRows.stacked([held])
    packed = GroupedItems.of(rows, blocks.stratum, blocks.n_strata)
    mining = Mined(rows, packed, blocks, min_count=4, max_size=3, allowed=np.array([0, 1, 3, 4, 5]), family=None)
    largest = mining.largest_by_chance(high, 25, np.random.default_rng(6), lambda: None)
    m, rate = int(high.sum()), blocks.rate(high)[blocks.stratum]
    for index, chosen in enumerate(blocks.labels(high).permuted(25, np.random.default_rng(6))):
        values = [0.0]
        for each in (each for size in (1, 2, 3) for each in combinations([0, 1, 3, 4, 5], size)):
            holds = held[:, list(each)].all(axis=1)
            if holds[chosen].sum() >= 4:
                values.append(float(excess(np.array([holds[chosen].sum()]), np.array([rate[holds].sum()]), m)[0]))
        assert largest[index] == pytest.approx(max(values))


def test_adjusted_p_counts_the_permutations_at_least_as_large():
    assert adjusted_p(np.array([3.0, 1.0, 9.0]), np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx([3 / 5, 1.0, 1 / 5])


def test_itemsets_are_seldom_called_when_activations_are_shuffled_over_builds(ask, world, feature):
    column, n_builds, called = feature["and"], len(world.data) // 2, 0
    values = np.array(world.activations(column)).reshape(-1, 2)
    ctx = Context("shuffled", Bundle.open(world.bundle.path), oracle=world.oracle)
    for seed in range(40):
        ctx._columns[column] = values[np.random.default_rng(seed).permutation(n_builds)].ravel()
        called += ask(ctx, TYPE, "and", n_permutations=100).custom["n_significant"] > 0
    assert called <= 6
