"""Effects of many binary columns, one at a time, with the group held fixed and errors robust to clusters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .groups import FEW, MIN_CLUSTERS, exchangeable, sum_by
from .regression import cluster_correction
from .tails import t_quantile, t_two_sided

if TYPE_CHECKING:
    from scipy import sparse

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
_SEEN = 1e-9


@dataclass(frozen=True)
class PresenceEffects:
    """What goes with the presence of each of k columns; every array is [k].

    Attributes:
        coefficient: mean with minus mean without, within groups; NaN where no group has both.
        std_error: cluster-robust; NaN with fewer than 10 clusters on either side.
        n_present: examples with the column.
        n_clusters: clusters with such an example.
        df: degrees of freedom of t.
    """

    coefficient: Floats
    std_error: Floats
    n_present: Ints
    n_clusters: Ints
    df: int

    @property
    def statistic(self) -> Floats:
        """t of each column; NaN where unknown."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.coefficient / self.std_error

    def p_value(self) -> Floats:
        """Two-sided p that each effect is 0."""
        return t_two_sided(self.statistic, self.df)

    def interval(self, level: float = 0.95) -> tuple[Floats, Floats]:
        """Student's t interval of each effect."""
        half = t_quantile(0.5 + level / 2, self.df) * self.std_error
        return self.coefficient - half, self.coefficient + half


@dataclass(frozen=True)
class _Cells:
    """The (column, cluster) cells in which a column is present; what does not depend on the outcome.

    Attributes:
        row: [nnz], example of each entry.
        column: [nnz], column of each entry.
        slope: [nnz], 1 - 2 rate of the entry's group.
        cell: [nnz], cell of each entry.
        cell_column: [n_cells].
        cell_cluster: [n_cells].
        rate: [n_cells], rate of the cell's column in its cluster's group.
        held: [n_cells], entries in the cell.
    """

    row: Ints
    column: Ints
    slope: Floats
    cell: Ints
    cell_column: Ints
    cell_cluster: Ints
    rate: Floats
    held: Ints


@dataclass(frozen=True)
class PresenceDesign:
    """Binary columns with fixed effects of a group, taken apart once for any number of outcomes.

    Attributes:
        columns: CSR [n, k] of 0 and 1.
        group: int [n], 0 .. n_groups - 1.
        cluster: int [n], 0 .. n_clusters - 1.
        rate: [n_groups, k], share of each group's examples with the column.
        counts: [n_groups], examples.
        within: [k], sum of squares of the columns within groups; NaN where no group varies.
    """

    columns: sparse.csr_matrix
    group: Ints
    cluster: Ints
    rate: Floats
    counts: Ints
    within: Floats

    @classmethod
    def of(cls, columns: sparse.csr_matrix, group: Ints, cluster: Ints) -> PresenceDesign:
        """Prepare the columns; group and cluster [n] may be any integers."""
        group = np.unique(group, return_inverse=True)[1]
        cluster = np.unique(cluster, return_inverse=True)[1]
        counts = np.bincount(group)
        held = np.asarray((_indicator(group, len(counts)).T @ columns).toarray(), dtype=np.float64)
        rate = held / counts[:, None]
        within = held.sum(axis=0) - (rate * held).sum(axis=0)
        return cls(columns, group, cluster, rate, counts, np.where(within > _SEEN, within, np.nan))

    def coefficients(self, values: Floats) -> Floats:
        """Effect of each column on each outcome: values [n] give [k], values [n, r] give [k, r]."""
        outcome = values.reshape(len(values), -1)
        total = _indicator(self.group, len(self.counts)).T @ outcome
        product = self.columns.T @ outcome - self.rate.T @ total
        return (product / self.within[:, None]).reshape((len(self.within), *values.shape[1:]))

    def effects(self, value: Floats) -> PresenceEffects:
        """Effects on one outcome [n] with their errors.

        Equal to OLS of the outcome on one column and a dummy for each group, errors clustered as statsmodels does,
        where a column has 30 active examples and clusters; below, no variance is smaller than if residuals had one
        variance and one correlation within clusters.
        """
        value = np.asarray(value, dtype=np.float64)
        n, n_clusters = len(value), len(self._sizes)
        y = value - (sum_by(self.group, value, len(self.counts)) / self.counts)[self.group]
        beta = self.coefficients(value)
        meat = self._score_squares(y, np.nan_to_num(beta))
        variance = cluster_correction(n, n_clusters, len(self.counts) + 1) * meat / self.within**2
        active = np.asarray(self.columns.T @ (value > 0).astype(np.float64), dtype=np.int64)
        clusters, without = self._clusters
        spread, correlation = exchangeable(y, self.cluster, len(self.counts))
        shared = (1.0 - correlation) * self.within + correlation * self._summed_squares
        few = np.minimum(active, clusters) < FEW
        variance = np.where(few, np.maximum(variance, spread * shared / self.within**2), variance)
        enough = (clusters >= MIN_CLUSTERS) & (without >= MIN_CLUSTERS)
        error = np.where(enough, np.sqrt(np.maximum(variance, 0.0)), np.nan)
        n_present = np.asarray(self.columns.sum(axis=0), dtype=np.int64).ravel()
        return PresenceEffects(beta, error, n_present, clusters, max(n_clusters - 1, 1))

    @cached_property
    def _sizes(self) -> Ints:
        """Examples of each cluster."""
        return np.bincount(self.cluster)

    @cached_property
    def _home(self) -> Ints:
        """Group of each cluster that lies within one."""
        home = np.zeros(len(self._sizes), dtype=np.int64)
        home[self.cluster] = self.group
        return home

    @cached_property
    def _spans(self) -> bool:
        """Whether a cluster has examples of several groups (never so for builds and weapons)."""
        return bool(np.any(self._home[self.cluster] != self.group))

    @cached_property
    def _cells(self) -> _Cells:
        present, n_clusters = self.columns.tocoo(), len(self._sizes)
        row, column = present.row, present.col.astype(np.int64)
        key, cell = np.unique(column * n_clusters + self.cluster[row], return_inverse=True)
        cell_column, cell_cluster = key // n_clusters, key % n_clusters
        rate = self.rate[self._home[cell_cluster], cell_column]
        return _Cells(row, column, 1.0 - 2.0 * rate[cell], cell, cell_column, cell_cluster, rate, np.bincount(cell))

    @cached_property
    def _clusters(self) -> tuple[Ints, Ints]:
        """Clusters with an example that has each column, and with one that does not, [k] each."""
        cells, k = self._cells, len(self.within)
        full = cells.held >= self._sizes[cells.cell_cluster]
        with_it = np.bincount(cells.cell_column, minlength=k)
        return with_it, len(self._sizes) - np.bincount(cells.cell_column[full], minlength=k)

    @cached_property
    def _summed_squares(self) -> Floats:
        """Sum over clusters of the squared sums of the columns within groups, [k]."""
        return self._score_squares(np.ones(len(self.group)), np.zeros(len(self.within)))

    def _score_squares(self, y: Floats, beta: Floats) -> Floats:
        """Sum over clusters of squared summed scores x~ (y - beta x~), [k], where x~ = x - rate of the group.

        The score of an example is -rate y - beta rate^2, and where the column is present y - beta (1 - 2 rate) more:
        the second part is summed over the cells where it is, the first follows from the clusters' sums of y.
        """
        if self._spans:
            return self._score_squares_spanning(y, beta)
        cells, k, n_groups = self._cells, len(beta), len(self.counts)
        more = sum_by(cells.cell, y[cells.row] - beta[cells.column] * cells.slope, len(cells.held))
        sums, sizes = sum_by(self.cluster, y, len(self._sizes)), self._sizes.astype(np.float64)
        slope = beta[cells.cell_column] * cells.rate**2
        rest = -cells.rate * sums[cells.cell_cluster] - slope * sizes[cells.cell_cluster]
        total = sum_by(cells.cell_column, more * (more + 2.0 * rest), k)
        squares, products, counts = (sum_by(self._home, each, n_groups) for each in (sums**2, sums * sizes, sizes**2))
        rate = self.rate
        return total + squares @ rate**2 + 2.0 * beta * (products @ rate**3) + beta**2 * (counts @ rate**4)

    def _score_squares_spanning(self, y: Floats, beta: Floats) -> Floats:
        """The same where clusters span groups: the first part of a score is summed by (cluster, group)."""
        cells, n_clusters = self._cells, len(self._sizes)
        entry_rate = self.rate[self.group[cells.row], cells.column]
        more = y[cells.row] - beta[cells.column] * (1.0 - 2.0 * entry_rate)
        present = _grouped(cells.cell_cluster[cells.cell], cells.column, more, (n_clusters, len(beta)))
        shape = (n_clusters, len(self.counts))
        sums = [_grouped(self.cluster, self.group, each, shape) for each in (y, np.ones(len(y)))]
        weights = [-self.rate, -beta * self.rate**2]
        total = np.asarray(present.power(2).sum(axis=0), dtype=np.float64).ravel()
        for left, weight in zip(sums, weights, strict=True):
            total += 2.0 * (np.asarray((left.T @ present).toarray()) * weight).sum(axis=0)
            for right, other in zip(sums, weights, strict=True):
                total += (weight * ((left.T @ right) @ other)).sum(axis=0)
        return total


def presence_means(value: Floats, columns: sparse.csr_matrix) -> tuple[Floats, Floats]:
    """Mean with and mean without each column, [k] each; NaN where there is no such example."""
    n = np.asarray(columns.sum(axis=0), dtype=np.float64).ravel()
    value = np.asarray(value, dtype=np.float64)
    total = np.asarray(columns.T @ value, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return total / n, (value.sum() - total) / (len(value) - n)


def _indicator(group: Ints, n_groups: int) -> sparse.csr_matrix:
    n = len(group)
    return _grouped(np.arange(n), group, np.ones(n), (n, n_groups))


def _grouped(rows: Ints, columns: Ints, values: Floats, shape: tuple[int, int]) -> sparse.csr_matrix:
    """Sparse matrix of the sums of values at (row, column)."""
    from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

    matrix = sparse.csr_matrix((values, (rows, columns)), shape=shape)
    matrix.sum_duplicates()
    return matrix
