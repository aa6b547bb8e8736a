"""Weapon sweep: which weapons go with the feature, and does swapping the weapon change it?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ..context.context import Context
from ..context.population import Population
from ..schemas.catalogue import Plan, experiment
from ..schemas.errors import EmptySliceError
from ..schemas.facts import MAX_AP
from ..schemas.job import Job
from ..schemas.result import ConstraintViolation, Findings, Row, Table
from ..schemas.spec import ExperimentSpec, Variables
from .design.effect_report import (
    conditional_text,
    effect_finding,
    effect_text,
    leading,
    noted,
    nothing_text,
    summarise,
)
from .design.effect_rows import EffectTable, effect_table
from .design.interventions import Design, data_population
from .design.report import (
    dead_findings,
    diagnostics,
    intervention_diagnostics,
    plural,
    smallest_effect,
)
from .design.specificity import null_effects
from .parts.weapons.effects import GATING, WeaponEffect, floor_bound, swap_design, swap_numbers, weapon_effects
from .parts.weapons.observed import no_weapon, observed_findings
from .parts.weapons.stats import ClassStat, WeaponStat, WeaponTable, class_stats, weapon_stats, weapon_table
from .stats.curve import winner_confirmed

Floats = NDArray[np.floating[Any]]
CONFIRM_STREAM = 5


class WeaponSweepVariables(Variables):
    """What a weapon sweep looks at."""

    min_examples: int = Field(default=10, ge=1, description="Weapons with fewer examples are left out of rankings.")
    top_k_weapons: int = Field(default=20, ge=1, le=1000, description="Weapons shown, by falling mean or effect.")
    condition_family: str | None = Field(
        default=None,
        description="Only builds that hold this family or main-only ability (written in, if interventional).",
    )
    condition_rung: int | None = Field(
        default=None, ge=1, le=MAX_AP, description="AP the condition family has at least; default: its lowest rung."
    )
    min_effect: float | None = Field(
        default=None, gt=0, le=6, description="Smallest effect of interest; default 5 % of the effective max."
    )
    method: Literal["observational", "interventional"] = Field(
        default="observational", description="Group the examples there are, or swap the weapon in the same builds."
    )

    @model_validator(mode="after")
    def _rung_needs_family(self) -> WeaponSweepVariables:
        if self.condition_rung is not None and self.condition_family is None:
            raise ValueError("condition_rung needs condition_family: name the family whose AP is meant")
        return self


class WeaponSweepSpec(ExperimentSpec):
    """Spec of a weapon sweep."""

    type: Literal["weapon_sweep"] = "weapon_sweep"
    variables: WeaponSweepVariables = WeaponSweepVariables()


TABLES: dict[str, type[Row]] = {"weapon_stats": WeaponStat, "class_stats": ClassStat, "weapon_effects": WeaponEffect}


def _condition(spec: WeaponSweepSpec, ctx: Context) -> tuple[str, int] | None:
    """The condition as (family, level at least); None without one."""
    variables = spec.variables
    if variables.condition_family is None:
        return None
    rungs = ctx.vocabulary.rungs(variables.condition_family)
    asked = variables.condition_rung if variables.condition_rung is not None else rungs[0]
    return variables.condition_family, ctx.vocabulary.resolve(variables.condition_family, asked)


def _rows(spec: WeaponSweepSpec, ctx: Context, population: Population) -> NDArray[np.intp]:
    """Positions in the population of the examples that meet the condition."""
    condition = _condition(spec, ctx)
    if condition is None:
        return np.arange(len(population))
    family, level = condition
    held = ctx.data.levels[population.rows, ctx.vocabulary.family_index[family]]
    rows = np.flatnonzero(held >= level)
    if not len(rows):
        raise EmptySliceError(
            f"no example of {population.description} holds {family} at {level} AP or more: lower condition_rung or "
            f"widen dataset_slice. Nothing was run."
        )
    return rows


def _scope(spec: WeaponSweepSpec, ctx: Context, population: Population) -> str:
    condition = _condition(spec, ctx)
    if condition is None:
        return population.description
    verb = "with" if spec.variables.method == "interventional" else "holding at least"
    return f"{population.description} {verb} {condition[0]} at {condition[1]} AP"


def _design(spec: WeaponSweepSpec, ctx: Context) -> tuple[Design, list[int]]:
    """Base: the contexts as they are (with the condition); conditions: each weapon of the data swapped in."""
    return swap_design(spec, ctx, min_examples=spec.variables.min_examples, condition=_condition(spec, ctx))


def plan(spec: WeaponSweepSpec, ctx: Context) -> Plan:
    """What the sweep would run."""
    population = ctx.population(spec.dataset_slice, spec.feature_id)
    _condition(spec, ctx)
    if spec.variables.method == "observational" or population.dead:
        return Plan(
            contexts=len(_rows(spec, ctx, population)), conditions="the examples by weapon", notes=population.warnings
        )
    design, weapons = _design(spec, ctx)
    return design.plan(ctx, f"the contexts with each of {len(weapons)} weapons swapped in")


@experiment(
    "weapon_sweep",
    spec=WeaponSweepSpec,
    plan=plan,
    cli="weapon-sweep",
    summary="Which weapons go with the feature; interventional: does swapping the weapon change it.",
    tables=TABLES,
    methods=("observational", "interventional"),
    cost="data or model",
    aliases={"top_k": "top_k_weapons"},
)
def run(spec: WeaponSweepSpec, ctx: Context, job: Job) -> Findings:
    """Sweep the weapons; the estimators are in docs/methods under "weapon_sweep"."""
    method = spec.variables.method
    _condition(spec, ctx)
    if method == "interventional":
        _ = ctx.oracle
    population = data_population(spec, ctx, method)
    if population.dead:
        tables = [Table(name=name, columns=list(row.model_fields), rows=[]) for name, row in TABLES.items()]
        return dead_findings(spec, ctx, population, job, method=method, tables=tables)
    min_effect = smallest_effect(spec, ctx, spec.variables.min_effect) or 0.0
    rows = _rows(spec, ctx, population)
    table = weapon_table(
        ctx, population, rows, min_examples=spec.variables.min_examples, min_effect=min_effect, job=job
    )
    _warn_unknown(ctx, table, job)
    silent, gated = _gating(spec, ctx, table)
    ranked = [index for index in table.ranked() if index not in gated]
    job.partial(weapon_stats(ctx, table, ranked[: spec.variables.top_k_weapons]))
    job.partial(class_stats(ctx, population, rows, min_effect))
    if method == "interventional":
        return _interventional(spec, ctx, job, table=table, min_effect=min_effect)
    plain = diagnostics(population, min_effect, ctx.effective_max(spec.feature_id), job)
    plain.constraint_violations = silent
    part = replace(population, rows=population.rows[rows], activation=population.activation[rows])
    scope = _scope(spec, ctx, population)
    found = (
        observed_findings(
            spec, ctx, job, table=table, ranked=ranked, population=part, scope=scope, min_effect=min_effect
        )
        if ranked
        else no_weapon(spec.variables.min_examples, len(part), scope)
    )
    return found.model_copy(update={"diagnostics": plain, "tables": list(job.tables.values())})


def _warn_unknown(ctx: Context, table: WeaponTable, job: Job) -> None:
    unknown = [kit.name for i, kit in enumerate(ctx.weapons.facts) if not kit.known and table.means.n[i] > 0]
    if unknown:
        job.warn(f"{len(unknown)} weapons are outside the project's table (class unknown): {', '.join(unknown[:5])}")


def _gating(spec: WeaponSweepSpec, ctx: Context, table: WeaponTable) -> tuple[list[ConstraintViolation], set[int]]:
    """Weapons that never leave the ReLU floor: counted, and dropped when the spec lists the constraint."""
    silent = [i for i in range(len(ctx.weapons)) if table.eligible[i] and table.means.n_active[i] == 0]
    if not silent:
        return [], set()
    listed = GATING in spec.constraints
    examples = int(table.means.n[silent].sum())
    name = ctx.weapons.facts[silent[0]].name
    violation = ConstraintViolation(id=GATING, hard=listed, contexts=examples, example=f"{name} never activates it")
    return [violation], set(silent) if listed else set()


def _interventional(
    spec: WeaponSweepSpec, ctx: Context, job: Job, *, table: WeaponTable, min_effect: float
) -> Findings:
    design, weapons = _design(spec, ctx)
    seed = spec.dataset_slice.random_seed
    pooled = design.pooled(ctx, job)
    readout = ctx.read(pooled, spec.feature_id)
    population = design.contexts.population
    effects = effect_table(
        readout.activation[1:],
        readout.pre[1:],
        base=(readout.activation[1:].mean(axis=0), readout.pre[1:].mean(axis=0)),
        population=population.size,
        min_effect=min_effect,
        null=null_effects(ctx, spec.feature_id, pooled[1:], base=None, min_effect=min_effect),
        seed=seed,
    )
    plain = diagnostics(population, min_effect, ctx.effective_max(spec.feature_id), job)
    plain = intervention_diagnostics(design, readout.pre[0], plain, job)
    names = [ctx.weapons.facts[weapon].name for weapon in weapons]
    violation, dropped = floor_bound(readout.pre, names, listed=GATING in spec.constraints)
    plain.constraint_violations += [] if violation is None else [violation]
    order = [int(i) for i in np.argsort(-effects.effects.mean, kind="stable") if int(i) not in dropped]
    shown = order[: spec.variables.top_k_weapons]
    job.partial(weapon_effects(ctx, effects, weapons, shown, table.deltas.delta))
    rng = np.random.default_rng([seed, CONFIRM_STREAM])
    confirmed = winner_confirmed(effects.differences, rng) if effects.acting() else None
    return Findings(
        headline=_interventional_headline(
            spec, effects, names, min_effect=min_effect, scope=_scope(spec, ctx, population)
        ),
        findings=[
            effect_finding(
                effects,
                i,
                subject=names[i],
                feature=spec.feature_id,
                population=_scope(spec, ctx, population),
                table_name="weapon_effects",
            )
            for i in leading(effects)[:5]
        ],
        aggregates=summarise(
            effects.effects.mean,
            effects.effects.n,
            swap_numbers(effects, names, readout.activation, confirmed=confirmed),
        ),
        tables=list(job.tables.values()),
        diagnostics=plain,
    )


def _interventional_headline(
    spec: WeaponSweepSpec, effects: EffectTable, names: list[str], *, min_effect: float, scope: str
) -> str:
    top, acting = leading(effects)[0], effects.acting()
    tail = f"{effects.effects.n} contexts of {scope}; interventional."
    if not acting:
        subject = f"swapping the weapon ({names[noted(effects)]})"
        return f"{nothing_text(effects, subject, spec.feature_id, min_effect)}; {tail}"
    others = f"; {plural(len(acting) - 1, 'more weapon')} also" if len(acting) > 1 else ""
    if effects.status[top] == "conditional":
        return f"{names[top]} acts on feature {spec.feature_id} {conditional_text(effects, top)}{others}; {tail}"
    against = f"against the mean over {len(names)} weapons"
    return f"{names[top]} drives feature {spec.feature_id}: {effect_text(effects, top)} {against}{others}; {tail}"
