"""Candidates of interactions: which units are tried together, and how they are written into builds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ....context.context import Context
from ....context.token_sets import TokenSets, levels_of
from ....schemas.errors import RequestError
from ....schemas.facts import MAX_AP
from ....schemas.job import Job
from ....schemas.spec import ExperimentSpec, Variables
from ...design.report import plural
from ...design.units import (
    DEFAULT_RUNG,
    Unit,
    all_units,
    exclusive,
    parse_unit,
    parse_units,
    resolution_warnings,
    with_units,
    without_units,
)
from .grid import Grid, Meter

Floats = NDArray[np.floating[Any]]
Pair = tuple[Unit, Unit]
ALL_UP_TO = 40
"""Without ``n_candidates`` every unit is a candidate when there are at most this many."""


class CandidateVariables(Variables):
    """Which units are tried together."""

    candidate_tokens: tuple[str, ...] | None = Field(
        default=None, description="Units to pair: family_AP, a family (at rung), a main-only ability; default: all."
    )
    n_candidates: int | None = Field(
        default=None, ge=2, le=200, description="Pair only as many units: those that move the feature most anywhere."
    )
    rung: int = Field(default=DEFAULT_RUNG, ge=1, le=MAX_AP, description="AP of families given without one.")
    family_mode: bool = Field(
        default=True, description="A unit is a family up to its AP, as the tokenizer writes; false: a single token."
    )
    min_effect: float | None = Field(
        default=None, gt=0, le=6, description="Smallest interaction of interest; default 5 % of the effective max."
    )
    top_k: int = Field(default=20, ge=1, le=1000, description="Rows shown of what acts; everything is stored.")

    @model_validator(mode="after")
    def _one_way_to_choose(self) -> Self:
        if self.candidate_tokens is not None and self.n_candidates is not None:
            raise ValueError("candidate_tokens and n_candidates exclude each other: name the units or their number")
        if self.candidate_tokens is not None and not self.candidate_tokens:
            raise ValueError("candidate_tokens is empty: name units, or leave it out for all")
        return self


@dataclass(frozen=True)
class Writing:
    """How units are put into builds.

    Attributes:
        single: a unit is its token alone, not every rung up to it.
        clear: a family's own tokens make room for the level; else the level is written on top of them.
    """

    single: bool
    clear: bool

    def with_units(self, base: TokenSets, natural: TokenSets, units: Sequence[Unit], ctx: Context) -> TokenSets:
        """The sets ``base``, which lack the units, with them; ``natural`` is what they were before."""
        vocabulary = ctx.vocabulary
        sets = base if self.single else with_units(base, units, ctx)
        for unit in units:
            if self.single:
                sets = sets.with_tokens(vocabulary.encode(unit.family, unit.level, "single"))
            if not self.clear and not vocabulary.is_main_only(unit.family):
                present, own = sets.present.copy(), list(vocabulary.family_tokens(unit.family))
                present[:, own] |= natural.present[:, own]
                sets = TokenSets(sets.weapon, present)
        return sets

    def cells(self, natural: TokenSets, pair: Pair, ctx: Context) -> list[TokenSets]:
        """f00, f10, f01, f11: neither unit, the first, the second, both; the rest as it is."""
        base = without_units(natural, pair, ctx)
        first, second = pair
        return [base, *(self.with_units(base, natural, units, ctx) for units in ([first], [second], [first, second]))]


def writing(spec: ExperimentSpec, variables: CandidateVariables) -> Writing:
    """How a spec wants units written."""
    return Writing(single=not variables.family_mode, clear="one_rung_per_family" in spec.constraints)


@dataclass(frozen=True)
class Pool:
    """The units that may be paired.

    Attributes:
        units: all of them.
        choose: how many are to be chosen among them by their effects; None takes all.
        named: they were asked for one by one.
        notes: defaults that were applied.
        warnings: AP values that are no rung of the vocabulary.
    """

    units: tuple[Unit, ...]
    choose: int | None
    named: bool
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    def taken(self, response: Floats, ctx: Context) -> list[Unit]:
        """The units that respond most [len(units)], strongest first, of each family its strongest.

        More than were asked for where no build can hold two of those.
        """
        if self.choose is None:
            return list(self.units)
        best: dict[str, Unit] = {}
        for index in np.argsort(-response, kind="stable").tolist():
            best.setdefault(self.units[index].family, self.units[index])
        order, n = list(best.values()), self.choose
        while n < len(order) and all(exclusive(*pair, ctx) for pair in combinations(order[:n], 2)):
            n += 1
        return order[:n]


def pool(variables: CandidateVariables, ctx: Context, *, default: int = ALL_UP_TO, barred: Unit | None = None) -> Pool:
    """Read the candidates of a spec.

    Args:
        variables: what was asked.
        ctx: the context.
        default: how many are chosen when there are more and the spec does not say.
        barred: a unit that no candidate may replace (the modulator).

    Raises:
        RequestError: an unknown unit, a rung below the vocabulary's, or a candidate in place of ``barred``.
    """
    notes: tuple[str, ...] = ()
    warnings = (*_rung_warnings(variables, ctx), *resolution_warnings(variables.candidate_tokens or (), ctx))
    if variables.candidate_tokens is not None:
        units = parse_units(variables.candidate_tokens, ctx, variables.rung)
        clash = [unit.label(ctx) for unit in units if barred is not None and exclusive(unit, barred, ctx)]
        if clash and barred is not None:
            raise RequestError(
                f"candidate_tokens holds {', '.join(clash)}, which no build can hold beside the modulator "
                f"{barred.label(ctx)}. Leave it out. Nothing was run."
            )
        return Pool(tuple(units), None, named=True, notes=notes, warnings=warnings)
    units = all_units(ctx, variables.rung)
    if not variables.family_mode:
        units = [Unit(family, rung) for family in ctx.vocabulary.families for rung in ctx.vocabulary.rungs(family)]
    allowed = [unit for unit in units if barred is None or not exclusive(unit, barred, ctx)]
    if len(allowed) < len(units) and barred is not None:
        notes += (f"{len(units) - len(allowed)} units are no candidates: they take the place of {barred.label(ctx)}",)
    wanted = variables.n_candidates or (default if len(allowed) > default else None)
    choose = wanted if wanted is not None and wanted < len(allowed) else None
    if wanted is not None and wanted > len(allowed):
        notes += (f"n_candidates {wanted} is more than there are: all {len(allowed)} units are paired",)
    if variables.n_candidates is None and choose is not None:
        notes += (f"n_candidates not given: {choose} of {len(allowed)} units, those that move the feature most",)
    return Pool(tuple(allowed), choose, named=False, notes=notes, warnings=warnings)


def _rung_warnings(variables: CandidateVariables, ctx: Context) -> tuple[str, ...]:
    rungs = sorted({rung for family in ctx.vocabulary.stackable for rung in ctx.vocabulary.rungs(family)})
    if not rungs or variables.rung in rungs:
        return ()
    if variables.rung < rungs[0]:
        raise RequestError(
            f"rung {variables.rung} is out of range: {rungs[0]} to {MAX_AP} AP is allowed; the vocabulary's rungs are "
            f"{rungs}. Nothing was run."
        )
    used = max(rung for rung in rungs if rung <= variables.rung)
    return (f"rung {variables.rung} is no rung of the vocabulary: {used} is used, as the tokenizer does",)


def pairs_of(units: Sequence[Unit], ctx: Context, *, rungs_too: bool) -> tuple[list[Pair], int]:
    """Pairs that a build can hold, and how many it cannot.

    Args:
        units: the candidates.
        ctx: the context.
        rungs_too: two tokens of one stackable family are a pair as well.

    Raises:
        RequestError: no pair is left.
    """
    both = list(combinations(units, 2))
    pairs = [
        (first, second)
        for first, second in both
        if not exclusive(first, second, ctx)
        or (rungs_too and first.family == second.family and not ctx.vocabulary.is_main_only(first.family))
    ]
    if not pairs:
        names = ", ".join(unit.label(ctx) for unit in units)
        raise RequestError(
            f"no two of the candidates fit into one build: {names}. Give at least two units of different families and "
            f"gear slots. Nothing was run."
        )
    return pairs, len(both) - len(pairs)


def side_by_side(spec: ExperimentSpec, pairs: Sequence[Pair]) -> list[Pair]:
    """Pairs of two tokens of one family, which ``one_rung_per_family`` forbids where it is not lifted."""
    if "one_rung_per_family" not in spec.constraints:
        return []
    return [pair for pair in pairs if pair[0].family == pair[1].family]


def side_by_side_warning(count: int) -> str:
    """Why such pairs are run all the same."""
    return (
        f"one_rung_per_family is broken by {plural(count, 'pair')} of tokens of one family: candidate_tokens names "
        f"both tokens, which asks for it, so they are paired; name one of them, or lift the constraint"
    )


def screening(units: Sequence[Unit], backgrounds: Sequence[TokenSets], how: Writing, ctx: Context) -> Grid[Unit]:
    """For each unit, on each background, the sets without it and with it."""

    def build(unit: Unit) -> list[TokenSets]:
        conditions: list[TokenSets] = []
        for sets in backgrounds:
            base = without_units(sets, [unit], ctx)
            conditions += [base, how.with_units(base, sets, [unit], ctx)]
        return conditions

    return Grid(units, build, 2 * len(backgrounds), len(backgrounds[0]))


def responses(grid: Grid[Unit], feature: int, ctx: Context, meter: Meter) -> Floats:
    """Largest |effect| of writing each unit alone, over contexts and backgrounds, [k].

    The mean would pass over the legs of an AND, which act in the few contexts that hold the other leg.
    """
    largest = np.zeros(len(grid.items))
    for part, vectors in grid.pooled(ctx, meter):
        activation = ctx.read(vectors, feature).activation
        largest[part] = np.abs(activation[:, 1::2] - activation[:, 0::2]).max(axis=(1, 2))
    return largest


def expected(
    units: Pool, grid: Grid[Unit], natural: TokenSets, *, feature: int, ctx: Context
) -> tuple[list[Unit], tuple[str, ...]]:
    """The units that a run would choose, without a forward pass, and how they were guessed.

    Where the first pass is cached they are known. Else units that builds hold often stand for them: a pair costs the
    more, the more contexts hold one of the two.
    """
    if units.choose is None or grid.is_cached(ctx):
        known = np.zeros(0) if units.choose is None else responses(grid, feature, ctx, Meter(Job(), len(grid)))
        return units.taken(known, ctx), ()
    n, held = units.choose, levels_of(natural.present, ctx.vocabulary).astype(np.bool_).mean(axis=0)
    one_each = {unit.family: unit for unit in units.units}
    often = sorted(one_each.values(), key=lambda unit: -held[ctx.vocabulary.family_index[unit.family]])
    reach = min(round(1.5 * n), n + (len(often) - n) // 4)
    where = np.linspace(0, max(min(reach, len(often)), 1) - 1, n).round().astype(int)
    note = f"a first pass chooses {n} of {len(units.units)} units: pairs of units that builds hold often are counted"
    return [often[i] for i in np.unique(where).tolist()], (note,)


def named_unit(text: str, ctx: Context, rung: int) -> Unit | None:
    """The unit of that name; None where it names none."""
    family = text.rsplit("_", 1)[0] if text.rsplit("_", 1)[-1].isdigit() else text
    if family not in ctx.vocabulary.family_index:
        return None
    return parse_unit(text, ctx, rung)
