"""How results are worded: populations, floors, followups, and the answer for a dead feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...context.context import Context
from ...context.population import Population
from ...schemas.catalogue import find
from ...schemas.experiment_type import runner_names
from ...schemas.facts import ABILITIES
from ...schemas.job import Job
from ...schemas.result import Aggregates, Diagnostics, Finding, Findings, Followup, Method, Row, Table
from ...schemas.spec import ExperimentSpec
from .interventions import NOT_OF_THE_DATA, Design

Floats = NDArray[np.floating[Any]]
CLAMP = 6.0
CORRELATIONAL = (
    "CORRELATIONAL: these numbers group the examples there are, and in real builds weapons, kits and abilities go "
    "together; only an intervention shows a cause"
)


def number(value: float) -> str:
    """A signed effect with two significant decimals, as headlines write it."""
    return f"{value:+.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:+.3f}"


def interval(low: float, high: float) -> str:
    """An interval, as headlines write it."""
    return f"[{low:.2f}, {high:.2f}]" if max(abs(low), abs(high)) >= 0.1 else f"[{low:.3f}, {high:.3f}]"


def plural(count: int, noun: str) -> str:
    """A count with its noun: 1 weapon, 2 weapons."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def short_name(family: str) -> str:
    """The community's abbreviation of an ability (SCU), or the token where there is none."""
    return ABILITIES[family].short if family in ABILITIES else family


def with_short(family: str) -> str:
    """An ability's token with its abbreviation in brackets."""
    short = short_name(family)
    return family if short == family else f"{family} ({short})"


def diagnostics(
    population: Population, min_effect: float | None, effective_max: float | None, job: Job, notes: Sequence[str] = ()
) -> Diagnostics:
    """Diagnostics of an observational run: floor and clamp rates are shares of the population."""
    activation = population.activation
    rate = float(np.mean(activation <= 0)) if len(activation) else None
    for warning in population.warnings:
        job.warn(warning)
    if population.description.startswith("examples already active"):
        job.warn("the slice selects on the outcome: effects among already active examples answer another question")
    return Diagnostics(
        relu_floor_rate=rate,
        relu_floor_detected=None if rate is None else rate > 0.5,
        clamp_rate=float(np.mean(activation >= CLAMP)) if len(activation) else None,
        n_population=population.size,
        population=population.description,
        min_effect=min_effect,
        effective_max=effective_max,
        notes=list(notes),
    )


def intervention_diagnostics(design: Design, base_pre: Floats, plain: Diagnostics, job: Job) -> Diagnostics:
    """Diagnostics of an interventional run: floor and clamp rates are shares of the base contexts."""
    for warning in design.warnings:
        job.warn(warning)
    rate = float(np.mean(base_pre <= 0))
    plain.relu_floor_rate, plain.relu_floor_detected = rate, rate > 0.5
    plain.clamp_rate = float(np.mean(base_pre >= CLAMP))
    plain.n_contexts_tested = len(design.base)
    plain.constraint_violations = list(design.violations)
    plain.notes = [*plain.notes, *design.contexts.notes]
    if rate > 0.5:
        plain.notes.append(
            f"{rate:.0%} of base contexts are on the ReLU floor (usual for a sparse feature): decreases are invisible "
            f"there in the activation; mean_pre_delta shows them"
        )
    return plain


def smallest_effect(spec: ExperimentSpec, ctx: Context, given: float | None) -> float | None:
    """The effect of interest: the one given, else 5 % of the effective max; None for a dead feature."""
    own = ctx.min_effect(spec.feature_id)
    return own if own is None or given is None else given


def followup(spec: ExperimentSpec, type_name: str, variables: Mapping[str, Any], reason: str) -> Followup:
    """A next experiment on the same feature and slice, ready to run.

    Contexts given in the spec are kept where the experiment intervenes on them; else it is about the bundle's examples.

    Raises:
        RequestError: the spec would not be accepted (a fault of the runner that proposes it).
    """
    # A sample size belongs to the type it was chosen for: another type draws its own.
    left_out = set[str]() if spec.type == type_name else {"sample_size"}
    if spec.dataset_slice.contexts is not None and not _intervenes_on_given(type_name, variables):
        left_out, reason = left_out | {"contexts"}, f"{reason} (on the bundle's examples)"
    fields: dict[str, Any] = {
        "type": type_name,
        "feature_id": spec.feature_id,
        "model_type": spec.model_type,
        "dataset_slice": spec.dataset_slice.model_dump(mode="json", exclude_defaults=True, exclude=left_out),
        "variables": dict(variables),
        "parent_spec_id": spec.id,
        "parent_hypothesis": spec.parent_hypothesis,
        "rationale": reason,
    }
    fields = {key: value for key, value in fields.items() if value is not None and value != {}}
    runnable = type_name in runner_names()
    if runnable:
        find(type_name).spec.model_validate(fields)
    return Followup(reason=reason, spec=fields, runnable=runnable)


def _intervenes_on_given(type_name: str, variables: Mapping[str, Any]) -> bool:
    """Whether an experiment takes contexts given in the spec, by its type and method."""
    if type_name not in runner_names() or not find(type_name).spec.takes_contexts:
        return False
    own = find(type_name).variables.model_validate(dict(variables))
    return getattr(own, "method", "interventional") == "interventional"


def answerable(followups: Sequence[Followup], ctx: Context) -> list[Followup]:
    """Those that the bundle can answer: without examples, only those that keep the contexts given in the spec."""
    return [each for each in followups if ctx.has_examples or "contexts" in each.spec.get("dataset_slice", {})]


def observed_scope(population: Population) -> str:
    """The tail of an observational headline: how many examples, which ones, and that nothing was changed."""
    return f"{len(population):,} examples: {population.description}; observational, CORRELATIONAL."


def empty_tables(models: Mapping[str, type[Row]]) -> list[Table]:
    """The tables of a type without rows."""
    return [Table(name=name, columns=list(row.model_fields), rows=[]) for name, row in models.items()]


def not_of_the_data(name: str, model: type[Row]) -> Table:
    """A table of the data where the contexts were given in the spec: empty, with the reason."""
    return Table(name=name, columns=list(model.model_fields), rows=[], notes=[NOT_OF_THE_DATA])


def quiet_findings(
    spec: ExperimentSpec,
    ctx: Context,
    population: Population,
    job: Job,
    *,
    method: Method,
    models: Mapping[str, type[Row]],
) -> Findings | None:
    """The answer where there is nothing to look at, with the reason; None where there is.

    That is a dead feature; and, for a type that reads how active the examples are, a population without an active one.
    An intervention may well activate a feature in builds that do not.
    """
    if population.dead:
        return dead_findings(spec, ctx, population, job, method=method, tables=empty_tables(models))
    if method == "interventional" or bool((population.activation > 0).any()):
        return None
    reason = f"none of the {len(population):,} examples ({population.description}) activates feature {spec.feature_id}"
    if method == "both":
        reason += "; method 'interventional' asks what the network would do with them"
    tables = empty_tables(models)
    for table in tables:
        table.notes.append(reason)
        job.partial(table)
    return Findings(
        headline=f"nothing found: {reason}.",
        aggregates=Aggregates(n_samples=len(population), custom={"method": method, "reason": reason}),
        tables=tables,
        diagnostics=diagnostics(population, ctx.min_effect(spec.feature_id), ctx.effective_max(spec.feature_id), job),
    )


def no_intervention(population: Population, method: Method) -> bool:
    """Whether a run would ask the network nothing: by its method, or as `quiet_findings` answers it."""
    quiet = method == "both" and not bool((population.activation > 0).any())
    return method == "observational" or population.dead or quiet


def dead_findings(
    spec: ExperimentSpec, ctx: Context, population: Population, job: Job, *, method: Method, tables: Sequence[Table]
) -> Findings:
    """The answer for a feature that no example activates: null statistics with the reason, in every type."""
    reason = f"feature {spec.feature_id} is dead: none of the {len(ctx.data):,} examples of the bundle activates it"
    plain = diagnostics(population, None, None, job)
    job.warn(f"{reason}; every statistic is null")
    for table in tables:
        table.notes.append(reason)
        job.partial(table)
    finding = Finding(
        subject=f"feature {spec.feature_id}",
        relation="is dead",
        effect=None,
        status="dead",
        n=population.size,
        method=method,
        population=population.description,
    )
    return Findings(
        headline=f"nothing found: {reason}.",
        findings=[finding],
        aggregates=Aggregates(custom={"method": method, "dead": True, "reason": reason}),
        tables=list(tables),
        diagnostics=plain,
    )
