"""Odds, ratios and exact tests equal statsmodels, scipy and the published formulas."""

from __future__ import annotations

import numpy as np
import pytest
from mechinterp_runner.runners.stats.enrichment import Stratified, fisher_greater, odds_ratio
from scipy import stats
from statsmodels.stats.contingency_tables import StratifiedTable, Table2x2


def some_tables(seed: int, size: int, k: int = 60) -> np.ndarray:
    """Random tables [4, k] of cells a, b, c, d, some with zeros."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, size, (4, k)) * (rng.random((4, k)) < 0.9)


@pytest.mark.parametrize("level", [0.95, 0.8])
@pytest.mark.parametrize("seed", range(3))
def test_the_odds_ratio_and_its_interval_are_those_of_statsmodels(seed, level):
    cells = some_tables(seed, 40)
    ratio = odds_ratio(*cells, level=level)
    for i, (a, b, c, d) in enumerate(cells.T):
        # Haldane's half goes to every cell; statsmodels would put it in place of the zeros alone.
        shift = 0.5 if 0 in {a, b, c, d} else 0.0
        table = Table2x2(np.array([[a, b], [c, d]]) + shift, shift_zeros=False)
        assert ratio.value[i] == pytest.approx(table.oddsratio)
        assert (ratio.low[i], ratio.high[i]) == pytest.approx(table.oddsratio_confint(1 - level))


def test_the_odds_ratio_without_zeros_is_the_sample_odds_ratio_of_scipy():
    ratio = odds_ratio([30], [10], [7], [90])
    assert ratio.value[0] == pytest.approx(stats.contingency.odds_ratio([[30, 10], [7, 90]], kind="sample").statistic)


def test_half_is_added_to_every_cell_of_a_table_with_a_zero_and_to_no_other():
    ratio = odds_ratio(np.array([5, 5]), np.array([0, 1]), np.array([2, 2]), np.array([8, 8]))
    assert ratio.value == pytest.approx([5.5 * 8.5 / (0.5 * 2.5), 5 * 8 / (1 * 2)])


@pytest.mark.parametrize("size", [3, 12, 200, 4000])
@pytest.mark.parametrize("seed", range(3))
def test_fishers_exact_test_is_that_of_scipy(seed, size):
    cells = some_tables(seed, size)
    p = fisher_greater(*cells)
    for i, (a, b, c, d) in enumerate(cells.T):
        if not a + b + c + d:
            continue
        expected = stats.fisher_exact([[a, b], [c, d]], alternative="greater").pvalue
        assert p[i] == pytest.approx(expected, rel=1e-6, abs=1e-300)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ((0, 0, 0, 0), 1.0),
        ((0, 7, 3, 2), 1.0),
        ((5, 0, 4, 0), 1.0),
        ((0, 5, 0, 4), 1.0),
        ((0, 0, 3, 4), 1.0),
        ((3, 0, 0, 3), 1 / 20),
        ((1, 1, 1, 1), 5 / 6),
    ],
)
def test_tables_without_a_margin_and_small_ones_have_the_p_that_can_be_counted(table, expected):
    assert fisher_greater(*(np.array([cell]) for cell in table))[0] == pytest.approx(expected)


@pytest.mark.parametrize("table", [(3, 2000, 2000, 3), (10, 5000, 9000, 800), (250, 4750, 600_000, 395_000)])
def test_a_group_that_has_far_less_than_its_share_has_a_p_of_one(table):
    a, b, c, d = table
    assert stats.fisher_exact([[a, b], [c, d]], alternative="greater").pvalue == pytest.approx(1.0)
    assert fisher_greater(*(np.array([cell]) for cell in table))[0] == pytest.approx(1.0)


def test_a_large_table_deep_in_the_tail_keeps_its_relative_precision():
    table = (400, 4600, 40_000, 955_000)
    expected = stats.hypergeom.sf(399, 1_000_000, 40_400, 5_000)
    assert fisher_greater(*(np.array([cell]) for cell in table))[0] == pytest.approx(expected, rel=1e-6)


def strata(seed: int, s: int, k: int) -> tuple[Stratified, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    n_first, n_second = rng.integers(5, 60, s), rng.integers(5, 90, s)
    first = rng.binomial(n_first[:, None], rng.uniform(0.05, 0.6, k), (s, k))
    second = rng.binomial(n_second[:, None], rng.uniform(0.05, 0.6, k), (s, k))
    return Stratified.of(first, n_first, second, n_second), first, n_first, second, n_second


@pytest.mark.parametrize("level", [0.95, 0.9])
@pytest.mark.parametrize("seed", range(4))
def test_the_stratified_odds_ratio_and_its_interval_are_those_of_statsmodels(seed, level):
    counts, first, n_first, second, n_second = strata(seed, 6, 5)
    ratio = counts.odds_ratio(level)
    for j in range(5):
        rows = [[first[:, j], n_first - first[:, j]], [second[:, j], n_second - second[:, j]]]
        tables = np.array(rows, dtype=float)
        pooled = StratifiedTable(tables)
        assert ratio.value[j] == pytest.approx(pooled.oddsratio_pooled)
        assert (ratio.low[j], ratio.high[j]) == pytest.approx(pooled.oddsratio_pooled_confint(1 - level))


def test_one_stratum_gives_the_plain_odds_ratio():
    counts = Stratified.of(np.array([[30.0]]), np.array([40.0]), np.array([[7.0]]), np.array([97.0]))
    assert counts.odds_ratio().value[0] == pytest.approx(odds_ratio([30], [10], [7], [90]).value[0])


def test_an_empty_stratum_changes_nothing():
    counts, *given = strata(9, 4, 3)
    first, n_first, second, n_second = given
    more = Stratified.of(
        np.vstack([first, np.zeros((1, 3))]),
        np.append(n_first, 0),
        np.vstack([second, np.zeros((1, 3))]),
        np.append(n_second, 0),
    )
    ours, other = counts.odds_ratio(), more.odds_ratio()
    assert ours.value == pytest.approx(other.value)
    assert (ours.low, ours.high) == (pytest.approx(other.low), pytest.approx(other.high))


def test_confounding_by_the_strata_is_taken_out():
    first, second = np.array([[90.0], [50.0]]), np.array([[9.0], [500.0]])
    mixed = Stratified.of(first, np.array([100.0, 100.0]), second, np.array([10.0, 1000.0]))
    assert odds_ratio(first.sum(0), 200 - first.sum(0), second.sum(0), 1010 - second.sum(0)).value[0] > 2.0
    assert mixed.odds_ratio().value[0] == pytest.approx(1.0)


def test_a_ratio_that_cannot_be_told_has_no_number_and_warns_of_nothing():
    nobody = Stratified.of(np.zeros((2, 1)), np.array([5, 5]), np.zeros((2, 1)), np.array([9, 9]))
    ratio = nobody.odds_ratio()
    assert np.isnan([ratio.value[0], ratio.low[0], ratio.high[0]]).all()
    one_sided = Stratified.of(np.array([[3.0]]), np.array([5]), np.zeros((1, 1)), np.array([9]))
    ratio = one_sided.odds_ratio()
    assert not np.isfinite([ratio.value[0], ratio.low[0], ratio.high[0]]).any()
