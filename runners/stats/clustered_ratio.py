"""Ratio of rates within strata when examples come in clusters: is a thing more common among some examples?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .enrichment import Ratio, Stratified
from .groups import MIN_CLUSTERS
from .held import (
    Columns,
    bounds_of,
    by_cell,
    compact,
    dense,
    held_counts,
    in_order,
    rows_of,
    runs,
    smallest,
    weighted_rows,
    weights_by_group,
)
from .tails import t_quantile

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
_BLOCK = 1 << 18
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


@dataclass(frozen=True)
class Strata:
    """Binary columns of examples in strata and clusters, taken apart once for any first group of examples.

    Examples are counted by (cluster, stratum), the c cells, in order of cluster.

    Attributes:
        columns: [n, k] of 0 and 1.
        cluster: int32 [n], 0 .. g - 1.
        place: [n], which of the cells of its cluster each example is in.
        bounds: [g + 1], where the cells of each cluster begin, and where the last ends.
        stratum: [c], stratum of each cell, 0 .. s - 1.
        sizes: [c], examples in it.
        held: [c, k], how many of them hold each column.
        n_by_stratum: [s], examples of each stratum.
        held_by_stratum: [s, k], how many of them hold each column.
    """

    columns: Columns
    cluster: Ints
    place: Ints
    bounds: Ints
    stratum: Ints
    sizes: Ints
    held: Any
    n_by_stratum: Floats
    held_by_stratum: Floats

    @classmethod
    def of(cls, columns: Columns, stratum: Ints, cluster: Ints) -> Strata:
        """Prepare columns [n, k]; stratum and cluster [n] may be any integers, and clusters may span strata."""
        stratum, cluster = compact(stratum), compact(cluster)
        place, cells = _placed(cluster, stratum)
        bounds, own, sizes = cells
        held = held_counts(columns, bounds[cluster] + place, sizes)
        n_strata = int(stratum.max()) + 1
        by_stratum = np.zeros((n_strata, columns.shape[1]))
        for part in runs(np.arange(len(own) + 1), max(1, _BLOCK // max(columns.shape[1], 1))):
            pick = weights_by_group(own[part], np.ones(len(own[part])), n_strata)
            by_stratum += pick @ dense(held[part]).astype(np.float64)
        n = np.bincount(stratum, minlength=n_strata).astype(np.float64)
        return cls(columns, cluster, place, bounds, own, sizes, held, n, by_stratum)

    def ratio(self, first: NDArray[np.bool_]) -> ClusteredRatio:
        """Compare the rates of the columns in a first group of examples, bool [n], and in the rest, within strata.

        R = sum over strata of a n0 / (n1 + n0) and S = sum of c n1 / (n1 + n0), for a of n1 examples of the first
        group and c of n0 of the rest with the column. The variance of log R - log S is that of the jackknife that
        leaves out one cluster at a time (Efron and Stein 1981), linear in the changes of R and of S: clusters may span
        strata and groups, and strata may be small.
        """
        split = _Split.of(self, first)
        n1, n0, a, c = split.n1, split.n0, split.with_first, split.with_rest
        both = (n1 > 0) & (n0 > 0)
        weight = float((n1 * n0 / (n1 + n0)).sum() / max(n1[both].sum(), 1.0))
        share = (n0 / (n1 + n0))[:, None]
        seen, expected = (a * share).sum(axis=0), (c * (1.0 - share)).sum(axis=0)
        extra = HALF * weight
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = 1.0 / (seen + extra), 1.0 / (expected + extra)
            # The added half counts are no data: each has the variance of a count of one half.
            added = 2.0 * extra**2 * (scale[0] ** 2 + scale[1] ** 2)
            jackknife, clusters = self._jackknife(split, scale, both)
        return ClusteredRatio(
            seen=seen,
            expected=expected,
            variance=jackknife + added,
            count_weight=weight,
            odds=Stratified.of(a, n1, c, n0).odds_ratio(),
            n_clusters=clusters[0],
            known=min(clusters) >= MIN_CLUSTERS,
        )

    def _jackknife(
        self, split: _Split, scale: tuple[Floats, Floats], both: NDArray[np.bool_]
    ) -> tuple[Floats, tuple[int, int]]:
        """Sum over clusters of the squared changes of log R - log S that leaving each out makes, [k].

        Without a cell's x examples of the first group with the column and z others, p and q in all, R loses
        a (n0 / n - q') + x q' in its stratum and S loses c (n1 / n - p') + z p', where p' = (n1 - p) / (n - p - q) and
        q' = (n0 - q) / (n - p - q). Also returns how many clusters have an example of either group in the strata that
        have both.
        """
        tables = (split.with_first * scale[0], split.with_rest * scale[1])
        total, n_clusters = np.zeros(self.columns.shape[1]), np.zeros(2, dtype=np.int64)
        for run in runs(self.bounds, max(1, _BLOCK // max(len(total), 1))):
            bounds = self.bounds[run.start : run.stop + 1]
            cells = slice(int(bounds[0]), int(bounds[-1]))
            part = split.within(run, cells)
            change = weighted_rows(self.stratum[cells], part.of_strata, tables, bounds)
            change -= scale[1] * (by_cell(bounds, part.of_s) @ dense(self.held[cells]).astype(np.float64))
            held = rows_of(self.columns, part.rows)
            lost = [dense(by_cell(part.bounds, each[part.cell]) @ held) for each in (part.of_r, part.of_s)]
            change[part.clusters] += scale[0] * lost[0] + scale[1] * lost[1]
            total += np.einsum("ck,ck->k", change, change)
            used = both[self.stratum[cells]] & (np.stack([part.n_first, part.n_rest]) > 0)
            n_clusters += np.logical_or.reduceat(used, bounds[:-1] - bounds[0], axis=1).sum(axis=1)
        return total, (int(n_clusters[0]), int(n_clusters[1]))


def _placed(cluster: Ints, stratum: Ints) -> tuple[Ints, tuple[Ints, Ints, Ints]]:
    """Number the (cluster, stratum) cells: the place of each example [n], and ``bounds``, ``stratum``, ``sizes``."""
    order, of_cluster = in_order(cluster), bounds_of(np.bincount(cluster))
    width = int(stratum.max()) + 1
    place = np.zeros(len(cluster), dtype=np.min_scalar_type(width))
    n_cells: list[Ints] = []
    cells: list[tuple[Ints, Ints]] = []
    for run in runs(of_cluster, _BLOCK):
        at = np.arange(int(of_cluster[run.start]), int(of_cluster[run.stop]))
        rows = at if order is None else order[at]
        key = (cluster[rows] - run.start).astype(np.int64) * width + stratum[rows]
        found, cell, sizes = np.unique(key, return_inverse=True, return_counts=True)
        own = found // width
        n_cells.append(np.bincount(own))
        place[rows] = cell - bounds_of(n_cells[-1])[own[cell]]
        cells.append((smallest(found % width), smallest(sizes)))
    strata, sizes = (np.concatenate([each[i] for each in cells]) for i in (0, 1))
    return place, (bounds_of(np.concatenate(n_cells)), strata, sizes)


@dataclass(frozen=True)
class _Part:
    """Some cells of `Strata` with their examples in two groups; arrays are [c] unless said otherwise.

    Attributes:
        n_first, n_rest: examples of either group.
        of_r: what R loses by an example of the first group with the column.
        of_s: what S loses by one of the rest.
        of_strata: [c, 2], what log R - log S loses by the column's sums over the stratum, of either group.
        rows: [m], examples of the first group, in order of cell.
        cell: [m], cell of each.
        clusters: [h], the clusters these are of.
        bounds: [h + 1], where the examples of each begin among them, and where the last ends.
    """

    n_first: Floats
    n_rest: Floats
    of_r: Floats
    of_s: Floats
    of_strata: Floats
    rows: Ints
    cell: Ints
    clusters: Ints
    bounds: Ints


@dataclass(frozen=True)
class _Split:
    """The examples of `Strata` in two groups.

    Attributes:
        strata: the cells.
        rows: [m], examples of the first group, in order of cell.
        cell: [m], their cells.
        n1, n0: [s], examples of either group in each stratum.
        with_first, with_rest: [s, k], how many of them hold each column.
        shrink: [s], what the change of a cell counts.
    """

    strata: Strata
    rows: Ints
    cell: Ints
    n1: Floats
    n0: Floats
    with_first: Floats
    with_rest: Floats
    shrink: Floats

    @classmethod
    def of(cls, strata: Strata, first: NDArray[np.bool_]) -> _Split:
        rows = np.flatnonzero(first)
        cell = strata.bounds[strata.cluster[rows]] + strata.place[rows]
        order = in_order(cell)
        if order is not None:
            rows, cell = rows[order], cell[order]
        own, n_strata = strata.stratum[cell], len(strata.n_by_stratum)
        n1 = np.bincount(own, minlength=n_strata).astype(np.float64)
        with_first = dense(weights_by_group(own, np.ones(len(rows)), n_strata) @ rows_of(strata.columns, rows))
        # Leaving out one of g clusters of a stratum moves the rest too: squares are g / (g - 1) too large (Cochran
        # 1977).
        n_cells = np.bincount(strata.stratum, minlength=n_strata)
        shrink = np.sqrt(np.where(n_cells > 1, (n_cells - 1) / n_cells, 1.0))
        with_rest = strata.held_by_stratum - with_first
        return cls(strata, rows, cell, n1, strata.n_by_stratum - n1, with_first, with_rest, shrink)

    @cached_property
    def _clusters(self) -> tuple[Ints, Ints]:
        """Clusters with an example of the first group, and where their rows begin and the last end."""
        clusters, sizes = np.unique(self.strata.cluster[self.rows], return_counts=True)
        return clusters, bounds_of(sizes)

    def within(self, run: slice, cells: slice) -> _Part:
        """The cells of a run of clusters."""
        at, (clusters, bounds) = self.strata.stratum[cells], self._clusters
        low, high = np.searchsorted(clusters, [run.start, run.stop])
        own = slice(int(bounds[low]), int(bounds[high]))
        cell = self.cell[own] - cells.start
        n_first = np.bincount(cell, minlength=len(at)).astype(np.float64)
        n_rest = self.strata.sizes[cells] - n_first
        first, rest = self.n1[at] - n_first, self.n0[at] - n_rest
        shrink, left, n = self.shrink[at], first + rest, self.n1 + self.n0
        of_r, of_s = (shrink * _ratio(each, left) for each in (rest, first))
        of_strata = np.column_stack([shrink * (self.n0 / n)[at] - of_r, of_s - shrink * (self.n1 / n)[at]])
        return _Part(
            n_first=n_first,
            n_rest=n_rest,
            of_r=of_r,
            of_s=of_s,
            of_strata=of_strata,
            rows=self.rows[own],
            cell=cell,
            clusters=clusters[low:high] - run.start,
            bounds=bounds[low : high + 1],
        )


def _ratio(top: Floats, bottom: Floats) -> Floats:
    return np.divide(top, bottom, out=np.zeros(np.shape(top)), where=np.broadcast_to(bottom, np.shape(top)) > 0)
