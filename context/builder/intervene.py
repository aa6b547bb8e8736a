"""Constructed token sets like those that experiments make, for training a planted rule to hold on them too."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...schemas.planted import Factor, PlantedRule
from ...schemas.vocabulary import WeaponVocabulary
from ..token_sets import TokenSets
from .codec import Codec

Bool = NDArray[np.bool_]
Ints = NDArray[np.int64]

SINGLE_SHARE = 0.25
"""Share of the written levels that are a single rung token instead of a thermometer."""


def factor_weapons(factor: Factor, weapons: WeaponVocabulary) -> Bool:
    """Which weapon tokens a special or weapon factor holds for; bool [W]."""
    if factor.kind == "special":
        return np.array([kit.special == factor.name for kit in weapons.facts])
    return np.array([str(weapon_id) == factor.name for weapon_id in weapons.weapon_ids])


@dataclass(frozen=True, slots=True)
class Intervener:
    """Edits natural sets in the four ways that experiments do.

    Attributes:
        codec: Tables of the ability vocabulary.
        weapons: The weapon vocabulary.
        rules: Planted rules; may be empty.
    """

    codec: Codec
    weapons: WeaponVocabulary
    rules: Sequence[PlantedRule]

    def sample(self, base: TokenSets, rng: np.random.Generator) -> TokenSets:
        """Edit each set: half in a random cell of some rule's factorial, the rest without regard to the rules.

        Args:
            base: Natural sets, left as they are.
            rng: Source of randomness.

        Returns:
            As many sets, in the same order.
        """
        sets = TokenSets(base.weapon.copy(), base.present.copy())
        shares = np.cumsum([0.5 if self.rules else 0.0, 0.2, 0.15, 0.15])
        edges = np.floor(shares / shares[-1] * len(sets)).astype(np.int64)
        cells, families, keeps, scratch = np.split(np.arange(len(sets)), edges[:-1])
        for rule, rows in zip(self.rules, self._shares(cells), strict=True):
            self._cell(rule, sets, rows, rng)
        self._families(sets, families, rng, most=3)
        self._keep_some(sets, keeps, rng)
        sets.present[scratch] = False
        sets.weapon[scratch] = rng.integers(len(self.weapons), size=len(scratch))
        self._families(sets, scratch, rng, most=4)
        swapped = rng.choice(len(sets), size=len(sets) // 6, replace=False)
        swapped = swapped[swapped >= len(cells)]
        sets.weapon[swapped] = rng.integers(len(self.weapons), size=len(swapped))
        return sets

    def _shares(self, rows: Ints) -> list[Ints]:
        """Rows of each rule: twice as many for every further factor, whose cells are as many more."""
        if not self.rules:
            return []
        cells = np.cumsum([2.0 ** len(rule.factors()) for rule in self.rules])
        return np.split(rows, np.round(cells[:-1] / cells[-1] * len(rows)).astype(np.int64))

    def _cell(self, rule: PlantedRule, sets: TokenSets, rows: Ints, rng: np.random.Generator) -> None:
        """Put the rows into random cells of the rule's factorial."""
        for factor in rule.factors():
            if factor.kind in {"special", "weapon"}:
                self._set_weapon(factor, sets, rows, rng)
            else:
                self._set_level(factor, sets, rows, rng)

    def _set_weapon(self, factor: Factor, sets: TokenSets, rows: Ints, rng: np.random.Generator) -> None:
        """Half of the rows get a weapon for which the factor holds, the others any weapon."""
        holders = np.flatnonzero(factor_weapons(factor, self.weapons))
        anyone = rng.integers(len(self.weapons), size=len(rows))
        sets.weapon[rows] = np.where(rng.random(len(rows)) < 0.5, rng.choice(holders, size=len(rows)), anyone)

    def _set_level(self, factor: Factor, sets: TokenSets, rows: Ints, rng: np.random.Generator) -> None:
        """Absent, below, at or above the factor's rung; for a gap, with and without the low token."""
        n = len(rows)
        family = self.codec.vocabulary.family_index[factor.name]
        top = int(self.codec.top[family])
        rung = 1 if factor.rung is None else self.codec.level_index(factor.name, factor.rung)
        kind = rng.choice(4, size=n, p=[0.28, 0.17, 0.3, 0.25])
        spread = rng.random(n)
        below = 1 + np.floor(spread * (rung - 1)).astype(np.int64) if rung > 1 else np.zeros(n, np.int64)
        above = np.minimum(top, rung + 1 + np.floor(spread * (top - rung)).astype(np.int64))
        index = np.choose(kind, [np.zeros(n, np.int64), below, np.full(n, rung), above])
        if factor.kind == "dose":
            index = np.where(kind == 0, 0, rng.integers(1, top + 1, size=n))
        present = sets.present[rows]
        self.codec.write(present, np.full(n, family), index, rng.random(n) < SINGLE_SHARE)
        if factor.kind == "gap" and factor.low is not None:
            (low,) = self.codec.vocabulary.encode(factor.name, factor.low, "single")
            present[rng.random(n) < 0.5, low] = False
        sets.present[rows] = present

    def _families(self, sets: TokenSets, rows: Ints, rng: np.random.Generator, most: int) -> None:
        """Write 1 to ``most`` random families at random levels (a fifth absent)."""
        present = sets.present[rows]
        count = rng.integers(0 if most > 3 else 1, most + 1, size=len(rows))
        for turn in range(most):
            chosen = np.flatnonzero(turn < count)
            family = rng.integers(len(self.codec.top), size=len(chosen))
            index = rng.integers(1, self.codec.top[family] + 1)
            index[rng.random(len(chosen)) < 0.2] = 0
            part = present[chosen]
            self.codec.write(part, family, index, rng.random(len(chosen)) < SINGLE_SHARE)
            present[chosen] = part
        sets.present[rows] = present

    def _keep_some(self, sets: TokenSets, rows: Ints, rng: np.random.Generator) -> None:
        """Keep each family of a set with the set's own chance, from all of them down to none."""
        keep = rng.random((len(rows), len(self.codec.top))) < rng.random((len(rows), 1))
        family = np.asarray(self.codec.vocabulary.token_family)
        sets.present[rows] &= keep[:, family] & (family >= 0)
