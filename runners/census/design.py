"""What effects need to know of the examples, whatever the feature: counts, clusters, and the joint regression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...context.context import Context
from ...context.feature_sums import RowPlan
from ...schemas.job import Job
from .subjects import Subjects

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
_RCOND, _ESTIMABLE = 1e-9, 1e-6


@dataclass(frozen=True)
class Design:
    """Counts of w weapons and t tokens; every array is float64.

    Attributes:
        subjects: what features are compared with.
        n: [w], examples of each weapon.
        held: [w, t], those that hold each token.
        clusters: [w], clusters of each weapon.
        sizes_squared: [w], sum over clusters of (rows) squared.
        clustered: [t], sum over clusters of (rows that hold the token, minus their expected number) squared.
        clusters_with: [t], clusters with a row that holds the token.
        clusters_without: [t], clusters with a row that does not.
        n_clusters: clusters in all.
        inverse: pseudo-inverse of the Gram matrix of weapon dummies followed by token dummies.
        estimable: bool [w], weapons whose effect the data tell from those of abilities.
    """

    subjects: Subjects
    n: Floats
    held: Floats
    clusters: Floats
    sizes_squared: Floats
    clustered: Floats
    clusters_with: Floats
    clusters_without: Floats
    n_clusters: int
    inverse: Floats
    estimable: NDArray[np.bool_]

    @property
    def rate(self) -> Floats:
        """Share of each weapon's examples that hold each token, [w, t]; 0 for a weapon without examples."""
        return self.held / np.maximum(self.n, 1.0)[:, None]

    @property
    def within(self) -> Floats:
        """Sum of squares of each token's presence within weapons, [t]; 0 where no weapon's examples vary."""
        return (self.held * (1.0 - self.rate)).sum(axis=0)

    @property
    def total(self) -> float:
        """Number of examples."""
        return float(self.n.sum())


def make_design(ctx: Context, plan: RowPlan, job: Job | None = None) -> Design:
    """Count the examples of a bundle, chunk by chunk; the job is asked between them whether to stop."""
    from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

    subjects = Subjects.of(ctx)
    w, t = len(ctx.weapons), len(subjects.tokens)
    n = np.bincount(plan.weapon, minlength=w).astype(np.float64)
    held, joint, sized = np.zeros((w, t)), np.zeros((t, t)), np.zeros((w, t))
    squares, sizes_squared, clusters = np.zeros((w, t)), np.zeros(w), np.zeros(w)
    with_it, without = np.zeros(t), np.zeros(t)
    for chunk in plan.chunks():
        if job is not None:
            job.check()
        matrix = ctx.data.token_matrix(chunk.rows)[:, subjects.tokens]
        joint += (matrix.T @ matrix).toarray()
        sizes = chunk.sizes.astype(np.float64)
        member = sparse.csr_matrix((np.ones(len(chunk.rows)), (chunk.position, np.arange(len(chunk.rows)))))
        cells = sparse.csr_matrix(member @ matrix)
        cells_squared = cells.multiply(cells).tocsr()
        with_it += np.bincount(cells.indices, minlength=t)
        full = cells.data >= np.repeat(sizes, np.diff(cells.indptr))
        without += len(sizes) - np.bincount(cells.indices[full], minlength=t)
        for weapon, start, stop in chunk.cluster_runs:
            held[weapon] += np.asarray(cells[start:stop].sum(axis=0)).ravel()
            squares[weapon] += np.asarray(cells_squared[start:stop].sum(axis=0)).ravel()
            sized[weapon] += cells[start:stop].T @ sizes[start:stop]
            sizes_squared[weapon] += float(np.square(sizes[start:stop]).sum())
            clusters[weapon] += stop - start
    rate = held / np.maximum(n, 1.0)[:, None]
    clustered = (squares - 2.0 * rate * sized + rate**2 * sizes_squared[:, None]).sum(axis=0)
    inverse, estimable = _joint_inverse(n, held, joint)
    return Design(
        subjects, n, held, clusters, sizes_squared, clustered, with_it, without, plan.n_clusters, inverse, estimable
    )


def _joint_inverse(n: Floats, held: Floats, joint: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Pseudo-inverse of the Gram matrix, and the weapons whose contrast to the mean weapon is estimable."""
    gram = np.block([[np.diag(n), held], [held.T, joint]])
    inverse = np.linalg.pinv(gram, rcond=_RCOND, hermitian=True)
    contrast = np.zeros((len(n), len(gram)))
    contrast[:, : len(n)] = np.eye(len(n)) - n / max(n.sum(), 1.0)
    missed = np.abs(contrast @ (inverse @ gram) - contrast).max(axis=1)
    return inverse, (missed < _ESTIMABLE) & (n > 0)
