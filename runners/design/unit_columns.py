"""What examples hold, as binary columns: families, levels or tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...context.context import Context
from ...context.population import Population
from ..stats.held import NARROW, count_held
from ..stats.presence import PresenceDesign
from .specificity import NullActivations

if TYPE_CHECKING:
    from scipy import sparse

Rows = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]
Kind = Literal["families", "levels", "tokens"]
"""families: held at any AP; levels: held at exactly this level (the highest rung); tokens: every token there is."""


_HIGHEST = 255
_BLOCK_ROWS = 1 << 16


@dataclass(frozen=True)
class HeldLevels:
    """Which examples hold families at levels within bounds, read from the mapped data when asked: no copy is kept.

    Attributes:
        levels: uint8 [N, f], levels of all examples of the data.
        rows: int [n], the rows that count; None for all.
        family: int [k], family of each column.
        low, high: uint8 [k], bounds of its level, both inclusive.
    """

    levels: NDArray[np.uint8]
    rows: Rows | None
    family: Rows
    low: NDArray[np.uint8]
    high: NDArray[np.uint8]

    @property
    def shape(self) -> tuple[int, int]:
        """Examples, and columns."""
        return len(self.levels if self.rows is None else self.rows), len(self.family)

    def __getitem__(self, at: Rows) -> Any:  # noqa: ANN401 - CSR matrix or array
        """Which columns some examples hold, [m, k]: bool, or CSR of 0 and 1 where there are more than 64 columns."""
        levels = self._levels(at)
        if len(self.family) > NARROW:
            return self._csr(levels)
        if self._any_level:
            return levels > 0
        return (levels[:, self.family] - self.low) <= (self.high - self.low)

    def take(self, keep: Rows) -> HeldLevels:
        """The chosen columns, in that order."""
        return replace(self, family=self.family[keep], low=self.low[keep], high=self.high[keep])

    def among(self, at: Rows) -> HeldLevels:
        """The same columns over some of the examples."""
        return replace(self, rows=at if self.rows is None else self.rows[at])

    def matrix(self) -> sparse.csr_matrix:
        """All of it as a CSR matrix [n, k] of 0 and 1."""
        from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

        n, k = self.shape
        starts = range(0, n, _BLOCK_ROWS)
        parts = [self._csr(self._levels(np.arange(start, min(start + _BLOCK_ROWS, n)))) for start in starts]
        return sparse.csr_matrix(sparse.vstack(parts, format="csr")) if parts else sparse.csr_matrix((0, k))

    def _csr(self, levels: NDArray[np.uint8]) -> sparse.csr_matrix:
        """The columns at some levels [m, f]: the levels of each example, times the columns that take each."""
        from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

        held = levels > 0
        where = np.flatnonzero(held)
        code = where % held.shape[1] * (_HIGHEST + 1) + levels.ravel()[where]
        indptr = np.concatenate([[0], np.cumsum(held.sum(axis=1))])
        has = sparse.csr_matrix((np.ones(len(code)), code, indptr), shape=(len(levels), self._takes.shape[0]))
        return has @ self._takes

    @cached_property
    def _takes(self) -> sparse.csr_matrix:
        """Which columns [k] take each (family, level) [f * 256]."""
        from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

        level = np.arange(_HIGHEST + 1)[:, None]
        inside = (level >= self.low) & (level <= self.high)
        at, column = np.nonzero(inside)
        shape = (self.levels.shape[1] * (_HIGHEST + 1), len(self.family))
        return sparse.csr_matrix((np.ones(len(at)), (self.family[column] * (_HIGHEST + 1) + at, column)), shape=shape)

    def _levels(self, at: Rows) -> NDArray[np.uint8]:
        """Levels of some examples, [m, f]."""
        return np.take(self.levels, at if self.rows is None else self.rows[at], axis=0)

    @cached_property
    def _any_level(self) -> bool:
        """Whether the columns are all families at any level, in order."""
        every = np.arange(self.levels.shape[1])
        return np.array_equal(self.family, every) and bool((self.low == 1).all() and (self.high == _HIGHEST).all())


@dataclass(frozen=True)
class UnitColumns:
    """Binary columns over examples.

    Attributes:
        labels: name of each column: a family, or a token.
        family: family of each column.
        level: level of each column; 0 where any level counts.
        held: [n, k] of 0 and 1: read when asked, or CSR.
    """

    labels: tuple[str, ...]
    family: tuple[str, ...]
    level: tuple[int, ...]
    held: HeldLevels | sparse.csr_matrix

    @cached_property
    def key(self) -> tuple[object, ...]:
        """Names the columns: equal keys, equal columns over the same examples."""
        bounds = (
            (self.held.low.tobytes(), self.held.high.tobytes()) if isinstance(self.held, HeldLevels) else ("tokens",)
        )
        return (self.labels, self.family, *bounds)

    @cached_property
    def matrix(self) -> sparse.csr_matrix:
        """All of them as CSR [n, k] of 0 and 1."""
        return self.held.matrix() if isinstance(self.held, HeldLevels) else self.held

    def take(self, keep: Rows) -> UnitColumns:
        """The chosen columns, in that order."""
        where = keep.tolist()
        return UnitColumns(
            tuple(self.labels[i] for i in where),
            tuple(self.family[i] for i in where),
            tuple(self.level[i] for i in where),
            self.held.take(keep) if isinstance(self.held, HeldLevels) else self.held[:, keep].tocsr(),
        )

    def among(self, at: Rows) -> UnitColumns:
        """The same columns over some of the examples."""
        held = self.held.among(at) if isinstance(self.held, HeldLevels) else self.held[at]
        return replace(self, held=held)

    def counts(self) -> NDArray[np.int64]:
        """Examples with each column, [k]."""
        return self._counts

    @cached_property
    def _counts(self) -> NDArray[np.int64]:
        return count_held(self.held, np.arange(self.held.shape[0]))


def unit_columns(ctx: Context, rows: Rows, kind: Kind) -> UnitColumns:
    """The columns of some rows of the data; families in vocabulary order, levels and tokens by rung within them."""
    vocabulary, rows = ctx.vocabulary, np.asarray(rows, dtype=np.intp)
    if kind == "families":
        families, zeros = vocabulary.families, (0,) * len(vocabulary.families)
        return UnitColumns(families, families, zeros, held_levels(ctx, rows, families, zeros, zeros))
    pairs = [(family, rung) for family in vocabulary.families for rung in vocabulary.rungs(family)]
    labels = tuple(family if vocabulary.is_main_only(family) else f"{family}_{rung}" for family, rung in pairs)
    names, steps = tuple(family for family, _ in pairs), tuple(rung for _, rung in pairs)
    if kind == "levels":
        return UnitColumns(labels, names, steps, held_levels(ctx, rows, names, steps, steps))
    order = [vocabulary.token_id[label] for label in labels]
    return UnitColumns(labels, names, steps, ctx.data.token_matrix(rows)[:, order].tocsr())


def held_levels(
    ctx: Context, rows: Rows, families: Sequence[str], least: Sequence[int], most: Sequence[int]
) -> HeldLevels:
    """Columns of families held at levels from ``least`` (0 is read as any) to ``most`` (0: no bound)."""
    return HeldLevels(
        np.asarray(ctx.data.levels),
        None if len(rows) == len(ctx.data) and bool(np.all(rows[1:] > rows[:-1])) else rows,
        np.array([ctx.vocabulary.family_index[family] for family in families], dtype=np.intp),
        np.maximum(np.asarray(least), 1).astype(np.uint8),
        np.array([each or _HIGHEST for each in most], dtype=np.uint8),
    )


def weapon_design(ctx: Context, population: Population, units: UnitColumns) -> PresenceDesign:
    """Units over a population with weapon fixed effects, taken apart once for all features and types."""
    rows = population.rows
    return ctx.derived_for(
        population,
        ("units within weapons", units.key),
        lambda: PresenceDesign.of(units.held, np.asarray(ctx.data.weapon)[rows], ctx.data.clusters[rows]),
    )


def null_design(ctx: Context, population: Population, units: UnitColumns, null: NullActivations) -> PresenceDesign:
    """The same over the examples that random directions were read on; kept as well, and small."""
    rows = population.rows[null.positions]
    return ctx.derived_for(
        population,
        ("units of the null within weapons", units.key, rows.tobytes()),
        lambda: PresenceDesign.of(
            units.among(null.positions).held, np.asarray(ctx.data.weapon)[rows], ctx.data.clusters[rows]
        ),
    )
