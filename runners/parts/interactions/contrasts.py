"""Interactions of units: contrasts of the cells of a factorial, their effects, and what random directions do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....context.context import Context
from ....context.directions import MatchedDirections
from ....context.token_sets import TokenSets
from ....schemas.errors import RequestError
from ....schemas.result import ConstraintViolation, Status
from ....schemas.spec import HARD_CONSTRAINTS, ExperimentSpec
from ...design.constraints import broken_by, describe_set
from ...design.effect_rows import BOOTSTRAP_STREAM, EffectTable
from ...design.interventions import ENOUGH, FEWEST, Contexts, Design
from ...design.specificity import NullEffects
from ...stats.paired import (
    LEVEL,
    RANGE,
    RATE_OF_INTEREST,
    PairedEffects,
    bootstrap_weights,
    paired_effects,
    verdicts,
)
from ...stats.patterns import Pattern, pattern
from ...stats.tails import t_quantile
from .candidates import Pair, side_by_side, side_by_side_warning
from .grid import Grid, Meter

Floats = NDArray[np.floating[Any]]
ONE_RUNG = "one_rung_per_family"
PAIR = np.array([1.0, -1.0, -1.0, 1.0])
"""Signs of f00, f10, f01, f11 in the interaction of two units."""
TRIPLE = np.concatenate([-PAIR, PAIR])
"""Signs of the cells without the modulator, then with it, in the difference of the two interactions."""


@dataclass(frozen=True)
class Factorial:
    """Every pair's cells on the same contexts.

    Attributes:
        activation: [P, c, m], c cells.
        pre: [P, c, m], pre-activations.
        null: what random directions do; None where unknown.
    """

    activation: Floats
    pre: Floats
    null: NullEffects | None

    def contrast(self, signs: Floats) -> tuple[Floats, Floats]:
        """The signed sum of the cells in every context, of activation and pre-activation, [m, P] each."""
        return _signed(signs, self.activation).T, _signed(signs, self.pre).T


def _signed(signs: Floats, cells: Floats) -> Floats:
    return np.einsum("c,pcm->pm", signs, cells, dtype=np.float64)


def run_factorial(
    grid: Grid[Pair], signs: Floats, *, feature: int, min_effect: float, ctx: Context, meter: Meter
) -> Factorial:
    """Run every pair's cells block by block, and compare their contrast with that of random directions."""
    shape = (len(grid.items), grid.conditions, grid.contexts)
    activation, pre = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.float32)
    directions, top = ctx.random_directions(), ctx.effective_max(feature)
    matched = None if directions is None or top is None else directions.matched(ctx.active_rate(feature), top)
    null: NullEffects | None = None
    for part, vectors in grid.pooled(ctx, meter):
        readout = ctx.read(vectors, feature)
        activation[part], pre[part] = readout.activation, readout.pre
        if matched is not None:
            block = contrast_null(vectors, matched, signs, min_effect)
            null = block if null is None else null.union(block)
    return Factorial(activation, pre, null)


def contrast_null(vectors: Floats, matched: MatchedDirections, signs: Floats, min_effect: float) -> NullEffects:
    """Each random direction's largest |contrast| over items, by its mean and by its mean on responders.

    Args:
        vectors: [items, c, m, d] pooled vectors of the cells.
        matched: the directions.
        signs: [c].
        min_effect: smallest contrast of interest.
    """
    n_directions = matched.weight.shape[1]
    largest_mean, largest_responders = np.zeros(n_directions), np.zeros(n_directions)
    for cells in vectors:
        n_cells, m, width = cells.shape
        read = matched.activation(cells.reshape(-1, width))
        d = np.tensordot(signs.astype(read.dtype), read.reshape(n_cells, m, n_directions), axes=1)
        responds = np.abs(d) > min_effect
        count = responds.sum(axis=0)
        np.maximum(largest_mean, np.abs(d.mean(axis=0)), out=largest_mean)
        on_responders = np.abs((d * responds).sum(axis=0)) / np.maximum(count, 1)
        on_responders[count < RATE_OF_INTEREST * m] = 0.0
        np.maximum(largest_responders, on_responders, out=largest_responders)
    return NullEffects(largest_mean, largest_responders)


def contrast_effects(d: Floats, population: int, min_effect: float, weights: Floats, widest: float) -> PairedEffects:
    """Effects of contrasts of cells, [m, P].

    A contrast of cells in [0, 6] leaves the range of a single difference, on which bounds from few changes rest:
    everything is estimated in units of ``widest`` / 6 and put back.

    Args:
        d: contrasts [m, P].
        population: examples the contexts were drawn from.
        min_effect: smallest contrast of interest.
        weights: bootstrap weights.
        widest: largest |contrast| there can be.
    """
    scale = widest / RANGE
    found = paired_effects(d / scale, population, min_effect / scale, weights)
    names = ("mean", "std", "std_error", "ci_low", "ci_high", "sim_low", "sim_high", "mean_responders")
    return replace(found, **{name: getattr(found, name) * scale for name in names})


def _unbounded(effects: PairedEffects) -> PairedEffects:
    """Effects on h, which has no range that bounds could rest on: Student's interval where few contexts change too."""
    half = t_quantile(1.0 - (1.0 - LEVEL) / 2.0 / len(effects.mean), effects.n - 1) * effects.std_error
    return replace(
        effects,
        sim_low=np.where(effects.few, effects.mean - half, effects.sim_low),
        sim_high=np.where(effects.few, effects.mean + half, effects.sim_high),
    )


@dataclass(frozen=True)
class Contrasts:
    """A contrast of every pair, in activation and in pre-activation.

    Attributes:
        table: effects and verdicts in activation.
        pre: effects in pre-activation, which has no floor.
        pre_status: their verdicts.
    """

    table: EffectTable
    pre: PairedEffects
    pre_status: list[Status]

    def mirrored(self, min_effect: float) -> list[Status]:
        """Verdicts on the pre-activations, as far as they have the contrast that the activations have.

        Where a contrast is present, and the interval in h nowhere exceeds ``min_effect`` in its direction, h does not
        have it: as good as negligible, though h may have one of the other sign.
        """
        up = self.table.effects.mean > 0
        absent = np.where(up, self.pre.sim_high <= min_effect, self.pre.sim_low >= -min_effect)
        return [
            "negligible" if name == "present" and lacking else own
            for name, lacking, own in zip(self.table.status, absent.tolist(), self.pre_status, strict=True)
        ]


def contrasts(
    factorial: Factorial, signs: Floats, *, population: int, min_effect: float, seed: int, null: NullEffects | None
) -> Contrasts:
    """Estimate a contrast of every pair with its verdict.

    Args:
        factorial: the cells.
        signs: [c] of the cells.
        population: examples the contexts were drawn from.
        min_effect: smallest contrast of interest.
        seed: the spec's seed.
        null: what random directions do; None where unknown.
    """
    d, d_pre = factorial.contrast(signs)
    weights = bootstrap_weights(len(d), np.random.default_rng([seed, BOOTSTRAP_STREAM]))
    widest = RANGE * float(np.abs(signs).sum()) / 2.0
    effects = contrast_effects(d, population, min_effect, weights, widest)
    pre = _unbounded(paired_effects(d_pre, population, min_effect, weights))
    status, _ = verdicts(effects, min_effect)
    rows = zip(status, effects.mean.tolist(), effects.mean_responders.tolist(), strict=True)
    specificity = np.array([np.nan if null is None else null.p_value(*row) for row in rows])
    pre_status, _ = verdicts(pre, min_effect)
    return Contrasts(EffectTable(effects, status, specificity, {}, d, weights), pre, pre_status)


def acting_cells(cells: Floats, d: Floats, status: Sequence[Status], min_effect: float) -> Floats:
    """Mean of every cell over the contexts in which the pair acts, [P, c].

    A conditional pair is looked at where its contrast exceeds ``min_effect``, any other in all contexts.

    Args:
        cells: [P, c, m].
        d: the contrast, [m, P].
        status: verdict on the contrast of each pair.
        min_effect: smallest contrast of interest.
    """
    means = cells.mean(axis=2, dtype=np.float64)
    for index, name in enumerate(status):
        acts = np.abs(d[:, index]) > min_effect
        if name == "conditional" and acts.any():
            means[index] = cells[index][:, acts].mean(axis=1, dtype=np.float64)
    return means


def named_patterns(found: Contrasts, factorial: Factorial, min_effect: float) -> list[Pattern | None]:
    """What each pair does together, in the contexts in which it acts; None where the verdict leaves it open.

    Args:
        found: the contrast of each pair.
        factorial: its four cells.
        min_effect: smallest interaction of interest.
    """
    status = found.table.status
    cells = acting_cells(factorial.activation, found.table.differences, status, min_effect)
    rows = zip(cells, status, found.mirrored(min_effect), strict=True)
    named: list[Pattern] = [
        pattern(each, min_effect, interaction=name, interaction_pre=pre) for each, name, pre in rows
    ]
    unsure = [name == "unclear" and each == "other" for name, each in zip(status, named, strict=True)]
    return [None if unknown else each for unknown, each in zip(unsure, named, strict=True)]


def admissible_pairs(
    contexts: Contexts,
    pairs: Sequence[Pair],
    fullest: Callable[[Pair], TokenSets],
    *,
    spec: ExperimentSpec,
    ctx: Context,
) -> tuple[Design, list[Pair]]:
    """Keep the contexts that are admissible under every pair.

    The cell with everything written in holds every other cell, so it breaks each constraint that any cell breaks.
    If constraints leave fewer than 50 contexts (half of a sample below 100), pairs are dropped from the end.

    Raises:
        RequestError: fewer than two contexts are admissible.
    """
    m, enough = len(contexts.positions), min(ENOUGH, (len(contexts.positions) + 1) // 2)
    broken: dict[str, list[NDArray[np.bool_]]] = {}
    examples: dict[str, str] = {}
    for pair in pairs:
        sets = fullest(pair)
        for name, mask in broken_by(sets, ctx).items():
            broken.setdefault(name, []).append(mask)
            if mask.any() and name not in examples:
                examples[name] = describe_set(sets.take(np.flatnonzero(mask)[:1]), ctx)
    hard = {name for name in examples if name in HARD_CONSTRAINTS or name in spec.constraints}
    refused = np.zeros((len(pairs), m), dtype=np.bool_)
    for name in hard:
        refused |= np.stack(broken[name])
    ever = np.logical_or.accumulate(refused, axis=0)
    kept = len(pairs)
    while kept > 1 and m - int(ever[kept - 1].sum()) < enough:
        kept -= 1
    keep: NDArray[np.bool_] = ~ever[kept - 1]
    if (left := int(keep.sum())) < FEWEST:
        why = ", ".join(f"{name} ({examples[name]})" for name in sorted(hard)) or contexts.population.description
        raise RequestError(
            f"at least {FEWEST} contexts are needed and {left} is left: {why}. Change the candidates, the slice or "
            f"the constraints. Nothing was run."
        )
    violations = _two_rungs(spec, pairs[:kept], left, ctx)
    violations += [
        ConstraintViolation(
            id=name, hard=name in hard, contexts=int(np.stack(broken[name]).any(axis=0).sum()), example=example
        )
        for name, example in examples.items()
    ]
    warnings = _lost(m, left, len(pairs) - kept, len(side_by_side(spec, pairs[:kept])))
    part = contexts.take(keep)
    return Design(part, part.sets, (), tuple(range(kept)), violations, warnings), list(pairs[:kept])


def _two_rungs(spec: ExperimentSpec, pairs: Sequence[Pair], m: int, ctx: Context) -> list[ConstraintViolation]:
    """The violation of pairs of two tokens of one family, in all of m contexts; empty without such a pair."""
    together = side_by_side(spec, pairs)
    if not together:
        return []
    example = " and ".join(unit.label(ctx) for unit in together[0])
    return [ConstraintViolation(id=ONE_RUNG, hard=False, contexts=m, example=f"{example} in one build")]


def enough_contexts(contexts: Contexts) -> None:
    """Check that an effect on the contexts can have an error, before anything runs.

    Raises:
        RequestError: fewer than two contexts.
    """
    found = len(contexts.positions)
    if found < FEWEST:
        raise RequestError(
            f"at least {FEWEST} contexts are needed and {found} is left: {contexts.population.description}. Raise "
            f"sample_size or widen the slice. Nothing was run."
        )


def unconfirmed_reason(*, confirmed: bool | None, acting: bool) -> dict[str, str]:
    """Why no winner was looked at on the other half of the contexts, for ``custom``; empty where one was."""
    if confirmed is not None:
        return {}
    reason = "fewer than 40 contexts: too few to split" if acting else "nothing acts specifically: there is no winner"
    return {"winner_confirmed_reason": reason}


def _lost(m: int, left: int, dropped: int, together: int) -> tuple[str, ...]:
    """What constraints cost, and pairs that are run against one, in words."""
    warnings = [side_by_side_warning(together)] if together else []
    if dropped:
        warnings.append(f"constraints leave fewer than {ENOUGH} contexts for the last {dropped} pairs: dropped")
    if left < m:
        warnings.append(f"constraints skip {m - left} of {m} contexts")
    if left < ENOUGH:
        warnings.append(f"only {left} contexts: intervals are wide")
    return tuple(warnings)
