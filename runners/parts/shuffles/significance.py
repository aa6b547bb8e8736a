"""The permutation test of a feature: observed statistic, shuffles, and random directions on the same examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....context.context import Context
from ....context.population import Population
from ....schemas.job import Job
from ...design.high import HighSplit
from ...design.specificity import null_activations, share_at_least
from ...stats.groups import MIN_CLUSTERS
from ...stats.permutation import permutation_p, shuffled_sums
from ...stats.presence import PresenceDesign
from ...stats.tails import sidak_level
from ..splits.compare import top_of_each
from .statistics import Prepared, Reader, Statistic, Stratum, largest, prepare

Floats = NDArray[np.floating[Any]]
SHUFFLE_STREAM = 21
_SHUFFLES_AT_ONCE = 100


@dataclass(frozen=True)
class Question:
    """Which statistic, over what is exchanged, how often.

    Attributes:
        statistic: the statistic.
        stratify_by: within what activations are exchanged.
        family: the family of ``family_trend``.
        n_shuffles: shuffles.
        seed: the spec's seed.
    """

    statistic: Statistic
    stratify_by: Stratum
    family: str | None
    n_shuffles: int
    seed: int


def where(question: Question) -> str:
    """Between which builds activations are exchanged."""
    return "within weapons" if question.stratify_by == "weapon" else "over all weapons"


@dataclass(frozen=True)
class Shuffled:
    """The answer of a permutation test.

    Attributes:
        observed: the statistic of the data.
        null: [n_shuffles], that of each shuffle.
        unit: the unit that attains it in the data.
        index: its column.
        effect: its effect, signed: a difference of means, a slope per AP, or a difference of shares.
        p_value: share of shuffles with at least as much, data included.
        specificity_p: share of random directions with at least as much; None where unknown.
    """

    observed: float
    null: Floats
    unit: str
    index: int
    effect: float
    p_value: float
    specificity_p: float | None


def prepared_for(
    ctx: Context, population: Population, question: Question, positions: NDArray[np.intp] | None = None
) -> Prepared:
    """The units and exchanges of a question on the examples of a population, or on some of them."""
    rows = population.rows if positions is None else population.rows[positions]

    def make() -> Prepared:
        return prepare(ctx, rows, question.statistic, question.stratify_by, question.family)

    sample = None if positions is None else rows.tobytes()
    return ctx.derived_for(
        population, ("shuffles", question.statistic, question.stratify_by, question.family, sample), make
    )


def unanswerable(prepared: Prepared) -> str | None:
    """Why nothing can be said of these examples; None where something can."""
    if len(prepared.exchange.first) < MIN_CLUSTERS:
        return f"fewer than {MIN_CLUSTERS} builds"
    if not prepared.labels:
        return "no unit has 20 examples"
    if not prepared.exchange.movable().any():
        return "no two builds of a weapon have as many examples: nothing can be exchanged"
    return None


def shuffle_test(
    ctx: Context, feature: int, population: Population, question: Question, *, high: HighSplit | None, job: Job
) -> Shuffled | str:
    """Compute the statistic on the data, on the shuffles and on random directions.

    Returns:
        The answer, or the reason why there is none.
    """
    prepared = prepared_for(ctx, population, question)
    reason = unanswerable(prepared)
    if reason is not None:
        return reason
    outcome = np.asarray(population.activation if high is None else high.high, dtype=np.float64)[None]
    given = prepared.outcomes(outcome)
    sums, read = prepared.sums(given), prepared.reader(given)
    (observed,), (index,) = largest(read(sums))
    if np.isnan(observed):
        return f"no shuffle {where(question)} changes anything"
    null = _null(prepared, given.values[0], read, question, job)
    return Shuffled(
        observed=float(observed),
        null=null,
        unit=prepared.labels[int(index)],
        index=int(index),
        effect=float(prepared.signed(given)(sums)[int(index), 0]),
        p_value=permutation_p(float(observed), null),
        specificity_p=_specificity(ctx, feature, population, question, outcome),
    )


def _null(prepared: Prepared, outcome: Floats, read: Reader, question: Question, job: Job) -> Floats:
    """The statistic of every shuffle, in blocks of bounded memory."""
    rng = np.random.default_rng([question.seed, SHUFFLE_STREAM])
    n = question.n_shuffles
    null: list[Floats] = []
    for at in range(0, n, _SHUFFLES_AT_ONCE):
        job.progress(at, n, "shuffles")
        some = min(_SHUFFLES_AT_ONCE, n - at)
        sums = shuffled_sums(prepared.exchange, outcome, prepared.columns, some, rng=rng, check=job.check)
        null.append(largest(read(sums))[0])
    return np.concatenate(null)


def _specificity(
    ctx: Context, feature: int, population: Population, question: Question, outcome: Floats
) -> float | None:
    """Share of random directions that go with a unit of the same examples at least as much."""
    found = null_activations(ctx, feature, population, question.seed)
    if found is None:
        return None
    others, own = found.activation, outcome[:, found.positions]
    if question.statistic == "top_token_concentration":
        others = top_of_each(others, int(own.sum()))
    prepared = prepared_for(ctx, population, question, found.positions)
    each = prepared.comparable(prepared.outcomes(np.vstack([own, others.T])))
    null = each[1:][~np.isnan(each[1:])]
    return None if np.isnan(each[0]) or not len(null) else share_at_least(float(each[0]), null)


def simultaneous_interval(prepared: Prepared, index: int, value: Floats) -> tuple[float, float]:
    """Cluster-robust interval of one unit's effect that holds for all units at once (Sidak); NaN where unknown."""
    exchange = prepared.exchange
    column = prepared.columns.column(index)[:, None] > 0
    effects = PresenceDesign.of(column, exchange.group, exchange.cluster).effects(value[exchange.order])
    low, high = effects.interval(sidak_level(0.95, len(prepared.labels)))
    return float(low[0]), float(high[0])
