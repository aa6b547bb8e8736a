"""Core coverage: which tokens mark the whole range of a feature, and which only its extreme?"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from ..context.context import Context
from ..context.population import Population
from ..schemas.catalogue import Plan, experiment
from ..schemas.errors import RequestError
from ..schemas.job import Job
from ..schemas.result import Aggregates, Findings, Followup, Row
from ..schemas.spec import ExperimentSpec, Variables
from .design.report import (
    CORRELATIONAL,
    diagnostics,
    empty_tables,
    followup,
    plural,
    quiet_findings,
    smallest_effect,
    with_short,
)
from .design.specificity import null_activations
from .design.unit_columns import UnitColumns
from .parts.coverage.marks import Ranges, token_marks, weapon_marks
from .parts.coverage.report import Answer, findings, headline, numbers
from .parts.coverage.tables import TokenCoverage, WeaponCoverage, token_table, weapon_table
from .stats.groups import MIN_N

Unit = tuple[str, str, int]
TABLES: dict[str, type[Row]] = {"token_coverage": TokenCoverage, "weapon_coverage": WeaponCoverage}


class CoverageVariables(Variables):
    """What is checked, and where core and tail lie."""

    tokens_to_check: tuple[str, ...] = Field(
        default=(),
        description="Families, family_AP (held at that AP or more), main-only abilities; default: every family.",
    )
    top_k: int = Field(default=15, ge=1, le=1000, description="Units (where none are given) and weapons shown.")
    coverage_threshold: float = Field(
        default=0.3, gt=0, lt=1, description="A tail marker covers less than this share of the core."
    )
    include_weapons: bool = Field(default=True, description="Do the same for weapons.")
    core_lower_pct: float = Field(default=25.0, ge=0, lt=90, description="The core is above this % of effective max.")
    core_upper_pct: float = Field(
        default=75.0, gt=1, le=90, description="The core ends at this % of it; the tail is above 90 %."
    )
    effective_max_percentile: Annotated[float, Field(gt=0.5, le=100)] = Field(
        default=99.5, description="Percentile (0-100) of the active activations that is the effective max."
    )
    min_effect: float | None = Field(
        default=None, gt=0, le=6, description="Smallest effect of interest; default 5 % of the effective max."
    )

    @model_validator(mode="after")
    def _ordered(self) -> CoverageVariables:
        if self.core_lower_pct >= self.core_upper_pct:
            raise ValueError(
                f"core_lower_pct {self.core_lower_pct:g} must be below core_upper_pct {self.core_upper_pct:g}"
            )
        return self


class CoverageSpec(ExperimentSpec):
    """Spec of a core coverage analysis."""

    type: Literal["core_coverage_analysis"] = "core_coverage_analysis"
    variables: CoverageVariables = CoverageVariables()


def _units(spec: CoverageSpec, ctx: Context) -> list[Unit] | None:
    """The units asked for as (label, family, least level); None for every family.

    Raises:
        RequestError: an unknown unit, or one given twice.
    """
    found: list[Unit] = []
    for text in spec.variables.tokens_to_check:
        if text in ctx.vocabulary.stackable:
            found.append((text, text, 0))
            continue
        family, level = ctx.vocabulary.parse_unit(text)
        label = family if ctx.vocabulary.is_main_only(family) else f"{family}_{level}"
        found.append((label, family, level))
    twice = sorted({label for label, *_ in found if [each[0] for each in found].count(label) > 1})
    if twice:
        raise RequestError(
            f"tokens_to_check names the same unit twice: {', '.join(twice)}. Give each once. Nothing was run."
        )
    return found or None


def _warn_resolved(spec: CoverageSpec, units: list[Unit] | None, job: Job) -> None:
    for text, (label, *_) in zip(spec.variables.tokens_to_check, units or (), strict=True):
        if text != label:
            job.warn(f"{text} is no rung of the vocabulary: {label} is used, as the tokenizer does")


def _ranges(spec: CoverageSpec, ctx: Context, population: Population, job: Job) -> Ranges:
    """Cut the population's activations; the effective max is that of the active examples of the whole bundle."""
    variables = spec.variables
    percentile = variables.effective_max_percentile
    if percentile < 1.0:
        job.warn(f"effective_max_percentile {percentile:g} was read as a fraction: percentile {100 * percentile:g}")
        percentile *= 100.0
    column = ctx.activations(spec.feature_id)
    top = float(np.quantile(column[column > 0], percentile / 100.0))
    return Ranges.of(population.activation, top, variables.core_lower_pct, variables.core_upper_pct)


def plan(spec: CoverageSpec, ctx: Context) -> Plan:
    """What would be read."""
    units = _units(spec, ctx)
    population = ctx.population(spec.dataset_slice, spec.feature_id)
    what = f"{len(units or ctx.vocabulary.families)} units" + (" and the weapons" * spec.variables.include_weapons)
    return Plan(contexts=len(population), conditions=f"{what}: core against tail", notes=population.warnings)


@experiment(
    "core_coverage_analysis",
    spec=CoverageSpec,
    plan=plan,
    cli="coverage",
    summary="Which tokens and weapons mark the whole range of a feature, and which only its extreme.",
    tables=TABLES,
    methods=("observational",),
    cost="data",
    toolset="patterns",
    aliases={"tokens": "tokens_to_check", "threshold": "coverage_threshold"},
)
def run(spec: CoverageSpec, ctx: Context, job: Job) -> Findings:
    """Compare core and tail; the definitions are in docs/methods under "core_coverage_analysis"."""
    units, population = _units(spec, ctx), ctx.population(spec.dataset_slice, spec.feature_id)
    quiet = quiet_findings(spec, ctx, population, job, method="observational", models=TABLES)
    if quiet is not None:
        return quiet
    variables = spec.variables
    job.warn(CORRELATIONAL)
    _warn_resolved(spec, units, job)
    if ctx.data.build_id is None:
        job.warn("builds are unknown: errors are clustered by distinct (weapon, set), which may be too narrow")
    min_effect = smallest_effect(spec, ctx, variables.min_effect) or 0.0
    ranges = _ranges(spec, ctx, population, job)
    _warn_few(ranges, job)
    null = null_activations(ctx, spec.feature_id, population, spec.dataset_slice.random_seed)
    job.check()
    columns, tokens = token_marks(
        ctx, population, units, ranges, null=null, threshold=variables.coverage_threshold, min_effect=min_effect
    )
    job.partial(token_table(columns.labels, tokens, variables.top_k if units is None else None))
    weapons = None
    if variables.include_weapons:
        weapons = weapon_marks(
            ctx, population, ranges, null=null, threshold=variables.coverage_threshold, min_effect=min_effect
        )
        job.partial(weapon_table(ctx, weapons, variables.top_k))
    else:
        empty = next(table for table in empty_tables(TABLES) if table.name == "weapon_coverage")
        empty.notes.append("include_weapons is false")
        job.partial(empty)
    names = [kit.name for kit in ctx.weapons.facts]
    labels = [_shown(label, family) for label, family in zip(columns.labels, columns.family, strict=True)]
    answer = Answer(spec.feature_id, population, tokens, labels, weapons, names)
    notes = []
    if not ranges.has_core:
        notes.append(f"the core has {plural(ranges.n_core, 'example')}: coverage is judged over all active examples")
    return Findings(
        headline=headline(answer),
        findings=findings(answer),
        aggregates=Aggregates(n_samples=len(population), custom=numbers(answer, columns.labels)),
        tables=list(job.tables.values()),
        diagnostics=diagnostics(population, min_effect, ranges.effective_max, job, notes),
        followups=_followups(spec, ctx, answer, columns),
    )


def _shown(label: str, family: str) -> str:
    """A unit as headlines write it: a family with its abbreviation."""
    return with_short(family) if label == family else label


def _warn_few(ranges: Ranges, job: Job) -> None:
    few = [(name, n) for name, n in (("core", ranges.n_core), ("tail", ranges.n_tail)) if n < MIN_N]
    for name, n in few:
        job.warn(f"the {name} has {plural(n, 'example')}, fewer than {MIN_N}: verdicts on core and tail are null")


def _followups(spec: CoverageSpec, ctx: Context, answer: Answer, columns: UnitColumns) -> list[Followup]:
    if not ctx.has_model:
        return []
    covering, markers = answer.covering(), answer.tail_markers()
    families = dict.fromkeys(columns.family[i] for i in covering[:3])
    found = [
        followup(spec, "family_1d_sweep", {"family": family}, f"{family} covers the feature: does it cause it?")
        for family in families
    ]
    for family in list(dict.fromkeys(columns.family[i] for i in markers[:2])):
        if family not in families:
            reason = f"{family} marks the tail only: does it add to the feature?"
            found.append(followup(spec, "family_1d_sweep", {"family": family}, reason))
    if answer.covering_weapons() or answer.tail_weapons():
        if len(answer.covering_weapons()) > 1:
            reason = "several weapons cover the feature together: do they share a sub or special?"
            found.append(followup(spec, "kit_sweep", {}, reason))
        reason = "weapons mark the feature: does swapping the weapon change it?"
        found.append(followup(spec, "weapon_sweep", {"method": "interventional"}, reason))
    return found
