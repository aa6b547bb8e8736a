"""Sums over groups by clusters, and the effects made from them, against loops and dense least squares."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from mechinterp_runner.runners.stats import adjusted, cells
from mechinterp_runner.runners.stats.adjusted import AdjustedEffects
from mechinterp_runner.runners.stats.cells import CellSums, Grouping
from mechinterp_runner.runners.stats.fixed_effects import FixedEffects
from mechinterp_runner.runners.stats.groups import exchangeable, means_of
from mechinterp_runner.runners.stats.moments import Moments
from scipy import sparse

N_GROUPS = 5


def example(seed: int, *, nested: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values (two thirds of them 0, some below), groups and clusters in no order, with numbers left out of both."""
    rng = np.random.default_rng(seed)
    cluster = rng.permutation(np.repeat(np.arange(60), rng.integers(1, 8, 60)) * 3)
    n = len(cluster)
    group = rng.choice([0, 1, 2, 4], 180)[cluster] if nested else rng.choice([0, 1, 2, 4], n)
    return np.where(rng.random(n) < 0.35, rng.normal(1.0, 1.0, n), 0.0), group, cluster


def by_loop(value: np.ndarray, group: np.ndarray, cluster: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
    """Examples, sum, squares, active and their sum of each (cluster, group)."""
    found: dict[tuple[int, int], np.ndarray] = {}
    for v, g, c in zip(value.tolist(), group.tolist(), cluster.tolist(), strict=True):
        row = np.array([1.0, v, v * v, float(v > 0), max(v, 0.0)])
        found[c, g] = found.get((c, g), np.zeros(5)) + row
    return dict(sorted(found.items()))


def rows_of(sums: CellSums) -> np.ndarray:
    return np.stack([sums.cells.size, sums.total, sums.squares, sums.n_active, sums.active_total], axis=1)


@pytest.mark.parametrize("block", [7, 10_000])
@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_sums_over_cells_are_those_of_a_loop_over_the_examples(seed, in_order, block, monkeypatch):
    monkeypatch.setattr(cells, "_BLOCK", block)
    value, group, cluster = example(seed)
    if in_order:
        order = np.argsort(cluster, kind="stable")
        value, group, cluster = value[order], group[order], cluster[order]
    grouping = Grouping.of(group, N_GROUPS, cluster)
    expected = by_loop(value, group, cluster)
    sums = grouping.sums(value)
    np.testing.assert_allclose(rows_of(sums), list(expected.values()), atol=1e-12)
    assert sums.cells.group.tolist() == [g for _, g in expected]
    assert np.unique(cluster)[sums.cells.cluster].tolist() == [c for c, _ in expected]
    np.testing.assert_allclose(grouping.totals(value), sums.total, atol=1e-12)
    assert grouping.counts(value > 0).tolist() == sums.n_active.tolist()


@pytest.mark.parametrize("nested", [False, True])
def test_groups_put_together_have_the_sums_of_the_examples_renamed(nested):
    value, group, cluster = example(4, nested=nested)
    label = np.array([1, 0, 1, 0, 0])
    merge = Grouping.of(group, N_GROUPS, cluster).cells.merged(label, 2)
    assert (merge.into is None) == nested
    merged = Grouping.of(group, N_GROUPS, cluster).sums(value).merged(merge)
    expected = by_loop(value, label[group], cluster)
    np.testing.assert_allclose(rows_of(merged), list(expected.values()), atol=1e-12)
    assert merged.cells.group.tolist() == [g for _, g in expected]


def test_some_of_the_clusters_have_the_sums_of_their_examples_alone():
    value, group, cluster = example(5)
    whole = Grouping.of(group, N_GROUPS, cluster)
    chosen = np.random.default_rng(0).random(whole.cells.n_clusters) < 0.5
    inside = np.isin(cluster, np.unique(cluster)[chosen])
    part = whole.sums(value).among(whole.cells.part(chosen))
    alone = Grouping.of(group[inside], N_GROUPS, cluster[inside]).sums(value[inside])
    np.testing.assert_allclose(rows_of(part), rows_of(alone), atol=1e-12)
    assert part.cells.cluster.tolist() == alone.cells.cluster.tolist()
    assert part.cells.cluster_sizes.tolist() == [int((cluster == c).sum()) for c in np.unique(cluster)[chosen]]


@pytest.mark.parametrize("block", [7, 10_000])
def test_products_within_clusters_are_those_of_the_dense_table_of_clusters_by_groups(block, monkeypatch):
    monkeypatch.setattr(cells, "_BLOCK", block)
    value, group, cluster = example(6)
    sums = Grouping.of(group, N_GROUPS, cluster).sums(value)
    dense = np.zeros((sums.cells.n_clusters, N_GROUPS))
    np.add.at(dense, (np.searchsorted(np.unique(cluster), cluster), group), value)
    np.testing.assert_allclose(sums.cells.gram(sums.total), dense.T @ dense, atol=1e-10)


@pytest.mark.parametrize("block", [7, 10_000])
def test_residuals_of_groups_meet_in_clusters_as_in_the_dense_table_of_clusters_by_groups(block, monkeypatch):
    monkeypatch.setattr(cells, "_BLOCK", block)
    value, group, cluster = example(7)
    number = np.unique(cluster, return_inverse=True)[1]
    fitted = np.random.default_rng(7).normal(size=N_GROUPS)
    dense = np.zeros((int(number.max()) + 1, N_GROUPS))
    np.add.at(dense, (number, group), value - fitted[group])
    products = Moments.of(Grouping.of(group, N_GROUPS, cluster).sums(value)).residual(fitted)
    np.testing.assert_allclose(products.by_group(), dense.T @ dense.sum(axis=1), atol=1e-10)
    label = np.array([1, 0, 1, 0, 2])
    merged = dense @ (label[:, None] == np.arange(3))
    np.testing.assert_allclose(products.merged(label, 3), merged.T @ merged, atol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_levels_over_all_groups_have_the_means_and_effects_of_levels_alone(seed):
    value, group, cluster = example(seed, nested=True)
    level = np.random.default_rng(seed).integers(0, 4, len(value))
    grouping = Grouping.of(group * 5 + level, N_GROUPS * 5, cluster)
    within, moments = FixedEffects.of(grouping.cells, 5), Moments.of(grouping.sums(value))
    means = within.means(moments)
    for name, expected in vars(means_of(Moments.of(Grouping.of(level, 5, cluster).sums(value)))).items():
        np.testing.assert_allclose(getattr(means, name), expected, rtol=1e-9, err_msg=name)
    assert means.n[4] == 0
    coefficient, covariance, pooled = dense_fit(value, level, np.zeros_like(level), cluster, 4)
    fit = within.over_all().fit(moments)
    np.testing.assert_allclose(fit.coefficient, [*coefficient, np.nan], rtol=1e-9)
    np.testing.assert_allclose(fit.covariance[:3, :3], covariance, rtol=1e-9)
    np.testing.assert_allclose(fit.pooled[:3], pooled, rtol=1e-9)


def dense_fit(value: np.ndarray, level: np.ndarray, group: np.ndarray, cluster: np.ndarray, k: int):
    """Coefficients, clustered covariance (statsmodels) and variances under one correlation within clusters."""
    dummies = (level[:, None] == np.arange(1, k)).astype(float)
    groups = (group[:, None] == np.unique(group)).astype(float)
    design = np.hstack([dummies, groups])
    number = np.unique(cluster, return_inverse=True)[1]
    fit = sm.OLS(value, design).fit(cov_type="cluster", cov_kwds={"groups": number})
    variance, correlation = exchangeable(fit.resid, number, design.shape[1])
    sums = np.stack([np.bincount(number, column) for column in design.T], axis=1)
    inverse = np.linalg.inv(design.T @ design)
    shared = (1 - correlation) * design.T @ design + correlation * sums.T @ sums
    pooled = variance * np.diag(inverse @ shared @ inverse)
    return fit.params[: k - 1], fit.cov_params()[: k - 1, : k - 1], pooled[: k - 1]


@pytest.mark.parametrize("seed", range(3))
def test_effects_within_groups_are_those_of_dense_least_squares(seed):
    value, group, cluster = example(seed, nested=True)
    level = np.random.default_rng(seed).integers(0, 4, len(value))
    grouping = Grouping.of(group * 4 + level, N_GROUPS * 4, cluster)
    design, sums = FixedEffects.of(grouping.cells, 4), grouping.sums(value)
    coefficient, covariance, pooled = dense_fit(value, level, group, cluster, 4)
    fit = design.fit(Moments.of(sums))
    np.testing.assert_allclose(fit.coefficient, coefficient, rtol=1e-9)
    np.testing.assert_allclose(fit.covariance, covariance, rtol=1e-9)
    np.testing.assert_allclose(fit.pooled, pooled, rtol=1e-9)
    np.testing.assert_allclose(design.coefficients(sums.total), coefficient, rtol=1e-9)


def test_a_cluster_in_two_groups_is_refused_where_groups_are_held_fixed():
    _, group, cluster = example(0)
    with pytest.raises(ValueError, match="in two of them"):
        FixedEffects.of(Grouping.of(group, N_GROUPS, cluster).cells, 1)


@pytest.mark.parametrize("nested", [False, True])
def test_adjusted_effects_do_not_depend_on_order_or_blocks_and_equal_dense_least_squares(nested, monkeypatch):
    value, group, cluster = example(8, nested=nested)
    tokens = np.random.default_rng(8).random((len(value), 9)) < 0.4
    tokens[:, 3] = False
    held = sparse.csr_matrix(tokens.astype(float))
    whole = AdjustedEffects.of(Grouping.of(group, N_GROUPS, cluster), held.__getitem__)
    fit = whole.fit(value)
    monkeypatch.setattr(adjusted, "_BLOCK_CELLS", 6)
    monkeypatch.setattr(adjusted, "_READ_ROWS", 25)
    order = np.argsort(cluster * N_GROUPS + group, kind="stable")
    again = AdjustedEffects.of(Grouping.of(group[order], N_GROUPS, cluster[order]), held[order].__getitem__)
    assert again.rows.order is None
    other = again.fit(value[order])
    for name in ("coefficient", "covariance", "pooled"):
        np.testing.assert_allclose(getattr(other, name), getattr(fit, name), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(whole.coefficients(value), fit.coefficient)
    known = np.flatnonzero(~np.isnan(fit.coefficient))
    assert known.tolist() == [0, 1, 2, 4]
    columns = np.hstack([(group[:, None] == known).astype(float), np.delete(tokens, 3, axis=1)])
    kwds = {"groups": np.unique(cluster, return_inverse=True)[1]}
    model = sm.OLS(value, columns).fit(cov_type="cluster", cov_kwds=kwds)
    contrast = np.zeros((4, columns.shape[1]))
    contrast[:, :4] = np.eye(4) - np.bincount(group)[known] / len(group)
    expected = model.t_test(contrast)
    assert fit.coefficient[known] == pytest.approx(expected.effect)
    assert np.sqrt(np.diag(fit.covariance))[known] == pytest.approx(np.ravel(expected.sd))
