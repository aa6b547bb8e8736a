"""Columns read in parts, and counts of them by cell, equal what dense arrays give."""

from __future__ import annotations

import numpy as np
import pytest
from mechinterp_runner.runners.stats import held as module
from mechinterp_runner.runners.stats.held import (
    among,
    bounds_of,
    by_cell,
    compact,
    count_held,
    dense,
    held_counts,
    in_order,
    runs,
    summed,
    weighted,
    weighted_gram,
    weighted_rows,
    weights_by_group,
)
from scipy import sparse

N, CELLS = 700, 90


@pytest.fixture(autouse=True)
def _short_blocks(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_ROWS", 64)


def columns_of(k: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((N, k)) < 0.15


@pytest.fixture(params=["array", "csr"])
def kind(request):
    return np.asarray if request.param == "array" else lambda x: sparse.csr_matrix(x.astype(float))


@pytest.mark.parametrize("ids", [[7, 7, 9, 0, 9], [-3, 5, -3], [10**12, 4, 10**12], [0, 1, 2], []])
def test_compact_numbers_are_the_inverse_of_unique(ids):
    assert compact(np.array(ids, dtype=np.int64)).tolist() == np.unique(ids, return_inverse=True)[1].tolist()


def test_ids_in_order_need_no_sorting_and_others_are_sorted_stably():
    assert in_order(np.array([0, 0, 3])) is None
    assert in_order(np.array([2, 0, 2, 0])).tolist() == [1, 3, 0, 2]


@pytest.mark.parametrize("most", [1, 5, 1000])
def test_runs_hold_every_cell_once_and_no_more_items_than_asked_unless_one_cell_does(most):
    bounds = bounds_of(np.array([3, 0, 9, 1, 1, 1, 4]))
    found = list(runs(bounds, most))
    assert [i for run in found for i in range(run.start, run.stop)] == list(range(7))
    assert all(bounds[run.stop] - bounds[run.start] <= most or run.stop - run.start == 1 for run in found)


@pytest.mark.parametrize("k", [5, 90])
@pytest.mark.parametrize("shuffled", [False, True])
def test_counts_by_cell_are_those_of_a_dense_sum(kind, k, shuffled):
    rng = np.random.default_rng(1)
    x, cell = columns_of(k), np.sort(np.r_[np.arange(CELLS), rng.integers(0, CELLS, N - CELLS)])
    cell = rng.permutation(cell) if shuffled else cell
    got = held_counts(kind(x), cell, np.bincount(cell))
    wanted = np.zeros((CELLS, k))
    np.add.at(wanted, cell, x)
    assert sparse.issparse(got) == (k > 64)
    assert got.dtype == np.uint8
    assert (dense(got) == wanted).all()


def test_counts_of_large_cells_do_not_overflow():
    x = np.ones((N, 2), dtype=bool)
    assert held_counts(x, np.zeros(N, dtype=int), np.array([N])).tolist() == [[N, N]]


def test_sums_over_rows_are_those_of_dense_products(kind):
    x, rng = columns_of(7), np.random.default_rng(2)
    rows = rng.permutation(N)[:300]
    weight, whole = rng.normal(size=(300, 2)), rng.integers(0, 9, 7)
    assert summed(kind(x), rows, weight) == pytest.approx(x[rows].T @ weight)
    assert count_held(kind(x), rows).tolist() == x[rows].sum(axis=0).tolist()
    size = np.abs(weight[:, 0])
    assert weighted_gram(kind(x), rows, size) == pytest.approx(x[rows].T @ (x[rows] * size[:, None]))
    assert weighted(kind(x), whole).tolist() == (x @ whole).tolist()


def test_matrices_that_sum_items_are_those_written_out():
    rng = np.random.default_rng(3)
    sizes, weight, values = np.array([2, 0, 3, 1]), rng.normal(size=6), rng.normal(size=(6, 4))
    parts = np.split(weight[:, None] * values, np.cumsum(sizes)[:-1])
    assert by_cell(bounds_of(sizes) + 10, weight) @ values == pytest.approx(np.array([p.sum(axis=0) for p in parts]))
    group = np.array([1, 0, 1, 2, 2, 1])
    wanted = [(weight[group == g, None] * values[group == g]).sum(axis=0) for g in range(3)]
    assert weights_by_group(group, weight, 3) @ values == pytest.approx(np.array(wanted))


def test_weighted_rows_of_tables_are_added_up_within_bounds():
    rng = np.random.default_rng(4)
    tables, of, weight = rng.normal(size=(2, 5, 3)), np.array([4, 0, 0, 2]), rng.normal(size=(4, 2))
    apart = weight[:, :1] * tables[0][of] + weight[:, 1:] * tables[1][of]
    assert weighted_rows(of, weight, tuple(tables)) == pytest.approx(apart)
    together = weighted_rows(of, weight, tuple(tables), np.array([6, 7, 7, 10]))
    assert together == pytest.approx(np.array([apart[0], np.zeros(3), apart[1:].sum(axis=0)]))


@pytest.mark.parametrize("k", [5, 90])
def test_some_rows_are_columns_of_their_own(kind, k):
    x = columns_of(k, seed=5)
    rows = np.random.default_rng(6).permutation(N)[:150]
    part = among(kind(x), rows)
    assert part.shape == (150, k)
    assert (dense(part[np.array([9, 0, 9])]) == x[rows[[9, 0, 9]]]).all()
    assert count_held(part, np.arange(150)).tolist() == x[rows].sum(axis=0).tolist()
    assert among(kind(x), rows[:0]).shape == (0, k)
