"""Effects of levels that exclude one another, with a group held fixed and errors robust to clusters.

Least squares on a dummy for each level and each group, without its columns (Frisch and Waugh 1933): every sum is over
an example's one level, one group and one cluster, so a hundred levels cost no more than the cells that hold examples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .cells import Cells, Products, sum_by
from .groups import GroupMeans, exchangeable_squares, means_from
from .moments import Moments
from .regression import ClusteredFit, cluster_correction

if TYPE_CHECKING:
    from scipy import sparse

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
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
    """A `LevelDesign` with the clusters of its examples: effects with their errors.

    Attributes:
        cells: of labels by cluster; a label is a level in a group.
        label: int [n_labels], group x (k + 1) + level of each.
        design: the dummies.
        clustered: [k, k], sum over clusters of s s', where s sums the dummies within groups over the cluster.
    """

    cells: Cells
    label: Ints
    design: LevelDesign
    clustered: Floats

    @classmethod
    def of(cls, cells: Cells, n_levels: int) -> FixedEffects:
        """Prepare cells of labels group x n_levels + level.

        Raises:
            ValueError: a cluster has examples in two groups.
        """
        label = np.arange(cells.n_groups)
        group = (label // n_levels)[cells.group]
        if bool(np.any((group[1:] != group[:-1]) & (cells.cluster[1:] == cells.cluster[:-1]))):
            raise ValueError("clusters must lie within groups: a cluster has examples in two of them")
        return cls._labelled(cells, label, n_levels)

    @classmethod
    def _labelled(cls, cells: Cells, label: Ints, n_levels: int) -> FixedEffects:
        table = np.bincount(label, cells.group_sizes).reshape(-1, n_levels)
        design = LevelDesign.of(table)
        return cls(cells, label, design, _scores_gram(cells.size_products, label, design))

    def over_all(self) -> FixedEffects:
        """The same levels with nothing held fixed: their differences over all groups."""
        return self._labelled(self.cells, self._level, self._n_levels)

    def levels(self) -> Cells:
        """The cells by level alone."""
        group = self._level.astype(self.cells.group.dtype)[self.cells.group]
        return replace(self.cells, group=group, n_groups=self._n_levels)

    @cached_property
    def level_sizes(self) -> NDArray[np.int64]:
        """Examples of each level, [k + 1]."""
        return self._by_level(self.cells.group_sizes).astype(np.int64)

    def coefficients(self, total: Floats) -> Floats:
        """Effects alone, [k], on an outcome summed over the cells, [c]; NaN where unknown."""
        return self.design.effects(self._table(self.cells.by_group(total)))

    def means(self, moments: Moments) -> GroupMeans:
        """Statistics of each level, over all groups."""
        by_level = self._by_level

        def squared(mean: Floats) -> Floats:
            return np.diag(moments.residual(mean[self._level]).merged(self._level, self._n_levels))

        sums = (moments.total, moments.squares, moments.n_active, moments.active_total)
        total, squares, n_active, active_total = map(by_level, sums)
        # A cluster lies in one group, so it has one cell of a level at most.
        n_clusters = by_level(self.cells.group_clusters).astype(np.int64)
        return means_from(self.level_sizes, n_clusters, (total, squares, n_active, active_total), squared)

    def fit(self, moments: Moments) -> ClusteredFit:
        """Effects on an outcome; equal to OLS with a dummy for each level and group, errors clustered."""
        cells, design, inverse = self.cells, self.design, self.design.inverse
        table, sizes = self._table(moments.total), self._table(cells.group_sizes)
        solution = design.solve(table)
        fitted = self._fitted(table, sizes, solution)
        squares = float(moments.squares.sum() - 2.0 * (fitted * table).sum() + (fitted**2 * sizes).sum())
        products = moments.residual(fitted.ravel()[self.label])
        meat = _scores_gram(products, self.label, design)
        squared_sums, n_parameters = float(products.by_group().sum()), design.n_parameters
        scale = cluster_correction(int(sizes.sum()), cells.n_clusters, n_parameters)
        variance, correlation = exchangeable_squares(
            max(squares, 0.0), squared_sums, int(sizes.sum()), self.cells.cluster_pairs, n_parameters
        )
        shared = (1.0 - correlation) * design.gram + correlation * self.clustered
        return ClusteredFit(
            coefficient=np.where(design.known, solution, np.nan),
            covariance=scale * inverse @ meat @ inverse,
            pooled=variance * np.diag(inverse @ shared @ inverse),
            n_clusters=cells.n_clusters,
        )

    @property
    def _n_levels(self) -> int:
        return len(self.design.known) + 1

    @property
    def _level(self) -> Ints:
        """Level of each label, [n_labels]."""
        return self.label % self._n_levels

    def _by_level(self, value: Floats | Ints) -> Floats:
        """Sums by label summed by level, [k + 1]."""
        return sum_by(self._level, value, self._n_levels)

    def _table(self, value: Floats | Ints) -> Floats:
        """Sums by label as a table of groups by levels, [n_groups, k + 1]."""
        shape = (len(self.design.counts), self._n_levels)
        return sum_by(self.label, value, shape[0] * shape[1]).reshape(shape)

    def _fitted(self, table: Floats, sizes: Floats, solution: Floats) -> Floats:
        """What is fitted to each group and level, [n_groups, k + 1]."""
        shift = np.concatenate([[0.0], solution])
        group_effect = (table.sum(axis=1) - sizes @ shift) / np.maximum(self.design.counts, 1.0)
        return group_effect[:, None] + shift


def _scores_gram(products: Products, label: Ints, design: LevelDesign) -> Floats:
    """Sum over clusters of s s', where s [k] sums the cluster's values times the dummies within groups.

    A dummy within groups is 1 at its level minus the level's rate in the group, so s is what the cluster has at each
    level minus all it has times the rates of its group.

    Args:
        products: of the clusters' values in each label.
        label: int [n_labels], group x (k + 1) + level of each.
        design: the dummies.
    """
    n_groups, n_levels = len(design.counts), len(design.known) + 1
    with_all = sum_by(label, products.by_group(), n_groups * n_levels).reshape(n_groups, n_levels)
    cross = with_all[:, 1:].T @ design.rate
    levels = products.merged(label % n_levels, n_levels)[1:, 1:]
    return levels - cross - cross.T + design.rate.T @ (with_all.sum(axis=1)[:, None] * design.rate)
