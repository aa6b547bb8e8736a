"""Abilities at each level of another family: in the data, and with that level written into the same builds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ....context.context import Context
from ....context.population import Population
from ....context.token_sets import TokenSets
from ....schemas.errors import RequestError
from ....schemas.job import Job
from ....schemas.result import Table
from ....schemas.spec import ExperimentSpec
from ...design.constraints import admit
from ...design.effect_rows import EffectTable, effect_table
from ...design.interventions import Contexts, Design, admissible, draw
from ...design.unit_columns import UnitColumns
from ...design.unit_effects import DROPPED, WrittenColumns, whole_pairs, written_columns
from ...design.units import Unit, with_units, without_units
from ...stats.groups import MIN_CLUSTERS, MIN_N
from ...stats.presence import PresenceDesign
from ...stats.tails import sidak_level, t_quantile
from .association import NOT_RUN

CONTEXT_STREAM = 25
BUDGET = 20_000
FEWEST_CONTEXTS = 100


class ConditionalEffect(WrittenColumns):
    """One ability among builds with the primary family at one level."""

    ability: str = Field(description="The main-only ability.")
    rung: int = Field(description="AP of the primary family asked for; 0 is absent.")
    resolved_rung: int = Field(description="The vocabulary's rung that was used.")
    n_present: int = Field(description="Examples with the ability whose level of the primary family is this one.")
    n_absent: int = Field(description="Examples without it at this level.")
    mean_with: float | None = Field(description="Mean activation of the examples with it.")
    mean_without: float | None = Field(description="Mean activation of those without.")
    n_active: int | None = Field(description="Of the examples with it, active.")
    mean_when_active: float | None = Field(description="Mean activation of those.")
    raw_delta: float | None = Field(description="mean_with minus mean_without, over all weapons.")
    delta: float | None = Field(description="Mean with minus mean without, weapon held fixed.")
    delta_low: float | None = Field(description="Lower end of its 95 % interval that holds for all rows at once.")
    delta_high: float | None = Field(description="Upper end of that interval.")
    sparse: bool = Field(
        description="Fewer than min_samples examples with or without it: not to be read as suppression."
    )
    causal_delta: float | None = Field(
        description="Mean effect of writing it into builds in which the primary family was written at this level."
    )
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
        design: its contexts and conditions; no condition where constraints leave too few contexts for any.
        cells: (level, position of the ability) of each pair.
        warnings: what had to go, for a reader who does not know which design is meant.
    """

    design: Design
    cells: list[tuple[int, int]]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Conditional:
    """A design with the effects of its cells; None where it has no cell."""

    found: ConditionalDesign
    effects: EffectTable | None


def conditional_design(
    spec: ExperimentSpec, ctx: Context, levels: Levels, abilities: Sequence[Unit]
) -> ConditionalDesign:
    """The contexts with the primary family at each level, without and with each ability.

    There are as many contexts as 20,000 constructed sets allow, 100 at least. At level 0 the family is taken out;
    above, its own tokens make room for the level, or stay where ``one_rung_per_family`` is lifted.
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
        clear = level == 0 or "one_rung_per_family" in spec.constraints
        start = contexts.sets.with_level(levels.family, level, ctx.vocabulary, clear=clear)
        for position, ability in enumerate(abilities):
            without = without_units(start, [ability], ctx)
            conditions += [without, with_units(without, [ability], ctx)]
            labels += [f"{levels.family} {level} {word} {ability.family}" for word in ("without", "with")]
            cells.append((level, position))
    design = _admissible(contexts, conditions, labels, spec, ctx)
    warnings = tuple(f"conditional_effects: {warning}" for warning in design.warnings)
    return ConditionalDesign(design, cells[: len(design.kept) // 2], warnings)


def _admissible(
    contexts: Contexts, conditions: Sequence[TokenSets], labels: Sequence[str], spec: ExperimentSpec, ctx: Context
) -> Design:
    """The pairs of conditions that constraints leave contexts for; without any, an empty design instead of an error.

    The abilities by themselves can be run all the same.
    """
    try:
        design = whole_pairs(admissible(contexts, contexts.sets, conditions, labels, spec=spec, ctx=ctx))
    except RequestError:
        violations = admit([contexts.sets, *conditions], ctx, spec.constraints)[1]
        design = Design(contexts, contexts.sets, (), (), violations, ())
    if design.kept:
        return design
    return replace(design, warnings=("constraints leave too few contexts for any level: nothing was written in",))


def conditional_effects(
    spec: ExperimentSpec, ctx: Context, found: ConditionalDesign, *, min_effect: float, job: Job
) -> Conditional:
    """Effects of the pairs of a design, in the order of its cells."""
    if not found.cells:
        return Conditional(found, None)
    readout = ctx.read(found.design.pooled(ctx, job), spec.feature_id)
    effects = effect_table(
        readout.activation[2::2],
        readout.pre[2::2],
        base=(readout.activation[1::2], readout.pre[1::2]),
        population=found.design.contexts.population.size,
        min_effect=min_effect,
        null=None,
        seed=spec.dataset_slice.random_seed,
    )
    return Conditional(found, effects)


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


def level_contrast(causal: Conditional, position: int, min_effect: float) -> LevelContrast | None:
    """Where an ability acts most and least; None where no two levels certainly differ by what matters."""
    found = causal.found
    cells = [at for at, (_, ability) in enumerate(found.cells) if ability == position]
    if causal.effects is None or not cells:
        return None
    each = causal.effects.effects
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
    rows: list[dict[str, Any]] = []
    keys: list[tuple[int, int]] = []
    for position, ability in enumerate(abilities.labels):
        for asked, level in levels.resolved.items():
            cell = seen[level][position]
            numbers = cell.numbers(joint)
            rows.append(
                {
                    "ability": ability,
                    "rung": asked,
                    "resolved_rung": level,
                    "n_present": cell.n_present,
                    "n_absent": cell.n_absent,
                    **(numbers if observed else dict.fromkeys(numbers)),
                    "sparse": min(cell.n_present, cell.n_absent) < min_samples,
                }
            )
            keys.append((level, position))
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    notes = [] if causal is None else [f"causal columns: {len(causal.found.design.base)} contexts at each level"]
    return Table.from_columns("conditional_effects", ConditionalEffect, columns | _causal(causal, keys), notes)


@dataclass(frozen=True)
class _Cell:
    """One ability among the examples of one level; NaN where unknown."""

    n_present: int
    n_absent: int
    n_active: int
    mean_with: float
    mean_without: float
    delta: float
    error: float
    df: int

    def numbers(self, level: float) -> dict[str, Any]:
        """The columns of the data, with an interval at a level of confidence."""
        half = float(t_quantile(0.5 + level / 2, self.df)) * self.error
        return {
            "mean_with": self.mean_with,
            "mean_without": self.mean_without,
            "n_active": self.n_active,
            # The inactive add nothing to the sum.
            "mean_when_active": self.mean_with * self.n_present / self.n_active if self.n_active else None,
            "raw_delta": self.mean_with - self.mean_without,
            "delta": self.delta,
            "delta_low": self.delta - half,
            "delta_high": self.delta + half,
            "reason": self.reason(),
        }

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
        return [_Cell(0, 0, 0, np.nan, np.nan, np.nan, np.nan, 1) for _ in abilities.labels]
    value, at = population.activation[rows], population.rows[rows]
    design = PresenceDesign.of(abilities.among(rows).held, np.asarray(ctx.data.weapon)[at], ctx.data.clusters[at])
    outcome = design.outcome(value)
    found = design.effects(outcome)
    means = outcome.means(np.stack([found.n_present, len(rows) - found.n_present]))
    arrays = (found.n_present, outcome.n_active, *means, found.coefficient, found.std_error)
    series = zip(*(each.tolist() for each in arrays), strict=True)
    return [
        _Cell(n, len(rows) - n, int(up), float(a), float(b), float(delta), float(error), found.df)
        for n, up, a, b, delta, error in series
    ]


def _causal(causal: Conditional | None, keys: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """The columns of the network for rows of (level, position of the ability)."""
    if causal is None:
        return written_columns(None, [None] * len(keys), [NOT_RUN] * len(keys))
    where = {cell: at for at, cell in enumerate(causal.found.cells)}
    reasons = [f"{DROPPED} at {level} AP of the primary family" for level, _ in keys]
    return written_columns(causal.effects, [where.get(key) for key in keys], reasons)
