"""Frequent itemsets: which combinations of abilities do strongly activating builds have in common?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..context.context import Context
from ..context.population import Population
from ..schemas.catalogue import Plan, experiment
from ..schemas.errors import RequestError
from ..schemas.job import Job
from ..schemas.result import Aggregates, Findings, Row, Table
from ..schemas.spec import ExperimentSpec, Variables
from .design.effect_report import summarise
from .design.high import HighSplit, split_high
from .design.report import (
    CORRELATIONAL,
    diagnostics,
    empty_tables,
    plural,
    quiet_findings,
    smallest_effect,
)
from .design.unit_columns import Kind
from .design.units import resolution_warnings
from .parts.itemsets.choice import Specificity, choose
from .parts.itemsets.effects import EffectBook, Set
from .parts.itemsets.items import Transactions, parse_conditions, restricted, transactions
from .parts.itemsets.null import Mined
from .parts.itemsets.report import (
    Named,
    causal_followups,
    named_finding,
    named_headline,
    nothing_headline,
    scope,
)
from .parts.itemsets.rows import SURE, ItemsetRow, Scores, closed_counts, itemset_table, score
from .stats.itemsets import MAX_ITEMSETS, Itemsets, TooManyItemsets, fewest

Bools = NDArray[np.bool_]
PERMUTATION_STREAM = 17
SCORED = 1000


class ItemsetVariables(Variables):
    """What is mined."""

    min_support: float = Field(
        default=0.05, gt=0, le=1, description="Share (0-1) of the high examples that hold a set."
    )
    max_size: int = Field(default=3, ge=2, le=6, description="Largest number of items in a set.")
    collapse_families: bool = Field(
        default=True, description="Items are families at any AP; false: tokens, such as swim_speed_up_12."
    )
    rung_tokens: Literal["highest", "all"] = Field(
        default="highest", description="Tokens an example holds of a family: its level alone, or all present."
    )
    condition_on: tuple[str, ...] = Field(
        default=(), description="Only examples holding these: families, family_AP (or more), main-only abilities."
    )
    high_activation_pct: float = Field(
        default=10.0, gt=0, le=100, description="High examples: this top percentage (0-100) of the active ones."
    )
    top_k: int = Field(default=SCORED, ge=1, le=100_000, description="Rows kept of the table, most telling first.")
    n_permutations: int = Field(default=200, ge=20, le=10_000, description="Permutations behind p_adjusted.")
    min_effect: float | None = Field(
        default=None, gt=0, le=6, description="Smallest effect of interest; default 5 % of the effective max."
    )


class ItemsetSpec(ExperimentSpec):
    """Spec of frequent itemsets."""

    type: Literal["frequent_itemsets"] = "frequent_itemsets"
    variables: ItemsetVariables = ItemsetVariables()


TABLES: dict[str, type[Row]] = {"itemsets": ItemsetRow}


def _kind(variables: ItemsetVariables) -> Kind:
    if variables.collapse_families:
        return "families"
    return "tokens" if variables.rung_tokens == "all" else "levels"


def _population(spec: ItemsetSpec, ctx: Context) -> Population:
    """The slice's examples that meet ``condition_on``."""
    conditions = parse_conditions(spec.variables.condition_on, ctx)
    return restricted(ctx.population(spec.dataset_slice, spec.feature_id), conditions, ctx)


@dataclass(frozen=True)
class Mining:
    """The high examples of a population, taken apart.

    Attributes:
        split: high examples and baseline.
        items: the examples' items.
        mined: what may be found.
        found: the frequent itemsets of the high examples.
    """

    split: HighSplit
    items: Transactions
    mined: Mined
    found: Itemsets


def _mine(spec: ItemsetSpec, ctx: Context, population: Population, job: Job) -> Mining:
    """Mine the high examples.

    Raises:
        RequestError: too many itemsets.
    """
    variables = spec.variables
    split = split_high(population, 100.0 - variables.high_activation_pct, job)
    if not split.n_baseline:
        job.warn("every example is high: no baseline, so support_baseline, lift, odds_ratio and p_value are null")
    items = transactions(ctx, population, _kind(variables))
    min_count = fewest(variables.min_support, split.n_high)
    fixed = [ctx.vocabulary.family_index[unit.family] for unit in parse_conditions(variables.condition_on, ctx)]
    enough = items.count >= min_count
    mined = Mined(
        rows=items.rows,
        packed=items.packed,
        blocks=items.blocks,
        min_count=min_count,
        max_size=variables.max_size,
        allowed=np.flatnonzero(enough & ~np.isin(items.family, fixed)),
        family=items.family if "one_rung_per_family" in spec.constraints else None,
    )
    try:
        found = mined.frequent(items.rows.packed(np.flatnonzero(split.high)), job.check)
    except TooManyItemsets as error:
        raise _too_many(spec, error) from error
    return Mining(split, items, mined, found)


def _too_many(spec: ItemsetSpec, error: TooManyItemsets) -> RequestError:
    variables = spec.variables
    return RequestError(
        f"min_support = {variables.min_support:g} with max_size = {variables.max_size} gives {error} to count, above "
        f"the {MAX_ITEMSETS:,} allowed: raise min_support, lower max_size below {error.size}, or collapse families. "
        f"Nothing was run."
    )


def plan(spec: ItemsetSpec, ctx: Context) -> Plan:
    """What would be mined."""
    population = _population(spec, ctx)
    notes = [*resolution_warnings(spec.variables.condition_on, ctx), *population.warnings]
    if bool((population.activation > 0).any()):
        mining = _mine(spec, ctx, population, job := Job())
        notes += [*job.warnings, f"{plural(len(mining.found), 'itemset')} of {mining.split.n_high:,} high examples"]
    return Plan(contexts=len(population), conditions="the high examples against the rest", notes=tuple(notes))


@experiment(
    "frequent_itemsets",
    spec=ItemsetSpec,
    plan=plan,
    cli="itemsets",
    summary="Which combinations of abilities strongly activating builds have in common, beyond chance.",
    tables=TABLES,
    methods=("observational",),
    cost="data",
    toolset="patterns",
)
def run(spec: ItemsetSpec, ctx: Context, job: Job) -> Findings:
    """Mine itemsets; the estimators are in docs/methods under "frequent_itemsets"."""
    population, variables = _population(spec, ctx), spec.variables
    quiet = quiet_findings(spec, ctx, population, job, method="observational", models=TABLES)
    if quiet is not None:
        return quiet
    job.warn(CORRELATIONAL)
    for warning in resolution_warnings(variables.condition_on, ctx):
        job.warn(warning)
    if variables.collapse_families and variables.rung_tokens == "all":
        job.warn("rung_tokens acts on tokens, and families are collapsed: set collapse_families to false to use it")
    min_effect = smallest_effect(spec, ctx, variables.min_effect) or 0.0
    mining = _mine(spec, ctx, population, job)
    plain = diagnostics(population, min_effect, ctx.effective_max(spec.feature_id), job)
    if not len(mining.found):
        return _no_itemset(spec, mining, population).model_copy(update={"diagnostics": plain})
    scores = _scores(spec, mining, job)
    book = EffectBook.of(ctx, population, mining.items.rows, spec.dataset_slice.random_seed)
    n_scored = min(max(SCORED, variables.top_k), len(scores.sets))
    n_effects = book.learn(scores.sets.take(np.arange(n_scored)))
    table = itemset_table(
        scores,
        mining.mined,
        mining.items,
        population,
        mining.split.high,
        book=book,
        n_effects=n_effects,
        min_effect=min_effect,
        n_rows=n_scored,
    )
    job.partial(_shown(spec, table, len(scores.sets), book, n_effects))
    named = _named(spec, ctx, mining, scores, table, book=book, population=population, min_effect=min_effect)
    summary = _summary(table, n_effects, len(population), _numbers(spec, mining) | _counts(mining, scores, table))
    findings = _findings(spec, ctx, mining, table, named, population=population, min_effect=min_effect, summary=summary)
    return findings.model_copy(update={"diagnostics": plain, "tables": list(job.tables.values())})


def _scores(spec: ItemsetSpec, mining: Mining, job: Job) -> Scores:
    """The itemsets in order of their excess, with what chance would give."""
    variables, high = spec.variables, mining.split.high
    rng = np.random.default_rng([spec.dataset_slice.random_seed, PERMUTATION_STREAM])
    job.progress(0, 1, f"permuting {mining.split.n_high:,} labels")
    try:
        largest = mining.mined.largest_by_chance(high, variables.n_permutations, rng, job.check)
    except TooManyItemsets as error:
        raise _too_many(spec, error) from error
    job.progress(1, 1, f"{plural(len(mining.found), 'itemset')}")
    return score(mining.mined, mining.found, high, largest)


def _shown(spec: ItemsetSpec, table: Table, n_found: int, book: EffectBook, n_effects: int) -> Table:
    """The rows that are kept, with what a reader must know of them."""
    rows, notes = table.rows[: spec.variables.top_k], ["ordered by excess: how far support exceeds that of the weapons"]
    if len(rows) < n_found:
        notes.append(f"{len(rows):,} of {n_found:,} itemsets are kept: raise top_k for more")
    if n_effects < len(rows):
        notes.append(f"effects are estimated for the first {n_effects:,}")
    if book.sampled:
        notes.append(f"effects are estimated on {len(book.value):,} examples, whole builds drawn at random")
    return table.model_copy(update={"rows": rows, "notes": notes})


def _named(
    spec: ItemsetSpec,
    ctx: Context,
    mining: Mining,
    scores: Scores,
    table: Table,
    *,
    book: EffectBook,
    population: Population,
    min_effect: float,
) -> list[Named]:
    """The itemsets that stand out surely and by more than ``min_effect``, the most telling first."""
    row_of: dict[Set, dict[str, Any]] = {scores.sets.members(i): row for i, row in enumerate(table.rows)}
    qualified = {
        members
        for members, row in row_of.items()
        if row["p_adjusted"] < SURE and row["status"] == "present" and row["within_weapon_delta"] > 0
    }
    closed = [members for members in qualified if row_of[members]["closed"]]
    sets = choose(sorted(closed), book, mining.items.family, qualified, min_effect)
    compare = Specificity(
        ctx=ctx,
        feature=spec.feature_id,
        population=population,
        items=mining.items,
        mined=mining.mined,
        kind=_kind(spec.variables),
        seed=spec.dataset_slice.random_seed,
    )
    found = [Named(row_of[each], p) for each, p in zip(sets, compare.p_values(sets), strict=True)]
    return found[:1] + [each for each in found[1:] if each.specific]


def _findings(
    spec: ItemsetSpec,
    ctx: Context,
    mining: Mining,
    table: Table,
    named: Sequence[Named],
    *,
    population: Population,
    min_effect: float,
    summary: Aggregates,
) -> Findings:
    rows, specific = table.rows, bool(named) and named[0].specific
    top = named[0].row if named else None
    custom: dict[str, Any] = {
        **summary.custom,
        "top_itemset": top["tokens"] if top else None,
        "top_support_high": top["support_high"] if top else None,
        "top_support_baseline": top["support_baseline"] if top else None,
        "top_lift": top["lift"] if top else None,
        "top_effect": top["within_weapon_delta"] if top else None,
        "named": [each.row["tokens"] for each in named] if specific else [],
        "specificity_p": named[0].specificity_p if named else None,
        "verdict": "present" if specific else "nothing_specific",
    }
    if named and named[0].specificity_p is None:
        custom["specificity_reason"] = "the bundle has no pooled vectors of its examples, nor a model to make them"
    elif not named:
        custom["specificity_reason"] = "no itemset stands out, so none is compared with random directions"
    feature, tail = spec.feature_id, scope(mining.split, population)
    if named:
        headline = named_headline(feature, named, collapsed=spec.variables.collapse_families, tail=tail)
    else:
        headline = nothing_headline(feature, rows, min_effect=min_effect, tail=tail)
    return Findings(
        headline=headline,
        findings=[named_finding(spec.feature_id, each, population) for each in named],
        aggregates=summary.model_copy(update={"custom": custom}),
        followups=causal_followups(spec, ctx, named[0].row["tokens"]) if specific else [],
    )


def _summary(table: Table, n_effects: int, n: int, numbers: dict[str, Any]) -> Aggregates:
    """The summary of the effects of all itemsets; null, with the reason, where some were not estimated."""
    found = numbers["n_itemsets"]
    effects = [row["within_weapon_delta"] for row in table.rows if row["within_weapon_delta"] is not None]
    if n_effects < found:
        reason = f"effects are estimated for {n_effects:,} of the {found:,} itemsets, those furthest beyond chance"
    elif not effects:
        reason = "no itemset has an effect: all examples, or none, of every weapon hold it"
    else:
        return summarise(np.array(effects), n, {**numbers, "n_effects": len(effects)})
    return Aggregates(n_samples=n, custom={**numbers, "n_effects": len(effects), "delta_reason": reason})


def _counts(mining: Mining, scores: Scores, table: Table) -> dict[str, Any]:
    """How many of all itemsets, shown or not, are significant, closed and maximal."""
    numbers: dict[str, Any] = {"n_significant": int((scores.p_adjusted < SURE).sum())}
    counted = closed_counts(scores, mining.mined, mining.items.rows.held(np.flatnonzero(mining.split.high)), table)
    if counted is None:
        reason = f"too many itemsets ({len(scores.sets):,}) to compare each with all that are larger"
        return numbers | {"n_closed": None, "n_maximal": None, "closed_reason": reason}
    return numbers | {"n_closed": counted[0], "n_maximal": counted[1]}


def _numbers(spec: ItemsetSpec, mining: Mining) -> dict[str, Any]:
    """What is reported whether or not something was found."""
    return {
        "method": "observational",
        **mining.split.numbers(),
        "n_itemsets": len(mining.found),
        "n_by_size": {str(size): int((mining.found.size == size).sum()) for size in np.unique(mining.found.size)},
        "n_permutations": spec.variables.n_permutations,
        "min_count": mining.mined.min_count,
    }


def _no_itemset(spec: ItemsetSpec, mining: Mining, population: Population) -> Findings:
    reason = f"no itemset is held by {mining.mined.min_count} or more of the {mining.split.n_high:,} high examples"
    tables = empty_tables(TABLES)
    tables[0].notes.append(f"{reason}: lower min_support")
    return Findings(
        headline=f"nothing found: {reason} of feature {spec.feature_id}; {scope(mining.split, population)}",
        aggregates=Aggregates(
            n_samples=len(population),
            custom=_numbers(spec, mining)
            | dict.fromkeys(("n_significant", "n_closed", "n_maximal"), 0)
            | {"reason": reason, "verdict": "nothing_specific"},
        ),
        tables=tables,
    )
