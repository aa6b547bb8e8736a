"""The confounding gap: what the data suggest minus what the network does."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from ....schemas.result import Row, Table
from ...design.effect_rows import EffectTable
from ...design.observed import ObservedCurve
from ...stats.groups import MIN_CLUSTERS, MIN_N
from ...stats.tails import sidak_level, t_quantile


class ConfoundingRow(Row):
    """What the data suggest against what the network does, at one level."""

    rung: int = Field(description="Level in AP.")
    observational_delta: float | None = Field(description="Mean at the level minus mean at level 0, over all weapons.")
    interventional_delta: float | None = Field(description="Mean effect of writing the level.")
    gap: float | None = Field(description="Observational minus interventional.")
    ci_low: float | None = Field(description="Lower end of its 95 % interval.")
    ci_high: float | None = Field(description="Upper end of its 95 % interval.")
    n: int = Field(description="Examples at the level.")


def confounding(curve: ObservedCurve, table: EffectTable, levels: list[int]) -> Table:
    """Observational minus interventional effect where the level and its baseline have enough examples."""
    notes = ["intervals hold for all rows at once (Sidak); data and contexts are treated as independent"]
    if any(table.effects.few[levels.index(level)] for level in levels if curve.usable(level)):
        notes.append("where fewer than 30 contexts change, the effect's bounds are combined with the error of the data")
    raw, rows = curve.raw, list[Row]()
    if raw is None or curve.means.n[0] < MIN_N:
        return Table.of("confounding", ConfoundingRow, rows, notes)
    usable = [level for level in levels if curve.usable(level)]
    for level in usable:
        at, index = curve.index(level), levels.index(level)
        observed, causal = float(raw.coefficient[at]), float(table.effects.mean[index])
        critical = float(t_quantile(0.5 + sidak_level(0.95, len(usable)) / 2, raw.df))
        below, above = _causal_distances(table, index, critical)
        spread = critical * float(raw.std_error[at])
        gap = observed - causal
        rows.append(
            ConfoundingRow(
                rung=level,
                observational_delta=observed,
                interventional_delta=causal,
                gap=gap,
                ci_low=gap - float(np.hypot(spread, above)),
                ci_high=gap + float(np.hypot(spread, below)),
                n=int(curve.means.n[curve.levels.index(level)]),
            )
        )
    return Table.of("confounding", ConfoundingRow, rows, notes)


def _causal_distances(table: EffectTable, index: int, critical: float) -> tuple[float, float]:
    """How far the interval of an effect reaches below and above it.

    A difference of two estimates lies between gap - hypot(o, above) and gap + hypot(o, below), where o is the reach of
    the one and above, below are those of the other (Zou and Donner 2008). Student's error says too little of fewer than
    30 changing contexts (it is 0 when nothing changed), so the reach there is that of the effect's own joint bounds.
    """
    effects = table.effects
    if not effects.few[index]:
        reach = critical * float(effects.std_error[index])
        return reach, reach
    mean = float(effects.mean[index])
    return max(0.0, mean - float(effects.sim_low[index])), max(0.0, float(effects.sim_high[index]) - mean)


def largest_gap(gaps: Table) -> dict[str, Any]:
    """The largest gap in size with its interval, for ``custom``; null with a reason when no level has enough data."""
    if not gaps.rows:
        reason = f"no level has {MIN_N} examples in {MIN_CLUSTERS} clusters"
        return {"confounding_gap": None, "confounding_gap_reason": reason}
    row = max(gaps.rows, key=lambda row: abs(row["gap"]))
    return {
        "confounding_gap": row["gap"],
        "confounding_gap_low": row["ci_low"],
        "confounding_gap_high": row["ci_high"],
        "confounding_gap_rung": row["rung"],
    }
