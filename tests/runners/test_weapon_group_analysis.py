"""Weapons among the high examples, against counting by hand, statsmodels, scipy and the planted rules."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from mechinterp_runner.context.contexts import load_context
from mechinterp_runner.runners.parts.weapon_groups.enrichment import GroupOdds
from mechinterp_runner.runners.parts.weapon_groups.enrichment import group_odds as odds_of_cells
from mechinterp_runner.runners.stats.cells import Grouping
from mechinterp_runner.schemas.catalogue import find
from mechinterp_runner.schemas.errors import RequestError
from mechinterp_runner.schemas.facts import WEAPONS
from mechinterp_runner.schemas.spec import parse_spec
from scipy import stats

GROUPS = "weapon_group_analysis"
NAME = {weapon: WEAPONS[weapon].name for weapon in (11, 21, 40, 41, 3000)}


def group_odds(high: np.ndarray, group: np.ndarray, n_groups: int, cluster: np.ndarray) -> GroupOdds:
    grouping = Grouping.of(group, n_groups, cluster)
    return odds_of_cells(grouping.counts(high), grouping.cells)


def clustered_example(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """High examples that agree within clusters, groups of different rates, and the clusters."""
    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(600), 3)
    group = rng.integers(0, 4, 600)[cluster]
    propensity = np.array([0.15, 0.3, 0.4, 0.25])[group] + rng.choice([-0.1, 0.3], 600)[cluster]
    return rng.random(1800) < propensity, group, cluster


# -- statistics -------------------------------------------------------------------------------------------------------


def test_odds_ratios_and_errors_are_those_of_statsmodels_logistic_regression_clustered_by_build():
    high, group, cluster = clustered_example(0)
    found = group_odds(high, group, 4, cluster)
    for each in range(4):
        design = sm.add_constant((group == each).astype(float))
        fit = sm.Logit(high.astype(float), design).fit(disp=0, cov_type="cluster", cov_kwds={"groups": cluster})
        assert found.log_odds[each] == pytest.approx(fit.params[1], rel=1e-6)
        assert found.error[each] == pytest.approx(fit.bse[1], rel=1e-5)


def test_clusters_that_span_groups_have_the_error_of_statsmodels_too():
    rng = np.random.default_rng(1)
    cluster = np.repeat(np.arange(400), 4)
    group = np.where(cluster < 120, cluster % 2, rng.random(1600) < 0.4).astype(int)
    high = rng.random(1600) < np.where(group == 1, 0.45, 0.25) + rng.choice([-0.15, 0.2], 400)[cluster]
    found = group_odds(high, group, 2, cluster)
    design = sm.add_constant((group == 1).astype(float))
    fit = sm.Logit(high.astype(float), design).fit(disp=0, cov_type="cluster", cov_kwds={"groups": cluster})
    assert found.error[1] == pytest.approx(fit.bse[1], rel=1e-5)
    assert found.log_odds[1] == pytest.approx(fit.params[1], rel=1e-6)


def test_shares_and_odds_ratios_are_those_of_the_two_by_two_table():
    high, group, cluster = clustered_example(2)
    found = group_odds(high, group, 4, cluster)
    for each in range(4):
        table = [[np.sum(high & (group == each)), np.sum(~high & (group == each))],
                 [np.sum(high & (group != each)), np.sum(~high & (group != each))]]  # fmt: skip
        assert np.exp(found.log_odds[each]) == pytest.approx(
            stats.contingency.odds_ratio(table, kind="sample").statistic
        )
        assert found.share_high[each] == pytest.approx(np.mean(group[high] == each))
        assert found.share_low[each] == pytest.approx(np.mean(group[~high] == each))
        assert found.ratio[each] == pytest.approx(np.mean(group[high] == each) / np.mean(group[~high] == each))


def test_a_group_that_one_side_lacks_keeps_a_finite_odds_ratio_with_a_wide_interval():
    group, cluster = np.repeat([0, 1], [40, 400]), np.arange(440)
    high = (group == 1) & (cluster % 4 == 0)
    found = group_odds(high, group, 2, cluster)
    a, b, c, d = 0.5, 100.5, 40.5, 300.5
    assert np.exp(found.log_odds[0]) == pytest.approx(a * d / (b * c))
    assert found.error[0] >= np.sqrt(1 / a + 1 / b + 1 / c + 1 / d) * 0.999
    low, high_end = found.interval()
    assert 0 < low[0] < found.share_high[0] + 0.05
    assert high_end[0] > 0.5
    assert found.log_odds[1] == pytest.approx(-found.log_odds[0])


def test_a_group_that_holds_all_high_examples_is_not_more_certain_than_its_empty_cell():
    group, cluster = np.repeat([0, 1], [60, 400]), np.arange(460)
    found = group_odds((group == 0) & (cluster % 2 == 0), group, 2, cluster)
    a, b, c, d = 30.5, 0.5, 30.5, 400.5
    assert found.error[0] == pytest.approx(np.sqrt(1 / a + 1 / b + 1 / c + 1 / d))


def test_fewer_than_10_clusters_give_no_interval():
    high, group, cluster = clustered_example(3)
    cluster = np.where(group == 2, cluster % 9, cluster + 9)
    found = group_odds(high, group, 4, cluster)
    assert np.isnan(found.error[2])
    assert np.isnan(found.p_value()[2])
    assert not np.isnan(found.error[[0, 1, 3]]).any()


def test_intervals_of_groups_that_differ_by_chance_alone_cover_the_odds_ratio_of_1():
    missed = called = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        cluster = np.repeat(np.arange(300), 4)
        group = rng.integers(0, 6, 300)[cluster]
        high = rng.random(1200) < rng.choice([0.0, 0.3], 300)[cluster]
        low, upper = group_odds(high, group, 6, cluster).interval()
        missed += int(((low > 1) | (upper < 1)).sum())
        called += 6
    assert missed / called == pytest.approx(0.05, abs=0.025)


# -- rules ------------------------------------------------------------------------------------------------------------


def test_a_single_weapon_that_drives_the_feature_is_over_represented(ask, world):
    answer = ask(world, GROUPS, "weapon")
    row = answer.rows("weapon_enrichment")[0]
    assert row["weapon_name"] == NAME[11]
    assert row["share_high"] == 1.0
    assert row["enriched"] is True
    assert row["odds_low"] > 1
    assert answer.headline.startswith(f"{NAME[11]} is over-represented among the ")
    assert "CORRELATIONAL" in answer.headline
    assert answer.custom["enriched_weapons"] == [NAME[11]]
    assert answer.custom["verdict"] == "present"
    assert answer.findings.followups[0].spec["type"] == "weapon_sweep"


def assert_means(row: dict, activation: np.ndarray) -> None:
    """The counts and means of a row are those of the activations of its examples."""
    active = activation[activation > 0]
    assert (row["n"], row["n_active"]) == (len(activation), len(active))
    assert row["mean_activation"] == pytest.approx(float(activation.mean()), rel=1e-5)
    wanted = pytest.approx(float(active.mean()), rel=1e-5) if len(active) else None
    assert row["mean_when_active"] == wanted


def test_counts_are_those_of_a_plain_loop_over_the_examples(ask, world, feature):
    answer = ask(world, GROUPS, "threshold", top_k=100, high_percentile=50)
    activation, weapon = np.asarray(world.activations(feature["threshold"])), np.asarray(world.data.weapon)
    high = activation >= np.quantile(activation[activation > 0], 0.5)
    assert answer.custom["n_high"] == high.sum()
    rows = answer.rows("weapon_enrichment")
    assert len(rows) == len(world.weapons)
    for row in rows:
        own = weapon == world.weapons.weapon_ids.index(row["weapon_id"])
        assert (row["n_high"], row["n_low"]) == (int((high & own).sum()), int((~high & own).sum()))
        assert_means(row, activation[own])
    for row in answer.rows("class_enrichment"):
        own = np.array([world.weapons.facts[w].weapon_class == row["weapon_class"] for w in weapon])
        assert_means(row, activation[own])
        assert (row["n_high"], row["n_low"]) == (int((high & own).sum()), int((~high & own).sum()))
        assert row["n_weapons"] == len(np.unique(weapon[own]))


def test_weapons_with_the_driving_special_are_over_represented_together(ask, world):
    answer = ask(world, GROUPS, "special")
    assert set(answer.custom["enriched_weapons"]) == {NAME[41], NAME[21], NAME[3000]}
    assert "and 2 more weapons are over-represented" in answer.headline
    assert [followup.spec["type"] for followup in answer.findings.followups] == ["weapon_sweep", "kit_sweep"]


def test_a_weapon_that_only_favours_the_ability_is_said_to_be_explained_by_abilities(ask, world):
    answer = ask(world, GROUPS, "confounded")
    row = answer.rows("weapon_enrichment")[0]
    assert row["weapon_name"] == NAME[11]
    assert abs(row["delta_adjusted"]) < 0.2 * row["delta_from_global"]
    assert "the abilities its builds hold explain it" in answer.headline
    assert answer.custom["explained_by_abilities"] is True
    assert answer.findings.followups[0].spec == {
        "type": "weapon_sweep", "feature_id": answer.findings.followups[0].spec["feature_id"],
        "variables": {"method": "interventional"}, "parent_spec_id": "asked",
        "rationale": answer.findings.followups[0].reason,
    }  # fmt: skip


def test_a_class_that_one_weapon_carries_is_not_named(ask, world):
    answer = ask(world, GROUPS, "weapon")
    row = answer.row("class_enrichment", weapon_class=WEAPONS[11].weapon_class)
    assert row["strongest_weapon"] == NAME[11]
    assert row["odds_ratio"] > 5 * row["odds_without_strongest"]
    assert answer.custom["enriched_classes"] == []
    assert "class" not in answer.headline


@pytest.mark.parametrize("name", ["random_0", "random_1", "constant"])
def test_where_nothing_drives_the_feature_nothing_is_found(ask, world, name):
    answer = ask(world, GROUPS, name)
    assert answer.headline.startswith("nothing")
    assert answer.custom["verdict"] == "nothing_specific"
    assert answer.custom["enriched_weapons"] == []
    assert answer.findings.followups == []


def test_a_dead_feature_and_a_slice_without_an_active_example_say_so(ask, world):
    dead = ask(world, GROUPS, "dead")
    assert dead.findings.findings[0].status == "dead"
    quiet = ask(world, GROUPS, "weapon", slice={"weapon_exclude": [11]})
    assert quiet.headline.startswith("nothing found: none of the")
    assert all(table.rows == [] for answer in (dead, quiet) for table in answer.findings.tables)


def test_a_weapon_without_high_examples_keeps_its_row_at_the_other_end(ask, world):
    answer = ask(world, GROUPS, "weapon", top_k=2)
    rows = answer.rows("weapon_enrichment")
    assert len(rows) == 4
    for row in rows[2:]:
        assert row["n_high"] == 0
        assert row["ratio"] == 0.0
        assert row["odds_ratio"] > 0.0
        assert row["odds_low"] < row["odds_ratio"] < row["odds_high"]
    assert any("4 of 24" in note for note in answer.findings.tables[0].notes)


def test_a_percentile_given_as_a_fraction_is_read_as_one_and_few_high_examples_are_widened(ask, world, feature):
    answer = ask(world, GROUPS, "weapon", high_percentile=0.9)
    assert answer.custom["high_percentile"] == 90.0
    assert any("was read as a fraction" in warning for warning in answer.job.warnings)
    few = ask(world, GROUPS, "random_0", high_percentile=99.9)
    activation = np.asarray(world.activations(feature["random_0"]))
    assert few.custom["n_high"] == (activation >= np.sort(activation)[-50]).sum() >= 50
    assert any("widened" in warning for warning in few.job.warnings)


def test_one_weapon_alone_has_nothing_to_be_compared_with(ask, world):
    answer = ask(world, GROUPS, "weapon", slice={"weapon_filter": [11]})
    assert answer.headline.startswith("nothing can be said")
    row = answer.rows("weapon_enrichment")[0]
    assert row["odds_ratio"] is row["odds_low"] is None
    assert "nothing to compare" in row["reason"]


def test_weapons_outside_the_table_are_a_class_of_their_own_and_warned_about(ask, tmp_path, make_world):
    ctx, _ = make_world(tmp_path / "outside", n_builds=300, weapons=(*tuple(WEAPONS)[:23], 9999))
    answer = ask(ctx, GROUPS, "threshold")
    assert answer.row("class_enrichment", weapon_class="unknown")["n_weapons"] == 1
    assert any("outside the project's table" in warning for warning in answer.job.warnings)


def test_wrong_variables_are_refused_and_the_plan_makes_no_passes(ask, world):
    for given in ({"high_percentile": 0.3}, {"high_percentile": 100}, {"min_examples": 0}, {"weapons": [1]}):
        with pytest.raises(RequestError, match="Nothing was run"):
            ask(world, GROUPS, "weapon", **given)
    plan = find(GROUPS).plan(parse_spec({"type": GROUPS, "feature_id": 6}), world)
    assert (plan.contexts, plan.forward_passes) == (len(world.data), 0)


# -- the demo network -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return load_context("demo", home=tmp_path_factory.mktemp("home"), device="cpu")


def test_the_planted_weapon_and_the_weapons_of_the_planted_special_are_over_represented(ask, demo):
    one = ask(demo, GROUPS, 8)
    assert one.custom["enriched_weapons"] == [NAME[40]]
    assert one.custom["enriched_classes"] == []
    crabs = {kit.name for kit in demo.weapons.facts if kit.special == "Crab Tank"}
    several = ask(demo, GROUPS, 7)
    assert set(several.custom["enriched_weapons"]) <= crabs
    assert len(several.custom["enriched_weapons"]) >= 5
    assert several.custom["explained_by_abilities"] is False


def test_kits_that_favour_the_driving_ability_are_explained_by_it(ask, demo):
    answer = ask(demo, GROUPS, 9)
    assert answer.custom["explained_by_abilities"] is True
    assert "the abilities its builds hold explain it" in answer.headline


@pytest.mark.parametrize("direction", [13, 14, 15])
def test_random_directions_of_the_demo_get_nothing(ask, demo, direction):
    answer = ask(demo, GROUPS, direction)
    assert answer.headline.startswith("nothing")
    assert answer.custom["verdict"] == "nothing_specific"
