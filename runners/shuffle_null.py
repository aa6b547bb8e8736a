"""Shuffle null: is what the data show of a feature more than chance would, and more than any direction shows?"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from ..context.context import Context
from ..context.population import Population
from ..schemas.catalogue import Plan, experiment
from ..schemas.job import Job
from ..schemas.result import Aggregates, Findings, Followup, Row, Table
from ..schemas.spec import ExperimentSpec, Variables
from .design.high import HighPercentile, HighSplit, read_percentile, split_high
from .design.report import CORRELATIONAL, diagnostics, followup, observed_scope, plural, quiet_findings, smallest_effect
from .parts.shuffles.report import Answer, NullDistribution
from .parts.shuffles.significance import Question, prepared_for, shuffle_test, where
from .parts.shuffles.statistics import Prepared, Statistic, Stratum

MOSTLY = 0.9
TABLES: dict[str, type[Row]] = {"null_distribution": NullDistribution}


class ShuffleNullVariables(Variables):
    """What is computed on the data and on every shuffle."""

    n_shuffles: int = Field(default=100, ge=19, le=10_000, description="Shuffles; p is at least 1 / (1 + shuffles).")
    statistic: Statistic = Field(
        default="max_token_effect",
        description="Largest |t| over tokens or weapons, largest excess share of a token among high examples, or the "
        "slope on a family's level.",
    )
    family: str | None = Field(default=None, description="Family of family_trend; refused otherwise.")
    stratify_by: Stratum | None = Field(
        default=None, description="Shuffle within weapons (default) or over all (default of max_weapon_effect)."
    )
    high_percentile: HighPercentile = 90.0
    min_effect: float | None = Field(
        default=None, gt=0, le=6, description="Smallest effect of interest; default 5 % of the effective max."
    )

    @model_validator(mode="after")
    def _consistent(self) -> ShuffleNullVariables:
        if self.statistic == "family_trend" and self.family is None:
            raise ValueError("statistic 'family_trend' needs family: name the family whose level is meant")
        if self.statistic != "family_trend" and self.family is not None:
            raise ValueError(
                f"family is for statistic 'family_trend' only, and the statistic is {self.statistic!r}: leave family "
                f"out, or ask for 'family_trend'"
            )
        if self.statistic == "max_weapon_effect" and self.stratify_by == "weapon":
            raise ValueError(
                "stratify_by 'weapon' changes no weapon's mean, so it cannot test max_weapon_effect: leave stratify_by "
                "out, or use 'none'"
            )
        return self

    @property
    def within(self) -> Stratum:
        """Within what activations are exchanged."""
        return self.stratify_by or ("none" if self.statistic == "max_weapon_effect" else "weapon")


class ShuffleNullSpec(ExperimentSpec):
    """Spec of a shuffle null."""

    type: Literal["shuffle_null"] = "shuffle_null"
    variables: ShuffleNullVariables = ShuffleNullVariables()


def _question(spec: ShuffleNullSpec, ctx: Context) -> Question:
    variables = spec.variables
    family = None if variables.family is None else ctx.vocabulary.check_family(variables.family)
    return Question(variables.statistic, variables.within, family, variables.n_shuffles, spec.dataset_slice.random_seed)


def plan(spec: ShuffleNullSpec, ctx: Context) -> Plan:
    """What the shuffles would read."""
    population = ctx.population(spec.dataset_slice, spec.feature_id)
    question = _question(spec, ctx)
    return Plan(
        contexts=len(population),
        conditions=f"{plural(question.n_shuffles, 'shuffle')} of whole builds {where(question)}",
        notes=population.warnings,
    )


@experiment(
    "shuffle_null",
    spec=ShuffleNullSpec,
    plan=plan,
    cli="shuffle-null",
    summary="Whether the data show more of the feature than shuffled data do, and than random directions do.",
    tables=TABLES,
    methods=("observational",),
    cost="data",
    toolset="validation",
)
def run(spec: ShuffleNullSpec, ctx: Context, job: Job) -> Findings:
    """Compare a statistic with its values when activations are exchanged between builds.

    The permutation unit is the cluster (a build, else a distinct set): all activations of one move together, to a
    cluster of the same size of the same weapon (``stratify_by``), so p is uniform where activations have nothing to
    do with tokens, however alike those of a build are. Shuffling destroys every association, and most directions of a
    network have some: only what random directions do not show as well is called found.
    """
    population = ctx.population(spec.dataset_slice, spec.feature_id)
    question = _question(spec, ctx)
    quiet = quiet_findings(spec, ctx, population, job, method="observational", models=TABLES)
    if quiet is not None:
        return quiet
    job.warn(CORRELATIONAL)
    if ctx.data.build_id is None:
        job.warn("builds are unknown: clusters are distinct (weapon, set), and p may be too small")
    high = _high(spec, population, job)
    min_effect = smallest_effect(spec, ctx, spec.variables.min_effect)
    found = shuffle_test(ctx, spec.feature_id, population, question, high=high, job=job)
    plain = diagnostics(population, min_effect, ctx.effective_max(spec.feature_id), job)
    if isinstance(found, str):
        return _unknown(spec, population, question, found, job).model_copy(update={"diagnostics": plain})
    prepared = prepared_for(ctx, population, question)
    answer = Answer.of(question, found, prepared, population, min_effect or 0.0)
    if answer.share_movable < MOSTLY:
        job.warn(f"{1 - answer.share_movable:.0%} of the examples have no build of their size to change with")
    extra = {} if high is None else high.numbers()
    return Findings(
        headline=answer.headline(spec.feature_id, population, min_effect or 0.0),
        findings=[answer.finding(spec.feature_id, population)],
        aggregates=Aggregates(n_samples=len(population), custom=answer.numbers() | extra),
        tables=[job.partial(answer.table())],
        diagnostics=plain,
        followups=_followups(spec, ctx, answer, prepared),
    )


def _high(spec: ShuffleNullSpec, population: Population, job: Job) -> HighSplit | None:
    """The high examples, where the statistic asks for them."""
    statistic = spec.variables.statistic
    if statistic == "top_token_concentration":
        return split_high(population, read_percentile(spec.variables.high_percentile, job), job)
    if "high_percentile" in spec.variables.model_fields_set:
        job.warn(f"high_percentile is not used by statistic {statistic!r}: only top_token_concentration reads it")
    return None


def _unknown(spec: ShuffleNullSpec, population: Population, question: Question, reason: str, job: Job) -> Findings:
    """The answer where the data cannot be shuffled: nulls with the reason."""
    nulls = dict.fromkeys(NullDistribution.model_fields) | {
        "statistic": question.statistic,
        "n_shuffles": question.n_shuffles,
        "reason": reason,
    }
    table = Table.of("null_distribution", NullDistribution, [NullDistribution.model_validate(nulls)])
    custom = nulls | {"method": "observational", "significant": None, "verdict": "nothing_specific"}
    scope = observed_scope(population)
    # Activations that are the same throughout each weapon may still differ between weapons.
    between = question.statistic == "max_token_effect" and float(np.ptp(population.activation)) > 0
    return Findings(
        headline=f"nothing found: {question.statistic} of feature {spec.feature_id} is unknown ({reason}); {scope}",
        aggregates=Aggregates(n_samples=len(population), custom=custom),
        tables=[job.partial(table)],
        followups=[_weapons_next(spec)] if between else [],
    )


def _weapons_next(spec: ShuffleNullSpec) -> Followup:
    reason = "tokens show no more than chance: do weapons?"
    return followup(spec, "shuffle_null", {"statistic": "max_weapon_effect"}, reason)


def _followups(spec: ShuffleNullSpec, ctx: Context, answer: Answer, prepared: Prepared) -> list[Followup]:
    """Is it causal, where something was found; the weapons, where tokens show nothing."""
    statistic, unit = answer.question.statistic, answer.found.unit
    if not answer.acts:
        if statistic == "max_token_effect" and not answer.significant:
            return [_weapons_next(spec)]
        return []
    if statistic == "max_weapon_effect":
        return [
            followup(spec, "weapon_sweep", {}, f"{unit} goes with it beyond chance: which weapons do, and how much?")
        ]
    if not ctx.has_model:
        return []
    family = prepared.family[answer.found.index]
    reason = f"{unit} goes with it beyond chance: does {family} drive it?"
    return [followup(spec, "family_1d_sweep", {"family": family}, reason)]
