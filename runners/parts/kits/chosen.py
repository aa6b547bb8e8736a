"""Which subs and specials of the kits swapped in have an effect to speak of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....context.context import Context
from ....schemas.errors import RequestError
from ....schemas.result import ConstraintViolation
from ....schemas.spec import ExperimentSpec
from ...design.interventions import NOT_OF_THE_DATA, Design, admissible, draw
from ...design.report import plural
from ..weapons.effects import FLOOR
from ..weapons.gating import dropped_note, floor_bound
from .tables import Kind, Kits, Parts

Floats = NDArray[np.floating[Any]]
SHOWN_KINDS: tuple[Kind, ...] = ("sub", "special")


@dataclass(frozen=True)
class Sought:
    """Subs and specials that may be swapped in with their kits.

    Attributes:
        kits: the kits.
        parts: their subs and specials, g.
        observed: [g], delta_from_global in the data; NaN where unknown.
        numbers: what the data say of them, for ``custom``.
    """

    kits: Kits
    parts: Parts
    observed: Floats
    numbers: dict[str, Any]

    @classmethod
    def of_vocabulary(cls, ctx: Context) -> Sought:
        """Those of every kit of the vocabulary, where no examples are read beside the contexts."""
        kits = Kits.of(ctx.weapons.facts)
        parts = Parts.of(kits, SHOWN_KINDS)
        names = ("top_combo", "n_subs", "n_specials", "n_kits", "n_unknown_weapons")
        numbers = dict.fromkeys(names) | {"top_combo_reason": NOT_OF_THE_DATA, "n_kits_reason": NOT_OF_THE_DATA}
        return cls(kits, parts, np.full(len(parts.names), np.nan), numbers)


def every_kit_design(spec: ExperimentSpec, ctx: Context) -> tuple[Design, list[int]]:
    """The contexts given in the spec with every weapon of the vocabulary swapped in, and the weapons' token ids.

    Raises:
        RequestError: the vocabulary has one weapon.
    """
    if len(ctx.weapons) < 2:
        raise RequestError(f"bundle {ctx.name!r} has one weapon: none can be swapped for it. Nothing was run.")
    contexts = draw(spec, ctx)
    sets = [contexts.sets.with_weapon(weapon) for weapon in range(len(ctx.weapons))]
    names = [kit.name for kit in ctx.weapons.facts]
    design = admissible(contexts, contexts.sets, sets, names, spec=spec, ctx=ctx)
    return design, list(design.kept)


@dataclass(frozen=True)
class ChosenParts:
    """Subs and specials of the k weapons swapped in.

    Attributes:
        of_weapon: int [k], kit of each weapon.
        held: bool [g, k], which weapons have each part that was sought.
        kept: parts that have an effect, as indices into those.
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


def choose_parts(sought: Sought, weapons: list[int], pre: Floats, *, listed: bool) -> ChosenParts:
    """Leave out what every weapon has, and where it is listed what never leaves the ReLU floor.

    Args:
        sought: the parts with their kits.
        weapons: token ids of the k weapons swapped in.
        pre: [k + 1, m] pre-activations, base first.
        listed: whether the spec lists the constraint.
    """
    parts, of_weapon = sought.parts, sought.kits.of_weapon[weapons]
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
