"""Random directions in the space of pooled vectors: what an effect must beat to be specific to its feature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .sae import CLAMP

Vectors = NDArray[np.floating[Any]]
N_DIRECTIONS = 200
TOP_QUANTILE = 0.995
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
        covariance = (centred.T @ centred / (len(centred) - 1)).astype(np.float64)
        values, vectors = np.linalg.eigh(covariance)
        gaussian = np.random.default_rng(_SEED).standard_normal((len(values), k))
        weight = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ gaussian
        weight = weight.astype(pooled.dtype)
        return cls(centre, weight, np.sort(centred @ weight, axis=0))

    def project(self, pooled: Vectors) -> Vectors:
        """Projections [n, k] of pooled vectors [n, d] on the directions as drawn: the same for every feature."""
        return (pooled - self.centre) @ self.weight

    def matched(self, active_rate: float, effective_max: float) -> MatchedDirections:
        """Scale and bias every direction so that it is as often active and as high as the feature.

        Args:
            active_rate: share of the reference examples on which the feature is active, in (0, 1).
            effective_max: 99.5th percentile of the feature's active activations.
        """
        n = len(self.sorted_projection)
        active = int(np.clip(round(active_rate * n), 2, n - 1))
        threshold = self.sorted_projection[n - active - 1]
        top = _quantile_of_sorted(self.sorted_projection[n - active :], TOP_QUANTILE)
        scale = effective_max / np.maximum(top - threshold, np.finfo(np.float32).tiny)
        return MatchedDirections(self.centre, self.weight * scale, -threshold * scale, scale)


def _quantile_of_sorted(values: Vectors, share: float) -> Vectors:
    """Quantile of each column of values that ascend, [k], linear between its neighbours."""
    place = share * (len(values) - 1)
    below = int(place)
    above = min(below + 1, len(values) - 1)
    return np.asarray(values[below] + (values[above] - values[below]) * (place - below))


@dataclass(frozen=True)
class MatchedDirections:
    """Random directions that look like one feature from the outside.

    Attributes:
        centre: [d].
        weight: [d, k].
        bias: [k].
        scale: [k], by how much each direction was multiplied.
    """

    centre: Vectors
    weight: Vectors
    bias: Vectors
    scale: Vectors

    def activation(self, pooled: Vectors) -> Vectors:
        """Activations [n, k] of the directions at pooled vectors [n, d], clamped as a feature's."""
        return np.clip((pooled - self.centre) @ self.weight + self.bias, 0.0, CLAMP)

    def of_projection(self, projection: Vectors) -> Vectors:
        """The same activations, from what `RandomDirections.project` gave of the vectors."""
        return np.clip(projection * self.scale + self.bias, 0.0, CLAMP)
