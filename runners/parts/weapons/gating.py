"""Weapons and parts of kits that never leave the ReLU floor: counted always, dropped where the spec lists it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....schemas.result import ConstraintViolation
from ...design.report import plural

Floats = NDArray[np.floating[Any]]
GATING = "no_weapon_gating_if_relu_floor"


def floor_bound(
    pre: Floats, names: Sequence[str], *, listed: bool, noun: str = "weapon"
) -> tuple[ConstraintViolation | None, set[int]]:
    """Weapons, or parts of kits, under which every context, base included, has h <= 0.

    Args:
        pre: [k + 1, m] pre-activations, base first; the highest over its weapons for a part.
        names: names of the k weapons or parts.
        listed: whether the spec lists the constraint, so that such rows are dropped and not only counted.
        noun: what they are.

    Returns:
        The violation (None without any), and the indices to drop.
    """
    silent = [i for i in range(len(names)) if (pre[i + 1] <= 0).all() and (pre[0] <= 0).all()]
    if not silent:
        return None, set()
    example = f"{names[silent[0]]}: h <= 0 in every context, base included ({plural(len(silent), noun)})"
    violation = ConstraintViolation(id=GATING, hard=listed, contexts=pre.shape[1], example=example)
    return violation, set(silent) if listed else set()


def never_active(
    n_active: NDArray[Any], eligible: NDArray[np.bool_], names: Sequence[str], *, examples: int, listed: bool
) -> ConstraintViolation | None:
    """The violation by eligible weapons or parts without an active example; None where there is none.

    Args:
        n_active: [k], active examples of each.
        eligible: [k], which are ranked.
        names: [k].
        examples: examples of them.
        listed: whether the spec lists the constraint.
    """
    silent = np.flatnonzero(eligible & (n_active == 0))
    if not len(silent):
        return None
    return ConstraintViolation(
        id=GATING, hard=listed, contexts=examples, example=f"{names[silent[0]]} never activates it"
    )


def dropped_note(count: int, noun: str, why: str) -> str:
    """How a table says that rows were dropped."""
    return f"{plural(count, noun)} dropped: {why} ({GATING})"
