"""How activation goes with holding an itemset, the weapon held fixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ....context.context import Context
from ....context.population import Population
from ....schemas.result import Status
from ...stats.itemsets import ItemRows, Itemsets, PackedItems
from ...stats.presence import PresenceDesign
from ...stats.tails import sidak_level

if TYPE_CHECKING:
    from scipy import sparse

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
EFFECT_EXAMPLES = 100_000
EFFECT_ENTRIES = 1_000_000
SAMPLE_STREAM = 18
Set = tuple[int, ...]


@dataclass(frozen=True)
class Effect:
    """Mean with an itemset minus mean without, within weapons, with a simultaneous 95 % interval; NaN where unknown."""

    value: float
    low: float
    high: float

    def status(self, min_effect: float) -> Status | None:
        """``present`` beyond min_effect, ``negligible`` within it, else ``unclear``; None where it is unknown."""
        if np.isnan(self.low):
            return None
        if self.low > min_effect or self.high < -min_effect:
            return "present"
        return "negligible" if -min_effect <= self.low and self.high <= min_effect else "unclear"


UNKNOWN = Effect(np.nan, np.nan, np.nan)


@dataclass
class EffectBook:
    """Effects of itemsets on one feature, each estimated once.

    Attributes:
        held: bool [n, k], items of the examples.
        value: [n], activation.
        weapon: [n].
        cluster: [n].
        levels: uint8 [n, families], levels of the examples.
        sampled: whether the examples are a sample of the population.
        level: level of each interval; the first `learn` sets it.
    """

    held: Bools
    value: Floats
    weapon: Ints
    cluster: Ints
    levels: NDArray[np.uint8]
    sampled: bool
    level: float = 0.95
    known: dict[Set, Effect] = field(default_factory=dict)

    @classmethod
    def of(cls, ctx: Context, population: Population, items: ItemRows, seed: int) -> EffectBook:
        """The examples of a population; above 100,000 of them whole builds drawn at random."""
        cluster = ctx.data.clusters[population.rows]
        kept = np.arange(len(population))
        if len(kept) > EFFECT_EXAMPLES:
            share = EFFECT_EXAMPLES / len(kept)
            drawn = np.random.default_rng([seed, SAMPLE_STREAM]).random(int(ctx.data.clusters.max()) + 1) < share
            kept = np.flatnonzero(drawn[cluster])
        return cls(
            held=items.held(kept),
            value=population.activation[kept].astype(np.float64),
            weapon=np.asarray(ctx.data.weapon[population.rows[kept]]),
            cluster=cluster[kept],
            levels=np.asarray(ctx.data.levels[population.rows[kept]]),
            sampled=len(kept) < len(population),
        )

    @cached_property
    def packed(self) -> PackedItems:
        """The examples' items, packed."""
        return PackedItems.of(self.held)

    def learn(self, sets: Itemsets) -> int:
        """Estimate the effects of the first sets, as many as there is time for; intervals hold for them at once.

        Returns:
            How many sets, from the first on, have an effect.
        """
        entries = np.cumsum(self.packed.count(sets.items))
        n = int(np.searchsorted(entries, EFFECT_ENTRIES, side="right"))
        n = min(max(n, 1), len(sets))
        self.level = sidak_level(0.95, n)
        self._estimate(sets.items[:n], [sets.members(i) for i in range(n)])
        return n

    def effect(self, members: Set) -> Effect:
        """Effect of one itemset."""
        if members not in self.known:
            self._estimate(np.array([members], dtype=np.int64), [members])
        return self.known[members]

    def _estimate(self, items: Ints, members: Sequence[Set]) -> None:
        columns = sparse_columns(self.packed.holders(items))
        effects = PresenceDesign.of(columns, self.weapon, self.cluster).effects(self.value)
        low, high = effects.interval(self.level)
        for index, one in enumerate(members):
            self.known[one] = Effect(float(effects.coefficient[index]), float(low[index]), float(high[index]))

    def contribution(self, members: Set, item: int, family: Ints) -> Effect:
        """What one item of a set adds for those who hold the rest, weapon and the levels of the rest held fixed.

        An item that only goes with more AP of its partner adds nothing here.
        """
        rest = [each for each in members if each != item]
        rows = np.flatnonzero(self.held[:, rest].all(axis=1))
        fixed = sorted({int(family[each]) for each in rest} - {int(family[item])})
        group = self.weapon[rows].astype(np.int64)
        for column in fixed:
            group = group * 256 + self.levels[rows, column]
        group = np.unique(group, return_inverse=True)[1]
        column = np.asarray(self.held[rows, item], dtype=np.bool_)
        return self._one(rows, column, group, len(members))

    def without(self, members: Set, others: Sequence[Set]) -> Effect:
        """Effect of a set among the examples that hold none of the other sets."""
        free = np.ones(len(self.value), dtype=np.bool_)
        for other in others:
            free &= ~self.held[:, list(other)].all(axis=1)
        rows = np.flatnonzero(free)
        return self._one(rows, np.asarray(self.held[rows][:, list(members)].all(axis=1)), self.weapon[rows], 1)

    def _one(self, rows: Ints, column: Bools, group: Ints, tests: int) -> Effect:
        if not column.any() or column.all():
            return UNKNOWN
        design = PresenceDesign.of(sparse_columns(column[None, :]), group, self.cluster[rows])
        effects = design.effects(self.value[rows])
        low, high = effects.interval(sidak_level(0.95, tests))
        return Effect(float(effects.coefficient[0]), float(low[0]), float(high[0]))


def sparse_columns(holders: Bools) -> sparse.csr_matrix:
    """Which examples hold each set [S, n], as CSR [n, S]."""
    from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

    n_sets, n = holders.shape
    rows = np.flatnonzero(holders) % n if n else np.zeros(0, dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(holders.sum(axis=1))])
    return sparse.csc_matrix((np.ones(len(rows)), rows, starts), shape=(n, n_sets)).tocsr()
