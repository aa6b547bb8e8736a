"""The grid of a heatmap: which levels of two families are crossed, and the builds that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from ....context.context import Context
from ....context.token_sets import TokenSets
from ....schemas.errors import RequestError
from ....schemas.vocabulary import Encoding
from ...design.report import short_name
from ...design.units import Unit, exclusive, unit_at, without_units

Ints = NDArray[np.integer]


@dataclass(frozen=True)
class Pairs:
    """The interactions of a grid, as positions among its cells; every array is [q].

    Attributes:
        both: cell (x, y), both above 0.
        first: cell (x, 0).
        second: cell (0, y).
    """

    both: Ints
    first: Ints
    second: Ints

    def matrix(self, n_cells: int) -> NDArray[np.float64]:
        """Contrasts f(x,y) - f(x,0) - f(0,y) over the effects of the cells 1.. against cell 0, [q, n_cells - 1].

        With effects against f(0,0) the contrast is the interaction: f(0,0) is left once, with a plus.
        """
        weights = np.zeros((len(self.both), n_cells))
        rows = np.arange(len(self.both))
        weights[rows, self.both] = 1.0
        weights[rows, self.first] -= 1.0
        weights[rows, self.second] -= 1.0
        return weights[:, 1:]


@dataclass(frozen=True)
class Grid:
    """Two families crossed.

    Attributes:
        families: family on x, family on y.
        asked: for each axis the AP asked for, ascending with 0 first, and the rung each resolves to.
        cells: resolved (x, y), by rising total AP: (0, 0) first, and the cells of an interaction before it.
        main_only: whether each axis is a main-only ability.
    """

    families: tuple[str, str]
    asked: tuple[dict[int, int], dict[int, int]]
    cells: tuple[tuple[int, int], ...]
    main_only: tuple[bool, bool]

    def head(self, n_cells: int) -> Grid:
        """The grid of its first cells."""
        return Grid(self.families, self.asked, self.cells[:n_cells], self.main_only)

    @cached_property
    def index(self) -> dict[tuple[int, int], int]:
        """Position of each cell."""
        return {cell: position for position, cell in enumerate(self.cells)}

    @cached_property
    def pairs(self) -> Pairs:
        """Its interactions."""
        both = [(x, y) for x, y in self.cells if x > 0 and y > 0]
        places = [
            [self.index[cell] for cell in cells]
            for cells in (both, [(x, 0) for x, _ in both], [(0, y) for _, y in both])
        ]
        return Pairs(*(np.asarray(place, dtype=np.intp) for place in places))

    def axis(self, which: int) -> list[int]:
        """Positions of the cells at which only one family is there: 0 for x, 1 for y."""
        return [i for i, cell in enumerate(self.cells) if cell[which] > 0 and cell[1 - which] == 0]

    def rows(self) -> list[tuple[int, int, int, int]]:
        """Cells as asked for: x, y and what they resolve to, x before y."""
        first, second = self.asked
        return [(x, y, first[x], second[y]) for x, y in product(first, second)]

    def resolutions(self) -> list[str]:
        """What to say of AP values that are no rung of the vocabulary."""
        return [
            f"rung {rung} of {family} is no rung of the vocabulary: {resolved} is used, as the tokenizer does"
            for family, asked in zip(self.families, self.asked, strict=True)
            for rung, resolved in asked.items()
            if rung != resolved
        ]

    def part(self, which: int, level: int) -> str:
        """One family at a level in words: SCU 29, CB."""
        name = short_name(self.families[which])
        return name if self.main_only[which] else f"{name} {level}"

    def label(self, cell: int) -> str:
        """A cell in words: SCU 29 with CB, SCU 29 without CB, neither."""
        x, y = self.cells[cell]
        if x and y:
            return f"{self.part(0, x)} with {self.part(1, y)}"
        if not x and not y:
            return "neither"
        which, level = (0, x) if x else (1, y)
        return f"{self.part(which, level)} without {short_name(self.families[1 - which])}"

    def positions(self, x: Ints, y: Ints) -> Ints:
        """The cell of each example at levels x, y [n]; -1 outside the grid."""
        place = np.full((256, 256), -1, dtype=np.intp)
        for position, cell in enumerate(self.cells):
            place[cell] = position
        return place[x, y]


def make_grid(ctx: Context, families: tuple[str, str], rungs: Sequence[Sequence[int] | None]) -> Grid:
    """Cross the levels of two families; 0, the absent level, always takes part.

    Raises:
        RequestError: one family twice, no level above 0, or AP out of range.
        UnknownNameError: no such family.
    """
    vocabulary = ctx.vocabulary
    for family in families:
        vocabulary.check_family(family)
    if families[0] == families[1]:
        raise RequestError(
            f"family_x and family_y are both {families[0]!r}: a heatmap crosses two families. Name another one, or "
            f"use family_1d_sweep or within_family_interference for one family. Nothing was run."
        )
    asked: list[dict[int, int]] = []
    for axis, family, given in zip("xy", families, rungs, strict=True):
        levels = sorted({0, *(vocabulary.rungs(family) if given is None else given)})
        if levels == [0]:
            raise RequestError(
                f"rungs_{axis} holds no level above 0: give one of {list(vocabulary.rungs(family))}, or leave it out "
                f"for all of them. Nothing was run."
            )
        asked.append({level: vocabulary.resolve(family, level) for level in levels})
    cells = sorted(set(product(asked[0].values(), asked[1].values())), key=lambda cell: (sum(cell), cell))
    mains = (vocabulary.is_main_only(families[0]), vocabulary.is_main_only(families[1]))
    return Grid(families, (asked[0], asked[1]), tuple(cells), mains)


def clashes(ctx: Context, first: str, second: str) -> bool:
    """Whether no build can hold both families: main-only abilities of one gear slot."""
    return exclusive(_unit(first, ctx), _unit(second, ctx), ctx)


def _unit(family: str, ctx: Context) -> Unit:
    return unit_at(family, ctx.vocabulary.rungs(family)[-1], ctx)


def write_cells(sets: TokenSets, grid: Grid, ctx: Context, *, encoding: Encoding, clear: bool) -> list[TokenSets]:
    """The same sets at every cell of the grid.

    A main-only ability takes its gear slot, so whatever main-only ability the slot holds goes in every cell. At level 0
    a family is taken out; above, its own tokens make room for the level, or with ``clear`` off stay below it.
    """
    vocabulary = ctx.vocabulary
    mains = [_unit(family, ctx) for family, main in zip(grid.families, grid.main_only, strict=True) if main]
    start = without_units(sets, mains, ctx)

    def at(these: TokenSets, family: str, level: int) -> TokenSets:
        if level == 0:
            return these.without(family, vocabulary)
        return these.with_level(family, level, vocabulary, encoding=encoding, clear=clear)

    columns = {x: at(start, grid.families[0], x) for x in sorted({x for x, _ in grid.cells})}
    return [at(columns[x], grid.families[1], y) for x, y in grid.cells]
