"""Steering: the pooled vectors of contexts with one feature set to a value, and what the output head makes of them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import special

from ....context.context import Context
from ....schemas.job import Job
from ....schemas.result import Row, Status, Table
from ...design.interventions import Contexts
from ...design.specificity import SPECIFIC, share_at_least
from ...stats.paired import (
    RANGE,
    PairedEffects,
    bootstrap_weights,
    paired_effects,
    verdicts,
)
from .logits import contributions, family_shares, real_tokens, sae_of, unit_column

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
STEER_STREAM = 28
NO_CHANGE = 0.01
"""Changes below this share of min_effect count as none: they leave an interval no room to be anything but wrong."""
_REPORT_EVERY = 20
_IN_PROBABILITY = (
    "mean",
    "std",
    "std_error",
    "ci_low",
    "ci_high",
    "sim_low",
    "sim_high",
    "mean_responders",
)


class SteeringRow(Row):
    """One token's probability with the feature set to a value, against the same contexts as they are."""

    value: float = Field(description="Activation the feature is set to; 0 ablates it.")
    token: str = Field(description="Token whose probability is read.")
    family: str = Field(description="Its family.")
    base_probability: float = Field(description="Its mean probability in the contexts as they are.")
    mean_delta: float = Field(description="Mean change of its probability.")
    std_error: float | None = Field(description="Its standard error, corrected for the finite population.")
    n: int = Field(description="Contexts.")
    ci_low: float | None = Field(description="Lower end of the 95 % interval of mean_delta.")
    ci_high: float | None = Field(description="Upper end of the 95 % interval of mean_delta.")
    sim_low: float | None = Field(description="Lower end of the 95 % interval over all tokens at this value at once.")
    sim_high: float | None = Field(description="Upper end of the 95 % interval over all tokens at this value at once.")
    p_value: float | None = Field(description="Two-sided p that the mean change is 0.")
    q_value: float | None = Field(description="Benjamini-Hochberg q over all tokens at this value.")
    mean_logit_delta: float = Field(description="Mean change of its logit: (value - a) times the contribution.")
    responder_rate: float = Field(description="Share of contexts whose probability changes by more than min_effect.")
    responder_low: float = Field(description="Lower end of its Clopper-Pearson interval.")
    responder_high: float = Field(description="Upper end of its Clopper-Pearson interval.")
    mean_responders: float | None = Field(description="Mean change in those contexts.")
    status: Status = Field(description="present, conditional, negligible or unclear; see the methods.")
    n_to_settle: int | None = Field(description="Contexts that would settle an unclear row.")
    family_share: float = Field(description="The family's share (0-1) of all mean changes at this value, squared.")
    specificity_p: float | None = Field(
        description="Share of random directions, moved as far, with as large a family_share; times the values."
    )


@dataclass(frozen=True)
class Steered:
    """Effects of v values on the probabilities of t tokens, value by value: v x t entries each.

    Attributes:
        values: the values.
        effects: the estimates over v x t columns, in probability.
        status: verdicts.
        needed: contexts that would settle the unclear ones.
        share: [v x t], share of the token's family in the mean changes at the value.
        specificity: [v x t], p of that share against random directions; NaN where unknown.
        base: [t], mean probabilities in the contexts as they are.
        logit: [v x t], mean changes of logits.
        differences: [m, v x t], changes of probability.
        pre: [m], pre-activation of the feature in the contexts.
    """

    values: tuple[float, ...]
    effects: PairedEffects
    status: list[Status]
    needed: list[int | None]
    share: Floats
    specificity: Floats
    base: Floats
    logit: Floats
    differences: Floats
    pre: Floats

    def acting(self) -> list[int]:
        """Rows that may be headlined: present or conditional, and specific to the feature; the strongest first."""
        found = [
            i
            for i, status in enumerate(self.status)
            if status in {"present", "conditional"} and not self.specificity[i] > SPECIFIC
        ]
        return sorted(found, key=lambda i: -self.size(i))

    def size(self, index: int) -> float:
        """Mean change in size; where it acts, for conditional rows."""
        effects = self.effects
        own = effects.mean_responders if self.status[index] == "conditional" else effects.mean
        return abs(float(own[index]))

    def leading(self) -> int:
        """The strongest acting row, else the largest mean change."""
        acting = self.acting()
        return acting[0] if acting else int(np.argmax(np.abs(self.effects.mean)))

    def named(self, index: int) -> tuple[float, int]:
        """The value of a row, and the position of its token."""
        return self.values[index // len(self.base)], index % len(self.base)


def has_stored(ctx: Context, contexts: Contexts) -> bool:
    """Whether the bundle holds pooled vectors of the contexts: of its examples, where it has them."""
    return ctx.bundle.has("pooled.npy") and not contexts.population.given


def pooled_of_contexts(ctx: Context, contexts: Contexts, job: Job) -> Floats:
    """Pooled vectors [m, d] of the contexts, float64: stored ones, else forward passes that are counted."""
    vectors = ctx.pooled_of(contexts.rows) if has_stored(ctx, contexts) else ctx.oracle.pooled(contexts.sets, job)
    return np.asarray(vectors, dtype=np.float64)


def steer(
    ctx: Context,
    feature: int,
    contexts: Contexts,
    values: tuple[float, ...],
    *,
    null: Floats | None,
    min_effect: float,
    seed: int,
    job: Job,
) -> Steered:
    """Set the feature to each value, keeping all else that the pooled vectors hold (the SAE's error included).

    x' = x + (v - a) d with the unit decoder column d; the logits are linear in x and each probability is the sigmoid
    of its logit, as in training (binary cross-entropy a token).

    Args:
        ctx: the context.
        feature: the feature.
        contexts: m contexts.
        values: activations to set it to.
        null: [d, r], unit columns of random directions; None where unknown.
        min_effect: smallest change of probability of interest.
        seed: the spec's seed.
        job: progress and cancellation.
    """
    pooled = pooled_of_contexts(ctx, contexts, job)
    logits = ctx.output_head().logits(pooled)[:, real_tokens(ctx)[0]]
    pre = sae_of(ctx).pre_activation(pooled, feature)
    activation = sae_of(ctx).activation(pooled, feature)
    shifts = [value - activation for value in values]
    contribution = contributions(ctx, unit_column(ctx, feature))
    base = special.expit(logits)
    changes = [_change(logits, base, shift, contribution) for shift in shifts]
    weights = bootstrap_weights(len(pooled), np.random.default_rng([seed, STEER_STREAM]))
    parts = [_in_probability(each, contexts.population.drawn_from, min_effect, weights) for each in changes]
    effects = _joined([part[0] for part in parts])
    share, specificity = _concentration(ctx, effects.mean.reshape(len(values), -1).T, logits, shifts, null, job=job)
    return Steered(
        values=values,
        effects=effects,
        status=[status for part in parts for status in part[1]],
        needed=[needed for part in parts for needed in part[2]],
        share=share,
        specificity=specificity,
        base=base.mean(axis=0),
        logit=np.concatenate([shift.mean() * contribution for shift in shifts]),
        differences=np.hstack(changes),
        pre=pre,
    )


def _change(logits: Floats, base: Floats, shift: Floats, contribution: Floats) -> Floats:
    """Change of probability [m, t] when the feature moves by shift [m]."""
    return special.expit(logits + shift[:, None] * contribution) - base


def _in_probability(
    d: Floats, population: int, min_effect: float, weights: Floats
) -> tuple[PairedEffects, list[Status], list[int | None]]:
    """Paired effects of changes that lie in [-1, 1]: the estimator's bounds are for the range of an activation."""
    seen = np.where(np.abs(d) < NO_CHANGE * min_effect, 0.0, d)
    scaled = paired_effects(RANGE * seen, population, RANGE * min_effect, weights)
    status, needed = verdicts(scaled, RANGE * min_effect)
    back: dict[str, Any] = {name: np.clip(getattr(scaled, name) / RANGE, -1.0, 1.0) for name in _IN_PROBABILITY}
    return replace(scaled, **(back | {"mean": d.mean(axis=0)})), status, needed


def _joined(parts: list[PairedEffects]) -> PairedEffects:
    """The effects of several values, one after the other."""
    arrays: dict[str, Any] = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in fields(PairedEffects)
        if field.name != "n"
    }
    return replace(parts[0], **arrays)


def _concentration(
    ctx: Context, change: Floats, logits: Floats, shifts: list[Floats], null: Floats | None, *, job: Job
) -> tuple[Floats, Floats]:
    """The share of each token's family in the mean changes [t, v], and its p; both [v x t], value by value."""
    family, n_families = real_tokens(ctx)[1], len(ctx.vocabulary.families)
    share = family_shares(change, family, n_families)
    p = np.full(share.shape, np.nan)
    if null is not None:
        p = _share_p(share, _null_shares(contributions(ctx, null), logits, shifts, family, n_families, job=job))
    return share[family].T.ravel(), p[family].T.ravel()


def _null_shares(
    columns: Floats, logits: Floats, shifts: list[Floats], family: Ints, n_families: int, *, job: Job
) -> Floats:
    """Largest family share [v, r] of the mean changes when each random column moves the same contexts as far."""
    logits = logits.astype(np.float32)
    base = special.expit(logits)
    largest = np.zeros((len(shifts), columns.shape[1]))
    for r, column in enumerate(columns.T.astype(np.float32)):
        if r % _REPORT_EVERY == 0:
            job.progress(r, columns.shape[1], "random directions")
        for v, shift in enumerate(shifts):
            change = _change(logits, base, shift.astype(np.float32), column).mean(axis=0, dtype=np.float64)
            largest[v, r] = family_shares(change, family, n_families).max()
    job.progress(columns.shape[1], columns.shape[1], "random directions")
    return largest


def _share_p(share: Floats, largest: Floats) -> Floats:
    """p of each share [families, v] against the largest of random directions [v, r], Bonferroni over the values."""
    p = [[share_at_least(own, largest[v]) for v, own in enumerate(row)] for row in share.tolist()]
    return np.minimum(len(largest) * np.array(p), 1.0)


def steering_table(ctx: Context, steered: Steered, top_k: int) -> Table:
    """The table ``steering``: for each value the tokens whose probability changes most, the largest change first."""
    token, family = real_tokens(ctx)
    effects, t = steered.effects, len(token)
    shown = [
        block * t + i
        for block in range(len(steered.values))
        for i in np.argsort(-np.abs(effects.mean[block * t : (block + 1) * t]), kind="stable")[:top_k].tolist()
    ]
    where = [steered.named(i) for i in shown]
    arrays: dict[str, Any] = {
        "mean_delta": effects.mean,
        "std_error": effects.std_error,
        "ci_low": effects.ci_low,
        "ci_high": effects.ci_high,
        "sim_low": effects.sim_low,
        "sim_high": effects.sim_high,
        "p_value": effects.p_value,
        "q_value": effects.q_value,
        "mean_logit_delta": steered.logit,
        "responder_rate": effects.responder_rate,
        "responder_low": effects.responder_low,
        "responder_high": effects.responder_high,
        "mean_responders": effects.mean_responders,
        "family_share": steered.share,
        "specificity_p": steered.specificity,
        "status": steered.status,
        "n_to_settle": steered.needed,
    }
    columns: dict[str, Any] = {name: [values[i] for i in shown] for name, values in arrays.items()}
    columns |= {
        "value": [value for value, _ in where],
        "token": [ctx.vocabulary.tokens[int(token[i])] for _, i in where],
        "family": [ctx.vocabulary.families[int(family[i])] for _, i in where],
        "base_probability": [steered.base[i] for _, i in where],
        "n": [effects.n] * len(shown),
    }
    notes = [f"the {min(top_k, t)} of {t} tokens that change most at each value; intervals hold for all of them"]
    return Table.from_columns("steering", SteeringRow, columns, notes)
