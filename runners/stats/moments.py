"""What an outcome adds up to in groups, and in pairs of groups that meet in a cluster.

Clustered errors are sums over clusters of products of residuals, and a residual is the outcome minus what is fitted to
its group. Multiplied out, the clusters are needed once for an outcome (how often its sums and the examples of two
groups meet), and every fit of the same groups is arithmetic on groups, however many examples there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cells import Cells, CellSums, Products, sum_by

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Moments:
    """Sums of one outcome; in a cluster T [n_groups] is the outcome summed by group, and N its examples.

    Attributes:
        cells: groups by clusters.
        total: [n_groups], sum of the outcome; so are the next three.
        squares: sum of its squares.
        n_active: examples above 0.
        active_total: sum of the outcome over those.
        squared: sum over clusters of T T'.
        counted: [n_groups], sum over clusters of T N in one group.
        straight, turned: [p], sums over clusters of T N' and N T' in the pairs of groups of ``squared``.
    """

    cells: Cells
    total: Floats
    squares: Floats
    n_active: Floats
    active_total: Floats
    squared: Products
    counted: Floats
    straight: Floats
    turned: Floats

    @classmethod
    def of(cls, sums: CellSums) -> Moments:
        """Add up the sums by cell of an outcome."""
        cells, pairs, n_groups = sums.cells, sums.cells.pairs, sums.cells.n_groups
        where, group = sums.held
        arrays = (sums.total, sums.squares, sums.n_active, sums.active_total, cells.size)
        total, squares, n_active, active_total, size = (array[where] for array in arrays)
        both, straight, turned = pairs.moments(sums.total, cells.size)
        return cls(
            cells=cells,
            total=sum_by(group, total, n_groups),
            squares=sum_by(group, squares, n_groups),
            n_active=sum_by(group, n_active, n_groups),
            active_total=sum_by(group, active_total, n_groups),
            squared=Products(sum_by(group, total**2, n_groups), both, pairs.first, pairs.second),
            counted=sum_by(group, total * size, n_groups),
            straight=straight,
            turned=turned,
        )

    def residual_with_whole(self, fitted: Floats, overall: float) -> Floats:
        """Sum over clusters of r by group (see `residual`) times the outcome less ``overall`` in all, [n_groups]."""
        first, second, n_groups = self.squared.first, self.squared.second, len(self.total)
        total_by_all = self.counted + sum_by(first, self.straight, n_groups) + sum_by(second, self.turned, n_groups)
        size_by_total = self.counted + sum_by(first, self.turned, n_groups) + sum_by(second, self.straight, n_groups)
        found = self.squared.by_group() - overall * total_by_all - fitted * size_by_total
        return found + fitted * overall * self.cells.size_products.by_group()

    def residual(self, fitted: Floats) -> Products:
        """Sum over clusters of r r', where r [n_groups] sums the outcome minus what is fitted to its group."""
        sizes, left, right = self.cells.size_products, fitted[self.squared.first], fitted[self.squared.second]
        own = self.squared.own - 2.0 * fitted * self.counted + fitted**2 * sizes.own
        crossed = self.squared.crossed - self.straight * right - left * self.turned + left * right * sizes.crossed
        return Products(own, crossed, self.squared.first, self.squared.second)
