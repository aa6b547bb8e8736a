"""Tokens are removed as the network's training data was made."""

import numpy as np
from mechinterp_runner.context.builder.corrupt import corrupt, removal_cdf


def test_the_chance_of_removing_k_tokens_is_k_to_the_power_1_2() -> None:
    k = np.arange(1, 6)
    expected = (k / k.sum()) ** 1.2
    cdf = removal_cdf(8)[6]
    assert np.allclose(np.diff(cdf[:5], prepend=0.0), expected / expected.sum())
    assert np.allclose(cdf[5:], 1.0)


def test_removed_counts_follow_that_law_and_tokens_go_evenly() -> None:
    whole = np.zeros((60_000, 9), dtype=bool)
    whole[:, 2:8] = True
    kept = corrupt(whole, np.random.default_rng(0))
    k = np.arange(1, 6)
    expected = k**1.2 / (k**1.2).sum()
    shares = np.bincount(6 - kept.sum(axis=1), minlength=6)[1:] / len(whole)
    assert np.allclose(shares, expected, atol=0.01)
    rates = kept.mean(axis=0)
    assert np.ptp(rates[2:8]) < 0.01
    assert not (kept & ~whole).any()


def test_one_token_is_left_alone_and_nothing_becomes_empty() -> None:
    rng = np.random.default_rng(0)
    whole = rng.random((500, 12)) < 0.3
    whole[:, 0] = True
    kept = corrupt(whole, rng)
    lengths = whole.sum(axis=1)
    assert (kept.sum(axis=1) >= 1).all()
    assert (kept.sum(axis=1)[lengths > 1] < lengths[lengths > 1]).all()
    assert np.array_equal(kept[lengths == 1], whole[lengths == 1])
