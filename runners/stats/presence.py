"""Effects of many binary columns, one at a time, with the group held fixed and errors robust to clusters."""

from __future__ import annotations

from dataclasses import dataclass
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
class PresenceDesign:
    """Binary columns with fixed effects of a group, taken apart once for any number of outcomes.

    Attributes:
        columns: CSR [n, k] of 0 and 1.
        group: int [n], 0 .. n_groups - 1.
        cluster: int [n], 0 .. n_clusters - 1.
        rate: [n_groups, k], share of each group's examples with the column.
        counts: [n_groups], examples.
        within: [k], sum of squares of the columns within groups.
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
        n, n_clusters = len(value), int(self.cluster.max()) + 1
        y = value - (sum_by(self.group, value, len(self.counts)) / self.counts)[self.group]
        beta = self.coefficients(value)
        parameters = len(self.counts) + 1
        known = np.nan_to_num(beta)
        meat = self._score_squares(y, known, n_clusters)
        factor = cluster_correction(n, n_clusters, parameters)
        variance = factor * meat / self.within**2
        active, clusters = self._support(value, n_clusters)
        spread, correlation = exchangeable(y, self.cluster, len(self.counts))
        shared = (1.0 - correlation) * self.within + correlation * self._score_squares(
            np.ones(n), np.zeros_like(beta), n_clusters
        )
        few = np.minimum(active, clusters) < FEW
        variance = np.where(few, np.maximum(variance, spread * shared / self.within**2), variance)
        n_present = np.asarray(self.columns.sum(axis=0), dtype=np.int64).ravel()
        enough = (clusters >= MIN_CLUSTERS) & (self._clusters_without(n_clusters) >= MIN_CLUSTERS)
        error = np.where(enough, np.sqrt(np.maximum(variance, 0.0)), np.nan)
        return PresenceEffects(beta, error, n_present, clusters, max(n_clusters - 1, 1))

    def _score_squares(self, y: Floats, beta: Floats, n_clusters: int) -> Floats:
        """Sum over clusters of squared summed scores x~ (y - beta x~), [k], where x~ = x - rate of the group.

        A score is, for every example, -rate y - beta rate^2, and where the column is present y - beta (1 - 2 rate)
        more: the sparse part is summed by cluster, the rest through sums by (cluster, group).
        """
        present = self.columns.tocoo()
        more = y[present.row] - beta[present.col] * (1.0 - 2.0 * self.rate[self.group[present.row], present.col])
        sparse_part = _grouped(self.cluster[present.row], present.col, more, (n_clusters, len(beta)))
        shape = (n_clusters, len(self.counts))
        sums = [_grouped(self.cluster, self.group, each, shape) for each in (y, np.ones(len(y)))]
        weights = [-self.rate, -beta * self.rate**2]
        total = np.asarray(sparse_part.power(2).sum(axis=0), dtype=np.float64).ravel()
        for left, weight in zip(sums, weights, strict=True):
            total += 2.0 * (np.asarray((left.T @ sparse_part).toarray()) * weight).sum(axis=0)
            for right, other in zip(sums, weights, strict=True):
                total += (weight * ((left.T @ right) @ other)).sum(axis=0)
        return total

    def _support(self, value: Floats, n_clusters: int) -> tuple[Ints, Ints]:
        """Active examples with each column, and clusters with one."""
        active = np.asarray(self.columns.T @ (value > 0).astype(np.float64), dtype=np.int64)
        present = self.columns.tocoo()
        cells = np.unique(present.col.astype(np.int64) * n_clusters + self.cluster[present.row])
        return active, np.bincount(cells // n_clusters, minlength=len(self.within))

    def _clusters_without(self, n_clusters: int) -> Ints:
        """At least this many clusters have an example without each column."""
        sizes = np.bincount(self.cluster, minlength=n_clusters)
        present = self.columns.tocoo()
        held = _grouped(self.cluster[present.row], present.col, np.ones(present.nnz), (n_clusters, len(self.within)))
        held = held.tocoo()
        full = np.bincount(held.col[held.data >= sizes[held.row]], minlength=len(self.within))
        return n_clusters - full


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
