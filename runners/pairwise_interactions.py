"""Pairwise interactions: which two units do together what they do not do alone?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ..context.context import Context
from ..context.population import Population
from ..schemas.catalogue import Plan, experiment
from ..schemas.job import Job
from ..schemas.result import Aggregates, Findings
from ..schemas.spec import ExperimentSpec
from .design.effect_report import summarise
from .design.interventions import Contexts, Design, data_population, draw
from .design.report import (
    CORRELATIONAL,
    diagnostics,
    intervention_diagnostics,
    observed_scope,
    plural,
    quiet_findings,
    smallest_effect,
)
from .design.units import Unit, rivals_note
from .parts.interactions.candidates import (
    CandidateVariables,
    Pair,
    Pool,
    Writing,
    expected,
    pairs_of,
    pool,
    responses,
    screening,
    side_by_side,
    side_by_side_warning,
    writing,
)
from .parts.interactions.contrasts import (
    PAIR,
    admissible_pairs,
    contrasts,
    enough_contexts,
    named_patterns,
    run_factorial,
    unconfirmed_reason,
)
from .parts.interactions.grid import Grid, Meter, count_passes
from .parts.interactions.observed import builds_unknown, observed_candidates, observed_pair_columns, observed_pairs
from .parts.interactions.report import PairReport
from .parts.interactions.rows import TABLES, caused_pairs, cooccurrence, pair_tables, ranked, specific, units_of
from .stats.curve import winner_confirmed

CONFIRM_STREAM = 13
ENOUGH_SAID = "20 examples in 10 builds"
HELD = "a unit is held where its family is at its AP or more; a lower rung also counts builds with less of it"


class PairwiseVariables(CandidateVariables):
    """What is paired, and how."""

    method: Literal["interventional", "observational"] = Field(
        default="interventional", description="Write the units into builds, or compare the examples there are."
    )


class PairwiseSpec(ExperimentSpec):
    """Spec of pairwise interactions."""

    takes_contexts: ClassVar[bool] = True
    type: Literal["pairwise_interactions"] = "pairwise_interactions"
    variables: PairwiseVariables = PairwiseVariables()


@dataclass(frozen=True)
class Run:
    """What was decided before the pairs are run.

    Attributes:
        pairs: what is paired.
        left_out: pairs that no build can hold.
        notes: defaults that were applied.
    """

    pairs: list[Pair]
    left_out: int
    notes: tuple[str, ...]


def _pool(spec: PairwiseSpec, ctx: Context) -> Pool:
    """The candidates; raises what can be known to be wrong before anything runs."""
    if spec.variables.method == "interventional":
        _ = ctx.oracle
    found = pool(spec.variables, ctx)
    if found.choose is None:
        pairs_of(found.units, ctx, rungs_too=_rungs_too(spec, found))
    return found


def _rungs_too(spec: PairwiseSpec, units: Pool) -> bool:
    return units.named and not spec.variables.family_mode


def _paired(spec: PairwiseSpec, ctx: Context, units: Pool, chosen: Sequence[Unit]) -> Run:
    pairs, left_out = pairs_of(chosen, ctx, rungs_too=_rungs_too(spec, units))
    notes = list(units.notes)
    if left_out:
        notes.append(f"{plural(left_out, 'pair')} left out: no build can hold both (one family, or one gear slot)")
    return Run(pairs, left_out, tuple(notes))


def _grid(pairs: Sequence[Pair], design: Design, how: Writing, ctx: Context) -> Grid[Pair]:
    return Grid(pairs, lambda pair: how.cells(design.base, pair, ctx), 4, len(design.base))


def _admitted(spec: PairwiseSpec, ctx: Context, contexts: Contexts, pairs: Sequence[Pair]) -> tuple[Design, list[Pair]]:
    how = writing(spec, spec.variables)
    return admissible_pairs(contexts, pairs, lambda pair: how.cells(contexts.sets, pair, ctx)[3], spec=spec, ctx=ctx)


def plan(spec: PairwiseSpec, ctx: Context) -> Plan:
    """What the run would do; see `expected` for units that are still to be chosen."""
    units = _pool(spec, ctx)
    population = data_population(spec, ctx, spec.variables.method)
    if spec.variables.method == "observational" or population.dead:
        notes = (*units.warnings, *population.warnings)
        return Plan(contexts=len(population), conditions="the examples by pair", notes=notes)
    how, contexts = writing(spec, spec.variables), draw(spec, ctx)
    enough_contexts(contexts)
    screen = screening(units.units, [contexts.sets], how, ctx)
    chosen, guess = expected(units, screen, contexts.sets, feature=spec.feature_id, ctx=ctx)
    decided = _paired(spec, ctx, units, chosen)
    design, pairs = _admitted(spec, ctx, contexts, decided.pairs)
    grids: list[Grid[Any]] = [screen] if units.choose is not None else []
    missing, saved = count_passes([*grids, _grid(pairs, design, how, ctx)], ctx)
    return Plan(
        contexts=len(design.base),
        conditions=f"neither, each and both of {plural(len(pairs), 'pair')} of units",
        forward_passes=missing,
        saved_passes=saved,
        notes=(
            *units.warnings,
            *contexts.notes,
            *contexts.population.warnings,
            *decided.notes,
            *guess,
            *design.warnings,
        ),
    )


@experiment(
    "pairwise_interactions",
    spec=PairwiseSpec,
    plan=plan,
    cli="interactions",
    summary="Which two abilities do together what they do not do alone, and how: and, or, suppression, xor.",
    tables=TABLES,
    methods=("interventional", "observational"),
    cost="data or model",
    toolset="interactions",
)
def run(spec: PairwiseSpec, ctx: Context, job: Job) -> Findings:
    """Pair units; the estimators are in docs/methods under "Interventional effects" and "pairwise_interactions"."""
    units, method = _pool(spec, ctx), spec.variables.method
    population = data_population(spec, ctx, method)
    quiet = quiet_findings(spec, ctx, population, job, method=method, models=TABLES)
    if quiet is not None:
        return quiet
    for warning in units.warnings:
        job.warn(warning)
    min_effect = smallest_effect(spec, ctx, spec.variables.min_effect) or 0.0
    if method == "observational":
        return _observational(spec, ctx, job, units=units, population=population, min_effect=min_effect)
    return _interventional(spec, ctx, job, units=units, population=population, min_effect=min_effect)


def _chosen(spec: PairwiseSpec, ctx: Context, contexts: Contexts, units: Pool, job: Job) -> tuple[Run, Meter]:
    """The pairs to run, after the first pass where units are to be chosen."""
    n = units.choose or len(units.units)
    total = n * (n - 1) // 2 * 4 * len(contexts.positions)
    if units.choose is None:
        return _paired(spec, ctx, units, units.units), Meter(job, total)
    screen = screening(units.units, [contexts.sets], writing(spec, spec.variables), ctx)
    meter = Meter(job, total + len(screen))
    return _paired(spec, ctx, units, units.taken(responses(screen, spec.feature_id, ctx, meter), ctx)), meter


def _interventional(
    spec: PairwiseSpec, ctx: Context, job: Job, *, units: Pool, population: Population, min_effect: float
) -> Findings:
    contexts = draw(spec, ctx)
    enough_contexts(contexts)
    decided, meter = _chosen(spec, ctx, contexts, units, job)
    design, pairs = _admitted(spec, ctx, contexts, decided.pairs)
    grid = _grid(pairs, design, writing(spec, spec.variables), ctx)
    meter.total = meter.done + len(grid)
    factorial = run_factorial(grid, PAIR, feature=spec.feature_id, min_effect=min_effect, ctx=ctx, meter=meter)
    seed = spec.dataset_slice.random_seed
    found = contrasts(
        factorial,
        PAIR,
        population=contexts.population.drawn_from,
        min_effect=min_effect,
        seed=seed,
        null=factorial.null,
    )
    patterns = named_patterns(found, factorial, min_effect)
    single = not spec.variables.family_mode
    together = None if population.given else cooccurrence(ctx, population, pairs, single=single)
    columns = caused_pairs(pairs, factorial, found, together=together, patterns=patterns, ctx=ctx)
    table = found.table
    acting = ranked(table.acting(), table.effects.mean, table.status, [name == "floor_artifact" for name in patterns])
    for each in pair_tables(columns, acting, spec.variables.top_k, decided.notes):
        job.partial(each)
    report = PairReport(spec, "interventional", columns, pairs, acting, single)
    rng = np.random.default_rng([seed, CONFIRM_STREAM])
    confirmed = winner_confirmed(table.differences, rng) if acting else None
    plain = diagnostics(contexts.population, min_effect, ctx.effective_max(spec.feature_id), job, decided.notes)
    plain.notes += rivals_note(design.base, units_of(pairs), ctx)
    scope = f"{plural(len(pairs), 'pair')} on {contexts.population.contexts(table.effects.n)}"
    return Findings(
        headline=f"{report.caused(table, min_effect)}; {scope}; interventional.",
        findings=report.findings(contexts.population.description),
        aggregates=summarise(
            table.effects.mean,
            table.effects.n,
            report.numbers(decided.left_out)
            | {"winner_confirmed": confirmed, **unconfirmed_reason(confirmed=confirmed, acting=bool(acting))},
        ),
        tables=list(job.tables.values()),
        diagnostics=intervention_diagnostics(design, factorial.pre[:, 0].ravel(), plain, job),
        followups=report.followups(ctx),
    )


def _observational(
    spec: PairwiseSpec, ctx: Context, job: Job, *, units: Pool, population: Population, min_effect: float
) -> Findings:
    job.warn(CORRELATIONAL)
    builds_unknown(ctx, job)
    single, seed = not spec.variables.family_mode, spec.dataset_slice.random_seed
    decided = _paired(spec, ctx, units, observed_candidates(ctx, population, units, single=single))
    pairs = decided.pairs
    found = observed_pairs(
        ctx, spec.feature_id, population, pairs, single=single, min_effect=min_effect, seed=seed, job=job
    )
    columns = observed_pair_columns(pairs, found, min_effect, ctx)
    acting = specific(found.status, found.specificity)
    acting = ranked(acting, columns["interaction"], found.status, [False] * len(pairs))
    known = int(found.known.sum())
    notes = [*decided.notes, f"{known} of {len(pairs)} pairs have {ENOUGH_SAID} in every cell"]
    notes += [] if single else [HELD]
    if together := side_by_side(spec, pairs):
        job.warn(side_by_side_warning(len(together)))
    for table in pair_tables(columns, acting, spec.variables.top_k, notes):
        job.partial(table)
    report = PairReport(spec, "observational", columns, pairs, acting, single)
    scope = observed_scope(population)
    plain = diagnostics(population, min_effect, ctx.effective_max(spec.feature_id), job, notes)
    if not known:
        reason = f"no pair has {ENOUGH_SAID} in every cell"
        custom = {"method": "observational", "reason": reason, "verdict": "nothing_specific", "n_pairs": len(pairs)}
        return Findings(
            headline=f"nothing can be said of pairs and feature {spec.feature_id}: {reason}; {scope}",
            aggregates=Aggregates(n_samples=len(population), custom=custom),
            tables=list(job.tables.values()),
            diagnostics=plain,
        )
    return Findings(
        headline=f"{report.observed(min_effect, found.detectable(min_effect))}; {plural(known, 'pair')} in {scope}",
        findings=report.findings(population.description),
        aggregates=summarise(
            found.effects.coefficient[found.known, 2], len(population), report.numbers(decided.left_out)
        ),
        tables=list(job.tables.values()),
        diagnostics=plain,
        followups=report.followups(ctx),
    )
