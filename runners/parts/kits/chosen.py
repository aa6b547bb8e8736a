"""Which subs and specials of the kits swapped in have an effect to speak of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....schemas.result import ConstraintViolation
from ...design.report import plural
from ..weapons.effects import FLOOR
from ..weapons.gating import dropped_note, floor_bound
from .tables import Kind, PartTable

Floats = NDArray[np.floating[Any]]
SHOWN_KINDS: tuple[Kind, ...] = ("sub", "special")


@dataclass(frozen=True)
class ChosenParts:
    """Subs and specials of the k weapons swapped in.

    Attributes:
        of_weapon: int [k], kit of each weapon.
        held: bool [g, k], which weapons have each part of the observational table.
        kept: parts that have an effect, as indices into that table.
        dropped: names, by kind, of those that never leave the floor and are dropped for it.
        alone: names, by kind, of those that every weapon swapped in has.
        violations: of the constraint on such parts.
    """

    of_weapon: NDArray[np.intp]
    held: NDArray[np.bool_]
    kept: NDArray[np.intp]
    dropped: dict[Kind, list[str]]
    alone: dict[Kind, list[str]]
    violations: list[ConstraintViolation]

    def notes(self, kind: Kind) -> list[str]:
        """What a table of effects says of the parts it leaves out."""
        gone = [dropped_note(len(self.dropped[kind]), kind, FLOOR)] if self.dropped[kind] else []
        return [
            *gone,
            *(f"{name}: every weapon swapped in has it, nothing to compare it with" for name in self.alone[kind]),
        ]

    @property
    def n_dropped(self) -> int:
        """Parts that never leave the floor and are dropped for it."""
        return sum(map(len, self.dropped.values()))

    @property
    def reason(self) -> str:
        """Why no part is left."""
        why = [f"{plural(self.n_dropped, 'part')} dropped: {FLOOR}"] if self.n_dropped else []
        if any(self.alone.values()):
            why.append("every weapon swapped in has the same")
        return "no sub or special is left to compare (" + "; ".join(why or ["none is known"]) + ")"


def choose_parts(table: PartTable, weapons: list[int], pre: Floats, *, listed: bool) -> ChosenParts:
    """Leave out what every weapon has, and where it is listed what never leaves the ReLU floor.

    Args:
        table: the parts with their kits.
        weapons: token ids of the k weapons swapped in.
        pre: [k + 1, m] pre-activations, base first.
        listed: whether the spec lists the constraint.
    """
    parts, of_weapon = table.parts, table.kits.of_weapon[weapons]
    held = parts.member[:, of_weapon]
    there = np.flatnonzero(parts.known & held.any(axis=1))
    highest = np.array([pre[1:][held[i]].max(axis=0) for i in there]).reshape(len(there), pre.shape[1])
    titles = [parts.title(int(i)) for i in there]
    violation, silent = floor_bound(np.vstack([pre[:1], highest]), titles, listed=listed, noun="part")
    everything = [i for i in range(len(there)) if bool(held[there[i]].all())]

    def names(which: list[int]) -> dict[Kind, list[str]]:
        return {kind: [parts.names[there[i]] for i in which if parts.kinds[there[i]] == kind] for kind in SHOWN_KINDS}

    return ChosenParts(
        of_weapon=of_weapon,
        held=held,
        kept=np.array([there[i] for i in range(len(there)) if i not in silent and i not in everything], dtype=np.intp),
        dropped=names(sorted(silent)),
        alone=names([i for i in everything if i not in silent]),
        violations=[] if violation is None else [violation],
    )
