"""Ratios of shares of clustered examples, against their errors written out."""

from __future__ import annotations

import numpy as np
import pytest
from mechinterp_runner.runners.parts.coverage.rates import Coverage, GroupCoverage, share_ratio
from scipy import stats


def plain_log_variance(x, cluster, first, second):
    """Sum over clusters of squared changes of the log ratio of two shares, written out, times G / (G - 1)."""
    change = first * (x / (x & first).sum() - 1 / first.sum()) - second * (x / (x & second).sum() - 1 / second.sum())
    n = len(np.unique(cluster[first | second]))
    return np.square(np.bincount(cluster, change)).sum() * n / (n - 1)


@pytest.mark.parametrize("block", [1, 200, 1 << 18])
@pytest.mark.parametrize("nested", [True, False])
def test_the_error_of_a_ratio_is_that_of_summed_changes_for_tokens_and_groups_alike(monkeypatch, block, nested):
    monkeypatch.setattr("mechinterp_runner.runners.parts.coverage.rates._BLOCK", block)
    rng = np.random.default_rng(3)
    cluster = rng.permutation(np.repeat(np.arange(400), 3))
    home = rng.integers(0, 4, 400)
    columns = home[cluster][:, None] == np.arange(4)
    first = rng.random(1200) < np.where(columns[:, 1], 0.5, 0.2)
    second = np.ones(1200, dtype=bool) if nested else ~first & (rng.random(1200) < 0.6)
    level, ours = 0.9, [Coverage.of(columns, each, cluster, 400) for each in (first, second)]
    groups = [GroupCoverage.of_rows_by_group(np.flatnonzero(each), cluster, home, 4) for each in (first, second)]
    got, of_groups = share_ratio(*ours, level, nested=nested), share_ratio(*groups, level, nested=nested)
    clusters = min(each.n_clusters for each in ours)
    for j in range(4):
        half = stats.t.ppf(0.95, clusters - 1) * np.sqrt(plain_log_variance(columns[:, j], cluster, first, second))
        assert np.log(got.high[j] / got.value[j]) == pytest.approx(half)
    for a, b in ((got.value, of_groups.value), (got.low, of_groups.low), (got.high, of_groups.high)):
        assert a == pytest.approx(b)
    assert ours[0].support.tolist() == groups[0].support.tolist()
