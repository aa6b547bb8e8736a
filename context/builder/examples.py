"""The examples of a bundle: which builds, and the partial sets made of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...schemas.planted import PlantedRule
from ...schemas.vocabulary import WeaponVocabulary
from ..token_sets import TokenSets, concatenate
from .codec import Codec
from .corrupt import corrupt
from .rules import rule_values

Floats = NDArray[np.float64]

HELD_OUT_EVERY = 7
"""Every seventh build is never trained on."""
_PROBES = 4
_ROUNDS = 12


@dataclass(frozen=True, slots=True)
class PartialBuilds:
    """Partial builds with the build they come from.

    Attributes:
        sets: n examples; the last rows are one empty set a weapon.
        build_id: int32 [n]; the empty sets have ids of their own after those of the builds.
    """

    sets: TokenSets
    build_id: NDArray[np.int32]


def held_out(build_id: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Which builds are kept from training; bool, the shape of the ids."""
    return build_id % HELD_OUT_EVERY == HELD_OUT_EVERY - 1


def make_examples(builds: TokenSets, per_build: int, n_weapons: int, rng: np.random.Generator) -> PartialBuilds:
    """Partial sets of complete builds, and one empty set (``<NULL>``) a weapon.

    Args:
        builds: Complete builds; a build's id is its row.
        per_build: Partial sets a build; equal ones of the same build are kept once.
        n_weapons: Size of the weapon vocabulary.
        rng: Source of randomness.
    """
    build_id = np.repeat(np.arange(len(builds), dtype=np.int32), per_build)
    whole = builds.take(build_id.astype(np.intp))
    partial = TokenSets(whole.weapon, corrupt(whole.present, rng))
    keys = np.hstack([build_id[:, None].view(np.uint8).reshape(len(build_id), 4), np.packbits(partial.present, axis=1)])
    first = np.unique(np.ascontiguousarray(keys).view(np.dtype((np.void, keys.shape[1]))).ravel(), return_index=True)[1]
    rows = np.sort(first)
    empty = TokenSets(
        np.arange(n_weapons, dtype=np.int32), np.zeros((n_weapons, builds.present.shape[1]), dtype=np.bool_)
    )
    empty_id = np.arange(len(builds), len(builds) + n_weapons, dtype=np.int32)
    return PartialBuilds(concatenate([partial.take(rows), empty]), np.concatenate([build_id[rows], empty_id]))


def build_chances(
    pool: TokenSets,
    rules: Sequence[PlantedRule],
    codec: Codec,
    weapons: WeaponVocabulary,
    rng: np.random.Generator,
    *,
    wanted: float = 0.03,
) -> Floats:
    """How likely to draw each build of a pool so that every rule is active in enough partial sets.

    Builds in whose partial sets a rare rule is active are raised, round by round, until each rule's share is about
    ``wanted``.

    Args:
        pool: Complete builds.
        rules: Planted rules.
        codec: Tables of the ability vocabulary.
        weapons: The weapon vocabulary.
        rng: Source of randomness.
        wanted: Least share of partial sets in which each rule should be active.

    Returns:
        float64 [n], summing to 1.
    """
    probes = [TokenSets(pool.weapon, corrupt(pool.present, rng)) for _ in range(_PROBES)]
    active = np.mean([rule_values(rules, probe, codec.vocabulary, weapons) > 0 for probe in probes], axis=0)
    chance = np.full(len(pool), 1.0 / len(pool))
    for _ in range(_ROUNDS):
        share = chance @ active
        boost = np.clip(wanted / np.maximum(share, 1e-4), 1.0, 2.0) - 1.0
        chance = chance * (1.0 + (active > 0) @ boost)
        chance /= chance.sum()
    return chance


def choose(chance: Floats, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw n distinct rows, in proportion to their chances (Gumbel top-k); in random order."""
    score = np.log(np.maximum(chance, 1e-300)) + rng.gumbel(size=len(chance))
    return np.argsort(-score)[:n]
