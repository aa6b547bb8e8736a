"""What itemsets would be found by chance: the high labels permuted within weapon, whole builds at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...stats.itemsets import GroupedItems, ItemRows, Itemsets, PackedItems, excess, mine

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
_ROWS_AT_ONCE = 1 << 19
_TABLE = 1 << 20


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
        order = np.argsort(key, kind="stable").astype(np.int32)
        in_order = key[order]
        start = np.flatnonzero(np.concatenate([[True], in_order[1:] != in_order[:-1]])).astype(np.int32)
        size = np.diff(np.append(start, len(key))).astype(np.int32)
        named = weapon[order[start]].astype(np.int64) * (int(size.max(initial=0)) + 1) + size
        kind = np.unique(named, return_inverse=True)[1].astype(np.int32)
        stratum = np.zeros(len(key), dtype=np.int32)
        stratum[order] = np.repeat(kind, size)
        return cls(order, start, size, kind, np.argsort(kind, kind="stable").astype(np.int32), stratum)

    @property
    def n_strata(self) -> int:
        """Strata."""
        return int(self.kind.max(initial=-1)) + 1

    def rate(self, high: Bools) -> Floats:
        """Share of high examples in each stratum, [strata]: how often a permutation makes an example high."""
        n = np.bincount(self.stratum, minlength=self.n_strata)
        return np.asarray(np.bincount(self.stratum, high, self.n_strata) / n, dtype=np.float64)

    def labels(self, high: Bools) -> Labels:
        """The high labels [n], ready to be permuted."""
        where = np.flatnonzero(high[self.order])
        holder = np.searchsorted(self.start, where, side="right") - 1
        sources, source = np.unique(holder, return_inverse=True)
        members, kind = np.bincount(self.kind), self.kind[sources]
        return Labels(
            order=self.order,
            begin=self.start[self.place],
            source=source,
            inside=(where - self.start[holder]).astype(np.int32),
            size=self.size[sources],
            first=(np.cumsum(members) - members)[kind].astype(np.int32),
            choices=members[kind].astype(np.float64),
        )


@dataclass(frozen=True)
class Labels:
    """High labels of m examples in h blocks, and where they may go.

    Attributes:
        order: [n], examples block by block.
        begin: [b], where the block of each place begins in ``order``; places lie stratum by stratum.
        source: [m], block of each label, 0 .. h - 1.
        inside: [m], member of the block that has it.
        size: [h], examples of each block.
        first: [h], first place of its stratum.
        choices: [h], places there.
    """

    order: Ints
    begin: Ints
    source: Ints
    inside: Ints
    size: Ints
    first: Ints
    choices: Floats

    def permuted(self, n: int, rng: np.random.Generator) -> Ints:
        """Examples that are high after each of ``n`` permutations of the labels, [n, m]."""
        rows = np.empty((n, len(self.source)), dtype=np.int32)
        step = max(_TABLE // len(self.begin), 1)
        for at in range(0, n, step):
            some = slice(at, min(at + step, n))
            target = self.begin[self._drawn(some.stop - at, rng)]
            turn = (rng.random(target.shape) * self.size).astype(np.int32)
            offset = self.inside + np.take(turn, self.source, axis=1)
            offset -= self.size[self.source] * (offset >= self.size[self.source])
            rows[some] = self.order[np.take(target, self.source, axis=1) + offset]
        return rows

    def _drawn(self, n: int, rng: np.random.Generator) -> Ints:
        """A place of its own for each of h blocks, in each of ``n`` permutations, [n, h].

        Blocks draw their places at random; of those that drew the same one a single block keeps it and the others
        draw again. All places of a stratum are treated alike throughout, so every assignment is equally likely.
        """
        h, b = len(self.size), len(self.begin)
        base = np.repeat(np.arange(n, dtype=np.int32) * b, h)
        first, choices = base + np.tile(self.first, n), np.tile(self.choices, n)
        taken, left = np.full(n * b, -1, dtype=np.int32), np.arange(n * h, dtype=np.int32)
        drawn = cell = first + (rng.random(len(left)) * choices).astype(np.int32)
        while len(left):
            free = taken[cell] < 0
            taken[cell[free]] = left[free]
            lost = taken[cell] != left
            left = left[lost]
            cell = first[left] + (rng.random(len(left)) * choices[left]).astype(np.int32)
            drawn[left] = cell
        return (drawn - base).reshape(n, h)


@dataclass(frozen=True)
class Mined:
    """What there is to mine, and how.

    Attributes:
        rows: items of the examples.
        packed: the same, packed by stratum of the blocks.
        blocks: which labels are exchangeable.
        min_count: smallest count of a frequent itemset among the high examples.
        max_size: largest itemset.
        allowed: items that may be part of one.
        family: [k], family of each item, where no set holds two of one; else None.
    """

    rows: ItemRows
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
        m, expected = int(high.sum()), Expected(self.packed, self.blocks.rate(high))
        step, labels = max(_ROWS_AT_ONCE // m, 1), self.blocks.labels(high)
        found: list[Floats] = []
        for start in range(0, n_permutations, step):
            rows = labels.permuted(min(step, n_permutations - start), rng)
            sets = self.frequent(self.rows.packed(rows), check)
            largest = np.zeros(len(rows))
            chance, column = np.nonzero(sets.count >= self.min_count)
            np.maximum.at(largest, chance, excess(sets.count[chance, column], expected.of(sets.items)[column], m))
            found.append(largest)
        return np.concatenate(found)


class Expected:
    """How many high examples hold an itemset by chance, counted once for each itemset.

    Args:
        packed: the examples' items, by stratum.
        rate: [strata], share of high examples.
    """

    def __init__(self, packed: GroupedItems, rate: Floats) -> None:
        self._packed, self._rate = packed, rate
        self._names, self._values = np.zeros(0, dtype=np.int64), np.zeros(0)

    def of(self, items: Ints) -> Floats:
        """Of itemsets [S, size], as `Itemsets` gives them; always of one size."""
        k = self._packed.items.words.shape[0]
        names = items.astype(np.int64) @ (k ** np.arange(items.shape[1], dtype=np.int64))
        new = np.flatnonzero(~np.isin(names, self._names))
        if len(new):
            every = np.concatenate([self._names, names[new]])
            values = np.concatenate([self._values, self._packed.totals(items[new], self._rate)[1]])
            order = np.argsort(every)
            self._names, self._values = every[order], values[order]
        return self._values[np.searchsorted(self._names, names)]


def adjusted_p(observed: Floats, largest: Floats) -> Floats:
    """(1 + permutations whose largest statistic is at least as large) / (1 + permutations), for each observed [S]."""
    beyond = len(largest) - np.searchsorted(np.sort(largest), observed * (1.0 - 1e-9), side="left")
    return (1.0 + beyond) / (1.0 + len(largest))
