"""Constructed sets, the cache of pooled vectors, and random directions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mechinterp_runner.context.directions import RandomDirections
from mechinterp_runner.context.pooled_cache import PooledCache
from mechinterp_runner.context.token_sets import TokenSets, concatenate, from_csr, levels_of
from mechinterp_runner.schemas.vocabulary import Vocabulary

TOKENS = ["a_up_12", "comeback", "b_up_3", "<NULL>", "a_up_3", "b_up_29", "<PAD>", "haunt", "a_up_6"]
VOCABULARY = Vocabulary.from_mapping({token: index for index, token in enumerate(TOKENS)})
REAL = [index for index, token in enumerate(TOKENS) if not token.startswith("<")]
SETS = st.lists(st.tuples(st.integers(0, 5), st.sets(st.sampled_from(REAL))), min_size=1, max_size=12)


def made(pairs) -> TokenSets:
    present = np.zeros((len(pairs), len(TOKENS)), dtype=bool)
    for row, (_, tokens) in enumerate(pairs):
        present[row, list(tokens)] = True
    return TokenSets(np.array([weapon for weapon, _ in pairs], np.int32), present)


@given(SETS)
def test_levels_equal_the_vocabulary_s_own_reading_of_each_set(pairs):
    levels = levels_of(made(pairs).present, VOCABULARY)
    for row, (_, tokens) in enumerate(pairs):
        found = VOCABULARY.levels(tokens)
        assert levels[row].tolist() == [found.get(family, 0) for family in VOCABULARY.families]


@given(SETS)
def test_keys_are_equal_exactly_when_weapon_and_tokens_are(pairs):
    keys = made(pairs).keys().tolist()
    for i, first in enumerate(pairs):
        for j, second in enumerate(pairs):
            assert (keys[i] == keys[j]) == (first == second)


@given(SETS, st.sampled_from([0, 3, 6, 12]))
def test_writing_a_level_replaces_the_family_and_leaves_the_rest(pairs, level):
    sets = made(pairs)
    written = sets.with_level("a_up", level, VOCABULARY)
    own = list(VOCABULARY.family_tokens("a_up"))
    others = [token for token in range(len(TOKENS)) if token not in own]
    assert np.array_equal(written.present[:, others], sets.present[:, others])
    expected = [TOKENS.index(f"a_up_{rung}") for rung in (3, 6, 12) if rung <= level]
    for row in range(len(pairs)):
        assert sorted(set(np.flatnonzero(written.present[row])) & set(own)) == sorted(expected)
    assert np.array_equal(sets.present, made(pairs).present)


def test_editing_never_changes_the_sets_it_starts_from():
    sets = made([(1, {0, 4}), (2, set())])
    before = sets.present.copy()
    sets.without("a_up", VOCABULARY)
    sets.with_tokens([1])
    swapped = sets.with_weapon(5)
    assert np.array_equal(sets.present, before)
    assert sets.weapon.tolist() == [1, 2]
    assert swapped.weapon.tolist() == [5, 5]


@given(SETS)
def test_stored_sets_come_back_without_their_special_tokens(pairs):
    sets = made(pairs)
    rows = [sorted(tokens) or [TOKENS.index("<NULL>")] for _, tokens in pairs]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    back = from_csr(sets.weapon, indptr, np.concatenate(rows), VOCABULARY)
    assert np.array_equal(back.present, sets.present)
    assert len(concatenate([sets, back])) == 2 * len(sets)


def test_arrays_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="do not belong together"):
        TokenSets(np.zeros(2, np.int32), np.zeros((3, 4), bool))


@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=6, unique=True), max_size=12), st.integers(2, 10))
def test_the_cache_returns_what_was_put_and_never_outgrows_its_bound(batches, capacity):
    cache = PooledCache(3, capacity * 12)
    assert cache.capacity == capacity
    for batch in batches:
        keys = [bytes([key]) for key in batch]
        new = [key for key, at in zip(keys, cache.positions(keys), strict=True) if at < 0]
        cache.add(new, torch.tensor([[key[0]] * 3 for key in new], dtype=torch.float32).reshape(-1, 3))
        positions = cache.positions(keys)
        for key, at in zip(keys, positions, strict=True):
            if at >= 0:
                assert cache.vectors(np.array([at]))[0].tolist() == [key[0]] * 3
        assert len(cache) <= capacity


def test_the_oldest_vectors_make_room():
    cache = PooledCache(1, 3 * 4)
    cache.add([b"a", b"b"], torch.tensor([[1.0], [2.0]]))
    cache.add([b"c", b"d"], torch.tensor([[3.0], [4.0]]))
    assert (cache.positions([b"a", b"b", b"c", b"d"]) >= 0).tolist() == [False, True, True, True]
    cache.clear()
    assert len(cache) == 0


def test_random_directions_are_as_often_active_and_as_high_as_they_are_asked_to_be():
    rng = np.random.default_rng(0)
    pooled = (rng.normal(size=(4000, 6)) @ rng.normal(size=(6, 6)) + 2.0).astype(np.float32)
    matched = RandomDirections.from_reference(pooled).matched(0.05, 2.0)
    activation = matched.activation(pooled)
    assert activation.shape == (4000, 200)
    assert (activation > 0).mean(axis=0) == pytest.approx(0.05, abs=0.001)
    tops = [np.quantile(column[column > 0], 0.995) for column in activation.T]
    assert tops == pytest.approx([2.0] * 200, rel=0.05)


def test_random_directions_have_the_covariance_of_the_vectors():
    rng = np.random.default_rng(1)
    pooled = rng.normal(size=(5000, 3)) * np.array([5.0, 1.0, 0.1])
    weight = RandomDirections.from_reference(pooled, k=20_000).weight
    assert np.cov(weight) == pytest.approx(np.cov(pooled, rowvar=False), rel=0.1, abs=0.1)
    first, again = (RandomDirections.from_reference(pooled, k=20).weight for _ in range(2))
    assert np.array_equal(first, again)
