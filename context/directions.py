"""Random directions in the space of pooled vectors: what an effect must beat to be specific to its feature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .sae import CLAMP

Vectors = NDArray[np.floating[Any]]
N_DIRECTIONS = 200
_SEED = 20_240_611


@dataclass(frozen=True)
class RandomDirections:
    """Gaussian directions with the covariance of the pooled vectors.

    Attributes:
        centre: [d], mean of the reference vectors.
        weight: [d, k], one direction a column.
        sorted_projection: [n, k], the reference vectors' projections, ascending in each column.
    """

    centre: Vectors
    weight: Vectors
    sorted_projection: Vectors

    @classmethod
    def from_reference(cls, pooled: Vectors, k: int = N_DIRECTIONS) -> RandomDirections:
        """Draw ``k`` directions from N(0, cov(x)), the covariance taken over the reference vectors [n, d]."""
        centre = pooled.mean(axis=0)
        centred = pooled - centre
        values, vectors = np.linalg.eigh(np.cov(centred, rowvar=False))
        gaussian = np.random.default_rng(_SEED).standard_normal((len(values), k))
        weight = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ gaussian
        weight = weight.astype(pooled.dtype)
        return cls(centre, weight, np.sort(centred @ weight, axis=0))

    def matched(self, active_rate: float, effective_max: float) -> MatchedDirections:
        """Scale and bias every direction so that it is as often active and as high as the feature.

        Args:
            active_rate: share of the reference examples on which the feature is active, in (0, 1).
            effective_max: 99.5th percentile of the feature's active activations.
        """
        n = len(self.sorted_projection)
        active = int(np.clip(round(active_rate * n), 2, n - 1))
        threshold = self.sorted_projection[n - active - 1]
        top = np.quantile(self.sorted_projection[n - active :], 0.995, axis=0)
        scale = effective_max / np.maximum(top - threshold, np.finfo(np.float32).tiny)
        return MatchedDirections(self.centre, self.weight * scale, -threshold * scale)


@dataclass(frozen=True)
class MatchedDirections:
    """Random directions that look like one feature from the outside.

    Attributes:
        centre: [d].
        weight: [d, k].
        bias: [k].
    """

    centre: Vectors
    weight: Vectors
    bias: Vectors

    def activation(self, pooled: Vectors) -> Vectors:
        """Activations [n, k] of the directions at pooled vectors [n, d], clamped as a feature's."""
        return np.clip((pooled - self.centre) @ self.weight + self.bias, 0.0, CLAMP)
