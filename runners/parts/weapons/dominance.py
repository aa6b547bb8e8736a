"""Does one weapon dominate, and do the weapons that act share a sub or special weapon?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....context.context import Context
from ....schemas.facts import Weapon
from ...stats.groups import MIN_N
from ...stats.tails import hypergeometric_tail, t_quantile
from .stats import WeaponTable

BEYOND_CHANCE = 0.05
_PARTS = ("sub", "special")


@dataclass(frozen=True)
class Dominance:
    """The highest weapon against twice the second.

    Attributes:
        detected: the first has 20 examples, its effect is present, and the simultaneous lower bound of
            first - 2 max(second, 0) is above 0. (The bare ratio fires on a fifth of permuted data.)
        ratio: first / second; None when the second is not above 0.
        margin_low: that lower bound; None when it is unknown.
    """

    detected: bool
    ratio: float | None
    margin_low: float | None


def dominance(table: WeaponTable) -> Dominance:
    """Compare the two weapons with the largest delta among the eligible."""
    ranked = table.ranked()
    if len(ranked) < 2:
        return Dominance(detected=False, ratio=None, margin_low=None)
    first, second = ranked[0], ranked[1]
    d1, d2 = float(table.deltas.delta[first]), float(table.deltas.delta[second])
    ratio = d1 / d2 if d2 > 0 else None
    if not (table.usable[first] and table.usable[second]):
        return Dominance(detected=False, ratio=ratio, margin_low=None)
    # first - 2 max(second, 0) is the smaller of first and first - 2 second, so its bound is the smaller bound: a
    # second weapon below 0 by chance does not make the first dominant.
    margin = min(_lower_bound(table, first, second, weight) for weight in (0.0, 2.0))
    fires = bool(table.means.n[first] >= MIN_N and table.status[first] == "present" and d1 > 0 and margin > 0)
    return Dominance(detected=fires, ratio=ratio, margin_low=margin)


def _lower_bound(table: WeaponTable, first: int, second: int, weight: float) -> float:
    """Simultaneous lower bound of first - weight x second."""
    deltas, contrast = table.deltas, np.array([1.0, -weight])
    variance = float(contrast @ deltas.covariance[np.ix_([first, second], [first, second])] @ contrast)
    df = min(int(deltas.df[first]), int(deltas.df[second]))
    half = float(t_quantile(0.5 + table.level / 2, df)) * float(np.sqrt(max(variance, 0.0)))
    return float(contrast @ deltas.delta[[first, second]]) - half


@dataclass(frozen=True)
class Shared:
    """A sub or special weapon that the weapons with present effects share beyond chance."""

    part: str
    name: str
    hits: int
    drawn: int
    p_value: float


def shared_part(ctx: Context, acting: Sequence[int], pool: Sequence[int]) -> Shared | None:
    """The sub or special most over-represented among the acting weapons, if beyond chance.

    Hypergeometric against the pool, Bonferroni over the subs and specials that at least two weapons of the pool have;
    at least two acting weapons must share it.

    Args:
        ctx: the context.
        acting: weapon token ids whose effect is present and above 0.
        pool: weapon token ids that could have been.
    """
    facts = ctx.weapons.facts
    among = Counter((part, _part(facts[index], part)) for index in acting for part in _PARTS)
    overall = Counter((part, _part(facts[index], part)) for index in pool for part in _PARTS)
    tests = sum(bool(name) and count >= 2 for (_, name), count in overall.items())
    candidates: list[Shared] = []
    for (part, name), hits in among.items():
        if name and hits >= 2:
            p = hypergeometric_tail(hits, len(acting), overall[part, name], len(pool))
            candidates.append(Shared(part, name, hits, len(acting), min(1.0, p * tests)))
    best = min(candidates, key=lambda shared: shared.p_value, default=None)
    return best if best is not None and best.p_value < BEYOND_CHANCE else None


def _part(kit: Weapon, part: str) -> str:
    return (kit.sub if part == "sub" else kit.special) or ""


def kit_numbers(leader: Dominance, shared: Shared | None) -> dict[str, Any]:
    """The numbers of dominance and of the shared part, for ``custom``."""
    return {
        "dominant_weapon_detected": leader.detected,
        "dominant_weapon_ratio": leader.ratio,
        "dominance_margin_low": leader.margin_low,
        "shared_part": None if shared is None else f"{shared.part}: {shared.name}",
        "shared_part_p": None if shared is None else shared.p_value,
        "recommended_followup": "kit_sweep" if leader.detected or shared is not None else None,
    }
