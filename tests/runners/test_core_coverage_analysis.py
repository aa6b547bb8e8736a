"""Core coverage against counts by hand, statsmodels, rules of the world and the rules planted in the demo."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from mechinterp_runner.context.bundle import Bundle
from mechinterp_runner.context.context import Context
from mechinterp_runner.context.contexts import load_context
from mechinterp_runner.runners.parts.coverage.rates import Coverage, share_ratio
from mechinterp_runner.schemas.catalogue import find
from mechinterp_runner.schemas.errors import RequestError
from mechinterp_runner.schemas.facts import WEAPONS
from mechinterp_runner.schemas.job import Job
from mechinterp_runner.schemas.spec import parse_spec
from scipy import sparse

KIND, DOSE = "core_coverage_analysis", "quick_respawn"
CHECKED = ["quick_respawn", "quick_respawn_21", "quick_respawn_38", "comeback", "swim_speed_up_12"]


def held(ctx: Context, token: str) -> np.ndarray:
    """Whether each example holds a family at an AP or more, by hand."""
    name, _, rung = token.rpartition("_")
    family, level = (name, int(rung)) if rung.isdigit() else (token, 1)
    return np.asarray(ctx.data.levels[:, ctx.vocabulary.family_index[family]]) >= level


def with_activation(ctx: Context, column: int, values: np.ndarray) -> Context:
    """The same world with one feature's activations replaced."""
    other = Context("replaced", Bundle.open(ctx.bundle.path), oracle=ctx.oracle)
    other._columns[column] = values.astype(np.float32)
    return other


def test_coverages_lifts_and_counts_are_those_counted_by_hand(ask, world, feature):
    answer = ask(world, KIND, "dose", tokens_to_check=CHECKED)
    a = np.asarray(world.activations(feature["dose"]), dtype=np.float64)
    top = np.quantile(a[a > 0], 0.995)
    core, tail = (a > 0.25 * top) & (a <= 0.75 * top), a > 0.9 * top
    assert (answer.custom["n_core"], answer.custom["n_tail"]) == (core.sum(), tail.sum())
    for token in CHECKED:
        row, x = answer.row("token_coverage", token=token), held(world, token)
        counts = (x.sum(), (x & core).sum(), (x & tail).sum(), (x & (a > 0)).sum())
        assert (row["n"], row["n_core"], row["n_tail"], row["n_active"]) == counts
        shares = (100 * x[core].mean(), 100 * x[tail].mean(), 100 * x.mean())
        assert (row["core_coverage_pct"], row["tail_coverage_pct"], row["baseline_pct"]) == pytest.approx(shares)
        means = (a[x].mean(), a[x & (a > 0)].mean(), a[x].mean() - a[~x].mean())
        assert (row["mean_activation"], row["mean_when_active"], row["raw_delta"]) == pytest.approx(means)
        assert row["core_lift"] == pytest.approx(x[core].mean() / x.mean())
        if x[core].any():
            assert row["tail_enrichment"] == pytest.approx(x[tail].mean() / x[core].mean())


def test_the_effect_holds_the_weapon_fixed(ask, world, feature):
    answer = ask(world, KIND, "dose", tokens_to_check=["quick_respawn_12"])
    x, weapon = held(world, "quick_respawn_12"), np.asarray(world.data.weapon)
    design = np.column_stack([x, weapon[:, None] == np.unique(weapon)]).astype(float)
    beta = np.linalg.lstsq(design, np.asarray(world.activations(feature["dose"]), dtype=float), rcond=None)[0]
    assert answer.rows("token_coverage")[0]["within_weapon_effect"] == pytest.approx(beta[0], rel=1e-4)


def test_the_bounds_of_the_core_are_what_was_asked_for(ask, world, feature):
    answer = ask(world, KIND, "dose", core_lower_pct=50, core_upper_pct=90, effective_max_percentile=50)
    a = np.asarray(world.activations(feature["dose"]), dtype=np.float64)
    top = np.quantile(a[a > 0], 0.5)
    assert answer.custom["n_core"] == ((a > 0.5 * top) & (a <= 0.9 * top)).sum()
    assert answer.findings.diagnostics.effective_max == pytest.approx(top)


def test_weapons_are_counted_the_same_way(ask, world, feature):
    answer = ask(world, KIND, "dose", top_k=100)
    a, weapon = np.asarray(world.activations(feature["dose"])), np.asarray(world.data.weapon)
    top = np.quantile(a[a > 0], 0.995)
    core = (a > 0.25 * top) & (a <= 0.75 * top)
    for row in answer.rows("weapon_coverage"):
        own = weapon == world.weapons.weapon_ids.index(row["weapon_id"])
        wanted = (100 * own[core].mean(), a[own].mean(), a[own & (a > 0)].mean(), a[own].mean() - a.mean())
        names = ("core_coverage_pct", "mean_activation", "mean_when_active", "delta_from_global")
        assert tuple(row[name] for name in names) == pytest.approx(wanted, rel=1e-5, abs=1e-6)


def clustered(rng: np.random.Generator, n_clusters: int, rates: tuple[float, float]) -> tuple[np.ndarray, ...]:
    """Clusters of 1 to 4 examples that hold or lack a column together, each in the first or the second range."""
    size = rng.integers(1, 5, n_clusters)
    cluster = np.repeat(np.arange(n_clusters), size)
    first = (rng.random(n_clusters) < 0.4)[cluster]
    x = rng.random(n_clusters)[cluster] < np.where(first, rates[0], rates[1])
    return x.astype(float), first, cluster


def sides(x: np.ndarray, cluster: np.ndarray, *inside: np.ndarray) -> list[Coverage]:
    """Coverage of each range, for one column."""
    columns = sparse.csr_matrix(x.astype(float)[:, None])
    return [Coverage.of(columns, each, cluster, int(cluster.max()) + 1) for each in inside]


def poisson(x: np.ndarray, first: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Log ratio of rates and its clustered error, by statsmodels."""
    model = sm.GLM(x, sm.add_constant(first.astype(float)), family=sm.families.Poisson())
    fit = model.fit(cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False})
    return float(fit.params[1]), float(fit.bse[1])


def test_the_interval_is_that_of_a_clustered_poisson_regression_with_log_link():
    x, first, cluster = clustered(np.random.default_rng(3), 400, (0.5, 0.3))
    ours = share_ratio(*sides(x, cluster, first, ~first), 0.95)
    log_ratio, error = poisson(x, first, cluster)
    assert np.log(ours.value[0]) == pytest.approx(log_ratio, rel=1e-6)
    assert np.log(ours.high[0] / ours.low[0]) / 2 / 1.97 == pytest.approx(error, rel=0.02)


def test_the_interval_of_a_part_against_the_whole_is_that_of_stacked_examples():
    x, part, cluster = clustered(np.random.default_rng(4), 400, (0.5, 0.3))
    ours = share_ratio(*sides(x, cluster, part, np.ones_like(part)), 0.95, nested=True)
    which = np.r_[np.ones(part.sum()), np.zeros(len(x))]
    log_ratio, error = poisson(np.r_[x[part], x], which, np.r_[cluster[part], cluster])
    assert np.log(ours.value[0]) == pytest.approx(log_ratio, rel=1e-6)
    assert np.log(ours.high[0] / ours.low[0]) / 2 / 1.97 == pytest.approx(error, rel=0.02)


def test_copies_of_a_build_make_no_interval_narrower():
    x, first, cluster = clustered(np.random.default_rng(5), 200, (0.5, 0.3))
    once = share_ratio(*sides(x, cluster, first, ~first), 0.95)
    x, first, cluster = (np.repeat(each, 5) for each in (x, first, cluster))
    copied = share_ratio(*sides(x, cluster, first, ~first), 0.95)
    assert copied.low[0] == pytest.approx(once.low[0])
    assert copied.high[0] == pytest.approx(once.high[0])


@pytest.mark.parametrize(("n_clusters", "rates"), [(60, (0.3, 0.3)), (60, (0.9, 0.6)), (300, (0.05, 0.05))])
def test_the_interval_holds_the_true_ratio_as_often_as_it_says(n_clusters, rates):
    rng = np.random.default_rng(6)
    hits = []
    for _ in range(400):
        x, first, cluster = clustered(rng, n_clusters, rates)
        ratio = share_ratio(*sides(x, cluster, first, ~first), 0.95)
        high = np.inf if np.isnan(ratio.high[0]) else ratio.high[0]
        hits.append(ratio.low[0] <= rates[0] / rates[1] <= high)
    assert np.mean(hits) >= 0.93


def test_a_range_of_fewer_than_10_builds_has_ratios_without_bounds():
    first = np.arange(30) < 9
    ratio = share_ratio(*sides(np.ones(30), np.arange(30), first, ~first), 0.95)
    assert ratio.value[0] == 1.0
    assert np.isnan(ratio.low[0])
    assert np.isnan(ratio.high[0])


def test_what_the_second_range_lacks_has_a_lower_bound_and_no_value():
    first = np.arange(80) < 40
    ratio = share_ratio(*sides(first, np.arange(80), first, ~first), 0.95)
    assert np.isnan(ratio.value[0])
    assert ratio.low[0] > 5
    assert np.isnan(ratio.high[0])


def test_the_family_of_the_dose_covers_its_core(ask, world, feature):
    answer = ask(world, KIND, "dose")
    assert answer.custom["covering_tokens"] == [DOSE]
    assert answer.custom["verdict"] == "present"
    assert answer.custom["specificity_p"] <= 0.05
    start = f"quick_respawn (QR) (in 100%, {answer.row('token_coverage', token=DOSE)['core_lift']:.1f} ["
    assert answer.headline.startswith(start)
    assert f"covers the core of feature {feature['dose']}; nothing specific marks the tail only" in answer.headline
    assert answer.headline.endswith("of 3,000 examples: all examples; observational, CORRELATIONAL.")
    assert answer.row("token_coverage", token=DOSE)["covers"] is True
    assert [each.spec["variables"] for each in answer.findings.followups] == [{"family": DOSE}]


def test_the_top_of_the_dose_marks_the_tail_only(ask, world):
    answer = ask(world, KIND, "dose", tokens_to_check=CHECKED)
    row = answer.row("token_coverage", token="quick_respawn_38")
    assert row["is_tail_marker"] is True
    assert (row["core_coverage_pct"], row["tail_coverage_pct"]) == (0.0, 100.0)
    assert row["tail_enrichment"] is None
    assert row["tail_enrichment_low"] > 1
    assert "nothing of the core holds it" in row["reason"]
    assert answer.custom["tail_markers"] == ["quick_respawn_38"]
    assert "quick_respawn_38 (100% of the tail, 0% of the core) marks the tail only" in answer.headline
    assert [answer.row("token_coverage", token=token)["is_tail_marker"] for token in (DOSE, "comeback")] == [False] * 2


def test_the_threshold_decides_how_little_of_the_core_a_tail_marker_covers(ask, world):
    share = ask(world, KIND, "dose", tokens_to_check=CHECKED).row("token_coverage", token="quick_respawn_21")
    at = share["core_coverage_pct"] / 100
    assert share["tail_enrichment_low"] > 1
    for threshold, expected in ((at - 0.02, False), (at + 0.02, True)):
        answer = ask(world, KIND, "dose", tokens_to_check=CHECKED, coverage_threshold=threshold)
        assert answer.row("token_coverage", token="quick_respawn_21")["is_tail_marker"] is expected


def test_a_rare_rung_checked_beside_a_family_does_not_hide_it(ask, world):
    alone = ask(world, KIND, "dose", tokens_to_check=[DOSE]).rows("token_coverage")[0]
    beside = ask(world, KIND, "dose", tokens_to_check=[DOSE, "special_power_up_38"])
    assert beside.row("token_coverage", token=DOSE)["specificity_p"] == alone["specificity_p"]
    rung = beside.row("token_coverage", token="special_power_up_38")
    single = ask(world, KIND, "dose", tokens_to_check=["special_power_up_38"]).rows("token_coverage")[0]
    assert rung["specificity_p"] == min(1.0, 2 * single["specificity_p"])


def test_a_token_that_everything_holds_covers_the_core_without_meaning(ask, world):
    answer = ask(world, KIND, "dose", slice={"family_filter": ["swim_speed_up"]}, tokens_to_check=["swim_speed_up"])
    row = answer.rows("token_coverage")[0]
    assert (row["core_coverage_pct"], row["baseline_pct"], row["core_lift"]) == (100.0, 100.0, 1.0)
    assert row["covers"] is not True
    assert answer.headline.startswith("nothing")


def test_a_feature_that_fires_all_or_none_has_no_core_and_says_so(ask, world):
    answer = ask(world, KIND, "threshold")
    assert answer.custom["n_core"] == 0
    assert answer.custom["range"] == "active"
    assert answer.custom["covering_tokens"] == ["special_charge_up"]
    assert "covers the active examples" in answer.headline
    assert "it fires near its maximum or not at all" in answer.headline
    assert any("the core has 0 examples, fewer than 20" in warning for warning in answer.job.warnings)
    assert all(row["is_tail_marker"] is None for row in answer.rows("token_coverage"))
    assert all(row["core_coverage_pct"] is None for row in answer.rows("token_coverage"))
    assert answer.custom["tail_reason"] == "fewer than 20 examples: core has 0"


def test_both_legs_of_an_and_cover_it(ask, world):
    answer = ask(world, KIND, "and")
    assert set(answer.custom["covering_tokens"]) == {"run_speed_up", "ink_resistance_up"}
    assert {row["active_coverage_pct"] for row in answer.rows("token_coverage") if row["covers"]} == {100.0}


def test_a_weapon_feature_is_covered_by_its_weapon_and_by_no_token(ask, world, feature):
    answer = ask(world, KIND, "weapon")
    assert answer.custom["covering_weapons"] == [WEAPONS[11].name]
    assert answer.custom["covering_tokens"] == []
    assert answer.headline.startswith(f"{WEAPONS[11].name} (in 100%, ")
    assert "no token does" in answer.headline
    assert answer.findings.followups[-1].spec["type"] == "weapon_sweep"


def test_several_weapons_are_named_together_with_their_joint_share(ask, world):
    answer = ask(world, KIND, "special")
    assert set(answer.custom["covering_weapons"]) == {WEAPONS[weapon].name for weapon in (21, 41, 3000)}
    assert "together cover 100% of the active examples" in answer.headline
    assert "kit_sweep" in {each.spec["type"] for each in answer.findings.followups}


def test_weapons_can_be_left_out(ask, world):
    answer = ask(world, KIND, "weapon", include_weapons=False)
    assert answer.rows("weapon_coverage") == []
    assert answer.headline.startswith("nothing specific found")


def test_a_weapon_that_owns_the_tail_but_not_the_core_is_flanderized(ask, world, feature):
    """Half height with the ability, full height on one weapon: the top examples alone would name the weapon."""
    weapon = np.asarray(world.data.weapon) == world.weapons.resolve(40)
    ability = held(world, "run_speed_up")
    wiggle = np.random.default_rng(0).random(len(weapon)) / 50
    values = np.where(weapon, 2.0, np.where(ability, 1.0, 0.0)) * (1 - wiggle)
    ctx = with_activation(world, feature["special"], values)
    answer = ask(ctx, KIND, "special")
    assert [row["weapon_name"] for row in answer.rows("weapon_coverage") if row["is_flanderized"]] == [WEAPONS[40].name]
    assert answer.row("weapon_coverage", weapon_id=40)["core_coverage_pct"] == 0.0
    assert answer.custom["covering_tokens"] == ["run_speed_up"]
    assert answer.custom["flanderized_weapons"] == [WEAPONS[40].name]
    assert f"{WEAPONS[40].name} (100% of the tail, 0% of the core) marks the tail only" in answer.headline


@pytest.mark.parametrize("name", ["random_0", "random_1"])
def test_a_random_direction_gets_nothing(ask, world, name):
    answer = ask(world, KIND, name)
    assert answer.headline.startswith("nothing specific found")
    assert answer.custom["verdict"] == "nothing_specific"
    assert answer.findings.followups == []


def test_shuffled_activations_give_nothing(ask, world, feature):
    builds = np.asarray(world.activations(feature["dose"])).reshape(-1, 2)
    for seed in range(8):
        order = np.random.default_rng(seed).permutation(len(builds))
        ctx = with_activation(world, feature["dose"], builds[order].ravel())
        assert ask(ctx, KIND, "dose").headline.startswith("nothing specific found")


def test_a_dead_feature_and_a_silent_slice_say_nothing_with_a_reason(ask, world):
    dead = ask(world, KIND, "dead")
    assert dead.findings.findings[0].status == "dead"
    assert dead.rows("token_coverage") == dead.rows("weapon_coverage") == []
    silent = ask(world, KIND, "weapon", slice={"weapon_exclude": [11]})
    assert silent.headline.startswith("nothing found: none of the")


def test_too_few_active_examples_are_said_to_be_too_few(ask, world):
    answer = ask(world, KIND, "and", slice={"sample_size": 150})
    assert answer.custom["n_active"] < 20
    assert answer.headline.startswith("nothing can be said of feature")
    assert answer.custom["verdict"] == "nothing_specific"


def test_a_population_of_few_builds_has_nulls_with_reasons(ask, world):
    answer = ask(world, KIND, "main_only", slice={"sample_size": 40})
    for row in answer.rows("token_coverage"):
        assert row["sparse"] == (row["n"] < 20)
        if row["sparse"]:
            assert row["status"] is None
            assert row["is_tail_marker"] is None
            assert "no verdict" in row["reason"]


def test_a_constant_feature_gets_nothing(ask, world):
    assert ask(world, KIND, "constant").headline.startswith("nothing")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"tokens_to_check": ["comeback", "comeback"]}, "same unit twice: comeback.*Nothing was run"),
        ({"tokens_to_check": ["swim_speed_up_41", "swim_speed_up_38"]}, "same unit twice: swim_speed_up_38"),
        ({"tokens_to_check": ["comebak"]}, "comeback"),
        ({"tokens_to_check": ["swim_speed_up_2"]}, "rung 2 of 'swim_speed_up' is out of range"),
    ],
)
def test_units_that_cannot_be_checked_are_errors_in_plan_and_run(world, variables, message):
    spec = parse_spec({"type": KIND, "feature_id": 0, "variables": variables})
    for door in (lambda: find(KIND).plan(spec, world), lambda: find(KIND).run(spec, world, Job())):
        with pytest.raises(RequestError, match=message):
            door()


@pytest.mark.parametrize(
    "variables",
    [{"core_lower_pct": 60, "core_upper_pct": 50}, {"core_upper_pct": 95}, {"core_upper_pct": 0.75}, {"top_k": 0}],
)
def test_ranges_out_of_bounds_are_errors(variables):
    with pytest.raises(RequestError, match="Nothing was run"):
        parse_spec({"type": KIND, "feature_id": 0, "variables": variables})


def test_readings_of_odd_values_are_announced(ask, world):
    answer = ask(world, KIND, "dose", tokens_to_check=["quick_respawn_41"], effective_max_percentile=0.995)
    assert answer.rows("token_coverage")[0]["token"] == "quick_respawn_38"
    read = "quick_respawn_41 is no rung of the vocabulary: quick_respawn_38 is used, as the tokenizer does"
    assert read in answer.job.warnings
    assert any("read as a fraction" in warning for warning in answer.job.warnings)
    assert answer.custom["tail_from"] == pytest.approx(0.9 * world.effective_max(1))


def test_top_k_shows_that_many_units_and_the_table_says_so(ask, world):
    answer = ask(world, KIND, "dose", top_k=3)
    assert len(answer.rows("token_coverage")) == len(answer.rows("weapon_coverage")) == 3
    assert answer.findings.tables[0].notes == [f"3 of {len(world.vocabulary.families)} units, by coverage"]
    assert answer.rows("token_coverage")[0]["token"] == DOSE


def test_nothing_is_asked_of_the_network(fresh_world):
    ctx, world = fresh_world
    spec = parse_spec({"type": KIND, "feature_id": 1})
    assert find(KIND).plan(spec, ctx).forward_passes == 0
    find(KIND).run(spec, ctx, Job())
    assert not world.seen


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return load_context("demo", home=tmp_path_factory.mktemp("home"), device="cpu")


@pytest.mark.parametrize(
    ("feature", "tokens"),
    [
        (0, {"special_charge_up"}),
        (1, {"quick_respawn"}),
        (3, {"run_speed_up", "ink_resistance_up"}),
        (4, {"quick_super_jump", "stealth_jump"}),
        (5, {"special_power_up", "special_saver"}),
        (9, {"ink_saver_sub"}),
        (10, {"sub_resistance_up", "quick_super_jump"}),
        (12, {"intensify_action"}),
    ],
)
def test_exactly_the_abilities_of_the_planted_rule_cover_its_feature(ask, demo, feature, tokens):
    answer = ask(demo, KIND, feature)
    assert set(answer.custom["covering_tokens"]) == tokens
    assert answer.custom["verdict"] in {"present", "conditional"}


def test_the_rarer_leg_of_a_pair_covers_it_and_nothing_foreign_does(ask, demo):
    found = set(ask(demo, KIND, 6).custom["covering_tokens"])
    assert {"ink_saver_main"} <= found <= {"ink_saver_main", "swim_speed_up"}


def test_exactly_the_weapons_of_the_planted_rules_cover_their_features(ask, demo):
    assert ask(demo, KIND, 8).custom["covering_weapons"] == [WEAPONS[40].name]
    found = ask(demo, KIND, 7).custom["covering_weapons"]
    assert found
    assert {kit.special for kit in demo.weapons.facts if kit.name in found} == {"Crab Tank"}


@pytest.mark.parametrize("feature", [13, 14, 15, 16, 17])
def test_random_and_dead_features_of_the_demo_get_nothing(ask, demo, feature):
    assert ask(demo, KIND, feature).headline.startswith("nothing")
