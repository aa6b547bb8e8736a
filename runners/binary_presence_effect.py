"""Binary presence effect: what goes with wearing a main-only ability, and what does wearing it change?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from ..context.context import Context
from ..context.population import Population
from ..context.token_sets import concatenate
from ..schemas.catalogue import Plan, experiment
from ..schemas.errors import RequestError
from ..schemas.facts import MAX_AP
from ..schemas.job import Job
from ..schemas.result import Diagnostics, Findings, Method, Row
from ..schemas.spec import ExperimentSpec, Variables
from .design.effect_report import summarise
from .design.high import HighPercentile, HighSplit, read_percentile, split_high
from .design.interventions import data_population
from .design.report import (
    empty_tables,
    interval,
    no_intervention,
    number,
    quiet_findings,
    smallest_effect,
    with_short,
)
from .design.unit_columns import UnitColumns
from .design.unit_effects import UnitEffects, unit_design, unit_effects
from .design.units import Unit
from .parts.influence.association import NOT_READ, NOT_RUN, Association, associate, population_columns, prepare
from .parts.influence.binary_conditional import (
    Conditional,
    ConditionalEffect,
    LevelContrast,
    Levels,
    conditional_design,
    conditional_effects,
    conditional_table,
    level_contrast,
)
from .parts.influence.binary_tables import BinaryEffect, Combination, ability_combinations, binary_effects
from .parts.influence.report import (
    causal_diagnostics,
    causal_findings,
    causal_followups,
    causal_headline,
    causal_numbers,
    causal_sign,
    listing,
    observed_answer,
)

TABLES: dict[str, type[Row]] = {
    "binary_effects": BinaryEffect,
    "conditional_effects": ConditionalEffect,
    "combinations": Combination,
}


class BinaryPresenceVariables(Variables):
    """Which abilities, and beside what."""

    binary_tokens: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="Main-only abilities to test; default: all of the vocabulary."
    )
    primary_family: str | None = Field(
        default=None, description="Stackable family at each level of which the abilities are tested again."
    )
    primary_rungs: tuple[Annotated[int, Field(ge=0, le=MAX_AP)], ...] | None = Field(
        default=None, min_length=1, description="AP levels of the primary family; default: absent and every rung."
    )
    min_samples: int = Field(default=20, ge=1, description="Fewer examples on a side make a row sparse.")
    high_percentile: HighPercentile = 90.0
    min_effect: float | None = Field(
        default=None, gt=0, le=6, description="Smallest effect of interest; default 5 % of the effective max."
    )
    method: Literal["both", "observational", "interventional"] = Field(
        default="both", description="Read the data, write each ability into builds, or both."
    )

    @model_validator(mode="after")
    def _rungs_need_family(self) -> BinaryPresenceVariables:
        if self.primary_rungs is not None and self.primary_family is None:
            raise ValueError("primary_rungs needs primary_family: name the family whose AP is meant")
        return self


class BinaryPresenceSpec(ExperimentSpec):
    """Spec of a binary presence experiment."""

    type: Literal["binary_presence_effect"] = "binary_presence_effect"
    variables: BinaryPresenceVariables = BinaryPresenceVariables()


def _abilities(spec: BinaryPresenceSpec, ctx: Context) -> list[str]:
    """The abilities to test.

    Raises:
        RequestError: one is no main-only ability of the vocabulary, or is given twice.
    """
    main_only = ctx.vocabulary.main_only
    given = list(main_only if spec.variables.binary_tokens is None else spec.variables.binary_tokens)
    wrong = [token for token in given if token not in main_only]
    if wrong or not given:
        got = f"binary_tokens holds {', '.join(map(repr, wrong))}, no main-only ability" if wrong else "nothing to test"
        raise RequestError(f"{got}; allowed: {', '.join(main_only) or 'none in this bundle'}. Nothing was run.")
    twice = sorted({token for token in given if given.count(token) > 1})
    if twice:
        raise RequestError(f"binary_tokens holds {', '.join(twice)} twice. Give each once. Nothing was run.")
    return given


def _levels(spec: BinaryPresenceSpec, ctx: Context) -> Levels | None:
    """The primary family with its levels; None without one.

    Raises:
        RequestError: it is unknown or main-only, or has no such AP.
    """
    family, vocabulary = spec.variables.primary_family, ctx.vocabulary
    if family is None:
        return None
    if vocabulary.is_main_only(family):
        raise RequestError(
            f"primary_family {family!r} is main-only and has no levels; give a stackable family, or pairs of main-only "
            f"abilities to pairwise_interactions. Nothing was run."
        )
    asked = spec.variables.primary_rungs
    rungs = (0, *vocabulary.rungs(family)) if asked is None else sorted(set(asked))
    return Levels(family, {rung: vocabulary.resolve(family, rung) for rung in rungs})


def _check(spec: BinaryPresenceSpec, ctx: Context) -> tuple[list[Unit], Levels | None]:
    units = [Unit(family, ctx.vocabulary.rungs(family)[0]) for family in _abilities(spec, ctx)]
    levels = _levels(spec, ctx)
    if spec.variables.method != "observational":
        _ = ctx.oracle
    return units, levels


def _population(spec: BinaryPresenceSpec, ctx: Context) -> Population:
    """The whole slice beside interventions, whose contexts are a sample of it."""
    return data_population(spec, ctx, "observational" if spec.variables.method == "observational" else "interventional")


def _resolutions(levels: Levels | None) -> list[str]:
    return [
        f"rung {asked} is no rung of the vocabulary: {level} is used, as the tokenizer does"
        for asked, level in ({} if levels is None else levels.resolved).items()
        if asked != level
    ]


def plan(spec: BinaryPresenceSpec, ctx: Context) -> Plan:
    """What the experiment would run."""
    units, levels = _check(spec, ctx)
    population = _population(spec, ctx)
    notes = tuple(_resolutions(levels))
    if no_intervention(population, spec.variables.method):
        return Plan(contexts=len(population), conditions="the examples", notes=(*population.warnings, *notes))
    design, _ = unit_design(spec, ctx, units)
    found = design.plan(ctx, "each ability written in, against the builds without it")
    if levels is not None:
        at_levels = conditional_design(spec, ctx, levels, units)
        notes = (*at_levels.warnings, *notes)
        conditions = f"{found.conditions}; again at each level of {levels.family}"
        every = concatenate([design.all_sets(), *([at_levels.design.all_sets()] if at_levels.cells else [])])
        missing = len(ctx.oracle.missing(every))
        found = replace(found, conditions=conditions, forward_passes=missing, saved_passes=len(every) - missing)
    return replace(found, notes=(*found.notes, *notes))


@experiment(
    "binary_presence_effect",
    spec=BinaryPresenceSpec,
    plan=plan,
    cli="binary",
    summary="What goes with wearing a main-only ability, and what wearing it changes in the network.",
    tables=TABLES,
    methods=("both", "observational", "interventional"),
    cost="data or model",
    toolset="patterns",
    aliases={"tokens": "binary_tokens"},
)
def run(spec: BinaryPresenceSpec, ctx: Context, job: Job) -> Findings:
    """Test the abilities; the estimators are in docs/methods under "binary_presence_effect"."""
    units, levels = _check(spec, ctx)
    method: Method = spec.variables.method
    population = _population(spec, ctx)
    quiet = quiet_findings(spec, ctx, population, job, method=method, models=TABLES)
    if quiet is not None:
        return quiet
    for resolution in _resolutions(levels):
        job.warn(resolution)
    min_effect = smallest_effect(spec, ctx, spec.variables.min_effect) or 0.0
    families = population_columns(ctx, population, "families")
    columns = families.take(np.array([ctx.vocabulary.family_index[unit.family] for unit in units]))
    split = split_high(population, read_percentile(spec.variables.high_percentile, job), job)
    seen = associate(
        ctx,
        spec.feature_id,
        population,
        prepare(ctx, population, columns, by_count=False),
        split,
        min_effect=min_effect,
        seed=spec.dataset_slice.random_seed,
        job=job,
    )
    effects = None if method == "observational" else unit_effects(spec, ctx, units, min_effect=min_effect, job=job)
    _tables(spec, ctx, population, job, seen=seen, effects=effects)
    at_levels = _conditional(
        spec, ctx, population, job, columns=columns, units=units, levels=levels, min_effect=min_effect
    )
    if effects is None:
        custom = _observed_top(seen) | {"top_causal_delta": None}
        return observed_answer(
            spec,
            ctx,
            population,
            job,
            seen=seen,
            split=split,
            table="binary_effects",
            custom=custom,
            min_effect=min_effect,
        )
    return _causal(
        spec, ctx, population, job, seen=seen, split=split, effects=effects, at_levels=at_levels, min_effect=min_effect
    )


def _tables(
    spec: BinaryPresenceSpec,
    ctx: Context,
    population: Population,
    job: Job,
    *,
    seen: Association,
    effects: UnitEffects | None,
) -> None:
    """Hand over the abilities and their combinations."""
    observed, fewest = spec.variables.method != "interventional", spec.variables.min_samples
    note = NOT_READ if not observed else NOT_RUN if effects is None else None
    job.partial(binary_effects(ctx, seen, effects, min_samples=fewest, observed=observed, note=note))
    if observed:
        job.partial(ability_combinations(ctx, population, seen.units, seen.effects.coefficient, fewest))
    else:
        empty = empty_tables({"combinations": Combination})[0]
        empty.notes.append(NOT_READ)
        job.partial(empty)


def _conditional(
    spec: BinaryPresenceSpec,
    ctx: Context,
    population: Population,
    job: Job,
    *,
    columns: UnitColumns,
    units: Sequence[Unit],
    levels: Levels | None,
    min_effect: float,
) -> Conditional | None:
    """Hand over the abilities at each level of the primary family; returns what the network said of them."""
    if levels is None:
        empty = empty_tables({"conditional_effects": ConditionalEffect})[0]
        empty.notes.append("no primary_family was given")
        job.partial(empty)
        return None
    causal = None
    if spec.variables.method != "observational":
        design = conditional_design(spec, ctx, levels, units)
        causal = conditional_effects(spec, ctx, design, min_effect=min_effect, job=job)
    job.partial(
        conditional_table(
            ctx,
            population,
            levels,
            columns,
            min_samples=spec.variables.min_samples,
            observed=spec.variables.method != "interventional",
            causal=causal,
        )
    )
    return causal


def _observed_top(seen: Association, index: int | None = None) -> dict[str, Any]:
    """The ability that leads: the one given, else the largest in the data."""
    top = index if index is not None else next(iter(seen.acting()), seen.largest())
    if top is None:
        return {"top_ability": None, "top_delta": None}
    return {"top_ability": seen.units.labels[top], "top_delta": float(seen.effects.coefficient[top])}


def _by_level(name: str, family: str, contrast: LevelContrast) -> str:
    """An ability whose effect depends on the level of the primary family, at two of its levels."""
    most, least = (
        f"with {family} at {level} AP" if level else f"without {family}" for level in (contrast.most, contrast.least)
    )
    bounds = interval(contrast.low, contrast.high)
    return f"{name} does {number(contrast.delta)} {bounds} {most} and {number(contrast.least_delta)} {least}"


def _with_levels(plain: Diagnostics, at_levels: Conditional | None, job: Job) -> Diagnostics:
    """Diagnostics with what the builds at the levels of the primary family broke.

    Those builds are others than the builds of the abilities alone, so their violations are counted by themselves.
    """
    if at_levels is None:
        return plain
    for warning in at_levels.found.warnings:
        job.warn(warning)
    plain.constraint_violations += [
        violation.model_copy(update={"example": f"conditional_effects: {violation.example}"})
        for violation in at_levels.found.design.violations
    ]
    return plain


def _data_alone(seen: Association | None, effects: UnitEffects, names: Sequence[str]) -> dict[str, list[str]]:
    """Abilities that go with the feature in the data: those that do nothing in the network, and the undecided."""
    found = [] if seen is None else sorted(i for i in seen.acting() if i < len(names))
    return {
        "associated_only": [names[i] for i in found if causal_sign(effects, i) == 0],
        "not_settled": [names[i] for i in found if causal_sign(effects, i) is None],
    }


def _causal(
    spec: BinaryPresenceSpec,
    ctx: Context,
    population: Population,
    job: Job,
    *,
    seen: Association,
    split: HighSplit,
    effects: UnitEffects,
    at_levels: Conditional | None,
    min_effect: float,
) -> Findings:
    names = [with_short(unit.family) for unit in effects.units]
    numbers = causal_numbers(effects, names, spec.dataset_slice.random_seed)
    leader = names.index(numbers["top_causal"])
    observed = spec.variables.method != "interventional"
    top = _observed_top(seen, leader) if observed else {"top_ability": effects.units[leader].family, "top_delta": None}
    alone = _data_alone(seen if observed else None, effects, names)
    contrast = level_contrast(at_levels, leader, min_effect) if at_levels and numbers["acting"] else None
    more = [f"associated with it in the data only: {listing(only)}" for only in [alone["associated_only"]] if only]
    if contrast is not None:
        more.insert(0, _by_level(effects.units[leader].family, spec.variables.primary_family or "", contrast))
    custom = {
        "method": spec.variables.method,
        **top,
        **numbers,
        **alone,
        "strongest_rung": None if contrast is None else contrast.most,
        "strongest_rung_delta": None if contrast is None else contrast.delta,
        **split.numbers(),
    }
    plain = causal_diagnostics(spec, ctx, population, effects, job, min_effect=min_effect, observed=observed)
    return Findings(
        headline=causal_headline(
            effects,
            names,
            spec.feature_id,
            min_effect=min_effect,
            population=effects.design.contexts.population.description,
            nouns="abilities",
            more="; ".join(more),
        ),
        findings=causal_findings(
            effects, names, spec.feature_id, population=population.description, table="binary_effects"
        ),
        aggregates=summarise(effects.table.effects.mean, effects.table.effects.n, custom),
        tables=list(job.tables.values()),
        diagnostics=_with_levels(plain, at_levels, job),
        followups=causal_followups(spec, ctx, effects),
    )
