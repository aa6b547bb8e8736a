"""Abilities at each level of another family: in the data, and with that level written into the same builds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ....context.context import Context
from ....context.population import Population
from ....context.token_sets import TokenSets
from ....schemas.job import Job
from ....schemas.result import Row, Table, plain
from ....schemas.spec import ExperimentSpec
from ...design.effect_rows import EffectTable, effect_table
from ...design.interventions import Design, admissible, draw
from ...design.unit_columns import UnitColumns
from ...design.units import Unit, with_units, without_units
from ...stats.groups import MIN_CLUSTERS, MIN_N
from ...stats.presence import PresenceDesign, presence_means
from ...stats.tails import sidak_level, t_quantile

CONTEXT_STREAM = 25
BUDGET = 20_000
FEWEST_CONTEXTS = 100


class ConditionalEffect(Row):
    """One ability among builds with the primary family at one level."""

    ability: str = Field(description="The main-only ability.")
    rung: int = Field(description="AP of the primary family asked for; 0 is absent.")
    resolved_rung: int = Field(description="The vocabulary's rung that was used.")
    n_present: int = Field(description="Examples with the ability whose level of the primary family is this one.")
    n_absent: int = Field(description="Examples without it at this level.")
    mean_with: float | None = Field(description="Mean activation of the examples with it.")
    mean_without: float | None = Field(description="Mean activation of those without.")
    delta: float | None = Field(description="Mean with minus mean without, weapon held fixed.")
    delta_low: float | None = Field(description="Lower end of its 95 % interval that holds for all rows at once.")
    delta_high: float | None = Field(description="Upper end of that interval.")
    sparse: bool = Field(
        description="Fewer than min_samples examples with or without it: not to be read as suppression."
    )
    causal_delta: float | None = Field(
        description="Mean effect of writing it into builds in which the primary family was written at this level."
    )
    causal_low: float | None = Field(description="Lower end of its 95 % interval that holds for all rows at once.")
    causal_high: float | None = Field(description="Upper end of that interval.")
    responder_rate: float | None = Field(description="Share of those contexts it moves by more than min_effect.")
    causal_status: str | None = Field(description="Verdict on the causal effect; null without the model.")
    reason: str | None = Field(description="Why a number of the data is null.")


@dataclass(frozen=True)
class Levels:
    """The primary family and its levels: the AP asked for, ascending, and the vocabulary's rung for each."""

    family: str
    resolved: dict[int, int]

    def distinct(self) -> list[int]:
        """The rungs, ascending."""
        return sorted(set(self.resolved.values()))


@dataclass(frozen=True)
class ConditionalDesign:
    """Pairs of conditions (without and with an ability) at each level, level by level.

    Attributes:
        design: its contexts and conditions.
        cells: (level, position of the ability) of each pair.
    """

    design: Design
    cells: list[tuple[int, int]]


Conditional = tuple[ConditionalDesign, EffectTable]


def conditional_design(
    spec: ExperimentSpec, ctx: Context, levels: Levels, abilities: Sequence[Unit]
) -> ConditionalDesign:
    """The contexts with the primary family at each level, without and with each ability.

    There are as many contexts as 20,000 constructed sets allow, 100 at least.
    """
    contexts = draw(spec, ctx)
    most = max(FEWEST_CONTEXTS, BUDGET // (2 * len(levels.distinct()) * len(abilities)))
    if len(contexts.positions) > most:
        rng = np.random.default_rng([spec.dataset_slice.random_seed, CONTEXT_STREAM])
        keep = np.zeros(len(contexts.positions), dtype=np.bool_)
        keep[rng.choice(len(keep), most, replace=False)] = True
        contexts = contexts.take(keep)
    conditions: list[TokenSets] = []
    labels, cells = [], []
    for level in levels.distinct():
        start = contexts.sets.with_level(levels.family, level, ctx.vocabulary)
        for position, ability in enumerate(abilities):
            without = without_units(start, [ability], ctx)
            conditions += [without, with_units(without, [ability], ctx)]
            labels += [f"{levels.family} {level} {word} {ability.family}" for word in ("without", "with")]
            cells.append((level, position))
    design = admissible(contexts, contexts.sets, conditions, labels, spec=spec, ctx=ctx)
    return ConditionalDesign(design, cells[: len(design.kept) // 2])


def conditional_effects(
    spec: ExperimentSpec, ctx: Context, found: ConditionalDesign, *, min_effect: float, job: Job
) -> EffectTable:
    """Effects of the pairs of a design, in the order of its cells."""
    pooled = found.design.pooled(ctx, job)[: 2 * len(found.cells) + 1]
    readout = ctx.read(pooled, spec.feature_id)
    return effect_table(
        readout.activation[2::2],
        readout.pre[2::2],
        base=(readout.activation[1::2], readout.pre[1::2]),
        population=found.design.contexts.population.size,
        min_effect=min_effect,
        null=None,
        seed=spec.dataset_slice.random_seed,
    )


@dataclass(frozen=True)
class LevelContrast:
    """Levels of the primary family at which an ability acts most and least, with its effects there.

    Attributes:
        most: lowest level at which it acts as at the level of its largest effect.
        least: level of the smallest effect.
        delta, low, high: effect at ``most`` with its simultaneous interval.
        least_delta: effect at ``least``.
    """

    most: int
    least: int
    delta: float
    low: float
    high: float
    least_delta: float


def level_contrast(
    found: ConditionalDesign, effects: EffectTable, position: int, min_effect: float
) -> LevelContrast | None:
    """Where an ability acts most and least; None where no two levels certainly differ by what matters."""
    each = effects.effects
    cells = [at for at, (_, ability) in enumerate(found.cells) if ability == position]
    ranked = sorted(cells, key=lambda at: abs(float(each.mean[at])))
    top, least = ranked[-1], ranked[0]
    alike = [
        at
        for at in cells
        if abs(each.mean[at] - each.mean[top]) <= min_effect
        or (each.sim_low[at] <= each.sim_high[top] and each.sim_high[at] >= each.sim_low[top])
    ]
    if least in alike:
        return None
    most = alike[0]
    return LevelContrast(
        most=found.cells[most][0],
        least=found.cells[least][0],
        delta=float(each.mean[most]),
        low=float(each.sim_low[most]),
        high=float(each.sim_high[most]),
        least_delta=float(each.mean[least]),
    )


def conditional_table(
    ctx: Context,
    population: Population,
    levels: Levels,
    abilities: UnitColumns,
    *,
    min_samples: int,
    observed: bool,
    causal: Conditional | None,
) -> Table:
    """Every ability at every level that was asked for.

    Args:
        ctx: the context.
        population: the examples.
        levels: the primary family and its levels.
        abilities: columns over the examples, [n, k].
        min_samples: examples on a side below which a row is sparse.
        observed: whether the columns of the data are shown.
        causal: design and effects of the same abilities; None where nothing was run.
    """
    own = np.asarray(ctx.data.levels[population.rows, ctx.vocabulary.family_index[levels.family]])
    seen = {level: _at_level(ctx, population, np.flatnonzero(own == level), abilities) for level in levels.distinct()}
    usable = [min(cell.n_present, cell.n_absent) >= MIN_N and cell.error > 0 for row in seen.values() for cell in row]
    joint = sidak_level(0.95, sum(usable))
    rows: list[ConditionalEffect] = []
    for position, ability in enumerate(abilities.labels):
        for asked, level in levels.resolved.items():
            cell = seen[level][position]
            low, high = cell.interval(joint)
            numbers = {"mean_with": cell.mean_with, "mean_without": cell.mean_without, "delta": cell.delta}
            numbers |= {"delta_low": low, "delta_high": high}
            row: dict[str, Any] = {
                "ability": ability,
                "rung": asked,
                "resolved_rung": level,
                "n_present": cell.n_present,
                "n_absent": cell.n_absent,
                **({name: plain(value) for name, value in numbers.items()} if observed else dict.fromkeys(numbers)),
                "sparse": min(cell.n_present, cell.n_absent) < min_samples,
                "reason": cell.reason() if observed else None,
                **_causal(causal, (level, position)),
            }
            rows.append(ConditionalEffect.model_validate(row))
    notes = [] if causal is None else [f"causal columns: {len(causal[0].design.base)} contexts at each level"]
    return Table.of("conditional_effects", ConditionalEffect, rows, notes)


@dataclass(frozen=True)
class _Cell:
    """One ability among the examples of one level; NaN where unknown."""

    n_present: int
    n_absent: int
    mean_with: float
    mean_without: float
    delta: float
    error: float
    df: int

    def interval(self, level: float) -> tuple[float, float]:
        half = float(t_quantile(0.5 + level / 2, self.df)) * self.error
        return self.delta - half, self.delta + half

    def reason(self) -> str | None:
        if not self.n_present:
            return "no example of this level holds it"
        if not self.n_absent:
            return "every example of this level holds it"
        if np.isnan(self.delta):
            return "no weapon has examples with it and without it at this level"
        few = f"fewer than {MIN_CLUSTERS} clusters with it or without it at this level: no interval"
        return few if np.isnan(self.error) else None


def _at_level(ctx: Context, population: Population, rows: NDArray[np.intp], abilities: UnitColumns) -> list[_Cell]:
    """The abilities among the examples at some positions of the population."""
    if not len(rows):
        return [_Cell(0, 0, np.nan, np.nan, np.nan, np.nan, 1) for _ in abilities.labels]
    columns, value, at = abilities.matrix[rows], population.activation[rows].astype(np.float64), population.rows[rows]
    with_it, without = presence_means(value, columns)
    found = PresenceDesign.of(columns, ctx.data.weapon[at], ctx.data.clusters[at]).effects(value)
    series = zip(found.n_present.tolist(), with_it, without, found.coefficient, found.std_error, strict=True)
    return [
        _Cell(n, len(rows) - n, float(a), float(b), float(delta), float(error), found.df)
        for n, a, b, delta, error in series
    ]


def _causal(causal: Conditional | None, cell: tuple[int, int]) -> dict[str, Any]:
    names = ("causal_delta", "causal_low", "causal_high", "responder_rate", "causal_status")
    if causal is None or cell not in causal[0].cells:
        return dict.fromkeys(names)
    at, effects = causal[0].cells.index(cell), causal[1].effects
    values = (effects.mean[at], effects.sim_low[at], effects.sim_high[at], effects.responder_rate[at])
    return dict(zip(names, (*map(float, values), causal[1].status[at]), strict=True))
