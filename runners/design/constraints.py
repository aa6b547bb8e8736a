"""What a constructed set may not be: impossible gear, or more ability points than a build has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...context.context import Context
from ...context.token_sets import TokenSets, levels_of
from ...schemas.facts import MAX_AP, SLOTS
from ...schemas.result import ConstraintViolation
from ...schemas.spec import HARD_CONSTRAINTS

Bool = NDArray[np.bool_]
GEAR, BUDGET = "valid_gear_combinations", "max_ap_budget"


def broken_by(sets: TokenSets, ctx: Context) -> dict[str, Bool]:
    """Which sets break which constraint; bool [n] by constraint id.

    ``valid_gear_combinations``: two main-only abilities of one gear slot. ``max_ap_budget``: the levels, 10 for a
    main-only ability, add up to more than the 57 AP of a build.
    """
    vocabulary = ctx.vocabulary
    levels = levels_of(sets.present, vocabulary)
    clash = np.zeros(len(sets), dtype=np.bool_)
    for slot in SLOTS:
        columns = [
            vocabulary.family_index[family] for family in vocabulary.main_only if vocabulary.slot(family) == slot
        ]
        clash |= (levels[:, columns] > 0).sum(axis=1) > 1
    return {GEAR: clash, BUDGET: levels.sum(axis=1, dtype=np.int64) > MAX_AP}


def admit(
    conditions: Sequence[TokenSets], ctx: Context, listed: Sequence[str]
) -> tuple[NDArray[np.bool_], list[ConstraintViolation]]:
    """Which contexts each condition admits, and every violation counted.

    Hard constraints skip a context; soft ones only count, unless the spec lists them.

    Args:
        conditions: k conditions of the same m contexts.
        ctx: the context they will run on.
        listed: the spec's constraints.

    Returns:
        bool [k, m], and one entry a constraint that any constructed set breaks.
    """
    broken = [broken_by(sets, ctx) for sets in conditions]
    admitted = np.ones((len(conditions), len(conditions[0])), dtype=np.bool_)
    violations: list[ConstraintViolation] = []
    for name in (GEAR, BUDGET):
        masks = np.stack([each[name] for each in broken])
        if not masks.any():
            continue
        hard = name in HARD_CONSTRAINTS or name in listed
        if hard:
            admitted &= ~masks
        condition, context = (int(axis[0]) for axis in np.nonzero(masks))
        example = describe_set(conditions[condition].take(np.array([context])), ctx)
        affected = int(masks.any(axis=0).sum())
        violations.append(ConstraintViolation(id=name, hard=hard, contexts=affected, example=example))
    return admitted, violations


def describe_set(one: TokenSets, ctx: Context) -> str:
    """Write a single set as its levels and weapon, for messages and example tables."""
    vocabulary = ctx.vocabulary
    levels = vocabulary.levels(np.flatnonzero(one.present[0]).tolist())
    units = [family if family in vocabulary.main_only else f"{family}_{level}" for family, level in levels.items()]
    weapon = ctx.weapons.facts[int(one.weapon[0])].name
    return f"{' + '.join(sorted(units)) or 'nothing'} on {weapon}"
