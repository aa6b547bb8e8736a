"""The tables of a token influence sweep, and the levels at which families are written."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from ....context.context import Context
from ....schemas.result import Row, Status, Table
from ...design.unit_columns import UnitColumns
from ...design.unit_effects import CausalColumns, UnitEffects, no_causal_columns
from ...design.units import DEFAULT_RUNG, Unit, unit_at
from .association import NOT_RUN, Association
from .report import causal_sign

COMMON = 0.05
FEW_HOLD = "fewer than min_samples examples hold it: it was not written into builds"


class TokenInfluence(CausalColumns):
    """One unit: what goes with it in the data, and what it does in the network."""

    token: str = Field(description="Family (at any AP), main-only ability, or family_AP where levels are apart.")
    family: str = Field(description="Its family.")
    level: int | None = Field(description="AP at which it was written into builds; null where it was not.")
    high_rate_ratio: float | None = Field(
        description="Its rate among high examples over that among the rest, within weapon and tertile of unit count."
    )
    ratio_low: float | None = Field(description="Lower end of its 95 % interval that holds for all rows at once.")
    ratio_high: float | None = Field(description="Upper end of that interval; null without bound.")
    odds_ratio: float | None = Field(description="The same comparison as a pooled odds ratio; null where infinite.")
    high_rate: float | None = Field(description="Share of the high examples that hold it.")
    low_rate: float | None = Field(description="Share of all other examples that hold it.")
    mean_with: float | None = Field(description="Mean activation of the examples with it.")
    mean_without: float | None = Field(description="Mean activation of the others.")
    raw_delta: float | None = Field(description="mean_with minus mean_without, over all weapons.")
    delta: float | None = Field(description="Mean activation with minus without it, weapon held fixed.")
    delta_low: float | None = Field(description="Lower end of its 95 % interval that holds for all rows at once.")
    delta_high: float | None = Field(description="Upper end of that interval.")
    effect_size: float | None = Field(description="delta / standard deviation of activation pooled over with, without.")
    n_present: int = Field(description="Examples with it.")
    n_absent: int = Field(description="Examples without it.")
    n_active: int | None = Field(description="Of the examples with it, active.")
    mean_when_active: float | None = Field(description="Mean activation of those.")
    q_value: float | None = Field(description="Benjamini-Hochberg q of delta over the rows.")
    status: Status | None = Field(description="Verdict on delta; null where it cannot be judged.")
    observed_p: float | None = Field(
        description="Share of random directions with a delta of any unit at least as large."
    )
    sparse: bool = Field(description="Fewer than 20 examples with or without it.")
    confirmed: bool | None = Field(
        description="Whether the network agrees with an enhancer or suppressor; null where not settled or not asked."
    )
    reason: str | None = Field(description="Why a number is null.")


OBSERVED = (
    "high_rate_ratio",
    "ratio_low",
    "ratio_high",
    "odds_ratio",
    "high_rate",
    "low_rate",
    "mean_with",
    "mean_without",
    "raw_delta",
    "n_active",
    "mean_when_active",
    "delta",
    "delta_low",
    "delta_high",
    "effect_size",
    "q_value",
    "status",
    "observed_p",
    "reason",
)


def levels_to_write(ctx: Context, columns: UnitColumns) -> list[Unit]:
    """The units as they are written into builds.

    A family is written at its highest common level: the highest rung that 5 % of the examples that hold it reach, 12
    AP at least. A threshold below that is crossed; what lower levels alone do shows in the effect as builds hold it.
    The level must not depend on the feature: written where its own high examples have them, random directions would
    seem specific in one try of ten, as the directions they are compared with did not choose. A main-only ability and a
    family at a level are written as they are.
    """
    common = ctx.derived("highest common levels", lambda: _highest_common(ctx))
    return [
        Unit(family, level) if level else unit_at(family, max(DEFAULT_RUNG, common[family]), ctx)
        for family, level in zip(columns.family, columns.level, strict=True)
    ]


def _highest_common(ctx: Context) -> dict[str, int]:
    """The highest rung that 5 % of the examples that hold each family reach; its lowest rung where none does."""
    levels = np.asarray(ctx.data.levels)
    found: dict[str, int] = {}
    for family, column in ctx.vocabulary.family_index.items():
        count = np.bincount(levels[:, column], minlength=256)[1:]
        reaching = np.cumsum(count[::-1])[::-1]
        rungs = ctx.vocabulary.rungs(family)
        found[family] = max(
            (rung for rung in rungs if reaching[rung - 1] > 0 and reaching[rung - 1] >= COMMON * reaching[0]),
            default=rungs[0],
        )
    return found


def listed(seen: Association, bounds: tuple[float, float], min_samples: int) -> tuple[list[int], list[int]]:
    """Suppressors and enhancers of the data, strongest first.

    A unit counts that enough examples hold, with a ratio beyond the bound and an interval that excludes 1.
    """
    ratio, enough = seen.rates.ratio, seen.n_present >= min_samples
    order = np.argsort(np.nan_to_num(ratio, nan=1.0, posinf=np.inf), kind="stable").tolist()
    low = [i for i in order if enough[i] and ratio[i] < bounds[0] and seen.rates.high[i] < 1.0]
    high = [i for i in reversed(order) if enough[i] and ratio[i] > bounds[1] and seen.rates.low[i] > 1.0]
    return low, high


def confirmations(
    effects: UnitEffects | None, run: dict[int, int], suppressors: list[int], enhancers: list[int]
) -> dict[int, bool | None]:
    """Whether the network agrees with each listed unit; None where it was not asked or leaves it open.

    Args:
        effects: causal effects; None where nothing was run.
        run: position among the effects of each unit that was run.
        suppressors: units the data list so.
        enhancers: likewise.
    """
    found: dict[int, bool | None] = {}
    for wanted, units in ((-1, suppressors), (1, enhancers)):
        for unit in units:
            sign = None if effects is None or unit not in run else causal_sign(effects, run[unit])
            found[unit] = None if sign is None else sign == wanted
    return found


def influence_columns(
    seen: Association,
    effects: UnitEffects | None,
    run: dict[int, int],
    confirmed: dict[int, bool | None],
    *,
    observed: bool,
) -> dict[str, Any]:
    """The columns of `TokenInfluence` for every unit."""
    labels, k = list(seen.units.labels), len(seen.units.labels)
    units = [effects.units[run[i]] if effects is not None and i in run else None for i in range(k)]
    causal = no_causal_columns(k, NOT_RUN)
    if effects is not None:
        causal = effects.columns(seen.units.family, seen.units.level, FEW_HOLD)
    columns: dict[str, Any] = {
        "token": labels,
        "family": list(seen.units.family),
        "level": [unit.level if unit else None for unit in units],
        "high_rate_ratio": seen.rates.ratio,
        "ratio_low": seen.rates.low,
        "ratio_high": seen.rates.high,
        "odds_ratio": seen.rates.odds,
        "high_rate": seen.rates.among_high,
        "low_rate": seen.rates.among_rest,
        "mean_with": seen.mean_with,
        "mean_without": seen.mean_without,
        "raw_delta": seen.raw_delta,
        "delta": seen.effects.coefficient,
        "delta_low": seen.low,
        "delta_high": seen.high,
        "effect_size": seen.effect_size,
        "n_present": seen.n_present,
        "n_absent": seen.n_absent,
        "n_active": seen.n_active,
        "mean_when_active": seen.mean_when_active,
        "q_value": seen.q_value,
        "status": seen.status,
        "observed_p": seen.specificity,
        "sparse": seen.sparse,
        "confirmed": [confirmed.get(i) for i in range(k)],
        "reason": seen.reason,
        **causal,
    }
    return columns if observed else columns | {name: [None] * k for name in OBSERVED}


def influence_table(name: str, columns: dict[str, Any], rows: list[int], notes: list[str]) -> Table:
    """A table of some of the units, in the order given."""
    chosen = {key: [values[i] for i in rows] for key, values in columns.items()}
    return Table.from_columns(name, TokenInfluence, chosen, notes)


TABLES: dict[str, type[Row]] = {
    "all_tokens": TokenInfluence,
    "suppressors": TokenInfluence,
    "enhancers": TokenInfluence,
}
