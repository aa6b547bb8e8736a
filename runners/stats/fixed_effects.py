"""Effects of levels that exclude one another, with a group held fixed and errors robust to clusters.

Least squares on a dummy for each level and each group, without its columns (Frisch and Waugh 1933): every sum is over
an example's one level, one group and one cluster, so a hundred levels cost no more than the cells that hold examples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .cells import Cells, CellSums
from .groups import exchangeable_sums
from .regression import ClusteredFit, cluster_correction

if TYPE_CHECKING:
    from scipy import sparse

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Scalar = TypeVar("Scalar", bound=np.generic)
_RCOND = 1e-9
_ESTIMABLE = 1e-6


@dataclass(frozen=True)
class LevelDesign:
    """Dummies of the levels 1 .. k against level 0 within groups, taken apart once for any outcome.

    Attributes:
        counts: [n_groups], examples.
        rate: [n_groups, k], share of each group's examples at each level.
        gram: [k, k], of the dummies within groups.
        inverse: its pseudo-inverse.
        known: bool [k], levels whose effect the data determine.
    """

    counts: Floats
    rate: Floats
    gram: Floats
    inverse: Floats
    known: NDArray[np.bool_]

    @classmethod
    def of(cls, counts: Floats | Ints) -> LevelDesign:
        """From how many examples each group has at each level, [n_groups, k + 1]."""
        held, size = counts[:, 1:].astype(np.float64), counts.sum(axis=1).astype(np.float64)
        rate = held / np.maximum(size, 1.0)[:, None]
        gram = np.diag(held.sum(axis=0)) - rate.T @ held
        inverse = np.linalg.pinv(gram, rcond=_RCOND, hermitian=True)
        known = np.abs(inverse @ gram - np.eye(len(gram))).max(axis=1, initial=0.0) < _ESTIMABLE
        return cls(size, rate, gram, inverse, known)

    @property
    def n_parameters(self) -> int:
        """Rank of the dummies, those of the groups included."""
        return round(float(np.trace(self.inverse @ self.gram))) + int((self.counts > 0).sum())

    def effects(self, table: Floats) -> Floats:
        """Effect of each level, [k], from sums of the outcome by group and level; NaN where unknown."""
        return np.where(self.known, self.solve(table), np.nan)

    def solve(self, table: Floats) -> Floats:
        """Least-squares solution of least norm, [k], from sums of the outcome by group and level."""
        return self.inverse @ (table.sum(axis=0)[1:] - self.rate.T @ table.sum(axis=1))

    def coefficients(self, level: Ints, group: Ints, outcomes: Floats) -> Floats:
        """Effects on outcomes [n, r] of examples at levels [n] in groups [n]: [k, r]; NaN where unknown."""
        by_level = _indicator(level, len(self.known) + 1, outcomes.dtype) @ outcomes
        by_group = _indicator(group, len(self.counts), outcomes.dtype) @ outcomes
        return np.where(self.known[:, None], self.inverse @ (by_level[1:] - self.rate.T @ by_group), np.nan)


def _indicator(label: Ints, n_labels: int, dtype: np.dtype[Any]) -> sparse.csr_matrix:
    """Which examples have each label, CSR [n_labels, n]."""
    from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

    n = len(label)
    return sparse.csr_matrix((np.ones(n, dtype=dtype), (label, np.arange(n))), shape=(n_labels, n))


@dataclass(frozen=True)
class FixedEffects:
    """A `LevelDesign` with the clusters of its examples, each within one group: effects with their errors.

    Attributes:
        cells: cells of (group, level) by cluster, the pair labelled group x (k + 1) + level.
        levels: the same cells by level alone.
        group: int [n_clusters], the group of each cluster.
        design: the dummies.
        clustered: [k, k], sum over clusters of s s', where s sums the dummies within groups over the cluster.
    """

    cells: Cells
    levels: Cells
    group: Ints
    design: LevelDesign
    clustered: Floats

    @classmethod
    def of(cls, cells: Cells, n_levels: int) -> FixedEffects:
        """Prepare cells of labels group x n_levels + level.

        Raises:
            ValueError: a cluster has examples in two groups.
        """
        label = np.arange(cells.n_groups)
        of_label = (label // n_levels).astype(cells.group.dtype)
        group = of_label[cells.group[cells.starts[:-1]]]
        if not np.array_equal(group[cells.cluster], of_label[cells.group]):
            raise ValueError("clusters must lie within groups: a cluster has examples in two of them")
        levels = replace(cells, group=(label % n_levels).astype(cells.group.dtype)[cells.group], n_groups=n_levels)
        design = LevelDesign.of(cells.group_sizes.reshape(-1, n_levels))
        sizes, by_cluster = cells.size.astype(np.float64), cells.cluster_sizes.astype(np.float64)
        clustered = _scores_gram(cells, levels, group, design, sizes, by_cluster=by_cluster)
        return cls(cells, levels, group, design, clustered)

    def coefficients(self, total: Floats) -> Floats:
        """Effects alone, [k], on an outcome summed over the cells, [c]; NaN where unknown."""
        return self.design.effects(self._by_label(self.cells.by_group(total)))

    def fit(self, sums: CellSums) -> ClusteredFit:
        """Effects on an outcome summed over the cells; equal to OLS with a dummy for each level and group."""
        cells, design, inverse = self.cells, self.design, self.design.inverse
        table, sizes = self._by_label(sums.by_group(sums.total)), self._by_label(cells.group_sizes)
        solution = design.solve(table)
        fitted = self._fitted(table, sizes, solution)
        residual = sums.residual(fitted.ravel()[cells.group])
        squares = float(sums.squares.sum() - 2.0 * (fitted * table).sum() + (fitted**2 * sizes).sum())
        n_parameters = design.n_parameters
        by_cluster = cells.by_cluster(residual)
        scale = cluster_correction(int(sizes.sum()), cells.n_clusters, n_parameters)
        meat = _scores_gram(cells, self.levels, self.group, design, residual, by_cluster=by_cluster)
        variance, correlation = exchangeable_sums(max(squares, 0.0), by_cluster, cells.cluster_sizes, n_parameters)
        shared = (1.0 - correlation) * design.gram + correlation * self.clustered
        return ClusteredFit(
            coefficient=np.where(design.known, solution, np.nan),
            covariance=scale * inverse @ meat @ inverse,
            pooled=variance * np.diag(inverse @ shared @ inverse),
            n_clusters=cells.n_clusters,
        )

    def _by_label(self, value: NDArray[Scalar]) -> NDArray[Scalar]:
        """Values of the labels as a table of groups by levels, [n_groups, k + 1]."""
        return value.reshape(len(self.design.counts), -1)

    def _fitted(self, table: Floats, sizes: Ints, solution: Floats) -> Floats:
        """What is fitted to each group and level, [n_groups, k + 1]."""
        shift = np.concatenate([[0.0], solution])
        group_effect = (table.sum(axis=1) - sizes @ shift) / np.maximum(self.design.counts, 1.0)
        return group_effect[:, None] + shift


def _scores_gram(
    cells: Cells, levels: Cells, group: Ints, design: LevelDesign, weight: Floats, *, by_cluster: Floats
) -> Floats:
    """Sum over clusters of s s', where s [k] sums weight [c] times the dummies within groups over the cluster's cells.

    A dummy within groups is 1 at its level minus the level's rate in the group, so s is what the cluster has at each
    level minus all it has, ``by_cluster``, times the rates of its group.
    """
    with_cluster = by_cluster[cells.cluster]
    with_cluster *= weight
    crossed = cells.by_group(with_cluster).reshape(len(design.counts), -1)[:, 1:]
    cross = crossed.T @ design.rate
    squares = np.bincount(group, by_cluster**2, len(design.counts))
    return levels.gram(weight)[1:, 1:] - cross - cross.T + design.rate.T @ (squares[:, None] * design.rate)
