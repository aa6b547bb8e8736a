"""Specificity: does the feature respond more than random directions read off the same pooled vectors?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...context.context import Context
from ...context.directions import MatchedDirections
from ...context.population import Population
from ...schemas.result import Status
from ..stats.paired import RATE_OF_INTEREST

Floats = NDArray[np.floating[Any]]
SPECIFIC = 0.05
UNKNOWN_DIRECTIONS = "random directions are made to look like the feature on examples, and the bundle holds none"


@dataclass(frozen=True)
class NullEffects:
    """What random directions do under the same conditions.

    Attributes:
        largest_mean: [r], each direction's largest |mean effect| over the conditions.
        largest_responders: [r], its largest |mean effect on responders| over conditions with at least 1 % responders.
    """

    largest_mean: Floats
    largest_responders: Floats

    def p_value(self, status: Status, mean: float, mean_responders: float) -> float:
        """(1 + number of directions at least as large) / (1 + directions).

        A ``conditional`` effect is compared by what it does where it acts, any other by its mean.
        """
        conditional = status == "conditional"
        null = self.largest_responders if conditional else self.largest_mean
        observed = abs(mean_responders if conditional else mean)
        return share_at_least(observed, null)

    def union(self, other: NullEffects) -> NullEffects:
        """The largest effects over both sets of conditions."""
        return NullEffects(
            np.maximum(self.largest_mean, other.largest_mean),
            np.maximum(self.largest_responders, other.largest_responders),
        )


def null_effects(
    ctx: Context, feature: int, conditions: Floats, *, base: Floats | None, min_effect: float
) -> NullEffects | None:
    """Effects of 200 random directions, scaled and biased to be as often active and as high as the feature.

    Their effective max is the feature's, so effects compare as shares of it.

    Args:
        ctx: the context.
        feature: the feature they must look like.
        conditions: [k, m, d] pooled vectors under the conditions.
        base: what to compare with: [m, d], or [k, m, d] where every condition has a base of its own; None compares
            each condition with the mean activation over the k conditions.
        min_effect: smallest effect of interest, which makes a responder.

    Returns:
        None where the examples' pooled vectors are unknown or the feature is dead.
    """
    directions, top = ctx.random_directions(), ctx.effective_max(feature)
    if directions is None or top is None:
        return None
    matched = directions.matched(ctx.active_rate(feature), top)
    references = _references(matched, conditions, base)
    n_directions = matched.weight.shape[1]
    largest_mean, largest_responders = np.zeros(n_directions), np.zeros(n_directions)
    for vectors, reference in zip(conditions, references, strict=True):
        d = matched.activation(vectors) - reference
        responds = np.abs(d) > min_effect
        count = responds.sum(axis=0)
        np.maximum(largest_mean, np.abs(d.mean(axis=0)), out=largest_mean)
        on_responders = np.abs((d * responds).sum(axis=0)) / np.maximum(count, 1)
        on_responders[count < RATE_OF_INTEREST * len(d)] = 0.0
        np.maximum(largest_responders, on_responders, out=largest_responders)
    return NullEffects(largest_mean, largest_responders)


def _references(matched: MatchedDirections, conditions: Floats, base: Floats | None) -> Iterator[Floats]:
    """What each condition is compared with, [m, r] each."""
    if base is not None and base.ndim == 3:
        yield from (matched.activation(vectors) for vectors in base)
        return
    if base is None:
        shared = np.sum([matched.activation(vectors) for vectors in conditions], axis=0) / len(conditions)
    else:
        shared = matched.activation(base)
    yield from repeat(shared, len(conditions))


_NULL_ROWS = 6_000
NULL_STREAM = 9


@dataclass(frozen=True)
class NullActivations:
    """Random directions on the examples of a population, matched to look like the feature.

    Observational types compare a statistic of the feature with the same statistic of every direction: in a network
    everything goes with everything a little, so a certain association may still be one that any direction has.

    Attributes:
        positions: [m], the examples they were read on, as positions in the population; ascending.
        activation: float [m, r], each direction's activation.
    """

    positions: NDArray[np.intp]
    activation: Floats


def null_activations(ctx: Context, feature: int, population: Population, seed: int) -> NullActivations | None:
    """Activations of 200 random directions on (at most 6,000 of) the examples of a population.

    They are as often active over all examples, and as high, as the feature. The examples are read and projected once
    for all features: matching scales and shifts each direction.

    Returns:
        None where the examples' pooled vectors are unknown or the feature is dead.
    """
    directions, top = ctx.random_directions(), ctx.effective_max(feature)
    if directions is None or top is None:
        return None

    positions = _null_positions(len(population), seed)
    rows = population.rows[positions]
    # The rows themselves are part of the name: a type may ask about a part of its population.
    projection = ctx.derived_for(
        population, ("null projection", rows.tobytes()), lambda: directions.project(ctx.pooled_of(rows))
    )
    return NullActivations(positions, directions.matched(ctx.active_rate(feature), top).of_projection(projection))


def _null_positions(n: int, seed: int) -> NDArray[np.intp]:
    """Positions of the examples that random directions are read on; ascending."""
    if n <= _NULL_ROWS:
        return np.arange(n)
    return np.sort(np.random.default_rng([seed, NULL_STREAM]).choice(n, _NULL_ROWS, replace=False))


def share_at_least(observed: float, null: Floats) -> float:
    """(1 + number of random directions whose statistic is at least as large) / (1 + directions)."""
    return float((1 + int((null >= observed).sum())) / (1 + len(null)))
