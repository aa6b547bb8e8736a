"""The examples of a population by weapon, weapon class and cluster: made once for the rows, whatever the feature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ....context.context import Context
from ....context.population import Population
from ...stats.adjusted import AdjustedEffects
from ...stats.cells import Grouping, Merge


@dataclass(frozen=True)
class ByWeapon:
    """Where the examples of a population lie.

    Attributes:
        grouping: by weapon token and cluster.
        classes: the same cells, put together by the classes of `class_names`.
    """

    grouping: Grouping
    classes: Merge


def by_weapon(ctx: Context, population: Population) -> ByWeapon:
    """Group a population's examples by weapon and by class."""

    def make() -> ByWeapon:
        weapon = np.asarray(ctx.data.weapon)[population.rows]
        grouping = Grouping.of(weapon, len(ctx.weapons), ctx.data.clusters[population.rows])
        names, of_weapon = class_names(ctx)
        return ByWeapon(grouping, grouping.cells.merged(of_weapon, len(names)))

    return ctx.derived_for(population, "by weapon", make)


def adjusted_weapons(ctx: Context, population: Population, grouping: Grouping) -> AdjustedEffects:
    """What makes effects of weapons with the abilities held fixed, of a population grouped by weapon."""
    rows = population.rows

    def make() -> AdjustedEffects:
        return AdjustedEffects.of(grouping, lambda positions: ctx.data.token_matrix(rows[positions]))

    return ctx.derived_for(population, "weapons and tokens", make)


def class_names(ctx: Context) -> tuple[list[str], NDArray[np.intp]]:
    """The weapon classes of a bundle by name, and the class of each weapon token [k]."""
    names = sorted({kit.weapon_class for kit in ctx.weapons.facts})
    return names, np.array([names.index(kit.weapon_class) for kit in ctx.weapons.facts], dtype=np.intp)
