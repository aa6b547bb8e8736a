"""Weapon groups: which weapons and weapon classes are over-represented among the high examples?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ..context.context import Context
from ..context.population import Population
from ..schemas.catalogue import Plan, experiment
from ..schemas.job import Job
from ..schemas.result import Aggregates, Finding, Findings, Followup, Row
from ..schemas.spec import ExperimentSpec, Variables
from .design.effect_report import summarise
from .design.high import HighPercentile, HighSplit, read_percentile, split_high
from .design.report import (
    CORRELATIONAL,
    diagnostics,
    followup,
    number,
    observed_scope,
    plural,
    quiet_findings,
    smallest_effect,
)
from .design.specificity import SPECIFIC
from .parts.weapon_groups.tables import (
    ClassEnrichment,
    Enrichment,
    WeaponEnrichment,
    class_enrichment,
    class_rows,
    strongest_of_class,
    weapon_enrichment,
    weapon_rows,
)
from .parts.weapons.by_weapon import class_names
from .parts.weapons.observed import observed_specificity, specificity_reason
from .parts.weapons.stats import weapon_table

CARRIED = 0.5
LARGEST_RATIO = 10_000


class WeaponGroupVariables(Variables):
    """What a weapon group analysis looks at."""

    high_percentile: HighPercentile = 90.0
    min_examples: int = Field(default=10, ge=1, description="Weapons with fewer examples are left out.")
    top_k: int = Field(default=10, ge=1, le=1000, description="Weapons shown from either end.")
    min_effect: float | None = Field(
        default=None, gt=0, le=6, description="Smallest effect of interest; default 5 % of the effective max."
    )


class WeaponGroupSpec(ExperimentSpec):
    """Spec of a weapon group analysis."""

    type: Literal["weapon_group_analysis"] = "weapon_group_analysis"
    variables: WeaponGroupVariables = WeaponGroupVariables()


TABLES: dict[str, type[Row]] = {"weapon_enrichment": WeaponEnrichment, "class_enrichment": ClassEnrichment}


@dataclass(frozen=True)
class Groups:
    """What may be said of the weapons and classes among the high examples.

    Attributes:
        weapons: weapons by token id.
        classes: weapon classes.
        split: the high examples.
        specificity: p of the largest |mean of a weapon - mean of all| against random directions; None where unknown.
        carried: classes whose excess (log odds) loses more than half without one weapon.
    """

    weapons: Enrichment
    classes: Enrichment
    split: HighSplit
    specificity: float | None
    carried: frozenset[int]

    @property
    def specific(self) -> bool:
        """Whether weapons differ more than under random directions, as far as that is known."""
        return self.specificity is None or self.specificity <= SPECIFIC

    @property
    def found(self) -> list[int]:
        """Weapons that may be headlined: those that abilities do not explain first, then the surest."""
        return sorted(self.weapons.enriched, key=self.weapons.explained) if self.specific else []

    @property
    def found_classes(self) -> list[int]:
        """Classes that may be headlined."""
        return [i for i in self.classes.enriched if i not in self.carried] if self.specific else []


def plan(spec: WeaponGroupSpec, ctx: Context) -> Plan:
    """What the analysis would read."""
    population = ctx.population(spec.dataset_slice, spec.feature_id)
    return Plan(contexts=len(population), conditions="the high examples against the rest", notes=population.warnings)


@experiment(
    "weapon_group_analysis",
    spec=WeaponGroupSpec,
    plan=plan,
    cli="weapon-groups",
    summary="Which weapons and weapon classes are over-represented among the examples of high activation.",
    tables=TABLES,
    methods=("observational",),
    cost="data",
    toolset="weapons",
    aliases={"min_samples": "min_examples"},
)
def run(spec: WeaponGroupSpec, ctx: Context, job: Job) -> Findings:
    """Compare weapon shares; the estimators are in docs/methods under "weapon_group_analysis"."""
    variables = spec.variables
    population = ctx.population(spec.dataset_slice, spec.feature_id)
    quiet = quiet_findings(spec, ctx, population, job, method="observational", models=TABLES)
    if quiet is not None:
        return quiet
    min_effect = smallest_effect(spec, ctx, variables.min_effect) or 0.0
    split = split_high(population, read_percentile(variables.high_percentile, job), job)
    least = variables.min_examples
    table = weapon_table(ctx, population, min_examples=least, min_effect=min_effect, job=job)
    weapons = weapon_enrichment(ctx, population, split.high, table, min_effect=min_effect)
    classes = class_enrichment(ctx, population, split.high, table, min_examples=least, min_effect=min_effect)
    job.partial(weapon_rows(ctx, weapons, variables.top_k, table.eligible))
    job.partial(class_rows(ctx, classes, weapons))
    job.warn(CORRELATIONAL)
    _warn_unknown(ctx, weapons, job)
    p = observed_specificity(ctx, spec.feature_id, population, table, spec.dataset_slice.random_seed)
    groups = Groups(weapons, classes, split, p, _carried(ctx, weapons, classes))
    return Findings(
        headline=_headline(spec, ctx, groups, population, min_effect),
        findings=_findings(spec, ctx, groups, population),
        aggregates=_aggregates(ctx, groups, population),
        tables=list(job.tables.values()),
        diagnostics=diagnostics(population, min_effect, ctx.effective_max(spec.feature_id), job),
        followups=_followups(spec, ctx, groups),
    )


def _carried(ctx: Context, weapons: Enrichment, classes: Enrichment) -> frozenset[int]:
    without = np.log(strongest_of_class(ctx, weapons.odds, classes.odds)[1])
    # NaN, a class of one weapon, is carried by it.
    kept = without >= CARRIED * classes.odds.log_odds
    return frozenset(np.flatnonzero(~kept).tolist())


def _warn_unknown(ctx: Context, weapons: Enrichment, job: Job) -> None:
    facts = ctx.weapons.facts
    unknown = [kit.name for i, kit in enumerate(facts) if not kit.known and weapons.means.n[i] > 0]
    if unknown:
        job.warn(f"{len(unknown)} weapons are outside the project's table (class unknown): {', '.join(unknown[:5])}")


def _aggregates(ctx: Context, groups: Groups, population: Population) -> Aggregates:
    weapons, names = groups.weapons, class_names(ctx)[0]
    found, among = groups.found, np.flatnonzero(weapons.usable)
    top = next(iter([*found, *weapons.ranked()]), None)
    custom: dict[str, Any] = {
        "method": "observational",
        **groups.split.numbers(),
        "enriched_weapons": [ctx.weapons.facts[i].name for i in found],
        "enriched_classes": [names[i] for i in groups.found_classes],
        "top_weapon": None if top is None else ctx.weapons.facts[top].name,
        "top_weapon_odds_ratio": None if top is None else float(np.exp(weapons.odds.log_odds[top])),
        "top_weapon_delta": None if top is None else float(weapons.deltas.delta[top]),
        "top_weapon_delta_adjusted": None if top is None else float(weapons.adjusted[top]),
        "explained_by_abilities": weapons.explained(found[0]) if found else None,
        "n_weapons": len(among),
        "specificity_p": groups.specificity,
        "specificity_reason": specificity_reason(groups.specificity, weapons.usable),
        "verdict": "present" if found else "nothing_specific",
    }
    if not len(among):
        return Aggregates(n_samples=len(population), custom=custom)
    return summarise(weapons.deltas.delta[among], len(population), custom)


def _headline(spec: WeaponGroupSpec, ctx: Context, groups: Groups, population: Population, min_effect: float) -> str:
    weapons, feature, tail = groups.weapons, f"feature {spec.feature_id}", observed_scope(population)
    high = f"the {groups.split.describe()}"
    if not weapons.usable.any():
        reason = f"no weapon has {max(20, spec.variables.min_examples)} examples in 10 builds beside others"
        return f"nothing can be said: {reason}; {tail}"
    if not groups.found:
        return f"{_nothing(ctx, groups, feature, high, min_effect)}; {tail}"
    top = groups.found[0]
    others = len(groups.found) - 1
    more = f" and {plural(others, 'more weapon')} are" if others else " is"
    delta, adjusted = float(weapons.deltas.delta[top]), float(weapons.adjusted[top])
    held = f"its mean is {number(delta)} above that of all examples"
    if np.isnan(adjusted):
        held += ", adjusted unknown"
    elif weapons.explained(top):
        held += f" but only {number(adjusted)} with abilities held fixed: the abilities its builds hold explain it"
    else:
        held += f", {number(adjusted)} with abilities held fixed"
    named = [class_names(ctx)[0][i] for i in groups.found_classes]
    classes = f"; so is the class {', '.join(named)}" if named else ""
    name = ctx.weapons.facts[top].name
    return f"{name}{more} over-represented among {high} of {feature}: {_odds(weapons, top)}, {held}{classes}; {tail}"


def _odds(found: Enrichment, index: int) -> str:
    odds = found.odds
    low, high = (float(bound[index]) for bound in odds.interval(found.level))
    shares = f"{odds.share_high[index]:.1%} of them against {odds.share_low[index]:.1%} of the rest"
    return f"{shares} (odds ratio {_ratio(float(np.exp(odds.log_odds[index])))} [{_ratio(low)}, {_ratio(high)}])"


def _ratio(value: float) -> str:
    """A ratio in few digits."""
    if value > LARGEST_RATIO:
        return f"over {LARGEST_RATIO:,}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _nothing(ctx: Context, groups: Groups, feature: str, high: str, min_effect: float) -> str:
    weapons = groups.weapons
    top = next(iter([*weapons.enriched, *weapons.ranked()]))
    name = ctx.weapons.facts[top].name
    if not weapons.enriched and weapons.odds.interval(weapons.level)[0][top] > 1.0:
        above = f"but its mean is only {number(float(weapons.deltas.delta[top]))} above that of all examples"
        there = f"{name} is over-represented among {high} of {feature}, {_odds(weapons, top)}"
        return f"nothing above {min_effect:.2f} found: {there}, {above}"
    if not weapons.enriched:
        return (
            f"nothing above {min_effect:.2f} found: no weapon is surely over-represented among {high} of {feature}, "
            f"{name} most, with {_odds(weapons, top)}"
        )
    return (
        f"nothing specific found: {name} is over-represented among {high} of {feature}, {_odds(weapons, top)}, but "
        f"weapons differ no more on it than on random directions (p = {groups.specificity:.2g})"
    )


def _findings(spec: WeaponGroupSpec, ctx: Context, groups: Groups, population: Population) -> list[Finding]:
    weapons = groups.weapons
    shown = groups.found[:5] or weapons.ranked()[:1]
    low, high = weapons.odds.interval(weapons.level)
    relation = "is over-represented among" if groups.found else "is not specifically over-represented among"
    return [
        Finding(
            subject=ctx.weapons.facts[i].name,
            relation=f"{relation} the high examples of feature {spec.feature_id}",
            effect=float(np.exp(weapons.odds.log_odds[i])),
            ci_low=float(low[i]),
            ci_high=float(high[i]),
            unit="odds ratio",
            status=weapons.status[i] or "unclear",
            specificity_p=groups.specificity,
            n=int(weapons.means.n[i]),
            method="observational",
            population=population.description,
            table="weapon_enrichment",
        )
        for i in shown
    ]


def _followups(spec: WeaponGroupSpec, ctx: Context, groups: Groups) -> list[Followup]:
    if not groups.found:
        return []
    top = groups.found[0]
    reason = "weapons are over-represented: does swapping the weapon change the feature?"
    if groups.weapons.explained(top):
        reason = (
            f"with abilities held fixed {ctx.weapons.facts[top].name} has little effect: does swapping it have one?"
        )
    found = [followup(spec, "weapon_sweep", {"method": "interventional"}, reason)] if ctx.has_model else []
    if len(groups.found) > 1 and not groups.weapons.explained(groups.found[1]):
        found.append(followup(spec, "kit_sweep", {}, "several weapons: do they share a sub or special?"))
    return found
