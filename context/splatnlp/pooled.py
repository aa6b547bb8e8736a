"""Pooled vectors of the examples: copied from ``sae_input.zarr``, or computed by the network once a distinct set."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...schemas.errors import RequestError, StoreError
from ..context import Context
from .rows import BLOCK
from .sources import NOTHING
from .work import SCRATCH, Pieces, Report, Work
from .zarr_arrays import Matrix

POOLED = "pooled.npy"
FIRST, WHICH, DISTINCT = (f"{SCRATCH}/{name}.npy" for name in ("first_row", "distinct_set", "distinct_pooled"))
SETS_PER_UNIT = 2_048
"""Forward passes between two notes of progress, and lost at most when the import is stopped."""


def copy_pooled(work: Work, matrix: Matrix, block_bytes: int, report: Report) -> None:
    """Copy stored pooled vectors, whole chunks at a time.

    Raises:
        RequestError: a vector is all zeros (a chunk is lost) or not finite.
        StoreError: the disk has no room for them.
    """
    n, dim = matrix.shape
    chunk = max(1, matrix.chunks[0])
    size = chunk * max(1, block_bytes // (4 * dim * chunk))
    _check_room(work, POOLED, 4 * dim * n)

    def make(unit: int) -> Pieces:
        rows = slice(unit * size, min((unit + 1) * size, n))
        yield {POOLED: _checked(matrix.read(rows), lambda row: f"{matrix.path}, row {rows.start + row:,}")}

    work.grow("copy pooled vectors", {POOLED: ("float32", (dim,))}, -(-n // size), make, report)


def compute_pooled(work: Work, context: Context, dim: int, block_bytes: int, report: Report) -> None:
    """Run the network on every distinct (weapon, token set) of the examples, the shortest first.

    What is computed together does not depend on where an import was stopped, so neither do the numbers.

    Raises:
        RequestError: the network gives a vector that is not finite.
        StoreError: the disk has no room for them.
    """
    n = len(context.data)
    distinct = {FIRST: ("int64", ()), WHICH: ("int64", ())}
    work.grow("distinct sets", distinct, 1, lambda _unit: _distinct(context), report)
    first, which = work.array(FIRST), work.array(WHICH)
    _check_room(work, DISTINCT, 4 * dim * (len(first) + n))

    def compute(unit: int) -> Pieces:
        rows = np.asarray(first[unit * SETS_PER_UNIT : (unit + 1) * SETS_PER_UNIT])
        vectors = np.asarray(context.oracle.pooled(context.sets(rows)))
        yield {DISTINCT: _checked(vectors, lambda row: f"the network, example {rows[row]:,}")}

    units = -(-len(first) // SETS_PER_UNIT)
    work.grow("compute pooled vectors", {DISTINCT: ("float32", (dim,))}, units, compute, report)
    vectors, size = work.array(DISTINCT), max(1, block_bytes // (4 * dim))

    def spread(unit: int) -> Pieces:
        yield {POOLED: vectors[which[unit * size : (unit + 1) * size]]}

    work.grow("spread pooled vectors", {POOLED: ("float32", (dim,))}, -(-n // size), spread, report)


def _distinct(context: Context) -> Pieces:
    """A row of each distinct set, by length, and for every row which of them it has."""
    examples, n = context.data, len(context.data)
    blocks = [np.arange(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]
    keys = np.concatenate([examples.sets(rows).keys() for rows in blocks])
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    order = np.lexsort((first, (examples.indptr[first + 1] - examples.indptr[first])))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    yield {FIRST: first[order], WHICH: rank[which.reshape(-1)]}


def _checked(vectors: NDArray[Any], name: Callable[[int], str]) -> NDArray[Any]:
    """The vectors, if each can be a mean of hidden states."""
    good = np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)
    if not good.all():
        where = name(int(np.flatnonzero(~good)[0]))
        raise RequestError(f"{where}: the pooled vector is all zeros or not finite. {NOTHING}")
    return vectors


def _check_room(work: Work, name: str, needed: int) -> None:
    """Raise StoreError when that many bytes of pooled vectors will not fit on the disk."""
    there = work.path(name).stat().st_size if work.path(name).exists() else 0
    free = shutil.disk_usage(work.folder).free
    if needed - there > free:
        raise StoreError(
            f"pooled vectors take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free beside {work.folder}. Make "
            f"room and run the same command again."
        )
