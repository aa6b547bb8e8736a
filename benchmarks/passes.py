"""The bare passes over the data that an answer cannot avoid: what the experiments are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..context.context import Context

Pass = Callable[[NDArray[np.float32]], object]
SHUFFLES = 100


def passes(ctx: Context) -> Mapping[str, Pass]:
    """What numpy and scipy take for one pass each, given a feature's column; all that can be prepared is.

    Args:
        ctx: a context with examples.

    Returns:
        By name:

        * ``read``: which examples are active, and the sum of their activations.
        * ``by token``: activation summed by token, one sparse product.
        * ``by weapon``, ``by build``: activation summed by weapon or build, one ``bincount``.
        * ``by build and token``: activation of the active examples summed by build and token, which errors that are
          clustered by build add up the squares of: one sparse product.
        * ``shuffled``: active examples drawn anew and their activation summed by token, a hundred times.
        * ``pairs``: how many active examples hold both of two tokens, for all pairs: one product.
    """
    examples = ctx.data
    n, weapon, build = len(examples), np.asarray(examples.weapon), np.asarray(examples.clusters)
    held = examples.token_matrix(np.arange(n)).astype(np.float32)
    by_token = held.T.tocsr()
    rng = np.random.default_rng(0)

    def active_of(column: NDArray[np.float32]) -> NDArray[np.intp]:
        return np.flatnonzero(column > 0)

    def by_build_and_token(column: NDArray[np.float32]) -> object:
        rows = active_of(column)
        where = (column[rows], build[rows], np.arange(len(rows) + 1))
        weights = sparse.csr_matrix(where, shape=(len(rows), int(build.max()) + 1))
        return (weights.T.tocsr() @ held[rows]).power(2).sum(axis=0)

    def shuffled(column: NDArray[np.float32]) -> object:
        values = column[active_of(column)]
        drawn = (rng.integers(0, n, len(values)) for _ in range(SHUFFLES))
        return [np.bincount(held[rows].indices, np.repeat(values, np.diff(held[rows].indptr))) for rows in drawn]

    def pairs(column: NDArray[np.float32]) -> object:
        dense = held[active_of(column)].toarray()
        return dense.T @ dense

    return {
        "read": lambda column: (active_of(column), np.add.reduce(column)),
        "by token": lambda column: by_token @ column,
        "by weapon": lambda column: np.bincount(weapon, column),
        "by build": lambda column: np.bincount(build, column),
        "by build and token": by_build_and_token,
        "shuffled": shuffled,
        "pairs": pairs,
    }
