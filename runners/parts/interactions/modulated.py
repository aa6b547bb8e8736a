"""Modulated interactions: what a third unit, or a weapon, does to the interaction of two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ....context.context import Context
from ....context.token_sets import TokenSets
from ....schemas.errors import RequestError, UnknownNameError
from ....schemas.result import Row, Status
from ...design.effect_rows import EffectRow
from ...design.units import Unit, without_units
from ...stats.patterns import Pattern, Reading, modulation
from .candidates import Pair, Writing, named_unit
from .contrasts import PAIR, Contrasts, Factorial, acting_cells, named_patterns
from .rows import names

Floats = NDArray[np.floating[Any]]


class ModulatedRow(Row):
    """Two units, without the modulator and with it."""

    unit_a: str = Field(description="First unit.")
    unit_b: str = Field(description="Second unit.")
    reading: Reading = Field(
        description="gates: they interact only with it; blocks: only without it; strengthens, weakens, reverses, none."
    )
    interaction_without: float = Field(description="I = f11 - f10 - f01 + f00 without the modulator, in activation.")
    without_std_error: float | None = Field(description="Its standard error.")
    without_ci_low: float = Field(description="Lower end of its 95 % interval.")
    without_ci_high: float = Field(description="Upper end of its 95 % interval.")
    without_low: float = Field(description="Lower end of its 95 % interval that holds for all pairs at once.")
    without_high: float = Field(description="Upper end of that interval.")
    without_q_value: float | None = Field(description="Benjamini-Hochberg q over the pairs that it is 0.")
    without_status: Status = Field(description="Verdict on it.")
    interaction_with: float = Field(description="I with the modulator in every condition.")
    with_std_error: float | None = Field(description="Its standard error.")
    with_ci_low: float = Field(description="Lower end of its 95 % interval.")
    with_ci_high: float = Field(description="Upper end of its 95 % interval.")
    with_low: float = Field(description="Lower end of its simultaneous 95 % interval.")
    with_high: float = Field(description="Upper end of it.")
    with_q_value: float | None = Field(description="Benjamini-Hochberg q over the pairs that it is 0.")
    with_status: Status = Field(description="Verdict on it.")
    difference: float = Field(description="I with minus I without, in the same contexts.")
    std_error: float | None = Field(description="Its standard error.")
    ci_low: float = Field(description="Lower end of the 95 % interval of the difference.")
    ci_high: float = Field(description="Upper end of the 95 % interval of the difference.")
    sim_low: float = Field(description="Lower end of its simultaneous 95 % interval.")
    sim_high: float = Field(description="Upper end of it.")
    p_value: float | None = Field(description="Two-sided p that the difference is 0.")
    q_value: float | None = Field(description="Benjamini-Hochberg q over the pairs.")
    difference_pre: float = Field(description="The difference in the pre-activation h, which has no floor.")
    responder_rate: float = Field(description="Share of contexts where the |difference| exceeds min_effect.")
    responder_low: float = Field(description="Lower end of its Clopper-Pearson interval.")
    responder_high: float = Field(description="Upper end of it.")
    mean_responders: float | None = Field(description="Mean difference on those contexts.")
    delta_a_without: float = Field(description="Effect of the first unit alone, without the modulator.")
    delta_b_without: float = Field(description="Effect of the second alone, without it.")
    delta_a_with: float = Field(description="Effect of the first alone, with it.")
    delta_b_with: float = Field(description="Effect of the second alone, with it.")
    pattern_without: Pattern | None = Field(description="What the two do without it; null when unclear.")
    pattern_with: Pattern | None = Field(description="What they do with it; null when unclear.")
    n: int = Field(description="Contexts.")
    status: Status = Field(description="Verdict on the difference.")
    specificity_p: float | None = Field(description="Share of random directions that differ at least as much.")


class ModulatorRow(EffectRow):
    """The modulator written into the contexts as they are, against the same contexts without it."""

    modulator: str = Field(description="The modulator.")


TABLES: dict[str, type[Row]] = {"modulated": ModulatedRow, "pairs": ModulatedRow, "modulator": ModulatorRow}


@dataclass(frozen=True)
class Modulator:
    """A unit or a weapon that is there in half of the conditions.

    Attributes:
        label: how it is named.
        unit: the unit; None for a weapon.
        weapon: token id of the weapon; None for a unit.
    """

    label: str
    unit: Unit | None
    weapon: int | None

    def states(
        self, natural: TokenSets, how: Writing, ctx: Context, rng: np.random.Generator
    ) -> tuple[TokenSets, TokenSets]:
        """The contexts without it and with it; a context on the weapon gets another one without it.

        That is a weapon of the data, as often as it is there; any of the vocabulary's where the bundle has no examples.
        """
        if self.unit is not None:
            base = without_units(natural, [self.unit], ctx)
            return base, how.with_units(base, natural, [self.unit], ctx)
        weapon = np.asarray(ctx.data.weapon) if ctx.has_examples else np.arange(len(ctx.weapons), dtype=np.int32)
        others = weapon[weapon != self.weapon]
        if self.weapon is None or not len(others):
            raise RequestError(f"all examples are on {self.label}: nothing can stand in for it. Nothing was run.")
        drawn = rng.choice(others, len(natural))
        away = np.where(natural.weapon == self.weapon, drawn, natural.weapon).astype(np.int32)
        return natural.with_weapon(away), natural.with_weapon(self.weapon)


def read_modulator(text: str, ctx: Context, rung: int) -> Modulator:
    """Read ``family_AP``, a family (at ``rung``), a main-only ability, or a weapon.

    Raises:
        UnknownNameError: it is none of them.
        RequestError: AP out of range.
    """
    unit = named_unit(text, ctx, rung)
    if unit is not None:
        return Modulator(unit.label(ctx), unit, None)
    try:
        weapon = ctx.weapons.resolve(text)
    except UnknownNameError as error:
        allowed = [*ctx.vocabulary.families, *(kit.name for kit in ctx.weapons.facts)]
        hint = "A weapon_id_NNNN token will do too. Nothing was run."
        raise UnknownNameError("modulator_token", text, allowed, hint) from error
    return Modulator(ctx.weapons.facts[weapon].name, None, weapon)


@dataclass(frozen=True)
class Modulated:
    """Interactions without the modulator, with it, and their difference.

    Attributes:
        without: the contrast of the cells without it.
        held: of those with it.
        difference: third order.
        factorial: the eight cells: four without it, four with it.
    """

    without: Contrasts
    held: Contrasts
    difference: Contrasts
    factorial: Factorial

    def readings(self, min_effect: float) -> list[Reading]:
        """What the modulator does to each pair, in the contexts in which it makes a difference."""
        cells = self._cells(min_effect)
        before, after = cells[:, :4] @ PAIR, cells[:, 4:] @ PAIR
        rows = zip(before.tolist(), after.tolist(), self.difference.table.status, strict=True)
        return [modulation(first, second, min_effect, difference=status) for first, second, status in rows]

    def _cells(self, min_effect: float) -> Floats:
        table = self.difference.table
        return acting_cells(self.factorial.activation, table.differences, table.status, min_effect)


def modulated_columns(pairs: Sequence[Pair], found: Modulated, min_effect: float, ctx: Context) -> dict[str, Any]:
    """The columns of `ModulatedRow`."""
    effects = found.difference.table.effects
    cells = found.factorial.activation.mean(axis=2, dtype=np.float64).T
    parts = {"without": (found.without, slice(0, 4)), "with": (found.held, slice(4, 8))}
    columns: dict[str, Any] = {**names(pairs, ctx), "reading": found.readings(min_effect)}
    for name, (part, where) in parts.items():
        f00, f10, f01, _ = cells[where]
        own = Factorial(found.factorial.activation[:, where], found.factorial.pre[:, where], None)
        columns |= {
            f"interaction_{name}": part.table.effects.mean,
            f"{name}_std_error": part.table.effects.std_error,
            f"{name}_ci_low": part.table.effects.ci_low,
            f"{name}_ci_high": part.table.effects.ci_high,
            f"{name}_q_value": part.table.effects.q_value,
            f"{name}_low": part.table.effects.sim_low,
            f"{name}_high": part.table.effects.sim_high,
            f"{name}_status": part.table.status,
            f"delta_a_{name}": f10 - f00,
            f"delta_b_{name}": f01 - f00,
            f"pattern_{name}": named_patterns(part, own, min_effect),
        }
    return columns | {
        "difference": effects.mean,
        "std_error": effects.std_error,
        "ci_low": effects.ci_low,
        "ci_high": effects.ci_high,
        "sim_low": effects.sim_low,
        "sim_high": effects.sim_high,
        "p_value": effects.p_value,
        "q_value": effects.q_value,
        "difference_pre": found.difference.pre.mean,
        "responder_rate": effects.responder_rate,
        "responder_low": effects.responder_low,
        "responder_high": effects.responder_high,
        "mean_responders": effects.mean_responders,
        "n": [effects.n] * len(pairs),
        "status": found.difference.table.status,
        "specificity_p": found.difference.table.specificity,
    }
