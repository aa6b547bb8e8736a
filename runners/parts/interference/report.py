"""The table of within-family interference, and how its result is worded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ....context.context import Context
from ....context.population import Population
from ....schemas.result import Table
from ...design.effect_report import conditional_text, effect_text, nothing_text
from ...design.effect_rows import EffectRow, EffectTable
from ...design.interventions import NOT_OF_THE_DATA
from ...design.report import plural, with_short
from ...design.unit_columns import unit_columns
from .sets import Comparison, Kind

Floats = NDArray[np.floating[Any]]
OUT_OF_DISTRIBUTION = "rungs without the lower ones are out of distribution"
SILENT = 0.1
"""A feature is silenced when at most this share of its mean activation is left."""


class Interference(EffectRow):
    """A rung's token alone against the same token with lower ones, in the same builds; delta is both - alone."""

    comparison: Kind = Field(description="pair: one lower rung is added; thermometer: every lower rung is.")
    low_rung: int | None = Field(description="AP asked for of the added rung; null for thermometer.")
    high_rung: int = Field(description="AP asked for of the rung that both sets hold.")
    resolved_low: int | None = Field(description="The vocabulary's rung that was added.")
    resolved_high: int = Field(description="The vocabulary's rung that both sets hold.")
    activation_high: float = Field(description="Mean activation with the high rung's token alone.")
    activation_both: float = Field(description="Mean activation with the lower token or tokens too.")
    delta: float = Field(description="activation_both minus activation_high: mean_delta by its short name.")
    activation_low: float | None = Field(description="Mean activation with the low rung's token alone.")
    n_data_alone: int | None = Field(
        description="Examples of the population holding the high token, none of the added ones."
    )
    n_data_both: int | None = Field(
        description="Examples of the population holding the high token and all the added ones."
    )


def interference_table(
    ctx: Context,
    family: str,
    asked: dict[int, int],
    comparisons: Sequence[Comparison],
    *,
    effects: EffectTable,
    activation: Floats,
    population: Population,
) -> Table:
    """The table ``interference``.

    Args:
        ctx: the context.
        family: the family.
        asked: AP asked for by resolved rung.
        comparisons: the comparisons, k.
        effects: their effects.
        activation: [conditions, m], without the base.
        population: the examples that natural occurrences are counted in; contexts given in the spec are none.
    """
    mean = activation.mean(axis=1, dtype=np.float64)
    note = f"{OUT_OF_DISTRIBUTION}: n_data_alone and n_data_both say how often real builds hold such tokens"
    alone, both = [None] * len(comparisons), [None] * len(comparisons)
    if population.given:
        note = f"{OUT_OF_DISTRIBUTION}; n_data_alone and n_data_both are null: {NOT_OF_THE_DATA}"
    else:
        alone, both = _in_the_data(ctx, family, comparisons, population)
    columns: dict[str, Any] = {
        "comparison": [each.kind for each in comparisons],
        "low_rung": [None if each.low is None else asked[each.low] for each in comparisons],
        "high_rung": [asked[each.high] for each in comparisons],
        "resolved_low": [each.low for each in comparisons],
        "resolved_high": [each.high for each in comparisons],
        "activation_high": mean[[each.alone for each in comparisons]],
        "activation_both": mean[[each.both for each in comparisons]],
        "delta": effects.columns["mean_delta"],
        "activation_low": [None if each.lower is None else float(mean[each.lower]) for each in comparisons],
        "n_data_alone": alone,
        "n_data_both": both,
        **effects.columns,
    }
    return Table.from_columns("interference", Interference, columns, [note])


def _in_the_data(
    ctx: Context, family: str, comparisons: Sequence[Comparison], population: Population
) -> tuple[list[int], list[int]]:
    """Examples that hold the high token with none, and with all, of the tokens that a comparison adds."""
    columns = unit_columns(ctx, population.rows, "tokens")
    own = np.flatnonzero([each == family for each in columns.family])
    held = columns.take(own).matrix.toarray() > 0
    rung = [columns.level[i] for i in own.tolist()]
    alone: list[int] = []
    both: list[int] = []
    for each in comparisons:
        added = [i for i, level in enumerate(rung) if (level < each.high if each.low is None else level == each.low)]
        high = held[:, rung.index(each.high)]
        alone.append(int((high & ~held[:, added].any(axis=1)).sum()))
        both.append(int((high & held[:, added].all(axis=1)).sum()))
    return alone, both


def direction(effects: EffectTable, index: int) -> float:
    """The effect, where it acts, of a comparison that acts: negative is interference."""
    conditional = effects.status[index] == "conditional"
    return float(effects.effects.mean_responders[index] if conditional else effects.effects.mean[index])


def leading_group(effects: EffectTable, comparisons: Sequence[Comparison]) -> list[int]:
    """The acting comparisons that answer the question best, in table order.

    Pairs that interfere, else pairs that support, else thermometers; none where nothing acts.
    """
    acting = effects.acting()
    pairs = [i for i in acting if comparisons[i].kind == "pair"]
    interfering = [i for i in pairs if direction(effects, i) < 0]
    return interfering or pairs or acting


def subject_of(each: Comparison, family: str) -> str:
    """What a comparison does to a set, in words."""
    if each.low is None:
        return f"adding every lower rung to {family}_{each.high}"
    return f"adding {family}_{each.low} to {family}_{each.high}"


def verb_of(effects: EffectTable, index: int, row: dict[str, Any], min_effect: float) -> str:
    """What an acting comparison does to the feature."""
    if direction(effects, index) > 0:
        return "raises"
    silenced = min_effect < row["activation_high"] and row["activation_both"] <= SILENT * row["activation_high"]
    return "silences" if silenced and effects.status[index] == "present" else "lowers"


def interference_headline(
    effects: EffectTable,
    comparisons: Sequence[Comparison],
    table: Table,
    *,
    family: str,
    feature: int,
    min_effect: float,
    population: Population,
) -> str:
    """The headline."""
    scope = f"{OUT_OF_DISTRIBUTION}; {population.contexts(effects.effects.n)}; interventional."
    group = leading_group(effects, comparisons)
    if not group:
        return f"{nothing_text(effects, f'adding lower rungs of {with_short(family)}', feature, min_effect)}; {scope}"
    top = effects.strongest(group)
    row = table.rows[top]
    verb = verb_of(effects, top, row, min_effect)
    text = f" {conditional_text(effects, top)}" if effects.status[top] == "conditional" else _change(effects, top, row)
    alone, both = row["n_data_alone"], row["n_data_both"]
    seen = (
        ""
        if population.given
        else f"; of {len(population):,} examples {alone:,} hold the first set and {both:,} the second"
    )
    more = _others(effects, top)
    return f"{subject_of(comparisons[top], family)} {verb} feature {feature}{text}{more}{seen}; {scope}"


def _change(effects: EffectTable, index: int, row: dict[str, Any]) -> str:
    return f": {effect_text(effects, index)}, from {row['activation_high']:.2f} to {row['activation_both']:.2f}"


def _others(effects: EffectTable, top: int) -> str:
    """How many of the other comparisons act, by their sign."""
    signs = [direction(effects, i) > 0 for i in effects.acting() if i != top]
    counts = [f"{signs.count(sign)} {verb}" for sign, verb in ((False, "lower"), (True, "raise")) if sign in signs]
    return f"; of {plural(len(effects.status) - 1, 'other comparison')} {' and '.join(counts)} it" if counts else ""
