"""What two units do together: the pattern of the four cells of their factorial."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...schemas.result import Status

Floats = NDArray[np.floating[Any]]
Pattern = Literal["and", "or", "suppression", "xor", "additive", "floor_artifact", "other", "none"]
ALIKE = 0.25
"""Two effects are alike, and an effect is none, within this share of the largest of the three."""


def contrast(cells: Floats) -> Floats:
    """The interaction f11 - f10 - f01 + f00 of cells [4, ...] in the order f00, f10, f01, f11."""
    return cells[3] - cells[1] - cells[2] + cells[0]


def pattern(cells: Floats, min_effect: float, *, interaction: Status, interaction_pre: Status) -> Pattern:
    """Name the pattern of a pair.

    ``and``: both together do what neither does alone; ``or``: either does it, and both no more; ``suppression``: one
    acts, the other alone does not, and takes (part of) its effect away; ``xor``: each acts alone, both together do
    not; ``additive``: effects without an interaction; ``floor_artifact``: an interaction of activations that the
    pre-activations do not have; ``none``: nothing moves; ``other``.

    Args:
        cells: mean activation of f00, f10, f01, f11, [4], over the contexts in which the pair acts.
        min_effect: smallest effect of interest.
        interaction: verdict on the interaction of activations.
        interaction_pre: verdict on that of pre-activations.
    """
    first, second, both = (float(cells[i] - cells[0]) for i in (1, 2, 3))
    largest = max(abs(first), abs(second), abs(both))
    if largest <= min_effect:
        return "none"
    if interaction not in {"present", "conditional"}:
        return "additive" if interaction == "negligible" else "other"
    if interaction_pre == "negligible":
        return "floor_artifact"
    return _acting_pattern(first, second, both, min_effect)


def _acting_pattern(first: float, second: float, both: float, min_effect: float) -> Pattern:
    """The pattern of effects, against neither, of a pair whose interaction is beyond doubt."""
    near = max(min_effect, ALIKE * max(abs(first), abs(second), abs(both)))
    silent = tuple(abs(effect) <= near for effect in (first, second, both))
    alike = max(first, second, both) - min(first, second, both) <= near
    alone = second if silent[0] else first
    # What is left of the single effect: between none of it and nearly all, and never the other way.
    left = both * np.sign(alone)
    suppressed = silent[0] != silent[1] and -near <= left < abs(alone) - min_effect
    named: list[tuple[Pattern, bool]] = [
        ("and", silent == (True, True, False)),
        ("xor", silent == (False, False, True)),
        ("suppression", bool(suppressed)),
        ("or", alike and not any(silent)),
        ("other", True),
    ]
    return next(name for name, holds in named if holds)


Reading = Literal["gates", "blocks", "strengthens", "weakens", "reverses", "none"]


def modulation(without: float, held: float, min_effect: float, *, difference: Status) -> Reading:
    """What a third unit does to the interaction of two.

    ``gates``: the interaction is there only with it; ``blocks``: only without it; ``strengthens``, ``weakens``: it is
    there either way; ``reverses``: it is there either way, with the other sign; ``none``: the difference does not act.
    An interaction is there when it exceeds ``min_effect`` and a quarter of the other.

    Args:
        without: interaction without the unit, in the contexts in which the difference acts.
        held: interaction with it, there.
        min_effect: smallest interaction of interest.
        difference: verdict on the difference of the two.
    """
    if difference not in {"present", "conditional"}:
        return "none"
    near = max(min_effect, ALIKE * max(abs(without), abs(held)))
    if min(abs(without), abs(held)) <= near:
        return "gates" if abs(held) > abs(without) else "blocks"
    if without * held < 0:
        return "reverses"
    return "strengthens" if abs(held) > abs(without) else "weakens"
