"""What is true of the game whatever the model: abilities, gear slots, ability points (AP), weapon kits.

The numbers are AP: a main slot gives 10, each of the nine sub slots 3, so a complete build has 57.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import Literal

Slot = Literal["head", "clothes", "shoes"]
SLOTS: tuple[Slot, ...] = ("head", "clothes", "shoes")
MAIN_AP = 10
SUB_AP = 3
MAX_MAINS = 3
MAX_SUBS = 9
MAX_AP = MAX_MAINS * MAIN_AP + MAX_SUBS * SUB_AP
STANDARD_RUNGS = (3, 6, 12, 15, 21, 29, 38, 51, 57)
"""The AP thresholds at which the SplatGPT tokenizer writes a token; a bundle's own come from its vocabulary."""
UNKNOWN_CLASS = "unknown"


@dataclass(frozen=True, slots=True)
class Ability:
    """A gear ability. ``slot`` is None for a stackable one, legal in every slot of every gear."""

    family: str
    name: str
    short: str
    slot: Slot | None


@dataclass(frozen=True, slots=True)
class Weapon:
    """A weapon kit: a main weapon with its sub and special weapon.

    ``main_id`` is the id of the first kit of the same main weapon, so kits with equal ``main_id`` differ in
    their sub and special alone. A kit outside the table has the class ``"unknown"`` and its token as name.
    """

    weapon_id: int
    name: str
    weapon_class: str
    sub: str | None
    special: str | None
    main_id: int
    replica_of: str | None = None

    @property
    def known(self) -> bool:
        """Whether the kit is in the project's own table."""
        return self.weapon_class != UNKNOWN_CLASS


def _rows(file_name: str) -> Iterator[dict[str, str]]:
    text = (files(f"{__package__}.data") / file_name).read_text(encoding="utf-8")
    return csv.DictReader(text.splitlines())


def _read_abilities() -> dict[str, Ability]:
    slots: dict[str, Slot] = {slot: slot for slot in SLOTS}
    return {
        row["family"]: Ability(row["family"], row["name"], row["short"], slots.get(row["slot"]))
        for row in _rows("abilities.csv")
    }


def _read_weapons() -> dict[int, Weapon]:
    return {
        int(row["weapon_id"]): Weapon(
            weapon_id=int(row["weapon_id"]),
            name=row["name"],
            weapon_class=row["weapon_class"],
            sub=row["sub"],
            special=row["special"],
            main_id=int(row["main_id"]),
            replica_of=row["replica_of"] or None,
        )
        for row in _rows("weapons.csv")
    }


ABILITIES = MappingProxyType(_read_abilities())
"""Every ability by its token, 14 stackable and 12 main-only."""
STACKABLE = tuple(sorted(family for family, ability in ABILITIES.items() if ability.slot is None))
MAIN_ONLY = tuple(sorted(family for family, ability in ABILITIES.items() if ability.slot is not None))
WEAPONS = MappingProxyType(_read_weapons())
"""Every weapon kit by its id."""
WEAPON_CLASSES = tuple(sorted({weapon.weapon_class for weapon in WEAPONS.values()}))


def weapon_for(weapon_id: int) -> Weapon:
    """Return the kit with that id; a kit outside the table is named by its token and has class "unknown"."""
    known = WEAPONS.get(weapon_id)
    if known is not None:
        return known
    return Weapon(weapon_id, f"weapon_id_{weapon_id}", UNKNOWN_CLASS, None, None, weapon_id)


def mains_and_subs(ap: int) -> tuple[int, int] | None:
    """Split the AP of a stackable ability into (main slots, sub slots), or None when no gear gives it.

    The split is unique: AP = 10 m + 3 s with m <= 3 and s <= 9.
    """
    for mains in range(MAX_MAINS + 1):
        subs, rest = divmod(ap - MAIN_AP * mains, SUB_AP)
        if rest == 0 and 0 <= subs <= MAX_SUBS:
            return mains, subs
    return None


REACHABLE_AP = tuple(ap for ap in range(1, MAX_AP + 1) if mains_and_subs(ap) is not None)
"""The AP totals that some gear gives a stackable ability."""
