"""The table of itemsets: their support, how sure it is, and how activation goes with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ....context.population import Population
from ....schemas.result import Row, Status, Table
from ...stats.enrichment import fisher_greater, odds_ratio
from ...stats.groups import MIN_CLUSTERS, MIN_N
from ...stats.itemsets import Itemsets, PackedItems, closed_and_maximal, excess
from .effects import UNKNOWN, EffectBook
from .items import Transactions
from .null import Mined, adjusted_p

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
Counts = NDArray[np.int64]
SURE = 0.05
_CELLS = 1 << 21
_COMPARISONS = 20_000_000_000
"""Products of items and examples behind closed and maximal sets: about a second."""
FEW_CLUSTERS = f"fewer than {MIN_CLUSTERS} builds with it, or without it"
NOT_REACHED = "not among the itemsets whose effects were estimated: raise min_support or lower max_size"


class ItemsetRow(Row):
    """One frequent itemset."""

    tokens: list[str] = Field(description="Its items: families at any AP, or tokens.")
    size: int = Field(description="Number of items.")
    support_high: float = Field(description="Share of the high examples that hold all of them.")
    support_baseline: float | None = Field(description="Share of the other examples; null when there are none.")
    support_expected: float = Field(description="Share of the high examples expected from their weapons alone.")
    lift: float | None = Field(description="support_high / support_baseline; null when the baseline has none.")
    odds_ratio: float | None = Field(
        description="Odds of holding it, high against baseline (Haldane); null: no baseline."
    )
    odds_low: float | None = Field(description="Lower end of its 95 % interval (Woolf).")
    odds_high: float | None = Field(description="Upper end of its 95 % interval.")
    count: int = Field(description="High examples that hold it.")
    count_baseline: int = Field(description="Other examples that hold it.")
    n: int = Field(description="Examples that hold it.")
    n_active: int = Field(description="Active ones among them.")
    sparse: bool = Field(description="Whether fewer than 20 examples hold it.")
    p_value: float | None = Field(
        description="Fisher's exact test, one-sided, blind to weapons and builds; null: no baseline."
    )
    excess: float = Field(description="Signed root deviance of count from its expectation within weapon; about a z.")
    p_adjusted: float = Field(description="Max-T p of the excess over all itemsets; labels permuted within weapon.")
    mean_activation: float | None = Field(description="Mean activation over the n examples that hold it.")
    mean_when_active: float | None = Field(description="Mean over the active ones; null without any.")
    within_weapon_delta: float | None = Field(description="Mean with it minus mean without, within weapon.")
    ci_low: float | None = Field(description="Lower end of its 95 % interval, for all rows at once.")
    ci_high: float | None = Field(description="Upper end.")
    status: Status | None = Field(description="Verdict on within_weapon_delta against min_effect.")
    effect_reason: str | None = Field(description="Why the effect or its interval is null.")
    closed: bool = Field(description="No larger itemset has the same count.")
    maximal: bool = Field(description="No larger itemset is frequent.")


@dataclass(frozen=True)
class Scores:
    """What is known of each itemset, all arrays [S].

    Attributes:
        sets: the itemsets, counted among the high examples, the largest excess first.
        total: examples that hold each.
        expected: high examples expected to hold it.
        excess: see `stats.itemsets.excess`.
        p_adjusted: max-T adjusted p.
    """

    sets: Itemsets
    total: Counts
    expected: Floats
    excess: Floats
    p_adjusted: Floats


def score(mined: Mined, found: Itemsets, high: Bools, largest: Floats) -> Scores:
    """Put itemsets in order of how far their support exceeds chance.

    Args:
        mined: what was mined.
        found: the frequent itemsets of the high examples.
        high: bool [n].
        largest: [n_permutations], largest excess by chance.
    """
    total, expected = mined.packed.totals(found.items, mined.blocks.rate(high))
    value = excess(found.count, expected, int(high.sum()))
    # Ties (several sets of the same examples): the smaller set, then the order of the items.
    order = np.lexsort((np.arange(len(found)), found.size, -value))
    return Scores(found.take(order), total[order], expected[order], value[order], adjusted_p(value, largest)[order])


def itemset_table(
    scores: Scores,
    mined: Mined,
    items: Transactions,
    population: Population,
    high: Bools,
    *,
    book: EffectBook,
    n_effects: int,
    min_effect: float,
    n_rows: int,
) -> Table:
    """The first rows of the table of itemsets.

    Args:
        scores: itemsets in order.
        mined: what was mined.
        items: the examples' items.
        population: the examples.
        high: bool [n].
        book: effects of the first itemsets.
        n_effects: how many have one.
        min_effect: smallest effect of interest.
        n_rows: rows to make.
    """
    rows, n_high = np.arange(min(n_rows, len(scores.sets))), int(high.sum())
    sets, total = scores.sets.take(rows), scores.total[rows]
    active = np.flatnonzero(population.activation > 0)
    n_active, activation = _sums(items.rows.packed(active), sets, population.activation[active])
    closed, maximal = closed_and_maximal(
        items.rows.held(np.flatnonzero(high)), sets, mined.min_count, allowed=mined.allowed, family=mined.family
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        columns: dict[str, Any] = {
            "tokens": [[items.labels[item] for item in sets.members(i)] for i in rows.tolist()],
            "size": sets.size,
            **_contrast(sets.count, total, n_high, len(high) - n_high),
            "support_expected": scores.expected[rows] / n_high,
            "n": total,
            "n_active": n_active,
            "sparse": total < MIN_N,
            "excess": scores.excess[rows],
            "p_adjusted": scores.p_adjusted[rows],
            "mean_activation": activation / total,
            "mean_when_active": activation / n_active,
            **_effect_columns(book, sets, n_effects, min_effect),
            "closed": closed,
            "maximal": maximal,
        }
    return Table.from_columns("itemsets", ItemsetRow, columns)


def closed_counts(scores: Scores, mined: Mined, held: Bools, table: Table) -> tuple[int, int] | None:
    """How many of all itemsets are closed, and maximal; None where that is too much to compare.

    Args:
        scores: the itemsets in order.
        mined: what was mined.
        held: bool [n_high, k], items of the high examples.
        table: the first of them, as `itemset_table` gives them.
    """
    rest = scores.sets.take(np.arange(len(table.rows), len(scores.sets)))
    if len(rest) * len(held) * len(mined.allowed) > _COMPARISONS:
        return None
    closed, maximal = closed_and_maximal(held, rest, mined.min_count, allowed=mined.allowed, family=mined.family)
    first = [sum(row[name] for row in table.rows) for name in ("closed", "maximal")]
    return first[0] + int(closed.sum()), first[1] + int(maximal.sum())


def _contrast(count: Counts, total: Counts, n_high: int, n_low: int) -> dict[str, Any]:
    """High examples against the others; NaN where there are no others."""
    rest, none = total - count, np.full(len(count), np.nan)
    cells = (count, n_high - count, rest, n_low - rest)
    ratio = odds_ratio(*cells)
    return {
        "count": count,
        "count_baseline": rest,
        "support_high": count / n_high,
        "support_baseline": rest / n_low if n_low else none,
        "lift": np.where(rest > 0, (count / n_high) / (rest / max(n_low, 1)), np.nan),
        "odds_ratio": ratio.value if n_low else none,
        "odds_low": ratio.low if n_low else none,
        "odds_high": ratio.high if n_low else none,
        "p_value": fisher_greater(*cells) if n_low else none,
    }


def _effect_columns(book: EffectBook, sets: Itemsets, n_effects: int, min_effect: float) -> dict[str, Any]:
    """How activation goes with holding each set, or why that is unknown."""
    effects = [book.effect(sets.members(i)) if i < n_effects else UNKNOWN for i in range(len(sets))]
    return {
        "within_weapon_delta": [effect.value for effect in effects],
        "ci_low": [effect.low for effect in effects],
        "ci_high": [effect.high for effect in effects],
        "status": [effect.status(min_effect) for effect in effects],
        "effect_reason": [
            None if not np.isnan(effect.low) else FEW_CLUSTERS if i < n_effects else NOT_REACHED
            for i, effect in enumerate(effects)
        ],
    }


def _sums(packed: PackedItems, sets: Itemsets, value: Floats) -> tuple[Counts, Floats]:
    """Transactions that hold each set, and the sum of their values; in blocks of sets."""
    count, total = packed.count(sets.items), np.zeros(len(sets))
    step = max(_CELLS // max(packed.n, 1), 1)
    for start in range(0, len(sets), step):
        held = packed.holders(sets.items[start : start + step])
        total[start : start + step] = held.astype(np.float32) @ value
    return count, total
