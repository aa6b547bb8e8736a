"""What is compared between halves of the examples: one number for each token or weapon, in each half."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...stats.compact import BLOCK_ROWS, CompactRows
from ...stats.pagerank import pagerank

if TYPE_CHECKING:
    from scipy import sparse

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
Ints = NDArray[np.integer[Any]]
Metric = Literal["token_effects", "token_frequency", "weapon_means", "pagerank"]
WORDS: dict[Metric, tuple[str, str]] = {
    "token_effects": ("token effects", "tokens"),
    "token_frequency": ("token frequencies among high examples", "tokens"),
    "weapon_means": ("weapon means", "weapons"),
    "pagerank": ("token PageRanks", "tokens"),
}
_SEEN = 1e-9
_GRAPH_CELLS = 5_000_000
_ROWS_AT_ONCE = 1 << 15
_SUMS_AT_ONCE = 1 << 18
"""Sums by sides that are kept at a time: what the processor's cache holds."""


@dataclass(frozen=True)
class Counts:
    """How many examples of each weapon hold each token, whatever the outcome.

    Attributes:
        whole: [n_weapons, k + 1], of all examples; the last column counts them.
        first: [s, n_weapons, k + 1], of the first half of each split.
    """

    whole: Floats
    first: Floats


@dataclass(frozen=True)
class Sums:
    """Sums of r outcomes over some examples.

    Attributes:
        tokens: [r, k], over those with each token.
        weapons: [n_weapons, r], over those of each weapon.
    """

    tokens: Floats
    weapons: Floats

    def without(self, half: Sums) -> Sums:
        """The sums over the other half."""
        return Sums(_without(self.tokens, half.tokens), _without(self.weapons, half.weapons))


@dataclass(frozen=True)
class Halves:
    """Examples to be split, and what is read off each half.

    Attributes:
        columns: [n, k] of 0 and 1: the tokens that are units.
        weapon: int32 [n], 0 .. n_weapons - 1.
        usable: bool [n_weapons], weapons that are units.
        cluster: int32 [n], 0 .. n_clusters - 1.
    """

    columns: CompactRows
    weapon: Ints
    usable: Bools
    cluster: Ints

    def at(self, positions: Ints) -> Halves:
        """The same for some of the examples; units and clusters keep their numbers."""
        columns = CompactRows.stacked([self.columns.some(positions)])
        return Halves(columns, self.weapon[positions], self.usable, self.cluster[positions])

    def counts(self, first: Bools) -> Counts:
        """Count tokens in the first half of each split, bool [s, n_clusters]; the same for every outcome."""
        order = np.argsort(self.weapon, kind="stable")
        ends = np.cumsum(np.bincount(self.weapon, minlength=len(self.usable))).tolist()
        found = np.zeros((len(first) + 1, len(self.usable), self.columns.width + 1))
        for weapon, (low, high) in enumerate(itertools.pairwise([0, *ends])):
            for at in range(low, high, BLOCK_ROWS):
                rows = order[at : min(at + BLOCK_ROWS, high)]
                inside = _with_whole(first, self.cluster[rows])
                found[:, weapon, :-1] += (self.columns.some(rows).T @ inside.astype(np.float64)).T
                found[:, weapon, -1] += inside.sum(axis=0)
        return Counts(found[0], found[1:])

    def values(
        self, metric: Metric, outcome: Floats, first: Bools, counts: Counts | None = None
    ) -> tuple[Floats, Floats]:
        """Values of the units in both halves of every split.

        Args:
            metric: which number.
            outcome: [n, r]: activations, or for ``token_frequency`` 1 on high examples and 0 elsewhere.
            first: bool [s, n_clusters], True where a cluster is in the first half.
            counts: what `counts` gave of these splits, where it did.

        Returns:
            Two arrays [s, r, k], the first halves and the second; NaN where a unit has no value in a half.
        """
        if metric == "pagerank":
            halves = list(self._graphs(outcome, first))
        else:
            counts = self.counts(first) if counts is None else counts
            whole, *parts = self._sums(outcome, first)
            halves = [
                (self._read(metric, held, half), self._read(metric, counts.whole - held, whole.without(half)))
                for held, half in zip(counts.first, parts, strict=True)
            ]
        return np.stack([one for one, _ in halves]), np.stack([other for _, other in halves])

    def _sums(self, outcome: Floats, first: Bools) -> list[Sums]:
        """Sums of the outcomes [n, r] over all examples, and over the first half of each split.

        Clusters on the same side of several splits are added up together; a half is a sum of what they give.
        """
        rows = np.flatnonzero(outcome.any(axis=1))
        size = max(self.columns.width, len(self.usable), 1) * outcome.shape[1]
        at_once = int(np.clip(np.log2(_SUMS_AT_ONCE / size), 1, len(first)))
        sums: list[Sums] = []
        for at in range(0, len(first), at_once):
            some = first[at : at + at_once]
            tokens, weapons = self._by_sides(rows, outcome[rows], some)
            inside = (np.arange(len(tokens)) >> np.arange(len(some))[:, None]) & 1
            halves = [np.tensordot(inside.astype(np.float64), each, axes=1) for each in (tokens, weapons)]
            if not sums:
                sums.append(Sums(tokens.sum(axis=0).T, weapons.sum(axis=0)))
            sums += [Sums(one.T, other) for one, other in zip(*halves, strict=True)]
        return sums

    def _by_sides(self, rows: Ints, outcome: Floats, first: Bools) -> tuple[Floats, Floats]:
        """Outcomes [m, r] of some rows summed by the sides of s splits: over tokens [2^s, k, r], over weapons too."""
        from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

        n_sides, k, n_weapons, r = 1 << len(first), self.columns.width, len(self.usable), outcome.shape[1]
        side = np.zeros(first.shape[1], dtype=np.int32)
        for bit, chosen in enumerate(first):  # at most a dozen splits
            side += chosen.astype(np.int32) << bit
        tokens, weapons = np.zeros((n_sides * k, r)), np.zeros((n_sides * n_weapons, r))
        for at in range(0, len(rows), _ROWS_AT_ONCE):
            some = rows[at : at + _ROWS_AT_ONCE]
            weight = np.asarray(outcome[at : at + _ROWS_AT_ONCE], dtype=np.float64)
            of, held = side[self.cluster[some]], self.columns.some(some)
            place = held.indices + np.repeat(of * k, np.diff(held.indptr))
            tokens += sparse.csr_matrix((held.data, place, held.indptr), shape=(len(some), n_sides * k)).T @ weight
            weapons += _indicator(of * n_weapons + self.weapon[some], n_sides * n_weapons) @ weight
        return tokens.reshape(n_sides, k, r), weapons.reshape(n_sides, n_weapons, r)

    def _read(self, metric: Metric, counts: Floats, sums: Sums) -> Floats:
        """Values [r, units] of one half, from its counts by weapon [n_weapons, k + 1] and the sums over it."""
        held, count = counts[:, :-1], counts[:, -1:]
        if metric == "token_frequency":
            return _ratio(sums.tokens, sums.weapons.sum(axis=0)[:, None])
        if metric == "weapon_means":
            return np.asarray(_ratio(sums.weapons, count)[self.usable].T)
        # A weapon without an example in this half has rate 0 of everything: it adds nothing.
        rate = held / np.maximum(count, 1.0)
        within = held.sum(axis=0) - (rate * held).sum(axis=0)
        return _ratio(sums.tokens - sums.weapons.T @ rate, np.where(within > _SEEN, within, 0.0)[None, :])

    def _graphs(self, outcome: Floats, first: Bools) -> Iterator[tuple[Floats, Floats]]:
        """PageRank in each half of each split, on the graph of tokens weighted by the outcome."""
        from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

        k = self.columns.width
        if not k:
            nothing = np.zeros((outcome.shape[1], 0))
            yield from [(nothing, nothing)] * len(first)
            return
        some = np.flatnonzero(outcome.any(axis=1))
        outcomes = sparse.csr_matrix(np.asarray(outcome[some], dtype=np.float64).T)
        pairs = _pairs(self.columns.some(some))
        whole = _product(outcomes, pairs).reshape(-1, k, k)
        for chosen in first:
            half = _product(_of_half(outcomes, chosen[self.cluster[some]]), pairs).reshape(-1, k, k)
            yield _ranks(half), _ranks(_without(whole, half))


def _with_whole(first: Bools, cluster: Ints) -> Bools:
    """Whether examples of some clusters [m] count: in the whole, always, and in each first half; [m, 1 + s]."""
    return np.vstack([np.ones((1, len(cluster)), dtype=np.bool_), np.take(first, cluster, axis=1)]).T


def _indicator(group: Ints, n_groups: int) -> sparse.csc_matrix:
    """The matrix [n_groups, m] that sums by group [m]."""
    from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

    return sparse.csc_matrix((np.ones(len(group)), group, np.arange(len(group) + 1)), shape=(n_groups, len(group)))


def _of_half(left: sparse.csr_matrix, kept: Bools) -> sparse.csr_matrix:
    """The matrix [m, n] with the columns that are kept, the others empty."""
    half = left.copy()
    half.data = left.data * kept[left.indices]
    half.eliminate_zeros()
    return half


def _without(whole: Floats, half: Floats) -> Floats:
    """Sums of what is not negative, less those of one half; 0 where all is in that half and the rest is rounding."""
    return np.where(whole - half > _SEEN * whole, whole - half, 0.0)


def _product(left: sparse.csr_matrix, right: sparse.csr_matrix) -> Floats:
    return np.asarray((left @ right).toarray(), dtype=np.float64)


def _pairs(columns: sparse.csr_matrix) -> sparse.csr_matrix:
    """Which ordered pairs of different columns each row holds: CSR [n, k * k] of 0 and 1."""
    from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

    n, k = columns.shape
    size = np.diff(columns.indptr)
    row = np.repeat(np.arange(n), size * size)
    within = np.arange(len(row)) - np.repeat(np.cumsum(size * size) - size * size, size * size)
    start, width = columns.indptr[row], size[row]
    one, other = columns.indices[start + within // width], columns.indices[start + within % width]
    different = one != other
    cell = one[different].astype(np.int64) * k + other[different]
    return sparse.csr_matrix((np.ones(len(cell)), (row[different], cell)), shape=(n, k * k))


def _ranks(graphs: Floats) -> Floats:
    """PageRank of each of [r, k, k] graphs; NaN for units without an edge."""
    step = max(1, _GRAPH_CELLS // max(graphs.shape[-1] ** 2, 1))
    blocks = [pagerank(graphs[at : at + step]) for at in range(0, len(graphs), step)]
    return np.where(graphs.sum(axis=-1) > 0, np.concatenate(blocks), np.nan)


def _ratio(top: Floats, bottom: Floats) -> Floats:
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=np.broadcast_to(bottom > 0, np.shape(top)))
