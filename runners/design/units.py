"""Units: what an intervention puts into a build, or takes out of it, as one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...context.context import Context
from ...context.token_sets import TokenSets, levels_of
from ...schemas.errors import RequestError

DEFAULT_RUNG = 12


@dataclass(frozen=True)
class Unit:
    """A family at a level, or a main-only ability (level 10)."""

    family: str
    level: int

    def label(self, ctx: Context) -> str:
        """The token that names it."""
        return self.family if ctx.vocabulary.is_main_only(self.family) else f"{self.family}_{self.level}"


def unit_at(family: str, rung: int, ctx: Context) -> Unit:
    """The family at the resolved rung (its lowest one where that is higher); a main-only ability as it is."""
    rungs = ctx.vocabulary.rungs(family)
    return Unit(family, max([each for each in rungs if each <= rung], default=rungs[0]))


def parse_unit(text: str, ctx: Context, rung: int = DEFAULT_RUNG) -> Unit:
    """Read ``family_AP``, a family (at ``rung``), or a main-only ability.

    Raises:
        RequestError: no such family, or AP out of range; 0 AP is no unit that could be written or held.
    """
    if text in ctx.vocabulary.family_index:
        return unit_at(text, rung, ctx)
    unit = Unit(*ctx.vocabulary.parse_unit(text))
    if unit.level == 0:
        raise RequestError(
            f"{text!r} is {unit.family} at 0 AP: its absence, which is part of every comparison already. Name it as "
            f"{unit_at(unit.family, DEFAULT_RUNG, ctx).label(ctx)}. Nothing was run."
        )
    return unit


def parse_units(texts: Sequence[str], ctx: Context, rung: int = DEFAULT_RUNG) -> list[Unit]:
    """Read several units.

    Raises:
        RequestError: one of them is unknown or given twice.
    """
    units = [parse_unit(text, ctx, rung) for text in texts]
    twice = sorted({text for text, unit in zip(texts, units, strict=True) if units.count(unit) > 1})
    if twice:
        raise RequestError(f"the same unit is given twice: {', '.join(twice)}. Give each once. Nothing was run.")
    return units


def resolution_warnings(texts: Iterable[str], ctx: Context) -> tuple[str, ...]:
    """What to say of texts ``family_AP`` whose AP is no rung of the vocabulary; other texts say nothing."""
    found: list[str] = []
    for text in texts:
        family, _, ap = text.rpartition("_")
        if family not in ctx.vocabulary.family_index or not ap.isdigit():
            continue
        used = ctx.vocabulary.resolve(family, int(ap))
        if used != int(ap):
            found.append(f"{text}: rung {int(ap)} is no rung of the vocabulary: {used} is used, as the tokenizer does")
    return tuple(found)


def all_units(ctx: Context, rung: int = DEFAULT_RUNG) -> list[Unit]:
    """Every family of the vocabulary at the rung, and every main-only ability."""
    return [unit_at(family, rung, ctx) for family in ctx.vocabulary.families]


def exclusive(first: Unit, second: Unit, ctx: Context) -> bool:
    """Whether no build can hold both: one family, or two main-only abilities of one gear slot."""
    if first.family == second.family:
        return True
    slots = [ctx.vocabulary.slot(unit.family) for unit in (first, second) if ctx.vocabulary.is_main_only(unit.family)]
    return len(slots) == 2 and slots[0] is not None and slots[0] == slots[1]


def without_units(sets: TokenSets, units: Iterable[Unit], ctx: Context) -> TokenSets:
    """Take the units' families out of every set.

    A main-only ability takes its gear slot: whatever main-only ability the slot holds goes, so that base and condition
    differ in the unit alone and both are gear that can be worn.
    """
    vocabulary = ctx.vocabulary
    for unit in units:
        slot = vocabulary.slot(unit.family) if vocabulary.is_main_only(unit.family) else None
        rivals = [family for family in vocabulary.main_only if slot is not None and vocabulary.slot(family) == slot]
        for family in {unit.family, *rivals}:
            sets = sets.without(family, vocabulary)
    return sets


def rivals_of(sets: TokenSets, units: Iterable[Unit], ctx: Context) -> NDArray[np.bool_]:
    """Which sets [n] hold another main-only ability in a main-only unit's gear slot: `without_units` takes it out."""
    vocabulary, levels = ctx.vocabulary, levels_of(sets.present, ctx.vocabulary)
    found = np.zeros(len(sets), dtype=np.bool_)
    for unit in units:
        slot = vocabulary.slot(unit.family) if vocabulary.is_main_only(unit.family) else None
        rivals = [
            vocabulary.family_index[family]
            for family in vocabulary.main_only
            if slot is not None and family != unit.family and vocabulary.slot(family) == slot
        ]
        found |= (levels[:, rivals] > 0).any(axis=1)
    return found


def rivals_note(sets: TokenSets, units: Iterable[Unit], ctx: Context) -> tuple[str, ...]:
    """In how many contexts a main-only unit cost another one its gear slot, in words; empty where none did."""
    count = int(rivals_of(sets, units, ctx).sum())
    if not count:
        return ()
    return (f"in {count} of {len(sets)} contexts another main-only ability was taken out, to free a unit's gear slot",)


def with_units(sets: TokenSets, units: Iterable[Unit], ctx: Context) -> TokenSets:
    """Write the units into every set, each in place of what the set holds of its family."""
    for unit in units:
        sets = sets.with_level(unit.family, unit.level, ctx.vocabulary)
    return sets
