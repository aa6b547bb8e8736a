"""Errors of group contrasts: what they equal, and that sparse features cannot make a small group look certain."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from mechinterp_runner.runners.stats.adjusted import AdjustedEffects
from mechinterp_runner.runners.stats.cells import Grouping
from mechinterp_runner.runners.stats.fixed_effects import FixedEffects
from mechinterp_runner.runners.stats.groups import deltas_of, exchangeable, means_of
from mechinterp_runner.runners.stats.moments import Moments
from mechinterp_runner.runners.stats.regression import ClusteredFit
from mechinterp_runner.runners.stats.tails import benjamini_hochberg, sidak_level, t_quantile, t_two_sided
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


def adjusted_effects(value: np.ndarray, group: np.ndarray, n: int, tokens: np.ndarray, cluster: np.ndarray):
    held = sparse.csr_matrix(tokens.astype(float))
    return AdjustedEffects.of(Grouping.of(group, n, cluster), held.__getitem__).fit(value)


def sparse_feature(rng, group, cluster, rate: float) -> np.ndarray:
    """Activations that do not depend on the group: active in a share of clusters, alike within a cluster."""
    n_clusters = int(cluster.max()) + 1
    size = (rng.random(n_clusters) < rate) * np.minimum(rng.gamma(2.0, 1.0, n_clusters), 6.0)
    return size[cluster] * rng.uniform(0.7, 1.0, len(group))


def support(value: np.ndarray, group: np.ndarray, n_groups: int, cluster: np.ndarray) -> np.ndarray:
    """Active examples or clusters of each group, whichever are fewer."""
    active = np.bincount(group[value > 0], minlength=n_groups)
    return np.minimum(active, [len(np.unique(cluster[group == g])) for g in range(n_groups)])


NONE = np.zeros(4, dtype=np.int64)


def spanning(seed: int):
    """Groups that share clusters."""
    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(50), rng.integers(1, 6, 50))
    group = rng.integers(0, 4, len(cluster))
    value = np.maximum(rng.normal(size=50)[cluster] + 0.5 * (group == 1) + rng.normal(size=len(cluster)), 0)
    return value, group, cluster


@pytest.mark.parametrize("seed", range(3))
def test_deltas_equal_a_stacked_regression_of_groups_and_grand_mean_with_clustered_errors(seed):
    value, group, cluster = spanning(seed)
    n, n_clusters = len(value), len(np.unique(cluster))
    dummies = (group[:, None] == np.arange(4)).astype(float)
    stacked = np.block([[dummies, np.zeros((n, 1))], [np.zeros((n, 4)), np.ones((n, 1))]])
    model = sm.OLS(np.concatenate([value, value]), stacked)
    kwds = {"groups": np.concatenate([cluster, cluster]), "use_correction": False}
    fit = model.fit(cov_type="cluster", cov_kwds=kwds)
    contrast = np.hstack([np.eye(4), -np.ones((4, 1))])
    covariance = contrast @ fit.cov_params() @ contrast.T * n_clusters / (n_clusters - 1)
    deltas = deltas_from_global(value, group, 4, cluster)
    assert deltas.delta == pytest.approx(contrast @ fit.params)
    assert deltas.covariance == pytest.approx(covariance)
    assert deltas.std_error == pytest.approx(np.sqrt(np.diag(covariance)))


def test_group_means_of_a_tiny_table_by_hand():
    means = group_means(np.array([0.0, 2.0, 4.0, 0.0]), np.array([0, 0, 0, 2]), 3, np.array([0, 0, 1, 2]))
    assert means.n.tolist() == [3, 0, 1]
    assert means.n_active.tolist() == [2, 0, 0]
    assert means.n_clusters.tolist() == [2, 0, 1]
    assert means.mean == pytest.approx([2.0, np.nan, 0.0], nan_ok=True)
    assert means.std == pytest.approx([2.0, np.nan, np.nan], nan_ok=True)
    assert means.mean_when_active == pytest.approx([3.0, np.nan, np.nan], nan_ok=True)
    assert np.isnan(means.std_error).all()
    assert means.sparse.all()


@pytest.mark.parametrize(("n_clusters", "known"), [(9, False), (10, True)])
def test_fewer_than_10_clusters_have_no_error(n_clusters, known):
    rng = np.random.default_rng(0)
    group, cluster = np.repeat([0, 1], [60, 300]), np.arange(360)
    cluster[:60] %= n_clusters
    value = rng.random(360)
    assert np.isfinite(group_means(value, group, 2, cluster).std_error[0]) == known
    assert np.isfinite(deltas_from_global(value, group, 2, cluster).std_error[0]) == known
    assert np.isfinite(deltas_from_global(value, group, 2, cluster).guarded(NONE[:2]).std_error[0]) == known


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.floats(0.1, 5))
def test_names_of_clusters_and_the_unit_of_activation_do_not_matter(seed, scale):
    value, group, cluster = spanning(1)
    names = np.random.default_rng(seed).permutation(500)[:50]
    first = deltas_from_global(value, group, 4, cluster).guarded(NONE)
    second = deltas_from_global(value * scale, group, 4, names[cluster]).guarded(NONE)
    assert second.delta == pytest.approx(first.delta * scale)
    assert second.std_error == pytest.approx(first.std_error * scale)


def test_the_correlation_within_clusters_is_that_of_the_model_that_made_the_data():
    rng = np.random.default_rng(3)
    cluster = np.repeat(np.arange(2000), 4)
    residual = rng.normal(0, np.sqrt(0.3), 2000)[cluster] + rng.normal(0, np.sqrt(0.7), 8000)
    variance, correlation = exchangeable(residual, cluster, 1)
    assert variance == pytest.approx(1.0, rel=0.05)
    assert correlation == pytest.approx(0.3, abs=0.04)
    assert exchangeable(residual, np.arange(8000), 1)[1] == 0.0


def test_pooled_errors_of_independent_examples_are_those_of_plain_least_squares():
    rng = np.random.default_rng(4)
    group, weapon, value = rng.integers(0, 4, 300), rng.integers(0, 5, 300), rng.normal(size=300)
    dummies = (group[:, None] == np.arange(1, 4)).astype(float)
    weapons = (weapon[:, None] == np.arange(5)).astype(float)
    plain = sm.OLS(value, np.hstack([dummies, weapons])).fit()
    fit = within_groups(value, dummies, weapon, np.arange(300))
    assert np.sqrt(fit.pooled) == pytest.approx(plain.bse[:3])
    assert np.all(fit.guarded(NONE[:3]).std_error >= np.maximum(fit.std_error, np.sqrt(fit.pooled)) - 1e-12)
    effects = adjusted_effects(value, weapon, 5, dummies, np.arange(300))
    counts = np.bincount(weapon)
    contrast = np.hstack([np.zeros((5, 3)), np.eye(5) - counts / 300])
    assert np.sqrt(effects.pooled) == pytest.approx(np.ravel(plain.t_test(contrast).sd))


@pytest.mark.parametrize(("rate", "size"), [(0.02, 4), (0.1, 1), (0.3, 4)])
def test_groups_that_differ_by_chance_alone_are_seldom_called_different(rate, size):
    """Forty groups of 60 examples; without the guard nearly every such table has a q below 0.05."""
    group, cluster = np.repeat(np.arange(40), 60), np.arange(2400) // size
    outside = called = unguarded = 0
    for seed in range(100):
        value = sparse_feature(np.random.default_rng(seed), group, cluster, rate)
        plain = deltas_from_global(value, group, 40, cluster)
        deltas = plain.guarded(support(value, group, 40, cluster))
        half = t_quantile(0.5 + sidak_level(0.95, 40) / 2, deltas.df) * deltas.std_error
        outside += bool((np.abs(deltas.delta) > half).any())
        called += bool((benjamini_hochberg(t_two_sided(deltas.delta / deltas.std_error, deltas.df)) < 0.05).any())
        with np.errstate(divide="ignore", invalid="ignore"):
            unguarded += bool((benjamini_hochberg(t_two_sided(plain.delta / plain.std_error, plain.df)) < 0.05).any())
    assert outside <= 10
    assert called <= 10
    assert unguarded >= 50


@pytest.mark.parametrize("rate", [0.03, 0.3, 1.0])
@pytest.mark.parametrize("crossed", [False, True])
def test_intervals_of_small_levels_cover_within_weapons_however_sparse_the_feature(rate, crossed):
    sizes = [1200, 40, 100, 300]
    level = np.repeat(np.arange(4), sizes)
    dummies = (level[:, None] == np.arange(1, 4)).astype(float)
    hits = np.zeros(3)
    for seed in range(150):
        rng = np.random.default_rng(seed)
        cluster = np.arange(len(level)) // 4
        cluster = rng.permutation(cluster) if crossed else cluster
        value = sparse_feature(rng, level, cluster, rate)
        weapon = rng.integers(0, 10, int(cluster.max()) + 1)[cluster]
        low, high = (
            within_groups(value, dummies, weapon, cluster).guarded(support(value, level, 4, cluster)[1:]).interval()
        )
        hits += (low <= 0) & (high >= 0)
    assert np.all(hits / 150 >= 0.90)


def test_groups_of_30_active_examples_in_30_clusters_keep_their_own_error():
    value, group, cluster = spanning(3)
    plain = deltas_from_global(value, group, 4, cluster)
    own = plain.guarded(np.array([30, 500, 29, 30]))
    assert own.std_error[[0, 1, 3]].tolist() == plain.std_error[[0, 1, 3]].tolist()
    assert own.std_error[2] == pytest.approx(max(plain.std_error[2], np.sqrt(plain.pooled[2])))


def test_a_group_that_truly_differs_is_still_found():
    rng = np.random.default_rng(6)
    group, cluster = np.repeat(np.arange(20), 100), np.arange(2000)
    value = sparse_feature(rng, group, cluster, 0.1) + 2.0 * ((group == 7) & (rng.random(2000) < 0.5))
    deltas = deltas_from_global(value, group, 20, cluster).guarded(support(value, group, 20, cluster))
    p = t_two_sided(deltas.delta / deltas.std_error, deltas.df)
    assert np.flatnonzero(benjamini_hochberg(p) < 0.001).tolist() == [7]


def test_a_level_that_no_example_has_changes_nothing_for_the_others():
    value, group, cluster = spanning(2)
    dummies = (group[:, None] == np.arange(1, 4)).astype(float)
    weapon = cluster % 3
    fit = within_groups(value, dummies, weapon, cluster)
    empty = within_groups(value, np.hstack([dummies, np.zeros((len(value), 1))]), weapon, cluster)
    assert np.isnan(empty.coefficient[3])
    assert empty.coefficient[:3] == pytest.approx(fit.coefficient)
    assert empty.std_error[:3] == pytest.approx(fit.std_error)
    assert empty.guarded(NONE).std_error[:3] == pytest.approx(fit.guarded(NONE[:3]).std_error)


def test_weapons_whose_abilities_cannot_be_told_from_them_have_no_adjusted_effect():
    rng = np.random.default_rng(7)
    weapon = np.repeat(np.arange(3), 60)
    tokens = np.zeros((180, 2))
    tokens[:60, 0] = 1.0
    tokens[:, 1] = rng.random(180) < 0.5
    fit = adjusted_effects(rng.random(180), weapon, 4, tokens, np.arange(180))
    assert np.isnan(fit.coefficient[[0, 3]]).all()
    assert np.isnan(fit.guarded(NONE).std_error[3])


def test_adjusted_effects_weighted_by_examples_sum_to_zero():
    value, _, cluster = spanning(5)
    rng = np.random.default_rng(5)
    weapon, tokens = cluster % 5, (rng.random((len(value), 3)) < 0.4).astype(float)
    fit = adjusted_effects(value, weapon, 5, tokens, cluster)
    assert float(fit.coefficient @ np.bincount(weapon)) == pytest.approx(0.0, abs=1e-8)


def test_equal_variances_make_guarded_and_robust_errors_agree():
    rng = np.random.default_rng(8)
    group, cluster = np.repeat(np.arange(4), 2000), np.arange(8000)
    deltas = deltas_from_global(rng.normal(size=8000), group, 4, cluster)
    assert deltas.guarded(NONE).std_error == pytest.approx(deltas.std_error, rel=0.05)
    assert np.sqrt(deltas.pooled) == pytest.approx([scipy.stats.norm.std() * np.sqrt(0.75 / 2000)] * 4, rel=0.05)
