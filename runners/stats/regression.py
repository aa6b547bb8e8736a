"""What least squares with errors robust to clusters gives, as statsmodels computes it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .groups import MIN_CLUSTERS, raised
from .tails import t_quantile, t_two_sided

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


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
