"""Which itemset to name: the one that tells most with the fewest items, if random directions tell less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....context.context import Context
from ....context.population import Population
from ...design.specificity import NullActivations, null_activations, share_at_least
from ...design.unit_columns import Kind, unit_columns
from ...stats.groups import MIN_N
from ...stats.itemsets import PackedItems
from ...stats.presence import PresenceDesign
from .effects import EffectBook, Set, sparse_columns
from .items import Transactions
from .null import Mined

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
NAMED = 3
TRIES = 12


def choose(
    candidates: Sequence[Set], book: EffectBook, family: Ints, qualified: set[Set], min_effect: float
) -> list[Set]:
    """The itemsets worth naming, the most telling first; at most three, none part of another.

    Each candidate is cut down to the items that add something. After the first, a set must also act where none of
    those named before is held: else it may only go with them.

    Args:
        candidates: qualified and closed sets.
        book: their effects; those surest of a large one are looked at first.
        family: [k], family of each item.
        qualified: sets that may be named.
        min_effect: smallest effect of interest.
    """
    chosen: list[Set] = []
    tries = 0
    for start in sorted(candidates, key=lambda each: -book.effect(each).low):
        if any(_comparable(start, other) for other in chosen):
            continue
        if len(chosen) == NAMED or tries == TRIES:
            break
        tries += 1
        found = cut_down(start, book, family, min_effect)
        if found not in qualified or any(_comparable(found, other) for other in chosen):
            continue
        if chosen and not book.without(found, chosen).low > min_effect:
            continue
        chosen.append(found)
    return chosen


def _comparable(first: Set, second: Set) -> bool:
    return set(first) <= set(second) or set(second) <= set(first)


def cut_down(members: Set, book: EffectBook, family: Ints, min_effect: float) -> Set:
    """Drop items that add no more than ``min_effect``, the least missed first.

    An item stays when the set's effect is surely that much above the effect of the rest, and when holding it surely
    adds that much for those who hold the rest at the same levels.
    """
    while len(members) > 1:
        low = book.effect(members).low
        idle: list[tuple[float, Set]] = []
        for item in members:
            rest = tuple(each for each in members if each != item)
            alone = book.effect(rest).value
            grows = low - alone > min_effect
            if not (grows and book.contribution(members, item, family).low > min_effect):
                idle.append((float(np.nan_to_num(alone, nan=-np.inf)), rest))
        if not idle:
            return members
        members = max(idle)[1]
    return members


@dataclass(frozen=True)
class _Kind:
    """Sets of one kind, compared on the feature and on random directions.

    Attributes:
        sets: what each candidate belongs to: an item, or a pair of items.
        own: [c], the feature's effect of each candidate.
        largest: [r], each direction's largest effect.
    """

    sets: list[Set]
    own: Floats
    largest: Floats

    def p_value(self, members: Set) -> float:
        """Share of directions whose largest effect is at least that of the best candidate within a set."""
        inside = [set(each) <= set(members) for each in self.sets]
        return share_at_least(float(self.own[inside].max(initial=0.0)), self.largest)

    def ranks(self) -> Floats:
        """The same share for each direction against the others, [r]."""
        beyond = len(self.largest) - np.searchsorted(np.sort(self.largest), self.largest, side="left")
        return beyond / len(self.largest)


@dataclass
class Specificity:
    """Compares named sets with what random directions offer: sets of the same kind, on the same examples.

    A single item is ranked by its best level, among each direction's largest effect of any item at one level; a larger
    set by its best pair, among each direction's largest effect of any pair of items. A direction may be named for
    either, so it counts by the better of its two ranks.

    Attributes:
        ctx: the context.
        feature: the feature.
        population: its examples.
        items: their items.
        mined: which of them may be part of a set.
        kind: what the items are.
        seed: of the sample of examples.
    """

    ctx: Context
    feature: int
    population: Population
    items: Transactions
    mined: Mined
    kind: Kind
    seed: int

    def p_values(self, sets: Sequence[Set]) -> list[float | None]:
        """Share of random directions with a set as telling, for each set; None where pooled vectors are unknown."""
        null = null_activations(self.ctx, self.feature, self.population, self.seed) if sets else None
        if null is None:
            return [None] * len(sets)
        kinds = self._kinds(null, sets)
        ranks = np.min([kind.ranks() for kind in kinds], axis=0)
        found = [kinds[len(each) > 1].p_value(each) for each in sets]
        return [max(float((1 + (ranks <= p).sum()) / (1 + len(ranks))), p) for p in found]

    def _kinds(self, null: NullActivations, sets: Sequence[Set]) -> list[_Kind]:
        """Single items at one level, and pairs of items."""
        rows = self.population.rows[null.positions]
        singles, whose = self._singles(rows, sets)
        pairs, names = self._pairs(self.items.rows.held(null.positions), sets)
        columns = sparse_columns(np.concatenate([singles, pairs]))
        design = PresenceDesign.of(columns, np.asarray(self.ctx.data.weapon[rows]), self.ctx.data.clusters[rows])
        largest = np.nan_to_num(design.coefficients(null.activation))
        activation = self.population.activation[null.positions].astype(np.float64)
        own = np.nan_to_num(design.coefficients(activation))
        parts = [(whose, slice(0, len(whose))), (names, slice(len(whose), None))]
        return [_Kind(each, own[where], largest[where].max(axis=0, initial=0.0)) for each, where in parts]

    def _singles(self, rows: Ints, sets: Sequence[Set]) -> tuple[Bools, list[Set]]:
        """Which examples hold each item at each level, [c, n], and the item."""
        columns = unit_columns(self.ctx, rows, "levels" if self.kind == "families" else self.kind)
        names = columns.family if self.kind == "families" else columns.labels
        item = {self.items.labels[index]: index for index in self.mined.allowed.tolist()}
        counts, of = columns.counts(), [item.get(name) for name in names]
        least = min(
            (_enough([counts[i] for i, own in enumerate(of) if own in each]) for each in sets if len(each) == 1),
            default=MIN_N,
        )
        kept = [index for index, own in enumerate(of) if own is not None and counts[index] >= least]
        matrix = columns.matrix[:, kept].toarray()
        return np.ascontiguousarray(matrix.T > 0), [(item[names[index]],) for index in kept]

    def _pairs(self, held: Bools, sets: Sequence[Set]) -> tuple[Bools, list[Set]]:
        """Which examples hold each common pair of items, [c, n], and the pair."""
        counted, family = held.astype(np.float32), self.mined.family
        family = np.arange(held.shape[1]) if family is None else family
        may = np.isin(np.arange(held.shape[1]), self.mined.allowed)
        together = np.triu(counted.T @ counted, 1) * (may & may[:, None] & (family[:, None] != family))
        larger = [list(combinations(each, 2)) for each in sets if len(each) > 1]
        least = min((_enough([together[pair] for pair in each]) for each in larger), default=MIN_N)
        pairs: list[Set] = [(int(i), int(j)) for i, j in np.argwhere(together >= least)]
        found = PackedItems.of(held).holders(np.array(pairs, dtype=np.int64).reshape(-1, 2))
        return found, pairs


def _enough(counts: Sequence[float]) -> int:
    """Examples that make a candidate: 20, or as many as hold the commonest part of a rarer set, and at least 1."""
    return int(np.clip(max(counts, default=MIN_N), 1, MIN_N))
