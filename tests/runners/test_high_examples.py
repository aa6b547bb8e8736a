"""High examples against the rest: the split, and rates within strata when examples come in clusters."""

from __future__ import annotations

import numpy as np
import pytest
from mechinterp_runner.context.population import Population
from mechinterp_runner.runners.design.high import read_percentile, split_high
from mechinterp_runner.runners.stats.clustered_ratio import ClusteredRatio, Strata
from mechinterp_runner.schemas.job import Job
from scipy import sparse
from statsmodels.stats.contingency_tables import StratifiedTable


def population(activation) -> Population:
    values = np.asarray(activation, dtype=np.float32)
    return Population(np.arange(len(values)), values, len(values), "all examples", dead=False, sampled=False)


def test_high_examples_reach_the_percentile_of_the_active_not_of_all():
    activation = np.r_[np.zeros(10_000), np.arange(1, 1001)]
    job = Job()
    split = split_high(population(activation), 90.0, job)
    assert split.n_high == 100
    assert split.threshold == pytest.approx(900.1)
    assert split.n_baseline == 10_900
    assert job.warnings == []


def test_ties_at_the_threshold_are_all_high():
    split = split_high(population(np.r_[np.zeros(5), np.ones(90), np.full(60, 2.0)]), 95.0, Job())
    assert split.n_high == 60


def test_fewer_than_50_are_widened_to_the_top_50_with_a_warning():
    job = Job()
    split = split_high(population(np.arange(200)), 99.0, job)
    assert np.flatnonzero(split.high).tolist() == list(range(150, 200))
    assert any("widened to the top 50" in warning for warning in job.warnings)


def test_fewer_than_50_active_are_all_high_and_no_inactive_one_is():
    job = Job()
    split = split_high(population(np.r_[np.zeros(100), np.arange(1, 8)]), 50.0, job)
    assert np.flatnonzero(split.high).tolist() == list(range(100, 107))
    assert any("7 active" in warning for warning in job.warnings)


def test_without_an_active_example_none_is_high():
    split = split_high(population(np.zeros(9)), 90.0, Job())
    assert (split.n_high, split.n_baseline) == (0, 9)
    assert np.isnan(split.threshold)


@pytest.mark.parametrize(("given", "read", "warned"), [(0.995, 99.5, True), (90.0, 90.0, False), (1.0, 1.0, False)])
def test_a_percentile_given_as_a_fraction_is_read_as_one_with_a_warning(given, read, warned):
    job = Job()
    assert read_percentile(given, job) == pytest.approx(read)
    assert bool(job.warnings) == warned


# -- rates within strata, examples in clusters -----------------------------------------------------------------------


def clustered(seed: int, n_clusters: int, *, rate: float, high: float, n_strata: int, nested: bool = True, k: int = 20):
    """Clusters of 2-4 partial copies of a build; columns and high examples are independent within strata.

    Both have rates that differ by stratum, so that without strata they would be associated.
    """
    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(n_clusters), rng.integers(2, 5, n_clusters))
    own = rng.integers(0, n_strata, n_clusters)
    factor = rng.uniform(0.2, 1.8, n_strata)[own]
    held = rng.random((n_clusters, k)) < np.minimum(factor[:, None] * rate / 0.8, 1.0)
    strong = rng.random(n_clusters) < np.minimum(factor * high / 0.8, 1.0)
    columns = held[cluster] & (rng.random((len(cluster), k)) < 0.8)
    stratum = own[cluster] if nested else own[cluster] * 3 + rng.integers(0, 3, len(cluster))
    return columns, strong[cluster] & (rng.random(len(cluster)) < 0.8), stratum, cluster


def ratio_of(columns, first, stratum, cluster) -> ClusteredRatio:
    return Strata.of(sparse.csr_matrix(columns.astype(float)), stratum, cluster).ratio(first)


@pytest.mark.parametrize(
    ("rate", "high", "n_clusters", "n_strata", "nested"),
    [
        (0.2, 0.1, 600, 60, True),
        (0.05, 0.1, 600, 60, True),
        (0.2, 0.03, 600, 60, False),
        (0.3, 0.5, 600, 200, True),
        (0.1, 0.01, 4000, 160, False),
    ],
)
def test_where_nothing_is_associated_about_5_in_100_intervals_exclude_1(rate, high, n_clusters, n_strata, nested):
    excluded, known = 0, 0
    for seed in range(40):
        low, up = ratio_of(
            *clustered(seed, n_clusters, rate=rate, high=high, n_strata=n_strata, nested=nested)
        ).interval()
        excluded += int(((low > 1) | (up < 1)).sum())
        known += int(np.isfinite(low).sum())
    assert known > 500
    assert 0.01 < excluded / known < 0.07


def test_errors_for_independent_examples_would_exclude_1_too_often():
    naive = 0
    for seed in range(40):
        columns, first, stratum, _ = clustered(seed, 600, rate=0.2, high=0.1, n_strata=60)
        low, up = ratio_of(columns, first, stratum, np.arange(len(first))).interval()
        naive += int(((low > 1) | (up < 1)).sum())
    assert naive / (40 * 20) > 0.15


def test_without_strata_the_same_columns_look_enriched():
    found = [clustered(seed, 2000, rate=0.2, high=0.1, n_strata=60) for seed in range(5)]
    pooled = [ratio_of(x, first, np.zeros(len(first), dtype=int), cluster) for x, first, _, cluster in found]
    within = [ratio_of(x, first, stratum, cluster) for x, first, stratum, cluster in found]
    assert np.mean([r.ratio.mean() for r in pooled]) > 1.15
    assert np.mean([r.ratio.mean() for r in within]) == pytest.approx(1.0, abs=0.05)


def test_an_interval_covers_a_true_ratio_of_2():
    covered = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        cluster = np.repeat(np.arange(800), 3)
        stratum = (np.arange(800) % 20)[cluster]
        first = (rng.random(800) < 0.2)[cluster]
        rate = np.where(first[::3], 0.3, 0.15)
        held = (rng.random((800, 10)) < rate[:, None])[cluster] & (rng.random((2400, 10)) < 0.9)
        low, up = ratio_of(held, first, stratum, cluster).interval()
        covered.append(((low < 2) & (up > 2)).mean())
    assert 0.92 <= np.mean(covered) <= 0.985


def by_hand(column, first, stratum) -> tuple[float, float]:
    """R and S of Mantel and Haenszel, stratum by stratum."""
    seen = expected = 0.0
    for each in np.unique(stratum):
        inside = stratum == each
        n1, n0 = (inside & first).sum(), (inside & ~first).sum()
        if n1 and n0:
            seen += column[inside & first].sum() * n0 / (n1 + n0)
            expected += column[inside & ~first].sum() * n1 / (n1 + n0)
    return seen, expected


def test_ratio_and_jackknife_equal_leaving_out_one_cluster_at_a_time():
    columns, first, stratum, cluster = clustered(3, 60, rate=0.3, high=0.4, n_strata=1, k=4)
    got = ratio_of(columns, first, stratum, cluster)
    extra = 0.5 * got.count_weight
    n = len(np.unique(cluster))
    for j in range(columns.shape[1]):
        seen, expected = by_hand(columns[:, j], first, stratum)
        assert got.ratio[j] == pytest.approx(seen / expected)
        left = [
            by_hand(columns[cluster != c, j], first[cluster != c], stratum[cluster != c]) for c in np.unique(cluster)
        ]
        change = [(seen - r) / (seen + extra) - (expected - s) / (expected + extra) for r, s in left]
        halves = 2 * extra**2 * ((seen + extra) ** -2 + (expected + extra) ** -2)
        assert got.variance[j] == pytest.approx((n - 1) / n * np.square(change).sum() + halves)


def test_for_independent_examples_in_large_strata_the_error_is_that_of_greenland_and_robins():
    rng = np.random.default_rng(4)
    n = 40_000
    stratum, first = rng.integers(0, 5, n), rng.random(n) < 0.3
    columns = rng.random((n, 3)) < np.where(first, 0.3, 0.2)[:, None]
    got = ratio_of(columns, first, stratum, np.arange(n))
    for j in range(3):
        seen, expected = by_hand(columns[:, j], first, stratum)
        variance = 0.0
        for each in range(5):
            inside = stratum == each
            n1, n0 = (inside & first).sum(), (inside & ~first).sum()
            a, c = columns[inside & first, j].sum(), columns[inside & ~first, j].sum()
            variance += ((a + c) * n1 * n0 - a * c * (n1 + n0)) / (n1 + n0) ** 2
        assert got.variance[j] == pytest.approx(variance / (seen * expected), rel=0.02)


def test_the_pooled_odds_ratio_equals_statsmodels():
    columns, first, stratum, cluster = clustered(7, 500, rate=0.3, high=0.3, n_strata=8, k=3)
    got = ratio_of(columns, first, stratum, cluster)
    for j in range(3):
        tables = [
            [
                [(columns[:, j] & first & at).sum(), (~columns[:, j] & first & at).sum()],
                [(columns[:, j] & ~first & at).sum(), (~columns[:, j] & ~first & at).sum()],
            ]
            for at in (stratum == each for each in range(8))
        ]
        table = StratifiedTable([np.array(each, dtype=float) for each in tables])
        assert got.odds.value[j] == pytest.approx(table.oddsratio_pooled)
        assert (got.odds.low[j], got.odds.high[j]) == pytest.approx(table.oddsratio_pooled_confint())


def test_blocks_of_columns_change_nothing(monkeypatch):
    data = clustered(5, 300, rate=0.2, high=0.2, n_strata=10)
    whole = ratio_of(*data)
    monkeypatch.setattr("mechinterp_runner.runners.stats.clustered_ratio._BLOCK", 900)
    parts = ratio_of(*data)
    assert parts.ratio == pytest.approx(whole.ratio)
    assert parts.variance == pytest.approx(whole.variance)
    assert parts.odds.value == pytest.approx(whole.odds.value)


def test_a_column_that_no_high_example_holds_is_suppressed_only_when_it_would_be_expected_often():
    cluster = np.arange(4000)
    first = cluster < 400
    common, rare = (cluster >= 400) & (cluster % 4 == 0), (cluster >= 400) & (cluster % 500 == 0)
    got = ratio_of(np.stack([common, rare], axis=1), first, np.zeros(4000, dtype=int), cluster)
    low, up = got.interval()
    assert got.ratio.tolist() == [0.0, 0.0]
    assert low.tolist() == [0.0, 0.0]
    assert up[0] < 0.2
    assert up[1] > 1.0


def test_a_column_of_high_examples_alone_has_no_upper_end_and_one_of_none_has_no_interval():
    cluster = np.arange(1000)
    first = cluster < 100
    columns = np.stack([cluster < 40, np.zeros(1000, dtype=bool)], axis=1)
    low, up = ratio_of(columns, first, np.zeros(1000, dtype=int), cluster).interval()
    assert low[0] > 3.0
    assert np.isinf(up[0])
    assert np.isnan(low[1])
    assert np.isnan(up[1])


@pytest.mark.parametrize(("clusters", "known"), [(9, False), (10, True)])
def test_fewer_than_10_high_clusters_have_no_interval(clusters, known):
    cluster = np.repeat(np.arange(200), 2)
    first = cluster < clusters
    column = np.arange(400) % 3 == 0
    low, _ = ratio_of(column[:, None], first, np.zeros(400, dtype=int), cluster).interval()
    assert np.isfinite(low[0]) == known


def test_strata_with_high_examples_alone_say_nothing():
    columns, first, stratum, cluster = clustered(2, 200, rate=0.3, high=0.3, n_strata=4, k=2)
    more = np.ones((30, 2), dtype=bool)
    extended = ratio_of(
        np.vstack([columns, more]),
        np.r_[first, np.ones(30, dtype=bool)],
        np.r_[stratum, np.full(30, 99)],
        np.r_[cluster, 1000 + np.arange(30)],
    )
    assert extended.ratio == pytest.approx(ratio_of(columns, first, stratum, cluster).ratio)


@pytest.mark.parametrize("nested", [True, False])
def test_the_order_of_examples_and_the_kind_of_columns_change_nothing(nested):
    columns, first, stratum, cluster = clustered(6, 300, rate=0.2, high=0.2, n_strata=10, nested=nested, k=70)
    whole = ratio_of(columns, first, stratum, cluster)
    order = np.random.default_rng(0).permutation(len(first))
    mixed = Strata.of(columns[order], stratum[order] - 7, cluster[order] * 5).ratio(first[order])
    for name in ("ratio", "variance", "count_weight", "n_clusters"):
        assert getattr(mixed, name) == pytest.approx(getattr(whole, name))
    few = Strata.of(columns[:, :3], stratum, cluster).ratio(first)
    assert few.variance == pytest.approx(whole.variance[:3])


def test_clusters_that_span_strata_are_left_out_of_all_of_them_at_once():
    columns, first, stratum, cluster = clustered(8, 80, rate=0.3, high=0.4, n_strata=2, nested=False, k=3)
    got = ratio_of(columns, first, stratum, cluster)
    extra = 0.5 * got.count_weight
    for j in range(3):
        seen, expected = by_hand(columns[:, j], first, stratum)
        changes = np.zeros(cluster.max() + 1)
        for each in np.unique(stratum):
            at = stratum == each
            r, s = by_hand(columns[at, j], first[at], stratum[at])
            own = np.unique(cluster[at])
            for c in own:
                keep = at & (cluster != c)
                less_r, less_s = by_hand(columns[keep, j], first[keep], stratum[keep])
                change = (r - less_r) / (seen + extra) - (s - less_s) / (expected + extra)
                changes[c] += np.sqrt((len(own) - 1) / len(own)) * change
        halves = 2 * extra**2 * ((seen + extra) ** -2 + (expected + extra) ** -2)
        assert got.variance[j] == pytest.approx(np.square(changes).sum() + halves)
