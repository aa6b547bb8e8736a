"""PageRank of units on the graph of what is held together."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
_TOLERANCE = 1e-12
_MOST_STEPS = 1000


def pagerank(adjacency: Floats, damping: float = 0.85) -> Floats:
    """Share of time a random walk spends at each unit (Brin and Page 1998), by power iteration.

    The walk follows an edge in proportion to its weight with probability ``damping``, else it jumps to any unit; from
    a unit without edges it always jumps. Equal to ``networkx.pagerank``.

    Args:
        adjacency: [..., k, k], symmetric, not negative, zero diagonals; leading axes are graphs of their own.
        damping: probability of following an edge, in [0, 1).

    Returns:
        [..., k], each graph's ranks sum to 1. Units without edges have the rank that the jumps alone give.
    """
    k = adjacency.shape[-1]
    adjacency = np.asarray(adjacency, dtype=np.float64)
    degree = adjacency.sum(axis=-1, keepdims=True)
    step = np.divide(adjacency, degree, out=np.zeros_like(adjacency), where=degree > 0)
    lost = (degree[..., 0] <= 0).astype(np.float64)
    rank = np.full(adjacency.shape[:-1], 1.0 / max(k, 1))
    for _ in range(_MOST_STEPS):
        jumping = (1.0 - damping + damping * (rank * lost).sum(axis=-1, keepdims=True)) / k
        following = np.matmul(rank[..., None, :], step)[..., 0, :]
        before, rank = rank, damping * following + jumping
        if float(np.abs(rank - before).sum(axis=-1).max(initial=0.0)) < _TOLERANCE:
            break
    return rank
