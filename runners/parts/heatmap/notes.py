"""What a reader must know of the contexts: what was taken out of them, and whether any sampling error is left."""

from __future__ import annotations

from collections.abc import Iterable

from ....context.context import Context
from ...design.interventions import Design

CENSUS = "all examples of the slice were run: no sampling error is left"


def census_notes(design: Design) -> list[str]:
    """Say so where the contexts are the population: the finite-population correction makes every error 0."""
    return [CENSUS] if len(design.base) >= design.contexts.population.drawn_from else []


def slot_notes(design: Design, families: Iterable[str], ctx: Context) -> list[str]:
    """In how many contexts a main-only ability found its gear slot taken; the rival is taken out of every cell."""
    vocabulary, present = ctx.vocabulary, design.contexts.sets.present
    notes: list[str] = []
    for family in families:
        slot = vocabulary.slot(family) if vocabulary.is_main_only(family) else None
        if slot is None:
            continue
        rivals = [each for each in vocabulary.main_only if each != family and vocabulary.slot(each) == slot]
        tokens = [token for each in rivals for token in vocabulary.encode(each, vocabulary.rungs(each)[-1])]
        count = int(present[:, tokens].any(axis=1).sum())
        if count:
            notes.append(
                f"{family} takes the {slot} slot: another {slot} ability was taken out of {count} of {len(present)} "
                f"contexts"
            )
    return notes
