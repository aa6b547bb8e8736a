"""The shape of a dose-response curve measured on the same contexts, with bootstrap support."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .paired import FEW, NONZERO
from .tails import sign_test, t_quantile, t_two_sided

Floats = NDArray[np.floating[Any]]
Shape = Literal["step", "graded", "saturating", "non_monotone", "none"]
STEP_SHARE = 0.7
SUPPORT = 0.9
SATURATED = 0.95
FEWEST_LEVELS = 2
FEWEST_TO_CONFIRM = 40


@dataclass(frozen=True)
class Curve:
    """What a curve looks like.

    Attributes:
        shape: step (one adjacent jump is >= 70 % of the range in >= 90 % of the bootstraps), non_monotone (rises and
            falls by more than the effect of interest in >= 90 % of them), saturating (95 % of the largest effect is
            reached below the last level in >= 90 %), graded, or none; None where one level cannot tell them apart.
        threshold: level after the jump of a step, else None.
        threshold_support: share of bootstraps in which that jump is >= 70 % of the range.
        half_max: lowest level with half of the largest effect.
        saturation: lowest level with 95 % of it.
        reason: why there is no shape.
    """

    shape: Shape | None
    threshold: int | None = None
    threshold_support: float | None = None
    half_max: int | None = None
    saturation: int | None = None
    reason: str | None = None


def describe_curve(levels: list[int], activation: Floats, weights: Floats, min_effect: float) -> Curve:
    """Describe a curve whose effect is beyond doubt; it takes two levels above the base to have a shape.

    Args:
        levels: AP of each column, ascending, the base first.
        activation: [m, k] activation of every context at every level.
        weights: bootstrap weights [B, m].
        min_effect: smallest effect of interest, in activation.
    """
    if len(levels) <= FEWEST_LEVELS:
        return Curve(None, reason=f"fewer than {FEWEST_LEVELS} levels above the base: any two heights make a step")
    mean = activation.mean(axis=0)
    boot = weights @ activation
    jump, support = _main_jump(mean, boot)
    effect = np.abs(mean - mean[0])
    if effect.max() <= NONZERO:
        return Curve("none")
    half = levels[int(np.argmax(effect >= 0.5 * effect.max()))]
    saturation = levels[int(np.argmax(effect >= SATURATED * effect.max()))]
    if _share_non_monotone(boot, min_effect) >= SUPPORT:
        return Curve("non_monotone", None, support, half, saturation)
    if support >= SUPPORT:
        return Curve("step", levels[jump + 1], support, half, saturation)
    boot_effect = np.abs(boot - boot[:, :1])
    reached = boot_effect >= SATURATED * boot_effect.max(axis=1, keepdims=True)
    early = float((np.argmax(reached, axis=1) < len(levels) - 1).mean())
    shape: Shape = "saturating" if early >= SUPPORT and saturation < levels[-1] else "graded"
    return Curve(shape, None, support, half, saturation)


def _main_jump(mean: Floats, boot: Floats) -> tuple[int, float]:
    """Largest adjacent jump, and the share of bootstraps in which it is at least 70 % of the range."""
    jump = int(np.argmax(np.abs(np.diff(mean))))
    span = boot.max(axis=1) - boot.min(axis=1)
    size = np.abs(boot[:, jump + 1] - boot[:, jump])
    return jump, float((size >= STEP_SHARE * np.maximum(span, NONZERO)).mean())


def _share_non_monotone(boot: Floats, min_effect: float) -> float:
    """Share of curves [B, k] that somewhere rise and somewhere fall by more than ``min_effect``."""
    rise = (boot - np.minimum.accumulate(boot, axis=1)).max(axis=1)
    fall = (np.maximum.accumulate(boot, axis=1) - boot).max(axis=1)
    return float(((rise > min_effect) & (fall > min_effect)).mean())


@dataclass(frozen=True)
class Trend:
    """Mean of per-context slopes, in activation per AP; None throughout when too few contexts change."""

    slope: float | None
    ci_low: float | None
    ci_high: float | None
    p_value: float | None


def trend(levels: list[int], activation: Floats, population: int) -> Trend:
    """Mean over contexts of the least-squares slope of activation on AP, with a t interval.

    The contexts, not the rungs that share them, are the sample: a p on a correlation over rungs would be under 0.05
    in half of the null sweeps.

    Args:
        levels: AP of each column.
        activation: [m, k].
        population: examples the contexts were drawn from.
    """
    x = np.asarray(levels, dtype=np.float64)
    x = x - x.mean()
    slopes = (activation.astype(np.float64) @ x) / float(x @ x)
    m = len(slopes)
    if int((np.abs(slopes) > NONZERO).sum()) < FEW:
        return Trend(None, None, None, None)
    mean = float(slopes.mean())
    error = float(slopes.std(ddof=1) / np.sqrt(m) * np.sqrt(max(0.0, 1.0 - m / population)))
    half = float(t_quantile(0.975, m - 1)) * error
    # Without sampling error (all of the population, or equal slopes) the slope is what it is.
    p = float(t_two_sided(mean / error, m - 1)) if error > 0 else float(abs(mean) <= NONZERO)
    return Trend(mean, mean - half, mean + half, p)


def winner_confirmed(d: Floats, rng: np.random.Generator) -> bool | None:
    """Whether the largest effect holds on the half of the contexts that did not choose it.

    The contexts are split at random; the column of d [m, k] with the largest absolute mean in one half must, in the
    other, have a mean of the same sign whose 95 % interval excludes 0 (a sign test where fewer than 30 change).
    None with fewer than 40 contexts.
    """
    m = len(d)
    if m < FEWEST_TO_CONFIRM:
        return None
    order = rng.permutation(m)
    choose, confirm = d[order[: m // 2]].astype(np.float64), d[order[m // 2 :]].astype(np.float64)
    winner = int(np.argmax(np.abs(choose.mean(axis=0))))
    seen = confirm[:, winner]
    if np.sign(seen.mean()) != np.sign(choose[:, winner].mean()):
        return False
    if int((np.abs(seen) > NONZERO).sum()) < FEW:
        return bool(float(sign_test((seen > NONZERO).sum(), (seen < -NONZERO).sum())) < 0.05)
    half = float(t_quantile(0.975, len(seen) - 1)) * float(seen.std(ddof=1)) / np.sqrt(len(seen))
    return bool(abs(seen.mean()) > half)
