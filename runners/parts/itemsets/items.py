"""What itemsets are made of: families, levels or tokens of a population, and the condition every example meets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....context.context import Context
from ....context.population import Population
from ....schemas.errors import EmptySliceError, RequestError
from ...design.unit_columns import Kind, unit_columns
from ...design.units import Unit
from ...stats.compact import BLOCK_ROWS
from ...stats.itemsets import GroupedItems, ItemRows
from .null import Blocks

Ints = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Transactions:
    """Examples as sets of items.

    Attributes:
        labels: [k], a family, or a token.
        family: int [k], column of each item's family in the level matrix.
        rows: which items each example holds.
        count: int [k], examples that hold each item.
        blocks: examples whose labels are exchangeable.
        packed: ``rows``, packed by stratum of the blocks.
    """

    labels: tuple[str, ...]
    family: Ints
    rows: ItemRows
    count: Ints
    blocks: Blocks
    packed: GroupedItems


def transactions(ctx: Context, population: Population, kind: Kind) -> Transactions:
    """The examples of a population as sets of items, kept for the next feature."""
    return ctx.derived_for(
        population, ("itemset transactions", kind), lambda: _transactions(ctx, population.rows, kind)
    )


def _transactions(ctx: Context, rows: Ints, kind: Kind) -> Transactions:
    parts = [rows[at : at + BLOCK_ROWS] for at in range(0, len(rows), BLOCK_ROWS)]
    names = unit_columns(ctx, rows[:0], kind)
    items = ItemRows.stacked(unit_columns(ctx, part, kind).matrix.toarray() > 0 for part in parts)
    blocks = Blocks.of(np.asarray(ctx.data.weapon)[rows], ctx.data.clusters[rows])
    family = np.array([ctx.vocabulary.family_index[name] for name in names.family])
    packed = GroupedItems.of(items, blocks.stratum, blocks.n_strata)
    count = packed.items.count(np.arange(items.k)[:, None])
    return Transactions(names.labels, family, items, count, blocks, packed)


def parse_conditions(texts: Sequence[str], ctx: Context) -> list[Unit]:
    """Read what every example must hold: a family at any AP (level 0), ``family_AP`` or more, a main-only ability.

    Raises:
        RequestError: one is unknown or asks for 0 AP, or a family is named twice.
    """
    units = [_condition(text, ctx) for text in texts]
    families = [unit.family for unit in units]
    twice = sorted({family for family in families if families.count(family) > 1})
    if twice:
        raise RequestError(f"condition_on names {', '.join(twice)} twice. Give each family once. Nothing was run.")
    return units


def _condition(text: str, ctx: Context) -> Unit:
    if text in ctx.vocabulary.family_index:
        return Unit(text, 0)
    unit = Unit(*ctx.vocabulary.parse_unit(text))
    if unit.level == 0:
        raise RequestError(
            f"condition_on holds {text!r}, which is {unit.family} at 0 AP, its absence; it names what every example "
            f"holds. For examples without it use dataset_slice.family_exclude: [{unit.family!r}]. Nothing was run."
        )
    return unit


def restricted(population: Population, conditions: Sequence[Unit], ctx: Context) -> Population:
    """The examples of a population that meet every condition, named in its description.

    Raises:
        EmptySliceError: none does.
    """
    if not conditions:
        return population
    columns = [ctx.vocabulary.family_index[unit.family] for unit in conditions]
    least = np.array([max(unit.level, 1) for unit in conditions])
    kept = np.all(np.asarray(ctx.data.levels[population.rows])[:, columns] >= least, axis=1)
    stackable = set(ctx.vocabulary.stackable)
    words = [
        f"{unit.family} at {unit.level} AP or more" if unit.level and unit.family in stackable else unit.family
        for unit in conditions
    ]
    if not kept.any():
        raise EmptySliceError(
            f"condition_on leaves no example: none of {population.description} ({len(population):,}) holds "
            f"{' and '.join(words)}. Drop a condition or widen dataset_slice. Nothing was run."
        )
    return replace(
        population,
        rows=population.rows[kept],
        activation=population.activation[kept],
        size=int(kept.sum()),
        description=f"{population.description}, each holding {' and '.join(words)}",
        key=None if population.key is None else f"{population.key} holding {' and '.join(words)}",
    )
