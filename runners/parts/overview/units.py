"""What goes with a feature at first sight: every family and level, within weapons, against random directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ....context.context import Context
from ....context.population import Population
from ....schemas.result import Row, Status, Table
from ...design.high import HighSplit
from ...design.observed import interval_status
from ...design.specificity import NullActivations, share_at_least
from ...design.unit_columns import UnitColumns, null_design, unit_columns, weapon_design
from ...stats.groups import MIN_N
from ...stats.held import count_held, weighted_gram, weights_by_group
from ...stats.pagerank import pagerank
from ...stats.presence import Outcome, PresenceDesign, PresenceEffects
from ...stats.tails import benjamini_hochberg, sidak_level, t_quantile

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
LARGEST = 3
"""A rule has parts, so one statistic of units is the mean of their largest effects, not the largest alone."""
ENOUGH = 50


class TopUnit(Row):
    """Examples that hold a family, and those at its most telling level, against the others on the same weapons."""

    unit: str = Field(description="Family or main-only ability, held at any AP.")
    effect: float | None = Field(description="Mean activation with it minus without it, weapon held fixed.")
    sim_low: float | None = Field(description="Lower end of its 95 % interval, over all units and levels at once.")
    sim_high: float | None = Field(description="Upper end of its 95 % interval, over all units and levels at once.")
    q_value: float | None = Field(description="Benjamini-Hochberg q of the effect over the families.")
    best_level: str | None = Field(description="Its level (exactly this AP) with the clearest effect.")
    level_effect: float | None = Field(description="Mean at that level minus all others, weapon held fixed.")
    level_low: float | None = Field(description="Lower end of its interval, as sim_low.")
    level_high: float | None = Field(description="Upper end of its interval, as sim_high.")
    n_level: int | None = Field(description="Examples at that level.")
    n: int = Field(description="Examples with the family.")
    n_active: int = Field(description="Those of them on which the feature is active.")
    mean_with: float | None = Field(description="Mean activation with it, over all weapons.")
    mean_without: float | None = Field(description="Mean activation without it, over all weapons.")
    mean_when_active: float | None = Field(description="Mean activation with it, over n_active; null where that is 0.")
    pagerank: float = Field(description="Its rank on the graph of what is held together, weighted by activation.")
    status: Status | None = Field(description="Verdict on the stronger of effect and level_effect; null if unknown.")
    reason: str | None = Field(description="Why a number is null.")


class FamilyShare(Row):
    """How much of what high examples hold is of one family; a description, without a verdict."""

    family: str = Field(description="Family or main-only ability.")
    n_high: int = Field(description="High examples that hold it.")
    share_high: float = Field(description="Its share (0-1) of all families that high examples hold, counted.")
    share_baseline: float | None = Field(description="The same share in all other examples; null without any.")
    difference: float | None = Field(description="share_high minus share_baseline.")
    lift: float | None = Field(description="share_high over share_baseline; null where the baseline has none.")


@dataclass(frozen=True)
class UnitDesign:
    """Families held at any level, then the levels of stackable families, as columns over a population.

    Attributes:
        families: the leading columns.
        levels: the others.
        by_family, by_level: both with weapon fixed effects.
    """

    families: UnitColumns
    levels: UnitColumns
    by_family: PresenceDesign
    by_level: PresenceDesign

    @property
    def n_families(self) -> int:
        """How many leading columns are families."""
        return len(self.families.labels)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Name of each column."""
        return self.families.labels + self.levels.labels

    @cached_property
    def family(self) -> tuple[str, ...]:
        """Family of each column."""
        return self.families.family + self.levels.family

    @cached_property
    def ap(self) -> tuple[int, ...]:
        """Level of each column; 0 stands for any level."""
        return self.families.level + self.levels.level

    @cached_property
    def n_present(self) -> Ints:
        """Examples with each column."""
        return np.concatenate([self.by_family.n_present, self.by_level.n_present])

    @cached_property
    def varied(self) -> NDArray[np.bool_]:
        """Columns that some weapon has examples with and without of."""
        return ~np.isnan(np.concatenate([self.by_family.within, self.by_level.within]))


def unit_design(ctx: Context, population: Population) -> UnitDesign:
    """The columns over a population, made once for all features."""

    def make() -> UnitDesign:
        families, levels = (unit_columns(ctx, population.rows, kind) for kind in ("families", "levels"))
        stackable = np.array([family in ctx.vocabulary.stackable for family in levels.family])
        levels = levels.take(np.flatnonzero(stackable))
        designs = [weapon_design(ctx, population, each) for each in (families, levels)]
        return UnitDesign(families, levels, *designs)

    return ctx.derived_for(population, "overview of units", make)


@dataclass(frozen=True)
class UnitEffects:
    """Within-weapon effects of every family, and of the most telling level of each stackable one.

    Attributes:
        units: the columns.
        seen: the feature on the families.
        column: [c], the columns of ``units`` that were estimated: all families, then the levels.
        level: for each family the position of its level among the c; None where it has none.
        effects: the estimates, [c].
        low, high: simultaneous 95 % intervals, Sidak over all families and levels with 20 examples.
        q_value: Benjamini-Hochberg over the families; NaN for levels.
        usable: [c], those with 20 examples and a standard error.
        status: verdicts; None where not usable.
    """

    units: UnitDesign
    seen: Outcome
    column: Ints
    level: tuple[int | None, ...]
    effects: PresenceEffects
    low: Floats
    high: Floats
    q_value: Floats
    usable: NDArray[np.bool_]
    status: list[Status | None]

    def label(self, index: int) -> str:
        """The token or family of an estimated column."""
        return self.units.labels[int(self.column[index])]

    def family(self, index: int) -> str:
        """Its family."""
        return self.units.family[int(self.column[index])]

    def ap(self, index: int) -> int:
        """Its level in AP; 0 where any level counts."""
        return self.units.ap[int(self.column[index])]

    @property
    def certain(self) -> Floats:
        """How far each interval lies from 0, [c]; negative where it holds 0, -inf where unknown."""
        return np.where(self.usable, np.maximum(self.low, -self.high), -np.inf)

    def strongest(self, family: int) -> int:
        """The family at any AP, or its level: the one whose interval lies farther from 0."""
        level, certain = self.level[family], self.certain
        return family if level is None or certain[family] >= certain[level] else level

    def ranked(self) -> list[int]:
        """Families: those with a present effect by its size, then the others by the certainty of theirs."""
        best = np.array([self.strongest(i) for i in range(self.units.n_families)])
        present = np.array([self.status[i] == "present" for i in best.tolist()])
        size = np.abs(self.effects.coefficient[best])
        return np.lexsort((-self.certain[best], -np.where(present, size, 0.0))).tolist()


def _rough_bound(design: PresenceDesign, seen: Outcome, level: float) -> Floats:
    """Lower bounds of the sizes of all effects, as if a build's examples were one and the weapons' means known."""
    n, counts, clusters = len(design.group), np.maximum(design.n_present, 1), np.maximum(design.clusters[0], 1)
    overall = np.square(seen.value).sum() / n - (seen.value.sum() / n) ** 2
    # One build's worth of the overall variance is added: a few silent examples are not certain of anything.
    spread = np.maximum(seen.squares / counts - (seen.total / counts) ** 2, 0.0)
    error = np.sqrt((spread + overall / clusters) / clusters)
    bound = np.abs(design.slopes(seen)) - t_quantile(0.5 + level / 2, clusters) * error
    return np.nan_to_num(bound, nan=-np.inf)


def unit_effects(units: UnitDesign, population: Population, min_effect: float) -> UnitEffects:
    """Effects of all families on the feature, and of the level of each that tells most.

    Of the levels with 20 examples, the one whose effect is roughly the most certain is chosen; the intervals account
    for all that could have been.
    """
    value, k = population.activation, units.n_families
    enough = units.n_present >= MIN_N
    level95 = sidak_level(0.95, int(enough.sum()))
    seen, by_level = units.by_family.outcome(value), units.by_level.outcome(value)
    rough = np.where(enough[k:], _rough_bound(units.by_level, by_level, level95), -np.inf)
    chosen: list[int] = []
    level: list[int | None] = []
    for name in units.families.labels:
        own = [i for i, family in enumerate(units.levels.family) if family == name and rough[i] > -np.inf]
        level.append(k + len(chosen) if own else None)
        chosen += [max(own, key=lambda i: float(rough[i]))] if own else []
    kept = np.array(chosen, dtype=np.intp)
    at_level = units.by_level.take(kept, units.levels.take(kept).held)
    effects = units.by_family.effects(seen).beside(at_level.effects(by_level.take(kept, at_level.columns)))
    column = np.concatenate([np.arange(k), k + kept])
    usable = (effects.n_present >= MIN_N) & ~np.isnan(effects.std_error)
    bounds = effects.interval(level95)
    low, high = (np.where(usable, bound, np.nan) for bound in bounds)
    status: list[Status | None] = [
        interval_status(float(a), float(b), min_effect) for a, b in zip(low, high, strict=True)
    ]
    q = benjamini_hochberg(np.where(usable & (column < k), effects.p_value(), np.nan))
    return UnitEffects(units, seen, column, tuple(level), effects, low, high, q, usable, status)


@dataclass(frozen=True)
class Specificity:
    """p of the largest effects of units, and of the largest deviation of a weapon; None where unknown."""

    units: float | None
    weapons: float | None

    @property
    def both(self) -> float | None:
        """p of the smaller one, Bonferroni over the two."""
        known = [p for p in (self.units, self.weapons) if p is not None]
        return min(1.0, 2.0 * min(known)) if known else None


def specificity(ctx: Context, found: UnitEffects, population: Population, null: NullActivations | None) -> Specificity:
    """Compare the feature with random directions on the same examples.

    Units have two statistics, over columns with 50 examples: the mean of the three largest |within-weapon effects| of
    families and levels, and the largest of families at any AP alone, as any direction has a large effect at some level
    that few builds hold. The statistic of weapons with 20 examples is the largest |mean - overall mean|. The
    directions are as high as the feature, so that all are shares of the same height.
    """
    units = found.units
    keep = np.flatnonzero(units.varied & (units.n_present >= ENOUGH))
    keep = keep if len(keep) else np.flatnonzero(units.varied & (units.n_present >= MIN_N))
    if null is None or not len(keep):
        return Specificity(None, None)
    designs = [null_design(ctx, population, each, null) for each in (units.families, units.levels)]
    values = np.column_stack([population.activation[null.positions], null.activation])
    unit, weapon = _statistics(designs, keep, values)
    return Specificity(
        smallest_share(unit),
        None if weapon is None else share_at_least(float(weapon[0]), weapon[1:]),
    )


def smallest_share(values: Floats) -> float:
    """p of the smallest of several shares: the feature's is compared with that of every random direction.

    Each is ranked among all of them, the feature included, so that p is exact where the feature is one more random
    direction (Westfall and Young 1993).

    Args:
        values: [s, 1 + r], statistics of the feature and of random directions.
    """
    n = values.shape[1]
    at_least = n - np.array([np.searchsorted(np.sort(row), row, side="left") for row in values])
    smallest = at_least.min(axis=0)
    return int((smallest <= smallest[0]).sum()) / n


def _statistics(designs: Sequence[PresenceDesign], keep: Ints, values: Floats) -> tuple[Floats, Floats | None]:
    """Statistics of outcomes [n, r]: of units [s, r], and of weapons [r].

    Those of units are the mean of the largest effects of the columns kept, and the largest of the families among them,
    where there is one; that of weapons is None where none has 20 examples beside others.

    Args:
        designs: of families, and of levels.
        keep: columns that count, of both put side by side.
        values: [n, r].
    """
    n, counts = len(values), designs[0].counts
    size = np.nan_to_num(np.abs(np.concatenate([design.coefficients(values) for design in designs])))[keep]
    statistics = [np.sort(size, axis=0)[-LARGEST:].mean(axis=0)]
    of_family = keep < len(designs[0].within)
    if of_family.any():
        statistics.append(size[of_family].max(axis=0))
    largest = np.stack(statistics)
    counted = (counts >= MIN_N) & (counts < n)
    if not counted.any():
        return largest, None
    total = weights_by_group(designs[0].group, np.ones(n), len(counts)) @ values.astype(np.float64)
    mean = total / counts[:, None] - total.sum(axis=0) / n
    return largest, np.abs(mean[counted]).max(axis=0)


def top_tokens(found: UnitEffects, population: Population, top_k: int) -> Table:
    """The table ``top_tokens``: families by their effect, each with its most telling level."""
    seen, present = found.seen, found.units.by_family.n_present
    graph = weighted_gram(seen.held, np.arange(len(seen.rows)), seen.value)
    np.fill_diagonal(graph, 0.0)
    rank = pagerank(graph)
    means = UnitMeans.of(seen, np.stack([present, len(population) - present]))
    order = found.ranked()
    rows = [_top_unit(found, index, rank, means) for index in order[:top_k]]
    notes = ["effects of one unit at a time: units that are held together share them"]
    if len(rows) < len(order):
        notes.append(f"{len(rows)} of {len(order)} units: the largest and most certain effects")
    return Table.from_columns("top_tokens", TopUnit, {name: [row[name] for row in rows] for name in rows[0]}, notes)


@dataclass(frozen=True)
class UnitMeans:
    """Mean activations by presence of each of k families, over all weapons; arrays are [k].

    Attributes:
        present, absent: means with and without it; NaN without such an example.
        n_active: active examples with it.
        when_active: mean over these; NaN without any.
    """

    present: Floats
    absent: Floats
    n_active: Ints
    when_active: Floats

    @classmethod
    def of(cls, seen: Outcome, n: Ints) -> UnitMeans:
        """Means of an outcome by columns that n [2, k] examples are with and without."""
        with np.errstate(invalid="ignore"):
            return cls(*seen.means(n), seen.n_active, seen.total / seen.n_active)


def _top_unit(found: UnitEffects, index: int, rank: Floats, means: UnitMeans) -> dict[str, Any]:
    effects, level, usable = found.effects, found.level[index], bool(found.usable[index])
    telling = found.status[found.strongest(index)]
    present = int(effects.n_present[index])
    reason = None
    if not usable:
        few = present < MIN_N
        reason = f"{present} examples hold it" if few else "fewer than 10 builds on one side: no standard error"
    return {
        "unit": found.label(index),
        "effect": effects.coefficient[index],
        "sim_low": found.low[index],
        "sim_high": found.high[index],
        "q_value": found.q_value[index],
        "best_level": None if level is None else found.label(level),
        "level_effect": None if level is None else effects.coefficient[level],
        "level_low": None if level is None else found.low[level],
        "level_high": None if level is None else found.high[level],
        "n_level": None if level is None else int(effects.n_present[level]),
        "n": present,
        "n_active": means.n_active[index],
        "mean_with": means.present[index],
        "mean_without": means.absent[index],
        "mean_when_active": means.when_active[index],
        "pagerank": rank[index],
        "status": telling,
        "reason": reason,
    }


def family_shares_table(found: UnitEffects, split: HighSplit) -> Table:
    """The table ``family_shares``: the families that high examples hold, the largest gain first."""
    high = count_held(found.units.families.held, np.flatnonzero(split.high)).astype(np.float64)
    base = found.units.by_family.n_present - high
    share_high = high / max(high.sum(), 1.0)
    share_base = base / base.sum() if base.sum() > 0 else np.full(len(base), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        lift = np.where(share_base > 0, share_high / share_base, np.nan)
    order = np.argsort(-np.nan_to_num(share_high - share_base), kind="stable")
    columns: dict[str, Any] = {
        "family": [found.units.labels[i] for i in order.tolist()],
        "n_high": high[order].astype(np.int64),
        "share_high": share_high[order],
        "share_baseline": share_base[order],
        "difference": (share_high - share_base)[order],
        "lift": lift[order],
    }
    return Table.from_columns("family_shares", FamilyShare, columns, [split.describe()])
