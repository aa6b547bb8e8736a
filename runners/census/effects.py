"""Effects of abilities, weapons and parts of kits on many features at once, from their sums."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ...context.feature_sums import FeatureSums
from ..stats.groups import FEW, MIN_CLUSTERS
from ..stats.regression import cluster_correction
from .design import Design
from .subjects import Parts

Floats = NDArray[np.floating[Any]]
LARGEST_Z = 37.0
"""A larger one has a p value below what a double can hold."""
_ROUNDING = 1e-6
"""Sums are of single precision: a variance below this part of the mean square is rounding."""


@dataclass(frozen=True)
class Effects:
    """Effects of k subjects on b features, all arrays [k, b] float64 and NaN where unknown.

    Attributes:
        effect: difference in mean activation.
        error: its standard error.
        df: degrees of freedom of effect / error.
        adjusted: the effect with abilities held fixed, for weapons and their parts; None for abilities.
    """

    effect: Floats
    error: Floats
    df: Floats
    adjusted: Floats | None = None

    @cached_property
    def z(self) -> Floats:
        """The t statistic as the normal deviate with the same p value, so that few clusters count for less."""
        t = ratio(self.effect, self.error)
        # Student's t by the incomplete beta function: scipy's stdtr sums a series of df terms.
        two_sided = special.betainc(self.df / 2.0, 0.5, self.df / (self.df + t**2))
        return np.sign(t) * np.minimum(-special.ndtri(two_sided / 2.0), LARGEST_Z)


def ratio(top: Floats, bottom: Floats) -> Floats:
    """Quotient in float64, NaN where the denominator is not positive."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.asarray(bottom) > 0, np.asarray(top, np.float64) / np.asarray(bottom, np.float64), np.nan)


class BlockEffects:
    """The effects of a block of features.

    Args:
        sums: sums over the examples.
        design: counts of the examples.
    """

    def __init__(self, sums: FeatureSums, design: Design) -> None:
        self._sums, self._design = sums, design
        self._n = design.n[:, None]
        self.by_weapon = sums.total[:, -1].astype(np.float64)
        self.squares = sums.square[:, -1].astype(np.float64)
        self.active_by_weapon = sums.active[:, -1].astype(np.float64)
        self._mean = self.by_weapon / np.maximum(self._n, 1.0)

    @cached_property
    def _residual_squares(self) -> Floats:
        """Sum of squares about the weapon's mean, [w, b]."""
        return np.maximum(self.squares - self._n * self._mean**2, _ROUNDING * self.squares)

    @cached_property
    def correlation(self) -> Floats:
        """Correlation within clusters of activations about their weapon's mean, [b], 0 to 1; 0 with single rows."""
        sums, design = self._sums, self._design
        pairs = design.sizes_squared.sum() - design.total
        squares = self._residual_squares.sum(axis=0)
        if pairs <= 0:
            return np.zeros(len(squares))
        about = sums.cluster_square - 2.0 * self._mean * sums.cluster_sized
        between = (about + self._mean**2 * design.sizes_squared[:, None]).sum(axis=0) - squares
        return np.clip(np.nan_to_num(ratio(between / pairs, squares / design.total)), 0.0, 1.0)

    @cached_property
    def _pooled_variance(self) -> Floats:
        """Variance about the weapons' means, [b]."""
        parameters = int((self._design.n > 0).sum())
        return self._residual_squares.sum(axis=0) / max(self._design.total - parameters, 1.0)

    def abilities(self) -> Effects:
        """Mean with a token minus mean without, the weapon held fixed: OLS on the token and weapon dummies.

        The variance is the heteroskedasticity-robust one times the design effect of the clusters, 1 - r + r K / W: r is
        the feature's correlation within clusters, W the token's sum of squares, K that of its sums over clusters. With
        fewer than 30 active examples or clusters it is not below that of one variance everywhere.
        """
        sums, design = self._sums, self._design
        rate, within = design.rate, design.within[:, None]
        total, active = (array[:, :-1].sum(axis=0, dtype=np.float64) for array in (sums.total, sums.active))
        beta = ratio(total - rate.T @ self.by_weapon, within)
        squares, cubes = self._score_moments()
        fourths = (design.held * (1.0 - rate) ** 4 + (design.n[:, None] - design.held) * rate**4).sum(axis=0)
        robust = squares - 2.0 * beta * cubes + beta**2 * fourths[:, None]
        correction = cluster_correction(int(design.total), design.n_clusters, int((design.n > 0).sum()) + 1)
        robust = np.maximum(robust, _ROUNDING * squares) * correction
        few = np.minimum(active, design.clusters_with[:, None]) < FEW
        variance = np.where(few, np.maximum(robust, self._pooled_variance * within), robust)
        inflation = 1.0 + self.correlation * (ratio(design.clustered[:, None], within) - 1.0)
        enough = (design.clusters_with >= MIN_CLUSTERS) & (design.clusters_without >= MIN_CLUSTERS)
        error = np.where(enough[:, None], np.sqrt(variance * np.maximum(inflation, 0.0)) / within, np.nan)
        return Effects(beta, error, np.maximum(design.clusters_with - 1.0, 1.0)[:, None])

    def _score_moments(self) -> tuple[Floats, Floats]:
        """Sums of x^2 y^2 and of x^3 y, [t, b]; x is presence about the weapon's rate, y a about the weapon's mean."""
        sums, design, shape = self._sums, self._design, self._sums.total[0, :-1].shape
        squares, cubes, rates = np.zeros(shape), np.zeros(shape), design.rate
        for weapon in np.flatnonzero(design.n > 0).tolist():
            rate, held, mean = rates[weapon][:, None], design.held[weapon][:, None], self._mean[weapon]
            total, square = (array[weapon, :-1].astype(np.float64) for array in (sums.total, sums.square))
            about = np.maximum(square - 2.0 * mean * total + mean**2 * held, 0.0)
            squares += (1.0 - 2.0 * rate) * about + rate**2 * self._residual_squares[weapon]
            cubes += ((1.0 - rate) ** 3 + rate**3) * (total - mean * held)
        return squares, cubes

    def weapons(self) -> Effects:
        """Mean of a weapon's examples minus the mean of all others; Welch's error times the clusters' design effect.

        With fewer than 30 active examples or clusters a weapon's variance is not below the pooled one. ``adjusted`` is
        the same contrast of the coefficients of OLS on weapon and token dummies.
        """
        design, n, everything = self._design, self._n, self._design.total
        rest_n = everything - n
        rest = ratio(self.by_weapon.sum(axis=0) - self.by_weapon, rest_n)
        effect = ratio(self.by_weapon, n) - rest
        rest_squares = np.maximum(self.squares.sum(axis=0) - self.squares - rest_n * rest**2, 0.0)
        own = ratio(self._residual_squares, n - 1.0)
        few = np.minimum(self.active_by_weapon, design.clusters[:, None]) < FEW
        own = np.where(few, np.maximum(own, self._pooled_variance), own) / np.maximum(n, 1.0)
        sizes, all_sizes = design.sizes_squared[:, None], design.sizes_squared.sum()
        own = own * (1.0 + self.correlation * (ratio(sizes, n) - 1.0))
        others = ratio(rest_squares, rest_n - 1.0) / np.maximum(rest_n, 1.0)
        others = others * (1.0 + self.correlation * (ratio(all_sizes - sizes, rest_n) - 1.0))
        enough = (design.clusters >= MIN_CLUSTERS) & (design.clusters.sum() - design.clusters >= MIN_CLUSTERS)
        error = np.where(enough[:, None], np.sqrt(own + others), np.nan)
        return Effects(effect, error, np.maximum(design.clusters - 1.0, 1.0)[:, None], self._adjusted)

    @cached_property
    def _adjusted(self) -> Floats:
        """Effect of each weapon against all others with abilities held fixed, [w, b]."""
        design, everything = self._design, self._design.total
        outcome = np.concatenate([self.by_weapon, self._sums.total[:, :-1].sum(axis=0, dtype=np.float64)])
        beta = (design.inverse @ outcome)[: len(design.n)]
        delta = (beta - design.n @ beta / everything) * ratio(np.array(everything), everything - self._n)
        return np.where(design.estimable[:, None], delta, np.nan)

    def parts(self, parts: Parts) -> Effects:
        """Mean of the examples whose kit has a part minus the mean of all others; kits are the units.

        The variance of each mean is CR2 over its kits, and with fewer than 30 kits not below what the variance between
        kits, pooled over the parts of the kind, gives; degrees of freedom by Welch and Satterthwaite.
        """
        of_weapon, design = self._design.subjects.kits.of_weapon, self._design
        kits = np.zeros((len(self._design.subjects.kits), len(of_weapon)))
        kits[of_weapon, np.arange(len(of_weapon))] = 1.0
        n = kits @ design.n
        member = parts.member & (n > 0)
        means = (kits @ self.by_weapon) / np.maximum(n, 1.0)[:, None]
        with_it, without = _OverKits.of(member, n, means), _OverKits.of(~parts.member & (n > 0), n, means)
        variance = with_it.guarded()
        error = np.sqrt(variance + without.variance)
        degrees = ratio(
            (variance + without.variance) ** 2,
            ratio(variance**2, with_it.kits - 1.0) + ratio(without.variance**2, without.kits - 1.0),
        )
        enough = (with_it.kits >= 2) & (without.kits >= 2)
        held = kits @ np.nan_to_num(self._adjusted * design.n[:, None] * (1.0 - design.n / design.total)[:, None])
        known = member @ (kits @ (~design.estimable & (design.n > 0))) == 0
        size = member @ n
        adjusted = ratio(member @ held, size[:, None]) * ratio(np.array(design.total), design.total - size)[:, None]
        return Effects(
            effect=with_it.mean - without.mean,
            error=np.where(enough, error, np.nan),
            df=np.nan_to_num(degrees, nan=1.0),
            adjusted=np.where(known[:, None], adjusted, np.nan),
        )


@dataclass(frozen=True)
class _OverKits:
    """Means of the examples of g sets of kits, and their variance over kits.

    Attributes:
        kits: [g, 1], kits with examples.
        mean: [g, b]; NaN for a set without.
        variance: [g, b], CR2 (Bell and McCaffrey 2002).
        spread: [g, 1], sum of the squared shares of the kits.
        pooled: [b], variance between the kits of a set, pooled over the sets.
    """

    kits: Floats
    mean: Floats
    variance: Floats
    spread: Floats
    pooled: Floats

    @classmethod
    def of(cls, member: NDArray[np.bool_], n: Floats, means: Floats) -> _OverKits:
        """Take them from the examples n [u] and the mean activations [u, b] of kits."""
        weight = np.nan_to_num(ratio(member * n, (member @ n)[:, None]))
        kits, spread = member.sum(axis=1, keepdims=True), (weight**2).sum(axis=1, keepdims=True)
        mean = weight @ means

        def squares(weights: Floats) -> Floats:
            """Weighted sum of squares about the set's mean, [g, b]."""
            about = weights @ means**2 - 2.0 * mean * (weights @ means) + mean**2 * weights.sum(axis=1, keepdims=True)
            return np.maximum(about, _ROUNDING * (weights @ means**2))

        pooled = np.nan_to_num(ratio(squares(weight).sum(axis=0), np.where(kits >= 2, 1.0 - spread, 0.0).sum()))
        variance = squares(np.nan_to_num(ratio(weight**2, 1.0 - weight)))
        return cls(kits.astype(np.float64), np.where(kits > 0, mean, np.nan), variance, spread, pooled)

    def guarded(self) -> Floats:
        """The variance, not below the pooled one where there are fewer than 30 kits."""
        return np.where(self.kits < FEW, np.maximum(self.variance, self.pooled * self.spread), self.variance)
