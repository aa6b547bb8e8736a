"""Effects of swapping the weapon in the same builds, as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ....context.context import Context
from ....schemas.errors import EmptySliceError
from ....schemas.result import Aggregates, Findings, Table
from ....schemas.spec import ExperimentSpec
from ...design.effect_report import leading
from ...design.effect_rows import EffectRow, EffectTable
from ...design.interventions import Design, admissible, data_population, draw
from ...design.report import plural
from .gating import GATING, dropped_note

Floats = NDArray[np.floating[Any]]
FLOOR = "h <= 0 in every context, base included"
ONE_WEAPON = "fewer than two weapons"


class WeaponEffect(EffectRow):
    """The same builds with the weapon swapped, against each build's mean over the weapons."""

    weapon_id: int = Field(description="The game's kit id.")
    weapon_name: str = Field(description="Name of the kit; its token where the table has none.")
    weapon_class: str = Field(description="Weapon class, or unknown.")
    sub: str | None = Field(description="Sub weapon.")
    special: str | None = Field(description="Special weapon.")
    observational_delta: float | None = Field(description="The weapon's delta_from_global in the data, to compare.")


def swap_design(
    spec: ExperimentSpec, ctx: Context, *, min_examples: int, condition: tuple[str, int] | None = None
) -> tuple[Design, list[int]]:
    """The same contexts with each weapon of the data swapped in.

    Args:
        spec: the spec; its slice gives the contexts.
        ctx: the context.
        min_examples: weapons with fewer examples in the slice are not swapped in.
        condition: a family and its level to write into every context; None leaves the contexts as they are.

    Returns:
        The design, whose base is the contexts with their own weapons, and the token ids of the weapons.

    Raises:
        EmptySliceError: fewer than two weapons have enough examples.
    """
    contexts = draw(spec, ctx)
    base = contexts.sets
    if condition is not None:
        base = base.with_level(*condition, ctx.vocabulary, clear="one_rung_per_family" in spec.constraints)
    whole = data_population(spec, ctx, "interventional")
    counts = np.bincount(ctx.data.weapon[whole.rows], minlength=len(ctx.weapons))
    weapons = np.flatnonzero(counts >= min_examples).tolist()
    if len(weapons) < 2:
        raise EmptySliceError(
            f"fewer than two weapons have min_examples = {min_examples} examples in {whole.description}: lower "
            f"min_examples or widen dataset_slice. Nothing was run."
        )
    sets = [base.with_weapon(weapon) for weapon in weapons]
    names = [ctx.weapons.facts[weapon].name for weapon in weapons]
    design = admissible(contexts, base, sets, names, spec=spec, ctx=ctx)
    return design, [weapons[i] for i in design.kept]


@dataclass(frozen=True)
class SwappedWeapons:
    """Effects of the weapons swapped in that are not dropped.

    Attributes:
        effects: of the k weapons, against each context's mean over all that were swapped in.
        weapons: their token ids.
        names: their names.
        n_swapped: weapons swapped in.
    """

    effects: EffectTable
    weapons: list[int]
    names: list[str]
    n_swapped: int

    @property
    def n_dropped(self) -> int:
        """Weapons swapped in that never leave the floor and are dropped for it."""
        return self.n_swapped - len(self.weapons)

    @property
    def notes(self) -> list[str]:
        """What the effects are taken against, and what is left out."""
        against = f"effects against each context's mean over {plural(self.n_swapped, 'weapon')}"
        return [against, *([dropped_note(self.n_dropped, "weapon", FLOOR)] if self.n_dropped else [])]


def weapon_effects(ctx: Context, swapped: SwappedWeapons, top_k: int, observed: Floats | None, reason: str) -> Table:
    """The table ``weapon_effects``: the largest effects first.

    Args:
        ctx: the context.
        swapped: the weapons.
        top_k: rows shown.
        observed: delta_from_global of every weapon of the vocabulary in the data; None where unknown.
        reason: why it is unknown.
    """
    weapons = swapped.weapons
    kits = [ctx.weapons.facts[weapon] for weapon in weapons]
    columns: dict[str, Any] = dict(swapped.effects.columns) | {
        "weapon_id": [kit.weapon_id for kit in kits],
        "weapon_name": [kit.name for kit in kits],
        "weapon_class": [kit.weapon_class for kit in kits],
        "sub": [kit.sub for kit in kits],
        "special": [kit.special for kit in kits],
        "observational_delta": [None] * len(weapons) if observed is None else observed[weapons],
    }
    shown = np.argsort(-swapped.effects.effects.mean, kind="stable")[:top_k].tolist()
    rows = {name: [values[i] for i in shown] for name, values in columns.items()}
    notes = list(swapped.notes)
    if len(shown) < len(weapons):
        notes.append(f"{len(shown)} of {len(weapons)} weapons: the largest effects")
    if observed is None:
        notes.append(f"observational_delta is null: {reason}")
    return Table.from_columns("weapon_effects", WeaponEffect, rows, notes)


def swap_numbers(swapped: SwappedWeapons, *, confirmed: bool | None) -> dict[str, Any]:
    """Numbers of the swapped weapons, for ``custom``."""
    effects, names = swapped.effects, swapped.names
    mean, acting = effects.effects.mean, effects.acting()
    top, bottom = int(np.argmax(mean)), int(np.argmin(mean))
    several = len(names) > 1
    return {
        "method": "interventional",
        "top_weapon": names[top],
        "top_weapon_mean": float(effects.columns["mean_activation"][top]),
        "top_weapon_delta": float(mean[top]),
        "bottom_weapon": names[bottom] if several else None,
        "weapon_range": float(mean[top] - mean[bottom]) if several else None,
        "weapon_range_reason": None if several else ONE_WEAPON,
        "n_weapons": len(names),
        "n_dropped_weapons": swapped.n_dropped,
        "acting_weapons": [names[i] for i in leading(effects)] if acting else [],
        "winner_confirmed": confirmed,
        "specificity_p": float(effects.specificity[leading(effects)[0]]),
        "verdict": effects.status[leading(effects)[0]] if acting else "nothing_specific",
    }


def all_dropped(n_swapped: int, n_contexts: int, scope: str) -> Findings:
    """The answer where every weapon swapped in was dropped."""
    reason = f"each of the {plural(n_swapped, 'weapon')} swapped in was dropped: {FLOOR} ({GATING})"
    names = ("top_weapon", "top_weapon_mean", "top_weapon_delta", "bottom_weapon", "weapon_range", "winner_confirmed")
    custom: dict[str, Any] = {
        "method": "interventional",
        **dict.fromkeys((*names, "specificity_p")),
        "reason": reason,
        "weapon_range_reason": ONE_WEAPON,
        "n_weapons": 0,
        "n_dropped_weapons": n_swapped,
        "acting_weapons": [],
        "verdict": "nothing_specific",
    }
    return Findings(
        headline=f"nothing can be said: {reason}; {n_contexts} contexts of {scope}; interventional.",
        aggregates=Aggregates(n_samples=n_contexts, custom=custom),
    )
