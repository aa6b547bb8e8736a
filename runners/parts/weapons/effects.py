"""Effects of swapping the weapon in the same builds, as a table."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ....context.context import Context
from ....schemas.errors import EmptySliceError
from ....schemas.result import ConstraintViolation, Table
from ....schemas.spec import ExperimentSpec
from ...design.effect_report import leading
from ...design.effect_rows import EffectRow, EffectTable
from ...design.interventions import Design, admissible, data_population, draw

Floats = NDArray[np.floating[Any]]
GATING = "no_weapon_gating_if_relu_floor"


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


def floor_bound(pre: Floats, names: list[str], *, listed: bool) -> tuple[ConstraintViolation | None, set[int]]:
    """Weapons under which every context, base included, has h <= 0.

    Args:
        pre: [k + 1, m] pre-activations, base first.
        names: names of the k weapons.
        listed: whether the spec lists the constraint, so that such rows are dropped and not only counted.

    Returns:
        The violation (None without any), and the weapons to drop.
    """
    silent = [i for i in range(len(names)) if (pre[i + 1] <= 0).all() and (pre[0] <= 0).all()]
    if not silent:
        return None, set()
    example = f"{names[silent[0]]}: h <= 0 in every context, base included ({len(silent)} weapons)"
    violation = ConstraintViolation(id=GATING, hard=listed, contexts=pre.shape[1], example=example)
    return violation, set(silent) if listed else set()


def weapon_effects(ctx: Context, effects: EffectTable, weapons: list[int], shown: list[int], observed: Floats) -> Table:
    """The table ``weapon_effects``.

    Args:
        ctx: the context.
        effects: effects of the k weapons.
        weapons: their token ids.
        shown: which of them to show, in order.
        observed: delta_from_global of every weapon of the vocabulary in the data.
    """
    kits = [ctx.weapons.facts[weapon] for weapon in weapons]
    columns: dict[str, Any] = dict(effects.columns) | {
        "weapon_id": [kit.weapon_id for kit in kits],
        "weapon_name": [kit.name for kit in kits],
        "weapon_class": [kit.weapon_class for kit in kits],
        "sub": [kit.sub for kit in kits],
        "special": [kit.special for kit in kits],
        "observational_delta": observed[weapons],
    }
    rows = {name: [values[i] for i in shown] for name, values in columns.items()}
    notes = [f"effects against each context's mean over {len(weapons)} weapons"]
    if len(shown) < len(weapons):
        notes.append(f"{len(shown)} of {len(weapons)} weapons: the largest effects")
    return Table.from_columns("weapon_effects", WeaponEffect, rows, notes)


def swap_numbers(
    effects: EffectTable, names: list[str], activation: Floats, *, confirmed: bool | None
) -> dict[str, Any]:
    """Numbers of the swapped weapons, for ``custom``; activation is [k + 1, m], base first."""
    mean, acting = effects.effects.mean, effects.acting()
    top, bottom = int(np.argmax(mean)), int(np.argmin(mean))
    return {
        "method": "interventional",
        "top_weapon": names[top],
        "top_weapon_mean": float(activation[top + 1].mean()),
        "top_weapon_delta": float(mean[top]),
        "bottom_weapon": names[bottom],
        "weapon_range": float(mean[top] - mean[bottom]),
        "n_weapons": len(names),
        "acting_weapons": [names[i] for i in leading(effects)] if acting else [],
        "winner_confirmed": confirmed,
        "specificity_p": float(effects.specificity[leading(effects)[0]]),
        "verdict": effects.status[leading(effects)[0]] if acting else "nothing_specific",
    }
