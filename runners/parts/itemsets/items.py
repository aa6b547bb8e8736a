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
from ...stats.itemsets import GroupedItems
from .null import Blocks

Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Transactions:
    """Examples as sets of items.

    Attributes:
        labels: [k], a family, or a token.
        family: int [k], column of each item's family in the level matrix.
        held: bool [n, k].
        blocks: examples whose labels are exchangeable.
        packed: ``held``, packed by stratum of the blocks.
    """

    labels: tuple[str, ...]
    family: Ints
    held: Bools
    blocks: Blocks
    packed: GroupedItems


def transactions(ctx: Context, population: Population, kind: Kind) -> Transactions:
    """The examples of a population as sets of items; those of the whole bundle are kept for the next run."""
    if len(population) == len(ctx.data):
        return ctx.derived(("itemset_transactions", kind), lambda: _transactions(ctx, population.rows, kind))
    return _transactions(ctx, population.rows, kind)


def _transactions(ctx: Context, rows: Ints, kind: Kind) -> Transactions:
    columns = unit_columns(ctx, rows, kind)
    held = np.zeros((len(rows), len(columns.labels)), dtype=np.bool_)
    held[np.repeat(np.arange(len(rows)), np.diff(columns.matrix.indptr)), columns.matrix.indices] = True
    blocks = Blocks.of(np.asarray(ctx.data.weapon[rows]), ctx.data.clusters[rows])
    family = np.array([ctx.vocabulary.family_index[name] for name in columns.family])
    packed = GroupedItems.of(held, blocks.stratum, blocks.n_strata)
    return Transactions(columns.labels, family, held, blocks, packed)


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
    )
