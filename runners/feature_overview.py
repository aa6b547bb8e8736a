"""Feature overview: the first look at a feature in one call: how often, with what, on which weapons, what next."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from ..context.context import Context
from ..context.population import Population
from ..schemas.catalogue import Plan, experiment
from ..schemas.job import Job
from ..schemas.result import Aggregates, Findings, Row
from ..schemas.spec import ExperimentSpec, Variables
from .design.high import HighPercentile, read_percentile, split_high
from .design.report import CORRELATIONAL, diagnostics, quiet_findings, smallest_effect
from .design.specificity import null_activations
from .parts.decoder.logits import nearest_features, norm_percentile
from .parts.overview.bands import (
    BandRow,
    ExampleBuild,
    HistogramBin,
    core_and_tail,
    example_builds,
    histogram,
    shape_numbers,
)
from .parts.overview.seen import (
    overview_findings,
    overview_followups,
    overview_headline,
    seen_numbers,
    what_stands_out,
)
from .parts.overview.units import (
    FamilyShare,
    TopUnit,
    family_shares_table,
    specificity,
    top_tokens,
    unit_design,
    unit_effects,
)
from .parts.weapons.stats import ClassStat, WeaponStat, WeaponTable, class_stats, weapon_stats, weapon_table

MIN_WEAPON_EXAMPLES = 20


class FeatureOverviewVariables(Variables):
    """How much of the overview is shown."""

    top_k: int = Field(default=10, ge=1, le=200, description="Units and weapons shown.")
    n_examples: int = Field(default=3, ge=0, le=20, description="Example builds shown of each activation band.")
    high_percentile: HighPercentile = 90.0
    min_effect: float | None = Field(
        default=None, gt=0, le=6, description="Smallest effect of interest; default 5 % of the effective max."
    )


class FeatureOverviewSpec(ExperimentSpec):
    """Spec of a feature overview."""

    type: Literal["feature_overview"] = "feature_overview"
    variables: FeatureOverviewVariables = FeatureOverviewVariables()


TABLES: dict[str, type[Row]] = {
    "top_tokens": TopUnit,
    "family_shares": FamilyShare,
    "weapons": WeaponStat,
    "classes": ClassStat,
    "core_and_tail": BandRow,
    "examples": ExampleBuild,
    "activation_histogram": HistogramBin,
}


def plan(spec: FeatureOverviewSpec, ctx: Context) -> Plan:
    """What the overview would read."""
    population = ctx.population(spec.dataset_slice, spec.feature_id)
    return Plan(contexts=len(population), conditions="none: the examples are read", notes=population.warnings)


@experiment(
    "feature_overview",
    spec=FeatureOverviewSpec,
    plan=plan,
    cli="overview",
    summary="The first look at a feature: how often, with what, on which weapons, and what to run next.",
    tables=TABLES,
    methods=("observational",),
    cost="data",
    toolset="core",
)
def run(spec: FeatureOverviewSpec, ctx: Context, job: Job) -> Findings:
    """Look at a feature; the estimators are in docs/methods under "Observational effects" and "feature_overview"."""
    population = ctx.population(spec.dataset_slice, spec.feature_id)
    quiet = quiet_findings(spec, ctx, population, job, method="observational", models=TABLES)
    if quiet is not None:
        return quiet
    variables, seed = spec.variables, spec.dataset_slice.random_seed
    min_effect = smallest_effect(spec, ctx, variables.min_effect) or 0.0
    top = ctx.effective_max(spec.feature_id) or 0.0
    job.warn(CORRELATIONAL)
    split = split_high(population, read_percentile(variables.high_percentile, job), job)
    units = unit_effects(unit_design(ctx, population), population, min_effect)
    job.partial(top_tokens(units, population, variables.top_k))
    job.partial(family_shares_table(units, split))
    weapons = _weapons(spec, ctx, population, min_effect, job)
    job.partial(core_and_tail(ctx, population, units.units, top))
    job.partial(example_builds(ctx, population, top, variables.n_examples, seed))
    job.partial(histogram(population))
    chance = specificity(ctx, units, population, null_activations(ctx, spec.feature_id, population, seed))
    seen = what_stands_out(ctx, units, weapons, chance)
    custom: dict[str, Any] = {
        "method": "observational",
        **shape_numbers(population, top),
        **split.numbers(),
        **_decoder_numbers(spec, ctx),
        **seen_numbers(ctx, seen),
    }
    return Findings(
        headline=overview_headline(ctx, spec.feature_id, seen, population, min_effect),
        findings=overview_findings(ctx, spec.feature_id, seen, population),
        aggregates=Aggregates(n_samples=len(population), custom=custom),
        tables=[job.tables[name] for name in TABLES],
        diagnostics=diagnostics(population, min_effect, top, job),
        followups=overview_followups(spec, ctx, seen),
    )


def _weapons(
    spec: FeatureOverviewSpec, ctx: Context, population: Population, min_effect: float, job: Job
) -> WeaponTable:
    """Statistics by weapon; hands over the tables of weapons and of classes."""
    table = weapon_table(ctx, population, min_examples=MIN_WEAPON_EXAMPLES, min_effect=min_effect, job=job)
    shown = weapon_stats(ctx, table, table.ranked()[: spec.variables.top_k])
    job.partial(shown.model_copy(update={"name": "weapons"}))
    job.partial(class_stats(ctx, population, table, min_effect).model_copy(update={"name": "classes"}))
    return table


def _decoder_numbers(spec: FeatureOverviewSpec, ctx: Context) -> dict[str, Any]:
    if ctx.sae is None:
        reason = "the bundle has no SAE weights"
        return {"decoder_norm_percentile": None, "decoder_norm_reason": reason, "nearest_features": None}
    return {
        **norm_percentile(ctx.sae, spec.feature_id),
        "nearest_features": nearest_features(ctx, spec.feature_id),
    }
