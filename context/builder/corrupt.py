"""Partial builds: tokens removed at random, as the network is trained on them."""

import numpy as np
from numpy.typing import NDArray

Bool = NDArray[np.bool_]
EXPONENT = 1.2
"""The chance of removing k tokens grows as k to this power."""


def removal_cdf(longest: int) -> NDArray[np.float64]:
    """Cumulative chances of removing 1, 2, ... tokens; row L is for a set of L tokens, [longest + 1, longest].

    For a set of length L, P(k) is proportional to (k / sum of 1..L-1) ** 1.2 for k in 1..L-1: at least one token goes
    and at least one stays.
    """
    k = np.arange(1, longest + 1)
    allowed = k[None, :] < np.arange(longest + 1)[:, None]
    weight = np.cumsum(np.where(allowed, k[None, :] ** EXPONENT, 0.0), axis=1)
    return weight / np.maximum(weight[:, -1:], 1e-300)


def corrupt(present: Bool, rng: np.random.Generator) -> Bool:
    """Remove a random number of random tokens from each set.

    Args:
        present: bool [n, V]. A set of one token, which has none to spare, is returned as it is.
        rng: Source of randomness.

    Returns:
        bool [n, V], each row a proper non-empty subset.
    """
    lengths = present.sum(axis=1)
    cdf = removal_cdf(max(2, int(lengths.max(initial=0))))
    removed = 1 + (rng.random(len(present))[:, None] >= cdf[lengths]).sum(axis=1)
    removed = np.where(lengths > 1, removed, 0)
    order = np.where(present, rng.random(present.shape), 2.0)
    rank = np.argsort(np.argsort(order, axis=1), axis=1)
    return present & (rank >= removed[:, None])
