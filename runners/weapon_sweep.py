"""Weapon sweep: which weapons go with the feature, and does swapping the weapon change it?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ..context.context import Context, Readout
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
    diagnostics,
    intervention_diagnostics,
    plural,
    quiet_findings,
    smallest_effect,
)
from .design.specificity import null_effects
from .parts.weapons.confirm import CONFIRM_STREAM
from .parts.weapons.effects import (
    SwappedWeapons,
    WeaponEffect,
    all_dropped,
    swap_design,
    swap_numbers,
    weapon_effects,
)
from .parts.weapons.gating import GATING, floor_bound, never_active
from .parts.weapons.observed import no_numbers, no_weapon, observed_findings
from .parts.weapons.stats import ClassStat, WeaponStat, WeaponTable, class_stats, weapon_stats, weapon_table
from .stats.curve import winner_confirmed

Floats = NDArray[np.floating[Any]]
UNHELD = "no example of the slice holds the condition"


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


OBSERVED: dict[str, type[Row]] = {"weapon_stats": WeaponStat, "class_stats": ClassStat}
TABLES: dict[str, type[Row]] = OBSERVED | {"weapon_effects": WeaponEffect}


def _condition(spec: WeaponSweepSpec, ctx: Context) -> tuple[str, int] | None:
    """The condition as (family, level at least); None without one."""
    variables = spec.variables
    if variables.condition_family is None:
        return None
    rungs = ctx.vocabulary.rungs(variables.condition_family)
    asked = variables.condition_rung if variables.condition_rung is not None else rungs[0]
    return variables.condition_family, ctx.vocabulary.resolve(variables.condition_family, asked)


def _held(spec: WeaponSweepSpec, ctx: Context, population: Population) -> Population:
    """The examples that meet the condition.

    Raises:
        EmptySliceError: there is none, and nothing else is asked (an intervention writes the condition in).
    """
    condition = _condition(spec, ctx)
    if condition is None:
        return population
    family, level = condition
    rows = np.flatnonzero(ctx.data.levels[population.rows, ctx.vocabulary.family_index[family]] >= level)
    if not len(rows) and spec.variables.method == "observational":
        raise EmptySliceError(
            f"no example of {population.description} holds {family} at {level} AP or more: lower condition_rung or "
            f"widen dataset_slice. Nothing was run."
        )
    return replace(
        population,
        rows=population.rows[rows],
        activation=population.activation[rows],
        description=_scope(spec, ctx, population),
        key=None if population.key is None else f"{population.key} with {family} from {level} AP",
    )


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
    if population.dead:
        return Plan(contexts=0, conditions="none: no example is active", notes=population.warnings)
    if spec.variables.method == "observational":
        return Plan(
            contexts=len(_held(spec, ctx, population)), conditions="the examples by weapon", notes=population.warnings
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
    toolset="weapons",
    aliases={"top_k": "top_k_weapons"},
)
def run(spec: WeaponSweepSpec, ctx: Context, job: Job) -> Findings:
    """Sweep the weapons; the estimators are in docs/methods under "weapon_sweep"."""
    method = spec.variables.method
    _condition(spec, ctx)
    if method == "interventional":
        _ = ctx.oracle
    population = data_population(spec, ctx, method)
    held = population if population.dead else _held(spec, ctx, population)
    models = TABLES if population.dead else OBSERVED
    quiet = quiet_findings(spec, ctx, held, job, method=method, models=models)
    if quiet is not None:
        return quiet if population.dead else _quiet(spec, ctx, held, quiet)
    min_effect = smallest_effect(spec, ctx, spec.variables.min_effect) or 0.0
    if method == "interventional":
        table = _observed(spec, ctx, held, min_effect, job) if len(held) else None
        if table is None:
            _empty(job, tuple(OBSERVED), UNHELD)
        return _interventional(spec, ctx, job, table=table, min_effect=min_effect)
    table = _observed(spec, ctx, held, min_effect, job)
    plain = diagnostics(population, min_effect, ctx.effective_max(spec.feature_id), job)
    violation, ranked = _gating(spec, ctx, table)
    plain.constraint_violations = [] if violation is None else [violation]
    found = (
        observed_findings(spec, ctx, job, table=table, ranked=ranked, population=held, min_effect=min_effect)
        if ranked
        else no_weapon(job, _no_weapon_reason(spec, table), len(held), held.description)
    )
    return found.model_copy(update={"diagnostics": plain, "tables": list(job.tables.values())})


def _observed(spec: WeaponSweepSpec, ctx: Context, held: Population, min_effect: float, job: Job) -> WeaponTable:
    """Statistics by weapon of the examples that meet the condition; the tables are handed over."""
    table = weapon_table(ctx, held, min_examples=spec.variables.min_examples, min_effect=min_effect, job=job)
    _warn_unknown(ctx, table, job)
    _, ranked = _gating(spec, ctx, table)
    n_dropped = int(table.eligible.sum()) - len(ranked)
    job.partial(weapon_stats(ctx, table, ranked[: spec.variables.top_k_weapons], n_dropped))
    job.partial(class_stats(ctx, held, table, min_effect))
    return table


def _empty(job: Job, names: Sequence[str], reason: str) -> None:
    """Hand over tables without rows, with the reason."""
    for name in names:
        job.partial(Table(name=name, columns=list(TABLES[name].model_fields), rows=[], notes=[reason]))


def _quiet(spec: WeaponSweepSpec, ctx: Context, population: Population, quiet: Findings) -> Findings:
    """The answer where no example is active, with its numbers as nulls and its silent weapons counted."""
    n = np.bincount(ctx.data.weapon[population.rows], minlength=len(ctx.weapons))
    violation = _silent(spec, ctx, n, np.zeros_like(n))
    reason = str(quiet.aggregates.custom["reason"])
    quiet.aggregates.custom = no_numbers(reason) | quiet.aggregates.custom
    if violation is not None:
        quiet.diagnostics.constraint_violations = [violation]
    return quiet


def _no_weapon_reason(spec: WeaponSweepSpec, table: WeaponTable) -> str:
    """Why no weapon is ranked."""
    if table.eligible.any():
        dropped = plural(int(table.eligible.sum()), "weapon")
        return f"{dropped} with {spec.variables.min_examples} examples never activate it and are dropped ({GATING})"
    return f"no weapon has {spec.variables.min_examples} examples"


def _warn_unknown(ctx: Context, table: WeaponTable, job: Job) -> None:
    unknown = [kit.name for i, kit in enumerate(ctx.weapons.facts) if not kit.known and table.means.n[i] > 0]
    if unknown:
        job.warn(f"{len(unknown)} weapons are outside the project's table (class unknown): {', '.join(unknown[:5])}")


def _silent(
    spec: WeaponSweepSpec, ctx: Context, n: NDArray[np.integer[Any]], n_active: NDArray[np.integer[Any]]
) -> ConstraintViolation | None:
    """How many examples weapons with enough of them, none active, have; n and n_active are [k]."""
    eligible = n >= spec.variables.min_examples
    names = [kit.name for kit in ctx.weapons.facts]
    examples = int(n[eligible & (n_active == 0)].sum())
    return never_active(n_active, eligible, names, examples=examples, listed=GATING in spec.constraints)


def _gating(spec: WeaponSweepSpec, ctx: Context, table: WeaponTable) -> tuple[ConstraintViolation | None, list[int]]:
    """Weapons that never leave the ReLU floor: counted, and dropped from the ranking when the spec lists it."""
    violation = _silent(spec, ctx, table.means.n, table.means.n_active)
    drops = violation is not None and violation.hard
    return violation, [i for i in table.ranked() if not (drops and table.means.n_active[i] == 0)]


def _interventional(
    spec: WeaponSweepSpec, ctx: Context, job: Job, *, table: WeaponTable | None, min_effect: float
) -> Findings:
    design, weapons = _design(spec, ctx)
    pooled = design.pooled(ctx, job)
    readout = ctx.read(pooled, spec.feature_id)
    population = design.contexts.population
    scope = _scope(spec, ctx, population)
    plain = diagnostics(population, min_effect, ctx.effective_max(spec.feature_id), job)
    plain = intervention_diagnostics(design, readout.pre[0], plain, job)
    names = [ctx.weapons.facts[weapon].name for weapon in weapons]
    violation, dropped = floor_bound(readout.pre, names, listed=GATING in spec.constraints)
    plain.constraint_violations += [] if violation is None else [violation]
    kept = [i for i in range(len(weapons)) if i not in dropped]
    if kept:
        swapped = SwappedWeapons(
            _effects(spec, ctx, design, pooled=pooled, readout=readout, kept=kept, min_effect=min_effect),
            [weapons[i] for i in kept],
            [names[i] for i in kept],
            len(weapons),
        )
        observed = None if table is None else table.deltas.delta
        job.partial(weapon_effects(ctx, swapped, spec.variables.top_k_weapons, observed, UNHELD))
        found = _swapped_findings(spec, swapped, min_effect=min_effect, scope=scope)
    else:
        found = all_dropped(len(weapons), len(design.base), scope)
        _empty(job, ("weapon_effects",), str(found.aggregates.custom["reason"]))
    return found.model_copy(update={"diagnostics": plain, "tables": list(job.tables.values())})


def _effects(
    spec: WeaponSweepSpec,
    ctx: Context,
    design: Design,
    *,
    pooled: Floats,
    readout: Readout,
    kept: list[int],
    min_effect: float,
) -> EffectTable:
    """Effects of the weapons that are kept, against each context's mean over all that were swapped in."""
    activation, pre = readout.activation[1:], readout.pre[1:]
    return effect_table(
        activation[kept],
        pre[kept],
        base=(activation.mean(axis=0), pre.mean(axis=0)),
        population=design.contexts.population.size,
        min_effect=min_effect,
        null=null_effects(ctx, spec.feature_id, pooled[1:], base=None, min_effect=min_effect),
        seed=spec.dataset_slice.random_seed,
    )


def _swapped_findings(spec: WeaponSweepSpec, swapped: SwappedWeapons, *, min_effect: float, scope: str) -> Findings:
    """Headline, findings and numbers of the weapons swapped in."""
    effects, names = swapped.effects, swapped.names
    rng = np.random.default_rng([spec.dataset_slice.random_seed, CONFIRM_STREAM])
    confirmed = winner_confirmed(effects.differences, rng) if effects.acting() else None
    return Findings(
        headline=_interventional_headline(spec, swapped, min_effect=min_effect, scope=scope),
        findings=[
            effect_finding(
                effects,
                i,
                subject=names[i],
                feature=spec.feature_id,
                population=scope,
                table_name="weapon_effects",
            )
            for i in leading(effects)[:5]
        ],
        aggregates=summarise(effects.effects.mean, effects.effects.n, swap_numbers(swapped, confirmed=confirmed)),
    )


def _interventional_headline(spec: WeaponSweepSpec, swapped: SwappedWeapons, *, min_effect: float, scope: str) -> str:
    effects, names = swapped.effects, swapped.names
    top, acting = leading(effects)[0], effects.acting()
    gone = f"; {plural(swapped.n_dropped, 'weapon')} dropped: never off the ReLU floor" if swapped.n_dropped else ""
    tail = f"{effects.effects.n} contexts of {scope}; interventional{gone}."
    if not acting:
        subject = f"swapping the weapon ({names[noted(effects)]})"
        return f"{nothing_text(effects, subject, spec.feature_id, min_effect)}; {tail}"
    others = f"; {plural(len(acting) - 1, 'more weapon')} also" if len(acting) > 1 else ""
    if effects.status[top] == "conditional":
        return f"{names[top]} acts on feature {spec.feature_id} {conditional_text(effects, top)}{others}; {tail}"
    against = f"against the mean over {swapped.n_swapped} weapons"
    return f"{names[top]} drives feature {spec.feature_id}: {effect_text(effects, top)} {against}{others}; {tail}"
