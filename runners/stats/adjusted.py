"""Effects of groups with tokens held fixed: least squares on both, with errors robust to clusters.

What depends on the examples alone (their order by cluster, the inverse Gram matrix, the contrasts) is made once; an
outcome then costs two sparse products and one dense one, block by block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .cells import Cells, Grouping
from .groups import exchangeable_sums
from .regression import ClusteredFit, cluster_correction

if TYPE_CHECKING:
    from scipy import sparse

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
_RCOND = 1e-9
_ESTIMABLE = 1e-6
_BLOCK_CELLS = 2_048
_READ_ROWS = 100_000


@dataclass(frozen=True)
class Block:
    """Some clusters with their cells, examples and those examples' tokens.

    Attributes:
        cells: which cells.
        rows: which examples, in order.
        clusters: int [b + 1], where each of its clusters begins among its cells.
        sizes: int [cells], examples of each cell.
        lengths: int [rows], tokens of each example.
        token: int32 [nnz], the tokens.
        n_tokens: tokens that occur.
    """

    cells: slice
    rows: slice
    clusters: Ints
    sizes: Ints
    lengths: Ints
    token: NDArray[np.int32]
    n_tokens: int

    @property
    def examples(self) -> sparse.csr_matrix:
        """Tokens of each example, CSR [rows, n_tokens]."""
        return self._summed(np.ones(len(self.token)), _bounds(self.lengths))

    @property
    def counts(self) -> sparse.csr_matrix:
        """How often each cell holds each token, CSR [cells, n_tokens]; equal entries are not added up."""
        ends = _bounds(self.lengths)[_bounds(self.sizes)]
        return self._summed(np.ones(len(self.token)), ends)

    def weighted(self, weight: Floats) -> NDArray[np.float64]:
        """Sum over each cluster's examples of their tokens times their weight [rows], [b, n_tokens]."""
        ends = _bounds(self.lengths)[_bounds(self.sizes)[self.clusters]]
        return self._summed(np.repeat(weight, self.lengths), ends).toarray()

    def _summed(self, value: Floats, bounds: Ints) -> sparse.csr_matrix:
        from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

        return sparse.csr_matrix((value, self.token, bounds), shape=(len(bounds) - 1, self.n_tokens))


def _bounds(lengths: Ints) -> NDArray[np.int32]:
    """Where runs of these lengths begin and, last, where they end."""
    bounds = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=bounds[1:])
    return bounds


@dataclass(frozen=True)
class TokenRows:
    """Examples with their group and tokens, cluster by cluster and within one group by group.

    Takes 1 byte an example, 1 a token (2 in a vocabulary of 256 or more) and about 10 a cell; 8 more an example where
    the examples do not lie in that order by themselves.

    Attributes:
        cells: of groups by clusters.
        order: int [n], the example at each place; None where they lie so already.
        lengths: int [n], tokens of each example, in order.
        token: int [nnz], the tokens, in order, numbered among those that occur.
        n_tokens: tokens that occur.
    """

    cells: Cells
    order: Ints | None
    lengths: Ints
    token: Ints
    n_tokens: int

    @classmethod
    def of(cls, grouping: Grouping, tokens: Callable[[NDArray[np.intp]], sparse.csr_matrix]) -> TokenRows:
        """Read the examples of a grouping in the order of its cells; ``tokens`` gives the 0/1 tokens of some, CSR."""
        n = len(grouping.cell)
        order = (
            None if bool(np.all(grouping.cell[1:] >= grouping.cell[:-1])) else np.argsort(grouping.cell, kind="stable")
        )
        rows = np.arange(n) if order is None else order
        width = tokens(rows[:0]).shape[1]
        smallest = np.min_scalar_type(width)
        lengths, token, seen = list[Ints](), list[Ints](), np.zeros(width, dtype=np.int64)
        for at in range(0, n, _READ_ROWS):
            part = tokens(rows[at : at + _READ_ROWS])
            lengths.append(np.diff(part.indptr).astype(smallest))
            token.append(part.indices.astype(smallest))
            seen += np.bincount(part.indices, minlength=width)
        number = (np.cumsum(seen > 0) - 1).astype(smallest)
        numbered = np.concatenate([number[part] for part in token])
        return cls(grouping.cells, order, np.concatenate(lengths), numbered, int((seen > 0).sum()))

    def in_order(self, value: Floats) -> NDArray[np.float64]:
        """A value of each example [n], in order."""
        return np.asarray(value if self.order is None else value[self.order], dtype=np.float64)

    def blocks(self) -> Iterator[Block]:
        """The examples by blocks of clusters."""
        cells, row, entry = self.cells, 0, 0
        first = np.searchsorted(cells.starts, np.arange(0, len(cells), _BLOCK_CELLS))
        cuts = np.unique(np.append(first, cells.n_clusters))
        for low, high in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
            starts = cells.starts[low : high + 1]
            at = slice(int(starts[0]), int(starts[-1]))
            sizes = cells.size[at]
            rows = slice(row, row + int(sizes.sum()))
            lengths = self.lengths[rows]
            row, stop = rows.stop, entry + int(lengths.sum(dtype=np.int64))
            yield Block(
                at, rows, starts - starts[0], sizes, lengths, self.token[entry:stop].astype(np.int32), self.n_tokens
            )
            entry = stop

    def scores(self, value: Floats) -> Floats:
        """X'v of a value [n], in order: its sum by group, then by token, [p]."""
        by_token = np.zeros(self.n_tokens)
        for block in self.blocks():
            by_token += block.examples.T @ value[block.rows]
        return np.concatenate([self.cells.by_group(self._by_cell(value)), by_token])

    def gram(self) -> Floats:
        """X'X, [p, p]."""
        crossed, own = np.zeros((self.cells.n_groups, self.n_tokens)), np.zeros((self.n_tokens, self.n_tokens))
        for block in self.blocks():
            held = block.examples.toarray()
            own += held.T @ held
            crossed += self._by_group(block, np.ones(len(block.sizes))) @ block.counts.toarray()
        return _blocks_of(np.diag(self.cells.group_sizes), crossed, own)

    def cluster_gram(self, weight: Callable[[Block], Floats]) -> tuple[Floats, Floats]:
        """Sum over clusters of s s', where s [p] sums x_i times a weight over the cluster's examples.

        Args:
            weight: gives the weights of a block's examples.

        Returns:
            That sum, [p, p], and the weights summed over cells, [c].
        """
        by_cell = np.empty(len(self.cells))
        crossed, own = np.zeros((self.cells.n_groups, self.n_tokens)), np.zeros((self.n_tokens, self.n_tokens))
        for block in self.blocks():
            weights = weight(block)
            by_cell[block.cells] = np.add.reduceat(weights, _bounds(block.sizes)[:-1])
            scores = block.weighted(weights)
            own += scores.T @ scores
            crossed += self._by_group(block, by_cell[block.cells], block.clusters) @ scores
        return _blocks_of(self.cells.gram(by_cell), crossed, own), by_cell

    def _by_cell(self, value: Floats) -> Floats:
        return np.add.reduceat(value, _bounds(self.cells.size)[:-1])

    def _by_group(self, block: Block, value: Floats, starts: Ints | None = None) -> sparse.csc_matrix:
        """Values [cells] of a block in the row of their group, [n_groups, clusters], or [n_groups, cells]."""
        from scipy import sparse  # noqa: PLC0415

        starts = np.arange(len(value) + 1) if starts is None else starts
        shape = (len(starts) - 1, self.cells.n_groups)
        return sparse.csr_matrix((value, self.cells.group[block.cells].astype(np.int32), starts), shape=shape).T


def _blocks_of(groups: Floats | Ints, crossed: Floats, tokens: Floats) -> Floats:
    """A symmetric matrix over group and token columns from its parts."""
    return np.block([[groups.astype(np.float64), crossed], [crossed.T, tokens]])


@dataclass(frozen=True)
class AdjustedEffects:
    """Effect of each group with the tokens held fixed, minus the n-weighted mean effect.

    OLS on group and token dummies; the contrast of group g is beta_g - sum_h n_h beta_h / n.

    Attributes:
        rows: the examples.
        inverse: [p, p], pseudo-inverse of the Gram matrix of all dummies.
        rank: its rank.
        weights: [g, p], the contrasts as functions of the scores X'y.
        known: bool [g], contrasts that the data determine.
        independent: [g], variances of the contrasts if residuals had variance 1 and were independent.
        equal: [g], the same if those of a cluster were equal.
    """

    rows: TokenRows
    inverse: Floats
    rank: int
    weights: Floats
    known: NDArray[np.bool_]
    independent: Floats
    equal: Floats

    @classmethod
    def of(cls, grouping: Grouping, tokens: Callable[[NDArray[np.intp]], sparse.csr_matrix]) -> AdjustedEffects:
        """Factorise the dummies of the groups of some examples and of their 0/1 ``tokens``, CSR for positions given."""
        rows = TokenRows.of(grouping, tokens)
        gram, counts = rows.gram(), rows.cells.group_sizes
        inverse = np.linalg.pinv(gram, rcond=_RCOND, hermitian=True)
        projection = inverse @ gram
        contrast = np.zeros((len(counts), len(gram)))
        contrast[:, : len(counts)] = np.eye(len(counts)) - counts / counts.sum()
        weights = contrast @ inverse
        clustered, _ = rows.cluster_gram(lambda block: np.ones(len(block.lengths)))
        return cls(
            rows=rows,
            inverse=inverse,
            rank=round(float(np.trace(projection))),
            weights=weights,
            known=(np.abs(contrast @ projection - contrast).max(axis=1) < _ESTIMABLE) & (counts > 0),
            independent=_variances(weights, gram),
            equal=_variances(weights, clustered),
        )

    def coefficients(self, value: Floats) -> Floats:
        """The effects on an outcome [n] alone, [g]; NaN where the data cannot tell them."""
        return np.where(self.known, self.weights @ self.rows.scores(self.rows.in_order(value)), np.nan)

    def fit(self, value: Floats) -> ClusteredFit:
        """The effects on an outcome [n], errors robust to clusters."""
        cells, value = self.rows.cells, self.rows.in_order(value)
        scores = self.rows.scores(value)
        by_group, by_token = np.split(self.inverse @ scores, [cells.n_groups])
        squares = 0.0

        def residual(block: Block) -> Floats:
            nonlocal squares
            found = value[block.rows] - block.examples @ by_token
            found -= np.repeat(by_group[cells.group[block.cells]], block.sizes)
            squares += float(found @ found)
            return found

        meat, by_cell = self.rows.cluster_gram(residual)
        by_cluster, scale = cells.by_cluster(by_cell), cluster_correction(len(value), cells.n_clusters, self.rank)
        variance, correlation = exchangeable_sums(squares, by_cluster, cells.cluster_sizes, self.rank)
        return ClusteredFit(
            coefficient=np.where(self.known, self.weights @ scores, np.nan),
            covariance=scale * self.weights @ meat @ self.weights.T,
            pooled=variance * ((1.0 - correlation) * self.independent + correlation * self.equal),
            n_clusters=cells.n_clusters,
        )


def _variances(weights: Floats, gram: Floats) -> Floats:
    """Diagonal of W G W', [g]."""
    return np.einsum("ij,ij->i", weights @ gram, weights)
