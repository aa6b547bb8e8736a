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
from ...design.unit_columns import Kind, UnitColumns, unit_columns
from ...stats.clustered_ratio import clustered_ratio
from ...stats.groups import MIN_CLUSTERS, MIN_N
from ...stats.presence import PresenceDesign, PresenceEffects, presence_means
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
        return self.units.matrix.shape[0] - self.effects.n_present

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
    """Columns of a population's examples, cut from those of all examples, which are kept."""
    whole = ctx.derived(("unit columns", kind), lambda: unit_columns(ctx, np.arange(len(ctx.data)), kind))
    if len(population) == len(ctx.data):
        return whole
    return UnitColumns(whole.labels, whole.family, whole.level, whole.matrix[population.rows])


def associate(
    ctx: Context,
    feature: int,
    population: Population,
    units: UnitColumns,
    split: HighSplit,
    *,
    stratum: Ints,
    min_effect: float,
    seed: int,
    job: Job,
) -> Association:
    """Describe the units in a population.

    Args:
        ctx: the context.
        feature: the feature, for the random directions it is compared with.
        population: with an active example.
        units: columns over it, [n, k].
        split: its high examples.
        stratum: int [n], within which rates are compared, such as the weapon.
        min_effect: smallest effect of interest.
        seed: the spec's seed.
        job: receives a warning where builds are unknown.
    """
    if ctx.data.build_id is None:
        job.warn(BUILDS_UNKNOWN)
    value, cluster = population.activation.astype(np.float64), ctx.data.clusters[population.rows]
    design = PresenceDesign.of(units.matrix, ctx.data.weapon[population.rows], cluster)
    effects = design.effects(value)
    n = np.stack([effects.n_present, len(value) - effects.n_present])
    usable = (n.min(axis=0) >= MIN_N) & np.isfinite(effects.std_error)
    low, high = effects.interval(joint := sidak_level(0.95, int(usable.sum())))
    rates = _rates(units, split, stratum, cluster, joint)
    means = presence_means(value, units.matrix)
    return Association(
        units=units,
        effects=effects,
        low=low,
        high=high,
        mean_with=means[0],
        mean_without=means[1],
        n_active=_active_with(units, value),
        effect_size=_by_deviation(effects.coefficient, value, units),
        q_value=benjamini_hochberg(np.where(usable, effects.p_value(), np.nan)),
        status=_verdicts(low, high, usable, min_effect),
        specificity=_specificity(ctx, feature, population, design, usable=usable, seed=seed),
        reason=_reasons(n, effects, rates),
        rates=rates,
    )


def _active_with(units: UnitColumns, value: Floats) -> Ints:
    """Active examples with each unit, [k]."""
    return np.asarray(units.matrix.T @ (value > 0).astype(np.int64)).ravel()


def _verdicts(low: Floats, high: Floats, usable: NDArray[np.bool_], min_effect: float) -> list[Status | None]:
    bounds = zip(low.tolist(), high.tolist(), usable.tolist(), strict=True)
    return [interval_status(a, b, min_effect) if use else None for a, b, use in bounds]


def _rates(units: UnitColumns, split: HighSplit, stratum: Ints, cluster: Ints, level: float) -> Rates:
    ratio = clustered_ratio(units.matrix, split.high, stratum, cluster)
    among_high = np.asarray(units.matrix.T @ split.high.astype(np.float64), dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        among_rest = (units.counts() - among_high) / np.float64(split.n_baseline)
    return Rates(among_high / max(split.n_high, 1), among_rest, ratio.ratio, *ratio.interval(level), ratio.odds.value)


def _by_deviation(effect: Floats, value: Floats, units: UnitColumns) -> Floats:
    """Effects by the standard deviation of the values within the two groups of each column, pooled; [k]."""
    held = units.counts()
    sums, squares = (np.asarray(units.matrix.T @ each, dtype=np.float64) for each in (value, value**2))
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = squares - sums**2 / held
        outside = (np.square(value).sum() - squares) - (value.sum() - sums) ** 2 / (len(value) - held)
        size = effect / np.sqrt(np.maximum(inside + outside, 0.0) / np.float64(len(value) - 2))
    return np.where(np.isfinite(size), size, np.nan)


def _specificity(
    ctx: Context, feature: int, population: Population, design: PresenceDesign, *, usable: NDArray[np.bool_], seed: int
) -> Floats:
    """Share of random directions whose largest within-weapon effect is at least each unit's, on the same examples."""
    null = null_activations(ctx, feature, population, seed)
    if null is None or not usable.any():
        return np.full(len(usable), np.nan)
    at = null.positions
    if len(at) < len(population):
        design = PresenceDesign.of(design.columns[at], design.group[at], design.cluster[at])
    outcomes = np.column_stack([population.activation[at], null.activation])
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
    held = np.asarray(units.matrix.sum(axis=1)).ravel()
    return np.searchsorted(np.quantile(held, [1 / 3, 2 / 3]), held, side="left")
