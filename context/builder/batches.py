"""Training batches: natural partial builds, and constructed sets on which only the planted rules are taught."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...schemas.planted import PlantedRule
from ...schemas.vocabulary import WeaponVocabulary
from ..token_sets import TokenSets, concatenate
from .codec import Codec
from .corrupt import corrupt
from .intervene import Intervener
from .rules import rule_values

NULL_SHARE = 1 / 24
"""Share of the natural rows that are shown empty (``<NULL>`` alone)."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One training batch; the first ``n_natural`` rows have a completion target.

    Attributes:
        sets: The inputs, n rows.
        complete: bool [n_natural, V], the complete builds.
        targets: float32 [n, n_rules], what each planted feature should be.
    """

    sets: TokenSets
    complete: NDArray[np.bool_]
    targets: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class BatchSource:
    """Draws batches from complete builds; the same seed and step give the same batch.

    Attributes:
        builds: Complete builds as token sets.
        chance: float64 [n_builds], how likely each is drawn; sums to 1.
        codec: Tables of the ability vocabulary.
        weapons: The weapon vocabulary.
        rules: Planted rules; none for a bundle whose features are only learned.
        natural_share: Share of a batch that is natural; 1 without rules.
    """

    builds: TokenSets
    chance: NDArray[np.float64]
    codec: Codec
    weapons: WeaponVocabulary
    rules: Sequence[PlantedRule] = ()
    natural_share: float = 0.35

    def batch(self, size: int, seed: int, step: int) -> Batch:
        """Draw the batch of a step."""
        rng = np.random.default_rng([seed, step])
        edges = np.cumsum(self.chance)
        rows = np.minimum(np.searchsorted(edges, rng.random(size) * edges[-1], side="right"), len(edges) - 1)
        chosen = self.builds.take(rows)
        partial = TokenSets(chosen.weapon, corrupt(chosen.present, rng))
        n_natural = size if not self.rules else max(1, round(size * self.natural_share))
        natural = partial.take(slice(0, n_natural))
        natural.present[rng.random(n_natural) < NULL_SHARE] = False
        sets = natural
        if n_natural < size:
            made = Intervener(self.codec, self.weapons, self.rules).sample(partial.take(slice(n_natural, size)), rng)
            sets = concatenate([natural, made])
        targets = np.zeros((size, 0))
        if self.rules:
            targets = rule_values(self.rules, sets, self.codec.vocabulary, self.weapons)
        return Batch(sets, chosen.present[:n_natural], targets.astype(np.float32))
