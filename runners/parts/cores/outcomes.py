"""Minimal cores of single examples: cases taken apart, cores found, lowest sufficient rungs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....context.context import Context
from ....context.token_sets import TokenSets, concatenate
from ....schemas.errors import RequestError
from .greedy import greedy_cores
from .lattice import WEAPON, Case, Probe, minimal_subsets, subset_sets

Floats = NDArray[np.floating[Any]]
Core = frozenset[str]
_EXAMPLES_FOR_RUNGS = 20


@dataclass(frozen=True)
class Outcome:
    """What was found in one example.

    Attributes:
        case: the example.
        natural: its activation.
        cores: activation of each minimal core, by its units.
        without: activation of the example without each unit.
        exact: whether the whole lattice was evaluated.
    """

    case: Case
    natural: float
    cores: dict[Core, float]
    without: dict[str, float]
    exact: bool


@dataclass(frozen=True)
class Cut:
    """How examples are taken apart.

    Attributes:
        by_token: units are tokens instead of families.
        clamp: families held in every subset.
        exclude: families in no subset.
        weapon: whether the weapon is a unit.
    """

    by_token: bool
    clamp: tuple[str, ...]
    exclude: tuple[str, ...]
    weapon: bool

    def check(self, ctx: Context) -> None:
        """Raise RequestError when a family is unknown or both clamped and excluded."""
        for family in (*self.clamp, *self.exclude):
            ctx.vocabulary.check_family(family)
        both = sorted(set(self.clamp) & set(self.exclude))
        if both:
            raise RequestError(f"{', '.join(both)} is both clamped and excluded: choose one. Nothing was run.")

    def cases(self, ctx: Context, rows: NDArray[np.intp], sets: TokenSets | None = None) -> list[Case]:
        """Take examples apart into units; ``sets`` are theirs where they are no rows of the data."""
        sets = ctx.sets(rows) if sets is None else sets
        return [self._case(ctx, int(row), sets.take(np.array([i]))) for i, row in enumerate(rows)]

    def _case(self, ctx: Context, row: int, one: TokenSets) -> Case:
        vocabulary = ctx.vocabulary
        held = np.flatnonzero(one.present[0])
        fixed = np.zeros(len(vocabulary), dtype=np.bool_)
        units: dict[str, list[int]] = {}
        for token in held.tolist():
            family = vocabulary.families[vocabulary.token_family[token]]
            if family in self.clamp:
                fixed[token] = True
            elif family not in self.exclude:
                units.setdefault(vocabulary.tokens[token] if self.by_token else family, []).append(token)
        tokens = np.zeros((len(units), len(vocabulary)), dtype=np.bool_)
        for index, ids in enumerate(units.values()):
            tokens[index, ids] = True
        names = (*units, WEAPON) if self.weapon else tuple(units)
        return Case(row, one, names, tokens, fixed)


def find_cores(cases: Sequence[Case], probe: Probe, *, threshold: float, exact_limit: int, seed: int) -> list[Outcome]:
    """Minimal cores of every case: the whole lattice up to ``exact_limit`` units, else verified greedy deletion."""
    small = [case for case in cases if len(case.names) <= exact_limit]
    values = dict(zip([case.row for case in small], probe.lattices(small), strict=True))
    outcomes: list[Outcome] = []
    for case in cases:
        if case.row in values:
            outcomes.append(_from_lattice(case, *values[case.row], threshold))
            continue
        natural, cores, without = greedy_cores(case, probe, threshold=threshold, seed=seed)
        named = {frozenset(case.names[unit] for unit in core): value for core, value in cores.items()}
        outcomes.append(
            Outcome(case, natural, named, dict(zip(case.names, without.tolist(), strict=True)), exact=False)
        )
    return outcomes


def _from_lattice(case: Case, natural: float, values: Floats, threshold: float) -> Outcome:
    minimal = np.flatnonzero(minimal_subsets(values >= threshold * natural))
    cores = {members(case, int(index)): float(values[index]) for index in minimal}
    everything = len(values) - 1
    without = {name: float(values[everything ^ (1 << unit)]) for unit, name in enumerate(case.names)}
    return Outcome(case, natural, cores, without, exact=True)


def members(case: Case, index: int) -> Core:
    """Units of the subset whose bits are ``index``."""
    return frozenset(name for unit, name in enumerate(case.names) if index >> unit & 1)


def lowest_rungs(core: Core, outcomes: Sequence[Outcome], probe: Probe, threshold: float) -> dict[str, int]:
    """Lowest rung of each stackable family of a core at which the core still suffices, median over examples.

    The other units keep their levels; rungs are written in thermometer encoding. At most 20 examples are asked.
    """
    vocabulary = probe.ctx.vocabulary
    parts: list[TokenSets] = []
    asked: list[tuple[str, int, float, int]] = []
    for outcome in [outcome for outcome in outcomes if core in outcome.cores][:_EXAMPLES_FOR_RUNGS]:
        held = np.array([[name in core for name in outcome.case.names]])
        base = subset_sets(outcome.case, held, probe.background).sets
        levels = vocabulary.levels(np.flatnonzero(outcome.case.natural.present[0]).tolist())
        for family in sorted(core & set(vocabulary.stackable)):
            for rung in [rung for rung in vocabulary.rungs(family) if rung <= levels[family]]:
                parts.append(base.with_level(family, rung, vocabulary))
                asked.append((family, outcome.case.row, threshold * outcome.natural, rung))
    if not parts:
        return {}
    activation = probe.ctx.evaluate(concatenate(parts), probe.feature, probe.job).activation
    bounds = np.cumsum([len(part) for part in parts])
    means = [float(block.mean()) for block in np.split(activation, bounds[:-1])]
    lowest: dict[tuple[str, int], int] = {}
    for (family, row, goal, rung), value in zip(asked, means, strict=True):
        if value >= goal:
            lowest[family, row] = min(rung, lowest.get((family, row), rung))
    families = sorted({family for family, _ in lowest})
    return {family: median_low([rung for (name, _), rung in lowest.items() if name == family]) for family in families}
