"""Effects of binary columns equal the regressions they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from mechinterp_runner.runners.stats.presence import PresenceDesign
from scipy import sparse


def a_table(seed: int, *, rate: float = 0.4, n_clusters: int = 150):
    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(n_clusters), rng.integers(1, 5, n_clusters))
    n = len(cluster)
    group = rng.integers(0, 6, n_clusters)[cluster]
    columns = (rng.random((n, 4)) < rate).astype(float)
    value = np.maximum(rng.normal(size=n_clusters)[cluster] + columns[:, 1] + 0.3 * group + rng.normal(size=n), 0.0)
    return value, columns, group, cluster


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_effects_equal_least_squares_with_group_dummies_and_clustered_errors(seed, nested):
    value, columns, group, cluster = a_table(seed)
    group = group if nested else np.random.default_rng(seed).integers(0, 6, len(group))
    effects = PresenceDesign.of(sparse.csr_matrix(columns), group, cluster).effects(value)
    dummies = (group[:, None] == np.unique(group)).astype(float)
    for j in range(columns.shape[1]):
        fit = sm.OLS(value, np.hstack([columns[:, [j]], dummies])).fit(cov_type="cluster", cov_kwds={"groups": cluster})
        assert effects.coefficient[j] == pytest.approx(fit.params[0])
        assert effects.std_error[j] == pytest.approx(fit.bse[0])
        assert effects.n_present[j] == columns[:, j].sum()
        assert effects.n_clusters[j] == len(np.unique(cluster[columns[:, j] > 0]))


def test_many_outcomes_at_once_equal_one_at_a_time():
    value, columns, group, cluster = a_table(5)
    design = PresenceDesign.of(sparse.csr_matrix(columns), group, cluster)
    others = np.stack([value, value**2, -value], axis=1)
    together = design.coefficients(others)
    assert together.shape == (4, 3)
    for k in range(3):
        assert together[:, k] == pytest.approx(design.coefficients(others[:, k]))


def test_a_column_that_never_varies_within_a_group_is_unknown():
    group = np.repeat([0, 1], 40)
    column = sparse.csr_matrix((group == 1).astype(float)[:, None])
    effects = PresenceDesign.of(column, group, np.arange(80)).effects(np.arange(80.0))
    assert np.isnan(effects.coefficient[0])
    assert np.isnan(effects.std_error[0])


@pytest.mark.parametrize(("held", "known"), [(9, False), (10, True), (190, True), (191, False)])
def test_fewer_than_10_clusters_on_a_side_have_no_error(held, known):
    column = sparse.csr_matrix((np.arange(200) < held).astype(float)[:, None])
    value = np.random.default_rng(0).random(200)
    effects = PresenceDesign.of(column, np.zeros(200, dtype=int), np.arange(200)).effects(value)
    assert np.isfinite(effects.std_error[0]) == known


def test_columns_without_effect_on_a_sparse_feature_are_seldom_called():
    called = 0
    for seed in range(80):
        rng = np.random.default_rng(seed)
        cluster = np.repeat(np.arange(600), 2)
        held = rng.random((600, 30)) < rng.uniform(0.02, 0.3, 30)
        value = ((rng.random(600) < 0.04) * rng.gamma(2.0, 1.0, 600))[cluster]
        design = PresenceDesign.of(sparse.csr_matrix(held[cluster].astype(float)), cluster % 7, cluster)
        called += bool(np.nanmin(design.effects(value).p_value()) < 0.05 / 30)
    assert called <= 9


def test_means_with_and_without_are_plain_averages():
    value, columns, group, cluster = a_table(6)
    design = PresenceDesign.of(sparse.csr_matrix(columns), group, cluster)
    with_it, without = design.outcome(value).means(np.stack([design.n_present, len(value) - design.n_present]))
    for j in range(4):
        assert with_it[j] == pytest.approx(value[columns[:, j] > 0].mean())
        assert without[j] == pytest.approx(value[columns[:, j] == 0].mean())


def within_by_hand(value, column, group, cluster):
    """Coefficient and clustered error of one column after the means of the groups are taken out, plainly."""
    x, y = (each - (np.bincount(group, each) / np.bincount(group))[group] for each in (column, value))
    beta = (x @ y) / (x @ x)
    scores = np.bincount(cluster, x * (y - beta * x))
    n, clusters, parameters = len(value), len(np.unique(cluster)), len(np.unique(group)) + 1
    correction = clusters / (clusters - 1) * (n - 1) / (n - parameters)
    return beta, np.sqrt(correction * np.square(scores).sum()) / (x @ x)


@pytest.mark.parametrize("block", [1, 700, 1 << 18])
@pytest.mark.parametrize("shuffled", [False, True])
def test_blocks_of_clusters_and_the_order_of_examples_change_nothing(monkeypatch, block, shuffled):
    monkeypatch.setattr("mechinterp_runner.runners.stats.presence._BLOCK", block)
    value, columns, group, cluster = a_table(9)
    order = np.random.default_rng(1).permutation(len(value)) if shuffled else np.arange(len(value))
    value, columns, group, cluster = value[order], columns[order], group[order] + 40, cluster[order] * 3 - 5
    effects = PresenceDesign.of(columns > 0, group, cluster).effects(value)
    for j in range(4):
        by_hand = within_by_hand(value, columns[:, j], group - 40, (cluster + 5) // 3)
        assert (effects.coefficient[j], effects.std_error[j]) == pytest.approx(by_hand)


def test_an_outcome_that_is_never_0_and_far_from_it_has_the_same_effects():
    value, columns, group, cluster = a_table(4)
    design = PresenceDesign.of(sparse.csr_matrix(columns), group, cluster)
    plain, shifted = design.effects(value), design.effects(value + 100.0)
    assert shifted.coefficient == pytest.approx(plain.coefficient)
    assert shifted.std_error == pytest.approx(plain.std_error)


@pytest.mark.parametrize("k", [6, 80])
def test_chosen_columns_have_the_effects_they_have_among_all(k):
    value, _, group, cluster = a_table(7)
    columns = (np.random.default_rng(0).random((len(value), k)) < 0.4).astype(float)
    design = PresenceDesign.of(sparse.csr_matrix(columns), group, cluster)
    keep = np.array([4, 0, 5])
    seen = design.outcome(value)
    own = sparse.csr_matrix(columns[:, keep])
    chosen = design.take(keep, own).effects(seen.take(keep, own))
    alone = PresenceDesign.of(sparse.csr_matrix(columns[:, keep]), group, cluster).effects(value)
    for name in ("coefficient", "std_error", "n_present", "n_clusters"):
        assert getattr(chosen, name) == pytest.approx(getattr(design.effects(value), name)[keep])
        assert getattr(chosen, name) == pytest.approx(getattr(alone, name))


def test_an_outcome_is_read_where_it_is_not_0():
    value, columns, group, cluster = a_table(8)
    seen = PresenceDesign.of(sparse.csr_matrix(columns), group, cluster).outcome(value)
    assert sorted(seen.rows.tolist()) == np.flatnonzero(value).tolist()
    assert (np.diff(cluster[seen.rows]) >= 0).all()
    assert seen.total == pytest.approx(columns.T @ value)
    assert seen.squares == pytest.approx(columns.T @ value**2)
    assert seen.n_active.tolist() == (columns.T @ (value > 0)).tolist()


def test_whether_an_outcome_is_above_a_threshold_is_an_outcome_too():
    value, columns, group, cluster = a_table(3)
    design = PresenceDesign.of(sparse.csr_matrix(columns), group, cluster)
    got, wanted = design.above(design.outcome(value), 0.4), design.outcome((value > 0.4).astype(float))
    assert got.rows.tolist() == wanted.rows.tolist()
    assert got.total.tolist() == wanted.total.tolist()
    assert design.effects(got).std_error == pytest.approx(design.effects(wanted).std_error)
