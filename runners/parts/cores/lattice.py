"""Subsets of an example's units: the whole lattice evaluated, and the minimal sufficient sets read off it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....context.context import Context
from ....context.token_sets import TokenSets, concatenate
from ....schemas.job import Job

Floats = NDArray[np.floating[Any]]
Bool = NDArray[np.bool_]
WEAPON = "weapon"
N_BACKGROUND = 20
_BACKGROUND_STREAM = 6
_SETS_AT_ONCE = 60_000


@dataclass(frozen=True)
class Case:
    """An example taken apart into units.

    Attributes:
        row: its row in the bundle's data, or its position among contexts given in the spec.
        natural: the example as it is (one set).
        names: names of the units; the weapon, when it is one, comes last.
        tokens: bool [n_token_units, vocab], the tokens of each unit that is not the weapon.
        fixed: bool [vocab], tokens held in every subset (clamped units).
    """

    row: int
    natural: TokenSets
    names: tuple[str, ...]
    tokens: Bool
    fixed: Bool

    @property
    def weapon_is_unit(self) -> bool:
        """Whether the weapon can be taken out."""
        return len(self.names) > len(self.tokens)


@dataclass(frozen=True)
class Subsets:
    """Constructed sets that stand for subsets of units; a subset without the weapon is a mean over weapons.

    Attributes:
        sets: the constructed sets.
        subset: int [n_sets], which subset each belongs to.
        n: number of subsets.
    """

    sets: TokenSets
    subset: NDArray[np.intp]
    n: int

    def mean(self, values: Floats) -> Floats:
        """Average values [n_sets, ...] over the sets of each subset; [n, ...]."""
        order = np.argsort(self.subset, kind="stable")
        starts = np.searchsorted(self.subset[order], np.arange(self.n))
        counts = np.bincount(self.subset, minlength=self.n)
        sums = np.add.reduceat(values[order], starts, axis=0, dtype=np.float64)
        return sums / counts.reshape(-1, *([1] * (values.ndim - 1)))


def background_weapons(ctx: Context, seed: int) -> NDArray[np.int32]:
    """The 20 weapons (or all there are) over which an absent weapon is averaged, drawn from those in the data.

    Where the bundle has no examples, from those of its vocabulary.
    """
    there = np.unique(np.asarray(ctx.data.weapon)) if ctx.has_examples else np.arange(len(ctx.weapons))
    if len(there) <= N_BACKGROUND:
        return there.astype(np.int32)
    rng = np.random.default_rng([seed, _BACKGROUND_STREAM])
    return np.sort(rng.choice(there, N_BACKGROUND, replace=False)).astype(np.int32)


def subset_sets(case: Case, members: Bool, background: NDArray[np.int32]) -> Subsets:
    """Construct the sets of some subsets.

    Args:
        case: the example.
        members: bool [n, n_units], which units each subset holds.
        background: weapons that stand in for an absent one.
    """
    n_tokens = len(case.tokens)
    present = case.fixed | (members[:, :n_tokens].astype(np.uint8) @ case.tokens.astype(np.uint8) > 0)
    own = int(case.natural.weapon[0])
    keeps_weapon = members[:, n_tokens] if case.weapon_is_unit else np.ones(len(members), dtype=np.bool_)
    with_own, without = np.flatnonzero(keeps_weapon), np.flatnonzero(~keeps_weapon)
    subset = np.concatenate([with_own, np.repeat(without, len(background))])
    weapon = np.concatenate([np.full(len(with_own), own, np.int32), np.tile(background, len(without))])
    return Subsets(TokenSets(weapon.astype(np.int32), present[subset]), subset, len(members))


def all_members(n_units: int) -> Bool:
    """Every subset of ``n_units`` units: bool [2^n, n], row i holding the bits of i."""
    return (np.arange(2**n_units)[:, None] >> np.arange(n_units) & 1).astype(np.bool_)


def minimal_subsets(sufficient: Bool) -> Bool:
    """Subsets that suffice and have no proper subset that does.

    Args:
        sufficient: bool [2^n, ...], indexed by the bits of the subset.
    """
    n_units = int(sufficient.shape[0]).bit_length() - 1
    index = np.arange(len(sufficient))
    any_below = sufficient.copy()
    for unit in range(n_units):
        holding = index[(index >> unit & 1) == 1]
        any_below[holding] |= any_below[holding ^ (1 << unit)]
    smaller = np.zeros_like(sufficient)
    for unit in range(n_units):
        holding = index[(index >> unit & 1) == 1]
        smaller[holding] |= any_below[holding ^ (1 << unit)]
    return sufficient & ~smaller


@dataclass(frozen=True)
class Probe:
    """Asks the network about subsets of units.

    Attributes:
        ctx: the context.
        feature: the feature that is read.
        background: weapons that stand in for an absent one.
        job: counts passes, reports progress, cancels.
    """

    ctx: Context
    feature: int
    background: NDArray[np.int32]
    job: Job

    def values(self, case: Case, members: Bool) -> tuple[float, Floats]:
        """a(S) of the example and a(T) of some subsets of its units (bool [n, n_units])."""
        part = subset_sets(case, members, self.background)
        stacked = concatenate([case.natural, part.sets])
        activation = self.ctx.evaluate(stacked, self.feature, self.job).activation
        return float(activation[0]), part.mean(activation[1:])

    def lattices(self, cases: Sequence[Case]) -> list[tuple[float, Floats]]:
        """a(S) and the activation of every subset [2^n] of every case, a bounded number of sets at a time."""
        results: list[tuple[float, Floats]] = []
        for chunk in chunks(cases, len(self.background)):
            parts = [subset_sets(case, all_members(len(case.names)), self.background) for case in chunk]
            stacked = concatenate([case.natural for case in chunk] + [part.sets for part in parts])
            activation = self.ctx.evaluate(stacked, self.feature, self.job).activation
            blocks = np.split(activation[len(chunk) :], np.cumsum([len(part.sets) for part in parts])[:-1])
            means = [part.mean(block) for part, block in zip(parts, blocks, strict=True)]
            results.extend(zip(activation[: len(chunk)].tolist(), means, strict=True))
        return results


def chunks(cases: Sequence[Case], n_background: int) -> list[list[Case]]:
    """Group cases so that no group needs more than a bounded number of sets."""
    groups: list[list[Case]] = [[]]
    size = 0
    for case in cases:
        cost = lattice_cost(case, n_background)
        if groups[-1] and size + cost > _SETS_AT_ONCE:
            groups.append([])
            size = 0
        groups[-1].append(case)
        size += cost
    return [group for group in groups if group]


def lattice_cost(case: Case, n_background: int) -> int:
    """Constructed sets that the lattice of a case needs, before deduplication."""
    subsets = 2 ** len(case.names)
    return subsets // 2 * (1 + n_background) if case.weapon_is_unit else subsets
