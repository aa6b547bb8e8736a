"""Estimators against scipy and statsmodels, on data made for the purpose."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mechinterp_runner.runners.stats.adjusted import AdjustedEffects
from mechinterp_runner.runners.stats.cells import Grouping
from mechinterp_runner.runners.stats.curve import describe_curve, trend, winner_confirmed
from mechinterp_runner.runners.stats.fixed_effects import FixedEffects
from mechinterp_runner.runners.stats.groups import deltas_of, means_of
from mechinterp_runner.runners.stats.moments import Moments
from mechinterp_runner.runners.stats.paired import bootstrap_weights, paired_effects, verdicts
from mechinterp_runner.runners.stats.regression import ClusteredFit
from mechinterp_runner.runners.stats.tails import (
    benjamini_hochberg,
    clopper_pearson,
    hypergeometric_tail,
    sidak_level,
    sign_test,
    t_quantile,
    t_two_sided,
)
from scipy import sparse


def group_means(value, group, n_groups, cluster):
    return means_of(Moments.of(Grouping.of(group, n_groups, cluster).sums(value)))


def deltas_from_global(value, group, n_groups, cluster):
    return deltas_of(Moments.of(Grouping.of(group, n_groups, cluster).sums(value)))


def within_groups(value: np.ndarray, dummies: np.ndarray, group: np.ndarray, cluster: np.ndarray) -> ClusteredFit:
    """Effects of exclusive dummies [n, k] with the group held fixed."""
    k = dummies.shape[1] + 1
    label = group * k + (dummies @ np.arange(1, k)).astype(int)
    grouping = Grouping.of(label, (int(group.max()) + 1) * k, cluster)
    return FixedEffects.of(grouping.cells, k).fit(Moments.of(grouping.sums(value)))


def clustered_data(seed: int, n_clusters: int = 60) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(n_clusters), rng.integers(1, 7, n_clusters))
    n = len(cluster)
    weapon = rng.integers(0, 5, n_clusters)[cluster]
    level = rng.integers(0, 4, n)
    tokens = rng.random((n, 6)) < 0.4
    noise = rng.normal(size=n_clusters)[cluster] + rng.normal(size=n)
    value = np.maximum(0.4 * level + 0.8 * (weapon == 2) + tokens[:, 1] + noise, 0)
    return {"cluster": cluster, "weapon": weapon, "level": level, "tokens": tokens, "value": value}


@pytest.mark.parametrize(("k", "n"), [(0, 20), (1, 20), (7, 20), (20, 20), (3, 500)])
def test_clopper_pearson_equals_scipy(k, n):
    exact = scipy.stats.binomtest(k, n).proportion_ci(0.95, method="exact")
    low, high = clopper_pearson(float(k), n)
    assert (float(low), float(high)) == pytest.approx((exact.low, exact.high), abs=1e-12)


@given(st.integers(0, 40), st.integers(0, 40))
def test_the_sign_test_equals_the_exact_binomial_test(up, down):
    expected = scipy.stats.binomtest(up, up + down).pvalue if up + down else 1.0
    assert float(sign_test(np.array(up), np.array(down))) == pytest.approx(expected, abs=1e-12)


@given(hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1)))
def test_benjamini_hochberg_equals_scipy(p):
    assert benjamini_hochberg(p) == pytest.approx(scipy.stats.false_discovery_control(p))


def test_null_p_values_take_no_part_in_the_correction():
    q = benjamini_hochberg(np.array([0.01, np.nan, 0.04]))
    assert q[[0, 2]] == pytest.approx(scipy.stats.false_discovery_control([0.01, 0.04]))
    assert np.isnan(q[1])


@pytest.mark.parametrize(
    ("hits", "drawn", "marked", "total"), [(3, 3, 3, 24), (2, 5, 4, 30), (0, 4, 4, 9), (5, 5, 4, 9)]
)
def test_the_hypergeometric_tail_equals_scipy(hits, drawn, marked, total):
    expected = scipy.stats.hypergeom.sf(hits - 1, total, marked, drawn)
    assert hypergeometric_tail(hits, drawn, marked, total) == pytest.approx(expected, abs=1e-12)


def test_t_tails_and_quantiles_equal_scipy():
    t = np.array([-3.0, 0.0, 0.7, 4.2])
    assert t_two_sided(t, 17) == pytest.approx(2 * scipy.stats.t.sf(np.abs(t), 17))
    assert float(t_quantile(0.975, 17)) == pytest.approx(scipy.stats.t.ppf(0.975, 17))


def test_sidak_intervals_of_independent_effects_hold_jointly():
    assert sidak_level(0.95, 8) ** 8 == pytest.approx(0.95)


def test_paired_effects_of_an_infinite_population_equal_the_one_sample_t_test():
    d = np.random.default_rng(1).normal(0.3, 1.0, (80, 3))
    effects = paired_effects(d, 10**12, 0.1, bootstrap_weights(80, np.random.default_rng(0)))
    expected = scipy.stats.ttest_1samp(d, 0)
    interval = expected.confidence_interval(0.95)
    assert effects.p_value == pytest.approx(expected.pvalue, rel=1e-6)
    assert effects.ci_low == pytest.approx(interval.low, rel=1e-6)
    assert effects.ci_high == pytest.approx(interval.high, rel=1e-6)
    assert effects.q_value == pytest.approx(scipy.stats.false_discovery_control(expected.pvalue), rel=1e-6)


def test_sampling_the_whole_population_leaves_no_sampling_error():
    d = np.random.default_rng(1).normal(0.3, 1.0, (80, 2))
    effects = paired_effects(d, 80, 0.1, bootstrap_weights(80, np.random.default_rng(0)))
    assert effects.std_error == pytest.approx([0.0, 0.0])


def test_simultaneous_intervals_cover_all_means_at_once_about_95_times_in_100():
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(300):
        d = rng.normal(0, 1, (60, 1)) * 0.5 + rng.normal(0.2, 1, (60, 6))
        effects = paired_effects(d, 10**9, 0.1, bootstrap_weights(60, rng, 300))
        covered += bool(np.all((effects.sim_low <= 0.2) & (effects.sim_high >= 0.2)))
    assert 0.90 <= covered / 300 <= 0.99


def test_bounds_from_few_changes_cover_where_the_t_interval_does_not():
    rng = np.random.default_rng(4)
    population = np.where(rng.random(20_000) < 0.01, 2.0, 0.0)
    covered = 0
    for _ in range(200):
        d = rng.choice(population, 300, replace=False)[:, None]
        effects = paired_effects(d, len(population), 0.1, np.full((10, 300), 1 / 300))
        assert effects.few[0]
        covered += bool(effects.ci_low[0] <= population.mean() <= effects.ci_high[0])
    assert covered / 200 >= 0.95


def test_no_change_at_all_is_effect_zero_with_p_one_and_a_bounded_rate():
    effects = paired_effects(np.zeros((500, 2)), 10_000, 0.1, np.full((10, 500), 1 / 500))
    assert effects.p_value.tolist() == [1.0, 1.0]
    assert effects.responder_high == pytest.approx([3 / 500, 3 / 500])
    assert verdicts(effects, 0.1)[0] == ["negligible", "negligible"]


@pytest.mark.parametrize("seed", range(4))
def test_within_weapon_effects_equal_ols_with_dummies_and_clustered_errors(seed):
    data = clustered_data(seed)
    dummies = (data["level"][:, None] == np.arange(1, 4)).astype(float)
    fit = within_groups(data["value"], dummies, data["weapon"], data["cluster"])
    weapons = (data["weapon"][:, None] == np.unique(data["weapon"])).astype(float)
    model = sm.OLS(data["value"], np.hstack([dummies, weapons]))
    expected = model.fit(cov_type="cluster", cov_kwds={"groups": data["cluster"]}, use_t=True)
    assert fit.coefficient == pytest.approx(expected.params[:3])
    assert fit.std_error == pytest.approx(expected.bse[:3])
    assert fit.p_value() == pytest.approx(expected.pvalues[:3])
    assert np.stack(fit.interval(), axis=1) == pytest.approx(expected.conf_int()[:3])


@pytest.mark.parametrize("seed", range(4))
def test_adjusted_weapon_effects_equal_ols_with_weapon_and_token_dummies(seed):
    data = clustered_data(seed)
    n_weapons = 5
    tokens = sparse.csr_matrix(data["tokens"].astype(float))
    fit = AdjustedEffects.of(Grouping.of(data["weapon"], n_weapons, data["cluster"]), tokens.__getitem__).fit(
        data["value"]
    )
    columns = np.hstack([(data["weapon"][:, None] == np.arange(n_weapons)).astype(float), data["tokens"]])
    model = sm.OLS(data["value"], columns).fit(cov_type="cluster", cov_kwds={"groups": data["cluster"]}, use_t=True)
    counts = np.bincount(data["weapon"], minlength=n_weapons)
    contrasts = np.zeros((n_weapons, columns.shape[1]))
    contrasts[:, :n_weapons] = np.eye(n_weapons) - counts / counts.sum()
    expected = model.t_test(contrasts)
    assert fit.coefficient == pytest.approx(expected.effect)
    assert fit.std_error == pytest.approx(np.ravel(expected.sd))


def test_a_level_that_only_one_weapon_has_is_unknown_and_not_zero():
    data = clustered_data(7)
    dummies = (data["weapon"] == 2).astype(float)[:, None]
    fit = within_groups(data["value"], dummies, data["weapon"], data["cluster"])
    assert np.isnan(fit.coefficient[0])
    assert np.isnan(fit.std_error[0])


@pytest.mark.parametrize("seed", range(3))
def test_group_means_equal_clustered_ols_on_a_constant(seed):
    data = clustered_data(seed)
    means = group_means(data["value"], data["weapon"], 5, data["cluster"])
    for group in range(5):
        rows = data["weapon"] == group
        if means.n_clusters[group] < 10:
            assert np.isnan(means.std_error[group])
            continue
        model = sm.OLS(data["value"][rows], np.ones(rows.sum()))
        groups = np.unique(data["cluster"][rows], return_inverse=True)[1]
        expected = model.fit(cov_type="cluster", cov_kwds={"groups": groups})
        assert means.mean[group] == pytest.approx(expected.params[0])
        assert means.std_error[group] == pytest.approx(expected.bse[0])
        assert means.std[group] == pytest.approx(data["value"][rows].std(ddof=1))


def test_the_error_of_a_delta_from_the_global_mean_equals_a_cluster_bootstrap():
    data = clustered_data(5, n_clusters=200)
    deltas = deltas_from_global(data["value"], data["weapon"], 5, data["cluster"])
    rng = np.random.default_rng(0)
    members = [np.flatnonzero(data["cluster"] == c) for c in range(200)]
    draws = []
    for _ in range(600):
        rows = np.concatenate([members[c] for c in rng.integers(0, 200, 200)])
        value, weapon = data["value"][rows], data["weapon"][rows]
        draws.append([value[weapon == g].mean() - value.mean() for g in range(5)])
    assert deltas.std_error == pytest.approx(np.std(draws, axis=0), rel=0.15)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000))
def test_permuting_the_examples_changes_nothing(seed):
    data = clustered_data(3)
    order = np.random.default_rng(seed).permutation(len(data["value"]))
    first = group_means(data["value"], data["weapon"], 5, data["cluster"])
    second = group_means(data["value"][order], data["weapon"][order], 5, data["cluster"][order])
    assert first.mean == pytest.approx(second.mean, nan_ok=True)
    assert first.std_error == pytest.approx(second.std_error, nan_ok=True)


def test_doubling_every_example_changes_no_mean_and_no_clustered_error_beyond_its_small_sample_factor():
    data = clustered_data(3)
    twice = {name: np.concatenate([value, value]) for name, value in data.items()}
    once = group_means(data["value"], data["weapon"], 5, data["cluster"])
    doubled = group_means(twice["value"], twice["weapon"], 5, twice["cluster"])
    assert doubled.mean == pytest.approx(once.mean, nan_ok=True)
    assert doubled.std_error == pytest.approx(once.std_error, nan_ok=True)


def test_clustered_errors_reject_a_true_null_about_5_times_in_100_and_plain_ones_far_more_often():
    clustered = plain = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        cluster = np.repeat(np.arange(40), 5)
        group = (rng.permutation(40) < 20).astype(int)[cluster]
        value = rng.normal(size=40)[cluster] * 2 + rng.normal(size=200)
        fit = within_groups(value, group[:, None].astype(float), np.zeros(200, int), cluster)
        clustered += bool(fit.p_value()[0] < 0.05)
        plain += bool(scipy.stats.ttest_ind(value[group == 1], value[group == 0], equal_var=False).pvalue < 0.05)
    assert clustered / 300 < 0.10
    assert plain / 300 > 0.20


def test_curves_are_named_by_their_shape():
    rng = np.random.default_rng(0)
    levels = [0, 3, 6, 12, 15, 21, 29, 38, 51, 57]
    weights = bootstrap_weights(200, rng)
    x = np.array(levels, dtype=float)
    shapes = {
        "step": 2.0 * (x >= 29),
        "graded": x / 20.0,
        "saturating": 2.0 * np.minimum(x / 21.0, 1.0),
        "non_monotone": np.where(x <= 21, x / 10.0, np.maximum(4.2 - x / 10.0, 0.0)),
    }
    for name, curve in shapes.items():
        observed = curve + rng.normal(0, 0.05, (200, len(levels)))
        found = describe_curve(levels, observed, weights, 0.1)
        assert found.shape == name
        assert found.threshold == (29 if name == "step" else None)


def test_the_trend_equals_the_mean_of_polyfit_slopes():
    rng = np.random.default_rng(2)
    levels = [0, 3, 12, 29, 57]
    activation = rng.normal(size=(50, 5)) + np.array(levels) * 0.02
    slopes = [np.polyfit(levels, row, 1)[0] for row in activation]
    found = trend(levels, activation, 10**12)
    expected = scipy.stats.ttest_1samp(slopes, 0)
    assert found.slope == pytest.approx(np.mean(slopes))
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-6)


def test_a_winner_of_pure_noise_is_seldom_confirmed_and_a_real_one_always():
    rng = np.random.default_rng(5)
    noise = [winner_confirmed(rng.normal(size=(100, 20)), rng) for _ in range(200)]
    assert np.mean(noise) < 0.10
    real = rng.normal(size=(100, 20)) + np.eye(20)[3] * 2
    assert winner_confirmed(real, rng) is True
    assert winner_confirmed(real[:20], rng) is None


@pytest.mark.parametrize("few", [0, 3])
def test_the_contexts_said_to_settle_an_unclear_row_do_settle_it(few):
    def status(m: int) -> tuple[str, int | None]:
        d = np.zeros((m, 1))
        d[:few] = 0.01
        names, needed = verdicts(paired_effects(d, 10**6, 0.5, np.full((5, m), 1 / m)), 0.5)
        return names[0], needed[0]

    name, needed = status(120)
    assert name == "unclear"
    assert needed is not None
    assert status(needed)[0] == "negligible"


def test_bounds_of_rows_without_change_are_wider_when_they_hold_for_all_rows():
    effects = paired_effects(np.zeros((500, 9)), 10_000, 0.1, np.full((5, 500), 1 / 500))
    assert effects.ci_high == pytest.approx([6 * 3 / 500] * 9)
    assert effects.sim_high == pytest.approx([6 * 3 / 500 * np.log(0.05 / 9) / np.log(0.05)] * 9)
