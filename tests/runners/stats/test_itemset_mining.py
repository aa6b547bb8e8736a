"""The miner finds exactly what FP-growth, and counting by hand, find."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mechinterp_runner.runners.stats import itemsets
from mechinterp_runner.runners.stats.itemsets import (
    GroupedItems,
    ItemRows,
    Itemsets,
    PackedItems,
    TooManyItemsets,
    closed_and_maximal,
    excess,
    fewest,
    mine,
)
from mlxtend.frequent_patterns import fpgrowth, fpmax
from scipy import stats

TABLES = hnp.arrays(bool, st.tuples(st.integers(1, 150), st.integers(1, 7)), elements=st.booleans())


def some_transactions(seed: int, n: int = 300, k: int = 12, rate: float = 0.35) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.random((n, k)) < rng.uniform(0.05, 2 * rate, k)


def mined(held: np.ndarray, min_count: int, max_size: int, family: np.ndarray | None = None) -> Itemsets:
    return mine(PackedItems.of(held), min_count, max_size, allowed=np.arange(held.shape[-1]), family=family)


def as_counts(found: Itemsets) -> dict[frozenset[int], int]:
    counts = {frozenset(found.members(i)): int(found.count[i]) for i in range(len(found))}
    assert len(counts) == len(found)
    return counts


def counted(held: np.ndarray, min_count: int, max_size: int) -> dict[frozenset[int], int]:
    """Every itemset with its count, by trying them all."""
    sets = (each for size in range(1, max_size + 1) for each in combinations(range(held.shape[1]), size))
    counts = {frozenset(each): int(held[:, list(each)].all(axis=1).sum()) for each in sets}
    return {each: count for each, count in counts.items() if count >= min_count}


@pytest.mark.parametrize("max_size", [2, 3, 4, 6])
@pytest.mark.parametrize("min_support", [0.02, 0.1, 0.33])
@pytest.mark.parametrize("seed", range(3))
def test_sets_and_counts_are_those_of_fp_growth(seed, min_support, max_size):
    held = some_transactions(seed, n=257 + seed)
    theirs = fpgrowth(pd.DataFrame(held), min_support=min_support, max_len=max_size)
    expected = {
        frozenset(each): round(share * len(held))
        for each, share in zip(theirs["itemsets"], theirs["support"], strict=True)
    }
    assert as_counts(mined(held, fewest(min_support, len(held)), max_size)) == expected


@settings(max_examples=60, deadline=None)
@given(held=TABLES, min_count=st.integers(1, 20), max_size=st.integers(1, 6))
def test_sets_and_counts_are_those_found_by_trying_every_set(held, min_count, max_size):
    assert as_counts(mined(held, min_count, max_size)) == counted(held, min_count, max_size)


@settings(max_examples=40, deadline=None)
@given(held=TABLES, min_count=st.integers(1, 10))
def test_a_set_is_never_commoner_than_its_parts(held, min_count):
    counts = as_counts(mined(held, min_count, 4))
    for each, count in counts.items():
        parts = [frozenset(part) for part in combinations(each, len(each) - 1) if part]
        assert all(counts[part] >= count for part in parts)


@settings(max_examples=40, deadline=None)
@given(held=TABLES, min_count=st.integers(1, 10), seed=st.integers(0, 2**16))
def test_the_order_of_the_examples_changes_nothing(held, min_count, seed):
    order = np.random.default_rng(seed).permutation(len(held))
    first, second = mined(held, min_count, 3), mined(held[order], min_count, 3)
    assert np.array_equal(first.items, second.items)
    assert np.array_equal(first.count, second.count)


@settings(max_examples=40, deadline=None)
@given(held=TABLES, min_support=st.sampled_from([0.05, 0.1, 0.25, 0.5]))
def test_doubling_every_example_changes_no_support(held, min_support):
    twice = np.vstack([held, held])
    once, doubled = (mined(each, fewest(min_support, len(each)), 3) for each in (held, twice))
    assert np.array_equal(once.items, doubled.items)
    assert np.array_equal(once.count / len(held), doubled.count / len(twice))


@pytest.mark.parametrize("seed", range(3))
def test_no_set_holds_two_items_of_a_family_and_no_other_set_is_missing(seed):
    held, family = some_transactions(seed, k=9), np.array([0, 0, 0, 1, 1, 2, 3, 3, 3])
    expected = {
        each: count for each, count in counted(held, 8, 4).items() if len({family[item] for item in each}) == len(each)
    }
    assert as_counts(mined(held, 8, 4, family)) == expected


def test_items_that_are_not_allowed_are_in_no_set():
    held = some_transactions(4)
    found = mine(PackedItems.of(held), 10, 3, allowed=np.array([1, 4, 5]))
    expected = {each: count for each, count in counted(held, 10, 3).items() if each <= {1, 4, 5}}
    assert as_counts(found) == expected


@pytest.mark.parametrize("family", [None, np.array([0, 0, 1, 1, 2, 3, 4, 5])])
@pytest.mark.parametrize("max_size", [2, 4])
@pytest.mark.parametrize("seed", range(3))
def test_closed_and_maximal_are_their_definitions_among_all_larger_sets(seed, max_size, family):
    held = some_transactions(seed, n=120, k=8, rate=0.45)
    held[:, 3] |= held[:, 1]
    found, groups = mined(held, 6, max_size, family), np.arange(8) if family is None else family
    everything = {
        each: count for each, count in counted(held, 1, 8).items() if len({groups[item] for item in each}) == len(each)
    }
    closed, maximal = closed_and_maximal(held, found, 6, allowed=np.arange(8), family=family)
    for i in range(len(found)):
        larger = [count for each, count in everything.items() if each > frozenset(found.members(i))]
        assert closed[i] == all(count < found.count[i] for count in larger)
        assert maximal[i] == all(count < 6 for count in larger)


def test_maximal_sets_are_those_of_mlxtend():
    held = some_transactions(7)
    found = mined(held, fewest(0.1, len(held)), 6)
    _, maximal = closed_and_maximal(held, found, fewest(0.1, len(held)), allowed=np.arange(12))
    theirs = {frozenset(each) for each in fpmax(pd.DataFrame(held), min_support=0.1)["itemsets"]}
    assert max(map(len, theirs)) <= 6
    assert {frozenset(found.members(i)) for i in np.flatnonzero(maximal)} == theirs


def test_separate_transactions_are_mined_together_as_each_would_be_alone():
    parts = np.stack([some_transactions(seed, n=90, k=7) for seed in range(5)])
    found = mined(parts, 12, 4)
    for index, part in enumerate(parts):
        own = {frozenset(found.members(i)): int(found.count[index, i]) for i in range(len(found))}
        assert {each: count for each, count in own.items() if count >= 12} == counted(part, 12, 4)
        assert all(count == part[:, list(each)].all(axis=1).sum() for each, count in own.items())


def test_totals_are_sums_over_the_examples_weighted_by_their_group():
    held, rng = some_transactions(8, n=500), np.random.default_rng(8)
    group, rate = rng.integers(0, 9, 500), rng.random(10)
    sets = np.array([[0, 0], [2, 5], [1, 7]])
    n, weighted = GroupedItems.of(ItemRows.stacked([held]), group, 10).totals(sets, rate)
    for i, each in enumerate(sets):
        holders = held[:, each].all(axis=1)
        assert n[i] == holders.sum()
        assert weighted[i] == pytest.approx(rate[group[holders]].sum())


def test_holders_are_the_transactions_with_every_item(monkeypatch):
    held, sets = some_transactions(9, n=130), np.array(list(combinations(range(12), 3)))
    monkeypatch.setattr(itemsets, "_BLOCK_WORDS", 40)
    expected = held[:, sets].all(axis=2).T
    packed = PackedItems.of(held)
    assert np.array_equal(packed.holders(sets), expected)
    assert np.array_equal(packed.count(sets), expected.sum(axis=1))


def test_no_items_and_no_frequent_items_give_no_sets():
    assert len(mined(np.zeros((5, 3), dtype=bool), 1, 3)) == 0
    assert len(mine(PackedItems.of(np.ones((5, 3), dtype=bool)), 1, 3, allowed=np.zeros(0, dtype=int))) == 0


@pytest.mark.parametrize("bound", ["MAX_ITEMSETS", "MAX_CANDIDATES"])
def test_an_explosion_is_stopped_before_it_is_counted(bound, monkeypatch):
    monkeypatch.setattr(itemsets, bound, 60)
    with pytest.raises(TooManyItemsets, match="itemsets of"):
        mined(np.ones((40, 20), dtype=bool), 1, 4)


@pytest.mark.parametrize(("min_support", "n", "expected"), [(0.05, 50, 3), (0.07, 100, 7), (1.0, 9, 9), (1e-6, 10, 1)])
def test_the_smallest_count_reaches_the_support_and_none_below_does(min_support, n, expected):
    assert fewest(min_support, n) == expected


def test_excess_is_the_root_of_the_likelihood_ratio_of_a_binomial():
    for count, expected, n in ((30, 12.5, 50), (50, 2.2, 50), (3, 0.01, 49)):
        g = stats.power_divergence([count, n - count], [expected, n - expected], lambda_="log-likelihood").statistic
        assert excess(np.array([count]), np.array([expected]), n)[0] == pytest.approx(np.sqrt(g))
    assert excess(np.array([3, 5, 10]), np.array([4.0, 5.0, 10.0]), 10) == pytest.approx([0.0, 0.0, 0.0])


@pytest.mark.parametrize("k", [1, 26, 64, 65, 138])
@pytest.mark.parametrize("m", [1, 63, 64, 200])
def test_transactions_drawn_from_bits_are_those_of_the_table(k, m):
    rng = np.random.default_rng(k + m)
    held = rng.random((90, k)) < 0.4
    rows = ItemRows.stacked([held[:17], held[17:]])
    drawn = rng.integers(0, 90, (3, m))
    assert np.array_equal(rows.held(drawn[0]), held[drawn[0]])
    packed, plain = rows.packed(drawn), PackedItems.of(held[drawn])
    assert packed.n == plain.n
    assert np.array_equal(packed.words, plain.words)
