"""How interventional effects are worded and summarised, the same in every type."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...schemas.result import Aggregates, Finding
from .effect_rows import EffectTable
from .report import interval, number
from .specificity import UNKNOWN_DIRECTIONS

Floats = NDArray[np.floating[Any]]


def leading(table: EffectTable) -> list[int]:
    """Conditions that act, strongest first; the largest effect alone when none does."""
    acting = table.acting()
    if not acting:
        return [int(np.argmax(np.abs(table.effects.mean)))]
    first = table.strongest(acting)
    return sorted(acting, key=lambda i: (i != first, -abs(float(table.effects.mean[i]))))


def effect_text(table: EffectTable, index: int) -> str:
    """A mean effect with its simultaneous interval."""
    low, high = float(table.effects.sim_low[index]), float(table.effects.sim_high[index])
    return f"{number(float(table.effects.mean[index]))} {interval(low, high)}"


def conditional_text(table: EffectTable, index: int) -> str:
    """What a conditional effect does, and in how many contexts."""
    effects = table.effects
    rate, there = float(effects.responder_rate[index]), number(float(effects.mean_responders[index]))
    return f"in {rate:.1%} of contexts, by {there} there (mean {effect_text(table, index)})"


def noted(table: EffectTable) -> int:
    """The condition that `nothing_text` speaks of: the strongest certain one, else the largest mean effect."""
    certain = [i for i, status in enumerate(table.status) if status in {"present", "conditional"}]
    return table.strongest(certain) if certain else int(np.argmax(np.abs(table.effects.mean)))


def nothing_text(table: EffectTable, subject: str, feature: int, min_effect: float) -> str:
    """What to say when no condition acts: what was seen at most (of `noted`), and what would have been."""
    index = noted(table)
    effect = effect_text(table, index)
    if table.status[index] in {"present", "conditional"}:
        p = float(table.specificity[index])
        text = conditional_text(table, index) if table.status[index] == "conditional" else effect
        return (
            f"nothing specific found: {subject} moves feature {feature} {text}, no more than random directions "
            f"do (p = {p:.2f})"
        )
    return (
        f"nothing above {min_effect:.2f} found: {subject} moves feature {feature} by {effect} at the strongest; an "
        f"effect of {table.detectable(min_effect):.2f} would have been"
    )


def effect_finding(
    table: EffectTable, index: int, *, subject: str, feature: int, population: str, table_name: str
) -> Finding:
    """One condition as a finding."""
    effects = table.effects
    effect = float(effects.mean[index])
    direction = float(effects.mean_responders[index]) if table.status[index] == "conditional" else effect
    certain = table.status[index] in {"present", "conditional"}
    relation = f"does nothing {'specific' if certain else 'detectable'} to"
    if index in table.acting():
        relation = "raises" if direction > 0 else "lowers"
    return Finding(
        subject=subject,
        relation=f"{relation} feature {feature}",
        effect=effect,
        ci_low=float(effects.sim_low[index]),
        ci_high=float(effects.sim_high[index]),
        status=table.status[index],
        responder_rate=float(effects.responder_rate[index]),
        specificity_p=float(table.specificity[index]),
        n=effects.n,
        method="interventional",
        population=population,
        table=table_name,
    )


def summarise(deltas: Floats, n: int, custom: dict[str, Any]) -> Aggregates:
    """Mean, spread and range of the deltas of a table; a specificity that is unknown gets its reason."""
    p = custom.get("specificity_p")
    if isinstance(p, float) and np.isnan(p):
        custom = custom | {"specificity_reason": UNKNOWN_DIRECTIONS}
    return Aggregates(
        mean_delta=float(deltas.mean()),
        std_delta=float(deltas.std(ddof=1)) if len(deltas) > 1 else None,
        min_delta=float(deltas.min()),
        max_delta=float(deltas.max()),
        median_delta=float(np.median(deltas)),
        n_samples=n,
        custom=custom,
    )
