"""Paired effects of conditions on the same contexts: means, intervals, responder rates, verdicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...schemas.result import Status
from .groups import MIN_N
from .tails import benjamini_hochberg, clopper_pearson, sign_test, t_quantile, t_two_sided

Floats = NDArray[np.floating[Any]]
NONZERO = 1e-6
FEW = 30
RANGE = 6.0
RATE_OF_INTEREST = 0.01
N_BOOTSTRAP = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class PairedEffects:
    """Effects of k conditions against their base on m contexts; every array is [k].

    Attributes:
        mean: mean of the paired differences.
        std: their standard deviation.
        std_error: its standard error, corrected for the finite population.
        ci_low, ci_high: 95 % interval of each mean.
        sim_low, sim_high: simultaneous 95 % interval over the k conditions.
        p_value: two-sided, that the mean is 0.
        q_value: Benjamini-Hochberg over the k conditions.
        responder_rate: share of contexts whose effect exceeds ``min_effect`` in size.
        responder_low, responder_high: its Clopper-Pearson interval.
        mean_responders: mean effect on those contexts; NaN without any.
        few: fewer than 30 contexts change at all, so the intervals are bounds from the rate and the range.
        n: contexts.
    """

    mean: Floats
    std: Floats
    std_error: Floats
    ci_low: Floats
    ci_high: Floats
    sim_low: Floats
    sim_high: Floats
    p_value: Floats
    q_value: Floats
    responder_rate: Floats
    responder_low: Floats
    responder_high: Floats
    mean_responders: Floats
    few: NDArray[np.bool_]
    n: int


def bootstrap_weights(m: int, rng: np.random.Generator, n_bootstrap: int = N_BOOTSTRAP) -> Floats:
    """Multinomial resampling weights [n_bootstrap, m] whose rows sum to 1."""
    return rng.multinomial(m, np.full(m, 1.0 / m), size=n_bootstrap) / m


def paired_effects(d: Floats, population: int, min_effect: float, weights: Floats) -> PairedEffects:
    """Estimate the mean of paired differences in a finite population.

    Where at least 30 differences are non-zero the interval is Student's t with the finite-population correction
    (Cochran 1977, ch. 2). Else the mean is bounded by 6 x the Clopper-Pearson bounds of the share of positive and of
    negative differences, and p is an exact sign test. Simultaneous intervals use the bootstrap distribution of
    max |t| over the conditions, and are nowhere narrower than the interval of the condition alone; conditions with
    and without enough changes share the joint error by their number.

    Args:
        d: differences [m, k], m >= 2.
        population: number of examples the contexts were drawn from.
        min_effect: smallest effect of interest.
        weights: bootstrap weights [B, m] from `bootstrap_weights`.
    """
    d = np.asarray(d, dtype=np.float64)
    m, k = d.shape
    mean, std = d.mean(axis=0), d.std(axis=0, ddof=1)
    correction = np.sqrt(max(0.0, 1.0 - m / population))
    error = std / np.sqrt(m) * correction
    few = (np.abs(d) > NONZERO).sum(axis=0) < FEW
    alone = float(t_quantile(0.5 + LEVEL / 2, m - 1))
    half = alone * error
    level = 1.0 - (1.0 - LEVEL) * float((~few).mean())
    critical = max(max_t_quantile(d[:, ~few], weights, level), alone) if (~few).any() else alone
    bound_low, bound_high = _range_bounds(d, LEVEL)
    joint_low, joint_high = _range_bounds(d, 1.0 - (1.0 - LEVEL) / k)
    p = np.where(few, _sign_p(d), _t_p(mean, error, m - 1))
    responds = np.abs(d) > min_effect
    low, high = clopper_pearson(responds.sum(axis=0), m, LEVEL)
    high = np.where((np.abs(d) > NONZERO).any(axis=0), high, min(3.0 / m, 1.0))
    with np.errstate(invalid="ignore"):
        mean_responders = (d * responds).sum(axis=0) / np.where(responds.any(axis=0), responds.sum(axis=0), np.nan)
    return PairedEffects(
        mean=mean,
        std=std,
        std_error=error,
        ci_low=np.where(few, bound_low, mean - half),
        ci_high=np.where(few, bound_high, mean + half),
        sim_low=np.where(few, joint_low, mean - critical * error),
        sim_high=np.where(few, joint_high, mean + critical * error),
        p_value=p,
        q_value=benjamini_hochberg(p),
        responder_rate=responds.mean(axis=0),
        responder_low=low,
        responder_high=high,
        mean_responders=mean_responders,
        few=few,
        n=m,
    )


def max_t_quantile(d: Floats, weights: Floats, level: float = LEVEL) -> float:
    """Quantile of the bootstrap distribution of max |t| over the columns of d [m, k] (Romano and Wolf 2005).

    A column that is the same in every context has no sampling error and takes no part; 0 where no other is left.
    """
    m = len(d)
    # Rounding makes the deviations of a constant column tiny but not 0, and their ratio anything at all.
    varies = np.ptp(d, axis=0) > NONZERO
    if not varies.any():
        return 0.0
    centred = d[:, varies] - d[:, varies].mean(axis=0)
    means = weights @ centred
    variances = (weights @ centred**2 - means**2) * m / (m - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistics = np.abs(means) / np.sqrt(variances / m)
    largest = np.max(np.where(np.isfinite(statistics), statistics, 0.0), axis=1)
    return float(np.quantile(largest, level))


def _range_bounds(d: Floats, level: float) -> tuple[Floats, Floats]:
    """Bounds of a mean whose terms lie in [-6, 6], from the rates of positive and of negative terms."""
    m = len(d)
    positive, negative = (d > NONZERO).sum(axis=0), (d < -NONZERO).sum(axis=0)
    rate_up, rate_down = clopper_pearson(positive, m, level)[1], clopper_pearson(negative, m, level)[1]
    silent = (positive == 0) & (negative == 0)
    # No change seen in m contexts: the rule of three bounds the rate of change by 3/m at 95 %, -ln(1 - level)/m else.
    silent_rate = 3.0 / m * np.log(1.0 - level) / np.log(1.0 - LEVEL)
    rate_up, rate_down = np.where(silent, silent_rate, rate_up), np.where(silent, silent_rate, rate_down)
    return -RANGE * np.minimum(rate_down, 1.0), RANGE * np.minimum(rate_up, 1.0)


def _sign_p(d: Floats) -> Floats:
    return sign_test((d > NONZERO).sum(axis=0), (d < -NONZERO).sum(axis=0))


def _t_p(mean: Floats, error: Floats, df: int) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.where(error > 0, mean / error, np.where(mean == 0, 0.0, np.inf))
    return t_two_sided(statistic, df)


def verdicts(effects: PairedEffects, min_effect: float) -> tuple[list[Status], list[int | None]]:
    """Verdict on each condition, and for the unclear ones the number of contexts that would settle it.

    ``present``: the simultaneous interval lies beyond ``min_effect``; ``conditional``: not present, but at least 1 %
    of contexts respond; ``negligible``: interval within +-min_effect and fewer than 1 % respond; else ``unclear``. So
    is everything that fewer than 20 contexts say: three of three respond to anything.
    """
    if effects.n < MIN_N:
        k = len(effects.mean)
        return ["unclear"] * k, [max(MIN_N, _contexts_needed(effects, i, min_effect) or MIN_N) for i in range(k)]
    present = (effects.sim_low > min_effect) | (effects.sim_high < -min_effect)
    conditional = ~present & (effects.responder_low >= RATE_OF_INTEREST)
    inside = (effects.sim_low >= -min_effect) & (effects.sim_high <= min_effect)
    negligible = ~present & ~conditional & inside & (effects.responder_high < RATE_OF_INTEREST)
    names: list[Status] = []
    needed: list[int | None] = []
    for index in range(len(effects.mean)):
        name: Literal["present", "conditional", "negligible", "unclear"] = "unclear"
        if present[index]:
            name = "present"
        elif conditional[index]:
            name = "conditional"
        elif negligible[index]:
            name = "negligible"
        names.append(name)
        needed.append(_contexts_needed(effects, index, min_effect) if name == "unclear" else None)
    return names, needed


def _contexts_needed(effects: PairedEffects, index: int, min_effect: float) -> int | None:
    """Contexts at which a verdict would be reached, at today's estimates.

    Beyond ``min_effect`` the interval alone gives it (present), above a rate of 1 % the rate alone (conditional);
    below both it takes both (negligible).
    """
    n = effects.n
    mean, rate = abs(float(effects.mean[index])), float(effects.responder_rate[index])
    width = float(effects.sim_high[index] - effects.sim_low[index]) / 2.0
    gap = abs(mean - min_effect)
    # Student's interval narrows as 1/sqrt(n); bounds from a rate narrow as 1/n.
    power = 1 if effects.few[index] else 2
    for_mean = n * (width / gap) ** power if gap > 0 else np.inf
    for_rate = _contexts_for_rate(rate, silent=float(effects.responder_high[index]) <= 3.0 / n)
    enough = [need for need, above in ((for_mean, mean > min_effect), (for_rate, rate > RATE_OF_INTEREST)) if above]
    needed = min(enough, default=max(for_mean, for_rate))
    return int(np.ceil(max(needed, n + 1))) if np.isfinite(needed) and needed < 1e9 else None


def _contexts_for_rate(rate: float, *, silent: bool) -> float:
    """Contexts at which a rate's interval would lie on one side of 1 %."""
    if rate == 0.0:
        # Upper bound below 1 % without a responder: 3/n where nothing changes at all, else 1 - 0.025 ** (1/n).
        return 3.0 / RATE_OF_INTEREST + 1 if silent else np.log(0.025) / np.log(1.0 - RATE_OF_INTEREST) + 1
    distance = abs(rate - RATE_OF_INTEREST)
    return 3.84 * max(rate * (1.0 - rate), RATE_OF_INTEREST / 4.0) / distance**2 if distance > 0 else np.inf
