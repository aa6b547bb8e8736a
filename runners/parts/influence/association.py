"""What the data say of many units at once: within-weapon effects, and how common each is among high examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....context.context import Context
from ....context.population import Population
from ....schemas.job import Job
from ....schemas.result import Status
from ...design.high import HighSplit
from ...design.observed import interval_status
from ...design.specificity import SPECIFIC, null_activations, share_at_least
from ...design.unit_columns import Kind, UnitColumns, null_design, unit_columns, weapon_design
from ...stats.clustered_ratio import Strata
from ...stats.groups import MIN_CLUSTERS, MIN_N
from ...stats.held import count_held, weighted
from ...stats.presence import Outcome, PresenceDesign, PresenceEffects
from ...stats.tails import benjamini_hochberg, sidak_level

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
NOT_RUN = "method 'observational': the causal columns are null"
NOT_READ = "method 'interventional': the columns of the data are null"
BUILDS_UNKNOWN = "builds are unknown: errors are clustered by distinct (weapon, set), which may be too narrow"


@dataclass(frozen=True)
class Rates:
    """How common k units are among high examples and the rest; arrays are [k], NaN where unknown.

    Attributes:
        among_high: share of the high examples that hold each.
        among_rest: share of all others.
        ratio: ratio of these rates within strata; infinite where only high examples hold it.
        low, high: its 95 % interval, simultaneous over the rows that can be judged.
        odds: odds ratio pooled over the strata.
    """

    among_high: Floats
    among_rest: Floats
    ratio: Floats
    low: Floats
    high: Floats
    odds: Floats


@dataclass(frozen=True)
class Association:
    """k units in the examples of a population; arrays are [k], NaN where unknown.

    Attributes:
        units: the units' columns over the population.
        effects: effect of each on activation with the weapon held fixed.
        low, high: its 95 % interval, simultaneous over the rows that can be judged (Sidak).
        mean_with, mean_without: mean activation of the examples with and without it.
        n_active: active examples with it.
        effect_size: the within-weapon effect by the pooled standard deviation of activation with and without it.
        q_value: Benjamini-Hochberg q of the within-weapon effect.
        status: verdict on it; None where it cannot be judged.
        specificity: p of each that can be judged against random directions; NaN where unknown.
        reason: why a number is null.
        rates: how common each is among high examples.
    """

    units: UnitColumns
    effects: PresenceEffects
    low: Floats
    high: Floats
    mean_with: Floats
    mean_without: Floats
    n_active: Ints
    effect_size: Floats
    q_value: Floats
    status: list[Status | None]
    specificity: Floats
    reason: list[str | None]
    rates: Rates

    @property
    def n_present(self) -> Ints:
        """Examples with each unit."""
        return self.effects.n_present

    @property
    def n_absent(self) -> Ints:
        """Examples without it."""
        return self.units.held.shape[0] - self.effects.n_present

    @property
    def raw_delta(self) -> Floats:
        """Mean activation of the examples with each unit minus that of the others, over all weapons."""
        return self.mean_with - self.mean_without

    @property
    def mean_when_active(self) -> Floats:
        """Mean activation of the active examples with each unit; NaN without any."""
        # The inactive add nothing to the sum.
        total = np.where(self.n_active > 0, self.mean_with * self.n_present, np.nan)
        return total / np.maximum(self.n_active, 1)

    @property
    def sparse(self) -> NDArray[np.bool_]:
        """Units with fewer than 20 examples on either side."""
        return np.minimum(self.n_present, self.n_absent) < MIN_N

    def acting(self) -> list[int]:
        """Units that may be headlined: present and specific to the feature, by falling size of the effect."""
        found = [i for i, each in enumerate(self.status) if each == "present" and not self.specificity[i] > SPECIFIC]
        return sorted(found, key=lambda i: -abs(float(self.effects.coefficient[i])))

    def largest(self) -> int | None:
        """The unit with the largest effect among those that can be judged; None without any."""
        judged = [i for i, each in enumerate(self.status) if each is not None]
        return max(judged, key=lambda i: abs(float(self.effects.coefficient[i])), default=None)


def population_columns(ctx: Context, population: Population, kind: Kind) -> UnitColumns:
    """Columns of a population's examples, kept for other features."""
    return ctx.derived_for(population, ("unit columns", kind), lambda: unit_columns(ctx, population.rows, kind))


@dataclass(frozen=True)
class Prepared:
    """Units over the examples of a population, taken apart once for all features.

    Attributes:
        units: their columns.
        design: with weapon fixed effects.
        strata: by what rates are compared within.
    """

    units: UnitColumns
    design: PresenceDesign
    strata: Strata


def prepare(ctx: Context, population: Population, units: UnitColumns, *, by_count: bool) -> Prepared:
    """Take units apart; rates are compared within weapons, and within tertiles of the number held where by_count."""

    def make() -> Prepared:
        weapon, cluster = np.asarray(ctx.data.weapon)[population.rows], ctx.data.clusters[population.rows]
        design = weapon_design(ctx, population, units)
        stratum = weapon.astype(np.int64) * 3 + count_tertile(units) if by_count else weapon
        return Prepared(units, design, Strata.of(units.held, stratum, cluster))

    return ctx.derived_for(population, ("association", units.key, by_count), make)


def associate(
    ctx: Context,
    feature: int,
    population: Population,
    prepared: Prepared,
    split: HighSplit,
    *,
    min_effect: float,
    seed: int,
    job: Job,
) -> Association:
    """Describe the units in a population.

    Args:
        ctx: the context.
        feature: the feature, for the random directions it is compared with.
        population: with an active example.
        prepared: the units over it.
        split: its high examples.
        min_effect: smallest effect of interest.
        seed: the spec's seed.
        job: receives a warning where builds are unknown.
    """
    if ctx.data.build_id is None:
        job.warn(BUILDS_UNKNOWN)
    units, design = prepared.units, prepared.design
    seen = design.outcome(population.activation)
    effects = design.effects(seen)
    n = np.stack([effects.n_present, len(population) - effects.n_present])
    usable = (n.min(axis=0) >= MIN_N) & np.isfinite(effects.std_error)
    low, high = effects.interval(joint := sidak_level(0.95, int(usable.sum())))
    rates = _rates(prepared, split, joint)
    means = seen.means(n)
    return Association(
        units=units,
        effects=effects,
        low=low,
        high=high,
        mean_with=means[0],
        mean_without=means[1],
        n_active=seen.n_active,
        effect_size=_by_deviation(effects.coefficient, seen, n),
        q_value=benjamini_hochberg(np.where(usable, effects.p_value(), np.nan)),
        status=_verdicts(low, high, usable, min_effect),
        specificity=_specificity(ctx, feature, population, units, usable=usable, seed=seed),
        reason=_reasons(n, effects, rates),
        rates=rates,
    )


def _verdicts(low: Floats, high: Floats, usable: NDArray[np.bool_], min_effect: float) -> list[Status | None]:
    bounds = zip(low.tolist(), high.tolist(), usable.tolist(), strict=True)
    return [interval_status(a, b, min_effect) if use else None for a, b, use in bounds]


def _rates(prepared: Prepared, split: HighSplit, level: float) -> Rates:
    ratio, held = prepared.strata.ratio(split.high), prepared.units.held
    among_high = count_held(held, np.flatnonzero(split.high))
    with np.errstate(divide="ignore", invalid="ignore"):
        among_rest = (prepared.design.n_present - among_high) / np.float64(split.n_baseline)
    return Rates(among_high / max(split.n_high, 1), among_rest, ratio.ratio, *ratio.interval(level), ratio.odds.value)


def _by_deviation(effect: Floats, seen: Outcome, n: Ints) -> Floats:
    """Effects by the standard deviation of the values within the two groups of each column, n [2, k], pooled; [k]."""
    total, squares = seen.value.sum(), np.square(seen.value).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = seen.squares - seen.total**2 / n[0]
        outside = (squares - seen.squares) - (total - seen.total) ** 2 / n[1]
        size = effect / np.sqrt(np.maximum(inside + outside, 0.0) / np.float64(n[:, 0].sum() - 2))
    return np.where(np.isfinite(size), size, np.nan)


def _specificity(
    ctx: Context, feature: int, population: Population, units: UnitColumns, *, usable: NDArray[np.bool_], seed: int
) -> Floats:
    """Share of random directions whose largest within-weapon effect is at least each unit's, on the same examples."""
    null = null_activations(ctx, feature, population, seed)
    if null is None or not usable.any():
        return np.full(len(usable), np.nan)
    design = null_design(ctx, population, units, null)
    outcomes = np.column_stack([population.activation[null.positions], null.activation])
    effects = np.abs(np.nan_to_num(design.coefficients(outcomes)))
    largest = effects[usable, 1:].max(axis=0)
    p = np.array([share_at_least(float(effect), largest) for effect in effects[:, 0]])
    return np.where(usable, p, np.nan)


def _reasons(n: Ints, effects: PresenceEffects, rates: Rates) -> list[str | None]:
    """Why the first number of each unit that is unknown is so."""
    causes = (
        (n[0] == 0, "no example holds it"),
        (n[1] == 0, "every example holds it"),
        (np.isnan(effects.coefficient), "no weapon has examples with it and without it"),
        (
            np.isnan(effects.std_error),
            f"fewer than {MIN_CLUSTERS} clusters with it or without it: no interval of delta",
        ),
        (np.isnan(rates.ratio), "no stratum of high and other examples has it: no ratio"),
        (np.isinf(rates.ratio), "only high examples hold it: the ratio has no bound"),
        (
            np.isnan(rates.low),
            f"fewer than {MIN_CLUSTERS} clusters of high or other examples: no interval of the ratio",
        ),
    )
    return [next((text for holds, text in causes if holds[i]), None) for i in range(n.shape[1])]


def count_tertile(units: UnitColumns) -> Ints:
    """Tertile (0, 1, 2) of the number of units each example holds, [n].

    High examples of almost any feature hold more units than others, and every unit is then more common among them.
    """
    held = weighted(units.held, np.ones(len(units.labels), dtype=np.int64))
    return np.searchsorted(np.quantile(held, [1 / 3, 2 / 3]), held, side="left")
