"""Least squares with dummies and cluster-robust covariance, as statsmodels computes it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .groups import MIN_CLUSTERS, exchangeable, gram_matrix, raised, sum_by
from .tails import t_quantile, t_two_sided

if TYPE_CHECKING:
    from scipy import sparse

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
_RCOND = 1e-9


@dataclass(frozen=True)
class ClusteredFit:
    """Coefficients with a cluster-robust covariance.

    Attributes:
        coefficient: [k]; NaN where the data cannot tell it.
        covariance: [k, k].
        pooled: [k], the variances if residuals had one variance and one correlation within clusters (Moulton 1986).
        n_clusters: clusters; with fewer than 10 every standard error is NaN.
    """

    coefficient: Floats
    covariance: Floats
    pooled: Floats
    n_clusters: int

    @property
    def df(self) -> int:
        """Degrees of freedom of the t statistics."""
        return max(self.n_clusters - 1, 1)

    @property
    def std_error(self) -> Floats:
        """Standard errors [k]."""
        known = ~np.isnan(self.coefficient) & (self.n_clusters >= MIN_CLUSTERS)
        return np.where(known, np.sqrt(np.maximum(np.diag(self.covariance), 0.0)), np.nan)

    def guarded(self, support: Ints) -> ClusteredFit:
        """The same with no variance below the pooled one where a group's `GroupMeans.support` is below 30."""
        return replace(self, covariance=raised(self.covariance, self.pooled, support))

    def interval(self, level: float = 0.95) -> tuple[Floats, Floats]:
        """Student's t interval of each coefficient."""
        half = t_quantile(0.5 + level / 2, self.df) * self.std_error
        return self.coefficient - half, self.coefficient + half

    def p_value(self) -> Floats:
        """Two-sided p that each coefficient is 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return t_two_sided(self.coefficient / self.std_error, self.df)


def cluster_correction(n: int, n_clusters: int, n_parameters: int) -> float:
    """G / (G - 1) x (n - 1) / (n - K): the small-sample factor of statsmodels' and Stata's clustered covariance."""
    return n_clusters / max(n_clusters - 1, 1) * (n - 1) / max(n - n_parameters, 1)


def within_groups(value: Floats, dummies: Floats, group: Ints, cluster: Ints) -> ClusteredFit:
    """Regress on dummies with a fixed effect for each group (Frisch and Waugh 1933), errors robust to clusters.

    Equal to OLS on the dummies and one dummy a group.

    Args:
        value: [n].
        dummies: [n, k].
        group: int [n], such as the weapon.
        cluster: int [n].
    """
    value, dummies = np.asarray(value, dtype=np.float64), np.asarray(dummies, dtype=np.float64)
    group = np.unique(group, return_inverse=True)[1]
    y = value - group_average(value[:, None], group)[:, 0]
    x = dummies - group_average(dummies, group)
    gram = x.T @ x
    inverse = np.linalg.pinv(gram, rcond=_RCOND, hermitian=True)
    coefficient = inverse @ (x.T @ y)
    residual = y - x @ coefficient
    coefficient = np.where(_estimable(gram, inverse), coefficient, np.nan)
    cluster = np.unique(cluster, return_inverse=True)[1]
    n_clusters = int(cluster.max()) + 1
    meat = _cluster_gram(x * residual[:, None], cluster, n_clusters)
    n_parameters = round(float(np.trace(inverse @ gram))) + int(group.max()) + 1
    covariance = cluster_correction(len(y), n_clusters, n_parameters) * inverse @ meat @ inverse
    variance, correlation = exchangeable(residual, cluster, n_parameters)
    shared = (1.0 - correlation) * gram + correlation * _cluster_gram(x, cluster, n_clusters)
    return ClusteredFit(coefficient, covariance, variance * np.diag(inverse @ shared @ inverse), n_clusters)


def _cluster_gram(columns: Floats, cluster: Ints, n_clusters: int) -> Floats:
    """Sum over clusters of s s', where s [k] is the sum of the cluster's rows."""
    sums = np.stack([sum_by(cluster, column, n_clusters) for column in columns.T], axis=1)
    return sums.T @ sums


def group_average(columns: Floats, group: Ints) -> Floats:
    """Each row's group mean of every column, [n, k]."""
    counts = np.bincount(group)
    means = np.stack([sum_by(group, column, len(counts)) / counts for column in columns.T], axis=1)
    return means[group]


def _estimable(gram: Floats, inverse: Floats) -> NDArray[np.bool_]:
    """Which coefficients the data determine: rows of the identity that the projection keeps."""
    projection = inverse @ gram
    return np.abs(projection - np.eye(len(gram))).max(axis=1, initial=0.0) < 1e-6


@dataclass(frozen=True)
class DummyDesign:
    """A sparse design of group dummies followed by token dummies, factorised once.

    Attributes:
        matrix: CSR [n, n_groups + n_tokens].
        inverse: pseudo-inverse of its Gram matrix.
        projection: inverse x Gram, which tells what is estimable.
        rank: of the Gram matrix.
        n_groups: how many leading columns are group dummies.
    """

    matrix: sparse.csr_matrix
    inverse: Floats
    projection: Floats
    rank: int
    n_groups: int

    @classmethod
    def of(cls, group: Ints, n_groups: int, tokens: sparse.csr_matrix) -> DummyDesign:
        """Build it from groups [n] and token presence, CSR [n, n_tokens]."""
        from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

        n = len(group)
        groups = sparse.csr_matrix((np.ones(n), (np.arange(n), group)), shape=(n, n_groups))
        matrix = sparse.csr_matrix(sparse.hstack([groups, tokens]))
        gram = gram_matrix(matrix)
        inverse = np.linalg.pinv(gram, rcond=_RCOND, hermitian=True)
        return cls(matrix, inverse, inverse @ gram, round(float(np.trace(inverse @ gram))), n_groups)


def adjusted_group_effects(value: Floats, design: DummyDesign, cluster: Ints) -> ClusteredFit:
    """Effect of each group with the tokens held fixed, minus the n-weighted mean effect; errors robust to clusters.

    OLS on group and token dummies; the contrast of group g is beta_g - sum_h n_h beta_h / n.

    Args:
        value: [n].
        design: the dummies.
        cluster: int [n].
    """
    value = np.asarray(value, dtype=np.float64)
    n = len(value)
    beta = design.inverse @ (design.matrix.T @ value)
    residual = value - design.matrix @ beta
    cluster = np.unique(cluster, return_inverse=True)[1]
    n_clusters = int(cluster.max()) + 1
    meat = gram_matrix(_cluster_scores(design, residual, cluster, n_clusters))
    covariance = cluster_correction(n, n_clusters, design.rank) * design.inverse @ meat @ design.inverse
    variance, correlation = exchangeable(residual, cluster, design.rank)
    shared = correlation * gram_matrix(_cluster_scores(design, np.ones(n), cluster, n_clusters))
    shared = design.inverse @ (shared + (1.0 - correlation) * gram_matrix(design.matrix)) @ design.inverse
    counts = np.asarray(design.matrix[:, : design.n_groups].sum(axis=0), dtype=np.float64).ravel()
    contrast = np.zeros((design.n_groups, design.matrix.shape[1]))
    contrast[:, : design.n_groups] = np.eye(design.n_groups) - counts / n
    estimable = np.abs(contrast @ design.projection - contrast).max(axis=1) < 1e-6
    estimable &= counts > 0
    effect = np.where(estimable, contrast @ beta, np.nan)
    pooled = variance * np.einsum("ij,jk,ik->i", contrast, shared, contrast, optimize=True)
    return ClusteredFit(effect, contrast @ covariance @ contrast.T, pooled, n_clusters)


def _cluster_scores(design: DummyDesign, residual: Floats, cluster: Ints, n_clusters: int) -> sparse.csr_matrix:
    """Sum over each cluster of x_i u_i, CSR [n_clusters, p]."""
    from scipy import sparse  # noqa: PLC0415

    n = len(residual)
    weighted = sparse.csr_matrix((residual, (cluster, np.arange(n))), shape=(n_clusters, n))
    return sparse.csr_matrix(weighted @ design.matrix)
