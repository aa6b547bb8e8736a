"""The tables of weapons and weapon classes among the high examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ....context.context import Context
from ....context.population import Population
from ....schemas.result import Row, Status, Table
from ...stats.cells import sum_by
from ...stats.groups import MIN_N, GroupDeltas, GroupMeans, deltas_of, means_of
from ...stats.moments import Moments
from ...stats.tails import benjamini_hochberg, sidak_level
from ..weapons.by_weapon import by_weapon, class_names
from ..weapons.stats import WeaponTable, comparable, group_reason, verdicts
from .enrichment import GroupOdds, group_odds

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]


class EnrichmentRow(Row):
    """Examples of one group (a weapon, a class) among the high ones against the others."""

    n: int = Field(description="Examples of it.")
    n_active: int = Field(description="Those of them on which the feature is active.")
    n_high: int = Field(description="High examples of it.")
    n_low: int = Field(description="Its other examples.")
    share_high: float | None = Field(description="Share of the high examples that are of it.")
    share_low: float | None = Field(description="Share of the other examples that are of it.")
    ratio: float | None = Field(description="share_high / share_low; null where no other example is of it.")
    odds_ratio: float | None = Field(
        description="Odds of it among the high against the others; 0.5 added where a cell is 0."
    )
    odds_low: float | None = Field(description="Lower end of its 95 % interval, robust to clusters.")
    odds_high: float | None = Field(description="Upper end of its 95 % interval, robust to clusters.")
    sim_low: float | None = Field(description="Lower end of the interval that holds for all rows at once (Sidak).")
    sim_high: float | None = Field(description="Upper end of the interval that holds for all rows at once (Sidak).")
    q_value: float | None = Field(description="Benjamini-Hochberg q that the odds ratio is 1.")
    enriched: bool | None = Field(description="sim_low above 1 and delta_from_global above min_effect.")
    mean_activation: float | None = Field(description="Mean activation over n.")
    mean_when_active: float | None = Field(description="Mean activation over n_active; null where that is 0.")
    delta_from_global: float | None = Field(description="Mean minus the mean of all examples of the population.")
    status: Status | None = Field(description="Verdict on delta_from_global; null without an error.")
    delta_adjusted: float | None = Field(description="Effect with the abilities held fixed, minus the mean effect.")
    n_clusters: int = Field(description="Builds, or distinct examples where builds are unknown, behind it.")
    sparse: bool = Field(description="Fewer than 20 examples: not to be read as suppression.")
    reason: str | None = Field(description="Why a number is null.")


class WeaponEnrichment(EnrichmentRow):
    """One weapon kit."""

    weapon_id: int = Field(description="The game's kit id.")
    weapon_name: str = Field(description="Name of the kit; its token where the table has none.")
    weapon_class: str = Field(description="Weapon class, or unknown.")


class ClassEnrichment(EnrichmentRow):
    """One weapon class."""

    weapon_class: str = Field(description="Weapon class.")
    n_weapons: int = Field(description="Kits of the class in the population.")
    strongest_weapon: str | None = Field(description="Kit with the most high examples beyond its share.")
    odds_without_strongest: float | None = Field(description="Odds ratio of the class without that kit.")


@dataclass(frozen=True)
class Enrichment:
    """Groups among the high examples; arrays are [g].

    Attributes:
        odds: shares and odds ratios.
        means: activation by group.
        deltas: differences to the mean of all examples.
        adjusted: effects with the abilities held fixed, minus the mean effect; NaN where unknown.
        usable: groups with ``min_examples`` and 20 examples in 10 clusters and others beside them.
        level: level of each simultaneous interval.
        status: verdict on each delta.
        min_effect: smallest effect of interest.
    """

    odds: GroupOdds
    means: GroupMeans
    deltas: GroupDeltas
    adjusted: Floats
    usable: Bools
    level: float
    status: list[Status | None]
    min_effect: float

    @property
    def enriched(self) -> list[int]:
        """Groups surely over-represented whose mean is above that of all by an effect of interest, the surest first."""
        low = self.odds.interval(self.level)[0]
        found = np.flatnonzero(self.usable & (self.deltas.delta > self.min_effect) & (low > 1.0))
        return sorted(found.tolist(), key=lambda i: -float(low[i]))

    def ranked(self) -> list[int]:
        """Usable groups by the falling lower end of their odds ratio."""
        low = np.nan_to_num(self.odds.interval(self.level)[0])
        return sorted(np.flatnonzero(self.usable).tolist(), key=lambda i: -float(low[i]))

    def explained(self, index: int) -> bool:
        """Whether abilities that go with the group explain most of its difference to the mean."""
        return bool(self.adjusted[index] < 0.5 * self.deltas.delta[index])


def weapon_enrichment(
    ctx: Context, population: Population, high: Bools, table: WeaponTable, *, min_effect: float
) -> Enrichment:
    """Weapons among the high examples, beside what the weapon sweep says of their means."""
    grouping = by_weapon(ctx, population).grouping
    odds = group_odds(grouping.counts(high), grouping.cells)
    adjusted = table.adjusted.coefficient
    return Enrichment(odds, table.means, table.deltas, adjusted, table.usable, table.level, table.status, min_effect)


def class_enrichment(
    ctx: Context, population: Population, high: Bools, table: WeaponTable, *, min_examples: int, min_effect: float
) -> Enrichment:
    """Weapon classes among the high examples; one group for each of `class_names`."""
    names, of_weapon = class_names(ctx)
    grouped = by_weapon(ctx, population)
    sums = table.sums.merged(grouped.classes)
    moments = Moments.of(sums)
    means = means_of(moments)
    deltas = deltas_of(moments).guarded(means.support)
    usable = (means.n >= max(MIN_N, min_examples)) & comparable(means)
    level = sidak_level(0.95, int(usable.sum()))
    known = ~np.isnan(table.adjusted.coefficient)
    counts = np.where(known, table.means.n, 0).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        adjusted = sum_by(of_weapon, counts * np.nan_to_num(table.adjusted.coefficient), len(names))
        adjusted = adjusted / sum_by(of_weapon, counts, len(names))
    status = verdicts(deltas, usable, level, min_effect)
    odds = group_odds(grouped.classes.sum(grouped.grouping.counts(high)), grouped.classes.cells)
    return Enrichment(odds, means, deltas, adjusted, usable, level, status, min_effect)


def strongest_of_class(ctx: Context, weapons: GroupOdds, classes: GroupOdds) -> tuple[list[int], Floats]:
    """The weapon token of each class with the most high examples beyond its share, and the class's odds without it."""
    names, of_weapon = class_names(ctx)
    expected = weapons.share_low * weapons.total_high
    strongest = [
        int(max(np.flatnonzero(of_weapon == i), key=lambda w: float(weapons.n_high[w] - expected[w])))
        for i in range(len(names))
    ]
    without = classes.without(weapons.n_high[strongest], weapons.n_low[strongest])
    left = (classes.n_high + classes.n_low) - (weapons.n_high + weapons.n_low)[strongest]
    return strongest, np.where(left > 0, without, np.nan)


def _columns(found: Enrichment) -> dict[str, Any]:
    enough = comparable(found.means)
    odds, enriched = found.odds, set(found.enriched)
    bounds = (*odds.interval(), *odds.interval(found.level))
    low, high, sim_low, sim_high = (np.where(enough, bound, np.nan) for bound in bounds)
    return {
        "n": found.means.n,
        "n_active": found.means.n_active,
        "n_high": odds.n_high,
        "n_low": odds.n_low,
        "share_high": odds.share_high,
        "share_low": odds.share_low,
        "ratio": odds.ratio,
        "odds_ratio": np.where(found.means.n < found.means.n.sum(), np.exp(odds.log_odds), np.nan),
        "odds_low": low,
        "odds_high": high,
        "sim_low": sim_low,
        "sim_high": sim_high,
        "q_value": benjamini_hochberg(np.where(enough, odds.p_value(), np.nan)),
        "enriched": [i in enriched if usable else None for i, usable in enumerate(found.usable.tolist())],
        "mean_activation": found.means.mean,
        "mean_when_active": found.means.mean_when_active,
        "delta_from_global": found.deltas.delta,
        "status": found.status,
        "delta_adjusted": found.adjusted,
        "n_clusters": found.means.n_clusters,
        "sparse": found.means.sparse,
        "reason": [group_reason(found.means, index) for index in range(len(found.means.n))],
    }


def weapon_rows(ctx: Context, found: Enrichment, top_k: int, eligible: Bools) -> Table:
    """The table ``weapon_enrichment``: the surest over-represented weapons, then the surest under-represented."""
    facts = ctx.weapons.facts
    columns = _columns(found) | {
        "weapon_id": [kit.weapon_id for kit in facts],
        "weapon_name": [kit.name for kit in facts],
        "weapon_class": [kit.weapon_class for kit in facts],
    }
    rest = np.flatnonzero(eligible & ~found.usable)
    ranked = [*found.ranked(), *sorted(rest.tolist(), key=lambda i: -float(found.odds.log_odds[i]))]
    upper = np.nan_to_num(found.odds.interval(found.level)[1], nan=np.inf)
    shown = ranked[:top_k]
    # The other end too: a weapon that no high example has says as much as one that many have.
    shown += sorted((i for i in ranked[top_k:] if found.usable[i]), key=lambda i: float(upper[i]))[:top_k][::-1]
    notes = ["delta_adjusted is an additive adjustment; interactions remain confounded"]
    if len(shown) < len(ranked):
        notes.append(f"{len(shown)} of {len(ranked)} weapons: the surest over- and under-represented")
    rows = {name: [values[i] for i in shown] for name, values in columns.items()}
    return Table.from_columns("weapon_enrichment", WeaponEnrichment, rows, notes)


def class_rows(ctx: Context, found: Enrichment, weapons: Enrichment) -> Table:
    """The table ``class_enrichment``: classes by the falling lower end of their odds ratio."""
    names, of_weapon = class_names(ctx)
    strongest, without = strongest_of_class(ctx, weapons.odds, found.odds)
    held = weapons.means.n > 0
    columns = _columns(found) | {
        "weapon_class": names,
        "n_weapons": np.bincount(of_weapon[held], minlength=len(names)),
        "strongest_weapon": [ctx.weapons.facts[i].name for i in strongest],
        "odds_without_strongest": without,
    }
    order = [*found.ranked(), *np.flatnonzero(~found.usable & (found.means.n > 0)).tolist()]
    rows = {name: [values[i] for i in order] for name, values in columns.items()}
    notes = ["a class may be one weapon's doing: see odds_without_strongest"]
    return Table.from_columns("class_enrichment", ClassEnrichment, rows, notes)
