"""The tables of core coverage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ....context.context import Context
from ....schemas.result import Row, Status, Table
from ...stats.groups import MIN_CLUSTERS, MIN_N
from .marks import Marks

Floats = NDArray[np.floating[Any]]


class CoverageRow(Row):
    """What one thing covers; every interval is a 95 % one that holds for all rows of the table at once."""

    core_coverage_pct: float | None = Field(description="Percent of the core that holds it.")
    tail_coverage_pct: float | None = Field(description="Percent of the tail that holds it.")
    active_coverage_pct: float | None = Field(description="Percent of all active examples that holds it.")
    baseline_pct: float = Field(description="Percent of all examples of the population that holds it: its base rate.")
    core_lift: float | None = Field(description="Coverage of the core divided by the base rate.")
    core_lift_low: float | None = Field(description="Lower end of its interval.")
    core_lift_high: float | None = Field(description="Upper end of its interval.")
    active_lift: float | None = Field(description="Coverage of the active examples divided by the base rate.")
    active_lift_low: float | None = Field(description="Lower end of its interval.")
    active_lift_high: float | None = Field(description="Upper end of its interval.")
    tail_enrichment: float | None = Field(description="Coverage of the tail divided by coverage of the core.")
    tail_enrichment_low: float | None = Field(description="Lower end of its interval.")
    tail_enrichment_high: float | None = Field(description="Upper end of its interval; null without a bound.")
    covers: bool | None = Field(
        description="Covers at least coverage_threshold of the core (of the active examples where the core has fewer "
        "than 20), beyond its base rate, and is the feature's: certain effect, specificity_p <= 0.05."
    )
    n_core: int = Field(description="Examples of the core that hold it.")
    n_tail: int = Field(description="Examples of the tail that hold it.")
    n_active: int = Field(description="Active examples that hold it.")
    n: int = Field(description="Examples of the population that hold it.")
    mean_activation: float | None = Field(description="Mean activation over n.")
    mean_when_active: float | None = Field(description="Mean activation over n_active; null where that is 0.")
    sparse: bool = Field(description="Fewer than 20 examples hold it: no verdict.")
    active_excess: float | None = Field(description="Share of examples above min_effect, with it minus without it.")
    active_excess_low: float | None = Field(description="Lower end of its interval.")
    active_excess_high: float | None = Field(description="Upper end of its interval.")
    q_value: float | None = Field(description="Benjamini-Hochberg q of the effect on activation.")
    status: Status | None = Field(description="Verdict on the effect; null for sparse rows.")
    specificity_p: float | None = Field(
        description="Share of random directions with as large an effect on any like row; rungs beside families, and "
        "weapons, are second looks and count double."
    )
    reason: str | None = Field(description="Why a number is null.")


class TokenCoverage(CoverageRow):
    """What one token covers; its excess and effect hold the weapon fixed."""

    token: str = Field(description="Family at any AP, family_AP held at that AP or more, or main-only ability.")
    is_tail_marker: bool | None = Field(
        description="Covers less than coverage_threshold of the core but is enriched in the tail."
    )
    raw_delta: float | None = Field(description="Activation with it minus without it, over all weapons.")
    within_weapon_effect: float | None = Field(description="Activation with it minus without it, weapon held fixed.")
    within_weapon_low: float | None = Field(description="Lower end of its interval.")
    within_weapon_high: float | None = Field(description="Upper end of its interval.")


class WeaponCoverage(CoverageRow):
    """What one weapon covers; its excess and effect are against all examples."""

    weapon_id: int = Field(description="The game's kit id.")
    weapon_name: str = Field(description="Name of the kit.")
    is_flanderized: bool | None = Field(
        description="The tail is its (at least coverage_threshold of it, enriched), the core is not."
    )
    delta_from_global: float | None = Field(description="Mean activation minus the mean of all examples.")
    delta_low: float | None = Field(description="Lower end of its interval.")
    delta_high: float | None = Field(description="Upper end of its interval.")


def _columns(marks: Marks) -> dict[str, Any]:
    """The columns of `CoverageRow`."""
    shared = zip(
        ("core_lift", "active_lift", "tail_enrichment"),
        (marks.lift, marks.active_lift, marks.enrichment),
        strict=True,
    )
    ratios = {
        name + end: values
        for name, ratio in shared
        for end, values in (("", ratio.value), ("_low", ratio.low), ("_high", ratio.high))
    }
    covering, sparse = set(marks.covering()), marks.everything.count < MIN_N
    mean, mean_when_active, _ = marks.means()
    return {
        "core_coverage_pct": 100.0 * marks.core.share,
        "tail_coverage_pct": 100.0 * marks.tail.share,
        "active_coverage_pct": 100.0 * marks.active.share,
        "baseline_pct": 100.0 * marks.everything.share,
        **ratios,
        "covers": [None if status is None else i in covering for i, status in enumerate(marks.status)],
        "n_core": marks.core.count.astype(int),
        "n_tail": marks.tail.count.astype(int),
        "n_active": marks.active.count.astype(int),
        "n": marks.everything.count.astype(int),
        "mean_activation": mean,
        "mean_when_active": mean_when_active,
        "sparse": sparse,
        "active_excess": marks.effects.excess,
        "active_excess_low": marks.effects.excess_low,
        "active_excess_high": marks.effects.excess_high,
        "q_value": marks.effects.q_value,
        "status": marks.status,
        "specificity_p": marks.specificity,
        "reason": [_reason(marks, index) for index in range(len(sparse))],
    }


def _reason(marks: Marks, index: int) -> str | None:
    ranges = marks.ranges
    few = [
        f"the {name} has {n} examples" for name, n in (("core", ranges.n_core), ("tail", ranges.n_tail)) if n < MIN_N
    ]
    reasons = [f"{' and '.join(few)}, fewer than {MIN_N}: no verdict on the tail"] if few else []
    if marks.everything.count[index] < MIN_N:
        reasons.append(f"fewer than {MIN_N} examples hold it: no verdict")
    elif np.isnan(marks.effects.low[index]):
        reasons.append(f"fewer than {MIN_CLUSTERS} builds with it or without it: no interval of the effect")
    if ranges.n_core and marks.core.count[index] == 0:
        reasons.append("nothing of the core holds it: its tail enrichment has no value")
    if not few and min(marks.core.n_clusters, marks.tail.n_clusters) < MIN_CLUSTERS:
        reasons.append(f"core or tail has fewer than {MIN_CLUSTERS} builds: no interval of the ratios")
    return "; ".join(reasons) or None


def token_table(labels: Sequence[str], marks: Marks, top_k: int | None) -> Table:
    """The table ``token_coverage``: the units by coverage; beyond ``top_k`` only what covers or marks the tail."""
    columns = _columns(marks)
    mean, _, absent = marks.means()
    columns |= {
        "token": list(labels),
        "is_tail_marker": [marks.tail_marker(index) for index in range(len(labels))],
        "raw_delta": mean - absent,
        "within_weapon_effect": marks.effects.mean,
        "within_weapon_low": marks.effects.low,
        "within_weapon_high": marks.effects.high,
    }
    order = _by_coverage(marks)
    told = set(marks.covering()) | {i for i in order if marks.tail_marker(i)}
    shown = [i for at, i in enumerate(order) if top_k is None or at < top_k or i in told]
    notes = [] if len(shown) == len(order) else [f"{len(shown)} of {len(order)} units, by coverage"]
    return Table.from_columns("token_coverage", TokenCoverage, _take(columns, shown), notes)


def weapon_table(ctx: Context, marks: Marks, top_k: int) -> Table:
    """The table ``weapon_coverage``: weapons by coverage of core or tail, whichever is larger."""
    columns = _columns(marks)
    facts = ctx.weapons.facts
    columns |= {
        "weapon_id": [kit.weapon_id for kit in facts],
        "weapon_name": [kit.name for kit in facts],
        "is_flanderized": [marks.owns_tail(index) for index in range(len(facts))],
        "delta_from_global": marks.effects.mean,
        "delta_low": marks.effects.low,
        "delta_high": marks.effects.high,
    }
    order = [i for i in _by_coverage(marks) if marks.everything.count[i] > 0]
    told = {i for i in order if marks.owns_tail(i)}
    shown = [i for at, i in enumerate(order) if at < top_k or i in told]
    notes = [] if len(shown) == len(order) else [f"{len(shown)} of {len(order)} weapons, by coverage"]
    return Table.from_columns("weapon_coverage", WeaponCoverage, _take(columns, shown), notes)


def _by_coverage(marks: Marks) -> list[int]:
    """Positions by the larger of the coverage of the core (or the active examples) and of the tail, falling."""
    tail = marks.tail.share if marks.ranges.comparable else np.zeros(len(marks.tail.count))
    return np.argsort(-np.maximum(np.nan_to_num(marks.range_coverage.share), tail), kind="stable").tolist()


def _take(columns: dict[str, Any], shown: list[int]) -> dict[str, Any]:
    return {name: [values[i] for i in shown] for name, values in columns.items()}
