"""Interactions of binary columns in the data: OLS on two columns and their product within groups, for many pairs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...stats.cluster_bits import ClusterBits
from ...stats.groups import FEW, MIN_CLUSTERS, MIN_N, exchangeable, sum_by
from ...stats.held import compact
from ...stats.regression import cluster_correction
from ...stats.tails import t_quantile, t_two_sided
from .scores import Active, PairScores, spanning_squares

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]
_SEEN = 1e-9
_ROWS_AT_ONCE = 8192


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
class Outcome:
    """One or more outcomes, taken apart by a `PairDesign`.

    Attributes:
        active: where the outcome is not 0, for a single one.
        single: [k, r], sums over the examples with each column.
        both: [P, r], sums over the examples with both columns of each pair.
        total: [n_groups, r], sums over the examples of each group.
    """

    active: Active
    single: Floats
    both: Floats
    total: Floats


@dataclass(frozen=True)
class PairDesign:
    """Pairs of binary columns with fixed effects of a group, taken apart once for any number of outcomes.

    Rows are ordered by cluster, clusters by group. Of an outcome only the rows where it is not 0 are read.

    Attributes:
        order: int32 [n], row of the input at each position.
        group: int32 [n], 0 .. n_groups - 1, by position.
        cluster: int32 [n], 0 .. n_clusters - 1, by position and rising.
        scores: the k columns by cluster, and the columns of each pair.
        rate: [n_groups, k], share of each group's examples with the column.
        rate_both: [n_groups, P], share with both columns of a pair.
        sizes: [n_groups], examples.
        inverse: [P, 3, 3], inverse of the Gram matrix within groups; NaN where the data cannot tell.
        cells: [P, 4], examples with neither, the first alone, the second alone, both.
    """

    order: Ints
    group: Ints
    cluster: Ints
    scores: PairScores
    rate: Floats
    rate_both: Floats
    sizes: Ints
    inverse: Floats
    cells: Ints

    @classmethod
    def of(cls, held: Bools, first: Ints, second: Ints, group: Ints, cluster: Ints) -> PairDesign:
        """Prepare the pairs of columns [n, k]; group and cluster [n] may be any integers."""
        group, cluster = compact(group), compact(cluster)
        # A cluster lies by the group of one of its rows: of all of them, where it does not span groups.
        home = np.zeros(int(cluster.max()) + 1, dtype=np.int32)
        home[cluster] = group
        rank = np.empty_like(home)
        rank[np.argsort(home, kind="stable")] = np.arange(len(home), dtype=np.int32)
        cluster = rank[cluster]
        order = np.argsort(cluster, kind="stable").astype(np.int32)
        sizes, cluster_sizes = np.bincount(group), np.bincount(cluster)
        scores = PairScores(ClusterBits.of(held, order, cluster_sizes), cluster_sizes, np.sort(home), first, second)
        grams = _grams(held, group, len(sizes))
        counts, counts_both = np.diagonal(grams, axis1=1, axis2=2), grams[:, first, second]
        rate, rate_both = counts / sizes[:, None], counts_both / sizes[:, None]
        a, b, both = counts.sum(axis=0)[first], counts.sum(axis=0)[second], counts_both.sum(axis=0)
        parts = [(counts[:, first], rate[:, first]), (counts[:, second], rate[:, second]), (counts_both, rate_both)]
        shared = [[a, both, both], [both, b, both], [both, both, both]]
        gram = np.empty((len(first), 3, 3))
        for i, (count, _) in enumerate(parts):
            for j, (_, share) in enumerate(parts):
                gram[:, i, j] = shared[i][j] - (count * share).sum(axis=0)
        cells = np.stack([len(held) - a - b + both, a - both, b - both, both], axis=1).round().astype(np.int64)
        return cls(order, group[order], cluster[order], scores, rate, rate_both, sizes, _inverse(gram), cells)

    @property
    def first(self) -> Ints:
        """First column of each pair, [P]."""
        return self.scores.first

    @property
    def second(self) -> Ints:
        """Second column of each pair, [P]."""
        return self.scores.second

    def outcome(self, values: Floats) -> Outcome:
        """Take outcomes [n] or [n, r] apart."""
        placed = np.asarray(values)[self.order]
        at = np.flatnonzero(placed if placed.ndim == 1 else placed.any(axis=1)).astype(np.int32)
        value = np.asarray(placed[at].reshape(len(at), -1), dtype=np.float64)
        cluster, group = self.cluster[at], self.group[at]
        held = self.scores.bits.held(at, cluster)
        total = np.stack([sum_by(group, each, len(self.sizes)) for each in value.T], axis=1)
        single, both = self._sums(held, value) if value.shape[1] > 1 else self._sums_of_one(held, value[:, 0])
        return Outcome(Active(at, value[:, 0], cluster, held), single, both, total)

    def _sums(self, held: Bools, value: Floats) -> tuple[Floats, Floats]:
        """Sums of outcomes [m, r] over the examples with each column, and with both of each pair."""
        single, both = np.zeros((len(held), value.shape[1])), np.zeros((len(self.first), value.shape[1]))
        for at in range(0, len(value), _ROWS_AT_ONCE):
            part, own = held[:, at : at + _ROWS_AT_ONCE], value[at : at + _ROWS_AT_ONCE]
            single += part.astype(np.float64) @ own
            both += (part[self.first] & part[self.second]).astype(np.float64) @ own
        return single, both

    def _sums_of_one(self, held: Bools, value: Floats) -> tuple[Floats, Floats]:
        """The same of one outcome [m], which is on more examples: there are far fewer columns than pairs."""
        gram = np.zeros((len(held), len(held)))
        for at in range(0, len(value), _ROWS_AT_ONCE):
            part = held[:, at : at + _ROWS_AT_ONCE].astype(np.float64)
            gram += (part * value[at : at + _ROWS_AT_ONCE]) @ part.T
        return np.diagonal(gram)[:, None], gram[self.first, self.second][:, None]

    def coefficients(self, seen: Outcome) -> Floats:
        """Coefficients of each pair for each outcome, [P, 3, r]."""
        single = seen.single - self.rate.T @ seen.total
        both = seen.both - self.rate_both.T @ seen.total
        return self.inverse @ np.stack([single[self.first], single[self.second], both], axis=1)

    def interactions(self, values: Floats) -> Floats:
        """The interactions alone, of outcomes [n, r]: [P, r]."""
        return self.coefficients(self.outcome(values))[:, 2]

    @cached_property
    def spans(self) -> bool:
        """Whether a cluster has examples of several groups (never so for builds and weapons)."""
        return bool(np.any(self.scores.home[self.cluster] != self.group))

    @cached_property
    def enough(self) -> Bools:
        """Pairs with 20 examples in 10 clusters in every cell, and an interaction the data can tell."""
        sizes, bits = self.scores.sizes, self.scores.bits
        cells = (self.cells >= MIN_N).all(axis=1) & np.isfinite(self.inverse[:, 2, 2])
        # A cell of ten times the largest cluster cannot be in fewer than ten.
        close = np.flatnonzero(cells & (self.cells.min(axis=1) < MIN_CLUSTERS * int(sizes.max())))
        for pair in close.tolist():
            a, b = self.first[pair], self.second[pair]
            one, other, both = bits.counts(np.array([a, b, a]), np.array([a, b, b]))
            inside = (sizes - one - other + both, one - both, other - both, both)
            cells[pair] = min(int((count > 0).sum()) for count in inside) >= MIN_CLUSTERS
        return cells

    def effects(self, value: Floats, seen: Outcome | None = None) -> PairEffects:
        """Effects on one outcome [n] with their errors; ``seen`` is what `outcome` gave of it, where it did.

        Equal to OLS of the outcome on both columns, their product and a dummy for each group, errors clustered as
        statsmodels does, where each cell but the empty one has 30 active examples; below, no variance is smaller than
        if residuals had one variance and one correlation within clusters.
        """
        seen = self.outcome(value) if seen is None else seen
        mean, coefficient = seen.total[:, 0] / self.sizes, self.coefficients(seen)[:, :, 0]
        parameters, n_clusters = len(self.sizes) + 3, len(self.scores.sizes)
        y = -mean[self.group]
        y[seen.active.at] += seen.active.value
        spread, correlation = exchangeable(y, self.cluster, parameters)
        weight, fitted = self._tables(self.inverse[:, 2]), self._tables(coefficient)
        variance = cluster_correction(len(y), n_clusters, parameters) * self._squares(
            weight, fitted + mean, seen.active
        )
        few = self.enough & (self._support(seen.active) < FEW)
        if few.any():
            pooled = (1.0 - correlation) * self.inverse[:, 2, 2] + correlation * self._summed_squares
            variance = np.where(few, np.maximum(variance, spread * pooled), variance)
        variance = np.where(self.enough, variance, np.nan)
        return PairEffects(coefficient, np.sqrt(np.maximum(variance, 0.0)), max(n_clusters - 1, 1))

    def _tables(self, slopes: Floats) -> Floats:
        """slopes [P, 3] . x~ in each cell and group, [4, P, n_groups]: what an example adds depends on nothing else."""
        first, second, product = slopes.T
        level = np.stack([np.zeros_like(first), first, second, first + second + product])
        means = self.rate[:, self.first] * first + self.rate[:, self.second] * second + self.rate_both * product
        return level[:, :, None] - means.T

    def _squares(self, weight: Floats, fitted: Floats, active: Active | None) -> Floats:
        """Sum over clusters of squared sums of weight x (outcome - fitted), [P]."""
        if not self.spans:
            return self.scores.squares(weight, fitted, active)
        held = self.scores.bits.held(np.arange(len(self.group)), self.cluster)
        cells = (held[a] + 2 * held[b].astype(np.int64) for a, b in zip(self.first, self.second, strict=True))
        y = np.zeros(len(self.group))
        if active is not None:
            y[active.at] = active.value
        return spanning_squares(cells, self.group, self.scores.bits.first, y, (weight, fitted))

    @cached_property
    def _summed_squares(self) -> Floats:
        """Sum over clusters of the squared sums of what an interaction is weighted by, [P]."""
        weight = self._tables(self.inverse[:, 2])
        return self._squares(weight, -np.ones_like(weight), None)

    def _support(self, active: Active) -> Floats:
        """Active examples in the scarcest of the three cells that hold a column, [P]."""
        single, both = self._sums_of_one(active.held, (active.value > 0).astype(np.float64))
        one, other, both = single[self.first, 0], single[self.second, 0], both[:, 0]
        return np.minimum.reduce([one - both, other - both, both])


def _inverse(gram: Floats) -> Floats:
    """Inverse of each [3, 3] matrix; NaN where it has none."""
    low = np.linalg.eigvalsh(gram)[:, 0]
    known = low > _SEEN * np.maximum(np.trace(gram, axis1=1, axis2=2), 1.0)
    found = np.full_like(gram, np.nan)
    found[known] = np.linalg.inv(gram[known])
    return found


def _grams(held: Bools, group: Ints, n_groups: int) -> Floats:
    """Examples of each group that hold both of two of the columns [n, k], [n_groups, k, k]."""
    order, found = np.argsort(group, kind="stable"), np.zeros((n_groups, held.shape[1], held.shape[1]))
    ends = np.cumsum(np.bincount(group, minlength=n_groups)).tolist()
    for each, (low, high) in enumerate(itertools.pairwise([0, *ends])):
        for at in range(low, high, _ROWS_AT_ONCE):
            part = held[order[at : min(at + _ROWS_AT_ONCE, high)]].astype(np.float64)
            found[each] += part.T @ part
    return found
