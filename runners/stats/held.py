"""Binary columns over many examples, which may be read when asked, and how many of each cell hold each of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy import sparse

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
NARROW = 64
"""Up to so many columns rows are arrays; of more an example holds few, and they are sparse."""
_BLOCK_ROWS = 1 << 16
_SPREAD = 8
_MOST = 1 << 31


class Columns(Protocol):
    """Binary columns of n examples: a CSR matrix, or what reads chosen rows from elsewhere."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Examples, and columns."""
        ...

    def __getitem__(self, rows: Any, /) -> Any:  # noqa: ANN401 - CSR matrix or array
        """Some rows [m, k] of 0 and 1: a CSR matrix or an array."""
        ...


@dataclass(frozen=True)
class _Among:
    """Some rows of columns."""

    columns: Columns
    rows: Ints

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.rows), self.columns.shape[1]

    def __getitem__(self, at: Ints | slice, /) -> Any:  # noqa: ANN401 - CSR matrix or array
        return self.columns[self.rows[at]]


def compact(ids: Ints) -> NDArray[np.int32]:
    """Number the ids [n] from 0 without gaps, in their order: the inverse of ``np.unique``."""
    ids = np.asarray(ids)
    if not len(ids) or int(ids.min()) < 0 or int(ids.max()) > _SPREAD * len(ids):
        return np.unique(ids, return_inverse=True)[1].astype(np.int32)
    seen = np.zeros(int(ids.max()) + 1, dtype=np.bool_)
    seen[ids] = True
    if seen.all():
        return ids.astype(np.int32, copy=False)
    return (np.cumsum(seen, dtype=np.int32) - 1)[ids]


def smallest(values: Ints) -> Ints:
    """The same whole numbers, none below 0, in as few bytes as they need: what is kept for long."""
    return values.astype(np.min_scalar_type(int(values.max(initial=0))))


def in_order(ids: Ints) -> Ints | None:
    """Positions that put ids [n] in rising order; None where they are so already."""
    return None if bool(np.all(ids[1:] >= ids[:-1])) else np.argsort(ids, kind="stable")


def bounds_of(sizes: Ints) -> Ints:
    """Where the items of each cell begin when they lie cell by cell, and where the last ends: [c] to [c + 1]."""
    bounds = np.zeros(len(sizes) + 1, dtype=np.int32 if int(sizes.sum()) < _MOST else np.int64)
    np.cumsum(sizes, out=bounds[1:])
    return bounds


def runs(bounds: Ints, most: int) -> Iterator[slice]:
    """Cut cells, whose items lie within bounds [c + 1], into runs of at most ``most`` items (or one cell)."""
    start = 0
    while start < len(bounds) - 1:
        stop = max(int(np.searchsorted(bounds, bounds[start] + most, side="right")) - 1, start + 1)
        yield slice(start, stop)
        start = stop


def among(columns: Columns, rows: Ints) -> Columns:
    """Some rows of the columns as columns of their own: read at once, or of many columns when asked."""
    if columns.shape[1] > NARROW:
        return _Among(columns, rows)
    parts = [columns[rows[start : start + _BLOCK_ROWS]] for start in range(0, len(rows), _BLOCK_ROWS)]
    return np.concatenate([np.zeros((0, columns.shape[1]), dtype=np.bool_), *(dense(part) > 0 for part in parts)])


def rows_of(columns: Columns, rows: Ints | slice) -> Any:  # noqa: ANN401 - CSR matrix or array
    """Some rows of the columns in float64, sparse or dense as they are."""
    return columns[rows].astype(np.float64)


def dense(values: Any) -> NDArray[Any]:  # noqa: ANN401 - CSR matrix or array
    """The same as an array."""
    return np.asarray(values.toarray() if hasattr(values, "toarray") else values)


def summed(columns: Columns, rows: Ints, weight: Floats) -> Floats:
    """Sums of the weights [m, r] of some rows by the columns they hold, [k, r]."""
    total = np.zeros((columns.shape[1], weight.shape[1]))
    for start in range(0, len(rows), _BLOCK_ROWS):
        part = slice(start, start + _BLOCK_ROWS)
        total += rows_of(columns, rows[part]).T @ weight[part]
    return total


def count_held(columns: Columns, rows: Ints) -> NDArray[np.int64]:
    """How many of some rows hold each column, [k]."""
    return np.rint(summed(columns, rows, np.ones((len(rows), 1)))[:, 0]).astype(np.int64)


def weighted_gram(columns: Columns, rows: Ints, weight: Floats) -> Floats:
    """Weight [m], none below 0, of the rows that hold two columns, summed: X' diag(w) X over some rows, [k, k]."""
    k = columns.shape[1]
    total = np.zeros((k, k))
    for start in range(0, len(rows), _BLOCK_ROWS):
        part = dense(rows_of(columns, rows[start : start + _BLOCK_ROWS]))
        part *= np.sqrt(weight[start : start + _BLOCK_ROWS, None])
        total += part.T @ part
    return total


def weighted(columns: Columns, weight: Ints) -> Ints:
    """The sum of the whole weights [k] of the columns that each example holds, [n]."""
    n = columns.shape[0]
    found = np.zeros(n, dtype=np.int64)
    for start in range(0, n, _BLOCK_ROWS):
        rows = np.arange(start, min(start + _BLOCK_ROWS, n))
        found[rows] = columns[rows].astype(np.int64) @ weight
    return found


def by_cell(bounds: Ints, weight: Floats) -> sparse.csr_matrix:
    """The matrix [c, m] that sums m weighted items over cells, whose items lie within bounds [c + 1]."""
    from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

    at = np.arange(len(weight), dtype=np.int32)
    return sparse.csr_matrix((weight, at, (bounds - bounds[0]).astype(np.int32)), shape=(len(bounds) - 1, len(weight)))


def weights_by_group(group: Ints, weight: Floats, n_groups: int) -> sparse.csc_matrix:
    """The matrix [n_groups, m] that sums m weighted items by their group [m]."""
    from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

    return sparse.csc_matrix((weight, group, np.arange(len(group) + 1)), shape=(n_groups, len(group)))


def weighted_rows(of: Ints, weight: Floats, tables: tuple[Floats, ...], bounds: Ints | None = None) -> Floats:
    """Weighted sums of rows of t tables [g, k]: each of m items adds, of every table, its row ``of`` [m].

    Args:
        of: int [m].
        weight: [m, t], what the row of each table counts.
        tables: t of one shape [g, k].
        bounds: items to be summed lie between these, [c + 1]; None keeps the items apart.

    Returns:
        [c, k], or [m, k].
    """
    from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

    (m, t), g = weight.shape, len(tables[0])
    where = of[:, None].astype(np.int32) + np.arange(0, t * g, g, dtype=np.int32)
    starts = t * (np.arange(m + 1) if bounds is None else bounds - bounds[0])
    pick = sparse.csr_matrix((weight.ravel(), where.ravel(), starts), shape=(len(starts) - 1, t * g))
    return np.asarray(pick @ np.vstack(tables))


def held_counts(columns: Columns, cell: Ints, sizes: Ints) -> Any:  # noqa: ANN401 - CSR matrix or array
    """How many examples of each cell hold each column, in the smallest integers that fit.

    Args:
        columns: [n, k].
        cell: int [n], 0 .. c - 1.
        sizes: [c], examples of each cell.

    Returns:
        [c, k]: an array, or a CSR matrix of more than 64 columns.
    """
    from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

    order, bounds, wide = in_order(cell), bounds_of(sizes), columns.shape[1] > NARROW
    kind = np.min_scalar_type(int(sizes.max(initial=0)))
    parts: list[Any] = []
    for run in runs(bounds, _BLOCK_ROWS):
        at = np.arange(int(bounds[run.start]), int(bounds[run.stop]))
        rows = at if order is None else order[at]
        held = by_cell(bounds[run.start : run.stop + 1], np.ones(len(rows))) @ rows_of(columns, rows)
        parts.append(sparse.csr_matrix(held).astype(kind) if wide else dense(held).astype(kind))
    if not parts:
        return np.zeros((0, columns.shape[1]), dtype=kind)
    return sparse.vstack(parts, format="csr") if wide else np.concatenate(parts)
