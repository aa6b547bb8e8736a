"""Grids of constructed sets: many items, a few conditions each, on the same contexts, one block at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ....context.context import Context
from ....context.token_sets import TokenSets, concatenate
from ....schemas.job import Job

T = TypeVar("T")
Floats = NDArray[np.floating[Any]]
BLOCK_SETS = 16_384
"""Sets in a block: their pooled vectors, of however many items, are in memory at once, never those of all."""


@dataclass(frozen=True)
class Grid(Generic[T]):
    """Items, such as pairs of units, each with the same number of conditions on m contexts.

    Attributes:
        items: what is tried.
        build: the conditions of an item, each of m sets.
        conditions: conditions of an item.
        contexts: m.
    """

    items: Sequence[T]
    build: Callable[[T], Sequence[TokenSets]]
    conditions: int
    contexts: int

    def __len__(self) -> int:
        return len(self.items) * self.conditions * self.contexts

    def blocks(self) -> Iterator[tuple[slice, TokenSets]]:
        """Which items a block holds, and all their sets: item, then condition, then context."""
        size = max(1, BLOCK_SETS // (self.conditions * self.contexts))
        for start in range(0, len(self.items), size):
            part = slice(start, min(start + size, len(self.items)))
            yield part, concatenate([sets for item in self.items[part] for sets in self.build(item)])

    def is_cached(self, ctx: Context) -> bool:
        """Whether no set needs a forward pass."""
        return not any(len(ctx.oracle.missing(sets)) for _, sets in self.blocks())

    def pooled(self, ctx: Context, meter: Meter) -> Iterator[tuple[slice, Floats]]:
        """Pooled vectors [items, conditions, m, d] of one block after the other."""
        for part, sets in self.blocks():
            vectors = meter.ask(ctx, sets)
            yield part, vectors.reshape(-1, self.conditions, self.contexts, vectors.shape[1])


@dataclass
class Meter:
    """Reports the progress of several grids as one number that only rises.

    Attributes:
        job: the run.
        total: sets that all grids together will ask about, at most.
        done: sets that were answered.
    """

    job: Job
    total: int
    done: int = field(default=0)

    def ask(self, ctx: Context, sets: TokenSets) -> Floats:
        """Pooled vectors of a block; what the oracle reports of it becomes a share of the whole.

        Raises:
            Cancelled: the job was asked to stop.
        """
        start = self.done

        def advance(done: int, total: int, _message: str) -> None:
            self._report(start + len(sets) * done // max(total, 1))

        inner = Job(on_progress=advance, is_cancelled=self.job.is_cancelled)
        try:
            vectors = ctx.oracle.pooled(sets, inner)
        finally:
            self.job.count_passes(inner.passes_made, inner.passes_saved)
        self.done = start + len(sets)
        self._report(self.done)
        return vectors

    def _report(self, done: int) -> None:
        self.job.progress(min(done, self.total), self.total, "constructed builds")


def count_passes(grids: Sequence[Grid[Any]], ctx: Context) -> tuple[int, int]:
    """Forward passes that the grids need, and those that deduplication and the cache save."""
    # An array: millions of keys as Python objects would hold everything up, in every garbage collection anew.
    keys = [ctx.oracle.missing(sets) for grid in grids for _, sets in grid.blocks()]
    missing = len(np.unique(np.concatenate(keys))) if keys else 0
    return missing, sum(len(grid) for grid in grids) - missing
