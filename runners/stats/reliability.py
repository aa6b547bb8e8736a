"""Split-half reliability: random halves of clusters, and correlations that leave missing values out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
FEWEST_UNITS = 3
_FLAT = 1e-10


def split_clusters(n_clusters: int, n_splits: int, rng: np.random.Generator) -> Bools:
    """Draw random halves of clusters: [n_splits, n_clusters], True in the first half, which has n_clusters // 2."""
    first = np.zeros((n_splits, n_clusters), dtype=np.bool_)
    first[:, : n_clusters // 2] = True
    return rng.permuted(first, axis=1)


def midranks(values: Floats) -> Floats:
    """Rank along the last axis, 1 first; equal values share their mean rank; NaN has no rank and takes none."""
    other, own = values[..., None, :], values[..., :, None]
    rank = (other < own).sum(axis=-1) + ((other == own).sum(axis=-1) + 1) / 2.0
    return np.where(np.isnan(values), np.nan, rank)


def _both(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    """The two with NaN wherever either has it."""
    known = ~(np.isnan(first) | np.isnan(second))
    return np.where(known, first, np.nan), np.where(known, second, np.nan)


def _centred(values: Floats, n: Floats) -> Floats:
    """Deviations from the mean along the last axis, 0 where NaN, and all 0 where they are rounding alone."""
    known = np.nan_to_num(values)
    deviation = np.where(np.isnan(values), 0.0, known - (known.sum(axis=-1) / n)[..., None])
    size = np.abs(known).max(axis=-1, keepdims=True, initial=0.0)
    return np.where(np.abs(deviation).max(axis=-1, keepdims=True, initial=0.0) > _FLAT * size, deviation, 0.0)


def pearson(first: Floats, second: Floats) -> Floats:
    """Pearson correlation along the last axis of [..., k]; pairs with a NaN are left out.

    NaN with fewer than 3 pairs, or where either side does not vary.
    """
    first, second = _both(np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64))
    n = (~np.isnan(first)).sum(axis=-1)
    x, y = (_centred(each, np.maximum(n, 1)) for each in (first, second))
    scale = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    known = (n >= FEWEST_UNITS) & (scale > 0)
    r = np.divide((x * y).sum(axis=-1), scale, out=np.full(scale.shape, np.nan), where=known)
    return np.clip(r, -1.0, 1.0)


def spearman(first: Floats, second: Floats) -> Floats:
    """Spearman correlation, as `pearson` of midranks; values that differ by rounding alone are ties."""
    first, second = _both(np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64))
    return pearson(midranks(_rounded(first)), midranks(_rounded(second)))


def _rounded(values: Floats) -> Floats:
    """To 10 decimals of the largest along the last axis."""
    size = np.abs(np.nan_to_num(values)).max(axis=-1, keepdims=True, initial=0.0)
    return np.round(values / np.where(size > 0, size, 1.0), 10)


def spearman_brown(r: Floats) -> Floats:
    """Reliability of the whole from the correlation of its halves, 2 r / (1 + r) (Spearman 1910, Brown 1910).

    NaN where r is not above 0: halves that do not agree have no reliability to extrapolate.
    """
    r = np.asarray(r, dtype=np.float64)
    return np.divide(2.0 * r, 1.0 + r, out=np.full(r.shape, np.nan), where=r > 0)


@dataclass(frozen=True)
class Agreement:
    """How the halves of each of s splits agree; every array is [s].

    Attributes:
        pearson: over the units with a value in both halves.
        spearman: the same of ranks.
        n_units: units with a value in both halves.
        n_left_out: units without.
    """

    pearson: Floats
    spearman: Floats
    n_units: NDArray[np.int64]
    n_left_out: NDArray[np.int64]

    @classmethod
    def of(cls, first: Floats, second: Floats) -> Agreement:
        """From the values of k units in the halves of each split, [s, k] each; NaN is a missing value."""
        known = (~(np.isnan(first) | np.isnan(second))).sum(axis=-1)
        return cls(pearson(first, second), spearman(first, second), known, first.shape[-1] - known)

    def reason(self, split: int) -> str | None:
        """Why the correlation of a split is unknown."""
        if not np.isnan(self.pearson[split]):
            return None
        if self.n_units[split] < FEWEST_UNITS:
            return f"only {self.n_units[split]} units have a value in both halves: {FEWEST_UNITS} are needed"
        return "the values of a half do not vary"
