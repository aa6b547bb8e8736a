"""Minimal cores: which units of a build are enough, by themselves, to keep the feature active?"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..context.context import Context
from ..context.population import Population
from ..schemas.catalogue import Plan, experiment
from ..schemas.job import Job
from ..schemas.result import Aggregates, ConstraintViolation, Finding, Findings, Followup, Row, Table
from ..schemas.spec import ExperimentSpec, Variables
from .design.report import CLAMP, answerable, dead_findings, diagnostics, followup, smallest_effect
from .design.specificity import SPECIFIC, UNKNOWN_DIRECTIONS
from .parts.cores.lattice import WEAPON, Probe, all_members, background_weapons, lattice_cost, subset_sets
from .parts.cores.outcomes import Core, Cut, Outcome, find_cores, lowest_rungs
from .parts.cores.tables import (
    CoreRow,
    ExampleRow,
    InhibitorRow,
    NecessityRow,
    core_row,
    inhibitors,
    necessity,
    tested_examples,
)
from .parts.cores.transplant import Source, reference_sets, transplant

Rows = NDArray[np.intp]
EXAMPLES_STREAM = 7
CORES_FOLLOWED = 5
FEW_EXAMPLES = 20
RANDOM = "those at random"
ALL_COUNTED = "passes are counted as if every context activated the feature: those that do not are not taken apart"
TABLES: dict[str, type[Row]] = {
    "cores": CoreRow,
    "necessity": NecessityRow,
    "inhibitors": InhibitorRow,
    "examples": ExampleRow,
}


class MinimalCoresVariables(Variables):
    """What counts as a core, and how examples are taken apart."""

    retention_threshold: float = Field(
        default=0.5, gt=0, le=1, description="Share tau of the example's activation that a core must keep."
    )
    unit: Literal["family", "token"] = Field(default="family", description="What is taken out as one.")
    clamp_families: tuple[str, ...] = Field(default=(), description="Families held in every subset, not counted.")
    exclude_families: tuple[str, ...] = Field(default=(), description="Families held in no subset.")
    max_examples: int = Field(
        default=100, ge=2, le=5000, description="Examples tested: half the highest, half at random."
    )
    include_weapon: bool = Field(
        default=True, description="The weapon is a unit; where it is out, the mean over 20 weapons counts."
    )
    exact_limit: int = Field(
        default=10, ge=1, le=14, description="Up to this many units the whole lattice is evaluated; above, greedy."
    )
    min_effect: float | None = Field(
        default=None, gt=0, le=6, description="Smallest effect of interest; default 5 % of the effective max."
    )


class MinimalCoresSpec(ExperimentSpec):
    """Spec of minimal cores."""

    takes_contexts: ClassVar[bool] = True
    type: Literal["minimal_cores"] = "minimal_cores"
    variables: MinimalCoresVariables = MinimalCoresVariables()


def _cut(spec: MinimalCoresSpec, ctx: Context) -> Cut:
    variables = spec.variables
    cut = Cut(
        by_token=variables.unit == "token",
        clamp=variables.clamp_families,
        exclude=variables.exclude_families,
        weapon=variables.include_weapon,
    )
    cut.check(ctx)
    return cut


def _choose(spec: MinimalCoresSpec, population: Population, min_effect: float) -> tuple[Rows, Rows]:
    """Positions of the tested examples: the highest, and some of the rest at random, all above ``min_effect``.

    Of contexts given in the spec all are taken, or as many as may be tested at random: they were chosen already.
    """
    candidates = np.flatnonzero(population.activation > min_effect)
    order = candidates[np.argsort(-population.activation[candidates], kind="stable")]
    n_top = 0 if population.given else (min(spec.variables.max_examples, len(order)) + 1) // 2
    top, rest = order[:n_top], np.sort(order[n_top:])
    n_random = min(spec.variables.max_examples - n_top, len(rest))
    rng = np.random.default_rng([spec.dataset_slice.random_seed, EXAMPLES_STREAM])
    return top, np.sort(rng.choice(rest, n_random, replace=False)) if n_random else rest[:0]


def plan(spec: MinimalCoresSpec, ctx: Context) -> Plan:
    """What the lattices and the reference of the transplants would cost; what depends on the cores comes on top."""
    cut, oracle = _cut(spec, ctx), ctx.oracle
    population = ctx.population(spec.dataset_slice, spec.feature_id)
    if population.dead:
        return Plan(contexts=0, conditions="none: the feature is dead")
    source = Source.of(ctx, population, spec.dataset_slice)
    if population.given:
        tested = np.arange(min(population.size, spec.variables.max_examples))
    else:
        tested = np.concatenate(_choose(spec, population, smallest_effect(spec, ctx, spec.variables.min_effect) or 0.0))
    if not len(tested):
        return Plan(contexts=0, conditions="none: no example activates the feature above min_effect")
    rows = source.population.rows[tested]
    cases = cut.cases(ctx, rows, source.sets(rows))
    background = background_weapons(ctx, spec.dataset_slice.random_seed)
    missing: set[bytes] = set()
    total = 0
    exact = [case for case in cases if len(case.names) <= spec.variables.exact_limit]
    for case in exact:
        sets = subset_sets(case, all_members(len(case.names)), background).sets
        missing.update(oracle.missing(sets).tolist(), oracle.missing(case.natural).tolist())
        total += lattice_cost(case, len(background)) + 1
    reference = reference_sets(source, spec.dataset_slice.random_seed)
    if reference is not None:
        missing.update(oracle.missing(reference).tolist())
        total += len(reference)
    greedy = f"{len(cases) - len(exact)} examples have more than {spec.variables.exact_limit} units: greedy, on top"
    notes = [greedy] * (len(exact) < len(cases)) + [ALL_COUNTED] * population.given
    return Plan(
        contexts=len(cases),
        conditions="every subset of each example's units",
        forward_passes=len(missing),
        saved_passes=total - len(missing),
        notes=(
            *population.warnings,
            *notes,
            "the cores that are found, written into random builds and at lower rungs, come on top: some hundred passes",
        ),
    )


@experiment(
    "minimal_cores",
    spec=MinimalCoresSpec,
    plan=plan,
    cli="minimal-cores",
    summary="Which units of a build are enough, by themselves, to keep the feature active.",
    tables=TABLES,
    methods=("interventional",),
    cost="model",
    toolset="interactions",
)
def run(spec: MinimalCoresSpec, ctx: Context, job: Job) -> Findings:
    """Find minimal cores; the definitions are in docs/methods under "minimal_cores"."""
    cut, _ = _cut(spec, ctx), ctx.oracle
    population = ctx.population(spec.dataset_slice, spec.feature_id)
    if population.dead:
        tables = [Table(name=name, columns=list(row.model_fields), rows=[]) for name, row in TABLES.items()]
        return dead_findings(spec, ctx, population, job, method="interventional", tables=tables)
    variables, seed = spec.variables, spec.dataset_slice.random_seed
    min_effect = smallest_effect(spec, ctx, variables.min_effect) or 0.0
    source = Source.of(ctx, population, spec.dataset_slice).evaluated(spec.feature_id, job)
    population = source.population
    top, random = _choose(spec, population, min_effect)
    if not len(top) + len(random):
        return _no_examples(spec, ctx, population, min_effect, job)
    rows = population.rows[np.concatenate([top, random])]
    cases = cut.cases(ctx, rows, source.sets(rows))
    probe = Probe(ctx, spec.feature_id, background_weapons(ctx, seed), job)
    outcomes = find_cores(
        cases, probe, threshold=variables.retention_threshold, exact_limit=variables.exact_limit, seed=seed
    )
    job.partial(tested_examples(ctx, outcomes, len(top), cut, given=population.given))
    job.partial(necessity(outcomes, variables.retention_threshold))
    job.partial(inhibitors(outcomes, min_effect))
    cores, violations = _cores(spec, outcomes, len(top), probe, cut, source=source, min_effect=min_effect)
    job.partial(cores)
    found = _findings(spec, ctx, population, job, outcomes=outcomes, cores=cores, min_effect=min_effect)
    found.diagnostics.constraint_violations = violations
    return found


def _cores(
    spec: MinimalCoresSpec,
    outcomes: Sequence[Outcome],
    n_top: int,
    probe: Probe,
    cut: Cut,
    *,
    source: Source,
    min_effect: float,
) -> tuple[Table, list[ConstraintViolation]]:
    """Every core found; the most frequent ones with their lowest rungs and their effect in builds drawn at random."""
    holders: dict[Core, list[int]] = defaultdict(list)
    for index, outcome in enumerate(outcomes):
        for core in outcome.cores:
            holders[core].append(index)
    order = sorted(holders, key=lambda core: (-len(holders[core]), len(core), sorted(core)))
    rows = [core_row(core, holders[core], outcomes, n_top=n_top, cut=cut) for core in order]
    followed, violations = order[:CORES_FOLLOWED], list[ConstraintViolation]()
    moved = None
    if followed:
        done = transplant(
            followed,
            outcomes,
            source,
            min_effect=min_effect,
            spec=spec,
            keeps_weapon=not spec.variables.include_weapon,
            job=probe.job,
        )
        moved, violations = done if done is not None else (None, [])
    if moved is not None:
        for index, core in enumerate(followed):
            more = {
                "rungs": lowest_rungs(core, outcomes, probe, spec.variables.retention_threshold),
                "transplant_delta": float(moved.effects.mean[index]),
                "transplant_low": float(moved.effects.sim_low[index]),
                "transplant_high": float(moved.effects.sim_high[index]),
                "transplant_rate": float(moved.effects.responder_rate[index]),
                "specificity_p": float(moved.specificity[index]),
            }
            rows[order.index(core)] = rows[order.index(core)].model_copy(update=more)
    notes = [f"rungs and transplants are given for the {CORES_FOLLOWED} most frequent cores"]
    if moved is None and followed:
        notes.append("no transplant: fewer than two builds of the slice could take every core")
    return Table.of("cores", CoreRow, rows, notes), violations


def _no_examples(spec: MinimalCoresSpec, ctx: Context, population: Population, min_effect: float, job: Job) -> Findings:
    which = f"none of the {population.description}" if population.given else f"no example of {population.description}"
    reason = f"{which} activates feature {spec.feature_id} above {min_effect:.2f}"
    tables = [Table(name=name, columns=list(row.model_fields), rows=[], notes=[reason]) for name, row in TABLES.items()]
    return Findings(
        headline=f"nothing found: {reason}; interventional.",
        aggregates=Aggregates(custom={"method": "interventional", "reason": reason, "n_examples": 0}),
        tables=tables,
        diagnostics=diagnostics(population, min_effect, ctx.effective_max(spec.feature_id), job),
    )


def _findings(
    spec: MinimalCoresSpec,
    ctx: Context,
    population: Population,
    job: Job,
    *,
    outcomes: Sequence[Outcome],
    cores: Table,
    min_effect: float,
) -> Findings:
    n = len(outcomes)
    best = cores.rows[0] if cores.rows else None
    p = best["specificity_p"] if best else None
    moved = best is not None and best["transplant_delta"] is not None and not (p is not None and p > SPECIFIC)
    found = best is not None and moved and best["status"] in {"present", "conditional"}
    plain = diagnostics(population, min_effect, ctx.effective_max(spec.feature_id), job)
    plain.n_contexts_tested = n
    natural = np.array([outcome.natural for outcome in outcomes])
    plain.relu_floor_rate, plain.relu_floor_detected = float((natural <= 0).mean()), bool((natural <= 0).mean() > 0.5)
    plain.clamp_rate = float((natural >= CLAMP).mean())
    sizes = [min(len(core) for core in outcome.cores) for outcome in outcomes if outcome.cores]
    custom: dict[str, Any] = {
        "method": "interventional",
        "top_core": best["core"] if best else None,
        "top_core_units": best["units"] if best else None,
        "top_core_rungs": best["rungs"] if best else None,
        "top_core_coverage": best["coverage"] if best else None,
        "top_core_coverage_random": best["coverage_random"] if best else None,
        "mean_core_size": float(np.mean(sizes)) if sizes else None,
        "n_cores": len(cores.rows),
        "n_examples": n,
        "n_exact": sum(outcome.exact for outcome in outcomes),
        "n_without_core": sum(not outcome.cores for outcome in outcomes),
        "core_sizes": {str(size): count for size, count in sorted(Counter(sizes).items())},
        "transplant_delta": best["transplant_delta"] if best else None,
        "specificity_p": p,
        **({} if ctx.has_examples else {"specificity_reason": UNKNOWN_DIRECTIONS}),
        "verdict": best["status"] if best and found else "nothing_specific",
    }
    return Findings(
        headline=_headline(
            spec, best, p, n=n, found=found, needed=_needed(job.tables["necessity"], n), population=population
        ),
        findings=[] if best is None else [_finding(spec, best, n, p, found=found, population=population)],
        aggregates=Aggregates(n_samples=n, custom=custom),
        tables=list(job.tables.values()),
        diagnostics=plain,
        followups=answerable(_followups(spec, best), ctx) if best is not None and found else [],
    )


def _headline(
    spec: MinimalCoresSpec,
    best: dict[str, Any] | None,
    p: float | None,
    *,
    n: int,
    found: bool,
    needed: str,
    population: Population,
) -> str:
    tested, drawn = f"{n} active examples of {population.description}, half the highest, half at random", RANDOM
    if population.given:
        tested, drawn = f"{n} active ones of {population.description}", "builds like them"
    scope = f"{tested}{population.caveat}; interventional."
    feature, tau = f"feature {spec.feature_id}", spec.variables.retention_threshold
    if best is None:
        return f"no core of {feature}: not even all units kept {tau:.0%} of the activation; {scope}"
    bounds = f"{best['coverage']:.0%} of the tested ({best['ci_low']:.0%} to {best['ci_high']:.0%} of {drawn})"
    if not found:
        why = (
            ""
            if p is None or p <= SPECIFIC
            else f"; written into random builds it moves {feature} no more than random directions (p = {p:.2f})"
        )
        most = f"the most frequent is {best['core']}, {bounds}"
        start = "too few examples to tell" if n < FEW_EXAMPLES else f"nothing found: no core of {feature} is common"
        return f"{start}, {most}{why}{needed}; {scope}"
    at = ", ".join(f"{unit} from {rung} AP" for unit, rung in sorted(best["rungs"].items()))
    rungs = f" ({at})" if at else ""
    keeps = f"it alone keeps {tau:.0%} of the activation in {bounds}"
    return f"{best['core']}{rungs} is a minimal core of {feature}: {keeps}; {scope}"


def _needed(necessity: Table, n: int) -> str:
    """The unit that most examples cannot lose, where it is nearly all of them: cores may differ in the rest alone."""
    first = necessity.rows[0] if necessity.rows else None
    if first is None or first["share_lost"] * first["n"] < 0.9 * n:
        return ""
    return f"; yet {first['unit']} is needed in {first['share_lost']:.0%} of the {first['n']} that hold it"


def _finding(
    spec: MinimalCoresSpec, best: dict[str, Any], n: int, p: float | None, *, found: bool, population: Population
) -> Finding:
    return Finding(
        subject=best["core"],
        relation=f"{'is a' if found else 'is no common'} minimal core of feature {spec.feature_id}",
        effect=best["coverage_random"],
        ci_low=best["ci_low"],
        ci_high=best["ci_high"],
        unit="share of active examples",
        status=best["status"],
        specificity_p=p,
        n=n,
        method="interventional",
        population=population.description,
        table="cores",
    )


def _followups(spec: MinimalCoresSpec, best: dict[str, Any]) -> list[Followup]:
    units = [unit for unit in best["units"] if unit != WEAPON]
    if not units:
        reason = "the weapon alone is enough: does swapping it change the feature?"
        return [followup(spec, "weapon_sweep", {"method": "interventional"}, reason)]
    if spec.variables.unit == "token":
        return []
    sweeps = [
        followup(spec, "family_1d_sweep", {"family": unit}, f"{unit} is in the core: from which AP on, and what shape?")
        for unit in units[:2]
    ]
    if len(units) == 2:
        reason = "two families make the core together: how do they combine?"
        sweeps.append(followup(spec, "family_2d_heatmap", {"family_x": units[0], "family_y": units[1]}, reason))
    return sweeps
