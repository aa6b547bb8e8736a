"""Decoder output analysis: which tokens does the feature write into the completed build?"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ..context.context import Context
from ..context.population import Population, given_population
from ..schemas.catalogue import Plan, experiment
from ..schemas.errors import RequestError
from ..schemas.job import Job
from ..schemas.result import Aggregates, Diagnostics, Finding, Findings, Followup, Row, Table
from ..schemas.spec import DatasetSlice, ExperimentSpec, Variables
from .design.interventions import FEWEST, Contexts, draw
from .design.report import (
    dead_findings,
    diagnostics,
    empty_tables,
    followup,
    interval,
    number,
    plural,
    with_short,
)
from .design.specificity import SPECIFIC, UNKNOWN_DIRECTIONS
from .parts.decoder.logits import (
    DirectEffect,
    FamilyContribution,
    TokenContribution,
    concentration_p,
    direct_effect,
    direct_numbers,
    family_table,
    null_columns,
    real_tokens,
    sae_of,
    token_table,
)
from .parts.decoder.steering import Steered, SteeringRow, has_stored, steer, steering_table
from .stats.curve import winner_confirmed

CONFIRM_STREAM = 30
CLAMP = 6.0
DIRECT = "read off the weights, the same for any input"


class DecoderOutputVariables(Variables):
    """What is read off the decoder column."""

    top_k: int = Field(default=10, ge=1, le=1000, description="Tokens shown in each table.")
    steer: tuple[Annotated[float, Field(ge=0, le=6)], ...] = Field(
        default=(),
        max_length=6,
        description="Activations to set the feature to in the contexts (0 ablates it); default: none.",
    )
    min_effect: float = Field(
        default=0.01, gt=0, le=1, description="Smallest change of a token's probability of interest (steer)."
    )


class DecoderOutputSpec(ExperimentSpec):
    """Spec of a decoder output analysis."""

    takes_contexts: ClassVar[bool] = True
    type: Literal["decoder_output_analysis"] = "decoder_output_analysis"
    variables: DecoderOutputVariables = DecoderOutputVariables()


TABLES: dict[str, type[Row]] = {
    "promoted": TokenContribution,
    "suppressed": TokenContribution,
    "family_summary": FamilyContribution,
    "steering": SteeringRow,
}


def _values(spec: DecoderOutputSpec) -> tuple[float, ...]:
    """The values to steer to, each once, in the order given."""
    return tuple(dict.fromkeys(spec.variables.steer))


def _population(spec: DecoderOutputSpec, ctx: Context) -> Population:
    """The examples or contexts that are steered; none where a bundle without examples is asked for its weights alone.

    Raises:
        RequestError: contexts are given and nothing is done to them.
    """
    part = spec.dataset_slice
    if part.contexts is not None and not spec.variables.steer:
        raise RequestError(
            "dataset_slice.contexts are what steer acts on, and steer was not given: give it, such as [0, 2], or leave "
            "contexts out. Nothing was run."
        )
    if ctx.has_examples or spec.variables.steer:
        return ctx.population(part, spec.feature_id)
    ctx.check_feature(spec.feature_id)
    return replace(given_population(0, dead=False, warnings=()), description="no examples: the bundle holds none")


def _contexts(spec: DecoderOutputSpec, ctx: Context) -> Contexts:
    contexts = draw(spec, ctx)
    if len(contexts.positions) < FEWEST:
        raise RequestError(
            f"steering needs at least {FEWEST} contexts and {contexts.population.description} gives "
            f"{len(contexts.positions)}: widen dataset_slice. Nothing was run."
        )
    return contexts


def plan(spec: DecoderOutputSpec, ctx: Context) -> Plan:
    """What the analysis would run: no pass beyond the pooled vectors of the contexts, where those are not stored."""
    population = _population(spec, ctx)
    if population.dead:
        return Plan(contexts=0, conditions="none: no example activates the feature", notes=population.warnings)
    _ = ctx.output_head(), sae_of(ctx)
    if not spec.variables.steer:
        return Plan(contexts=0, conditions="none: the weights are read", notes=population.warnings)
    contexts = _contexts(spec, ctx)
    stored = has_stored(ctx, contexts)
    missing = 0 if stored else len(ctx.oracle.missing(contexts.sets))
    return Plan(
        contexts=len(contexts.positions),
        conditions=f"the contexts as they are, and the feature set to {plural(len(_values(spec)), 'value')}",
        forward_passes=missing,
        saved_passes=0 if stored else len(contexts.positions) - missing,
        notes=(*contexts.notes, *population.warnings, "steering changes pooled vectors: no pass of its own"),
    )


@experiment(
    "decoder_output_analysis",
    spec=DecoderOutputSpec,
    plan=plan,
    cli="decoder",
    summary="Which tokens the feature writes into the build: direct logit effect, and steering.",
    tables=TABLES,
    methods=("observational", "interventional"),
    cost="data",
    toolset="output",
)
def run(spec: DecoderOutputSpec, ctx: Context, job: Job) -> Findings:
    """Read the decoder column through the output layer; see docs/methods under "decoder_output_analysis"."""
    method = "interventional" if spec.variables.steer else "observational"
    population = _population(spec, ctx)
    # The weights say what a feature writes, and steering sets it: neither needs an active example in the slice.
    if population.dead:
        return dead_findings(spec, ctx, population, job, method=method, tables=empty_tables(TABLES))
    _ = ctx.output_head(), sae_of(ctx)
    contexts = _contexts(spec, ctx) if spec.variables.steer else None
    direct, seed = direct_effect(ctx, spec.feature_id), spec.dataset_slice.random_seed
    for name in ("promoted", "suppressed"):
        job.partial(token_table(ctx, name, direct, spec.variables.top_k))
    null = null_columns(ctx, spec.feature_id, seed)
    specificity = concentration_p(ctx, direct, null)
    job.partial(family_table(ctx, direct, specificity))
    p = None if null is None else float(specificity[direct.top_family])
    unknown = "the examples' pooled vectors are unknown" if ctx.has_examples else UNKNOWN_DIRECTIONS
    custom: dict[str, Any] = {
        "method": method,
        **direct_numbers(ctx, spec.feature_id, direct),
        "direct_specificity_p": p,
        "specificity_reason": None if p is not None else unknown,
    }
    if contexts is None:
        return _direct(spec, ctx, job, direct=direct, p=p, custom=custom, population=population)
    steered = steer(
        ctx,
        spec.feature_id,
        contexts,
        _values(spec),
        null=null,
        min_effect=spec.variables.min_effect,
        seed=seed,
        job=job,
    )
    job.partial(steering_table(ctx, steered, spec.variables.top_k))
    return _steered(spec, ctx, job, steered=steered, custom=custom, contexts=contexts)


def _direct(
    spec: DecoderOutputSpec,
    ctx: Context,
    job: Job,
    *,
    direct: DirectEffect,
    p: float | None,
    custom: dict[str, Any],
    population: Population,
) -> Findings:
    note = "steer was not given: nothing was set"
    job.partial(Table(name="steering", columns=list(SteeringRow.model_fields), rows=[], notes=[note]))
    specific = p is None or p <= SPECIFIC
    notes = [f"the direct effect is {DIRECT}; no layer lies between the pooled vector and the logits"]
    if spec.dataset_slice != DatasetSlice(random_seed=spec.dataset_slice.random_seed):
        notes.append("dataset_slice has no part in the direct effect: it chooses the contexts of steer")
    strongest = direct.strongest_of(direct.top_family)
    contribution = float(direct.contribution[strongest])
    plain = diagnostics(population, None, ctx.effective_max(spec.feature_id), job, notes)
    finding = Finding(
        subject=ctx.vocabulary.tokens[int(direct.token[strongest])],
        relation=f"is {'promoted' if contribution > 0 else 'suppressed'} by feature {spec.feature_id}, directly",
        effect=contribution,
        unit="logits per unit of activation",
        status="present" if specific else "unclear",
        specificity_p=p,
        n=0,
        method="observational",
        population="any input",
        table="promoted" if contribution > 0 else "suppressed",
    )
    verdict = "present" if specific else "nothing_specific"
    return Findings(
        headline=_direct_headline(spec, ctx, direct, p),
        findings=[finding],
        aggregates=Aggregates(custom=custom | {"specificity_p": p, "verdict": verdict}),
        tables=list(job.tables.values()),
        diagnostics=plain,
        followups=_steering_next(spec, ctx) if specific else [],
    )


def _p(value: float) -> str:
    return f"p = {value:.2f}" if value >= 0.1 else f"p = {value:.3f}"


def _direct_headline(spec: DecoderOutputSpec, ctx: Context, direct: DirectEffect, p: float | None) -> str:
    family = direct.top_family
    strongest = direct.strongest_of(family)
    contribution = float(direct.contribution[strongest])
    verb = "promotes" if contribution > 0 else "suppresses"
    name, token = with_short(ctx.vocabulary.families[family]), ctx.vocabulary.tokens[int(direct.token[strongest])]
    size, share = f"{number(contribution)} logits per unit of activation", f"{direct.share[family]:.0%}"
    feature = f"feature {spec.feature_id}"
    if p is not None and p > SPECIFIC:
        return (
            f"nothing specific found: {name} gets {share} of the direct effect of {feature} on the logits ({token} "
            f"{size}), no more concentrated than what random directions write ({_p(p)}); {DIRECT}."
        )
    chance = "specificity unknown" if p is None else f"random directions {_p(p)}"
    return f"{feature} {verb} {name}: {share} of its direct effect on the logits ({token} {size}; {chance}); {DIRECT}."


def _steering_next(spec: DecoderOutputSpec, ctx: Context) -> list[Followup]:
    height = ctx.effective_max(spec.feature_id)
    if height is None:
        return []
    reason = "the feature writes to the logits: what do ablating it and setting it high do to real builds?"
    return [followup(spec, spec.type, {"steer": [0.0, round(min(height, CLAMP), 2)]}, reason)]


def _steered(
    spec: DecoderOutputSpec, ctx: Context, job: Job, *, steered: Steered, custom: dict[str, Any], contexts: Contexts
) -> Findings:
    index, acting = steered.leading(), steered.acting()
    value, at = steered.named(index)
    token = ctx.vocabulary.tokens[int(real_tokens(ctx)[0][at])]
    effects, status = steered.effects, steered.status[index]
    rng = np.random.default_rng([spec.dataset_slice.random_seed, CONFIRM_STREAM])
    p = float(steered.specificity[index])
    finding = Finding(
        subject=f"setting feature {spec.feature_id} to {value:g}",
        relation=f"{_verb(steered, index) if acting else 'does nothing specific to'} the probability of {token}",
        effect=float(effects.mean[index]),
        ci_low=float(effects.sim_low[index]),
        ci_high=float(effects.sim_high[index]),
        unit="probability",
        status=status,
        responder_rate=float(effects.responder_rate[index]),
        specificity_p=p,
        n=effects.n,
        method="interventional",
        population=contexts.population.description,
        table="steering",
    )
    more = {
        "steered_value": value,
        "steered_token": token,
        "steered_change": float(effects.mean[index]),
        "steered_base_probability": float(steered.base[at]),
        "winner_confirmed": winner_confirmed(steered.differences, rng) if acting else None,
        "specificity_p": p,
        "verdict": status if acting else "nothing_specific",
    }
    return Findings(
        headline=_steered_headline(spec, steered, token, contexts.population),
        findings=[finding],
        aggregates=Aggregates(n_samples=effects.n, custom=custom | more),
        tables=list(job.tables.values()),
        diagnostics=_steered_diagnostics(spec, ctx, job, steered=steered, contexts=contexts),
        followups=_drivers_next(spec, ctx, at) if acting else [],
    )


def _verb(steered: Steered, index: int) -> str:
    effects = steered.effects
    mean = effects.mean_responders if steered.status[index] == "conditional" else effects.mean
    return "raises" if float(mean[index]) > 0 else "lowers"


def _steered_headline(spec: DecoderOutputSpec, steered: Steered, token: str, population: Population) -> str:
    index, effects = steered.leading(), steered.effects
    value, at = steered.named(index)
    bounds = interval(float(effects.sim_low[index]), float(effects.sim_high[index]))
    change = f"{number(float(effects.mean[index]))} {bounds}"
    scope = f"{population.contexts(effects.n)}; interventional"
    what = f"setting feature {spec.feature_id} to {value:g}"
    p = float(steered.specificity[index])
    if not steered.acting():
        if steered.status[index] in {"present", "conditional"}:
            why = f"no more concentrated on one family than random directions moved as far ({_p(p)})"
        else:
            why = f"an effect of {spec.variables.min_effect:g} is not certain"
        return f"nothing specific found: {what} changes the probability of {token} most, by {change}, {why}; {scope}."
    verb, base = _verb(steered, index), float(steered.base[at])
    if steered.status[index] == "conditional":
        rate, there = float(effects.responder_rate[index]), number(float(effects.mean_responders[index]))
        return f"{what} {verb} the probability of {token} in {rate:.1%} of contexts, by {there} there; {scope}."
    after = base + float(effects.mean[index])
    return f"{what} {verb} the probability of {token} most: {change}, from {base:.2f} to {after:.2f}; {scope}."


def _steered_diagnostics(
    spec: DecoderOutputSpec, ctx: Context, job: Job, *, steered: Steered, contexts: Contexts
) -> Diagnostics:
    notes = [
        *contexts.notes,
        "min_effect is a change of probability",
        "each token's probability is the sigmoid of its own logit: the network completes sets, several tokens at once",
    ]
    plain = diagnostics(contexts.population, spec.variables.min_effect, ctx.effective_max(spec.feature_id), job, notes)
    silent = float(np.mean(steered.pre <= 0))
    plain.relu_floor_rate, plain.relu_floor_detected = silent, silent > 0.5
    plain.clamp_rate = float(np.mean(steered.pre >= CLAMP))
    plain.n_contexts_tested = steered.effects.n
    if 0.0 in steered.values and silent > 0.5:
        active = "give contexts that activate it to ask about those"
        if not contexts.population.given:
            active = "a dataset_slice with activation_threshold 0 asks about the active ones"
        plain.notes.append(
            f"the feature is 0 in {silent:.0%} of the contexts, where setting it to 0 changes nothing: {active}"
        )
    return plain


def _drivers_next(spec: DecoderOutputSpec, ctx: Context, at: int) -> list[Followup]:
    if not ctx.has_model:
        return []
    family = ctx.vocabulary.families[int(real_tokens(ctx)[1][at])]
    reason = f"the feature writes {family}: does {family} in the build drive it, too?"
    return [followup(spec, "family_1d_sweep", {"family": family}, reason)]
