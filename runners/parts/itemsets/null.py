"""What itemsets would be found by chance: the high labels permuted within weapon, whole builds at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...stats.itemsets import GroupedItems, Itemsets, PackedItems, excess, mine

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
_BLOCK_BYTES = 1 << 26


@dataclass(frozen=True)
class Blocks:
    """Examples in blocks whose high labels are exchangeable.

    A block is the examples of one build with one weapon. Under the null hypothesis the labels know nothing of the
    abilities, given the weapon; but examples of one build share both, so the labels of a block move together, to a
    block of the same weapon and size (a stratum), and turn in it: every example of a stratum is equally often high.

    Attributes:
        order: [n], examples block by block.
        start: [b], where each block begins in ``order``.
        size: [b], examples of each block.
        kind: [b], stratum of each block.
        place: [b], blocks in order of their stratum.
        stratum: [n], stratum of each example.
    """

    order: Ints
    start: Ints
    size: Ints
    kind: Ints
    place: Ints
    stratum: Ints

    @classmethod
    def of(cls, weapon: Ints, cluster: Ints) -> Blocks:
        """Blocks of examples with these weapons and clusters, [n] each."""
        key = weapon.astype(np.int64) * (int(cluster.max(initial=0)) + 1) + cluster
        order = np.argsort(key, kind="stable")
        in_order = key[order]
        start = np.flatnonzero(np.concatenate([[True], in_order[1:] != in_order[:-1]]))
        size = np.diff(np.append(start, len(key)))
        named = weapon[order[start]].astype(np.int64) * (int(size.max(initial=0)) + 1) + size
        kind = np.unique(named, return_inverse=True)[1]
        stratum = np.zeros(len(key), dtype=np.int64)
        stratum[order] = np.repeat(kind, size)
        return cls(order, start, size, kind, np.argsort(kind, kind="stable"), stratum)

    @property
    def n_strata(self) -> int:
        """Strata."""
        return int(self.kind.max(initial=-1)) + 1

    def rate(self, high: Bools) -> Floats:
        """Share of high examples in each stratum, [strata]: how often a permutation makes an example high."""
        n = np.bincount(self.stratum, minlength=self.n_strata)
        return np.asarray(np.bincount(self.stratum, high, self.n_strata) / n, dtype=np.float64)

    def permuted(self, high: Bools, n: int, rng: np.random.Generator) -> Ints:
        """Examples that are high after each of ``n`` permutations of the labels, [n, m] for m high examples.

        Blocks draw their places at random; of those that drew the same one a single block keeps it and the others
        draw again. All places of a stratum are treated alike throughout, so every assignment is equally likely.
        """
        where = np.flatnonzero(high[self.order])
        holder = np.searchsorted(self.start, where, side="right") - 1
        sources, source = np.unique(holder, return_inverse=True)
        members = np.bincount(self.kind)
        first, choices = (np.cumsum(members) - members)[self.kind[sources]], members[self.kind[sources]]
        h, b = len(sources), len(self.start)
        taken, drawn, left = np.full(n * b, -1, dtype=np.int64), np.zeros(n * h, dtype=np.int64), np.arange(n * h)
        while len(left):
            spot = first[left % h] + rng.integers(0, choices[left % h])
            cell = (left // h) * b + spot
            free = taken[cell] < 0
            taken[cell[free]] = left[free]
            won = taken[cell] == left
            drawn[left[won]] = spot[won]
            left = left[~won]
        target = self.start[self.place[drawn.reshape(n, h)]][:, source]
        turn = rng.integers(0, self.size[sources], (n, h))[:, source]
        offset = (where - self.start[holder] + turn) % self.size[holder]
        return self.order[target + offset]


@dataclass(frozen=True)
class Mined:
    """What there is to mine, and how.

    Attributes:
        held: bool [n, k], items of the examples.
        packed: the same, packed by stratum of the blocks.
        blocks: which labels are exchangeable.
        min_count: smallest count of a frequent itemset among the high examples.
        max_size: largest itemset.
        allowed: items that may be part of one.
        family: [k], family of each item, where no set holds two of one; else None.
    """

    held: Bools
    packed: GroupedItems
    blocks: Blocks
    min_count: int
    max_size: int
    allowed: Ints
    family: Ints | None

    def frequent(self, items: PackedItems, check: Callable[[], None]) -> Itemsets:
        """The itemsets that are frequent in packed transactions.

        Raises:
            TooManyItemsets: from `mine`.
        """
        return mine(items, self.min_count, self.max_size, allowed=self.allowed, family=self.family, check=check)

    def largest_by_chance(
        self, high: Bools, n_permutations: int, rng: np.random.Generator, check: Callable[[], None]
    ) -> Floats:
        """The largest `excess` of any itemset after each permutation of the high labels, [n_permutations].

        Each permutation is mined as the data were: itemsets are chosen by their support among the high examples, so
        the maximum must be taken over those that chance would choose (Westfall and Young 1993).

        Raises:
            TooManyItemsets: from `mine`.
        """
        m, rate = int(high.sum()), self.blocks.rate(high)
        few = replace(
            self,
            held=self.held[:, self.allowed],
            allowed=np.arange(len(self.allowed)),
            family=None if self.family is None else self.family[self.allowed],
        )
        step = max(_BLOCK_BYTES // max(m * len(self.allowed), len(self.blocks.start) * 8), 1)
        found: list[Floats] = []
        for start in range(0, n_permutations, step):
            rows = self.blocks.permuted(high, min(step, n_permutations - start), rng)
            sets = few.frequent(PackedItems.of(few.held[rows]), check)
            _, expected = self.packed.totals(self.allowed[sets.items], rate)
            largest = np.zeros(len(rows))
            chance, column = np.nonzero(sets.count >= self.min_count)
            np.maximum.at(largest, chance, excess(sets.count[chance, column], expected[column], m))
            found.append(largest)
        return np.concatenate(found)


def adjusted_p(observed: Floats, largest: Floats) -> Floats:
    """(1 + permutations whose largest statistic is at least as large) / (1 + permutations), for each observed [S]."""
    beyond = len(largest) - np.searchsorted(np.sort(largest), observed * (1.0 - 1e-9), side="left")
    return (1.0 + beyond) / (1.0 + len(largest))
