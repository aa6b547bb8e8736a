"""Heatmap of two families: what do both do to a feature when they are crossed, and do they interact?"""

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
from ..schemas.result import Diagnostics, Findings, Followup, Row
from ..schemas.spec import ExperimentSpec, Variables
from ..schemas.vocabulary import Encoding
from .design.effect_report import summarise
from .design.interventions import NOT_OF_THE_DATA, Design, Stable, admissible, data_population, draw, parse_stable
from .design.report import (
    CORRELATIONAL,
    diagnostics,
    followup,
    intervention_diagnostics,
    observed_scope,
    quiet_findings,
    smallest_effect,
)
from .design.specificity import UNKNOWN_DIRECTIONS
from .parts.heatmap.effects import CONFIRM_STREAM, contrasts, measure, peak_confirmed, random_effects, read_pattern
from .parts.heatmap.grid import Grid, clashes, make_grid, write_cells
from .parts.heatmap.notes import census_notes, slot_notes
from .parts.heatmap.observed import grid_examples, observe_cells, observed_pattern
from .parts.heatmap.rows import Heat, HeatmapCell, heat_numbers, heatmap_table
from .parts.heatmap.text import headline, heat_findings

Rung = Annotated[int, Field(ge=0, le=MAX_AP)]


class HeatmapVariables(Variables):
    """What a heatmap crosses."""

    family_x: str = Field(description="Stackable family or main-only ability on x.")
    family_y: str = Field(description="The other one, on y.")
    rungs_x: tuple[Rung, ...] | None = Field(
        default=None, description="AP levels on x; 0 (absent) is always among them; default: every rung."
    )
    rungs_y: tuple[Rung, ...] | None = Field(default=None, description="AP levels on y, likewise.")
    base_weapon: str | int | None = Field(
        default=None, description="Weapon set in all conditions: kit id, weapon_id_NNNN or name."
    )
    stable_tokens: tuple[str, ...] = Field(
        default=(), description="Held in every condition: family_AP, main-only abilities, one weapon_id_NNNN."
    )
    encoding: Encoding = Field(
        default="thermometer", description="thermometer writes every rung up to the level; single the rung alone."
    )
    min_effect: float | None = Field(
        default=None, gt=0, le=6, description="Smallest effect of interest; default 5 % of the effective max."
    )
    method: Literal["interventional", "observational"] = Field(
        default="interventional", description="Run the model on constructed builds, or group the examples there are."
    )


class HeatmapSpec(ExperimentSpec):
    """Spec of a heatmap."""

    takes_contexts: ClassVar[bool] = True
    type: Literal["family_2d_heatmap"] = "family_2d_heatmap"
    variables: HeatmapVariables


TABLES: dict[str, type[Row]] = {"heatmap": HeatmapCell}


def _grid(spec: HeatmapSpec, ctx: Context) -> Grid:
    """The grid, after checking all that can be known to be wrong before anything runs."""
    variables = spec.variables
    families = (variables.family_x, variables.family_y)
    grid = make_grid(ctx, families, (variables.rungs_x, variables.rungs_y))
    if variables.method == "observational":
        held = [name for name in ("base_weapon", "stable_tokens", "encoding") if name in _changed(variables)]
        if held:
            raise RequestError(
                f"{', '.join(held)} is written into builds, and method 'observational' writes nothing. Leave it out, "
                f"or choose examples with dataset_slice (weapon_filter, family_filter). Nothing was run."
            )
        return grid
    stable = _stable(spec, ctx)
    if clashes(ctx, *families):
        raise RequestError(
            f"family_x {families[0]!r} and family_y {families[1]!r} are main-only abilities of the same gear slot "
            f"({ctx.vocabulary.slot(families[0])}): no build can hold both. Cross one of them with an ability of "
            f"another slot. Nothing was run."
        )
    for token in stable.levels:
        rival = next((family for family in families if clashes(ctx, token, family)), None)
        if rival is not None:
            raise RequestError(
                f"stable_tokens holds {token!r}, which takes the gear slot of {rival!r}: no build can hold both. "
                f"Leave it out. Nothing was run."
            )
    _ = ctx.oracle
    return grid


def _changed(variables: HeatmapVariables) -> set[str]:
    return set(variables.model_dump(exclude_defaults=True))


def _stable(spec: HeatmapSpec, ctx: Context) -> Stable:
    """What every condition holds: the stable tokens and the base weapon."""
    variables = spec.variables
    stable = parse_stable(variables.stable_tokens, [variables.family_x, variables.family_y], ctx)
    if variables.base_weapon is None:
        return stable
    if stable.weapon is not None:
        raise RequestError(
            f"base_weapon {variables.base_weapon!r} and a weapon in stable_tokens are both given; one weapon is "
            f"allowed. Leave one out. Nothing was run."
        )
    return replace(stable, weapon=ctx.weapons.resolve(variables.base_weapon))


def _design(spec: HeatmapSpec, ctx: Context, grid: Grid) -> Design:
    """Base: each context without both families, plus what is held; conditions: the other cells, by rising AP."""
    contexts = draw(spec, ctx)
    held = _stable(spec, ctx).apply(contexts.sets, ctx)
    clear = "one_rung_per_family" in spec.constraints
    cells = write_cells(held, grid, ctx, encoding=spec.variables.encoding, clear=clear)
    labels = [f"{x} x {y} AP" for x, y in grid.cells[1:]]
    return admissible(contexts, cells[0], cells[1:], labels, spec=spec, ctx=ctx)


def plan(spec: HeatmapSpec, ctx: Context) -> Plan:
    """What the heatmap would run."""
    grid = _grid(spec, ctx)
    population = ctx.population(spec.dataset_slice, spec.feature_id)
    cells = f"{len(grid.cells)} cells of {grid.families[0]} x {grid.families[1]}"
    if spec.variables.method == "observational":
        return Plan(contexts=len(population), conditions=f"the examples in {cells}", notes=population.warnings)
    if data_population(spec, ctx, spec.variables.method).dead:
        return Plan(contexts=len(population), conditions="none: no example is active", notes=population.warnings)
    found = _design(spec, ctx, grid).plan(ctx, cells)
    return replace(found, notes=(*found.notes, *grid.resolutions()))


@experiment(
    "family_2d_heatmap",
    spec=HeatmapSpec,
    plan=plan,
    cli="heatmap",
    summary="Activation as two abilities are written into the same builds at every pair of AP levels.",
    tables=TABLES,
    methods=("interventional", "observational"),
    cost="data or model",
    toolset="interactions",
)
def run(spec: HeatmapSpec, ctx: Context, job: Job) -> Findings:
    """Cross two families; the estimators are in docs/methods under "family_2d_heatmap"."""
    grid = _grid(spec, ctx)
    method = spec.variables.method
    population = data_population(spec, ctx, method)
    quiet = quiet_findings(spec, ctx, population, job, method=method, models=TABLES)
    if quiet is not None:
        return quiet
    for resolution in grid.resolutions():
        job.warn(resolution)
    min_effect = smallest_effect(spec, ctx, spec.variables.min_effect) or 0.0
    n_data = np.full(len(grid.cells), np.nan) if population.given else grid_examples(ctx, population, grid).counts
    if method == "observational":
        return _observational(spec, ctx, job, grid=grid, population=population, n_data=n_data, min_effect=min_effect)
    return _interventional(spec, ctx, job, grid=grid, n_data=n_data, min_effect=min_effect)


def _interventional(
    spec: HeatmapSpec, ctx: Context, job: Job, *, grid: Grid, n_data: np.ndarray, min_effect: float
) -> Findings:
    design = _design(spec, ctx, grid)
    pooled = design.pooled(ctx, job)
    readout = ctx.read(pooled, spec.feature_id)
    population = design.contexts.population
    kept, seed = grid.head(len(pooled)), spec.dataset_slice.random_seed
    a, h = readout.activation, readout.pre
    null = random_effects(ctx, spec.feature_id, pooled, kept.pairs, min_effect=min_effect, job=job)
    given: dict[str, Any] = {"population": population.drawn_from, "min_effect": min_effect, "seed": seed}
    effects = measure(a[1:] - a[0], h[1:] - h[0], terms=1, null=null and null[0], **given)
    crossed = measure(contrasts(a, kept.pairs), contrasts(h, kept.pairs), terms=2, null=null and null[1], **given)
    m = a.shape[1]
    n_active = (a > 0).sum(axis=1)
    correction = np.sqrt(max(0.0, 1.0 - m / population.drawn_from))
    heat = Heat(
        grid=kept,
        whole=grid,
        mean=a.mean(axis=1, dtype=np.float64),
        std_error=a.std(axis=1, ddof=1, dtype=np.float64) / np.sqrt(m) * correction,
        n=np.full(len(a), m),
        n_active=n_active,
        mean_when_active=np.where(n_active > 0, a.sum(axis=1, dtype=np.float64) / np.maximum(n_active, 1), np.nan),
        n_data=n_data,
        n_clusters=None,
        effects=effects,
        interactions=crossed,
        read=read_pattern(a, h, kept, crossed, min_effect),
        confirmed=peak_confirmed(a, np.random.default_rng([seed, CONFIRM_STREAM])),
        min_effect=min_effect,
    )
    plain = diagnostics(population, min_effect, ctx.effective_max(spec.feature_id), job)
    plain = intervention_diagnostics(design, h[0], plain, job)
    plain.notes += [*census_notes(design), *slot_notes(design, grid.families, ctx)]
    held = _held(spec, ctx)
    scope = f"{population.contexts(m, held)}; interventional."
    described = f"{population.description}{held}"
    return _findings(spec, ctx, job, heat=heat, plain=plain, population=described, scope=scope)


def _held(spec: HeatmapSpec, ctx: Context) -> str:
    """What every condition holds, in words."""
    stable, vocabulary = _stable(spec, ctx), ctx.vocabulary
    held = [name if vocabulary.is_main_only(name) else f"{name}_{level}" for name, level in stable.levels.items()]
    words = [f"each with {' and '.join(held)}"] if held else []
    words += [] if stable.weapon is None else [f"all on {ctx.weapons.facts[stable.weapon].name}"]
    return "".join(f", {word}" for word in words)


def _observational(
    spec: HeatmapSpec,
    ctx: Context,
    job: Job,
    *,
    grid: Grid,
    population: Population,
    n_data: np.ndarray,
    min_effect: float,
) -> Findings:
    job.warn(CORRELATIONAL)
    seed = spec.dataset_slice.random_seed
    seen = observe_cells(ctx, spec.feature_id, population, grid, min_effect=min_effect, seed=seed, job=job)
    if seen.left_out:
        job.warn(f"{seen.left_out:,} examples are at levels that were not asked for: left out")
    if clashes(ctx, *grid.families):
        job.warn(f"{grid.families[0]} and {grid.families[1]} share a gear slot: no build holds both")
    means = seen.means
    heat = Heat(
        grid=grid,
        whole=grid,
        mean=means.mean,
        std_error=means.std_error,
        n=means.n,
        n_active=means.n_active,
        mean_when_active=means.mean_when_active,
        n_data=n_data,
        n_clusters=means.n_clusters,
        effects=seen.effects,
        interactions=seen.interactions,
        read=observed_pattern(seen, grid, min_effect),
        confirmed=seen.confirmed,
        min_effect=min_effect,
    )
    plain = diagnostics(population, min_effect, ctx.effective_max(spec.feature_id), job)
    scope = f"weapon held fixed; {observed_scope(population)}"
    return _findings(spec, ctx, job, heat=heat, plain=plain, population=population.description, scope=scope)


def _findings(
    spec: HeatmapSpec, ctx: Context, job: Job, *, heat: Heat, plain: Diagnostics, population: str, scope: str
) -> Findings:
    method, feature = spec.variables.method, spec.feature_id
    table = heatmap_table(heat)
    custom = {"method": method, "family_x": heat.grid.families[0], "family_y": heat.grid.families[1]}
    if np.isnan(heat.n_data).any():
        table.notes.append(f"n_data is null: {NOT_OF_THE_DATA}")
        custom |= {"peak_n_data_reason": NOT_OF_THE_DATA}
    if not ctx.has_examples:
        custom |= {"specificity_reason": UNKNOWN_DIRECTIONS}
    job.partial(table)
    deltas = heat.effects.mean[~np.isnan(heat.effects.mean)]
    deltas = deltas if len(deltas) else np.array([np.nan])
    n = int(heat.n[0] if heat.n_clusters is None else heat.n.sum())
    aggregates = summarise(deltas, n, custom | heat_numbers(heat))
    return Findings(
        headline=headline(heat, feature, method, scope),
        findings=heat_findings(heat, feature, method, population),
        aggregates=aggregates,
        tables=list(job.tables.values()),
        diagnostics=plain,
        followups=_followups(spec, ctx, heat),
    )


def _followups(spec: HeatmapSpec, ctx: Context, heat: Heat) -> list[Followup]:
    """What the result gives a reason for."""
    variables = spec.variables
    if not heat.acts:
        return []
    if variables.method == "observational":
        again = variables.model_dump(mode="json", exclude_defaults=True) | {"method": "interventional"}
        reason = "the same cells asked of the network: is it causal?"
        return [followup(spec, "family_2d_heatmap", again, reason)] if ctx.has_model else []
    crossed = heat.interactions.leading(heat.interactions.acting())
    if crossed is not None:
        both = f"{variables.family_x} and {variables.family_y}"
        if heat.interactions.status[crossed] == "conditional":
            reason = f"{both} interact in some contexts only: what else does it take?"
        else:
            reason = f"{both} interact: are they enough by themselves?"
        return [followup(spec, "minimal_cores", {}, reason)]
    found: list[Followup] = []
    for which, family in enumerate(heat.grid.families):
        at = heat.alone(which)
        if at is None or at not in heat.effects.acting():
            continue
        if heat.effects.status[at] == "present":
            reason = f"{family} drives the feature without the other: the shape of its curve"
            found.append(followup(spec, "family_1d_sweep", {"family": family}, reason))
        else:
            reason = f"{family} acts in some contexts only: find what it acts together with"
            rung = {} if heat.grid.main_only[which] else {"rung": heat.grid.cells[at + 1][which]}
            found.append(followup(spec, "pairwise_interactions", {"n_candidates": 12, **rung}, reason))
    return found
