"""Complete legal builds drawn from build archetypes, correlated with the kit.

A build is its AP per ability. The columns are the 14 stackable abilities, then the 12 main-only ones, both in
alphabetical order: the column order of a vocabulary with the full set of abilities.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...schemas import data
from ...schemas.errors import RequestError
from ...schemas.facts import ABILITIES, MAIN_AP, MAIN_ONLY, MAX_MAINS, MAX_SUBS, SLOTS, STACKABLE, SUB_AP

COLUMNS: tuple[str, ...] = (*STACKABLE, *MAIN_ONLY)
"""The ability of each AP column."""
CONCENTRATION = 40.0
"""Dirichlet concentration of the nine subs; gives about 5.4 distinct stackable abilities a build (real ones: 5.7)."""
STRAY = 0.05
"""Share of the subs spread evenly over all stackable abilities, so that every ability occurs with every kit."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Builds:
    """Complete builds.

    Attributes:
        weapon_id: int64 [n], the game's kit ids.
        ap: uint8 [n, 26], AP per ability in the order of `COLUMNS`.
    """

    weapon_id: Ints
    ap: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.weapon_id)

    def take(self, rows: NDArray[np.integer[Any]]) -> "Builds":
        """The chosen builds, in that order."""
        return Builds(self.weapon_id[rows], self.ap[rows])


@dataclass(frozen=True, slots=True)
class Archetypes:
    """The archetype facts as arrays over A archetypes and K kits.

    Attributes:
        weapon_id: [K] kit ids, ascending.
        mixture: [K, A] share of each archetype in the kit's builds; rows sum to 1.
        main_only: [A, 3 slots, 12 + 1] probability of each main-only ability, and of none (last), per gear slot.
        mean_ap: [A, 14] expected AP of the stackable abilities.
        main_weight: [A, 14] relative preference of stackable abilities for a free main slot.
    """

    weapon_id: Ints
    mixture: Floats
    main_only: Floats
    mean_ap: Floats
    main_weight: Floats


@lru_cache(maxsize=1)
def load_archetypes() -> Archetypes:
    """Read the archetype facts that travel with the package."""
    facts = json.loads((files(data) / "archetypes.json").read_text(encoding="utf-8"))
    archetypes: dict[str, dict[str, Any]] = facts["archetypes"]
    kits: dict[str, dict[str, Any]] = facts["kits"]
    names = list(archetypes)
    mixture = np.array([[kit["mix"].get(name, 0.0) for name in names] for kit in kits.values()])
    mean_ap = np.array([[archetypes[name]["stackable_ap"].get(a, 0.0) for a in STACKABLE] for name in names])
    core = np.array([[2.0 if a in archetypes[name]["core"] else 1.0 for a in STACKABLE] for name in names])
    main_only = np.stack([_slot_table(archetypes[name]["main_only"]) for name in names])
    return Archetypes(
        weapon_id=np.array([int(kit) for kit in kits]),
        mixture=mixture / mixture.sum(axis=1, keepdims=True),
        main_only=main_only,
        mean_ap=mean_ap,
        main_weight=mean_ap * core,
    )


def _slot_table(probability: dict[str, float]) -> Floats:
    """[3 slots, 12 + 1]: probabilities of the main-only abilities by gear slot, the last column for none."""
    table = np.zeros((len(SLOTS), len(MAIN_ONLY) + 1))
    for ability, share in probability.items():
        slot = ABILITIES[ability].slot
        if slot is None:
            raise ValueError(f"{ability} is no main-only ability")
        table[SLOTS.index(slot), MAIN_ONLY.index(ability)] = share
    table[:, -1] = np.maximum(0.0, 1.0 - table.sum(axis=1))
    return table / table.sum(axis=1, keepdims=True)


def draw(weights: Floats, rng: np.random.Generator) -> Ints:
    """One category a row: row i draws c with probability weights[i, c] / sum of the row; int [n]."""
    edges = np.cumsum(weights, axis=-1)
    points = rng.random(edges.shape[:-1]) * edges[..., -1]
    return np.minimum((points[..., None] >= edges).sum(axis=-1), weights.shape[-1] - 1)


def generate_builds(
    n: int, rng: np.random.Generator, *, kits: Sequence[int] | None = None, concentration: float = CONCENTRATION
) -> Builds:
    """Draw complete builds: kits uniformly, then an archetype of the kit, then gear of the archetype.

    Args:
        n: Number of builds.
        rng: Source of randomness; the same state gives the same builds.
        kits: Kit ids to draw from; all known ones by default.
        concentration: Dirichlet concentration of the subs; lower gives fewer distinct abilities.

    Returns:
        Builds of exactly 57 AP: three mains, of which at most one main-only per gear slot, and nine subs.

    Raises:
        RequestError: A kit has no archetype facts.
    """
    facts = load_archetypes()
    chosen = facts.weapon_id if kits is None else np.asarray(kits, dtype=np.int64)
    unknown = np.setdiff1d(chosen, facts.weapon_id)
    if unknown.size:
        raise RequestError(f"no archetype facts for kits {unknown.tolist()}; known: {facts.weapon_id.tolist()}")
    kit = np.searchsorted(facts.weapon_id, rng.choice(chosen, size=n))
    archetype = draw(facts.mixture[kit], rng)
    picks = draw(facts.main_only[archetype], rng)
    one_hot = np.eye(len(MAIN_ONLY) + 1, dtype=np.int64)[picks].sum(axis=1)[:, :-1]
    mains = _free_mains(facts.main_weight[archetype], MAX_MAINS - one_hot.sum(axis=1), rng)
    subs = _subs(facts.mean_ap[archetype] - MAIN_AP * mains, concentration, rng)
    ap = np.hstack([MAIN_AP * mains + SUB_AP * subs, MAIN_AP * one_hot])
    return Builds(facts.weapon_id[kit], ap.astype(np.uint8))


def _free_mains(weights: Floats, free: Ints, rng: np.random.Generator) -> Ints:
    """Mains given to stackable abilities [n, 14], filling exactly ``free`` slots a build."""
    order = draw(np.repeat(weights[:, None, :], MAX_MAINS, axis=1), rng)
    used = np.arange(MAX_MAINS)[None, :] < free[:, None]
    return (np.eye(len(STACKABLE), dtype=np.int64)[order] * used[..., None]).sum(axis=1)


def _subs(wanted_ap: Floats, concentration: float, rng: np.random.Generator) -> Ints:
    """Nine subs a build [n, 14]: Dirichlet-multinomial around the AP that the mains left wanting."""
    share = np.maximum(wanted_ap, 0.0)
    share = share / np.maximum(share.sum(axis=1, keepdims=True), 1e-9)
    share = (1.0 - STRAY) * share + STRAY / len(STACKABLE)
    gamma = rng.standard_gamma(concentration * share) + 1e-12
    return rng.multinomial(MAX_SUBS, gamma / gamma.sum(axis=1, keepdims=True))
