"""Sums over the cells of a table of groups by clusters: what means of groups and clustered errors are made of.

Which cell an example lies in depends on the rows alone, so a `Grouping` is made once for a population. A feature then
costs one pass over its active examples (`Grouping.sums`); the rest is arithmetic on cells, of which there are at most
as many as examples and often as few as clusters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]
_BLOCK = 1 << 18
"""Examples, cells, or pairs of these, that are looked at at once: what the processor's cache holds."""


def sum_by(group: Ints, value: Floats | Ints, n_groups: int) -> Floats:
    """Sum of the values of each group, [n_groups]."""
    return np.asarray(np.bincount(group, value, n_groups), dtype=np.float64)


@dataclass(frozen=True)
class Cells:
    """The c cells of groups by clusters that hold examples, cluster by cluster; arrays are [c].

    Attributes:
        cluster: ascending, 0 .. n_clusters - 1 without gaps.
        group: 0 .. n_groups - 1.
        size: examples.
        n_groups: number of groups.
    """

    cluster: Ints
    group: Ints
    size: Ints
    n_groups: int

    def __len__(self) -> int:
        return len(self.group)

    @property
    def n_clusters(self) -> int:
        """Number of clusters."""
        return int(self.cluster[-1]) + 1 if len(self.cluster) else 0

    @cached_property
    def starts(self) -> Ints:
        """First cell of each cluster and, last, the number of cells; [n_clusters + 1]."""
        return np.searchsorted(self.cluster, np.arange(self.n_clusters + 1))

    @cached_property
    def group_sizes(self) -> NDArray[np.int64]:
        """Examples of each group, [n_groups]."""
        return self.by_group(self.size).astype(np.int64)

    @cached_property
    def group_clusters(self) -> NDArray[np.int64]:
        """Clusters with an example in each group, [n_groups]."""
        return np.bincount(self.group, minlength=self.n_groups)

    @cached_property
    def cluster_sizes(self) -> NDArray[np.int64]:
        """Examples of each cluster, [n_clusters]."""
        return self.by_cluster(self.size).astype(np.int64)

    @cached_property
    def cluster_pairs(self) -> float:
        """Ordered pairs of different examples of one cluster, over all clusters."""
        sizes = self.cluster_sizes.astype(np.float64)
        return float((sizes * (sizes - 1.0)).sum())

    def by_group(self, value: Floats | Ints) -> Floats:
        """Sum of a value [c] over the cells of each group, [n_groups]."""
        total = np.zeros(self.n_groups)
        for at in range(0, len(self), _BLOCK):
            block = slice(at, at + _BLOCK)
            total += sum_by(self.group[block], value[block], self.n_groups)
        return total

    def by_cluster(self, value: Floats | Ints) -> Floats:
        """Sum of a value [c] over the cells of each cluster, [n_clusters]."""
        return sum_by(self.cluster, value, self.n_clusters)

    @cached_property
    def pairs(self) -> Pairs:
        """Cells of one cluster, two by two."""
        return Pairs.of(self)

    def products(self, value: Floats | Ints) -> Products:
        """Sum over clusters of s s', where s [n_groups] is the cluster's value [c] in each group."""
        pairs = self.pairs
        return Products(self.by_group(value * value), pairs.products(value), pairs.first, pairs.second)

    def gram(self, value: Floats) -> Floats:
        """The same as an array [n_groups, n_groups]."""
        return self.products(value).merged(np.arange(self.n_groups), self.n_groups)

    @cached_property
    def size_products(self) -> Products:
        """`products` of the numbers of examples."""
        return self.products(self.size.astype(np.float64))

    def merged(self, label: Ints, n_labels: int) -> Merge:
        """Put groups together: ``label`` [n_groups] names what each becomes part of, 0 .. n_labels - 1."""
        into, cells = _number(self.cluster, label[self.group], n_labels, self.size)
        if len(cells) == len(self) and bool(np.all(np.diff(into) > 0)):
            return Merge(None, replace(self, group=cells.group, n_groups=n_labels))
        return Merge(into, cells)

    def part(self, clusters: Bools) -> Part:
        """The cells of some of the clusters alone, ``clusters`` [n_clusters]."""
        kept, number = np.flatnonzero(clusters[self.cluster]), np.cumsum(clusters, dtype=np.int32) - 1
        cells = Cells(number[self.cluster[kept]], self.group[kept], self.size[kept], self.n_groups)
        return Part(kept.astype(np.int32), cells)


@dataclass(frozen=True)
class Pairs:
    """Pairs of different cells of one cluster, each once; about 10 bytes a pair.

    Attributes:
        left, right: int32 [m], the cells of each pair.
        place: int [m], which of the p pairs of groups that meet in a cluster.
        first, second: int [p], those groups: of the left cell, and of the right one.
    """

    left: Ints
    right: Ints
    place: Ints
    first: Ints
    second: Ints

    @classmethod
    def of(cls, cells: Cells) -> Pairs:
        """Pair each cell with those after it in its cluster."""
        lefts, rights, met = list[Ints](), list[Ints](), list[Ints]()
        for at in range(0, max(len(cells), 1), _BLOCK):
            here = np.arange(at, min(at + _BLOCK, len(cells)))
            count = cells.starts[1:][cells.cluster[here]] - here - 1
            left = np.repeat(here, count)
            right = np.arange(len(left)) - np.repeat(np.cumsum(count) - count - here - 1, count)
            lefts.append(left.astype(np.int32))
            rights.append(right.astype(np.int32))
            met.append(np.unique(_pair_key(cells, left, right)))
        known = np.unique(np.concatenate(met))
        number = np.min_scalar_type(len(known))
        places = [
            np.searchsorted(known, _pair_key(cells, left, right)).astype(number)
            for left, right in zip(lefts, rights, strict=True)
        ]
        left, right, place = (np.concatenate(parts) for parts in (lefts, rights, places))
        return cls(left, right, place, *np.divmod(known, cells.n_groups))

    def products(self, value: Floats | Ints) -> Floats:
        """Sum of the products of the values [c] of each pair, by the groups of both, [p]."""
        total = np.zeros(len(self.first))
        for left, right, place in self._blocks():
            total += sum_by(place, value[left] * value[right], len(total))
        return total

    def moments(self, value: Floats, other: Ints) -> tuple[Floats, Floats, Floats]:
        """`products` of a value [c], and sums by pair of the left one's value times the right one's other, and turned.

        Pairs in which neither has a value, most of them for most outcomes, cost little.
        """
        both, straight, turned = np.zeros((3, len(self.first)))
        for left, right, place in self._blocks():
            of_left, of_right = value[left], value[right]
            some, more = np.flatnonzero(of_left != 0), np.flatnonzero(of_right != 0)
            straight += sum_by(place[some], of_left[some] * other[right[some]], len(both))
            turned += sum_by(place[more], of_right[more] * other[left[more]], len(both))
            some = some[of_right[some] != 0]
            both += sum_by(place[some], of_left[some] * of_right[some], len(both))
        return both, straight, turned

    def _blocks(self) -> Iterator[tuple[Ints, Ints, Ints]]:
        for at in range(0, len(self.left), _BLOCK):
            block = slice(at, at + _BLOCK)
            yield self.left[block], self.right[block], self.place[block]


@dataclass(frozen=True)
class Products:
    """Sum over clusters of s s', s [n_groups] what the cluster has in each group, by the pairs of groups that meet.

    Attributes:
        own: [n_groups], squares.
        crossed: [p], products of two groups.
        first, second: int [p], those groups, which are different; each pair is there once.
    """

    own: Floats
    crossed: Floats
    first: Ints
    second: Ints

    def by_group(self) -> Floats:
        """Sum over clusters of what each group has times what all have, [n_groups]."""
        n = len(self.own)
        return self.own + sum_by(self.first, self.crossed, n) + sum_by(self.second, self.crossed, n)

    def merged(self, label: Ints, n_labels: int) -> Floats:
        """The same with groups put together by ``label`` [n_groups], as an array [n_labels, n_labels]."""
        place = label[self.first].astype(np.int64) * n_labels + label[self.second]
        off = sum_by(place, self.crossed, n_labels**2).reshape(n_labels, n_labels)
        return np.diag(sum_by(label, self.own, n_labels)) + off + off.T


def _pair_key(cells: Cells, left: Ints, right: Ints) -> NDArray[np.int64]:
    """One number for the groups of two cells."""
    return cells.group[left].astype(np.int64) * cells.n_groups + cells.group[right]


def _number(cluster: Ints, group: Ints, n_groups: int, size: Ints | None) -> tuple[NDArray[np.int32], Cells]:
    """Number the (cluster, group) pairs there are: the cell of each pair, and the cells; pairs count ``size``, or 1."""
    cell, clusters, groups, sizes = list[NDArray[np.int32]](), list[Ints](), list[Ints](), list[Ints]()
    n_cells, group_type = 0, np.int16 if n_groups <= np.iinfo(np.int16).max else np.int32
    for part in _runs_of_clusters(cluster):
        keys = cluster[part].astype(np.int64) * n_groups + group[part]
        found, number, counts = np.unique(keys, return_inverse=True, return_counts=True)
        cell.append((number + n_cells).astype(np.int32))
        clusters.append(found // n_groups)
        groups.append((found % n_groups).astype(group_type))
        sizes.append((counts if size is None else np.bincount(number, size[part], len(found))).astype(np.int32))
        n_cells += len(found)
    ids = np.concatenate(clusters)
    numbered = np.cumsum(np.diff(ids, prepend=ids[:1]) > 0, dtype=np.int32)
    return np.concatenate(cell), Cells(numbered, np.concatenate(groups), np.concatenate(sizes), n_groups)


def _runs_of_clusters(cluster: Ints) -> Iterator[slice]:
    """Cut clusters [n] that lie in order into runs of whole ones, which are sorted faster and in less memory."""
    n = len(cluster)
    edges = np.array([0, n])
    if n > _BLOCK and bool(np.all(cluster[1:] >= cluster[:-1])):
        edges = np.unique(np.concatenate([edges, np.searchsorted(cluster, cluster[_BLOCK::_BLOCK])]))
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        yield slice(start, stop)


@dataclass(frozen=True)
class Merge:
    """Cells put together.

    Attributes:
        into: int [c], which of the new cells each old one became part of; None where none met another.
        cells: the new cells.
    """

    into: Ints | None
    cells: Cells

    def sum(self, value: Floats) -> Floats:
        """Sum of a value of the old cells over each new one."""
        return value if self.into is None else sum_by(self.into, value, len(self.cells))


@dataclass(frozen=True)
class Part:
    """Some of the cells.

    Attributes:
        kept: int, which of them.
        cells: those, their clusters numbered anew.
    """

    kept: Ints
    cells: Cells


@dataclass(frozen=True)
class CellSums:
    """What one outcome adds up to in each cell; arrays are [c], float64.

    Attributes:
        cells: the cells.
        total: sum of the values.
        squares: sum of their squares.
        n_active: examples with a value above 0.
        active_total: sum of those values.
    """

    cells: Cells
    total: Floats
    squares: Floats
    n_active: Floats
    active_total: Floats

    @cached_property
    def held(self) -> tuple[Ints, Ints]:
        """Cells with a value other than 0, and their groups."""
        where = np.flatnonzero(self.squares != 0)
        return where, self.cells.group[where]

    def by_group(self, value: Floats) -> Floats:
        """Sum by group, [n_groups], of one of the sums [c]; where no example has a value there is nothing to add."""
        where, group = self.held
        return sum_by(group, value[where], self.cells.n_groups)

    def merged(self, merge: Merge) -> CellSums:
        """The same of cells put together."""
        arrays = (self.total, self.squares, self.n_active, self.active_total)
        return CellSums(merge.cells, *map(merge.sum, arrays))

    def among(self, part: Part) -> CellSums:
        """The same of some of the cells."""
        arrays = (self.total, self.squares, self.n_active, self.active_total)
        return CellSums(part.cells, *(array[part.kept] for array in arrays))


@dataclass(frozen=True)
class Grouping:
    """Which cell each example of a population lies in; 4 bytes an example, and about 10 a cell.

    Attributes:
        cell: int32 [n].
        cells: the cells.
    """

    cell: NDArray[np.int32]
    cells: Cells

    @classmethod
    def of(cls, group: Ints, n_groups: int, cluster: Ints) -> Grouping:
        """From groups [n], 0 .. n_groups - 1, and clusters [n], any integers from 0."""
        return cls(*_number(np.asarray(cluster), np.asarray(group), n_groups, None))

    def counts(self, chosen: Bools) -> Floats:
        """How many of the examples chosen, bool [n], lie in each cell, [c]."""
        return self._counts(self.cell[chosen])

    def totals(self, value: Floats) -> Floats:
        """Sum of a value [n] over each cell, [c]."""
        return sum_by(self.cell, value, len(self.cells))

    def sums(self, value: Floats) -> CellSums:
        """Sums of a value [n] over each cell; examples of value 0 cost next to nothing."""
        # Of booleans it finds them ten times as fast as of floats.
        where = np.flatnonzero(value != 0)
        cell, found = self.cell[where], value[where].astype(np.float64)
        total, squares = (sum_by(cell, weight, len(self.cells)) for weight in (found, found**2))
        active = found > 0
        if active.all():
            return CellSums(self.cells, total, squares, self._counts(cell), total)
        active_total = sum_by(cell[active], found[active], len(self.cells))
        return CellSums(self.cells, total, squares, self._counts(cell[active]), active_total)

    def _counts(self, cell: Ints) -> Floats:
        return np.bincount(cell, minlength=len(self.cells)).astype(np.float64)
