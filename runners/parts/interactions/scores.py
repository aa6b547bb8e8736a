"""Squares of what clusters add to an interaction's error: sums of influence times residual, for many pairs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...stats.cluster_bits import ClusterBits

if TYPE_CHECKING:
    from scipy import sparse

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]
_AT_ONCE = 1024


@dataclass(frozen=True)
class Active:
    """The examples on which an outcome is not 0.

    Attributes:
        at: int32 [m], their positions.
        value: float64 [m].
        cluster: int32 [m], rising.
        held: bool [k, m], the columns they hold.
    """

    at: Ints
    value: Floats
    cluster: Ints
    held: Bools


@dataclass(frozen=True)
class PairScores:
    """Clusters of examples, each within a group, with the counts that scores of pairs of columns are made of.

    The score of an example is w (y - f), where w and f depend on its group and on which of the two columns it holds.
    As polynomials of the two columns, their sums over a cluster follow from how many of its examples, and how much of
    the outcome, hold the first, the second and both.

    Attributes:
        bits: the columns by cluster, clusters by group.
        sizes: [c], examples of each cluster.
        home: [c], group of each cluster, rising.
        first, second: [P], the columns of each pair.
    """

    bits: ClusterBits
    sizes: Ints
    home: Ints
    first: Ints
    second: Ints

    def squares(self, weight: Floats, fitted: Floats, active: Active | None) -> Floats:
        """Sum over clusters of squared sums of w (y - f), [P].

        Args:
            weight: [4, P, g], w with neither column, the first alone, the second alone, both.
            fitted: [4, P, g], f.
            active: where y is not 0; None: nowhere.
        """
        slope, silent = _polynomial(weight), _polynomial(weight * fitted)
        total = np.einsum("ipg,gpij,jpg->p", silent, self._products, silent, optimize=True)
        if active is None or not len(active.at):
            return total
        starts = np.flatnonzero(np.r_[True, np.diff(active.cluster) != 0])
        clusters, ends = active.cluster[starts], np.r_[starts, len(active.at)]
        sums = np.add.reduceat(np.vstack([active.value, active.held * active.value]), starts, axis=1)
        for group, run in _runs(self.home[clusters]):
            counts, both = self._counts(clusters[run])
            quiet = self._linear(silent[:, :, group]) @ counts
            quiet += silent[3, :, group, None] * both
            score = self._linear(slope[:, :, group]) @ sums[:, run]
            self._add_both(score, slope[3, :, group], active, ends[run.start : run.stop + 1])
            score -= quiet
            total += np.einsum("pc,pc->p", score, score) - np.einsum("pc,pc->p", quiet, quiet)
        return total

    def _counts(self, clusters: Ints) -> tuple[Floats, Floats]:
        """Examples of some clusters, and those with each column, [1 + k, c]; those with both of each pair, [P, c]."""
        bits, each = self.bits.of_clusters(clusters), np.arange(len(self.bits.bits))
        return np.vstack([self.sizes[clusters].astype(np.float64), bits.counts(each, each)]), bits.counts(
            self.first, self.second
        )

    def _linear(self, terms: Floats) -> sparse.csr_matrix:
        """The terms [4, P] of 1, of the first and of the second column, as CSR [P, 1 + k]: three a row."""
        from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

        columns = np.stack([np.zeros_like(self.first), 1 + self.first, 1 + self.second], axis=1)
        shape = (len(self.first), 1 + len(self.bits.bits))
        return sparse.csr_matrix((terms[:3].T.ravel(), columns.ravel(), np.arange(shape[0] + 1) * 3), shape=shape)

    def _add_both(self, score: Floats, slope: Floats, active: Active, ends: Ints) -> None:
        """Add slope [P] times the outcome of the examples with both columns to the scores [P, c] of their clusters."""
        rows = slice(int(ends[0]), int(ends[-1]))
        held = active.held[:, rows]
        both = held[self.first] & held[self.second]
        pair = np.repeat(np.arange(len(both)), np.count_nonzero(both, axis=1))
        row = np.flatnonzero(both) - pair * both.shape[1]
        place = np.repeat(np.arange(len(ends) - 1), np.diff(ends))
        np.add.at(score.reshape(-1), pair * score.shape[1] + place[row], slope[pair] * active.value[rows][row])

    @cached_property
    def _products(self) -> Floats:
        """Sums over the clusters of each group of the products of (1, first, second, both) counts, [g, P, 4, 4]."""
        pairs = np.arange(len(self.first))
        at = [np.zeros_like(pairs), 1 + self.first, 1 + self.second]
        found = np.zeros((int(self.home[-1]) + 1, len(pairs), 4, 4))
        for group, run in _runs(self.home):
            counts, both = self._counts(np.arange(run.start, run.stop))
            gram, cross = counts @ counts.T, both @ counts.T
            for i in range(3):
                found[group, :, i, 3] += cross[pairs, at[i]]
                found[group, :, 3, i] += cross[pairs, at[i]]
                for j in range(3):
                    found[group, :, i, j] += gram[at[i], at[j]]
            found[group, :, 3, 3] += np.einsum("pc,pc->p", both, both)
        return found


def _polynomial(cells: Floats) -> Floats:
    """Values with neither, the first, the second, both [4, ...] as coefficients of 1, first, second, their product."""
    neither, first, second, both = cells
    return np.stack([neither, first - neither, second - neither, both - first - second + neither])


def _runs(home: Ints) -> Iterator[tuple[int, slice]]:
    """Cut clusters by their group [c], rising, into runs of one group and bounded length."""
    edges = np.flatnonzero(np.r_[True, np.diff(home) != 0, True]).tolist()
    for low, high in itertools.pairwise(edges):
        for start in range(low, high, _AT_ONCE):
            yield int(home[low]), slice(start, min(start + _AT_ONCE, high))


def spanning_squares(
    cells: Iterator[Ints], group: Ints, starts: Ints, y: Floats, tables: tuple[Floats, Floats]
) -> Floats:
    """The same as `PairScores.squares` where clusters span groups: example by example.

    Args:
        cells: of each pair, which of the two columns each example holds [n], 0 to 3.
        group: [n], by cluster.
        starts: where each cluster begins.
        y: [n].
        tables: w and f, [4, P, g] each.
    """
    found: list[float] = []
    for pair, cell in enumerate(cells):
        weight, fitted = (table[cell, pair, group] for table in tables)
        score = np.add.reduceat(weight * (y - fitted), starts)
        found.append(float(score @ score))
    return np.array(found)
