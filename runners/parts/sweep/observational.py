"""What a family sweep says of the data: which level goes with the feature, and whether random directions do as much."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....context.context import Context
from ....context.population import Population
from ....schemas.job import Job
from ....schemas.result import Aggregates, Finding, Findings, Followup
from ....schemas.spec import ExperimentSpec
from ...design.effect_report import summarise
from ...design.observed import ObservedCurve
from ...design.report import CORRELATIONAL, diagnostics, followup, interval, number, observed_scope, with_short
from ...design.specificity import SPECIFIC, null_activations, share_at_least
from ...stats.tails import sidak_level
from ..heatmap.cells import CellDesign

NO_DIRECTIONS = "the examples' pooled vectors are unknown: no random directions to compare with"


def observed_specificity(
    ctx: Context, feature: int, population: Population, family: str, curve: ObservedCurve, *, seed: int
) -> float | None:
    """Share of random directions whose largest |within-weapon effect| over the levels is as large as the feature's.

    Levels without a verdict take no part. Feature and directions are read on the same examples.

    Returns:
        None where the examples' pooled vectors are unknown.
    """
    null = null_activations(ctx, feature, population, seed)
    known = [i for i, status in enumerate(curve.status) if status is not None]
    if null is None or not known:
        return None
    rows = population.rows[null.positions]
    held = np.asarray(ctx.data.levels[rows, ctx.vocabulary.family_index[family]])
    cell = np.searchsorted(np.asarray(curve.levels), held)
    design = CellDesign.of(cell, len(curve.levels), ctx.data.weapon[rows], ctx.data.clusters[rows])
    outcomes = np.column_stack([population.activation[null.positions], null.activation])
    largest = np.abs(np.nan_to_num(design.coefficients(outcomes))[known]).max(axis=0)
    return share_at_least(float(largest[0]), largest[1:])


def observed_findings(
    spec: ExperimentSpec, ctx: Context, job: Job, *, family: str, curve: ObservedCurve, min_effect: float
) -> Findings:
    """Headline, findings and aggregates of the observational sweep; an association must beat random directions."""
    population = ctx.population(spec.dataset_slice, spec.feature_id)
    job.warn(CORRELATIONAL)
    plain = diagnostics(population, min_effect, ctx.effective_max(spec.feature_id), job)
    known = [i for i, status in enumerate(curve.status) if status is not None]
    custom: dict[str, Any] = {"method": "observational", "family": family}
    name, feature, scope = with_short(family), f"feature {spec.feature_id}", observed_scope(population)
    if curve.within is None or not known:
        reason = "no level has 20 examples in 10 builds beside a baseline"
        custom |= {"reason": reason, "specificity_p": None, "verdict": "nothing_specific"}
        return Findings(
            headline=f"nothing can be said of {name} and {feature}: {reason}; {scope}",
            aggregates=Aggregates(n_samples=len(population), custom=custom),
            tables=list(job.tables.values()),
            diagnostics=plain,
        )
    effect = curve.within.coefficient
    top = max(known, key=lambda i: (curve.status[i] == "present", abs(float(effect[i]))))
    seed = spec.dataset_slice.random_seed
    p = observed_specificity(ctx, spec.feature_id, population, family, curve, seed=seed)
    acts = curve.status[top] == "present" and (p is None or p <= SPECIFIC)
    custom |= {
        "max_rung": curve.levels[top + 1],
        "specificity_p": p,
        "specificity_reason": NO_DIRECTIONS if p is None else None,
        "verdict": "present" if acts else "nothing_specific",
    }
    where = "when present" if len(curve.levels) == 2 else f"at {curve.levels[top + 1]} AP"
    finding = _finding(spec, family, curve, top, population=population, known=len(known), acts=acts, p=p)
    return Findings(
        headline=f"{_statement(finding, name, feature, where=where, min_effect=min_effect, acts=acts)}; {scope}",
        findings=[finding],
        aggregates=summarise(effect[known], len(population), custom),
        tables=list(job.tables.values()),
        diagnostics=plain,
        followups=_followups(spec, ctx, family) if acts else [],
    )


def _statement(finding: Finding, name: str, feature: str, *, where: str, min_effect: float, acts: bool) -> str:
    """What the strongest level says, in words."""
    low, high = finding.ci_low, finding.ci_high
    effect = "unknown" if finding.effect is None else number(finding.effect)
    effect += "" if low is None or high is None else f" {interval(low, high)}"
    if acts:
        return f"{name} goes with {feature}: {effect} {where}, weapon held fixed"
    if finding.status == "present":
        return (
            f"nothing specific found: {name} goes with {feature}, {effect} {where} with the weapon held fixed, "
            f"no more than random directions do (p = {finding.specificity_p:.2f})"
        )
    return f"nothing above {min_effect:.2f} found between {name} and {feature}: at most {effect} {where}"


def _finding(
    spec: ExperimentSpec,
    family: str,
    curve: ObservedCurve,
    index: int,
    *,
    population: Population,
    known: int,
    acts: bool,
    p: float | None,
) -> Finding:
    """One level as a finding, with the interval that holds for all levels at once."""
    within = curve.within
    bounds = (None, None)
    if within is not None:
        low, high = within.interval(sidak_level(0.95, known))
        bounds = (float(low[index]), float(high[index]))
    relation = "goes with" if acts else "does not detectably go with"
    return Finding(
        subject=f"{family} at {curve.levels[index + 1]} AP",
        relation=f"{relation} feature {spec.feature_id}",
        effect=None if within is None else float(within.coefficient[index]),
        ci_low=bounds[0],
        ci_high=bounds[1],
        status=curve.status[index] or "unclear",
        specificity_p=p,
        n=int(curve.means.n[index + 1]),
        method="observational",
        population=population.description,
        table="rung_stats",
    )


def _followups(spec: ExperimentSpec, ctx: Context, family: str) -> list[Followup]:
    if not ctx.has_model:
        return []
    reason = "the same question asked of the network: is the association causal?"
    return [followup(spec, "family_1d_sweep", {"family": family, "method": "interventional"}, reason)]
