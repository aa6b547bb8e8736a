"""Exact mining of frequent itemsets: level by level (Agrawal and Srikant 1994) on bit sets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]
MAX_ITEMSETS = 200_000
MAX_CANDIDATES = 2_000_000
_BLOCK_WORDS = 1 << 17
_BLOCK_CELLS = 1 << 21
_BITS = 64
_TOLERANCE = 1e-9


class TooManyItemsets(ValueError):  # noqa: N818 - says what was found
    """More itemsets, or candidates for them, than can be counted in reasonable time.

    Args:
        size: itemsets of how many items there were too many of.
        n: how many there are, or would have to be counted.
    """

    def __init__(self, size: int, n: int) -> None:
        super().__init__(f"{n:,} itemsets of {size} items")
        self.size, self.n = size, n


@dataclass(frozen=True)
class ItemRows:
    """Which items each transaction holds, a bit an item: small, and quick to draw transactions from.

    Attributes:
        words: uint64 [ceil(k / 64), n]; bit j of word w says whether item 64 w + j is held.
        k: items.
    """

    words: NDArray[np.uint64]
    k: int

    @classmethod
    def stacked(cls, parts: Iterable[Bools]) -> ItemRows:
        """Transactions [n, k], given in blocks of rows."""
        words: list[NDArray[np.uint64]] = []
        k = 0
        for part in parts:
            k = part.shape[1]
            filled = np.pad(part, ((0, 0), (0, -k % _BITS)))
            words.append(np.packbits(filled, axis=1, bitorder="little").view(np.uint64).T)
        return cls(np.ascontiguousarray(np.concatenate(words, axis=1)), k)

    def held(self, rows: Ints) -> Bools:
        """Some transactions as [m, k]."""
        own = np.ascontiguousarray(self.words[:, rows].T)
        return np.unpackbits(own.view(np.uint8), axis=1, count=self.k, bitorder="little").view(np.bool_)

    def packed(self, rows: Ints) -> PackedItems:
        """Some transactions [..., m], packed by item; leading axes are separate sets of transactions."""
        m, lead = rows.shape[-1], rows.shape[:-1]
        filled = np.zeros((*lead, -(-m // _BITS) * _BITS), dtype=np.intp)
        filled[..., :m] = rows
        at = np.moveaxis(filled.reshape((*lead, -1, _BITS)), -1, 0)
        items: list[NDArray[np.uint64]] = []
        for own in self.words:
            words = own[at]
            if m % _BITS:
                words[m % _BITS :, ..., -1] = 0
            _transpose_bits(words)
            items.append(words)
        return PackedItems(np.ascontiguousarray(np.moveaxis(np.concatenate(items)[: self.k], 0, -2)), m)


def _transpose_bits(words: NDArray[np.uint64]) -> None:
    """Transpose squares of 64 x 64 bits in place: bit j of ``words[i]`` becomes bit i of ``words[j]``.

    Halves, quarters and so on change places (Warren 2012, Hacker's Delight, section 7-3), in all squares at once.
    """
    step, mask = _BITS // 2, (1 << (_BITS // 2)) - 1
    while step:
        pairs = words.reshape((-1, 2, step, *words.shape[1:]))
        low, high = pairs[:, 0], pairs[:, 1]
        change = ((low >> np.uint64(step)) ^ high) & np.uint64(mask)
        high ^= change
        low ^= change << np.uint64(step)
        step //= 2
        mask ^= mask << step


@dataclass(frozen=True)
class PackedItems:
    """Which transactions hold each item, 64 transactions a word.

    Attributes:
        words: uint64 [..., k, w]; leading axes are separate sets of transactions with the same items.
        n: transactions in each.
    """

    words: NDArray[np.uint64]
    n: int

    @classmethod
    def of(cls, held: Bools) -> PackedItems:
        """Pack transactions [..., n, k]."""
        n = held.shape[-2]
        turned = np.ascontiguousarray(np.swapaxes(held, -1, -2))
        padding = [(0, 0)] * (turned.ndim - 1) + [(0, -n % _BITS)]
        packed = np.packbits(np.pad(turned, padding) if n % _BITS else turned, axis=-1, bitorder="little")
        return cls(packed.view(np.uint64), n)

    def blocks(self, sets: Ints) -> Iterator[tuple[slice, NDArray[np.uint64]]]:
        """Which transactions hold every item of each set [S, size], as words [..., block, w], in blocks of sets."""
        per_set = max(int(np.prod(self.words.shape[:-2])) * self.words.shape[-1], 1)
        step = max(_BLOCK_WORDS // per_set, 1)
        for start in range(0, len(sets), step):
            part = slice(start, min(start + step, len(sets)))
            yield part, self._holding(sets[part])

    def _holding(self, sets: Ints) -> NDArray[np.uint64]:
        """The same for a block of sets."""
        if sets.shape[1] == 1:
            return self.words[..., sets[:, 0], :]
        # Sets that differ in their last item alone follow one another: what they share is looked up once.
        new = np.concatenate([[True], np.any(sets[1:, :-1] != sets[:-1, :-1], axis=1)])
        shared = self.words[..., sets[new, 0], :]
        for column in range(1, sets.shape[1] - 1):
            shared &= self.words[..., sets[new, column], :]
        held = shared[..., np.cumsum(new) - 1, :]
        held &= self.words[..., sets[:, -1], :]
        return held

    def count(self, sets: Ints) -> NDArray[np.int64]:
        """Transactions that hold every item of each set, [..., S]."""
        counts = np.zeros((*self.words.shape[:-2], len(sets)), dtype=np.int64)
        for part, held in self.blocks(sets):
            counts[..., part] = np.bitwise_count(held).sum(axis=-1, dtype=np.int64)
        return counts

    def holders(self, sets: Ints) -> Bools:
        """Whether each transaction holds every item of each set, [..., S, n]; the caller bounds S."""
        held = [
            np.unpackbits(words.view(np.uint8), axis=-1, count=self.n, bitorder="little")
            for _, words in self.blocks(sets)
        ]
        if not held:
            return np.zeros((*self.words.shape[:-2], 0, self.n), dtype=np.bool_)
        return np.concatenate(held, axis=-2).view(np.bool_)


@dataclass(frozen=True)
class GroupedItems:
    """Transactions packed group by group, so that each word belongs to one group.

    Attributes:
        items: the packed transactions, in order of group, each group filled up to whole words.
        group: int [w], group of each word.
    """

    items: PackedItems
    group: Ints

    @classmethod
    def of(cls, rows: ItemRows, group: Ints, n_groups: int) -> GroupedItems:
        """Pack transactions with their groups [n], 0 .. n_groups - 1."""
        sizes = np.bincount(group, minlength=n_groups)
        words = -(-sizes // _BITS)
        start, first = np.cumsum(words) * _BITS - words * _BITS, np.cumsum(sizes) - sizes
        order = np.argsort(group, kind="stable")
        laid = np.zeros((len(rows.words), int(words.sum()) * _BITS), dtype=np.uint64)
        laid[:, np.arange(len(group)) + (start - first)[group[order]]] = rows.words[:, order]
        filled = ItemRows(laid, rows.k)
        return cls(filled.packed(np.arange(laid.shape[1])), np.repeat(np.arange(n_groups), words))

    def totals(self, sets: Ints, rate: Floats) -> tuple[NDArray[np.int64], Floats]:
        """Transactions with each set, and their sum weighted by the rate [n_groups] of their group; [S] each."""
        weights = np.stack([np.ones(len(self.group)), rate[self.group]], axis=1)
        found = np.zeros((len(sets), 2))
        for part, held in self.items.blocks(sets):
            found[part] = np.bitwise_count(held).astype(np.float64) @ weights
        return np.rint(found[:, 0]).astype(np.int64), found[:, 1]


@dataclass(frozen=True)
class Itemsets:
    """Itemsets of any size.

    Attributes:
        items: int [S, max_size], items ascending; shorter sets repeat their last item.
        size: int [S].
        count: int [..., S], transactions with each set.
    """

    items: Ints
    size: Ints
    count: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.items)

    def members(self, index: int) -> tuple[int, ...]:
        """Items of one set."""
        return tuple(self.items[index, : self.size[index]].tolist())

    def take(self, order: Ints) -> Itemsets:
        """The chosen sets, in that order."""
        return Itemsets(self.items[order], self.size[order], self.count[..., order])


def fewest(min_support: float, n: int) -> int:
    """Smallest count whose share of n transactions is at least ``min_support``."""
    return max(int(np.ceil(min_support * n - _TOLERANCE)), 1)


def mine(
    items: PackedItems,
    min_count: int,
    max_size: int,
    *,
    allowed: Ints,
    family: Ints | None = None,
    check: Callable[[], None] | None = None,
) -> Itemsets:
    """Every itemset of at most ``max_size`` items that ``min_count`` transactions hold.

    With separate sets of transactions: every itemset that is frequent in one of them. Every subset of a frequent set
    is frequent, so candidates of a size are two frequent sets of one item less that share all but their last item.

    Args:
        items: packed transactions.
        min_count: at least 1.
        max_size: at least 1.
        allowed: items that may be part of a set, ascending.
        family: int [k], family of each item; no set holds two items of a family. None: any two items may meet.
        check: called between sizes; may raise to stop.

    Raises:
        TooManyItemsets: before they are counted.
    """
    candidates = allowed.reshape(-1, 1).astype(np.int32)
    sets, counts, total = [], [], 0
    for size in range(1, max_size + 1):
        if check is not None:
            check()
        count = items.count(candidates)
        frequent = (count >= min_count).any(axis=tuple(range(count.ndim - 1)))
        candidates, count = candidates[frequent], count[..., frequent]
        total += len(candidates)
        if total > MAX_ITEMSETS:
            raise TooManyItemsets(size, total)
        sets.append(candidates)
        counts.append(count)
        if len(candidates) < 2 or size == max_size:
            break
        candidates = _joined(candidates, family)
        if not len(candidates):
            break
    padded = [np.pad(each, ((0, 0), (0, max_size - each.shape[1])), mode="edge") for each in sets]
    sizes = np.repeat([each.shape[1] for each in sets], [len(each) for each in sets])
    return Itemsets(np.concatenate(padded), sizes, np.concatenate(counts, axis=-1))


def _joined(sets: Ints, family: Ints | None) -> Ints:
    """Candidates of one item more: pairs of sets, sorted, that differ in their last item alone."""
    n, size = sets.shape
    new = np.any(sets[1:, :-1] != sets[:-1, :-1], axis=1) if size > 1 else np.zeros(n - 1, dtype=np.bool_)
    group = np.concatenate([[0], np.cumsum(new)])
    end = np.cumsum(np.bincount(group))[group]
    partners = end - np.arange(n) - 1
    total = int(partners.sum())
    if total > MAX_CANDIDATES:
        raise TooManyItemsets(size + 1, total)
    left = np.repeat(np.arange(n), partners)
    right = left + 1 + np.arange(total) - np.repeat(np.cumsum(partners) - partners, partners)
    joined = np.concatenate([sets[left], sets[right, -1:]], axis=1)
    return joined if family is None else joined[family[joined[:, -1]] != family[joined[:, -2]]]


def closed_and_maximal(
    held: Bools, found: Itemsets, min_count: int, *, allowed: Ints, family: Ints | None = None
) -> tuple[Bools, Bools]:
    """Whether each set is closed (no larger set has its count) and maximal (no larger set is frequent), [S] each.

    Larger sets are those of one item more that `mine` would allow, whatever its ``max_size``.

    Args:
        held: the transactions [n, k].
        found: what `mine` found in them.
        min_count: as for `mine`.
        allowed: as for `mine`.
        family: as for `mine`.
    """
    packed, columns = PackedItems.of(held), held[:, allowed].astype(np.float32)
    closed, maximal = np.zeros(len(found), dtype=np.bool_), np.zeros(len(found), dtype=np.bool_)
    step = max(_BLOCK_CELLS // max(len(held), 1), 1)
    group = np.arange(held.shape[1]) if family is None else family
    for start in range(0, len(found), step):
        part = slice(start, start + step)
        larger = packed.holders(found.items[part]).astype(np.float32) @ columns
        own = (group[found.items[part]][:, :, None] == group[allowed]).any(axis=1)
        larger[own] = 0.0
        closed[part] = ~(larger >= found.count[part, None]).any(axis=1)
        maximal[part] = ~(larger >= min_count).any(axis=1)
    return closed, maximal


def excess(count: Ints, expected: Floats, n: int) -> Floats:
    """How far a count lies above its expectation: the signed root of the deviance of a binomial.

    ``2 n KL(count / n || expected / n)``, whose root is about standard normal, and stays so for the rare sets whose
    hypergeometric z explodes (McCullagh and Nelder 1989, section 4.4); 0 where the count is not above.

    Args:
        count: transactions with the set among n.
        expected: what they would be by chance, above 0 where the count is.
        n: transactions.
    """
    found = np.asarray(count, dtype=np.float64)
    rest, above = n - found, found > expected
    deviance = special.rel_entr(found, np.where(above, expected, found))
    deviance = deviance + special.rel_entr(rest, np.where(above, n - expected, rest))
    return np.sqrt(2.0 * np.maximum(deviance, 0.0))
