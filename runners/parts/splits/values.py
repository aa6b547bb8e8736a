"""What is compared between halves of the examples: one number for each token or weapon, in each half."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

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


@dataclass(frozen=True)
class Halves:
    """Examples to be split, and what is read off each half.

    Attributes:
        columns: CSR [n, k] of 0 and 1: the tokens that are units.
        weapon: int [n], 0 .. n_weapons - 1.
        usable: bool [n_weapons], weapons that are units.
        cluster: int [n], 0 .. n_clusters - 1.
    """

    columns: sparse.csr_matrix
    weapon: Ints
    usable: Bools
    cluster: Ints

    def at(self, positions: Ints) -> Halves:
        """The same for some of the examples; units and clusters keep their numbers."""
        return Halves(self.columns[positions].tocsr(), self.weapon[positions], self.usable, self.cluster[positions])

    def values(self, metric: Metric, outcome: Floats, first: Bools) -> tuple[Floats, Floats]:
        """Values of the units in both halves of every split.

        Args:
            metric: which number.
            outcome: [n, r]: activations, or for ``token_frequency`` 1 on high examples and 0 elsewhere.
            first: bool [s, n_clusters], True where a cluster is in the first half.

        Returns:
            Two arrays [s, r, k], the first halves and the second; NaN where a unit has no value in a half.
        """
        parts = self._graphs(outcome, first) if metric == "pagerank" else self._grams(metric, outcome, first)
        halves = list(parts)
        return np.stack([one for one, _ in halves]), np.stack([other for _, other in halves])

    def _grams(self, metric: Metric, outcome: Floats, first: Bools) -> Iterator[tuple[Floats, Floats]]:
        """Values of each split from two products of Gram pieces; the second half is the whole minus the first."""
        from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

        n, n_weapons = len(self.weapon), len(self.usable)
        # By weapon, so that the products read the examples in order.
        order = np.argsort(self.weapon, kind="stable")
        weapon, cluster = self.weapon[order], self.cluster[order]
        outcomes = sparse.csr_matrix(np.asarray(outcome, dtype=np.float64)[order])
        tokens = sparse.hstack([self.columns[order], sparse.csr_matrix(np.ones((n, 1)))], format="csr")
        by_weapon = sparse.csr_matrix((np.ones(n), (weapon, np.arange(n))), shape=(n_weapons, n))
        pieces = [
            (by_weapon, sparse.hstack([tokens, outcomes], format="csr")),
            (outcomes.T.tocsr(), tokens),
        ]
        wanted = {"token_frequency": (1,), "weapon_means": (0,)}.get(metric, (0, 1))
        whole = [_product(*pieces[i]) if i in wanted else np.zeros((0, 0)) for i in (0, 1)]
        for chosen in first:
            half = [
                _product(_of_half(pieces[i][0], chosen[cluster]), pieces[i][1]) if i in wanted else whole[i]
                for i in (0, 1)
            ]
            rest = [_without(one, other) for one, other in zip(whole, half, strict=True)]
            yield self._read(metric, *half), self._read(metric, *rest)

    def _read(self, metric: Metric, by_weapon: Floats, by_outcome: Floats) -> Floats:
        """Values [r, units] of one half.

        Args:
            metric: which number.
            by_weapon: [n_weapons, k + 1 + r]: by weapon, the count of each token, of examples, the sum of outcomes.
            by_outcome: [r, k + 1]: weighted by outcome, the sum of each token and of examples.
        """
        k = self.columns.shape[1]
        if metric == "token_frequency":
            return _ratio(by_outcome[:, :k], by_outcome[:, k:])
        held, count, total = by_weapon[:, :k], by_weapon[:, k : k + 1], by_weapon[:, k + 1 :]
        if metric == "weapon_means":
            return np.asarray(_ratio(total, count)[self.usable].T)
        # A weapon without an example in this half has rate 0 of everything: it adds nothing.
        rate = held / np.maximum(count, 1.0)
        within = held.sum(axis=0) - (rate * held).sum(axis=0)
        return _ratio(by_outcome[:, :k] - total.T @ rate, np.where(within > _SEEN, within, 0.0)[None, :])

    def _graphs(self, outcome: Floats, first: Bools) -> Iterator[tuple[Floats, Floats]]:
        """PageRank in each half of each split, on the graph of tokens weighted by the outcome."""
        from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

        k = self.columns.shape[1]
        if not k:
            nothing = np.zeros((outcome.shape[1], 0))
            yield from [(nothing, nothing)] * len(first)
            return
        some = np.flatnonzero(outcome.any(axis=1))
        outcomes = sparse.csr_matrix(np.asarray(outcome[some], dtype=np.float64).T)
        pairs = _pairs(self.columns[some].tocsr())
        whole = _product(outcomes, pairs).reshape(-1, k, k)
        for chosen in first:
            half = _product(_of_half(outcomes, chosen[self.cluster[some]]), pairs).reshape(-1, k, k)
            yield _ranks(half), _ranks(_without(whole, half))


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
