"""Interactions in the data: what goes with two units held together beyond what goes with each, within weapons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....context.context import Context
from ....context.population import Population
from ....schemas.job import Job
from ....schemas.result import Status
from ...design.observed import interval_status
from ...design.specificity import null_activations, share_at_least
from ...design.units import Unit
from ...stats.patterns import Pattern, pattern
from ...stats.presence import PresenceDesign
from ...stats.tails import benjamini_hochberg, sidak_level
from .candidates import Pair, Pool
from .regression import Outcome, PairDesign, PairEffects
from .rows import cell_columns, held_units, names, places, units_of

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class ObservedPairs:
    """Interactions of P pairs in a population.

    Attributes:
        effects: the regressions.
        known: [P], pairs whose cells are large enough.
        low, high: [P], simultaneous interval of the interaction.
        status: verdicts; None where not known.
        specificity: [P], p against random directions; NaN where unknown.
        cells: [P, 4], f00 and the within-weapon effects on top of it.
        counts: [P, 4], examples in each cell.
    """

    effects: PairEffects
    known: NDArray[np.bool_]
    low: Floats
    high: Floats
    status: list[Status | None]
    specificity: Floats
    cells: Floats
    counts: Ints

    def patterns(self, min_effect: float) -> list[Pattern | None]:
        """What each pair does together; None where not known."""
        return [
            None if name is None else pattern(cells, min_effect, interaction=name, interaction_pre="unclear")
            for name, cells in zip(self.status, self.cells, strict=True)
        ]

    def detectable(self, min_effect: float) -> float:
        """Smallest interaction that half of the known pairs at least would have shown as present."""
        widths = (self.high - self.low)[self.known] / 2.0
        return float(min_effect + np.median(widths)) if len(widths) else float("nan")


def observed_pairs(
    ctx: Context,
    feature: int,
    population: Population,
    pairs: Sequence[Pair],
    *,
    single: bool,
    min_effect: float,
    seed: int,
    job: Job,
) -> ObservedPairs:
    """Regress the activation on each pair and its product, weapons held fixed, errors clustered by build."""
    job.progress(0, 3, "pairs of columns")
    design = _design(ctx, population, pairs, single=single)
    job.progress(1, 3, "regressions")
    seen = design.outcome(population.activation)
    effects, known = design.effects(population.activation, seen), design.enough
    job.progress(2, 3, "random directions")
    low, high = effects.interval(sidak_level(0.95, int(known.sum())))
    low, high = np.where(known, low, np.nan), np.where(known, high, np.nan)
    bounds = zip(low.tolist(), high.tolist(), strict=True)
    neither = _mean_of_neither(design, seen)
    first, second, product = effects.coefficient.T
    cells = neither[:, None] + np.stack([np.zeros_like(first), first, second, first + second + product], axis=1)
    return ObservedPairs(
        effects=effects,
        known=known,
        low=low,
        high=high,
        status=[interval_status(*each, min_effect) for each in bounds],
        specificity=_specificity(ctx, feature, population, pairs, known, single=single, seed=seed),
        cells=cells,
        counts=design.cells,
    )


def _design(
    ctx: Context, population: Population, pairs: Sequence[Pair], *, single: bool, positions: Ints | None = None
) -> PairDesign:
    """The pairs' design on a population, or on some of its examples; kept for the next feature."""
    rows = population.rows if positions is None else population.rows[positions]

    def make() -> PairDesign:
        held = held_units(ctx, rows, units_of(pairs), single=single)
        first, second = places(pairs)
        return PairDesign.of(held, first, second, np.asarray(ctx.data.weapon)[rows], ctx.data.clusters[rows])

    sample = None if positions is None else rows.tobytes()
    return ctx.derived_for(population, ("pair design", tuple(pairs), single, sample), make)


def _mean_of_neither(design: PairDesign, seen: Outcome) -> Floats:
    """Mean activation of the examples with neither unit of each pair; NaN where there is none."""
    single, both = seen.single[:, 0], seen.both[:, 0]
    total = seen.total.sum() - single[design.first] - single[design.second] + both
    return np.where(design.cells[:, 0] > 0, total / np.maximum(design.cells[:, 0], 1), np.nan)


def _specificity(
    ctx: Context,
    feature: int,
    population: Population,
    pairs: Sequence[Pair],
    known: NDArray[np.bool_],
    *,
    single: bool,
    seed: int,
) -> Floats:
    """Share of random directions whose largest interaction is at least each pair's, on the same examples.

    Interactions are compared in units of the error they would have if residuals were alike: pairs that few examples
    hold would else decide with their noise what the largest of a random direction is.
    """
    null = null_activations(ctx, feature, population, seed)
    if null is None or not known.any():
        return np.full(len(pairs), np.nan)
    design = _design(ctx, population, pairs, single=single, positions=null.positions)
    unit = np.sqrt(design.inverse[:, 2, 2])
    told = known & np.isfinite(unit)
    if not told.any():
        return np.where(known, 1.0, np.nan)
    own = np.abs(design.interactions(population.activation[null.positions][:, None])[:, 0] / unit)
    largest = np.abs(design.interactions(null.activation)[told] / unit[told, None]).max(axis=0)
    p = np.array([share_at_least(each, largest) for each in own.tolist()])
    # A pair that the sample of examples cannot tell is not shown to be specific.
    return np.where(known, np.where(told, p, 1.0), np.nan)


def observed_pair_columns(
    pairs: Sequence[Pair], found: ObservedPairs, min_effect: float, ctx: Context
) -> dict[str, Any]:
    """The columns of `PairRow` of an observational run."""
    n = found.counts.sum(axis=1)
    first, second, n_both = (found.counts[:, where].sum(axis=1) for where in ([1, 3], [2, 3], [3]))
    lift = n_both * n / np.maximum(first * second, 1).astype(np.float64)
    known, effects = found.known, found.effects
    p = np.where(known, effects.p_value(), np.nan)
    low, high = (np.where(known, end, np.nan) for end in effects.interval())
    nothing = [None] * len(pairs)
    return {
        **names(pairs, ctx),
        "pattern": found.patterns(min_effect),
        **cell_columns(np.where(known[:, None], found.cells, np.nan)),
        "interaction": np.where(known, effects.coefficient[:, 2], np.nan),
        "std_error": np.where(known, effects.std_error, np.nan),
        "ci_low": low,
        "ci_high": high,
        "sim_low": found.low,
        "sim_high": found.high,
        "p_value": p,
        "q_value": benjamini_hochberg(p),
        **dict.fromkeys(("interaction_pre", "pre_low", "pre_high"), nothing),
        **dict.fromkeys(("responder_rate", "responder_low", "responder_high", "mean_responders"), nothing),
        "n": n,
        "n_both": n_both,
        "cooccurrence_lift": np.where(first * second > 0, lift, np.nan),
        "status": found.status,
        "specificity_p": found.specificity,
        "reason": [None if use else "a cell has fewer than 20 examples or 10 builds" for use in known.tolist()],
    }


def observed_candidates(ctx: Context, population: Population, units: Pool, *, single: bool) -> list[Unit]:
    """The candidates of an observational run; where they are to be chosen, those the activation goes with most.

    Effects are within weapons and in units of the error they would have if residuals were alike.
    """
    if units.choose is None:
        return list(units.units)
    columns = held_units(ctx, population.rows, units.units, single=single)
    clusters = ctx.data.clusters[population.rows]
    design = PresenceDesign.of(columns, np.asarray(ctx.data.weapon)[population.rows], clusters)
    strength = np.abs(design.coefficients(population.activation)) * np.sqrt(design.within)
    return units.taken(np.nan_to_num(strength), ctx)


def builds_unknown(ctx: Context, job: Job) -> None:
    """Warn where errors are clustered by distinct examples."""
    if ctx.data.build_id is None:
        job.warn("builds are unknown: errors are clustered by distinct (weapon, set), which may be too narrow")
