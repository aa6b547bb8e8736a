"""What core coverage asks of the examples alone: made once for a population, whatever the feature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....context.context import Context
from ....context.population import Population
from ...design.unit_columns import UnitColumns, held_levels, unit_columns, weapon_design
from ...stats.cells import Grouping
from ...stats.presence import PresenceDesign
from ..weapons.by_weapon import by_weapon
from .rates import Coverage, GroupCoverage

Ints = NDArray[np.integer[Any]]


def checked_columns(ctx: Context, population: Population, units: Sequence[tuple[str, str, int]] | None) -> UnitColumns:
    """Columns of the units checked, as (label, family, least level); every family at any AP where none are given."""
    if units is None:
        return unit_columns(ctx, population.rows, "families")
    labels, families, least = zip(*units, strict=True)
    held = held_levels(ctx, population.rows, families, least, [0] * len(units))
    return UnitColumns(tuple(labels), tuple(families), tuple(least), held)


@dataclass(frozen=True)
class Things:
    """Tokens over a population, taken apart once for all features: columns, design, and coverage of all examples."""

    columns: UnitColumns
    design: PresenceDesign
    everything: Coverage


def things_of(ctx: Context, population: Population, units: Sequence[tuple[str, str, int]] | None) -> Things:
    """The units checked over a population: every family where none are given."""

    def make() -> Things:
        columns = checked_columns(ctx, population, units)
        design = weapon_design(ctx, population, columns)
        everything = Coverage.counted(np.arange(len(design.sizes), dtype=np.int32), design.sizes, design.held)
        return Things(columns, design, everything)

    name = None if units is None else tuple(units)
    return ctx.derived_for(population, ("coverage", name), make)


@dataclass(frozen=True)
class WeaponsSeen:
    """Weapons over a population, taken apart once for all features.

    Attributes:
        grouping: examples by weapon and cluster: no cluster has two weapons, so that a cell is a cluster.
        everything: coverage of all examples.
    """

    grouping: Grouping
    everything: GroupCoverage

    def coverage(self, rows: Ints) -> GroupCoverage:
        """Coverage of some examples."""
        cells = self.grouping.cells
        return GroupCoverage.of_rows_by_group(rows, self.grouping.cell, cells.group, cells.n_groups)


def weapons_of(ctx: Context, population: Population) -> WeaponsSeen:
    """The weapons over a population."""

    def make() -> WeaponsSeen:
        grouping = by_weapon(ctx, population).grouping
        cells = grouping.cells
        count, clusters = cells.by_group(cells.size.astype(np.float64)), np.arange(len(cells), dtype=np.int32)
        return WeaponsSeen(grouping, GroupCoverage(len(population), count, clusters, cells.size, cells.group))

    return ctx.derived_for(population, "coverage of weapons", make)
