"""Effects of many binary columns, one at a time, with the group held fixed and errors robust to clusters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .groups import FEW, MIN_CLUSTERS, exchangeable, exchangeable_sums, sum_by
from .held import (
    Columns,
    among,
    bounds_of,
    by_cell,
    compact,
    dense,
    held_counts,
    in_order,
    rows_of,
    smallest,
    summed,
    weighted_rows,
    weights_by_group,
)
from .regression import cluster_correction
from .tails import t_quantile, t_two_sided

if TYPE_CHECKING:
    from scipy import sparse

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
_SEEN = 1e-9
_BLOCK = 1 << 18


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

    def beside(self, other: PresenceEffects) -> PresenceEffects:
        """These effects and those of other columns on the same outcome."""
        return PresenceEffects(
            np.concatenate([self.coefficient, other.coefficient]),
            np.concatenate([self.std_error, other.std_error]),
            np.concatenate([self.n_present, other.n_present]),
            np.concatenate([self.n_clusters, other.n_clusters]),
            self.df,
        )

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
class Outcome:
    """One outcome on the examples of a design: where it is not 0, and its sums by column.

    Attributes:
        rows: [m], examples where it is not 0, in order of cluster.
        value: [m], the outcome there.
        total: [k], its sum over the examples with each column.
        squares: [k], the sum of its squares over them.
        n_active: [k], how many of them have it above 0.
        held: [m, k], the columns over these examples.
    """

    rows: Ints
    value: Floats
    total: Floats
    squares: Floats
    n_active: Ints
    held: Columns

    def take(self, keep: Ints, columns: Columns) -> Outcome:
        """The same by the chosen columns, ``columns`` of the design."""
        held = among(columns, self.rows)
        return Outcome(self.rows, self.value, self.total[keep], self.squares[keep], self.n_active[keep], held)

    def means(self, n: Ints) -> tuple[Floats, Floats]:
        """Mean with and mean without each column, [k] each, for n [2, k] examples; NaN where there is none."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.total / n[0], (self.value.sum() - self.total) / n[1]


@dataclass(frozen=True)
class PresenceDesign:
    """Binary columns with fixed effects of a group, taken apart once for any number of outcomes.

    Only the examples on which an outcome is not 0 are read again for it.

    Attributes:
        columns: [n, k] of 0 and 1, CSR or read when asked.
        group: int [n], 0 .. n_groups - 1.
        cluster: int32 [n], 0 .. n_clusters - 1.
        rate: [n_groups, k], share of each group's examples with the column.
        counts: [n_groups], examples.
        within: [k], sum of squares of the columns within groups; NaN where no group varies.
    """

    columns: Columns
    group: Ints
    cluster: Ints
    rate: Floats
    counts: Ints
    within: Floats

    @classmethod
    def of(cls, columns: Columns, group: Ints, cluster: Ints) -> PresenceDesign:
        """Prepare the columns; group and cluster [n] may be any integers."""
        group, cluster = smallest(compact(group)), compact(cluster)
        counts = np.bincount(group)
        held = dense(held_counts(columns, group, counts)).astype(np.float64)
        rate = held / counts[:, None]
        within = held.sum(axis=0) - (rate * held).sum(axis=0)
        return cls(columns, group, cluster, rate, counts, np.where(within > _SEEN, within, np.nan))

    def take(self, keep: Ints, columns: Columns) -> PresenceDesign:
        """The design of the chosen columns alone, ``columns``, without another look at the examples."""
        chosen = replace(self, columns=columns, rate=self.rate[:, keep], within=self.within[keep])
        # These are cached properties: what is known of all columns is known of each.
        vars(chosen).update(
            sizes=self.sizes,
            held=self.held[:, keep],
            clusters=(self.clusters[0][keep], self.clusters[1][keep]),
            _home=self._home,
            _spans=self._spans,
            _summed_squares=self._summed_squares[keep],
        )
        return chosen

    def coefficients(self, values: Floats) -> Floats:
        """Effect of each column on each outcome: values [n] give [k], values [n, r] give [k, r]."""
        outcome = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
        rows = np.flatnonzero(outcome.any(axis=1))
        total = weights_by_group(self.group[rows], np.ones(len(rows)), len(self.counts)) @ outcome[rows]
        product = summed(self.columns, rows, outcome[rows]) - self.rate.T @ total
        return (product / self.within[:, None]).reshape((len(self.within), *np.shape(values)[1:]))

    def outcome(self, value: Floats) -> Outcome:
        """Read the columns where an outcome [n] is not 0."""
        rows = np.flatnonzero(value != 0)
        order = in_order(self.cluster[rows])
        rows = rows if order is None else rows[order]
        return self._summed(rows, np.asarray(value[rows], dtype=np.float64), among(self.columns, rows))

    def above(self, seen: Outcome, threshold: float) -> Outcome:
        """Whether an outcome is above a threshold that is not below 0, as an outcome of 0 and 1."""
        at = np.flatnonzero(seen.value > threshold)
        return self._summed(seen.rows[at], np.ones(len(at)), among(seen.held, at))

    def _summed(self, rows: Ints, value: Floats, held: Columns) -> Outcome:
        weight = np.column_stack([value, value**2, (value > 0).astype(np.float64)])
        sums = summed(held, np.arange(len(rows)), weight)
        return Outcome(rows, value, sums[:, 0], sums[:, 1], sums[:, 2].astype(np.int64), held)

    def effects(self, value: Floats | Outcome) -> PresenceEffects:
        """Effects on one outcome, [n] or as `outcome` read it, with their errors.

        Equal to OLS of the outcome on one column and a dummy for each group, errors clustered as statsmodels does,
        where a column has 30 active examples and clusters; below, no variance is smaller than if residuals had one
        variance and one correlation within clusters.
        """
        seen = value if isinstance(value, Outcome) else self.outcome(value)
        n, n_clusters = len(self.group), len(self.sizes)
        mean, beta = self._means(seen), self.slopes(seen)
        meat = self._score_squares(seen, mean, np.nan_to_num(beta))
        variance = cluster_correction(n, n_clusters, len(self.counts) + 1) * meat / self.within**2
        clusters, without = self.clusters
        spread, correlation = self._exchangeable(seen, mean)
        shared = (1.0 - correlation) * self.within + correlation * self._summed_squares
        few = np.minimum(seen.n_active, clusters) < FEW
        variance = np.where(few, np.maximum(variance, spread * shared / self.within**2), variance)
        enough = (clusters >= MIN_CLUSTERS) & (without >= MIN_CLUSTERS)
        error = np.where(enough, np.sqrt(np.maximum(variance, 0.0)), np.nan)
        return PresenceEffects(beta, error, self.n_present, clusters, max(n_clusters - 1, 1))

    def slopes(self, seen: Outcome) -> Floats:
        """Effect of each column on an outcome, [k]."""
        return (seen.total - self.rate.T @ (self._means(seen) * self.counts)) / self.within

    def _means(self, seen: Outcome) -> Floats:
        """Mean of an outcome in each group."""
        return sum_by(self.group[seen.rows], seen.value, len(self.counts)) / self.counts

    @cached_property
    def n_present(self) -> Ints:
        """Examples with each column, [k]."""
        return np.rint(self.counts @ self.rate).astype(np.int64)

    @cached_property
    def sizes(self) -> Ints:
        """Examples of each cluster."""
        return smallest(np.bincount(self.cluster))

    @cached_property
    def held(self) -> Any:  # noqa: ANN401 - CSR matrix or array
        """Examples of each cluster with each column, [n_clusters, k]; sparse by column where there are many."""
        held = held_counts(self.columns, self.cluster, self.sizes)
        return held if isinstance(held, np.ndarray) else held.tocsc()

    @cached_property
    def _home(self) -> Ints:
        """Group of each cluster that lies within one."""
        home = np.zeros(len(self.sizes), dtype=self.group.dtype)
        home[self.cluster] = self.group
        return home

    @cached_property
    def _spans(self) -> bool:
        """Whether a cluster has examples of several groups (never so for builds and weapons)."""
        return bool(np.any(self._home[self.cluster] != self.group))

    def _blocks(self) -> Iterator[tuple[slice, Floats]]:
        """The clusters in runs, with ``held`` of each as an array."""
        step = max(1, _BLOCK // max(len(self.within), 1))
        rows = self.held if isinstance(self.held, np.ndarray) else self.held.tocsr()
        for start in range(0, len(self.sizes), step):
            run = slice(start, min(start + step, len(self.sizes)))
            yield run, dense(rows[run])

    @cached_property
    def clusters(self) -> tuple[Ints, Ints]:
        """Clusters with an example that has each column, and with one that does not, [k] each."""
        with_it, full = np.zeros((2, len(self.within)), dtype=np.int64)
        for run, held in self._blocks():
            with_it += (held > 0).sum(axis=0)
            full += (held >= self.sizes[run, None]).sum(axis=0)
        return with_it, len(self.sizes) - full

    @cached_property
    def _summed_squares(self) -> Floats:
        """Sum over clusters of the squared sums of the columns within groups, [k]."""
        if self._spans:
            entries = np.ones(len(self.group))
            return self._score_squares_spanning(entries, np.zeros(len(self.within)))
        total = np.zeros(len(self.within))
        for run, held in self._blocks():
            total += np.square(held - self.sizes[run, None] * self.rate[self._home[run]]).sum(axis=0)
        return total

    def _exchangeable(self, seen: Outcome, mean: Floats) -> tuple[float, float]:
        """Variance of the residuals y - mean of the group, and their correlation within clusters."""
        if self._spans:
            return exchangeable(self._residuals(seen, mean), self.cluster, len(self.counts))
        group = self.group[seen.rows]
        silent = self.counts - np.bincount(group, minlength=len(self.counts))
        squares = float(np.square(seen.value - mean[group]).sum() + silent @ mean**2)
        sums = self._sums_by_cluster(seen) - self.sizes * mean[self._home]
        return exchangeable_sums(squares, sums, self.sizes, len(self.counts))

    def _residuals(self, seen: Outcome, mean: Floats) -> Floats:
        """Residual of every example, [n]."""
        y = -mean[self.group]
        y[seen.rows] += seen.value
        return y

    def _sums_by_cluster(self, seen: Outcome) -> Floats:
        return sum_by(self.cluster[seen.rows], seen.value, len(self.sizes))

    def _score_squares(self, seen: Outcome, mean: Floats, beta: Floats) -> Floats:
        """Sum over clusters of squared summed scores x~ (y - beta x~), [k], where x~ = x - rate of the group.

        With s the cluster's sum of the outcome, n its examples, and h and p those with the column and the sum of the
        outcome over them, its score is p - rate s - h (mean + beta (1 - 2 rate)) - n (beta rate^2 - mean rate).
        """
        if self._spans:
            return self._score_squares_spanning(self._residuals(seen, mean), beta)
        bounds = bounds_of(np.bincount(self.cluster[seen.rows], minlength=len(self.sizes)))
        home, rate, mean = self._home, self.rate, mean[:, None]
        slope, level = mean + beta * (1.0 - 2.0 * rate), beta * rate**2 - mean * rate
        sums = np.column_stack([self._sums_by_cluster(seen), self.sizes.astype(np.float64)])
        total = np.zeros(len(beta))
        for run, held in self._blocks():
            at = slice(int(bounds[run.start]), int(bounds[run.stop]))
            by_cluster = by_cell(bounds[run.start : run.stop + 1], seen.value[at])
            scores = dense(by_cluster @ rows_of(seen.held, at))
            scores -= np.take(slope, home[run], axis=0) * held
            scores -= weighted_rows(home[run], sums[run], (rate, level))
            total += np.einsum("ck,ck->k", scores, scores)
        return total

    def _score_squares_spanning(self, y: Floats, beta: Floats) -> Floats:
        """The same for residuals y [n] where clusters span groups: scores are summed by (cluster, group)."""
        present = self.columns[np.arange(len(y))].tocoo()
        row, column, n_clusters = present.row, present.col, len(self.sizes)
        more = y[row] - beta[column] * (1.0 - 2.0 * self.rate[self.group[row], column])
        present = _grouped(self.cluster[row], column, more, (n_clusters, len(beta)))
        shape = (n_clusters, len(self.counts))
        sums = [_grouped(self.cluster, self.group, each, shape) for each in (y, np.ones(len(y)))]
        weights = [-self.rate, -beta * self.rate**2]
        total = np.asarray(present.power(2).sum(axis=0), dtype=np.float64).ravel()
        for left, weight in zip(sums, weights, strict=True):
            total += 2.0 * (np.asarray((left.T @ present).toarray()) * weight).sum(axis=0)
            for right, other in zip(sums, weights, strict=True):
                total += (weight * ((left.T @ right) @ other)).sum(axis=0)
        return total


def _grouped(rows: Ints, columns: Ints, values: Floats, shape: tuple[int, int]) -> sparse.csr_matrix:
    """Sparse matrix of the sums of values at (row, column)."""
    from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

    matrix = sparse.csr_matrix((values, (rows, columns)), shape=shape)
    matrix.sum_duplicates()
    return matrix
