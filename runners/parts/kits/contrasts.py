"""Parts of kits (a sub, a special) against the rest: errors over kits, random deals, kits of one main weapon.

A part belongs to the kit, so a thousand examples of five kits are five observations of it. Everything here works on
one total a kit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...stats.groups import FEW
from ...stats.tails import t_quantile

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]
N_DEALS = 1999


@dataclass(frozen=True)
class PartEffects:
    """Effects of g parts; every array is [g], NaN where unknown.

    Attributes:
        n: examples.
        kits: kits with the part.
        mean: mean over the examples.
        std_error: of the mean, over kits.
        delta: mean minus the mean of all examples.
        error: of delta, over kits.
        df: degrees of freedom of delta's t (Welch and Satterthwaite).
        p_value: share of random deals of the kits to the parts whose |delta| is at least as large.
        within: mean over main weapons of (kits with the part minus kits without it).
        within_error: of that, over main weapons.
        within_mains: main weapons that have both.
        strongest: kit that carries most of delta, -1 where the part has a single main weapon.
        delta_without: delta without that kit's main weapon.
    """

    n: Floats
    kits: Ints
    mean: Floats
    std_error: Floats
    delta: Floats
    error: Floats
    df: Floats
    p_value: Floats
    within: Floats
    within_error: Floats
    within_mains: Ints
    strongest: Ints
    delta_without: Floats

    @classmethod
    def unknown(cls, g: int) -> PartEffects:
        """What is known of g parts where no kit has an example: nothing."""
        none, nothing = np.zeros(g, dtype=np.int64), np.full(g, np.nan)
        return cls(
            n=np.zeros(g), kits=none, mean=nothing, std_error=nothing, delta=nothing, error=nothing, df=nothing,
            p_value=nothing, within=nothing, within_error=nothing, within_mains=none, strongest=none - 1,
            delta_without=nothing,
        )  # fmt: skip

    def interval(self, level: float = 0.95) -> tuple[Floats, Floats]:
        """Student's t intervals of delta."""
        half = t_quantile(0.5 + level / 2, np.maximum(self.df, 1.0)) * self.error
        return self.delta - half, self.delta + half

    def within_interval(self, level: float = 0.95) -> tuple[Floats, Floats]:
        """Student's t intervals of the contrast within main weapons, over main weapons."""
        half = t_quantile(0.5 + level / 2, np.maximum(self.within_mains - 1, 1)) * self.within_error
        return self.within - half, self.within + half

    @property
    def carried(self) -> Bools:
        """Parts whose delta loses more than half, or its sign, without one main weapon."""
        left = np.sign(self.delta) * self.delta_without
        return np.isnan(self.delta_without) | (left < 0.5 * np.abs(self.delta))


def part_effects(
    n: Floats, total: Floats, member: Bools, main: Ints, *, family: Ints, rng: np.random.Generator | None = None
) -> PartEffects:
    """Compare the examples of each part with all examples.

    delta = (1 - f) (mean with - mean without), f the share of the examples with the part. Its variance is
    (1 - f)^2 times the sum of both means' variances over kits. That of a mean is CR2 (Bell and McCaffrey 2002): the
    sum over kits of w^2 (mean of the kit - mean)^2 / (1 - w), w the kit's share of the examples; equal kits give the
    usual s^2 / k. With fewer than 30 kits it is not below what the variance between kits pooled over the parts of a
    family gives: parts without any active kit would look certain. Degrees of freedom by Welch and Satterthwaite.

    Args:
        n: [u], examples of each kit, or weapons swapped in; 0 leaves a kit out.
        total: [u], their activation summed.
        member: [g, u], which kits have each part.
        main: [u], main weapon of each kit.
        family: [g], parts whose variances are pooled, such as the subs.
        rng: deals the kits; None leaves p unknown.
    """
    seen = np.flatnonzero(n > 0)
    if not len(seen):
        return PartEffects.unknown(len(member))
    member, n, total, main = member[:, seen], np.asarray(n, np.float64)[seen], total[seen], main[seen]
    size, everything, kits = member @ n, n.sum(), member.sum(axis=1)
    mean, variance = _guarded_means(member, n, total / n, family)
    rest, rest_kits = _over_kits(~member, n, total / n)[1], len(n) - kits
    share = size / everything
    error = np.where(rest_kits >= 2, (1.0 - share) * np.sqrt(variance + rest), np.nan)
    lost = rest**2 / np.maximum(rest_kits - 1, 1)
    df = _divide((variance + rest) ** 2, variance**2 / np.maximum(kits - 1, 1) + lost, otherwise=kits - 1.0)
    # A part that every kit has is everything: there is nothing to compare it with.
    delta = np.where(rest_kits > 0, mean - total.sum() / everything, np.nan)
    p = np.full(len(delta), np.nan) if rng is None else _deal_p(n, total, member, delta, rng)
    within, within_error, within_mains = _within_main(n, total, member, main, family)
    strongest, without = _without_strongest(n, total, member, main, delta)
    return PartEffects(
        n=size,
        kits=kits,
        mean=mean,
        std_error=np.sqrt(variance),
        delta=delta,
        error=error,
        df=df,
        p_value=np.where((kits >= 2) & (rest_kits > 0), p, np.nan),
        within=within,
        within_error=within_error,
        within_mains=within_mains,
        strongest=np.where((strongest >= 0) & (rest_kits > 0), seen[strongest], -1),
        delta_without=np.where(rest_kits > 0, without, np.nan),
    )


def _divide(top: NDArray[Any], bottom: NDArray[Any], otherwise: Floats | float = np.nan) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.asarray(bottom) > 0, top / bottom, otherwise)


def _guarded_means(member: Bools, n: Floats, means: Floats, family: Ints) -> tuple[Floats, Floats]:
    """Mean of each part's examples and its variance over kits, [g] each; NaN for a part of one kit."""
    mean, variance, spread = _over_kits(member, n, means)
    kits = member.sum(axis=1)
    floor = _pooled_spread(member, n, means, mean, family) * spread
    return mean, np.where(kits >= 2, np.where(kits < FEW, np.maximum(variance, floor), variance), np.nan)


def _over_kits(member: Bools, n: Floats, means: Floats) -> tuple[Floats, Floats, Floats]:
    """Mean of each part's examples, its CR2 variance over kits, and the sum of squared shares, [g] each."""
    weight = _divide(member * n, (member @ n)[:, None], 0.0)
    mean = np.where(member.any(axis=1), weight @ means, np.nan)
    residual = means - np.nan_to_num(mean)[:, None]
    return mean, _divide(weight**2 * residual**2, 1.0 - weight, 0.0).sum(axis=1), (weight**2).sum(axis=1)


def _pooled_spread(member: Bools, n: Floats, means: Floats, mean: Floats, family: Ints) -> Floats:
    """Variance between kits of one part, pooled over the parts of a family, [g].

    If kits of a part have one variance, a part's weighted sum of squares expects it times 1 - (sum of squared shares).
    """
    weight = _divide(member * n, (member @ n)[:, None], 0.0)
    squares = (weight * (means - np.nan_to_num(mean)[:, None]) ** 2).sum(axis=1)
    expected = np.where(member.sum(axis=1) >= 2, 1.0 - (weight**2).sum(axis=1), 0.0)
    pooled = _divide(np.bincount(family, squares), np.bincount(family, expected), 0.0)
    return pooled[family]


def _deal_p(n: Floats, total: Floats, member: Bools, delta: Floats, rng: np.random.Generator) -> Floats:
    """(1 + random deals of the kits to the parts with a |delta| at least as large) / (1 + deals), [g]."""
    order = rng.permuted(np.tile(np.arange(len(n)), (N_DEALS, 1)), axis=1)
    groups = member.astype(np.float64)
    dealt = np.abs(_divide(groups @ total[order].T, groups @ n[order].T, 0.0) - total.sum() / n.sum())
    return (1.0 + (dealt >= np.abs(delta)[:, None] - 1e-9).sum(axis=1)) / (1.0 + N_DEALS)


def _by_main(member: Bools, value: Floats, main: Ints) -> Floats:
    """Sum of a value over the kits of each part and main weapon, [g, mains]."""
    index = np.unique(main, return_inverse=True)[1]
    return (member * value) @ np.eye(int(index.max()) + 1)[index]


def _within_main(n: Floats, total: Floats, member: Bools, main: Ints, family: Ints) -> tuple[Floats, Floats, Ints]:
    """Mean over main weapons of the contrast within each, its error over main weapons, and their number, [g] each."""
    n_with, with_part = _by_main(member, n, main), _by_main(member, total, main)
    n_rest, rest = _by_main(~member, n, main), _by_main(~member, total, main)
    both = (n_with > 0) & (n_rest > 0)
    contrast = _divide(with_part, n_with, 0.0) - _divide(rest, n_rest, 0.0)
    mains = both.sum(axis=1)
    mean = _divide((contrast * both).sum(axis=1), mains.astype(np.float64))
    squares = (both * (contrast - np.nan_to_num(mean)[:, None]) ** 2).sum(axis=1)
    freedom = np.maximum(mains - 1, 0).astype(np.float64)
    pooled = _divide(np.bincount(family, squares), np.bincount(family, freedom), 0.0)[family]
    variance = np.where(mains < FEW, np.maximum(_divide(squares, freedom), pooled), _divide(squares, freedom))
    return mean, np.sqrt(_divide(np.where(mains >= 2, variance, np.nan), mains.astype(np.float64))), mains


def _without_strongest(n: Floats, total: Floats, member: Bools, main: Ints, delta: Floats) -> tuple[Ints, Floats]:
    """The kit whose main weapon carries most of each delta, and the delta without that main weapon, [g] each."""
    n_with, with_part = _by_main(member, n, main), _by_main(member, total, main)
    left = (member @ n)[:, None] - n_with
    outside = (total.sum() - with_part) / np.maximum(n.sum() - n_with, 1e-12)
    without = _divide((member @ total)[:, None] - with_part, left) - outside
    sign = np.where(delta < 0, -1.0, 1.0)[:, None]
    score = np.where((n_with > 0) & ~np.isnan(without), sign * without, np.inf)
    chosen = score.argmin(axis=1)
    rows = np.arange(len(delta))
    single = np.isinf(score[rows, chosen])
    index = np.unique(main, return_inverse=True)[1]
    pull = np.where(member & (index == chosen[:, None]), sign * (total - n * total.sum() / n.sum()), -np.inf)
    return np.where(single, -1, pull.argmax(axis=1)), np.where(single, np.nan, without[rows, chosen])
