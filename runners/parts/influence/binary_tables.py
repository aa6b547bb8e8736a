"""The tables of a binary presence experiment that hold examples: each ability, and combinations of abilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ....context.context import Context
from ....context.population import Population
from ....schemas.result import Row, Status, Table
from ...design.unit_columns import UnitColumns
from ...design.unit_effects import CausalColumns, UnitEffects, no_causal_columns
from ...design.units import Unit, exclusive
from ...stats.groups import sum_by
from ...stats.held import weighted
from .association import NOT_RUN, Association

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Cells = NDArray[np.bool_]
LARGEST = 3


class BinaryEffect(CausalColumns):
    """One main-only ability: what goes with it in the data, and what it does in the network."""

    ability: str = Field(description="The main-only ability.")
    slot: str | None = Field(description="Its gear slot.")
    mean_with: float | None = Field(description="Mean activation of the examples with it.")
    mean_without: float | None = Field(description="Mean activation of the others.")
    delta: float | None = Field(description="Mean with minus mean without, weapon held fixed (fixed effects).")
    delta_low: float | None = Field(description="Lower end of its 95 % interval that holds for all rows at once.")
    delta_high: float | None = Field(description="Upper end of that interval.")
    raw_delta: float | None = Field(description="mean_with minus mean_without, over all weapons.")
    effect_size: float | None = Field(description="delta / standard deviation of activation pooled over with, without.")
    n_present: int = Field(description="Examples with it.")
    n_absent: int = Field(description="Examples without it.")
    n_active: int | None = Field(description="Of the examples with it, active.")
    mean_when_active: float | None = Field(description="Mean activation of those.")
    baseline_rate: float | None = Field(description="Share of the examples that are not high that hold it.")
    high_rate: float | None = Field(description="Share of the high examples that hold it.")
    enrichment: float | None = Field(description="Ratio of these rates within weapons (Mantel-Haenszel).")
    enrichment_low: float | None = Field(description="Lower end of its 95 % interval that holds for all rows at once.")
    enrichment_high: float | None = Field(description="Upper end of that interval; null without bound.")
    odds_ratio: float | None = Field(
        description="The same comparison as an odds ratio pooled over weapons; null where infinite."
    )
    q_value: float | None = Field(description="Benjamini-Hochberg q of delta over the rows.")
    status: Status | None = Field(description="Verdict on delta; null where it cannot be judged.")
    observed_p: float | None = Field(
        description="Share of random directions with a delta of any ability at least as large."
    )
    sparse: bool = Field(
        description="Fewer than min_samples examples with or without it: not to be read as suppression."
    )
    reason: str | None = Field(description="Why a number is null.")


OBSERVED = (
    "mean_with",
    "mean_without",
    "delta",
    "delta_low",
    "delta_high",
    "raw_delta",
    "effect_size",
    "n_active",
    "mean_when_active",
    "baseline_rate",
    "high_rate",
    "enrichment",
    "enrichment_low",
    "enrichment_high",
    "odds_ratio",
    "q_value",
    "status",
    "observed_p",
    "reason",
)


def binary_effects(
    ctx: Context, seen: Association, effects: UnitEffects | None, *, min_samples: int, observed: bool, note: str | None
) -> Table:
    """The table of abilities: the largest causal effects first, else the largest within-weapon effects.

    Args:
        ctx: the context.
        seen: what the data say of them.
        effects: what they do in the network, in the same order; None where it was not asked.
        min_samples: examples below which a row is sparse.
        observed: whether the columns of the data are shown.
        note: what to say of the table.
    """
    labels = list(seen.units.labels)
    fewest = np.minimum(seen.n_present, seen.n_absent)
    columns: dict[str, Any] = {
        "ability": labels,
        "slot": [ctx.vocabulary.slot(label) for label in labels],
        "mean_with": seen.mean_with,
        "mean_without": seen.mean_without,
        "delta": seen.effects.coefficient,
        "delta_low": seen.low,
        "delta_high": seen.high,
        "raw_delta": seen.raw_delta,
        "effect_size": seen.effect_size,
        "n_present": seen.n_present,
        "n_absent": seen.n_absent,
        "n_active": seen.n_active,
        "mean_when_active": seen.mean_when_active,
        "baseline_rate": seen.rates.among_rest,
        "high_rate": seen.rates.among_high,
        "enrichment": seen.rates.ratio,
        "enrichment_low": seen.rates.low,
        "enrichment_high": seen.rates.high,
        "odds_ratio": seen.rates.odds,
        "q_value": seen.q_value,
        "status": seen.status,
        "observed_p": seen.specificity,
        "sparse": fewest < min_samples,
        "reason": seen.reason,
    }
    if not observed:
        columns |= {name: [None] * len(labels) for name in OBSERVED}
    causal = no_causal_columns(len(labels), NOT_RUN) if effects is None else effects.columns(labels, [0] * len(labels))
    order = _order(seen, effects, len(labels))
    shown = {name: [values[i] for i in order] for name, values in (columns | causal).items()}
    return Table.from_columns("binary_effects", BinaryEffect, shown, [] if note is None else [note])


def _order(seen: Association, effects: UnitEffects | None, k: int) -> list[int]:
    observed = np.nan_to_num(np.abs(seen.effects.coefficient))
    causal = np.zeros(k)
    if effects is not None:
        causal[: len(effects.units)] = np.abs(effects.table.effects.mean)
    return np.lexsort((np.arange(k), -observed, -causal)).tolist()


class Combination(Row):
    """Examples that hold several abilities at once, against examples that hold none of them."""

    abilities: str = Field(description="The abilities, joined by +.")
    size: int = Field(description="How many.")
    n: int = Field(description="Examples that hold all of them.")
    n_active: int = Field(description="Of these, active.")
    n_none: int = Field(description="Examples that hold none of them.")
    mean_activation: float | None = Field(description="Mean activation of the examples that hold all.")
    mean_when_active: float | None = Field(description="Mean activation of the active ones of these.")
    mean_none: float | None = Field(description="Mean activation of those that hold none.")
    delta: float | None = Field(description="Their difference, weapon held fixed.")
    expected: float | None = Field(description="Sum of what each ability alone goes with, weapon held fixed.")
    excess: float | None = Field(description="delta minus expected.")
    sparse: bool = Field(description="Fewer than min_samples examples: not to be read as suppression.")
    reason: str | None = Field(description="Why a number is null.")


def ability_combinations(
    ctx: Context, population: Population, abilities: UnitColumns, single: Floats, min_samples: int
) -> Table:
    """Pairs and triples of abilities that some example holds, the most frequent first.

    The delta is that of least squares on "all" against "none" with weapon fixed effects, over the examples that hold
    all or none.

    Args:
        ctx: the context.
        population: the examples.
        abilities: columns over them, [n, k].
        single: [k], within-weapon effect of each ability.
        min_samples: examples below which a row is sparse.
    """
    groups, cells = _wearable(ctx, abilities.labels), _Cells.of(ctx, population, abilities)
    found = [_combination(group, abilities.labels, cells, single, min_samples) for group in groups]
    rows = sorted((row for row in found if row.n), key=lambda row: (-row.n, row.size, row.abilities))
    notes = [f"{len(groups) - len(rows)} of {len(groups)} wearable combinations are in no example and have no row"]
    return Table.of("combinations", Combination, rows, notes)


@dataclass(frozen=True)
class _Cells:
    """Examples by weapon and by which of the abilities they hold; arrays are [c].

    Attributes:
        held: bool [c, k].
        weapon: weapon of each cell.
        n: its examples.
        n_active: of these, active.
        total: sum of their activations.
    """

    held: Cells
    weapon: Ints
    n: Floats
    n_active: Ints
    total: Floats

    @classmethod
    def of(cls, ctx: Context, population: Population, abilities: UnitColumns) -> _Cells:
        name = ("abilities by weapon", abilities.key)
        cell, held, weapon = ctx.derived_for(population, name, lambda: _cells(ctx, population, abilities))
        rows = np.flatnonzero(population.activation != 0)
        own, value = cell[rows], population.activation[rows].astype(np.float64)
        n, active = np.bincount(cell).astype(np.float64), np.bincount(own[value > 0], minlength=len(weapon))
        return cls(held, weapon, n, active, sum_by(own, value, len(weapon)))

    def mean(self, chosen: Cells) -> float | None:
        """Mean activation of the examples of some cells; None without any."""
        n = int(self.n[chosen].sum())
        return float(self.total[chosen].sum()) / n if n else None

    def contrast(self, first: Cells, second: Cells) -> float | None:
        """Mean of the examples of the first cells minus those of the second, within weapons.

        As least squares with weapon fixed effects weighs the weapons: by n1 n2 / (n1 + n2). None where no weapon has
        both.
        """
        size = int(self.weapon.max()) + 1
        n = [sum_by(self.weapon[side], self.n[side], size) for side in (first, second)]
        total = [sum_by(self.weapon[side], self.total[side], size) for side in (first, second)]
        both = (n[0] > 0) & (n[1] > 0)
        if not both.any():
            return None
        weight = (n[0] * n[1])[both] / (n[0] + n[1])[both]
        difference = total[0][both] / n[0][both] - total[1][both] / n[1][both]
        return float(weight @ difference / weight.sum())


def _cells(ctx: Context, population: Population, abilities: UnitColumns) -> tuple[Ints, Cells, Ints]:
    """The cell of each example, int32 [n], and of each cell the abilities held and the weapon."""
    bits = 1 << np.arange(len(abilities.labels), dtype=np.int64)
    weapon, width = np.asarray(ctx.data.weapon)[population.rows], len(ctx.weapons)
    key = weighted(abilities.held, bits) * width + weapon
    keys, cell = np.unique(key, return_inverse=True)
    return cell.astype(np.int32), ((keys // width)[:, None] & bits) > 0, keys % width


def _wearable(ctx: Context, labels: Sequence[str]) -> list[list[int]]:
    """Pairs and triples of abilities of different gear slots, as positions."""
    units = [Unit(label, 10) for label in labels]
    clash = {(i, j) for i, j in combinations(range(len(units)), 2) if exclusive(units[i], units[j], ctx)}
    return [
        list(group)
        for size in range(2, LARGEST + 1)
        for group in combinations(range(len(units)), size)
        if not clash & set(combinations(group, 2))
    ]


def _combination(
    group: list[int], labels: Sequence[str], cells: _Cells, single: Floats, min_samples: int
) -> Combination:
    every: Cells = np.all(cells.held[:, group], axis=1)
    none: Cells = ~np.any(cells.held[:, group], axis=1)
    delta, expected, n = cells.contrast(every, none), float(single[group].sum()), int(cells.n[every].sum())
    active = int(cells.n_active[every].sum())
    return Combination(
        abilities=" + ".join(labels[i] for i in group),
        size=len(group),
        n=n,
        n_active=active,
        n_none=int(cells.n[none].sum()),
        mean_activation=cells.mean(every),
        mean_when_active=float(cells.total[every].sum()) / active if active else None,
        mean_none=cells.mean(none),
        delta=delta,
        expected=None if np.isnan(expected) else expected,
        excess=None if delta is None or np.isnan(expected) else delta - expected,
        sparse=n < min_samples,
        reason=None if delta is not None else "no weapon has examples with all of them and with none",
    )
