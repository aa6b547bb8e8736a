"""How effects of many units are worded: the causal ones, and what the data say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ....context.context import Context
from ....context.population import Population
from ....schemas.job import Job
from ....schemas.result import Diagnostics, Finding, Findings, Followup, Method
from ....schemas.spec import ExperimentSpec
from ...design.effect_report import effect_finding, effect_text, leading, nothing_text, summarise
from ...design.effect_rows import EffectTable
from ...design.high import HighSplit
from ...design.report import (
    CORRELATIONAL,
    diagnostics,
    followup,
    interval,
    intervention_diagnostics,
    number,
    observed_scope,
    plural,
)
from ...design.unit_effects import UnitEffects
from ...stats.curve import winner_confirmed
from .association import Association

CONFIRM_STREAM = 31
NAMED = 3
FINDINGS = 5
FOLLOWED = 2
UNJUDGED = "no unit has 20 examples in 10 builds with it and as many without"
UnitMethod = Literal["both", "observational", "interventional"]
Sign = Literal[-1, 0, 1]


def sign_of(table: EffectTable, index: int) -> Sign:
    """Direction of an effect: where it acts, for a conditional one."""
    effects = table.effects
    size = float(effects.mean_responders[index] if table.status[index] == "conditional" else effects.mean[index])
    return 1 if size > 0 else -1 if size < 0 else 0


def causal_sign(effects: UnitEffects, index: int) -> Sign | None:
    """Direction in which a unit acts, written in or as builds hold it; None where that is not settled.

    0 only where writing it in is negligible and nothing is certain of it as held, of which few contexts may speak: a
    certain effect that is not specific is no evidence that there is none.
    """
    if index in effects.table.acting():
        return sign_of(effects.table, index)
    if index in effects.held.acting():
        return sign_of(effects.held, index)
    certain = effects.held.status[index] in {"present", "conditional"}
    return 0 if effects.table.status[index] == "negligible" and not certain else None


def _size(table: EffectTable, index: int) -> str:
    effects = table.effects
    rate, there = float(effects.responder_rate[index]), number(float(effects.mean_responders[index]))
    if table.status[index] == "conditional":
        return f"in {rate:.1%} of contexts, by {there} there"
    partly = f", by {there} in {rate:.0%} of contexts" if rate < 0.5 else ""
    return f"{effect_text(table, index)}{partly}"


def causal_headline(
    effects: UnitEffects,
    names: Sequence[str],
    feature: int,
    *,
    min_effect: float,
    population: str,
    nouns: str = "units",
    more: str = "",
) -> str:
    """The units that act, largest effects first, or that none does.

    Args:
        effects: of k units.
        names: what to call them, [k].
        feature: the feature.
        min_effect: smallest effect of interest.
        population: what the contexts stand for.
        nouns: what they are.
        more: what else is to be said, before the scope.
    """
    scope = f"{effects.table.effects.n} contexts of {population}; interventional."
    tail = f"; {more}; {scope}" if more else f"; {scope}"
    written, held = effects.acting(), effects.acting_as_held()
    if not written and not held:
        return f"{_nothing(effects.table, names, feature, min_effect, nouns)}{tail}"
    clauses: dict[str, str] = {}
    for part, index in [(effects.table, i) for i in written] + [(effects.held, i) for i in held]:
        name = names[index] if part is effects.table else held_name(effects, names, index)
        verb = "raises" if sign_of(part, index) > 0 else "lowers"
        what = f"feature {feature}" if not clauses else "it"
        how = f"({_size(part, index)})"
        if part is effects.held:
            how = f"as builds hold it {how}, yet not when written in"
        # Several levels of one family are one thing to tell.
        clauses.setdefault(effects.units[index].family, f"{name} {verb} {what} {how}")
    shown = list(clauses.values())[:NAMED]
    rest = f"; {len(clauses) - NAMED} more {nouns} act" if len(clauses) > NAMED else ""
    return f"{'; '.join(shown)}{rest}{tail}"


def held_name(effects: UnitEffects, names: Sequence[str], index: int) -> str:
    """What to call a unit as builds hold it: the family, where they may hold it at any level."""
    family = effects.units[index].family
    return names[index] if effects.at_level or not names[index].startswith(f"{family}_") else family


def nearest_to_acting(table: EffectTable) -> int:
    """Where nothing acts: the most specific of the effects beyond doubt, or the largest where none is."""
    certain = [i for i, status in enumerate(table.status) if status in {"present", "conditional"}]
    return min(certain, key=lambda i: float(table.specificity[i])) if certain else leading(table)[0]


def _nothing(table: EffectTable, names: Sequence[str], feature: int, min_effect: float, nouns: str) -> str:
    """What was seen at most, and why it counts for nothing."""
    index = nearest_to_acting(table)
    if table.status[index] in {"present", "conditional"}:
        p = float(table.specificity[index])
        return (
            f"nothing specific found: {names[index]} moves feature {feature} ({_size(table, index)}), and one of the "
            f"{nouns} moves a random direction as much (p = {p:.2f})"
        )
    subject = f"writing in {names[0] if len(names) == 1 else f'any of {len(names)} {nouns}'}"
    return nothing_text(table, subject, feature, min_effect)


def causal_findings(
    effects: UnitEffects, names: Sequence[str], feature: int, *, population: str, table: str
) -> list[Finding]:
    """The units that act as findings; the largest effect alone when none does."""
    found = [(effects.table, i) for i in effects.acting()] + [(effects.held, i) for i in effects.acting_as_held()]
    return [
        effect_finding(
            part,
            index,
            subject=names[index] if part is effects.table else f"{held_name(effects, names, index)}, as builds hold it",
            feature=feature,
            population=population,
            table_name=table,
        )
        for part, index in found[:FINDINGS] or [(effects.table, nearest_to_acting(effects.table))]
    ]


def causal_numbers(effects: UnitEffects, names: Sequence[str], seed: int) -> dict[str, Any]:
    """What ``custom`` says of the causal side; the seed splits the contexts for ``winner_confirmed``."""
    written, held = effects.acting(), effects.acting_as_held()
    part = effects.table if written or not held else effects.held
    top = (written or held or [nearest_to_acting(effects.table)])[0]
    rng, rows = np.random.default_rng([seed, CONFIRM_STREAM]), written or held
    return {
        "acting": [*(names[i] for i in written), *(held_name(effects, names, i) for i in held)],
        "top_causal": names[top],
        "top_causal_delta": float(part.effects.mean[top]),
        "top_causal_low": float(part.effects.sim_low[top]),
        "top_causal_high": float(part.effects.sim_high[top]),
        "verdict": part.status[top] if written or held else "nothing_specific",
        "specificity_p": float(part.specificity[top]),
        "winner_confirmed": winner_confirmed(part.differences[:, rows], rng) if rows else None,
    }


def causal_diagnostics(
    spec: ExperimentSpec,
    ctx: Context,
    population: Population,
    effects: UnitEffects,
    job: Job,
    *,
    min_effect: float,
    observed: bool,
) -> Diagnostics:
    """Diagnostics of a run on contexts, beside columns of the data that describe the population."""
    contexts = effects.design.contexts
    for warning in contexts.population.warnings:
        job.warn(warning)
    plain = diagnostics(population, min_effect, ctx.effective_max(spec.feature_id), job)
    found = intervention_diagnostics(effects.design, effects.base_pre, plain, job)
    if observed and len(contexts.positions) < len(population):
        found.notes.append(
            f"columns of the data describe all {len(population):,} examples of the slice; the "
            f"{len(contexts.positions):,} contexts of the causal columns are a sample of them"
        )
    return found


def causal_followups(spec: ExperimentSpec, ctx: Context, effects: UnitEffects) -> list[Followup]:
    """What to ask next of the strongest units that act."""
    found: list[Followup] = []
    families: set[str] = set()
    for index in effects.acting():
        unit = effects.units[index]
        if unit.family in families or len(families) == FOLLOWED:
            continue
        families.add(unit.family)
        name, main_only = unit.label(ctx), ctx.vocabulary.is_main_only(unit.family)
        if float(effects.table.effects.responder_rate[index]) < 0.5:
            variables = {"n_candidates": 12} if main_only else {"n_candidates": 12, "rung": unit.level}
            reason = f"{name} acts in some contexts only: find what it acts together with"
            if all(each.spec["type"] != "pairwise_interactions" for each in found):
                found.append(followup(spec, "pairwise_interactions", variables, reason))
        else:
            reason = f"{name} drives the feature: from which AP on, and with what shape?"
            found.append(followup(spec, "family_1d_sweep", {"family": unit.family}, reason))
    for index in effects.acting_as_held()[:1]:
        family = effects.units[index].family
        if not ctx.vocabulary.is_main_only(family):
            reason = f"{family} acts as builds hold it and not as it is written: does a gap in its tokens matter?"
            found.append(followup(spec, "within_family_interference", {"family": family}, reason))
    return found


def listing(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


def observed_headline(
    seen: Association, feature: int, *, min_effect: float, population: Population, split_text: str
) -> str:
    """The units that go with a feature, or that none does more than with random directions."""
    scope = observed_scope(population)
    acting, largest = seen.acting(), seen.largest()
    if largest is None:
        return f"nothing can be said of feature {feature}: {UNJUDGED}; {scope}"
    names, beta = seen.units.labels, seen.effects.coefficient
    if acting:
        shown = [
            f"{names[i]} goes {_direction(seen, i)} {'it' if at else f'feature {feature}'} ({_observed_size(seen, i)})"
            for at, i in enumerate(acting[:NAMED])
        ]
        text = "; ".join(shown)
        rest = f"; {plural(len(acting) - NAMED, 'more unit')} also" if len(acting) > NAMED else ""
        return f"{text}{rest}; weapon held fixed, {split_text}; {scope}"
    certain = [i for i, status in enumerate(seen.status) if status == "present"]
    top = max(certain or [largest], key=lambda i: abs(float(beta[i])))
    bounds = f"{number(float(beta[top]))} {interval(float(seen.low[top]), float(seen.high[top]))}"
    if certain:
        p = float(seen.specificity[top])
        return (
            f"nothing specific found: {names[top]} goes with feature {feature} ({bounds}), no more than with random "
            f"directions (p = {p:.2f}); weapon held fixed; {scope}"
        )
    return (
        f"nothing above {min_effect:.2f} found: {names[top]} goes with feature {feature} most ({bounds}); weapon held "
        f"fixed; {scope}"
    )


def _direction(seen: Association, index: int) -> str:
    return "with" if float(seen.effects.coefficient[index]) > 0 else "against"


def _observed_size(seen: Association, index: int) -> str:
    effect = number(float(seen.effects.coefficient[index]))
    bounds = interval(float(seen.low[index]), float(seen.high[index]))
    ratio = float(seen.rates.ratio[index])
    times = f", {ratio:.1f} times as common among the high" if np.isfinite(ratio) else ""
    return f"{effect} {bounds}{times}"


def observed_findings(seen: Association, feature: int, *, method: Method, population: str, table: str) -> list[Finding]:
    """The units that go with a feature as findings; the largest effect alone when none does."""
    largest = seen.largest()
    chosen = seen.acting()[:FINDINGS] or ([] if largest is None else [largest])
    found = set(seen.acting())
    return [
        Finding(
            subject=seen.units.labels[i],
            relation=f"{f'goes {_direction(seen, i)}' if i in found else 'has nothing specific to'} feature {feature}",
            effect=float(seen.effects.coefficient[i]),
            ci_low=float(seen.low[i]),
            ci_high=float(seen.high[i]),
            status=seen.status[i] or "unclear",
            specificity_p=float(seen.specificity[i]),
            n=int(seen.n_present[i]),
            method=method,
            population=population,
            table=table,
        )
        for i in chosen
    ]


def observed_numbers(seen: Association) -> dict[str, Any]:
    """What ``custom`` says of an observational run."""
    top = next(iter(seen.acting()), seen.largest())
    if top is None:
        return {"verdict": "nothing_specific", "reason": UNJUDGED}
    return {
        "acting": [seen.units.labels[i] for i in seen.acting()],
        "verdict": "present" if seen.acting() else "nothing_specific",
        "specificity_p": float(seen.specificity[top]),
    }


def observed_answer(
    spec: ExperimentSpec,
    ctx: Context,
    population: Population,
    job: Job,
    *,
    seen: Association,
    split: HighSplit,
    table: str,
    custom: dict[str, Any],
    min_effect: float,
) -> Findings:
    """The findings of an observational run; ``table`` is its main one, ``custom`` holds the type's own numbers."""
    job.warn(CORRELATIONAL)
    followups: list[Followup] = []
    if seen.acting() and ctx.has_model:
        again = spec.variables.model_dump(mode="json", exclude_defaults=True) | {"method": "both"}
        reason = "abilities go with the feature in the data: do they act in the network?"
        followups = [followup(spec, spec.type, again, reason)]
    known = seen.effects.coefficient[np.isfinite(seen.effects.coefficient)]
    numbers = {"method": "observational", **custom, **observed_numbers(seen), **split.numbers()}
    return Findings(
        headline=observed_headline(
            seen, spec.feature_id, min_effect=min_effect, population=population, split_text=split.describe()
        ),
        findings=observed_findings(
            seen, spec.feature_id, method="observational", population=population.description, table=table
        ),
        aggregates=summarise(known if len(known) else np.full(1, np.nan), len(population), numbers),
        tables=list(job.tables.values()),
        diagnostics=diagnostics(population, min_effect, ctx.effective_max(spec.feature_id), job),
        followups=followups,
    )
