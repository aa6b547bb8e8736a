"""Effects of cells that exclude one another, with the group held fixed and errors robust to clusters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...stats.groups import exchangeable, gram_matrix, sum_by
from ...stats.regression import ClusteredFit, cluster_correction

if TYPE_CHECKING:
    from scipy import sparse

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
_RCOND = 1e-9
_ESTIMABLE = 1e-6


@dataclass(frozen=True)
class CellDesign:
    """Dummies of the cells 1 .. k against cell 0, with fixed effects of a group, taken apart once for any outcome.

    What `regression.within_groups` computes on dense dummies, for a hundred cells: every sum is over the example's one
    cell, one group and one cluster.

    Attributes:
        cell: int [n], 0 .. k.
        group: int [n], 0 .. n_groups - 1.
        cluster: int [n], 0 .. n_clusters - 1.
        rate: [n_groups, k], share of each group's examples in each cell.
        counts: [n_groups], examples.
        gram: [k, k], of the dummies within groups.
        inverse: its pseudo-inverse.
        known: bool [k], cells whose effect the data determine.
    """

    cell: Ints
    group: Ints
    cluster: Ints
    rate: Floats
    counts: Ints
    gram: Floats
    inverse: Floats
    known: NDArray[np.bool_]

    @classmethod
    def of(cls, cell: Ints, n_cells: int, group: Ints, cluster: Ints) -> CellDesign:
        """Prepare the cells 0 .. n_cells - 1; group and cluster [n] may be any integers."""
        group = np.unique(group, return_inverse=True)[1]
        cluster = np.unique(cluster, return_inverse=True)[1]
        counts = np.bincount(group)
        held = np.bincount(group * n_cells + cell, minlength=len(counts) * n_cells).reshape(-1, n_cells)[:, 1:]
        rate = held / counts[:, None]
        gram = np.diag(held.sum(axis=0).astype(np.float64)) - rate.T @ held
        inverse = np.linalg.pinv(gram, rcond=_RCOND, hermitian=True)
        known = np.abs(inverse @ gram - np.eye(len(gram))).max(axis=1, initial=0.0) < _ESTIMABLE
        return cls(cell, group, cluster, rate, counts, gram, inverse, known)

    def coefficients(self, values: Floats) -> Floats:
        """Effect of each cell on each outcome: values [n] give [k], values [n, r] give [k, r]; NaN where unknown."""
        solution = self._solve(values.reshape(len(values), -1))
        return np.where(self.known[:, None], solution, np.nan).reshape((len(self.known), *values.shape[1:]))

    def _solve(self, outcome: Floats) -> Floats:
        """Least-squares solution of least norm for outcomes [n, r], [k, r]."""
        by_cell = _indicator(self.cell, len(self.known) + 1, outcome.dtype) @ outcome
        by_group = _indicator(self.group, len(self.counts), outcome.dtype) @ outcome
        return self.inverse @ (by_cell[1:] - self.rate.T @ by_group)

    def fit(self, value: Floats) -> ClusteredFit:
        """Effects on one outcome [n] with their covariance; equal to OLS with a dummy for each cell and group."""
        value = np.asarray(value, dtype=np.float64)
        n, n_clusters = len(value), int(self.cluster.max()) + 1
        solution = self._solve(value[:, None])[:, 0]
        y = value - np.r_[0.0, solution][self.cell]
        residual = y - (sum_by(self.group, y, len(self.counts)) / self.counts)[self.group]
        n_parameters = round(float(np.trace(self.inverse @ self.gram))) + len(self.counts)
        meat = self._cluster_gram(residual, n_clusters)
        covariance = cluster_correction(n, n_clusters, n_parameters) * self.inverse @ meat @ self.inverse
        variance, correlation = exchangeable(residual, self.cluster, n_parameters)
        shared = (1.0 - correlation) * self.gram + correlation * self._cluster_gram(np.ones(n), n_clusters)
        beta = np.where(self.known, solution, np.nan)
        return ClusteredFit(beta, covariance, variance * np.diag(self.inverse @ shared @ self.inverse), n_clusters)

    def _cluster_gram(self, weight: Floats, n_clusters: int) -> Floats:
        """Sum over clusters of s s', where s [k] sums weight times the dummies within groups over the cluster.

        A dummy within groups is 1[i in the cell] minus the cell's rate in the group of i.
        """
        k = len(self.known)
        cells = _sums(self.cluster, self.cell, weight, (n_clusters, k + 1))[:, 1:]
        groups = _sums(self.cluster, self.group, weight, (n_clusters, len(self.counts)))
        cross = np.asarray((cells.T @ groups) @ self.rate, dtype=np.float64)
        return gram_matrix(cells) - cross - cross.T + self.rate.T @ ((groups.T @ groups) @ self.rate)


def _indicator(label: Ints, n_labels: int, dtype: np.dtype[Any]) -> sparse.csr_matrix:
    """Which examples have each label, CSR [n_labels, n]."""
    from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

    n = len(label)
    return sparse.csr_matrix((np.ones(n, dtype=dtype), (label, np.arange(n))), shape=(n_labels, n))


def _sums(rows: Ints, columns: Ints, values: Floats, shape: tuple[int, int]) -> sparse.csr_matrix:
    """Sparse matrix of the sums of values at (row, column)."""
    from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

    return sparse.csr_matrix((values, (rows, columns)), shape=shape)
