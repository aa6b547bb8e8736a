"""Split-half reliability against scipy, networkx and plain loops over the same splits."""

from __future__ import annotations

from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
from mechinterp_runner.context.bundle import Bundle
from mechinterp_runner.context.context import Context
from mechinterp_runner.context.contexts import load_context
from mechinterp_runner.runners.design.high import split_high
from mechinterp_runner.runners.parts.splits.compare import split_labels, units_of
from mechinterp_runner.runners.stats.reliability import midranks, pearson, spearman, spearman_brown, split_clusters
from mechinterp_runner.schemas.catalogue import find
from mechinterp_runner.schemas.errors import RequestError
from mechinterp_runner.schemas.job import Job
from mechinterp_runner.schemas.spec import DatasetSlice, parse_spec
from scipy import stats

SPLIT = "split_half"
METRICS = ("token_effects", "token_frequency", "weapon_means", "pagerank")


def effect(held: np.ndarray, value: np.ndarray, weapon: np.ndarray) -> float:
    """Least squares of the value on the column and a dummy for each weapon, by demeaning within weapons."""
    x, y = held.astype(float), value.astype(float)
    for each in np.unique(weapon):
        own = weapon == each
        x[own] -= x[own].mean()
        y[own] -= y[own].mean()
    return float(x @ y / (x @ x)) if x @ x > 1e-9 else float("nan")


def rank(held: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """networkx PageRank on the pairs of tokens held together, NaN for a token held with no other."""
    graph = held.T @ (held * weight[:, None])
    np.fill_diagonal(graph, 0.0)
    ranks = nx.pagerank(nx.from_numpy_array(graph), tol=1e-13, max_iter=1000)
    return np.where(graph.sum(axis=1) > 0, [ranks[i] for i in range(len(graph))], np.nan)


def by_hand(metric: str, ctx: Context, population, inside: np.ndarray, held: np.ndarray, high: np.ndarray):
    """Values of all units over the examples of one half."""
    weapon, value = np.asarray(ctx.data.weapon[population.rows])[inside], population.activation[inside].astype(float)
    held = held[inside]
    if metric == "token_effects":
        return np.array([effect(column, value, weapon) for column in held.T])
    if metric == "token_frequency":
        return held[high[inside]].mean(axis=0)
    if metric == "weapon_means":
        counts = np.bincount(ctx.data.weapon[population.rows], minlength=len(ctx.weapons))
        usable = np.flatnonzero(counts >= 20).tolist()
        return np.array([value[weapon == each].mean() if (weapon == each).any() else np.nan for each in usable])
    return rank(held, value)


@pytest.mark.parametrize("metric", METRICS)
def test_correlations_equal_scipy_on_values_worked_out_half_by_half(metric, ask, fresh_world, feature):
    ctx, _ = fresh_world
    answer = ask(ctx, SPLIT, "dose", metric=metric, n_splits=2)
    population = ctx.population(DatasetSlice(), feature["dose"])
    cluster, first = split_labels(ctx, population, 2, 0)
    halves, labels = units_of(ctx, population, cluster)
    held, high = halves.columns.rows(0, len(population)).toarray(), split_high(population, 90, Job()).high
    assert len(labels) == held.shape[1]
    assert held.sum(axis=0).min() >= 20
    for split, row in enumerate(answer.rows("split_correlations")):
        inside = first[split][cluster]
        one, other = (by_hand(metric, ctx, population, part, held, high) for part in (inside, ~inside))
        known = ~np.isnan(one) & ~np.isnan(other)
        assert row["n_units"] == known.sum()
        assert row["pearson"] == pytest.approx(stats.pearsonr(one[known], other[known])[0], abs=1e-9)
        ranked = stats.spearmanr(
            np.round(one[known] / one[known].max(), 10), np.round(other[known] / other[known].max(), 10)
        )
        assert row["spearman"] == pytest.approx(ranked[0], abs=1e-9)
        if row["pearson"] > 0:
            assert row["spearman_brown"] == pytest.approx(2 * row["pearson"] / (1 + row["pearson"]))
        else:
            assert (row["spearman_brown"], row["reason"]) == (None, "the halves do not agree")
        assert (row["n_first"], row["n_second"]) == (inside.sum(), (~inside).sum())


def test_aggregates_are_those_of_the_rows(ask, world):
    answer = ask(world, SPLIT, "and", n_splits=12)
    rows = [row["pearson"] for row in answer.rows("split_correlations")]
    assert answer.custom["mean_correlation"] == pytest.approx(np.mean(rows))
    assert answer.custom["std_correlation"] == pytest.approx(np.std(rows, ddof=1))
    assert (answer.custom["min_correlation"], answer.custom["max_correlation"]) == (min(rows), max(rows))
    mean = answer.custom["mean_correlation"]
    assert answer.custom["reliability"] == pytest.approx(2 * mean / (1 + mean))
    assert answer.custom["stability_passed"] is (mean >= 0.7)
    assert [answer.custom["range_low"], answer.custom["range_high"]] == pytest.approx(np.quantile(rows, [0.025, 0.975]))
    assert any("not a confidence interval" in note for note in answer.findings.diagnostics.notes)


def test_no_build_is_in_both_halves_and_halves_are_equal_in_builds(world, feature):
    population = world.population(DatasetSlice(), feature["dose"])
    cluster, first = split_labels(world, population, 20, 3)
    builds = np.asarray(world.data.build_id)
    assert len(np.unique(first, axis=0)) == 20
    for split in first:
        inside = split[cluster]
        assert not set(builds[inside]) & set(builds[~inside])
        assert len(set(builds[inside])) == len(set(builds)) // 2


def test_where_builds_are_unknown_equal_sets_stay_together_and_it_is_said(ask, fresh_world, feature):
    ctx, _ = fresh_world
    ctx.examples = replace(ctx.data, build_id=None)
    answer = ask(ctx, SPLIT, "dose", n_splits=3)
    assert any("builds are unknown" in warning for warning in answer.job.warnings)
    population = ctx.population(DatasetSlice(), feature["dose"])
    cluster, _ = split_labels(ctx, population, 1, 0)
    keys = ctx.sets(population.rows).keys()
    assert len(np.unique(cluster)) == len(np.unique(keys)) == len({*zip(cluster.tolist(), keys.tolist(), strict=True)})


@pytest.mark.parametrize(
    ("old", "new"), [("token_frequency_correlation", "token_frequency"), ("pagerank_correlation", "pagerank")]
)
def test_old_metric_names_are_read_as_those_of_today(old, new):
    spec = parse_spec({"type": SPLIT, "feature_id": 0, "variables": {"metric": old}})
    assert spec.variables.metric == new
    assert old not in str(type(spec.variables).model_json_schema())


def test_an_unknown_metric_names_those_there_are():
    with pytest.raises(RequestError, match="token_effects"):
        parse_spec({"type": SPLIT, "feature_id": 0, "variables": {"metric": "tokens"}})


@pytest.mark.parametrize("rule", ["threshold", "and", "weapon", "constant", "random_0", "random_1"])
@pytest.mark.parametrize("metric", METRICS)
def test_every_headline_says_that_it_is_reliability_only(rule, metric, ask, world):
    answer = ask(world, SPLIT, rule, metric=metric, n_splits=3)
    assert answer.headline.startswith("reliability only:")
    assert "nothing specific is claimed" in answer.headline
    assert "all examples" in answer.headline
    assert answer.findings.findings == []


def test_random_directions_are_reliable_and_no_more_than_others(ask, world):
    for rule in ("random_0", "random_1"):
        answer = ask(world, SPLIT, rule)
        assert answer.custom["mean_correlation"] > 0.5
        assert answer.custom["null_median_correlation"] > 0.5
        assert answer.custom["verdict"] == "nothing_specific"
        assert "random directions score as high" in answer.headline


def test_activations_shuffled_over_builds_do_not_agree_and_ask_for_the_shuffle_null(ask, world, feature):
    ctx = Context("shuffled", Bundle.open(world.bundle.path), oracle=world.oracle)
    values = np.array(world.activations(feature["dose"])).reshape(-1, 2)
    ctx._columns[feature["dose"]] = values[np.random.default_rng(1).permutation(len(values))].ravel()
    answer = ask(ctx, SPLIT, "dose", n_splits=20)
    assert abs(answer.custom["mean_correlation"]) < 0.3
    assert answer.custom["stability_passed"] is False
    assert answer.findings.followups[0].spec["type"] == "shuffle_null"


def test_a_constant_feature_has_nothing_to_correlate_and_says_why(ask, world):
    answer = ask(world, SPLIT, "constant", n_splits=2)
    assert answer.custom["mean_correlation"] is None
    assert "do not vary" in answer.custom["reason"]
    assert all(row["pearson"] is None and row["reason"] for row in answer.rows("split_correlations"))


def test_fewer_than_three_units_are_not_correlated(ask, world):
    answer = ask(world, SPLIT, "dose", metric="weapon_means", n_splits=2, slice={"weapon_filter": [40, 41]})
    assert answer.custom["mean_correlation"] is None
    assert all("only 2 units" in row["reason"] for row in answer.rows("split_correlations"))


def test_fewer_than_ten_builds_are_not_split(ask, world):
    answer = ask(world, SPLIT, "constant", slice={"sample_size": 6})
    assert answer.rows("split_correlations") == []
    assert "fewer than 10 builds" in answer.headline
    assert answer.custom["stability_passed"] is None


def test_without_random_directions_the_comparison_is_unknown_and_said_to_be(ask, world, monkeypatch):
    monkeypatch.setattr(world, "random_directions", lambda: None)
    answer = ask(world, SPLIT, "dose", n_splits=1)
    assert (answer.custom["specificity_p"], answer.custom["std_correlation"]) == (None, None)
    assert answer.custom["specificity_reason"]
    assert answer.custom["std_reason"]
    assert answer.custom["verdict"] == "nothing_specific"
    assert "random directions are unknown" in answer.headline


def test_a_dead_feature_is_called_dead(ask, world):
    answer = ask(world, SPLIT, "dead")
    assert answer.headline.startswith("nothing found")
    assert answer.custom["dead"] is True


def test_the_same_seed_gives_the_same_splits_and_another_others(ask, world):
    runs = [ask(world, SPLIT, "or", n_splits=3, slice={"random_seed": seed}) for seed in (0, 0, 7)]
    rows = [answer.rows("split_correlations") for answer in runs]
    assert rows[0] == rows[1] != rows[2]


def test_a_percentile_is_used_by_its_metric_and_refused_silence_by_the_others(ask, world):
    wide = ask(world, SPLIT, "dose", metric="token_frequency", high_percentile=50)
    assert wide.custom["n_high"] > ask(world, SPLIT, "dose", metric="token_frequency").custom["n_high"]
    other = ask(world, SPLIT, "dose", high_percentile=50)
    assert any("high_percentile is not used" in warning for warning in other.job.warnings)


def test_the_plan_reads_the_population_and_makes_no_pass(world):
    spec = parse_spec({"type": SPLIT, "feature_id": 0, "dataset_slice": {"weapon_filter": [40]}})
    plan = find(SPLIT).plan(spec, world)
    assert plan.forward_passes == 0
    assert plan.contexts == int((np.asarray(world.data.weapon) == world.weapons.resolve(40)).sum())


def test_correlations_leave_out_missing_values_and_share_ranks_of_ties():
    rng = np.random.default_rng(0)
    one, other = np.round(rng.normal(size=(2, 5, 40)), 1)
    one[0, :7], other[1, 3:9], one[2, 2:] = np.nan, np.nan, np.nan
    one[3] = 0.3
    r, rho = pearson(one, other), spearman(one, other)
    assert np.isnan(r[[2, 3]]).all()
    assert np.isnan(rho[[2, 3]]).all()
    for i in (0, 1, 4):
        known = ~np.isnan(one[i]) & ~np.isnan(other[i])
        assert r[i] == pytest.approx(stats.pearsonr(one[i, known], other[i, known])[0])
        assert rho[i] == pytest.approx(stats.spearmanr(one[i, known], other[i, known])[0])
    assert midranks(one[4]) == pytest.approx(stats.rankdata(one[4]))


def test_reliability_is_extrapolated_only_where_halves_agree():
    assert spearman_brown(np.array([0.5, 1.0])) == pytest.approx([2 / 3, 1.0])
    assert np.isnan(spearman_brown(np.array([0.0, -0.4, np.nan]))).all()


def test_every_cluster_is_in_the_first_half_as_often_as_in_the_second():
    first = split_clusters(9, 4000, np.random.default_rng(0))
    assert (first.sum(axis=1) == 4).all()
    assert np.abs(first.mean(axis=0) - 4 / 9).max() < 0.04


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return load_context("demo", home=tmp_path_factory.mktemp("home"), device="cpu")


def test_planted_token_rules_are_reliable_in_tokens_and_weapon_rules_in_weapons(ask, demo):
    for rule in (0, 1, 2, 3, 5, 9, 11, 12):
        assert ask(demo, SPLIT, rule).custom["mean_correlation"] > 0.9
    for rule in (7, 8):
        assert ask(demo, SPLIT, rule, metric="weapon_means").custom["mean_correlation"] > 0.9
        assert ask(demo, SPLIT, rule).custom["stability_passed"] is False


@pytest.mark.parametrize("metric", ["pagerank", "token_effects", "token_frequency", "weapon_means"])
def test_examples_too_few_for_any_unit_give_nulls_with_a_reason(ask, demo, metric):
    answer = ask(demo, SPLIT, 3, metric=metric, n_splits=4, slice={"sample_size": 15, "activation_threshold": 0})
    assert answer.custom["mean_correlation"] is None
    assert answer.custom["reason"] == "only 0 units have a value in both halves: 3 are needed"
    rows = answer.rows("split_correlations")
    assert [(row["pearson"], row["n_units"]) for row in rows] == [(None, 0)] * 4
    assert all(row["reason"] for row in rows)
