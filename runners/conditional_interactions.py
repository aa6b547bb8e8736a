"""Conditional interactions: does a third unit, or a weapon, change what two units do together?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ..context.context import Context
from ..context.token_sets import TokenSets
from ..schemas.catalogue import Plan, experiment
from ..schemas.job import Job
from ..schemas.result import Findings, Table
from ..schemas.spec import ExperimentSpec
from .design.effect_report import summarise
from .design.effect_rows import EffectTable, effect_table
from .design.interventions import Contexts, Design, data_population, draw
from .design.report import diagnostics, intervention_diagnostics, plural, quiet_findings, smallest_effect
from .design.specificity import null_effects
from .design.units import Unit, resolution_warnings, rivals_note
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
    writing,
)
from .parts.interactions.contrasts import (
    PAIR,
    TRIPLE,
    Factorial,
    admissible_pairs,
    contrasts,
    enough_contexts,
    run_factorial,
    unconfirmed_reason,
)
from .parts.interactions.grid import Grid, Meter, count_passes
from .parts.interactions.modulated import (
    TABLES,
    Modulated,
    ModulatedRow,
    Modulator,
    ModulatorRow,
    modulated_columns,
    read_modulator,
)
from .parts.interactions.modulated_report import ModulatedReport
from .parts.interactions.rows import picked, ranked, units_of
from .stats.curve import winner_confirmed

CONFIRM_STREAM, WEAPON_STREAM = 14, 15
CANDIDATES = 12


class ConditionalVariables(CandidateVariables):
    """Which pairs are looked at, and what may change them."""

    modulator_token: str = Field(
        description="What may change the pairs: family_AP, a family (at rung), a main-only ability, or a weapon."
    )


class ConditionalSpec(ExperimentSpec):
    """Spec of conditional interactions."""

    takes_contexts: ClassVar[bool] = True
    type: Literal["conditional_interactions"] = "conditional_interactions"
    variables: ConditionalVariables


@dataclass(frozen=True)
class Setting:
    """What is known before any pair is chosen.

    Attributes:
        modulator: what may change the pairs.
        units: the candidates.
        how: how units are written.
        contexts: the contexts as they are.
        without: the contexts without the modulator.
        held: the contexts with it.
    """

    modulator: Modulator
    units: Pool
    how: Writing
    contexts: Contexts
    without: TokenSets
    held: TokenSets

    def screen(self, ctx: Context) -> Grid[Unit]:
        """The first pass: each candidate alone, without the modulator and with it."""
        return screening(self.units.units, [self.without, self.held], self.how, ctx)

    def own(self) -> Grid[Modulator]:
        """The modulator alone."""
        return Grid([self.modulator], lambda _: [self.without, self.held], 2, len(self.held))

    def grid(self, pairs: Sequence[Pair], keep: Contexts, ctx: Context) -> Grid[Pair]:
        """Every pair's cells without the modulator, then with it, on the contexts that are kept."""
        where = np.isin(self.contexts.positions, keep.positions)
        states = [self.without.take(where), self.held.take(where)]
        return Grid(pairs, lambda pair: [c for s in states for c in self.how.cells(s, pair, ctx)], 8, int(where.sum()))


def _setting(spec: ConditionalSpec, ctx: Context) -> Setting:
    how, contexts, (modulator, units) = writing(spec, spec.variables), draw(spec, ctx), _asked(spec, ctx)
    enough_contexts(contexts)
    rng = np.random.default_rng([spec.dataset_slice.random_seed, WEAPON_STREAM])
    without, held = modulator.states(contexts.sets, how, ctx, rng)
    return Setting(modulator, units, how, contexts, without, held)


def _warnings(spec: ConditionalSpec, ctx: Context, units: Pool) -> tuple[str, ...]:
    """AP values asked for that are no rung of the vocabulary."""
    return (*units.warnings, *resolution_warnings([spec.variables.modulator_token], ctx))


def _asked(spec: ConditionalSpec, ctx: Context) -> tuple[Modulator, Pool]:
    """The modulator and the candidates; raises what can be known to be wrong before anything runs."""
    _ = ctx.oracle
    modulator = read_modulator(spec.variables.modulator_token, ctx, spec.variables.rung)
    units = pool(spec.variables, ctx, default=CANDIDATES, barred=modulator.unit)
    if units.choose is None:
        pairs_of(units.units, ctx, rungs_too=units.named and not spec.variables.family_mode)
    return modulator, units


def _admitted(
    spec: ConditionalSpec, ctx: Context, setting: Setting, chosen: Sequence[Unit]
) -> tuple[Design, list[Pair], tuple[str, ...], int]:
    """The pairs that are run, on contexts that admit all of them; notes, and how many pairs no build can hold."""
    units, how = setting.units, setting.how
    pairs, left_out = pairs_of(chosen, ctx, rungs_too=units.named and not spec.variables.family_mode)
    notes = units.notes
    if left_out:
        notes += (f"{plural(left_out, 'pair')} left out: no build can hold both (one family, or one gear slot)",)
    if setting.modulator.weapon is not None:
        on_it = int((setting.contexts.sets.weapon == setting.modulator.weapon).sum())
        notes += (f"{plural(on_it, 'context')} on {setting.modulator.label}: another weapon stands in where it is out",)
    design, pairs = admissible_pairs(
        setting.contexts, pairs, lambda pair: how.cells(setting.held, pair, ctx)[3], spec=spec, ctx=ctx
    )
    return design, pairs, notes, left_out


def plan(spec: ConditionalSpec, ctx: Context) -> Plan:
    """What the run would do; see `expected` for units that are still to be chosen."""
    _asked(spec, ctx)
    if data_population(spec, ctx, "interventional").dead:
        return Plan(contexts=0, conditions="none: no example activates the feature")
    setting = _setting(spec, ctx)
    screen = setting.screen(ctx)
    chosen, guess = expected(setting.units, screen, setting.held, feature=spec.feature_id, ctx=ctx)
    design, pairs, notes, _ = _admitted(spec, ctx, setting, chosen)
    grids: list[Grid[Any]] = [setting.own(), setting.grid(pairs, design.contexts, ctx)]
    grids += [screen] if setting.units.choose is not None else []
    missing, saved = count_passes(grids, ctx)
    contexts = setting.contexts
    return Plan(
        contexts=len(design.base),
        conditions=f"{plural(len(pairs), 'pair')} of units without {setting.modulator.label} and with it",
        forward_passes=missing,
        saved_passes=saved,
        notes=(
            *_warnings(spec, ctx, setting.units),
            *contexts.notes,
            *contexts.population.warnings,
            *notes,
            *guess,
            *design.warnings,
        ),
    )


@experiment(
    "conditional_interactions",
    spec=ConditionalSpec,
    plan=plan,
    cli="conditional",
    summary="Whether a third ability or a weapon changes what two abilities do together: gates or blocks it.",
    tables=TABLES,
    methods=("interventional",),
    cost="model",
    toolset="interactions",
)
def run(spec: ConditionalSpec, ctx: Context, job: Job) -> Findings:
    """Pair units without and with a modulator; the estimators are in docs/methods under "conditional_interactions"."""
    _asked(spec, ctx)
    population = data_population(spec, ctx, "interventional")
    quiet = quiet_findings(spec, ctx, population, job, method="interventional", models=TABLES)
    if quiet is not None:
        return quiet
    setting = _setting(spec, ctx)
    for warning in _warnings(spec, ctx, setting.units):
        job.warn(warning)
    return _answer(spec, ctx, job, setting, min_effect=smallest_effect(spec, ctx, spec.variables.min_effect) or 0.0)


def _answer(spec: ConditionalSpec, ctx: Context, job: Job, setting: Setting, *, min_effect: float) -> Findings:
    contexts, own = setting.contexts, setting.own()
    chosen, meter = _chosen(spec, ctx, setting, job)
    design, pairs, notes, left_out = _admitted(spec, ctx, setting, chosen)
    grid = setting.grid(pairs, design.contexts, ctx)
    meter.total = meter.done + len(own) + len(grid)
    alone = _modulator_effect(spec, ctx, own, meter, population=contexts.population.drawn_from, min_effect=min_effect)
    job.partial(_modulator_table(setting.modulator, alone))
    cells = run_factorial(grid, TRIPLE, feature=spec.feature_id, min_effect=min_effect, ctx=ctx, meter=meter)
    found = _modulated(spec, cells, population=contexts.population.drawn_from, min_effect=min_effect)
    columns = modulated_columns(pairs, found, min_effect, ctx)
    table = found.difference.table
    acting = ranked(table.acting(), table.effects.mean, table.status, [False] * len(pairs))
    for each in _tables(columns, acting, spec.variables.top_k, notes):
        job.partial(each)
    report = ModulatedReport(spec, setting.modulator, columns, pairs, acting, table, single=setting.how.single)
    rng = np.random.default_rng([spec.dataset_slice.random_seed, CONFIRM_STREAM])
    confirmed = winner_confirmed(table.differences, rng) if acting else None
    plain = diagnostics(contexts.population, min_effect, ctx.effective_max(spec.feature_id), job, notes)
    units = [*units_of(pairs), *([setting.modulator.unit] if setting.modulator.unit else [])]
    plain.notes += rivals_note(design.base, units, ctx)
    scope = f"{plural(len(pairs), 'pair')} on {contexts.population.contexts(table.effects.n)}"
    return Findings(
        headline=f"{report.headline(min_effect)}; {scope}; interventional.",
        findings=report.findings(contexts.population.description),
        aggregates=summarise(
            table.effects.mean,
            table.effects.n,
            report.numbers(alone, left_out)
            | {"winner_confirmed": confirmed, **unconfirmed_reason(confirmed=confirmed, acting=bool(acting))},
        ),
        tables=list(job.tables.values()),
        diagnostics=intervention_diagnostics(design, cells.pre[:, 0].ravel(), plain, job),
        followups=report.followups(),
    )


def _chosen(spec: ConditionalSpec, ctx: Context, setting: Setting, job: Job) -> tuple[list[Unit], Meter]:
    """The candidates, after the first pass where they are to be chosen."""
    n, m, choose = len(setting.units.units), len(setting.held), setting.units.choose
    if choose is None:
        return list(setting.units.units), Meter(job, 2 * m + n * (n - 1) // 2 * 8 * m)
    screen = setting.screen(ctx)
    meter = Meter(job, 2 * m + len(screen) + choose * (choose - 1) // 2 * 8 * m)
    return setting.units.taken(responses(screen, spec.feature_id, ctx, meter), ctx), meter


def _modulated(spec: ConditionalSpec, cells: Factorial, *, population: int, min_effect: float) -> Modulated:
    """The contrast without the modulator, with it, and their difference."""
    seed = spec.dataset_slice.random_seed
    halves = [Factorial(cells.activation[:, part], cells.pre[:, part], None) for part in (slice(0, 4), slice(4, 8))]
    without, held = (
        contrasts(half, PAIR, population=population, min_effect=min_effect, seed=seed, null=None) for half in halves
    )
    difference = contrasts(cells, TRIPLE, population=population, min_effect=min_effect, seed=seed, null=cells.null)
    return Modulated(without, held, difference, cells)


def _modulator_effect(
    spec: ConditionalSpec, ctx: Context, own: Grid[Modulator], meter: Meter, *, population: int, min_effect: float
) -> EffectTable:
    """What the modulator does by itself, in the contexts as they are."""
    pooled = next(vectors for _, vectors in own.pooled(ctx, meter))[0]
    readout = ctx.read(pooled, spec.feature_id)
    return effect_table(
        readout.activation[1:],
        readout.pre[1:],
        base=(readout.activation[0], readout.pre[0]),
        population=population,
        min_effect=min_effect,
        null=null_effects(ctx, spec.feature_id, pooled[1:], base=pooled[0], min_effect=min_effect),
        seed=spec.dataset_slice.random_seed,
    )


def _modulator_table(modulator: Modulator, alone: EffectTable) -> Table:
    return Table.from_columns("modulator", ModulatorRow, {**alone.columns, "modulator": [modulator.label]})


def _tables(columns: dict[str, Any], acting: list[int], top_k: int, notes: Sequence[str]) -> list[Table]:
    """modulated: the pairs that the modulator changes; pairs: all of them, by the size of the difference."""
    columns = {name: np.asarray(values).tolist() for name, values in columns.items()}
    shown, size = acting[:top_k], np.abs(np.asarray(columns["difference"]))
    said = [f"{len(shown)} of {len(acting)} pairs shown (top_k)"] if len(shown) < len(acting) else []
    said += [] if acting else ["no pair changes specifically"]
    everything = np.argsort(-size, kind="stable").tolist()
    return [
        Table.from_columns("modulated", ModulatedRow, picked(columns, shown), said),
        Table.from_columns("pairs", ModulatedRow, picked(columns, everything), notes),
    ]
