"""Within-family interference: does a lower rung's token change what a higher one does?"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ..context.context import Context
from ..context.population import Population
from ..schemas.catalogue import Plan, experiment
from ..schemas.errors import RequestError
from ..schemas.facts import MAX_AP
from ..schemas.job import Job
from ..schemas.result import Diagnostics, Findings, Followup, Row, Table
from ..schemas.spec import ExperimentSpec, Variables
from .design.effect_report import effect_finding, leading, summarise
from .design.effect_rows import EffectTable, effect_table
from .design.interventions import Design, data_population
from .design.report import (
    diagnostics,
    followup,
    intervention_diagnostics,
    plural,
    quiet_findings,
    smallest_effect,
)
from .design.specificity import null_effects
from .parts.interference.report import (
    OUT_OF_DISTRIBUTION,
    Interference,
    direction,
    interference_headline,
    interference_table,
    leading_group,
    subject_of,
)
from .parts.interference.sets import Comparison, count_comparisons, interference_design
from .stats.curve import winner_confirmed

CONFIRM_STREAM = 27
TABLES: dict[str, type[Row]] = {"interference": Interference}


class InterferenceVariables(Variables):
    """Whose rungs are compared."""

    family: str = Field(description="Stackable family whose rungs are compared, such as swim_speed_up.")
    rungs: tuple[Annotated[int, Field(ge=1, le=MAX_AP)], ...] | None = Field(
        default=None, description="AP levels to pair; default: every rung of the vocabulary."
    )
    min_effect: float | None = Field(
        default=None, gt=0, le=6, description="Smallest effect of interest; default 5 % of the effective max."
    )


class InterferenceSpec(ExperimentSpec):
    """Spec of within-family interference."""

    takes_contexts: ClassVar[bool] = True
    type: Literal["within_family_interference"] = "within_family_interference"
    variables: InterferenceVariables


def _levels(spec: InterferenceSpec, ctx: Context) -> dict[int, int]:
    """AP asked for by resolved rung, ascending.

    Raises:
        RequestError: a family of one rung, or rungs that leave nothing to compare.
    """
    family, vocabulary = ctx.vocabulary.check_family(spec.variables.family), ctx.vocabulary
    rungs = vocabulary.rungs(family)
    if len(rungs) < 2:
        what = "is a main-only ability" if vocabulary.is_main_only(family) else "has one token"
        raise RequestError(
            f"family {family!r} {what}: it has one rung, so no lower one to add to it. Stackable families are allowed: "
            f"{', '.join(vocabulary.stackable)}. Nothing was run."
        )
    asked = spec.variables.rungs if spec.variables.rungs is not None else rungs
    found: dict[int, int] = {}
    for rung in sorted(set(asked)):
        # Of several that resolve to one rung, that rung itself is what was asked for, where it is among them.
        found.setdefault(vocabulary.resolve(family, rung), rung)
    if not count_comparisons(ctx, family, list(found)):
        raise RequestError(
            f"rungs {list(asked)} of {family!r} leave nothing to compare: give two, or one above the lowest "
            f"({rungs[0]}); the vocabulary's rungs are {list(rungs)}. Nothing was run."
        )
    return found


def _resolutions(spec: InterferenceSpec, ctx: Context) -> list[str]:
    """What to say of AP values that are no rung of the vocabulary."""
    asked = sorted(set(spec.variables.rungs or ()))
    resolved = [(rung, ctx.vocabulary.resolve(spec.variables.family, rung)) for rung in asked]
    return [
        f"rung {rung} is no rung of the vocabulary: {used} is used, as the tokenizer does"
        for rung, used in resolved
        if rung != used
    ]


def _design(spec: InterferenceSpec, ctx: Context) -> tuple[Design, list[Comparison]]:
    return interference_design(spec, ctx, spec.variables.family, sorted(_levels(spec, ctx)))


def plan(spec: InterferenceSpec, ctx: Context) -> Plan:
    """What would be run."""
    levels, _ = _levels(spec, ctx), ctx.oracle
    population = data_population(spec, ctx, "interventional")
    if population.dead:
        return Plan(contexts=0, conditions="none: no example activates the feature", notes=population.warnings)
    design, comparisons = _design(spec, ctx)
    what = f"{plural(len(levels), 'rung')} of {spec.variables.family} alone, in pairs and with every lower rung"
    found = design.plan(ctx, f"{what}: {plural(len(comparisons), 'comparison')}")
    return replace(found, notes=(*found.notes, *_notes(spec), *_resolutions(spec, ctx)))


def _notes(spec: InterferenceSpec) -> list[str]:
    """What a reader must know of the sets."""
    notes = [f"{OUT_OF_DISTRIBUTION}: the network's answers there need not hold for builds it meets"]
    if "one_rung_per_family" in spec.constraints:
        notes.append("one_rung_per_family does not apply: this type writes several rungs of the family on purpose")
    return notes


@experiment(
    "within_family_interference",
    spec=InterferenceSpec,
    plan=plan,
    cli="interference",
    summary="Whether a lower rung's token changes what a higher rung of the same ability does.",
    tables=TABLES,
    methods=("interventional",),
    cost="model",
    toolset="interactions",
)
def run(spec: InterferenceSpec, ctx: Context, job: Job) -> Findings:
    """Compare rungs with and without lower ones; see docs/methods under "within_family_interference"."""
    asked, _ = _levels(spec, ctx), ctx.oracle
    whole = data_population(spec, ctx, "interventional")
    quiet = quiet_findings(spec, ctx, whole, job, method="interventional", models=TABLES)
    if quiet is not None:
        return quiet
    for resolution in _resolutions(spec, ctx):
        job.warn(resolution)
    min_effect = smallest_effect(spec, ctx, spec.variables.min_effect) or 0.0
    design, comparisons = _design(spec, ctx)
    pooled = design.pooled(ctx, job)
    readout = ctx.read(pooled, spec.feature_id)
    alone, both = ([1 + getattr(each, side) for each in comparisons] for side in ("alone", "both"))
    effects = effect_table(
        readout.activation[both],
        readout.pre[both],
        base=(readout.activation[alone], readout.pre[alone]),
        population=design.contexts.population.drawn_from,
        min_effect=min_effect,
        null=null_effects(ctx, spec.feature_id, pooled[both], base=pooled[alone], min_effect=min_effect),
        seed=spec.dataset_slice.random_seed,
    )
    table = interference_table(
        ctx,
        spec.variables.family,
        asked,
        comparisons,
        effects=effects,
        activation=readout.activation[1:],
        population=design.contexts.population,
    )
    job.partial(table)
    plain = diagnostics(design.contexts.population, min_effect, ctx.effective_max(spec.feature_id), job)
    plain = intervention_diagnostics(design, readout.pre[0], plain, job)
    plain.notes += _notes(spec)
    population = design.contexts.population
    return _findings(spec, comparisons, effects, table=table, plain=plain, population=population, min_effect=min_effect)


def _findings(
    spec: InterferenceSpec,
    comparisons: list[Comparison],
    effects: EffectTable,
    *,
    table: Table,
    plain: Diagnostics,
    population: Population,
    min_effect: float,
) -> Findings:
    family, group = spec.variables.family, leading_group(effects, comparisons)
    top = effects.strongest(group) if group else leading(effects)[0]
    shown = [top, *(i for i in group if i != top)][:5]
    return Findings(
        headline=interference_headline(
            effects,
            comparisons,
            table,
            family=family,
            feature=spec.feature_id,
            min_effect=min_effect,
            population=population,
        ),
        findings=[
            effect_finding(
                effects,
                i,
                subject=subject_of(comparisons[i], family),
                feature=spec.feature_id,
                population=plain.population,
                table_name="interference",
            )
            for i in shown
        ],
        aggregates=summarise(
            effects.effects.mean, effects.effects.n, _numbers(spec, comparisons, effects, group, top=top)
        ),
        tables=[table],
        diagnostics=plain,
        followups=_followups(spec, comparisons, effects, group),
    )


def _numbers(
    spec: InterferenceSpec,
    comparisons: list[Comparison],
    effects: EffectTable,
    group: list[int],
    *,
    top: int,
) -> dict[str, Any]:
    acting = effects.acting()
    pairs = [i for i in acting if comparisons[i].kind == "pair"]
    rng = np.random.default_rng([spec.dataset_slice.random_seed, CONFIRM_STREAM])
    confirmed = winner_confirmed(effects.differences[:, group], rng) if group else None
    return {
        "method": "interventional",
        "family": spec.variables.family,
        "verdict": effects.status[top] if group else "nothing_specific",
        "specificity_p": float(effects.specificity[top]),
        "top_comparison": comparisons[top].kind,
        "top_low_rung": comparisons[top].low,
        "top_high_rung": comparisons[top].high,
        "top_delta": float(effects.effects.mean[top]),
        "interfering_pairs": [[comparisons[i].low, comparisons[i].high] for i in pairs if direction(effects, i) < 0],
        "supporting_pairs": [[comparisons[i].low, comparisons[i].high] for i in pairs if direction(effects, i) > 0],
        "thermometer_rungs": [comparisons[i].high for i in acting if comparisons[i].kind == "thermometer"],
        "n_comparisons": len(comparisons),
        "winner_confirmed": confirmed,
    }


def _followups(
    spec: InterferenceSpec, comparisons: list[Comparison], effects: EffectTable, group: list[int]
) -> list[Followup]:
    if not group:
        return []
    family, top = spec.variables.family, comparisons[effects.strongest(group)]
    reason = f"the tokens below {family}_{top.high} matter: what does each rung's token do alone?"
    found = [followup(spec, "family_1d_sweep", {"family": family, "encoding": "single"}, reason)]
    if direction(effects, effects.strongest(group)) < 0:
        reason = f"a lower rung of {family} interferes: which tokens are enough in the builds there are?"
        found.append(followup(spec, "minimal_cores", {"unit": "token"}, reason))
    return found
