"""Effects and interactions of the cells of a heatmap on the same contexts, against those of random directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....context.context import Context
from ....context.directions import MatchedDirections
from ....schemas.job import Job
from ....schemas.result import Status
from ...design.effect_rows import BOOTSTRAP_STREAM
from ...design.observed import interval_status
from ...design.specificity import SPECIFIC, NullEffects
from ...stats.paired import FEW, NONZERO, RATE_OF_INTEREST, bootstrap_weights, paired_effects, verdicts
from ...stats.patterns import ALIKE, Pattern, pattern
from ...stats.tails import sign_test, t_quantile
from .grid import Grid, Pairs

Floats = NDArray[np.floating[Any]]
CONFIRM_STREAM = 11
FEWEST_TO_CONFIRM = 40
_BLOCK = 500


@dataclass(frozen=True)
class Effects:
    """Effects, or interactions, of k cells; every array is [k], NaN where unknown.

    Attributes:
        mean: the estimates, in activation.
        std_error: of each estimate.
        ci_low, ci_high: 95 % interval of each.
        low, high: intervals that hold for all k at once, 95 %.
        p_value: two-sided, that it is 0.
        q_value: Benjamini-Hochberg q.
        pre: the same estimates in pre-activation.
        specificity: share of random directions whose largest of k is as large. Doubled, because a headline may rest on
            an effect or on an interaction (Bonferroni).
        responder_rate: share of contexts beyond min_effect; NaN in data.
        responder_low, responder_high: its Clopper-Pearson interval.
        mean_responders: mean over those contexts; NaN in data.
        status: verdicts; None where the cell is too sparse for one.
        n_to_settle: contexts that would settle an unclear cell.
    """

    mean: Floats
    std_error: Floats
    ci_low: Floats
    ci_high: Floats
    low: Floats
    high: Floats
    p_value: Floats
    q_value: Floats
    pre: Floats
    specificity: Floats
    responder_rate: Floats
    responder_low: Floats
    responder_high: Floats
    mean_responders: Floats
    status: tuple[Status | None, ...]
    n_to_settle: tuple[int | None, ...]

    def acting(self, among: Sequence[int] | None = None) -> list[int]:
        """Those that may be headlined: present or conditional, and specific to the feature."""
        where = range(len(self.status)) if among is None else among
        return [i for i in where if self.status[i] in {"present", "conditional"} and not self.specificity[i] > SPECIFIC]

    def leading(self, among: Sequence[int] | None = None) -> int | None:
        """The largest of those that act (present ones first); else the largest there is; None without any."""
        where = list(range(len(self.status)) if among is None else among)
        known = self.acting(where) or [i for i in where if self.status[i] is not None]
        known = known or [i for i in where if not np.isnan(self.mean[i])]
        return max(known, key=lambda i: (self.status[i] == "present", abs(float(self.mean[i]))), default=None)

    def largest(self) -> int | None:
        """The one with the largest absolute mean among those with a verdict; None without any."""
        known = [i for i, status in enumerate(self.status) if status is not None]
        return max(known, key=lambda i: abs(float(self.mean[i])), default=None)


def no_effects(k: int) -> Effects:
    """k effects of which nothing is known."""
    unknown = np.full(k, np.nan)
    return Effects(*([unknown] * 14), status=(None,) * k, n_to_settle=(None,) * k)


def measure(
    d: Floats, pre: Floats, *, terms: int, population: int, min_effect: float, null: NullEffects | None, seed: int
) -> Effects:
    """Estimate paired effects or interactions.

    Args:
        d: [k, m], differences (or contrasts) of activations on m contexts.
        pre: [k, m], those of pre-activations.
        terms: how many activations in [0, 6] d adds: 1 in a difference, which lies in [-6, 6], 2 in an interaction,
            which lies in [-12, 12]. The bounds for few changes rest on that range.
        population: examples the contexts were drawn from.
        min_effect: smallest effect of interest.
        null: what random directions do; None where unknown.
        seed: the spec's seed.
    """
    if not len(d):
        return no_effects(0)
    weights = bootstrap_weights(d.shape[1], np.random.default_rng([seed, BOOTSTRAP_STREAM]))
    found = paired_effects(d.T / terms, population, min_effect / terms, weights)
    status, needed = verdicts(found, min_effect / terms)
    mean, responders = terms * found.mean, terms * found.mean_responders
    rows = zip(status, mean.tolist(), responders.tolist(), strict=True)
    specificity = np.array([np.nan if null is None else min(1.0, 2.0 * null.p_value(*row)) for row in rows])
    return Effects(
        mean=mean,
        std_error=terms * found.std_error,
        ci_low=terms * found.ci_low,
        ci_high=terms * found.ci_high,
        low=terms * found.sim_low,
        high=terms * found.sim_high,
        p_value=found.p_value,
        q_value=found.q_value,
        pre=pre.mean(axis=1, dtype=np.float64),
        specificity=specificity,
        responder_rate=found.responder_rate,
        responder_low=found.responder_low,
        responder_high=found.responder_high,
        mean_responders=responders,
        status=tuple(status),
        n_to_settle=tuple(needed),
    )


def contrasts(values: Floats, pairs: Pairs) -> Floats:
    """Interactions f(x,y) - f(x,0) - f(0,y) + f(0,0) of the cells' values [k, ...], [q, ...]."""
    return values[pairs.both] - values[pairs.first] - values[pairs.second] + values[0]


class _Largest:
    """Running sums over contexts of what random directions do in k conditions."""

    def __init__(self, k: int, min_effect: float) -> None:
        self.min_effect, self.n = min_effect, 0
        self.total: list[Any] = [0.0] * k
        self.responding: list[Any] = [0.0] * k
        self.count: list[Any] = [0] * k

    def add(self, index: int, d: Floats) -> None:
        """Add a block of contexts d [b, r] of one condition."""
        responds = np.abs(d) > self.min_effect
        self.total[index] = self.total[index] + d.sum(axis=0, dtype=np.float64)
        self.responding[index] = self.responding[index] + (d * responds).sum(axis=0, dtype=np.float64)
        self.count[index] = self.count[index] + responds.sum(axis=0)

    def effects(self, m: int) -> NullEffects:
        """Largest effects over the conditions, of m contexts."""
        count = np.asarray(self.count)
        on_responders = np.abs(np.asarray(self.responding)) / np.maximum(count, 1)
        on_responders[count < RATE_OF_INTEREST * m] = 0.0
        return NullEffects((np.abs(np.asarray(self.total)) / m).max(axis=0), on_responders.max(axis=0))


def random_effects(
    ctx: Context, feature: int, pooled: Floats, pairs: Pairs, *, min_effect: float, job: Job
) -> tuple[NullEffects, NullEffects] | None:
    """Effects and interactions of 200 random directions at the cells, matched to the feature.

    One block of contexts at a time, so that memory holds the directions' activations at the cells of the two axes for
    that block alone.

    Args:
        ctx: the context.
        feature: the feature they must look like.
        pooled: [k, m, d], pooled vectors at the cells, (0, 0) first.
        pairs: the interactions.
        min_effect: smallest effect of interest.
        job: asked between blocks whether to stop.

    Returns:
        Those of the effects and those of the interactions; None where the examples' pooled vectors are unknown or the
        feature is dead.
    """
    directions, top = ctx.random_directions(), ctx.effective_max(feature)
    if directions is None or top is None:
        return None
    matched = directions.matched(ctx.active_rate(feature), top)
    k, m = pooled.shape[:2]
    deltas, crossed = _Largest(k - 1, min_effect), _Largest(len(pairs.both), min_effect)
    for start in range(0, m, _BLOCK):
        job.check()
        _add_block(matched, pooled[:, start : start + _BLOCK], pairs, deltas, crossed)
    return deltas.effects(m), crossed.effects(m) if len(pairs.both) else deltas.effects(m)


def _add_block(matched: MatchedDirections, pooled: Floats, pairs: Pairs, deltas: _Largest, crossed: _Largest) -> None:
    """Add a block of contexts [k, b, d]: each cell's activations are made once, those of the axes kept."""
    base = matched.activation(pooled[0])
    axis = {int(i): matched.activation(pooled[i]) - base for i in np.union1d(pairs.first, pairs.second)}
    where = {int(i): position for position, i in enumerate(pairs.both)}
    for cell in range(1, len(pooled)):
        d = axis[cell] if cell in axis else matched.activation(pooled[cell]) - base
        deltas.add(cell - 1, d)
        if cell in where:
            at = where[cell]
            crossed.add(at, d - axis[int(pairs.first[at])] - axis[int(pairs.second[at])])


@dataclass(frozen=True)
class Read:
    """The pattern of a pair of levels, with why it is not clearer."""

    name: Pattern | None
    cell: int | None
    cells: Floats
    reason: str | None


def read_pattern(activation: Floats, pre: Floats, grid: Grid, interactions: Effects, min_effect: float) -> Read:
    """Name the pattern where the interaction is largest, or at the top levels when none acts.

    Where the interaction is conditional, only the contexts in which it exceeds min_effect are read. An interaction that
    does not act counts as none when its interval lies within min_effect or a quarter of the largest effect.

    Args:
        activation: [k, m] at the cells.
        pre: [k, m], pre-activations.
        grid: the cells.
        interactions: their verdicts.
        min_effect: smallest effect of interest.
    """
    pairs, acting = grid.pairs, interactions.acting()
    if not len(pairs.both):
        return Read(None, None, np.full(4, np.nan), "no cell holds both")
    at = interactions.leading(acting) if acting else len(pairs.both) - 1
    if at is None:
        raise AssertionError("an acting interaction has a leader")
    where = np.array([0, pairs.first[at], pairs.second[at], pairs.both[at]])
    cells, cells_pre = activation[where], pre[where]
    if acting and interactions.status[at] == "conditional":
        responds = np.abs(cells[3] - cells[1] - cells[2] + cells[0]) > min_effect
        cells, cells_pre = cells[:, responds], cells_pre[:, responds]
    means = cells.mean(axis=1, dtype=np.float64)
    crossed = cells_pre[3] - cells_pre[1] - cells_pre[2] + cells_pre[0]
    bounds = (float(interactions.low[at]), float(interactions.high[at]))
    return name_pattern(
        means,
        int(pairs.both[at]),
        status=interactions.status[at] if acting else None,
        bounds=bounds,
        pre_status=_mean_status(crossed, min_effect),
        min_effect=min_effect,
    )


def name_pattern(
    means: Floats,
    cell: int,
    *,
    status: Status | None,
    bounds: tuple[float, float],
    pre_status: Status,
    min_effect: float,
) -> Read:
    """Name the pattern of four means, f00, f10, f01, f11.

    Args:
        means: [4].
        cell: where f11 is.
        status: verdict on an interaction that acts; None for one that does not.
        bounds: its interval.
        pre_status: verdict on the interaction of pre-activations.
        min_effect: smallest effect of interest.
    """
    reason = None
    if status is None:
        # What does not act is none at all only if it is certain to be small beside the effects.
        near = max(min_effect, ALIKE * float(np.abs(means[1:] - means[0]).max()))
        small = -near <= bounds[0] and bounds[1] <= near
        status = "negligible" if small else "unclear"
        reason = None if small else "no interaction can be told from that of random directions or from noise"
    name = pattern(means, min_effect, interaction=status, interaction_pre=pre_status)
    return Read(name, cell, means, reason if name == "other" else None)


def _mean_status(values: Floats, min_effect: float) -> Status:
    """Verdict on the mean of values [m] from its 95 % t interval."""
    m, mean = len(values), float(values.mean(dtype=np.float64))
    half = float(t_quantile(0.975, m - 1)) * float(values.std(ddof=1)) / np.sqrt(m) if m > 1 else np.inf
    return interval_status(mean - half, mean + half, min_effect) or "unclear"


def peak_confirmed(activation: Floats, rng: np.random.Generator) -> bool | None:
    """Whether the cell that is highest in one half of the contexts lies above cell 0 in the other half.

    Args:
        activation: [k, m] at the cells, the base first.
        rng: splits the contexts.

    Returns:
        None with fewer than 40 contexts, or where the base itself is highest.
    """
    m = activation.shape[1]
    if m < FEWEST_TO_CONFIRM:
        return None
    order = rng.permutation(m)
    choose, confirm = order[: m // 2], order[m // 2 :]
    top = int(np.argmax(activation[:, choose].mean(axis=1, dtype=np.float64)))
    if top == 0:
        return None
    d = (activation[top, confirm] - activation[0, confirm]).astype(np.float64)
    up, down = int((d > NONZERO).sum()), int((d < -NONZERO).sum())
    if up + down < FEW:
        return bool(up > down and float(sign_test(up, down)) < 0.05)
    return bool(d.mean() > float(t_quantile(0.975, len(d) - 1)) * float(d.std(ddof=1)) / np.sqrt(len(d)))
