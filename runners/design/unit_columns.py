"""What examples hold, as binary columns: families, levels or tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...context.context import Context

if TYPE_CHECKING:
    from scipy import sparse

Rows = NDArray[np.integer[Any]]
Kind = Literal["families", "levels", "tokens"]
"""families: held at any AP; levels: held at exactly this level (the highest rung); tokens: every token there is."""


@dataclass(frozen=True)
class UnitColumns:
    """Binary columns over examples.

    Attributes:
        labels: name of each column: a family, or a token.
        family: family of each column.
        level: level of each column; 0 where any level counts.
        matrix: CSR [n, k] of 0 and 1.
    """

    labels: tuple[str, ...]
    family: tuple[str, ...]
    level: tuple[int, ...]
    matrix: sparse.csr_matrix

    def take(self, keep: Rows) -> UnitColumns:
        """The chosen columns, in that order."""
        where = keep.tolist()
        return UnitColumns(
            tuple(self.labels[i] for i in where),
            tuple(self.family[i] for i in where),
            tuple(self.level[i] for i in where),
            self.matrix[:, keep].tocsr(),
        )

    def counts(self) -> NDArray[np.int64]:
        """Examples with each column, [k]."""
        return np.asarray(self.matrix.sum(axis=0), dtype=np.int64).ravel()


def unit_columns(ctx: Context, rows: Rows, kind: Kind) -> UnitColumns:
    """The columns of some rows of the data; families in vocabulary order, levels and tokens by rung within them."""
    vocabulary = ctx.vocabulary
    if kind == "families":
        levels = np.asarray(ctx.data.levels[rows]) > 0
        return _of(vocabulary.families, vocabulary.families, [0] * len(vocabulary.families), levels)
    pairs = [(family, rung) for family in vocabulary.families for rung in vocabulary.rungs(family)]
    labels = [family if vocabulary.is_main_only(family) else f"{family}_{rung}" for family, rung in pairs]
    names, steps = [family for family, _ in pairs], [rung for _, rung in pairs]
    if kind == "tokens":
        matrix = ctx.data.token_matrix(np.asarray(rows, dtype=np.intp))
        order = [vocabulary.token_id[label] for label in labels]
        return UnitColumns(tuple(labels), tuple(names), tuple(steps), matrix[:, order].tocsr())
    levels = np.asarray(ctx.data.levels[rows])
    position = np.full((len(vocabulary.families), 256), -1, dtype=np.int64)
    for index, (family, rung) in enumerate(pairs):
        position[vocabulary.family_index[family], rung] = index
    row, column = np.nonzero(levels)
    return UnitColumns(
        tuple(labels),
        tuple(names),
        tuple(steps),
        _csr(row, position[column, levels[row, column]], (len(levels), len(pairs))),
    )


def _of(labels: Sequence[str], families: Sequence[str], levels: Sequence[int], held: NDArray[np.bool_]) -> UnitColumns:
    row, column = np.nonzero(held)
    return UnitColumns(tuple(labels), tuple(families), tuple(levels), _csr(row, column, held.shape))


def _csr(row: Rows, column: Rows, shape: tuple[int, ...]) -> sparse.csr_matrix:
    from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

    return sparse.csr_matrix((np.ones(len(row)), (row, column)), shape=(shape[0], shape[1]))
