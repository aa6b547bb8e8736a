"""Interactions of binary columns in the data: OLS on two columns and their product within groups, for many pairs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...stats.groups import FEW, MIN_CLUSTERS, MIN_N, exchangeable, sum_by
from ...stats.regression import cluster_correction
from ...stats.tails import t_quantile, t_two_sided

if TYPE_CHECKING:
    from scipy import sparse

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
_SEEN = 1e-9


@dataclass(frozen=True)
class PairEffects:
    """Regressions of P pairs.

    Attributes:
        coefficient: [P, 3], the effects of the first column, of the second, and of their product: the interaction.
        std_error: [P], cluster-robust, of the interaction; NaN where a cell has fewer than 20 examples or 10 clusters.
        df: degrees of freedom of t.
    """

    coefficient: Floats
    std_error: Floats
    df: int

    def p_value(self) -> Floats:
        """Two-sided p that each interaction is 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return t_two_sided(self.coefficient[:, 2] / self.std_error, self.df)

    def interval(self, level: float = 0.95) -> tuple[Floats, Floats]:
        """Student's t interval of each interaction."""
        half = t_quantile(0.5 + level / 2, self.df) * self.std_error
        return self.coefficient[:, 2] - half, self.coefficient[:, 2] + half


@dataclass(frozen=True)
class PairDesign:
    """Pairs of binary columns with fixed effects of a group, taken apart once for any number of outcomes.

    Rows are ordered by cluster. Only the k columns and the P products are kept, all sparse.

    Attributes:
        order: [n], row of the input at each place.
        held: bool [k, n].
        columns: CSC [n, k] of 0 and 1.
        both: CSC [n, P], the products.
        first, second: [P], the columns of each pair.
        group: int [n], 0 .. n_groups - 1.
        starts: where each cluster begins.
        rate: [n_groups, k], share of each group's examples with the column.
        rate_both: [n_groups, P].
        sizes: [n_groups], examples.
        inverse: [P, 3, 3], inverse of the Gram matrix within groups; NaN where the data cannot tell.
        cells: [P, 4], examples with neither, the first alone, the second alone, both.
    """

    order: Ints
    held: NDArray[np.bool_]
    columns: sparse.csc_matrix
    both: sparse.csc_matrix
    first: Ints
    second: Ints
    group: Ints
    starts: Ints
    rate: Floats
    rate_both: Floats
    sizes: Ints
    inverse: Floats
    cells: Ints

    @classmethod
    def of(cls, columns: sparse.csr_matrix, first: Ints, second: Ints, group: Ints, cluster: Ints) -> PairDesign:
        """Prepare the pairs; group and cluster [n] may be any integers."""
        order = np.argsort(cluster, kind="stable")
        columns = columns[order].tocsr()
        group = np.unique(group[order], return_inverse=True)[1]
        starts = np.flatnonzero(np.r_[True, np.diff(cluster[order]) != 0])
        sizes = np.bincount(group)
        both = _products(columns, first, second)
        counts, counts_both = _by_group(columns, group, len(sizes)), _by_group(both, group, len(sizes))
        rate, rate_both = counts / sizes[:, None], counts_both / sizes[:, None]
        n_columns, n_both = counts.sum(axis=0), counts_both.sum(axis=0)
        gram = np.empty((len(first), 3, 3))
        parts = [(counts[:, first], rate[:, first]), (counts[:, second], rate[:, second]), (counts_both, rate_both)]
        shared = [[n_columns[first], n_both, n_both], [n_both, n_columns[second], n_both], [n_both, n_both, n_both]]
        for i, (count, _) in enumerate(parts):
            for j, (_, share) in enumerate(parts):
                gram[:, i, j] = shared[i][j] - (count * share).sum(axis=0)
        alone = [n_columns[first] - n_both, n_columns[second] - n_both]
        cells = np.stack([columns.shape[0] - sum(alone) - n_both, *alone, n_both], axis=1).round().astype(np.int64)
        held = np.zeros(columns.shape[::-1], dtype=np.bool_)
        held[columns.indices, np.repeat(np.arange(columns.shape[0]), np.diff(columns.indptr))] = True
        return cls(
            order,
            held,
            columns.tocsc(),
            both,
            first,
            second,
            group,
            starts,
            rate,
            rate_both,
            sizes,
            _inverse(gram),
            cells,
        )

    def coefficients(self, values: Floats) -> Floats:
        """Coefficients of each pair for each outcome: values [n] give [P, 3], values [n, r] give [P, 3, r]."""
        outcome = np.asarray(values, dtype=np.float64).reshape(len(values), -1)[self.order]
        total = _by_group_dense(outcome, self.group, len(self.sizes))
        products = self.columns.T @ outcome - self.rate.T @ total
        products_both = self.both.T @ outcome - self.rate_both.T @ total
        right = np.stack([products[self.first], products[self.second], products_both], axis=1)
        return (self.inverse @ right).reshape((len(self.first), 3, *values.shape[1:]))

    def interactions(self, values: Floats) -> Floats:
        """The interactions alone, of outcomes [n, r]: [P, r]."""
        return self.coefficients(values)[:, 2]

    @cached_property
    def enough(self) -> NDArray[np.bool_]:
        """Pairs with 20 examples in 10 clusters in every cell, and an interaction the data can tell."""
        cells = (self.cells >= MIN_N).all(axis=1) & np.isfinite(self.inverse[:, 2, 2])
        widest = int(np.diff(np.r_[self.starts, len(self.group)]).max())
        # A cell of ten times the largest cluster cannot be in fewer than ten.
        close = np.flatnonzero(cells & (self.cells.min(axis=1) < MIN_CLUSTERS * widest))
        for pair in close.tolist():
            cells[pair] = self._clusters(pair).min() >= MIN_CLUSTERS
        return cells

    def _cell(self, pair: int) -> Ints:
        """Cell of each row: 0 neither, 1 the first alone, 2 the second alone, 3 both."""
        return self.held[self.first[pair]] + 2 * self.held[self.second[pair]].astype(np.int64)

    def _clusters(self, pair: int) -> Ints:
        """Clusters with an example in each cell, [4]."""
        cell = self._cell(pair)
        return np.array([np.logical_or.reduceat(cell == each, self.starts).sum() for each in range(4)])

    def effects(self, value: Floats) -> PairEffects:
        """Effects on one outcome [n] with their errors.

        Equal to OLS of the outcome on both columns, their product and a dummy for each group, errors clustered as
        statsmodels does, where each cell but the empty one has 30 active examples; below, no variance is smaller than
        if residuals had one variance and one correlation within clusters.
        """
        y = np.asarray(value, dtype=np.float64)[self.order]
        active = y > 0
        y = y - (sum_by(self.group, y, len(self.sizes)) / self.sizes)[self.group]
        coefficient = self.coefficients(np.asarray(value, dtype=np.float64))
        parameters = len(self.sizes) + 3
        cluster = np.repeat(np.arange(len(self.starts)), np.diff(np.r_[self.starts, len(y)]))
        spread, correlation = exchangeable(y, cluster, parameters)
        support = self._support(active)
        factor = cluster_correction(len(y), len(self.starts), parameters)
        variance = np.full(len(self.first), np.nan)
        for pair in np.flatnonzero(self.enough).tolist():
            weight, fitted = self._tables(pair, self.inverse[pair, 2]), self._tables(pair, coefficient[pair])
            where = self.group + len(self.sizes) * self._cell(pair)
            influence = weight[where]
            score = np.add.reduceat(influence * (y - fitted[where]), self.starts)
            variance[pair] = factor * float(score @ score)
            if support[pair] < FEW:
                shared = np.add.reduceat(influence, self.starts)
                pooled = (1.0 - correlation) * self.inverse[pair, 2, 2] + correlation * float(shared @ shared)
                variance[pair] = max(variance[pair], spread * pooled)
        return PairEffects(coefficient, np.sqrt(variance), max(len(self.starts) - 1, 1))

    def _tables(self, pair: int, weight: Floats) -> Floats:
        """weight . x~ by cell and group, flat [4 * n_groups]: what an example adds depends on nothing else."""
        first, second, product = weight
        level = np.array([0.0, first, second, first + second + product])
        mean = first * self.rate[:, self.first[pair]] + second * self.rate[:, self.second[pair]]
        return (level[:, None] - mean - product * self.rate_both[:, pair]).ravel()

    def _support(self, active: NDArray[np.bool_]) -> Floats:
        """Active examples in the scarcest of the three cells that hold a column, [P]."""
        weight = active.astype(np.float64)
        single, both = self.columns.T @ weight, self.both.T @ weight
        return np.minimum.reduce([single[self.first] - both, single[self.second] - both, both])


def _inverse(gram: Floats) -> Floats:
    """Inverse of each [3, 3] matrix; NaN where it has none."""
    low = np.linalg.eigvalsh(gram)[:, 0]
    known = low > _SEEN * np.maximum(np.trace(gram, axis1=1, axis2=2), 1.0)
    found = np.full_like(gram, np.nan)
    found[known] = np.linalg.inv(gram[known])
    return found


def _products(columns: sparse.csr_matrix, first: Ints, second: Ints) -> sparse.csc_matrix:
    """CSC [n, P]: rows that hold both columns of each pair."""
    from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

    columns.sort_indices()
    pair = np.full((columns.shape[1], columns.shape[1]), -1, dtype=np.int64)
    pair[first, second] = pair[second, first] = np.arange(len(first))
    column, row = columns.indices, np.repeat(np.arange(columns.shape[0]), np.diff(columns.indptr))
    rows: list[Ints] = []
    found: list[Ints] = []
    for step in range(1, int(np.diff(columns.indptr).max(initial=1))):
        index = pair[column[:-step], column[step:]]
        known = (row[:-step] == row[step:]) & (index >= 0)
        rows.append(row[:-step][known])
        found.append(index[known])
    at, which = np.concatenate([*rows, row[:0]]), np.concatenate([*found, row[:0]])
    return sparse.csc_matrix((np.ones(len(at)), (at, which)), shape=(columns.shape[0], len(first)))


def _by_group(columns: Any, group: Ints, n_groups: int) -> Floats:  # noqa: ANN401 - any scipy.sparse matrix
    """Examples of each group with each column, [n_groups, k]."""
    entries = columns.tocoo()
    flat = group[entries.row] * columns.shape[1] + entries.col
    return np.bincount(flat, minlength=n_groups * columns.shape[1]).reshape(n_groups, -1).astype(np.float64)


def _by_group_dense(outcome: Floats, group: Ints, n_groups: int) -> Floats:
    """Sum of each outcome [n, r] over each group, [n_groups, r]."""
    from scipy import sparse  # noqa: PLC0415

    n = len(group)
    return sparse.csr_matrix((np.ones(n), (group, np.arange(n))), shape=(n_groups, n)) @ outcome
