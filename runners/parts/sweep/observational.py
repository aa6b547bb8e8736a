"""What a family sweep says of the data: which level goes with the feature, and whether random directions do as much."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....context.context import Context
from ....context.population import Population
from ....schemas.job import Job
from ....schemas.result import Aggregates, Diagnostics, Finding, Findings, Followup
from ....schemas.spec import ExperimentSpec
from ...design.effect_report import summarise
from ...design.observed import ObservedCurve
from ...design.report import CORRELATIONAL, diagnostics, followup, interval, number, observed_scope, with_short
from ...design.specificity import SPECIFIC, null_activations, share_at_least
from ...stats.fixed_effects import LevelDesign
from ...stats.tails import sidak_level

CAUSAL_ALONE = (
    "winner_confirmed",
    "confounding_gap",
    "shape",
    "threshold_rung",
    "half_max_rung",
    "saturation_rung",
    "trend",
)
CURVE_REASON = (
    "shape, trend and confirmation are read off the same builds at every level, and the gap is against them: "
    "method 'interventional' gives them"
)
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
    rows, k = population.rows[null.positions], len(curve.levels)
    weapon = np.asarray(ctx.data.weapon[rows])
    level = np.searchsorted(np.asarray(curve.levels), ctx.data.levels[rows, ctx.vocabulary.family_index[family]])
    counts = np.bincount(weapon * k + level, minlength=len(ctx.weapons) * k).reshape(-1, k)
    outcomes = np.column_stack([population.activation[null.positions], null.activation])
    effects = LevelDesign.of(counts).coefficients(level, weapon, outcomes)
    largest = np.abs(np.nan_to_num(effects)[known]).max(axis=0)
    return share_at_least(float(largest[0]), largest[1:])


def observed_findings(
    spec: ExperimentSpec,
    ctx: Context,
    job: Job,
    *,
    family: str,
    curve: ObservedCurve,
    population: Population,
    min_effect: float,
) -> Findings:
    """Headline, findings and aggregates of the observational sweep; an association must beat random directions."""
    job.warn(CORRELATIONAL)
    plain = diagnostics(population, min_effect, ctx.effective_max(spec.feature_id), job)
    known = [i for i, status in enumerate(curve.status) if status is not None]
    custom = _blank(family, curve)
    name, feature, scope = with_short(family), f"feature {spec.feature_id}", observed_scope(population)
    if curve.within is None or not known:
        return _nothing_known(job, curve, f"{name} and {feature}", scope, plain=plain, custom=custom)
    effect = curve.within.coefficient
    top = max(known, key=lambda i: (curve.status[i] == "present", abs(float(effect[i]))))
    seed = spec.dataset_slice.random_seed
    p = observed_specificity(ctx, spec.feature_id, population, family, curve, seed=seed)
    acts = curve.status[top] == "present" and (p is None or p <= SPECIFIC)
    finding = _finding(spec, family, curve, top, population=population, known=len(known), acts=acts, p=p)
    custom |= {
        "max_rung": curve.levels[top + 1],
        "onset_rung": curve.levels[1 + curve.status.index("present")] if acts else None,
        "max_rung_delta": float(effect[top]),
        "max_rung_delta_low": finding.ci_low,
        "max_rung_delta_high": finding.ci_high,
        "specificity_p": p,
        "specificity_reason": NO_DIRECTIONS if p is None else None,
        "verdict": "present" if acts else "nothing_specific",
    }
    main_only = ctx.vocabulary.is_main_only(family)
    where = "when present" if main_only else f"at {curve.levels[top + 1]} AP"
    statement = _statement(finding, name, feature, where=where, min_effect=min_effect, acts=acts)
    if not acts:
        statement = _with_unjudged(statement, finding, curve, f"{name} and {feature}", where, min_effect=min_effect)
    return Findings(
        headline=f"{statement}; {scope}",
        findings=[finding],
        aggregates=summarise(effect[known], len(population), custom),
        tables=list(job.tables.values()),
        diagnostics=plain,
        followups=_followups(spec, ctx, family) if acts else [],
    )


def _nothing_known(
    job: Job, curve: ObservedCurve, pair: str, scope: str, *, plain: Diagnostics, custom: dict[str, Any]
) -> Findings:
    """The answer where no level has examples enough."""
    asked = " asked for" if len(curve.asked) < len(curve.levels) - 1 else ""
    reason = f"no level{asked} has 20 examples in 10 builds beside a baseline"
    custom |= {"reason": reason, "specificity_p": None, "specificity_reason": reason, "verdict": "nothing_specific"}
    return Findings(
        headline=f"nothing can be said of {pair}: {reason}; {scope}",
        aggregates=Aggregates(n_samples=int(curve.means.n.sum()), custom=custom),
        tables=list(job.tables.values()),
        diagnostics=plain,
    )


def _blank(family: str, curve: ObservedCurve) -> dict[str, Any]:
    """What holds of every observational sweep: the numbers that only an intervention gives, null with the reason."""
    return {
        "method": "observational",
        "family": family,
        **dict.fromkeys((*CAUSAL_ALONE, "onset_rung", "max_rung", "max_rung_delta")),
        "curve_reason": CURVE_REASON,
        "unjudged_rungs": curve.unjudged,
    }


def _statement(finding: Finding, name: str, feature: str, *, where: str, min_effect: float, acts: bool) -> str:
    """What the strongest level says, in words."""
    effect = _effect_text(finding)
    if acts:
        return f"{name} goes with {feature}: {effect} {where}, weapon held fixed"
    if finding.status == "present":
        return (
            f"nothing specific found: {name} goes with {feature}, {effect} {where} with the weapon held fixed, "
            f"no more than random directions do (p = {finding.specificity_p:.2f})"
        )
    certain = "nothing certain" if abs(finding.effect or 0.0) > min_effect else "nothing"
    return f"{certain} above {min_effect:.2f} found between {name} and {feature}: {effect} {where} at the strongest"


def _effect_text(finding: Finding) -> str:
    low, high = finding.ci_low, finding.ci_high
    effect = "unknown" if finding.effect is None else number(finding.effect)
    return effect if low is None or high is None else f"{effect} {interval(low, high)}"


def _with_unjudged(
    statement: str, finding: Finding, curve: ObservedCurve, pair: str, where: str, *, min_effect: float
) -> str:
    """A denial, cut down to the levels that were judged.

    Where a level without a verdict differs by more than ``min_effect``, over all weapons or within them, that nothing
    can be said of it comes first.
    """
    levels = curve.unjudged
    if not levels or curve.raw is None or curve.within is None:
        return statement
    at = [curve.index(level) for level in levels]
    counts = sorted({int(curve.means.n[i + 1]) for i in at})
    n = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
    unjudged = f"{_listed([str(level) for level in levels])} AP"
    seen = [float(values[i]) for i in at for values in (curve.within.coefficient, curve.raw.coefficient)]
    largest = max((value for value in seen if not np.isnan(value)), key=abs, default=0.0)
    if abs(largest) <= min_effect:
        return f"{statement}; too few examples to judge {unjudged} ({n})"
    rest = statement if finding.status == "present" else f"{_effect_text(finding)} {where} at the strongest"
    return (
        f"nothing can be said of {pair} at {unjudged}: too few examples ({n}) to judge differences of up to "
        f"{number(largest)}; elsewhere {rest}"
    )


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


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
