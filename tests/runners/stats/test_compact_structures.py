"""Small stored forms of what examples hold give back what plain tables do."""

from __future__ import annotations

import numpy as np
import pytest
from mechinterp_runner.runners.parts.interactions.scores import Active, PairScores
from mechinterp_runner.runners.stats import compact
from mechinterp_runner.runners.stats.cluster_bits import ClusterBits
from mechinterp_runner.runners.stats.compact import CompactRows
from scipy import sparse


@pytest.mark.parametrize(("k", "top"), [(5, 1), (5, 57), (300, 1)])
def test_compact_rows_are_the_matrix_they_were_made_of(k, top, monkeypatch):
    monkeypatch.setattr(compact, "BLOCK_ROWS", 13)
    rng = np.random.default_rng(k + top)
    table = np.where(rng.random((50, k)) < 0.3, rng.integers(1, top + 1, (50, k)), 0).astype(float)
    table[[0, 20, 49]] = 0.0
    rows = CompactRows.stacked(sparse.csr_matrix(part) for part in (table[:20], table[20:21], table[21:]))
    assert len(rows) == 50
    assert (rows.data is None) == (top == 1)
    assert rows.indices.dtype == (np.uint8 if k <= 256 else np.uint16)
    assert np.array_equal(rows.rows(3, 44).toarray(), table[3:44])
    chosen = np.array([7, 7, 0, 31, 49])
    assert np.array_equal(rows.some(chosen).toarray(), table[chosen])
    assert rows.some(chosen[:0]).shape == (0, k)
    assert np.array_equal(rows.counts(), (table > 0).sum(axis=0))
    assert rows.largest() == table.max()
    outcomes = rng.random((3, 50))
    assert rows.sums(outcomes) == pytest.approx(table.T @ outcomes.T)
    assert np.array_equal(rows.column(2), table[:, 2])
    keep = np.array([0, 2, 3])
    assert np.array_equal(rows.take(keep).rows(0, 50).toarray(), table[:, keep])


def clustered(seed: int, sizes: np.ndarray, k: int = 5):
    """Columns [n, k] in a mixed order, their order by cluster, and the columns in that order."""
    rng = np.random.default_rng(seed)
    held = rng.random((int(sizes.sum()), k)) < 0.4
    order = rng.permutation(len(held))
    return held, order, held[order]


@pytest.mark.parametrize("largest", [1, 8, 9, 40])
def test_holders_counted_by_bits_are_those_of_the_table(largest):
    sizes = np.random.default_rng(largest).integers(1, largest + 1, 30)
    held, order, placed = clustered(largest, sizes)
    bits = ClusterBits.of(held, order, sizes)
    cluster = np.repeat(np.arange(30), sizes)
    positions = np.arange(0, len(held), 2)
    assert np.array_equal(bits.held(positions, cluster[positions]), placed[positions].T)
    some, one, other = np.array([0, 3, 4, 29]), np.array([0, 1, 1]), np.array([0, 1, 4])
    both = placed[:, one] & placed[:, other]
    expected = np.stack([both[cluster == each].sum(axis=0) for each in some], axis=1)
    assert np.array_equal(bits.of_clusters(some).counts(one, other), expected)
    whole = np.stack([both[cluster == each].sum(axis=0) for each in range(30)], axis=1)
    assert np.array_equal(bits.counts(one, other), whole)


@pytest.mark.parametrize("largest", [1, 4, 30])
def test_squared_scores_of_clusters_are_those_of_a_loop_over_examples(largest):
    rng = np.random.default_rng(largest)
    sizes, home = rng.integers(1, largest + 1, 60), np.sort(rng.integers(0, 4, 60))
    held, order, placed = clustered(largest, sizes)
    cluster = np.repeat(np.arange(60), sizes)
    group, y = home[cluster], np.where(rng.random(len(cluster)) < 0.3, rng.random(len(cluster)), 0.0)
    first, second = np.triu_indices(5, 1)
    weight, fitted = rng.normal(size=(2, 4, len(first), 4))
    scores = PairScores(ClusterBits.of(held, order, sizes), sizes, home, first, second)
    at = np.flatnonzero(y)
    active = Active(at, y[at], cluster[at], placed[at].T)
    for given, outcome in ((active, y), (None, np.zeros_like(y))):
        found = scores.squares(weight, fitted, given)
        for pair, (a, b) in enumerate(zip(first, second, strict=True)):
            cell = placed[:, a] + 2 * placed[:, b].astype(int)
            each = weight[cell, pair, group] * (outcome - fitted[cell, pair, group])
            assert found[pair] == pytest.approx(np.square(np.bincount(cluster, each)).sum())
