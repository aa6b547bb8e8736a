"""Ratio of rates within strata when examples come in clusters: is a thing more common among some examples?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .enrichment import Ratio, Stratified
from .groups import MIN_CLUSTERS
from .tails import t_quantile

if TYPE_CHECKING:
    from scipy import sparse

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
_BLOCK = 1 << 21
HALF = 0.5


@dataclass(frozen=True)
class ClusteredRatio:
    """How much more common each of k columns is in a first group of examples than in the rest; arrays are [k].

    Attributes:
        seen: weighted count of the column in the first group, the R of Mantel and Haenszel (1959).
        expected: what the rates of the rest lead to expect of it, their S; the ratio of rates is R / S.
        variance: of the logarithm of the ratio, half a count being added to R and to S.
        count_weight: what one example of the first group counts on average in R.
        odds: odds ratio pooled over the strata; its interval takes examples for independent.
        n_clusters: clusters of the first group in strata that hold both groups.
        known: whether there are 10 of them, and 10 of the rest.
    """

    seen: Floats
    expected: Floats
    variance: Floats
    count_weight: float
    odds: Ratio
    n_clusters: int
    known: bool

    @property
    def ratio(self) -> Floats:
        """Ratio of rates; infinite where the rest never has the column, NaN where neither group has it."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.seen / self.expected

    def interval(self, level: float = 0.95) -> tuple[Floats, Floats]:
        """Interval of the ratio, Student's t on its logarithm; NaN where unknown.

        Half a count is added to both sums (Haldane 1956), so that a column that one group never has gets an end too;
        the other end is then 0 or infinity.
        """
        extra = HALF * self.count_weight
        half = t_quantile(HALF + level / 2, max(self.n_clusters - 1, 1)) * np.sqrt(self.variance)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            centre = np.log(self.seen + extra) - np.log(self.expected + extra)
            low, high = np.exp(centre - half), np.exp(centre + half)
        low = np.where(self.seen > 0, np.fmin(low, self.ratio), 0.0)
        high = np.where(self.expected > 0, np.fmax(high, self.ratio), np.inf)
        known = self.known & (self.seen + self.expected > 0)
        return np.where(known, low, np.nan), np.where(known, high, np.nan)


def clustered_ratio(
    columns: sparse.csr_matrix, first: NDArray[np.bool_], stratum: Ints, cluster: Ints
) -> ClusteredRatio:
    """Compare the rates of binary columns in two groups of examples, within strata.

    R = sum over strata of a n0 / (n1 + n0) and S = sum of c n1 / (n1 + n0), for a of n1 examples of the first group
    and c of n0 of the rest with the column. The variance of log R - log S is that of the jackknife that leaves out
    one cluster at a time (Efron and Stein 1981), linear in the changes of R and of S: clusters may span strata and
    groups, and strata may be small.

    Args:
        columns: CSR [n, k] of 0 and 1.
        first: bool [n], the first group.
        stratum: int [n].
        cluster: int [n].
    """
    cells = _Cells.of(first, stratum, cluster)
    n1, n0 = cells.by_stratum(cells.n_first), cells.by_stratum(cells.n_rest)
    both = (n1 > 0) & (n0 > 0)
    weight = _ratio(n1 * n0, n1 + n0).sum() / max(n1[both].sum(), 1.0)
    parts = [_compare(cells, n1, n0, *counts, extra=HALF * weight) for counts in cells.counts(columns, first)]
    seen, expected, variance = (np.concatenate([part[i] for part in parts]) for i in range(3))
    tables = [np.concatenate([part[3 + i] for part in parts], axis=1) for i in range(2)]
    used = both[cells.stratum]
    clusters = [len(np.unique(cells.cluster[used & (size > 0)])) for size in (cells.n_first, cells.n_rest)]
    return ClusteredRatio(
        seen=seen,
        expected=expected,
        variance=variance,
        count_weight=float(weight),
        odds=Stratified.of(tables[0], n1, tables[1], n0).odds_ratio(),
        n_clusters=clusters[0],
        known=min(clusters) >= MIN_CLUSTERS,
    )


@dataclass(frozen=True)
class _Cells:
    """Examples by (cluster, stratum), in order of cluster; arrays are [c].

    Attributes:
        cell: int [n], cell of each example.
        cluster: cluster of each cell.
        stratum: stratum of each cell, 0 .. s - 1.
        n_first: examples of the first group in it.
        n_rest: the others.
    """

    cell: Ints
    cluster: Ints
    stratum: Ints
    n_first: Floats
    n_rest: Floats

    @classmethod
    def of(cls, first: NDArray[np.bool_], stratum: Ints, cluster: Ints) -> _Cells:
        stratum = np.unique(stratum, return_inverse=True)[1]
        width = int(stratum.max()) + 1
        keys, cell = np.unique(cluster.astype(np.int64) * width + stratum, return_inverse=True)
        sizes = [np.bincount(cell[side], minlength=len(keys)).astype(np.float64) for side in (first, ~first)]
        return cls(cell, keys // width, keys % width, sizes[0], sizes[1])

    def counts(self, columns: sparse.csr_matrix, first: NDArray[np.bool_]) -> Iterator[tuple[Floats, Floats]]:
        """Examples with each column in each cell, of either group; dense [c, columns] in blocks of columns."""
        from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

        shape = (len(self.cluster), len(self.cell))
        rows = [np.flatnonzero(side) for side in (first, ~first)]
        sums = [sparse.csr_matrix((np.ones(len(at)), (self.cell[at], at)), shape=shape) for at in rows]
        step = max(1, _BLOCK // len(self.cluster))
        for start in range(0, columns.shape[1], step):
            block = columns[:, start : start + step]
            held = [np.asarray((each @ block).toarray(), dtype=np.float64) for each in sums]
            yield held[0], held[1]

    def by_stratum(self, values: Floats) -> Floats:
        """Sums over the cells of each stratum: [c, ...] to [s, ...]."""
        order = np.argsort(self.stratum, kind="stable")
        starts = np.flatnonzero(np.diff(self.stratum[order], prepend=-1))
        return np.add.reduceat(values[order], starts, axis=0)

    def by_cluster(self, values: Floats) -> Floats:
        """Sums over the cells of each cluster: [c, ...] to [g, ...]."""
        return np.add.reduceat(values, np.flatnonzero(np.diff(self.cluster, prepend=self.cluster[0] - 1)), axis=0)


def _ratio(top: Floats, bottom: Floats) -> Floats:
    return np.divide(top, bottom, out=np.zeros(np.shape(top)), where=np.broadcast_to(bottom, np.shape(top)) > 0)


def _compare(
    cells: _Cells, n1: Floats, n0: Floats, with_first: Floats, with_rest: Floats, *, extra: float
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """R, S, the variance of log R - log S, and the counts by stratum, of a block of columns."""
    a, c = cells.by_stratum(with_first), cells.by_stratum(with_rest)
    m1, m0, at = n1[:, None], n0[:, None], cells.stratum
    r, s = _ratio(a * m0, m1 + m0), _ratio(c * m1, m1 + m0)
    left1, left0 = m1[at] - cells.n_first[:, None], m0[at] - cells.n_rest[:, None]
    # Leaving out one of g clusters of a stratum moves the rest too: squares are g / (g - 1) too large (Cochran 1977).
    n_cells = np.bincount(at)
    shrink = np.sqrt(np.where(n_cells > 1, (n_cells - 1) / n_cells, 1.0))[at][:, None]
    less_r = cells.by_cluster(shrink * (r[at] - _ratio((a[at] - with_first) * left0, left1 + left0)))
    less_s = cells.by_cluster(shrink * (s[at] - _ratio((c[at] - with_rest) * left1, left1 + left0)))
    seen, expected = r.sum(axis=0), s.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        jackknife = np.square(less_r / (seen + extra) - less_s / (expected + extra)).sum(axis=0)
        # The added half counts are no data: each has the variance of a count of one half.
        added = 2.0 * extra**2 * ((seen + extra) ** -2.0 + (expected + extra) ** -2.0)
    return seen, expected, jackknife + added, a, c
