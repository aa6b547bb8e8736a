"""Family sweep: how does activation change as one ability is written into the same builds at rising AP?"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..context.context import Context
from ..context.population import Population
from ..context.token_sets import TokenSets
from ..schemas.catalogue import Plan, experiment
from ..schemas.errors import RequestError
from ..schemas.facts import MAX_AP
from ..schemas.job import Job
from ..schemas.result import Findings, Followup, Row, Table
from ..schemas.spec import ExperimentSpec, Variables
from ..schemas.vocabulary import Encoding
from .design.effect_report import (
    conditional_text,
    effect_finding,
    effect_text,
    leading,
    nothing_text,
    summarise,
)
from .design.effect_rows import EffectRow, EffectTable, effect_table
from .design.interventions import NOT_OF_THE_DATA, Contexts, Design, admissible, data_population, draw, parse_stable
from .design.observed import ObservedCurve, RungStat, observed_curve, rung_stats
from .design.report import (
    answerable,
    diagnostics,
    followup,
    intervention_diagnostics,
    not_of_the_data,
    number,
    plural,
    quiet_findings,
    smallest_effect,
    with_short,
)
from .design.specificity import null_effects
from .parts.heatmap.notes import census_notes
from .parts.sweep.confounding import ConfoundingRow, confounding, largest_gap
from .parts.sweep.observational import observed_findings
from .stats.curve import FEWEST_TO_CONFIRM, Curve, Trend, describe_curve, trend, winner_confirmed

Floats = NDArray[np.floating[Any]]
CONFIRM_STREAM = 4
PARTLY, NEARLY_ALL = 0.5, 0.95
"""Shares of contexts below which an effect is said to act in part, and asked what else it needs."""


class FamilySweepVariables(Variables):
    """What a family sweep varies."""

    family: str = Field(description="Stackable family or main-only ability to sweep, such as special_charge_up.")
    rungs: tuple[Annotated[int, Field(ge=0, le=MAX_AP)], ...] | None = Field(
        default=None, description="AP levels to write (0 is absent); default: every rung of the vocabulary."
    )
    include_absent: bool = Field(default=True, description="Give the absent level a row of its own.")
    stable_tokens: tuple[str, ...] = Field(
        default=(), description="Held in every condition: family_AP, main-only abilities, one weapon_id_NNNN."
    )
    encoding: Encoding = Field(
        default="thermometer",
        description="thermometer writes every rung up to the level, as the tokenizer does; single the rung alone.",
    )
    min_effect: float | None = Field(
        default=None, gt=0, le=6, description="Smallest effect of interest; default 5 % of the effective max."
    )
    method: Literal["interventional", "observational"] = Field(
        default="interventional", description="Run the model on constructed builds, or group the examples there are."
    )


class FamilySweepSpec(ExperimentSpec):
    """Spec of a family sweep."""

    takes_contexts: ClassVar[bool] = True
    type: Literal["family_1d_sweep"] = "family_1d_sweep"
    variables: FamilySweepVariables


class RungDelta(EffectRow):
    """The family written at one rung, against the same builds without it."""

    rung: int = Field(description="AP asked for; 0 is absent.")
    resolved_rung: int = Field(description="The vocabulary's rung that was written.")
    label: str = Field(description="The level in words.")


TABLES: dict[str, type[Row]] = {"rung_deltas": RungDelta, "rung_stats": RungStat, "confounding": ConfoundingRow}


def _levels(spec: FamilySweepSpec, ctx: Context) -> dict[int, int]:
    """Resolved rung of each rung asked for, ascending, 0 left out."""
    family = spec.variables.family
    rungs = ctx.vocabulary.rungs(family)
    asked = spec.variables.rungs if spec.variables.rungs is not None else rungs
    levels = {rung: resolved for rung in sorted(set(asked)) if (resolved := ctx.vocabulary.resolve(family, rung)) > 0}
    if not levels:
        raise RequestError(
            f"rungs holds no level above 0: give one of {list(rungs)}, or leave it out for all of them. Nothing was "
            f"run."
        )
    return levels


def _check(spec: FamilySweepSpec, ctx: Context) -> None:
    """Raise what can be known to be wrong before anything runs."""
    variables = spec.variables
    family = ctx.vocabulary.check_family(variables.family)
    _levels(spec, ctx)
    parse_stable(variables.stable_tokens, [family], ctx)
    if variables.method == "interventional":
        _ = ctx.oracle
        return
    given = variables.model_dump(exclude_defaults=True)
    held = [name for name in ("stable_tokens", "encoding") if name in given]
    if held:
        raise RequestError(
            f"{', '.join(held)} is written into builds, and method 'observational' writes nothing. Leave it out, "
            f"or choose examples with dataset_slice (weapon_filter, family_filter). Nothing was run."
        )


def _design(spec: FamilySweepSpec, ctx: Context) -> Design:
    """Base: each context without the family, plus the stable tokens; conditions: base plus each rung."""
    variables = spec.variables
    stable = parse_stable(variables.stable_tokens, [variables.family], ctx)
    contexts: Contexts = draw(spec, ctx)
    natural = stable.apply(contexts.sets, ctx)
    base = natural.without(variables.family, ctx.vocabulary)
    resolved = sorted(set(_levels(spec, ctx).values()))
    # Without one_rung_per_family a level is written on top of what the context holds of the family.
    start, clear = (base, True) if "one_rung_per_family" in spec.constraints else (natural, False)
    conditions = [_write(start, variables, level, ctx, clear=clear) for level in resolved]
    labels = [f"{variables.family} {level}" for level in resolved]
    return admissible(contexts, base, conditions, labels, spec=spec, ctx=ctx)


def _write(sets: TokenSets, variables: FamilySweepVariables, level: int, ctx: Context, *, clear: bool) -> TokenSets:
    return sets.with_level(variables.family, level, ctx.vocabulary, encoding=variables.encoding, clear=clear)


def plan(spec: FamilySweepSpec, ctx: Context) -> Plan:
    """What the sweep would run."""
    _check(spec, ctx)
    population = ctx.population(spec.dataset_slice, spec.feature_id)
    if spec.variables.method == "observational" or population.dead:
        notes = (*population.warnings, *_readings(spec, ctx))
        return Plan(contexts=len(population), conditions="the examples grouped by level", notes=notes)
    levels = sorted(set(_levels(spec, ctx).values()))
    found = _design(spec, ctx).plan(ctx, f"absent and {plural(len(levels), 'rung')} of {spec.variables.family}")
    return replace(found, notes=(*found.notes, *_readings(spec, ctx)))


def _readings(spec: FamilySweepSpec, ctx: Context) -> list[str]:
    """What to say of AP values that are no rung of the vocabulary, and of levels written on top of others."""
    written = spec.variables.method == "interventional" and "one_rung_per_family" not in spec.constraints
    on_top = "one_rung_per_family is not among the constraints: levels are written on top of what builds hold"
    return [on_top] * written + [
        f"rung {rung} is no rung of the vocabulary: {resolved} is used, as the tokenizer does"
        for rung, resolved in _levels(spec, ctx).items()
        if rung != resolved
    ]


@experiment(
    "family_1d_sweep",
    spec=FamilySweepSpec,
    plan=plan,
    cli="family-sweep",
    summary="How activation changes as one ability is written into the same builds at rising AP.",
    tables=TABLES,
    methods=("interventional", "observational"),
    cost="data or model",
    toolset="core",
)
def run(spec: FamilySweepSpec, ctx: Context, job: Job) -> Findings:
    """Sweep one family; the estimators are in docs/methods under "Interventional effects" and "family_1d_sweep"."""
    _check(spec, ctx)
    method = spec.variables.method
    population = data_population(spec, ctx, method)
    quiet = quiet_findings(spec, ctx, population, job, method=method, models=TABLES)
    if quiet is not None:
        return quiet
    for reading in _readings(spec, ctx):
        job.warn(reading)
    min_effect = smallest_effect(spec, ctx, spec.variables.min_effect) or 0.0
    asked = _levels(spec, ctx).values() if method == "observational" else None
    curve = None
    if population.given:
        job.partial(not_of_the_data("rung_stats", RungStat))
    else:
        curve = observed_curve(ctx, population, spec.variables.family, min_effect, job, asked=asked)
        main_only = ctx.vocabulary.is_main_only(spec.variables.family)
        job.partial(rung_stats(curve, spec.variables.family, main_only=main_only))
    if method == "observational" and curve is not None:
        family = spec.variables.family
        return observed_findings(
            spec, ctx, job, family=family, curve=curve, population=population, min_effect=min_effect
        )
    return _interventional(spec, ctx, job, curve=curve, min_effect=min_effect)


def _interventional(
    spec: FamilySweepSpec, ctx: Context, job: Job, *, curve: ObservedCurve | None, min_effect: float
) -> Findings:
    design = _design(spec, ctx)
    seed = spec.dataset_slice.random_seed
    pooled = design.pooled(ctx, job)
    readout = ctx.read(pooled, spec.feature_id)
    population = design.contexts.population
    table = effect_table(
        readout.activation[1:],
        readout.pre[1:],
        base=(readout.activation[0], readout.pre[0]),
        population=population.drawn_from,
        min_effect=min_effect,
        null=null_effects(ctx, spec.feature_id, pooled[1:], base=pooled[0], min_effect=min_effect),
        seed=seed,
    )
    levels = sorted(set(_levels(spec, ctx).values()))[: len(design.kept)]
    job.partial(_rung_deltas(spec, ctx, table, levels, readout.activation[0]))
    gap = _gap(curve, table, levels, job)
    acting, top = table.acting(), leading(table)[0]
    curves, rng = readout.activation.T, np.random.default_rng([seed, CONFIRM_STREAM])
    shape = _shape(table, levels, curves, min_effect)
    custom: dict[str, Any] = {
        "method": "interventional",
        "family": spec.variables.family,
        **_shape_numbers(shape, table, levels, acting),
        **_trend_numbers(trend([0, *levels], curves, population.drawn_from)),
        "winner_confirmed": winner_confirmed(table.differences, rng) if acting else None,
        "winner_confirmed_reason": _unconfirmed(table, acting),
        **gap,
    }
    plain = diagnostics(population, min_effect, ctx.effective_max(spec.feature_id), job, census_notes(design))
    return Findings(
        headline=_headline(spec, ctx, table, levels, shape=shape, min_effect=min_effect, population=population),
        findings=[
            effect_finding(
                table,
                top,
                subject=f"{spec.variables.family} at {levels[top]} AP",
                feature=spec.feature_id,
                population=population.description,
                table_name="rung_deltas",
            )
        ],
        aggregates=summarise(table.effects.mean, table.effects.n, custom),
        tables=list(job.tables.values()),
        diagnostics=intervention_diagnostics(design, readout.pre[0], plain, job),
        followups=_followups(spec, ctx, table, levels=levels, gap=gap, min_effect=min_effect),
    )


def _gap(curve: ObservedCurve | None, table: EffectTable, levels: list[int], job: Job) -> dict[str, Any]:
    """The confounding table, and its largest gap; without a curve of the data there is none."""
    if curve is None:
        job.partial(not_of_the_data("confounding", ConfoundingRow))
        return {"confounding_gap": None, "confounding_gap_reason": NOT_OF_THE_DATA}
    return largest_gap(job.partial(confounding(curve, table, levels)))


def _rung_deltas(spec: FamilySweepSpec, ctx: Context, table: EffectTable, levels: list[int], base: Floats) -> Table:
    main_only = ctx.vocabulary.is_main_only(spec.variables.family)
    asked = {rung: resolved for rung, resolved in _levels(spec, ctx).items() if resolved in levels}
    where = [levels.index(resolved) for resolved in asked.values()]
    columns: dict[str, Any] = {name: [values[i] for i in where] for name, values in table.columns.items()}
    names = ["present" if main_only else f"{spec.variables.family}_{resolved}" for resolved in asked.values()]
    columns |= {"rung": list(asked), "resolved_rung": list(asked.values()), "label": names}
    result = Table.from_columns("rung_deltas", RungDelta, columns)
    if spec.variables.include_absent:
        absent = dict.fromkeys(RungDelta.model_fields) | {
            "mean_delta": 0.0,
            "n": len(base),
            "status": "negligible",
            "mean_activation": float(base.mean(dtype=np.float64)),
            "active_rate": float((base > 0).mean()),
            "rung": 0,
            "resolved_rung": 0,
            "label": "absent",
        }
        result.rows.insert(0, RungDelta.model_validate(absent).model_dump())
        result.notes.append("rung 0 is the base of every effect: its delta is 0 by definition")
    return result


def _shape_numbers(shape: Curve, table: EffectTable, levels: list[int], acting: list[int]) -> dict[str, Any]:
    present = [levels[i] for i, status in enumerate(table.status) if status == "present"]
    top = int(np.argmax(np.abs(table.effects.mean)))
    return {
        "shape": shape.shape,
        "shape_reason": shape.reason,
        "threshold_rung": shape.threshold,
        "threshold_support": shape.threshold_support,
        "onset_rung": present[0] if present and acting else None,
        "half_max_rung": shape.half_max,
        "saturation_rung": shape.saturation,
        "max_rung": levels[top],
        "max_rung_delta": float(table.effects.mean[top]),
        "max_rung_delta_low": float(table.effects.sim_low[top]),
        "max_rung_delta_high": float(table.effects.sim_high[top]),
        "specificity_p": float(table.specificity[leading(table)[0]]),
        "verdict": table.status[leading(table)[0]] if acting else "nothing_specific",
    }


def _trend_numbers(slope: Trend) -> dict[str, Any]:
    reason = None if slope.slope is not None else "fewer than 30 contexts change at all"
    return {
        "trend": slope.slope,
        "trend_low": slope.ci_low,
        "trend_high": slope.ci_high,
        "trend_p": slope.p_value,
        "trend_reason": reason,
    }


def _shape(table: EffectTable, levels: list[int], curves: Floats, min_effect: float) -> Curve:
    """What is not told from nothing has no shape; a single level has none either way, and says why."""
    found = describe_curve([0, *levels], curves, table.weights, min_effect)
    return found if table.acting() or found.reason else Curve("none")


def _unconfirmed(table: EffectTable, acting: list[int]) -> str | None:
    """Why `winner_confirmed` is null."""
    if not acting:
        return "nothing acts"
    few = table.effects.n < FEWEST_TO_CONFIRM
    return f"fewer than {FEWEST_TO_CONFIRM} contexts: no half to confirm it on" if few else None


def _headline(
    spec: FamilySweepSpec,
    ctx: Context,
    table: EffectTable,
    levels: list[int],
    *,
    shape: Curve,
    min_effect: float,
    population: Population,
) -> str:
    index, name = leading(table)[0], with_short(spec.variables.family)
    scope = f"{population.contexts(table.effects.n)}; interventional."
    if not table.acting():
        return f"{nothing_text(table, name, spec.feature_id, min_effect)}; {scope}"
    main_only = ctx.vocabulary.is_main_only(spec.variables.family)
    where = "when present" if main_only else f"at {levels[index]} AP"
    if table.status[index] == "conditional":
        return f"{name} acts on feature {spec.feature_id} {where} {conditional_text(table, index)}; {scope}"
    kind = "" if shape.shape is None else f", {shape.shape.replace('_', '-')}"
    curve = f", a step at {shape.threshold} AP" if shape.shape == "step" else kind
    rate, there = float(table.effects.responder_rate[index]), float(table.effects.mean_responders[index])
    partly = f" ({number(there)} in {rate:.0%} of contexts)" if rate < PARTLY else ""
    return f"{name} drives feature {spec.feature_id}: {effect_text(table, index)} {where}{partly}{curve}; {scope}"


def _followups(
    spec: FamilySweepSpec,
    ctx: Context,
    table: EffectTable,
    *,
    levels: list[int],
    gap: dict[str, Any],
    min_effect: float,
) -> list[Followup]:
    family, main_only = spec.variables.family, ctx.vocabulary.is_main_only(spec.variables.family)
    if not table.acting():
        seen = gap["confounding_gap"] is not None and gap["confounding_gap_low"] > min_effect
        if not seen or main_only:
            return []
        reason = f"the data show {family} and writing it in does nothing: its company, or a gap in its tokens?"
        return [followup(spec, "within_family_interference", {"family": family}, reason)]
    index = leading(table)[0]
    rate = float(table.effects.responder_rate[index])
    variables = {"n_candidates": 12} if main_only else {"n_candidates": 12, "rung": levels[index]}
    if table.status[index] == "conditional":
        reason = f"{family} acts in some contexts only: find what it acts together with"
        return [followup(spec, "pairwise_interactions", variables, reason)]
    reason = f"{family} moves {rate:.0%} of contexts: what else does it need, or what blocks it in the others?"
    partly = [followup(spec, "pairwise_interactions", variables, reason)] if rate < NEARLY_ALL else []
    reason = f"{family} drives the feature: is it enough by itself?"
    found = [
        *partly,
        followup(spec, "minimal_cores", {}, reason),
        followup(spec, "weapon_sweep", {"method": "interventional"}, "does the weapon matter besides the ability?"),
    ]
    return answerable(found, ctx)
