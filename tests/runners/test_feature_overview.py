"""The overview against rules whose answers are known, and against plain counting."""

from __future__ import annotations

import networkx
import numpy as np
import pytest
import statsmodels.api as sm
from mechinterp_runner.context.contexts import load_context
from mechinterp_runner.runners.design.specificity import null_activations
from mechinterp_runner.runners.parts.overview.units import _statistics, smallest_share, unit_design
from mechinterp_runner.schemas.catalogue import find
from mechinterp_runner.schemas.facts import WEAPONS
from mechinterp_runner.schemas.spec import DatasetSlice, parse_spec
from scipy import stats

TYPE = "feature_overview"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return load_context("demo", home=tmp_path_factory.mktemp("home"), device="cpu")


def held(ctx, family: str) -> np.ndarray:
    return np.asarray(ctx.data.levels[:, ctx.vocabulary.family_index[family]])


@pytest.mark.parametrize(
    ("rule", "units"),
    [
        ("threshold", {"special_charge_up"}),
        ("dose", {"quick_respawn"}),
        ("and", {"run_speed_up", "ink_resistance_up"}),
        ("or", {"special_saver", "special_power_up"}),
        ("confounded", {"sub_power_up"}),
        ("main_only", {"comeback"}),
    ],
)
def test_the_headline_names_the_units_of_the_rule_and_how_often_it_is_active(ask, world, feature, rule, units):
    answer = ask(world, TYPE, rule)
    assert all(unit in answer.headline for unit in units)
    assert answer.custom["leader"] == "unit"
    assert answer.custom["verdict"] == "present"
    assert f"active in {np.mean(world.activations(feature[rule]) > 0):.1%}" in answer.headline
    assert "CORRELATIONAL" in answer.headline
    assert {row["unit"] for row in answer.rows("top_tokens")[: len(units)]} == units


def test_a_weapon_rule_is_led_by_its_weapon_and_a_special_by_what_its_weapons_share(ask, world):
    one = ask(world, TYPE, "weapon")
    assert one.custom["leader"] == "weapon"
    assert f"the weapon {WEAPONS[11].name}" in one.headline
    assert one.rows("weapons")[0]["weapon_name"] == WEAPONS[11].name
    many = ask(world, TYPE, "special")
    assert many.custom["shared_part"] == f"special: {WEAPONS[41].special}"
    assert f"3 of the 3 weapons that stand out have {WEAPONS[41].special}" in many.headline
    assert "kit_sweep" in [each.spec["type"] for each in many.findings.followups]


@pytest.mark.parametrize("rule", ["random_0", "random_1"])
def test_a_random_direction_gets_nothing_and_no_followup(ask, world, rule):
    answer = ask(world, TYPE, rule)
    assert answer.headline.startswith("nothing")
    assert answer.custom["verdict"] == "nothing_specific"
    assert answer.findings.followups == []


def test_a_dead_feature_and_a_silent_slice_get_the_reason(ask, world):
    answer = ask(world, TYPE, "dead")
    assert answer.findings.findings[0].status == "dead"
    silent = ask(world, TYPE, "main_only", slice={"family_exclude": ["comeback"]})
    assert silent.headline.startswith("nothing found: none of the")
    for each in (answer, silent):
        assert {table.name for table in each.findings.tables} == set(find(TYPE).tables)
        assert all(table.rows == [] for table in each.findings.tables)


def test_an_effect_is_ols_on_presence_and_weapon_dummies_with_clustered_errors(ask, world, feature):
    answer = ask(world, TYPE, "dose", top_k=100)
    row = answer.row("top_tokens", unit="quick_respawn")
    weapon, activation = np.asarray(world.data.weapon), world.activations(feature["dose"]).astype(float)
    dummies = np.eye(len(world.weapons))[weapon]
    for column, effect, low in (
        (held(world, "quick_respawn") > 0, "effect", "sim_low"),
        (held(world, "quick_respawn") == int(row["best_level"].rsplit("_", 1)[1]), "level_effect", "level_low"),
    ):
        fit = sm.OLS(activation, np.column_stack([column.astype(float), dummies])).fit(
            cov_type="cluster", cov_kwds={"groups": world.data.clusters}, use_t=True
        )
        assert row[effect] == pytest.approx(fit.params[0], rel=1e-6)
        levels = [held(world, name) for name in world.vocabulary.stackable]
        counts = [(each > 0).sum() for each in levels] + [
            (held(world, m) > 0).sum() for m in world.vocabulary.main_only
        ]
        counts += [(each == rung).sum() for each in levels for rung in world.vocabulary.rungs("quick_respawn")]
        tests = sum(count >= 20 for count in counts)
        df = len(np.unique(world.data.clusters)) - 1
        quantile = stats.t.ppf(0.5 + 0.95 ** (1 / tests) / 2, df)
        assert row[low] == pytest.approx(fit.params[0] - quantile * fit.bse[0], rel=1e-3)
    assert row["mean_with"] == pytest.approx(activation[held(world, "quick_respawn") > 0].mean(), rel=1e-6)


def test_pagerank_is_networkxs_on_what_is_held_together(ask, world, feature):
    answer = ask(world, TYPE, "and", top_k=100)
    families = world.vocabulary.families
    present = np.stack([held(world, family) > 0 for family in families], axis=1).astype(float)
    weight = present.T @ (present * world.activations(feature["and"]).astype(float)[:, None])
    np.fill_diagonal(weight, 0.0)
    wanted = networkx.pagerank(networkx.from_numpy_array(weight), alpha=0.85, tol=1e-12)
    for row in answer.rows("top_tokens"):
        assert row["pagerank"] == pytest.approx(wanted[families.index(row["unit"])], abs=1e-8)


def test_family_shares_are_counts_of_what_high_examples_hold(ask, world, feature):
    answer = ask(world, TYPE, "dose", high_percentile=80)
    activation = world.activations(feature["dose"])
    high = activation >= np.quantile(activation[activation > 0], 0.8)
    present = {family: held(world, family) > 0 for family in world.vocabulary.families}
    all_high = sum(int((each & high).sum()) for each in present.values())
    all_base = sum(int((each & ~high).sum()) for each in present.values())
    for row in answer.rows("family_shares"):
        own = present[row["family"]]
        assert row["n_high"] == int((own & high).sum())
        assert row["share_high"] == pytest.approx(int((own & high).sum()) / all_high)
        assert row["share_baseline"] == pytest.approx(int((own & ~high).sum()) / all_base)
    assert answer.rows("family_shares")[0]["family"] == "quick_respawn"
    assert sum(row["share_high"] for row in answer.rows("family_shares")) == pytest.approx(1.0)


def test_the_histogram_counts_every_example_once(ask, world, feature):
    rows = ask(world, TYPE, "dose").rows("activation_histogram")
    activation = world.activations(feature["dose"])
    assert rows[0] == {"low": 0.0, "high": 0.0, "count": int((activation == 0).sum()), "share": rows[0]["share"]}
    assert sum(row["count"] for row in rows) == len(activation)
    for row in rows[1:]:
        assert row["count"] == int(((activation > row["low"]) & (activation <= row["high"])).sum())


def test_bands_hold_the_examples_between_their_edges_with_the_rates_in_them(ask, world, feature):
    answer = ask(world, TYPE, "dose")
    activation, top = world.activations(feature["dose"]), world.effective_max(feature["dose"])
    edges = {"0-25": (0.0, 0.25), "25-75": (0.25, 0.75), "75-90": (0.75, 0.9), "above 90": (0.9, np.inf)}
    active = (activation > 0).sum()
    for row in answer.rows("core_and_tail"):
        low, high = edges[row["band"]]
        inside = (activation > low * top) & (activation <= high * top)
        assert row["n"] == inside.sum()
        assert row["share_of_active"] == pytest.approx(inside.sum() / active)
        rate, usual = (np.mean((held(world, "quick_respawn") > 0)[rows]) for rows in (inside, slice(None)))
        assert row["top_units"].startswith(f"quick_respawn {rate:.0%} (usually {usual:.0%})")
    assert sum(row["n"] for row in answer.rows("core_and_tail")) == active


def test_examples_come_from_every_band_each_from_another_build_and_say_what_they_hold(ask, world, feature):
    answer = ask(world, TYPE, "dose", n_examples=4)
    activation, top = world.activations(feature["dose"]), world.effective_max(feature["dose"])
    bands: dict[str, list[dict]] = {}
    for row in answer.rows("examples"):
        bands.setdefault(row["band"], []).append(row)
        low, _, high = row["band"].removeprefix("above ").partition("-")
        assert float(low) / 100 * top < activation[row["row"]] <= (float(high) / 100 * top if high else np.inf)
        assert row["activation"] == pytest.approx(float(activation[row["row"]]))
        assert f"quick_respawn_{held(world, 'quick_respawn')[row['row']]}" in row["build"]
        assert row["weapon"] == world.weapons.facts[int(world.data.weapon[row["row"]])].name
    assert list(bands) == ["above 90", "75-90", "50-75", "25-50", "0-25"]
    for rows in bands.values():
        assert len({int(world.data.build_id[row["row"]]) for row in rows}) == len(rows) == 4


def test_the_shape_numbers_and_the_nearest_features_are_plain_arithmetic(ask, world, feature):
    custom = ask(world, TYPE, "dose").custom
    activation = world.activations(feature["dose"]).astype(float)
    active = activation[activation > 0]
    assert custom["skew"] == pytest.approx(stats.skew(active))
    assert custom["active_rate"] == pytest.approx(len(active) / len(activation))
    assert custom["sparsity"] == pytest.approx(1 - len(active) / len(activation))
    assert custom["effective_max"] == pytest.approx(np.quantile(active, 0.995), rel=1e-5)
    assert custom["max_activation"] == pytest.approx(active.max())


def test_the_nearest_features_are_those_of_largest_cosine_between_decoder_columns(ask, world, feature):
    own = feature["random_0"]
    columns = np.asarray(world.sae.decoder_weight, dtype=float)
    columns = columns / np.linalg.norm(columns, axis=0)
    cosine = columns.T @ columns[:, own]
    others = [i for i in np.argsort(-cosine).tolist() if i != own][:3]
    nearest = ask(world, TYPE, "random_0").custom["nearest_features"]
    assert [each["feature_id"] for each in nearest] == others
    assert [each["cosine"] for each in nearest] == pytest.approx(cosine[others].tolist(), abs=1e-6)


def test_the_statistics_of_specificity_are_worked_out_direction_by_direction(world):
    rng = np.random.default_rng(8)
    values = np.maximum(rng.normal(size=(len(world.data), 3)), 0.0)
    families = len(world.vocabulary.families)
    units = unit_design(world, world.population(DatasetSlice(), 0))
    keep = np.array([0, 3, 20, 40, 41])
    assert keep[2] < families <= keep[3]
    unit, weapon = _statistics((units.by_family, units.by_level), keep, values)
    token = np.asarray(world.data.weapon)
    dummies = np.eye(len(world.weapons))[token]
    columns = np.hstack([each.matrix.toarray() for each in (units.families, units.levels)])
    for r in range(3):
        effects = []
        for k in keep:
            design = np.column_stack([columns[:, k], dummies])
            effects.append(abs(np.linalg.lstsq(design, values[:, r], rcond=None)[0][0]))
        assert unit[0, r] == pytest.approx(np.mean(sorted(effects)[-3:]))
        assert unit[1, r] == pytest.approx(max(effects[:3]))
        means = [values[token == w, r].mean() for w in range(len(world.weapons)) if (token == w).sum() >= 20]
        assert weapon[r] == pytest.approx(np.abs(np.array(means) - values[:, r].mean()).max())


def test_the_smaller_of_two_shares_is_compared_with_the_smaller_of_the_same_two_of_each_direction():
    null = np.array([[1.0, 2.0, 3.0, 4.0], [8.0, 6.0, 7.0, 5.0]])
    # Shares at least as large, in fifths: the first feature has 1 and 5, the directions 5 and 1, 4 and 3, 3 and 2, 2
    # and 4; of the smaller ones, 1 against 1, 3, 2, 2, one direction's is as small.
    for observed, p in (((9.0, 0.0), 2 / 5), ((3.5, 0.0), 4 / 5), ((0.0, 6.5), 5 / 5), ((9.0, 9.0), 1 / 5)):
        assert smallest_share(np.column_stack([observed, null])) == p


def test_of_random_directions_5_percent_pass_the_smaller_of_two_shares():
    rng = np.random.default_rng(0)
    both = rng.normal(size=(2000, 201))
    draws = np.stack([both, 0.6 * both + rng.normal(size=both.shape)], axis=1)
    assert np.mean([smallest_share(each) <= 0.05 for each in draws]) == pytest.approx(0.05, abs=0.012)


def test_a_feature_that_goes_with_one_family_has_at_most_twice_the_p_of_its_largest_family_effect(ask, demo):
    population = demo.population(DatasetSlice(), 247)
    null = null_activations(demo, 247, population, 0)
    rows = population.rows[null.positions]
    values = np.column_stack([population.activation[null.positions], null.activation]).astype(float)
    weapon = np.unique(np.asarray(demo.data.weapon)[rows], return_inverse=True)[1]
    mean = np.stack([np.bincount(weapon, column) for column in values.T]) / np.bincount(weapon)
    values -= mean.T[weapon]
    largest = np.zeros(values.shape[1])
    for family in demo.vocabulary.families:
        x = (held(demo, family)[rows] > 0).astype(float)
        if x.sum() < 50:
            continue
        x -= (np.bincount(weapon, x) / np.bincount(weapon))[weapon]
        largest = np.maximum(largest, np.abs(x @ values) / (x @ x))
    share = np.mean(largest >= largest[0])
    assert share < 0.5
    assert ask(demo, TYPE, 247).custom["specificity_p_units"] <= 2 * share


def test_followups_are_ready_to_run_and_follow_from_what_was_seen(ask, world):
    answer = ask(world, TYPE, "and")
    types = [each.spec["type"] for each in answer.findings.followups]
    assert types == ["family_1d_sweep", "token_influence_sweep", "pairwise_interactions", "minimal_cores"]
    assert answer.findings.followups[0].spec["variables"]["family"] in {"run_speed_up", "ink_resistance_up"}
    candidates = answer.findings.followups[2].spec["variables"]["candidate_tokens"]
    assert {candidate.rsplit("_", 1)[0] for candidate in candidates} >= {"run_speed_up", "ink_resistance_up"} or set(
        candidates
    ) >= {"run_speed_up", "ink_resistance_up"}
    for each in answer.findings.followups:
        if each.runnable:
            parse_spec(each.spec)


@pytest.mark.parametrize("part", [{"weapon_filter": [11]}, {"sample_size": 12}, {"percentile_min": 40}])
def test_a_small_or_uniform_population_gives_nulls_and_no_invented_finding(ask, world, part):
    answer = ask(world, TYPE, "constant", slice=part)
    assert answer.headline.startswith("nothing")
    assert answer.custom["leader"] is None
    for row in answer.rows("top_tokens"):
        assert row["sim_low"] is not None or row["reason"] is not None


@pytest.mark.parametrize("feature", [1, 2, 13, 247])
def test_examples_too_few_to_judge_anything_say_so_and_name_no_unit(ask, demo, feature):
    answer = ask(demo, TYPE, feature, slice={"sample_size": 15, "activation_threshold": 0})
    assert answer.headline.startswith("nothing can be said: no unit or weapon has 20 examples in 10 builds")
    assert (answer.custom["top_unit"], answer.custom["top_unit_effect"], answer.custom["top_weapon"]) == (None,) * 3
    assert answer.custom["top_unit_reason"] == "no unit has 20 examples in 10 builds beside others"
    assert answer.custom["top_weapon_reason"] == "no weapon has 20 examples in 10 builds beside others"
    assert answer.custom["specificity_p"] is None
    assert answer.findings.findings == []


def test_where_weapons_cannot_be_judged_only_units_are_said_not_to_stand_out(ask, world):
    answer = ask(world, TYPE, "constant", slice={"weapon_filter": [11]})
    assert ": no unit stands out" in answer.headline
    assert answer.custom["top_weapon"] is None
    assert answer.custom["top_weapon_reason"].startswith("no weapon has")
    assert answer.custom["top_unit"] is not None
    assert answer.custom["top_unit_reason"] is None


def test_a_unit_has_its_count_its_active_ones_and_the_mean_over_each(ask, world, feature):
    activation = world.activations(feature["threshold"]).astype(float)
    for row in ask(world, TYPE, "threshold", top_k=100).rows("top_tokens"):
        own = activation[held(world, row["unit"]) > 0]
        assert (row["n"], row["n_active"]) == (len(own), (own > 0).sum())
        for name, part in (("mean_with", own), ("mean_when_active", own[own > 0])):
            assert row[name] == (pytest.approx(part.mean(), rel=1e-6) if len(part) else None)


def test_the_same_spec_gives_the_same_numbers_and_another_seed_other_examples(ask, world):
    first, again = (ask(world, TYPE, "dose") for _ in range(2))
    assert first.findings.model_dump() == again.findings.model_dump()
    other = ask(world, TYPE, "dose", slice={"random_seed": 4})
    assert other.rows("examples") != first.rows("examples")
    assert other.rows("top_tokens") == first.rows("top_tokens")


PLANTED = {
    0: {"special_charge_up"},
    1: {"quick_respawn"},
    2: {"swim_speed_up"},
    3: {"run_speed_up", "ink_resistance_up"},
    4: {"quick_super_jump", "stealth_jump"},
    5: {"special_saver", "special_power_up"},
    6: {"ink_saver_main", "swim_speed_up"},
    9: {"ink_saver_sub"},
    10: {"sub_resistance_up", "quick_super_jump"},
    11: {"swim_speed_up"},
    12: {"intensify_action"},
}


@pytest.mark.parametrize(("feature", "units"), PLANTED.items())
def test_the_headline_is_true_of_the_planted_rule(ask, demo, feature, units):
    answer = ask(demo, TYPE, feature)
    assert answer.headline.startswith(f"feature {feature} ")
    assert all(unit in answer.headline for unit in units)
    assert not any(unit in answer.headline for unit in set(demo.vocabulary.families) - units)
    assert answer.custom["specificity_p"] <= 0.05


@pytest.mark.parametrize(("feature", "name"), [(7, "Crab Tank"), (8, WEAPONS[40].name)])
def test_a_planted_weapon_or_special_leads(ask, demo, feature, name):
    answer = ask(demo, TYPE, feature)
    assert name in answer.headline
    assert answer.custom["leader"] == "weapon"


@pytest.mark.parametrize("feature", [13, 14, 15])
def test_a_planted_random_direction_gets_nothing_specific(ask, demo, feature):
    answer = ask(demo, TYPE, feature)
    assert answer.headline.startswith("nothing specific found")
    assert answer.custom["specificity_p"] > 0.05
