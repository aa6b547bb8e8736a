"""Kit sweep: is it the sub or special weapon that goes with the feature, and does swapping in such kits change it?"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..context.context import Context
from ..context.population import Population
from ..schemas.catalogue import Plan, experiment
from ..schemas.errors import RequestError
from ..schemas.job import Job
from ..schemas.result import ConstraintViolation, Findings, Row, Table
from ..schemas.spec import ExperimentSpec, Variables
from .design.interventions import Design, data_population
from .design.report import diagnostics, intervention_diagnostics, not_of_the_data, quiet_findings, smallest_effect
from .parts.kits.chosen import SHOWN_KINDS, Sought, choose_parts, every_kit_design
from .parts.kits.observed import observed_findings, part_numbers, read_kits, silent_parts
from .parts.kits.swapped import PartEffect, no_parts, part_effect_table, swap_parts, swapped_findings
from .parts.kits.tables import Kind, PartStat, PartTable, part_stats, part_table
from .parts.weapons.by_weapon import adjusted_weapons, by_weapon
from .parts.weapons.effects import swap_design
from .parts.weapons.gating import GATING

Floats = NDArray[np.floating[Any]]


class KitSweepVariables(Variables):
    """What a kit sweep looks at."""

    min_examples: int = Field(
        default=10, ge=1, description="Subs and specials with fewer examples are not ranked, weapons not swapped in."
    )
    top_k: int = Field(default=10, ge=1, le=1000, description="Rows shown of each table.")
    analyze_combinations: bool = Field(default=False, description="Also group by sub and special together.")
    min_effect: float | None = Field(
        default=None, gt=0, le=6, description="Smallest effect of interest; default 5 % of the effective max."
    )
    method: Literal["observational", "interventional"] = Field(
        default="observational", description="Group the examples there are, or swap every kit into the same builds."
    )


class KitSweepSpec(ExperimentSpec):
    """Spec of a kit sweep."""

    takes_contexts: ClassVar[bool] = True
    type: Literal["kit_sweep"] = "kit_sweep"
    variables: KitSweepVariables = KitSweepVariables()


OBSERVED: dict[str, type[Row]] = {"sub_stats": PartStat, "special_stats": PartStat, "combo_stats": PartStat}
TABLES: dict[str, type[Row]] = OBSERVED | {"sub_effects": PartEffect, "special_effects": PartEffect}
_COMBO: tuple[Kind, ...] = ("combo",)


def plan(spec: KitSweepSpec, ctx: Context) -> Plan:
    """What the sweep would run."""
    _check(spec, ctx)
    population = data_population(spec, ctx, spec.variables.method)
    if spec.variables.method == "observational":
        return Plan(
            contexts=len(population), conditions="the examples by sub and by special", notes=population.warnings
        )
    if population.dead:
        return Plan(contexts=0, conditions="none: no example is active")
    design, weapons = _swaps(spec, ctx)
    return design.plan(ctx, f"the contexts with each of {len(weapons)} weapons swapped in")


@experiment(
    "kit_sweep",
    spec=KitSweepSpec,
    plan=plan,
    cli="kit-sweep",
    summary="Whether the sub or special weapon goes with the feature; interventional: whether kits with it drive it.",
    tables=TABLES,
    methods=("observational", "interventional"),
    cost="data or model",
    toolset="weapons",
)
def run(spec: KitSweepSpec, ctx: Context, job: Job) -> Findings:
    """Sweep subs and specials; the estimators are in docs/methods under "kit_sweep"."""
    method = spec.variables.method
    _check(spec, ctx)
    population = data_population(spec, ctx, method)
    models = OBSERVED if method == "observational" else TABLES
    quiet = quiet_findings(spec, ctx, population, job, method=method, models=models)
    if quiet is not None:
        return quiet if population.dead else _quiet(spec, ctx, population, quiet)
    min_effect = smallest_effect(spec, ctx, spec.variables.min_effect) or 0.0
    if population.given:
        return _interventional(spec, ctx, job, sought=_given(ctx, job), min_effect=min_effect)
    _warn_data(ctx, population, job)
    table, combos = _observed(spec, ctx, population, min_effect, job)
    if method == "interventional":
        sought = Sought(table.kits, table.parts, table.effects.delta, part_numbers(table, combos))
        return _interventional(spec, ctx, job, sought=sought, min_effect=min_effect)
    plain = diagnostics(population, min_effect, ctx.effective_max(spec.feature_id), job)
    plain.constraint_violations = _silent(spec, table)
    reading = read_kits(spec, ctx, table, combos, population=population, min_effect=min_effect)
    return observed_findings(spec, ctx, job, reading).model_copy(
        update={"diagnostics": plain, "tables": list(job.tables.values())}
    )


def _observed(
    spec: KitSweepSpec, ctx: Context, population: Population, min_effect: float, job: Job
) -> tuple[PartTable, PartTable | None]:
    """Subs and specials together, and combinations where asked for; their tables are handed over."""
    variables, adjusted = spec.variables, _adjusted_weapons(ctx, population)

    def read(kinds: tuple[Kind, ...]) -> PartTable:
        return part_table(
            ctx,
            population,
            kinds,
            adjusted,
            min_examples=variables.min_examples,
            min_effect=min_effect,
            seed=spec.dataset_slice.random_seed,
            gated=GATING in spec.constraints,
        )

    table = read(SHOWN_KINDS)
    for kind in SHOWN_KINDS:
        job.partial(part_stats(table, kind, variables.top_k))
    if not variables.analyze_combinations:
        note = "not asked for: set analyze_combinations"
        job.partial(Table(name="combo_stats", columns=list(PartStat.model_fields), rows=[], notes=[note]))
        return table, None
    combos = read(_COMBO)
    job.partial(part_stats(combos, "combo", variables.top_k))
    return table, combos


def _silent(spec: KitSweepSpec, table: PartTable) -> list[ConstraintViolation]:
    """Subs and specials that never leave the ReLU floor in the data: counted always."""
    violation = silent_parts(table, spec.variables.min_examples, listed=GATING in spec.constraints)
    return [] if violation is None else [violation]


def _quiet(spec: KitSweepSpec, ctx: Context, population: Population, quiet: Findings) -> Findings:
    """The answer where no example is active, with its silent subs and specials counted."""
    least, seed = spec.variables.min_examples, spec.dataset_slice.random_seed
    unknown = np.full(len(ctx.weapons), np.nan)
    table = part_table(ctx, population, SHOWN_KINDS, unknown, min_examples=least, min_effect=1.0, seed=seed)
    quiet.diagnostics.constraint_violations = _silent(spec, table)
    return quiet


def _adjusted_weapons(ctx: Context, population: Population) -> Floats:
    """Effect of each weapon with the abilities held fixed, minus the n-weighted mean effect, [k]."""
    grouping = by_weapon(ctx, population).grouping
    return adjusted_weapons(ctx, population, grouping).coefficients(population.activation)


def _warn_data(ctx: Context, population: Population, job: Job) -> None:
    held = np.unique(by_weapon(ctx, population).grouping.cells.group).tolist()
    _warn_unknown([ctx.weapons.facts[i].name for i in held if not ctx.weapons.facts[i].known], job)


def _warn_unknown(unknown: list[str], job: Job) -> None:
    if unknown:
        job.warn(
            f"{len(unknown)} weapons are outside the project's table (sub and special unknown): "
            f"{', '.join(unknown[:5])}"
        )


def _given(ctx: Context, job: Job) -> Sought:
    """What is sought on contexts given in the spec: every kit of the vocabulary; the tables of the data stay empty."""
    unknown = [kit.name for kit in ctx.weapons.facts if not kit.known]
    _warn_unknown(unknown, job)
    for name, model in OBSERVED.items():
        job.partial(not_of_the_data(name, model))
    return Sought.of_vocabulary(ctx)


def _check(spec: KitSweepSpec, ctx: Context) -> None:
    """Raise what can be known to be wrong before anything runs."""
    if spec.variables.method == "interventional":
        _ = ctx.oracle
    changed = spec.variables.model_dump(exclude_defaults=True)
    of_data = [name for name in ("min_examples", "analyze_combinations") if name in changed]
    if spec.dataset_slice.contexts is not None and of_data:
        raise RequestError(
            f"{' and '.join(of_data)} is about examples, and none are read beside contexts given in the spec: leave it "
            f"out. Nothing was run."
        )


def _swaps(spec: KitSweepSpec, ctx: Context) -> tuple[Design, list[int]]:
    """The contexts with each weapon swapped in, and the weapons."""
    if spec.dataset_slice.contexts is not None:
        return every_kit_design(spec, ctx)
    return swap_design(spec, ctx, min_examples=spec.variables.min_examples)


def _interventional(spec: KitSweepSpec, ctx: Context, job: Job, *, sought: Sought, min_effect: float) -> Findings:
    design, weapons = _swaps(spec, ctx)
    population = design.contexts.population
    pooled = design.pooled(ctx, job)
    readout = ctx.read(pooled, spec.feature_id)
    chosen = choose_parts(sought, weapons, readout.pre, listed=GATING in spec.constraints)
    plain = diagnostics(population, min_effect, ctx.effective_max(spec.feature_id), job)
    plain = intervention_diagnostics(design, readout.pre[0], plain, job)
    plain.constraint_violations += chosen.violations
    if len(chosen.kept):
        swapped = swap_parts(
            spec,
            ctx,
            job,
            pooled=pooled,
            readout=readout,
            chosen=chosen,
            sought=sought,
            population=population.drawn_from,
            min_effect=min_effect,
        )
        for kind in SHOWN_KINDS:
            job.partial(part_effect_table(swapped, kind, spec.variables.top_k))
        found = swapped_findings(spec, swapped, sought, min_effect=min_effect, population=population, ctx=ctx)
    else:
        found = no_parts(chosen, sought, n_contexts=len(design.base), population=population)
        for kind in SHOWN_KINDS:
            name, notes = f"{kind}_effects", chosen.notes(kind)
            job.partial(Table(name=name, columns=list(PartEffect.model_fields), rows=[], notes=notes))
    return found.model_copy(update={"diagnostics": plain, "tables": list(job.tables.values())})
