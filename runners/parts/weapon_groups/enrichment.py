"""Groups of examples (weapons, classes) among the high ones: shares and odds ratios with errors robust to clusters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...stats.cells import Cells
from ...stats.groups import FEW, MIN_CLUSTERS, exchangeable_sums
from ...stats.regression import cluster_correction
from ...stats.tails import t_quantile, t_two_sided

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class GroupOdds:
    """How much more common each of g groups is among the high examples than among the rest; arrays are [g].

    Attributes:
        n_high: high examples of the group.
        n_low: its other examples.
        total_high: high examples of all groups.
        total_low: other examples of all groups.
        log_odds: logarithm of the odds ratio; half an example is added to each cell where one is empty.
        error: its standard error; NaN with fewer than 10 clusters in the group or outside it.
        df: degrees of freedom of its t.
    """

    n_high: Ints
    n_low: Ints
    total_high: int
    total_low: int
    log_odds: Floats
    error: Floats
    df: Ints

    @property
    def share_high(self) -> Floats:
        """Share of the high examples that are of the group."""
        return self.n_high / max(self.total_high, 1)

    @property
    def share_low(self) -> Floats:
        """Share of the others that are of the group."""
        return self.n_low / max(self.total_low, 1)

    @property
    def ratio(self) -> Floats:
        """share_high / share_low; NaN where no other example is of the group."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.n_low > 0, self.share_high / self.share_low, np.nan)

    def interval(self, level: float = 0.95) -> tuple[Floats, Floats]:
        """Student's t interval of the odds ratio, on its logarithm."""
        half = t_quantile(0.5 + level / 2, self.df) * self.error
        with np.errstate(over="ignore"):
            return np.exp(self.log_odds - half), np.exp(self.log_odds + half)

    def p_value(self) -> Floats:
        """Two-sided p that the odds ratio is 1."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return t_two_sided(self.log_odds / self.error, self.df)

    def without(self, n_high: Ints, n_low: Ints) -> Floats:
        """Odds ratios when some examples of each group are left out of everything, counted [g]."""
        a, c = self.n_high - n_high, self.n_low - n_low
        return np.exp(_log_odds(a, c, self.total_high - self.n_high, self.total_low - self.n_low))


def _log_odds(a: Ints, c: Ints, b: Ints, d: Ints) -> Floats:
    """log of a d / (b c), half an example added to every cell of a table with an empty one (Haldane 1956)."""
    half = 0.5 * ((a == 0) | (b == 0) | (c == 0) | (d == 0))
    return np.log((a + half) * (d + half)) - np.log((b + half) * (c + half))


def group_odds(high: Floats, cells: Cells) -> GroupOdds:
    """Odds ratio of each group among the high examples against the rest, with errors robust to clusters.

    The odds ratio of a group among the high examples is that of being high in the group against outside it, so its
    logarithm is the coefficient of a logistic regression on the group's dummy, and its clustered covariance is the
    sum over clusters of squared influences (h - p) / (n p (1 - p)), inside minus outside, as statsmodels has it. Where
    fewer than 30 clusters stand behind one of the four counts, the variance is not below Woolf's, half an example
    added to empty cells, times the design effect that the correlation within clusters of all groups gives.

    Args:
        high: [c], how many examples of each cell are high.
        cells: groups by clusters.
    """
    size = cells.group_sizes
    a = cells.by_group(high).astype(np.int64)
    n, n_high = int(size.sum()), int(a.sum())
    c = size - a
    b, d = n_high - a, (n - n_high) - c
    half = 0.5 * ((a == 0) | (b == 0) | (c == 0) | (d == 0))
    inside, outside = (a + half) / (size + 2 * half), (b + half) / (n - size + 2 * half)
    counted = _Counted.of(high, cells)
    robust = counted.influences(inside, outside, size, n - size)
    variance = cluster_correction(n, cells.n_clusters, 2) * robust
    woolf = 1.0 / (a + half) + 1.0 / (b + half) + 1.0 / (c + half) + 1.0 / (d + half)
    effect = counted.design_effect(inside, size)
    variance = np.where(counted.support() < FEW, np.maximum(variance, woolf * effect), variance)
    clusters = cells.group_clusters
    # Clusters that span groups are outside too; at least this many have an example elsewhere.
    known = (clusters >= MIN_CLUSTERS) & (cells.n_clusters - clusters >= MIN_CLUSTERS)
    return GroupOdds(
        n_high=a,
        n_low=c,
        total_high=n_high,
        total_low=n - n_high,
        log_odds=np.where(size > 0, _log_odds(a, c, b, d), np.nan),
        error=np.where(known, np.sqrt(variance), np.nan),
        df=np.maximum(clusters - 1, 1),
    )


@dataclass(frozen=True)
class _Counted:
    """High examples by (group, cluster) and by cluster.

    Attributes:
        cells: groups by clusters.
        high: [c], high examples of each cell.
        by_cluster: [n_clusters], high examples of each cluster.
        sizes: [n_clusters], its examples.
    """

    cells: Cells
    high: Floats
    by_cluster: Floats
    sizes: Floats

    @classmethod
    def of(cls, high: Floats, cells: Cells) -> _Counted:
        return cls(cells, high, cells.by_cluster(high), cells.cluster_sizes.astype(np.float64))

    def influences(self, inside: Floats, outside: Floats, n_inside: Ints, n_outside: Ints) -> Floats:
        """Sum over clusters of squared influences on each group's log odds ratio, [g].

        A cluster's influence is u (Y - p N) of its examples inside minus v (Y - q N) of those outside, u = 1 / (n p
        (1 - p)); clusters without an example inside are summed as a whole, through the totals.
        """
        # A side without examples has no influence; its groups get no error.
        u = 1.0 / (np.maximum(n_inside, 1) * inside * (1 - inside))
        v = 1.0 / (np.maximum(n_outside, 1) * outside * (1 - outside))
        group, cluster, size = self.cells.group, self.cells.cluster, self.cells.size
        all_high, all_size = self.by_cluster[cluster], self.sizes[cluster]
        p, q = inside[group], outside[group]
        within = u[group] * (self.high - p * size)
        beyond = v[group] * ((all_high - self.high) - q * (all_size - size))
        as_outside = v[group] * (all_high - q * all_size)
        squares, product = self.by_cluster @ self.by_cluster, self.by_cluster @ self.sizes
        everything = v**2 * (squares - 2.0 * outside * product + outside**2 * (self.sizes @ self.sizes))
        return everything + self.cells.by_group((within - beyond) ** 2 - as_outside**2)

    def design_effect(self, inside: Floats, n_inside: Ints) -> Floats:
        """By how much the correlation within clusters raises each group's variance, [g]."""
        size, p = self.cells.size.astype(np.float64), inside[self.cells.group]
        squares = float((self.high * (1.0 - p) ** 2 + (size - self.high) * p**2).sum())
        residual = self.high - p * size
        correlation = exchangeable_sums(squares, residual, self.cells.size, self.cells.n_groups)[1]
        return 1.0 - correlation + correlation * self.cells.by_group(size**2) / np.maximum(n_inside, 1)

    def support(self) -> Ints:
        """Clusters behind the smallest of the four counts (high and not, inside and outside) of each group, [g]."""
        group, n_groups = self.cells.group, self.cells.n_groups
        inside = [
            np.bincount(group[count > 0], minlength=n_groups) for count in (self.high, self.cells.size - self.high)
        ]
        holders = int((self.by_cluster > 0).sum()), int((self.sizes > self.by_cluster).sum())
        return np.minimum.reduce([*inside, *(n - held for n, held in zip(holders, inside, strict=True))])
