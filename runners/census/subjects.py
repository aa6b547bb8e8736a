"""What features are compared with: abilities, weapons, and the classes, subs and specials of weapons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...context.context import Context
from ...schemas.facts import UNKNOWN_CLASS, Weapon
from ..parts.kits.tables import Kits

Bools = NDArray[np.bool_]
Ints = NDArray[np.integer[Any]]
Kind = Literal["ability", "weapon", "weapon_class", "sub", "special"]
KINDS: tuple[Kind, ...] = ("ability", "weapon", "weapon_class", "sub", "special")
PART_KINDS: tuple[Kind, ...] = ("weapon_class", "sub", "special")


@dataclass(frozen=True)
class Parts:
    """Classes, subs or specials of kits.

    Attributes:
        names: [g].
        member: bool [g, u], which kits have each.
    """

    names: tuple[str, ...]
    member: Bools


@dataclass(frozen=True)
class Subjects:
    """Everything a feature is compared with.

    Attributes:
        tokens: int [t], ids of the ability tokens that are no special ones.
        token_names: [t].
        families: [t], the family of each token.
        weapons: [w], names of the weapon tokens.
        kits: the distinct kits; a replica counts with its original.
        parts: classes, subs and specials the project's table names.
    """

    tokens: Ints
    token_names: tuple[str, ...]
    families: tuple[str, ...]
    weapons: tuple[str, ...]
    kits: Kits
    parts: dict[Kind, Parts]

    @classmethod
    def of(cls, ctx: Context) -> Subjects:
        """The subjects of a bundle."""
        family = np.asarray(ctx.vocabulary.token_family)
        tokens = np.flatnonzero(family >= 0)
        kits = Kits.of(ctx.weapons.facts)
        return cls(
            tokens=tokens,
            token_names=tuple(ctx.vocabulary.tokens[i] for i in tokens),
            families=tuple(ctx.vocabulary.families[family[i]] for i in tokens),
            weapons=tuple(kit.name for kit in ctx.weapons.facts),
            kits=kits,
            parts={kind: _parts(kits.facts, kind) for kind in PART_KINDS},
        )

    def names(self, kind: Kind) -> tuple[str, ...]:
        """Names of the subjects of a kind, in the order of their effects."""
        if kind == "ability":
            return self.token_names
        return self.weapons if kind == "weapon" else self.parts[kind].names

    @property
    def count(self) -> int:
        """How many subjects there are."""
        return sum(len(self.names(kind)) for kind in KINDS)


def _parts(kits: Sequence[Weapon], kind: Kind) -> Parts:
    labels = [getattr(kit, kind) for kit in kits]
    names = tuple(sorted({label for label in labels if label not in {None, UNKNOWN_CLASS}}))
    return Parts(names, np.array([[label == name for label in labels] for name in names], bool).reshape(-1, len(kits)))
