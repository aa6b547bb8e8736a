"""Weapon sweep: which weapons go with the feature, and does swapping the weapon change it?"""

from __future__ import annotations

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
from ..schemas.result import Aggregates, ConstraintViolation, Finding, Findings, Followup, Row, Table
from ..schemas.spec import ExperimentSpec, Variables
from .design.dominance import Dominance, Shared, dominance, kit_numbers, shared_part
from .design.effect_report import (
    conditional_text,
    effect_finding,
    effect_text,
    leading,
    nothing_text,
    summarise,
)
from .design.effect_rows import EffectTable, effect_table
from .design.interventions import Design, admissible, data_population, draw
from .design.report import (
    CORRELATIONAL,
    dead_findings,
    diagnostics,
    followup,
    interval,
    intervention_diagnostics,
    number,
    plural,
    smallest_effect,
)
from .design.specificity import null_effects
from .design.weapon_effects import GATING, WeaponEffect, floor_bound, swap_numbers, weapon_effects
from .design.weapon_stats import ClassStat, WeaponStat, WeaponTable, class_stats, weapon_stats, weapon_table
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
    contexts = draw(spec, ctx)
    base = contexts.sets
    condition = _condition(spec, ctx)
    if condition is not None:
        base = base.with_level(*condition, ctx.vocabulary, clear="one_rung_per_family" in spec.constraints)
    whole = data_population(spec, ctx, "interventional")
    counts = np.bincount(ctx.data.weapon[whole.rows], minlength=len(ctx.weapons))
    weapons = np.flatnonzero(counts >= spec.variables.min_examples).tolist()
    if len(weapons) < 2:
        raise EmptySliceError(
            f"fewer than two weapons have min_examples = {spec.variables.min_examples} examples in "
            f"{whole.description}: lower min_examples or widen dataset_slice. Nothing was run."
        )
    sets = [base.with_weapon(weapon) for weapon in weapons]
    names = [ctx.weapons.facts[weapon].name for weapon in weapons]
    design = admissible(contexts, base, sets, names, spec=spec, ctx=ctx)
    return design, [weapons[i] for i in design.kept]


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
    return _observational(spec, ctx, job, table=table, ranked=ranked, min_effect=min_effect, n=len(rows)).model_copy(
        update={"diagnostics": plain, "tables": list(job.tables.values())}
    )


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


def _observational(
    spec: WeaponSweepSpec, ctx: Context, job: Job, *, table: WeaponTable, ranked: list[int], min_effect: float, n: int
) -> Findings:
    job.warn(CORRELATIONAL)
    population = ctx.population(spec.dataset_slice, spec.feature_id)
    scope = f"{n:,} examples: {_scope(spec, ctx, population)}; observational, CORRELATIONAL."
    if not ranked:
        reason = f"no weapon has {spec.variables.min_examples} examples"
        custom = {"method": "observational", "reason": reason, "dominant_weapon_detected": False}
        return Findings(headline=f"nothing can be said: {reason}; {scope}", aggregates=Aggregates(custom=custom))
    leader = dominance(table)
    acting = [i for i in ranked if table.status[i] == "present" and table.deltas.delta[i] > 0]
    shared = shared_part(ctx, acting, ranked)
    top = ranked[0]
    if leader.detected:
        kit = ctx.weapons.facts[top]
        job.warn(
            f"DOMINANT WEAPON {kit.name}: {number(float(table.deltas.delta[top]))} above the mean, more than twice the "
            f"next; look at its kit before reading the weapon as the cause"
        )
    return Findings(
        headline=_observational_headline(spec, ctx, table, ranked, min_effect=min_effect, scope=scope),
        findings=[_observational_finding(spec, ctx, table, i, population) for i in (acting[:5] or [top])],
        aggregates=summarise(
            table.deltas.delta[ranked],
            n,
            {
                **_observational_numbers(ctx, table, ranked),
                **kit_numbers(leader, shared),
                "top_class": job.tables["class_stats"].rows[0]["weapon_class"],
            },
        ),
        followups=_followups(spec, ctx, acting, leader, shared),
    )


def _observational_numbers(ctx: Context, table: WeaponTable, ranked: list[int]) -> dict[str, Any]:
    facts, means, top = ctx.weapons.facts, table.means.mean, ranked[0]
    return {
        "method": "observational",
        "top_weapon": facts[top].name,
        "top_weapon_id": facts[top].weapon_id,
        "top_weapon_mean": float(means[top]),
        "top_weapon_delta": float(table.deltas.delta[top]),
        "top_weapon_delta_adjusted": float(table.adjusted.coefficient[top]),
        "bottom_weapon": facts[ranked[-1]].name,
        "weapon_range": float(means[top] - means[ranked[-1]]),
        "n_weapons": len(ranked),
        "n_unknown_weapons": sum(not facts[i].known for i in ranked),
    }


def _observational_headline(
    spec: WeaponSweepSpec, ctx: Context, table: WeaponTable, ranked: list[int], *, min_effect: float, scope: str
) -> str:
    low, high = table.simultaneous()
    acting = [i for i in ranked if table.status[i] == "present"]
    top = max(
        acting or [i for i in ranked if table.usable[i]] or ranked, key=lambda i: abs(float(table.deltas.delta[i]))
    )
    name, feature = ctx.weapons.facts[top].name, f"feature {spec.feature_id}"
    effect = number(float(table.deltas.delta[top]))
    if not acting:
        return (
            f"nothing above {min_effect:.2f} found: no weapon stands out on {feature}, {name} most ({effect}); {scope}"
        )
    bounds = interval(float(low[top]), float(high[top]))
    adjusted = float(table.adjusted.coefficient[top])
    adjusted_text = "adjusted unknown" if np.isnan(adjusted) else f"{number(adjusted)} with abilities held fixed"
    more = f" and {plural(len(acting) - 1, 'more weapon')} stand out" if len(acting) > 1 else " stands out"
    return f"{name}{more} on {feature}: {effect} {bounds} against the mean, {adjusted_text}; {scope}"


def _observational_finding(
    spec: WeaponSweepSpec, ctx: Context, table: WeaponTable, index: int, population: Population
) -> Finding:
    low, high = table.simultaneous()
    return Finding(
        subject=ctx.weapons.facts[index].name,
        relation=f"goes with feature {spec.feature_id}",
        effect=float(table.deltas.delta[index]),
        ci_low=float(low[index]),
        ci_high=float(high[index]),
        status=table.status[index] or "unclear",
        n=int(table.means.n[index]),
        method="observational",
        population=_scope(spec, ctx, population),
        table="weapon_stats",
    )


def _followups(
    spec: WeaponSweepSpec, ctx: Context, acting: list[int], leader: Dominance, shared: Shared | None
) -> list[Followup]:
    found: list[Followup] = []
    if leader.detected or shared is not None:
        reason = (
            "one weapon dominates" if shared is None else f"{shared.hits} of {shared.drawn} weapons have {shared.name}"
        )
        found.append(
            followup(spec, "kit_sweep", {"analyze_combinations": True}, f"{reason}: is it the sub or special?")
        )
    if acting and ctx.has_model:
        again = spec.variables.model_dump(mode="json", exclude_defaults=True) | {"method": "interventional"}
        reason = "weapons stand out in the data: does swapping the weapon do it?"
        found.append(followup(spec, "weapon_sweep", again, reason))
    return found


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
        subject = f"swapping the weapon ({names[top]})"
        return f"{nothing_text(effects, subject, spec.feature_id, min_effect)}; {tail}"
    others = f"; {plural(len(acting) - 1, 'more weapon')} also" if len(acting) > 1 else ""
    if effects.status[top] == "conditional":
        return f"{names[top]} acts on feature {spec.feature_id} {conditional_text(effects, top)}{others}; {tail}"
    against = f"against the mean over {len(names)} weapons"
    return f"{names[top]} drives feature {spec.feature_id}: {effect_text(effects, top)} {against}{others}; {tail}"
