"""Token influence sweep: which units go with strong activation, and which of them raise or lower it?"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field

from ..context.context import Context
from ..context.population import Population
from ..schemas.catalogue import Plan, experiment
from ..schemas.errors import RequestError
from ..schemas.job import Job
from ..schemas.result import Findings, Method
from ..schemas.spec import ExperimentSpec, Variables
from .design.effect_report import summarise
from .design.high import HighPercentile, HighSplit, read_percentile, split_high
from .design.interventions import DEFAULT_CONTEXTS, data_population
from .design.report import no_intervention, quiet_findings, smallest_effect
from .design.unit_columns import UnitColumns
from .design.unit_effects import UnitEffects, unit_effects, unit_plan
from .design.units import Unit
from .parts.influence.association import (
    NOT_READ,
    NOT_RUN,
    Association,
    associate,
    population_columns,
    prepare,
)
from .parts.influence.report import (
    causal_diagnostics,
    causal_findings,
    causal_followups,
    causal_headline,
    causal_numbers,
    listing,
    observed_answer,
)
from .parts.influence.rows import (
    TABLES,
    confirmations,
    influence_columns,
    influence_table,
    levels_to_write,
    listed,
)

LEVEL_CONTEXTS = 200


class TokenInfluenceVariables(Variables):
    """What counts as influence."""

    min_samples: int = Field(default=50, ge=1, description="Examples that must hold a unit for it to be listed.")
    high_percentile: HighPercentile = 90.0
    collapse_families: bool = Field(
        default=True, description="Units are families at any AP; false: each level, counted at its highest rung."
    )
    suppressor_threshold: float = Field(
        default=0.8, gt=0, le=1, description="Suppressors have a ratio of rates below this."
    )
    enhancer_threshold: float = Field(default=1.2, ge=1, description="Enhancers have a ratio of rates above this.")
    min_effect: float | None = Field(
        default=None, gt=0, le=6, description="Smallest effect of interest; default 5 % of the effective max."
    )
    method: Literal["both", "observational", "interventional"] = Field(
        default="both", description="Read the data, write each unit into builds, or both."
    )


class TokenInfluenceSpec(ExperimentSpec):
    """Spec of a token influence sweep."""

    type: Literal["token_influence_sweep"] = "token_influence_sweep"
    variables: TokenInfluenceVariables = TokenInfluenceVariables()


def _population(spec: TokenInfluenceSpec, ctx: Context) -> Population:
    """The whole slice beside interventions, whose contexts are a sample of it."""
    return data_population(spec, ctx, "observational" if spec.variables.method == "observational" else "interventional")


def _columns(spec: TokenInfluenceSpec, ctx: Context, population: Population) -> UnitColumns:
    return population_columns(ctx, population, "families" if spec.variables.collapse_families else "levels")


def _to_run(spec: TokenInfluenceSpec, ctx: Context, population: Population, columns: UnitColumns) -> dict[int, Unit]:
    """The units that are written into builds: all families, or the levels that enough examples hold.

    Raises:
        RequestError: no level is held by enough examples.
    """
    held, units = columns.counts(), levels_to_write(ctx, columns)
    fewest = 0 if spec.variables.collapse_families else spec.variables.min_samples
    chosen = {index: unit for index, unit in enumerate(units) if held[index] >= fewest}
    if not chosen:
        raise RequestError(
            f"no level is held by min_samples = {fewest} examples of {population.description}: lower min_samples or "
            f"widen dataset_slice. Nothing was run."
        )
    return chosen


def _contexts(spec: TokenInfluenceSpec) -> int:
    return DEFAULT_CONTEXTS if spec.variables.collapse_families else LEVEL_CONTEXTS


def plan(spec: TokenInfluenceSpec, ctx: Context) -> Plan:
    """What the sweep would run."""
    if spec.variables.method != "observational":
        _ = ctx.oracle
    population = _population(spec, ctx)
    if no_intervention(population, spec.variables.method):
        return Plan(contexts=len(population), conditions="the examples by unit", notes=population.warnings)
    units = _to_run(spec, ctx, population, _columns(spec, ctx, population))
    return unit_plan(spec, ctx, list(units.values()), _contexts(spec))


@experiment(
    "token_influence_sweep",
    spec=TokenInfluenceSpec,
    plan=plan,
    cli="token-influence",
    summary="Which abilities go with strong activation, and which of them raise or lower it in the network.",
    tables=TABLES,
    methods=("both", "observational", "interventional"),
    cost="data or model",
    toolset="core",
)
def run(spec: TokenInfluenceSpec, ctx: Context, job: Job) -> Findings:
    """Sweep the units; the estimators are in docs/methods under "token_influence_sweep"."""
    method: Method = spec.variables.method
    if method != "observational":
        _ = ctx.oracle
    population = _population(spec, ctx)
    quiet = quiet_findings(spec, ctx, population, job, method=method, models=TABLES)
    if quiet is not None:
        return quiet
    min_effect = smallest_effect(spec, ctx, spec.variables.min_effect) or 0.0
    columns = _columns(spec, ctx, population)
    to_run = {} if method == "observational" else _to_run(spec, ctx, population, columns)
    split = split_high(population, read_percentile(spec.variables.high_percentile, job), job)
    seen = associate(
        ctx,
        spec.feature_id,
        population,
        prepare(ctx, population, columns, by_count=True),
        split,
        min_effect=min_effect,
        seed=spec.dataset_slice.random_seed,
        job=job,
    )
    if not to_run:
        custom = _tables(spec, job, seen, None, [])
        return observed_answer(
            spec,
            ctx,
            population,
            job,
            seen=seen,
            split=split,
            table="all_tokens",
            custom=custom,
            min_effect=min_effect,
        )
    effects = unit_effects(
        spec,
        ctx,
        list(to_run.values()),
        min_effect=min_effect,
        job=job,
        default=_contexts(spec),
        at_level=not spec.variables.collapse_families,
    )
    return _causal(
        spec, ctx, population, job, seen=seen, split=split, effects=effects, run_at=list(to_run), min_effect=min_effect
    )


def _tables(
    spec: TokenInfluenceSpec, job: Job, seen: Association, effects: UnitEffects | None, run_at: list[int]
) -> dict[str, Any]:
    """Hand over the three tables; returns what ``custom`` says of the lists."""
    variables, method = spec.variables, spec.variables.method
    observed = method != "interventional"
    bounds = (variables.suppressor_threshold, variables.enhancer_threshold)
    lists = listed(seen, bounds, variables.min_samples) if observed else ([], [])
    where = {unit: at for at, unit in enumerate(run_at[: len(effects.units) if effects else 0])}
    confirmed = confirmations(effects, where, *lists)
    columns = influence_columns(seen, effects, where, confirmed, observed=observed)
    notes = [NOT_READ] if not observed else [NOT_RUN] if effects is None else []
    if effects is not None and variables.collapse_families:
        notes.append("level: the highest AP that 5 % of the examples that hold the family reach, 12 at least")
    causal = {} if effects is None else {unit: abs(float(effects.table.effects.mean[at])) for unit, at in where.items()}
    delta = np.nan_to_num(np.abs(seen.effects.coefficient))
    order = sorted(range(len(delta)), key=lambda i: (-causal.get(i, 0.0), -float(delta[i])))
    job.partial(influence_table("all_tokens", columns, order, notes))
    rule = f"held by {variables.min_samples} examples or more, and the interval of the ratio excludes 1"
    for name, rows, side in zip(("suppressors", "enhancers"), lists, ("below", "above"), strict=True):
        bound = bounds[0] if side == "below" else bounds[1]
        more = [NOT_READ] if not observed else [f"units with a ratio {side} {bound:g}, {rule}"]
        job.partial(influence_table(name, columns, rows, more))
    labels = seen.units.labels
    # What the network does most with comes first: it is what a reader would miss.
    unsettled = sorted((i for i, agrees in confirmed.items() if agrees is None), key=lambda i: -causal.get(i, 0.0))
    return {
        "suppressors": [labels[i] for i in lists[0]],
        "enhancers": [labels[i] for i in lists[1]],
        "confirmed": [labels[i] for i, agrees in confirmed.items() if agrees],
        "not_confirmed": [labels[i] for i, agrees in confirmed.items() if agrees is False],
        "not_settled": [labels[i] for i in unsettled if effects is not None],
    }


def _agreement(numbers: dict[str, Any]) -> str:
    """How many of the lists the network confirms, and what it leaves open."""
    n_listed = len(numbers["suppressors"]) + len(numbers["enhancers"])
    if not n_listed:
        return ""
    agree = len(numbers["confirmed"]) or "none"
    what = "enhancers and suppressors" if n_listed > 1 else "enhancer" if numbers["enhancers"] else "suppressor"
    unsettled = f" (not settled: {listing(numbers['not_settled'])})" if numbers["not_settled"] else ""
    return f"{agree} of {n_listed} {what} in the data confirmed{unsettled}"


def _causal(
    spec: TokenInfluenceSpec,
    ctx: Context,
    population: Population,
    job: Job,
    *,
    seen: Association,
    split: HighSplit,
    effects: UnitEffects,
    run_at: list[int],
    min_effect: float,
) -> Findings:
    numbers = _tables(spec, job, seen, effects, run_at)
    names = [unit.label(ctx) for unit in effects.units]
    custom = {
        "method": spec.variables.method,
        **causal_numbers(effects, names, spec.dataset_slice.random_seed),
        **numbers,
        **split.numbers(),
    }
    return Findings(
        headline=causal_headline(
            effects,
            names,
            spec.feature_id,
            min_effect=min_effect,
            population=effects.design.contexts.population.description,
            more=_agreement(numbers),
        ),
        findings=causal_findings(
            effects, names, spec.feature_id, population=population.description, table="all_tokens"
        ),
        aggregates=summarise(effects.table.effects.mean, effects.table.effects.n, custom),
        tables=list(job.tables.values()),
        diagnostics=causal_diagnostics(
            spec,
            ctx,
            population,
            effects,
            job,
            min_effect=min_effect,
            observed=spec.variables.method != "interventional",
        ),
        followups=causal_followups(spec, ctx, effects),
    )
