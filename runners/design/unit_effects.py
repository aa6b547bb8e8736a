"""Effects of units, one at a time: written into builds, and as builds hold them, against the same builds without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ...context.context import Context
from ...context.token_sets import levels_of
from ...schemas.catalogue import Plan
from ...schemas.errors import RequestError
from ...schemas.job import Job
from ...schemas.result import Row
from ...schemas.spec import ExperimentSpec
from ..stats.paired import RATE_OF_INTEREST
from .effect_rows import EffectTable, effect_table
from .interventions import DEFAULT_CONTEXTS, Design, admissible, draw
from .report import plural
from .specificity import share_at_least
from .units import Unit, with_units, without_units

Floats = NDArray[np.floating[Any]]
DROPPED = "constraints leave too few contexts for it"
NOT_WRITTEN = "it was not written into builds"


class WrittenColumns(Row):
    """What writing a unit into builds does, beside what the data say of it."""

    causal_delta: float | None = Field(description="Mean effect of writing it into builds without it, in activation.")
    causal_std_error: float | None = Field(description="Its standard error, corrected for the finite population.")
    causal_n: int | None = Field(description="Contexts it was written into.")
    causal_ci_low: float | None = Field(description="Lower end of the 95 % interval of causal_delta alone.")
    causal_ci_high: float | None = Field(description="Upper end of that interval.")
    causal_low: float | None = Field(description="Lower end of its 95 % interval that holds for all rows at once.")
    causal_high: float | None = Field(description="Upper end of that interval.")
    causal_p_value: float | None = Field(description="Two-sided p that causal_delta is 0.")
    causal_q_value: float | None = Field(description="Benjamini-Hochberg q of that p over the rows.")
    mean_pre_delta: float | None = Field(description="The same mean of the pre-activation h, which has no floor.")
    responder_rate: float | None = Field(description="Share of contexts it moves by more than min_effect.")
    responder_low: float | None = Field(description="Lower end of its Clopper-Pearson interval.")
    responder_high: float | None = Field(description="Upper end of that interval.")
    mean_responders: float | None = Field(description="Mean effect on those contexts.")
    causal_status: str | None = Field(description="Verdict on the causal effect; null without the model.")
    n_to_settle: int | None = Field(description="Contexts that would settle an unclear causal effect.")
    causal_reason: str | None = Field(description="Why the causal numbers are null.")


SHARED = {
    "causal_delta": "mean_delta",
    "causal_std_error": "std_error",
    "causal_n": "n",
    "causal_ci_low": "ci_low",
    "causal_ci_high": "ci_high",
    "causal_low": "sim_low",
    "causal_high": "sim_high",
    "causal_p_value": "p_value",
    "causal_q_value": "q_value",
    "causal_status": "status",
} | {
    name: name
    for name in (
        "mean_pre_delta",
        "responder_rate",
        "responder_low",
        "responder_high",
        "mean_responders",
        "n_to_settle",
    )
}
"""Columns of `WrittenColumns` by the columns of `EffectRow` that hold the same."""


def written_columns(table: EffectTable | None, rows: Sequence[int | None], reasons: Sequence[str]) -> dict[str, Any]:
    """The columns of `WrittenColumns`.

    Args:
        table: effects; None where nothing was run.
        rows: position among the effects of each row; None where it was not run.
        reasons: why a row was not run.
    """
    found: dict[str, Any] = {name: [None] * len(rows) for name in SHARED}
    if table is not None:
        for name, source in SHARED.items():
            found[name] = [None if i is None else table.columns[source][i] for i in rows]
    blank = zip(rows, reasons, strict=True)
    return found | {"causal_reason": [reason if i is None else None for i, reason in blank]}


class CausalColumns(WrittenColumns):
    """What a unit does in the same builds, written in and as they hold it."""

    specificity_p: float | None = Field(
        description="Share of random directions that some unit moves at least as far, by what it moves them all."
    )
    held_delta: float | None = Field(
        description="Mean over all contexts of the build as it is minus the build without it; 0 where it is not held."
    )
    held_rate: float | None = Field(description="Share of contexts that hold it and move by more than min_effect.")
    held_responders: float | None = Field(description="Mean of held_delta on those contexts.")
    held_status: str | None = Field(description="Verdict on held_delta; null without the model.")


@dataclass(frozen=True)
class UnitEffects:
    """Effects of k units.

    Attributes:
        units: the units that could be run.
        table: effects of writing each into the contexts, against the contexts without it.
        held: effects of each as the contexts hold it, against the same without it; 0 where it is not held.
        design: the contexts and their conditions.
        base_pre: [m], pre-activation of the contexts as they are.
        at_level: a context holds a unit only at exactly its level; else at any.
        dropped: units that constraints leave too few contexts for.
    """

    units: list[Unit]
    table: EffectTable
    held: EffectTable
    design: Design
    base_pre: Floats
    at_level: bool = False
    dropped: tuple[Unit, ...] = ()

    def acting(self) -> list[int]:
        """Units that act when they are written in, by falling size of the mean effect."""
        return sorted(self.table.acting(), key=lambda i: -abs(float(self.table.effects.mean[i])))

    def acting_as_held(self) -> list[int]:
        """Units that act as builds hold them and not as they are written: by a gap in their tokens, or a low level."""
        found = set(self.held.acting()) - set(self.table.acting())
        return sorted(found, key=lambda i: -abs(float(self.held.effects.mean[i])))

    def columns(self, families: Sequence[str], levels: Sequence[int], missing: str = NOT_WRITTEN) -> dict[str, Any]:
        """The columns of `CausalColumns` for rows of (family, level); level 0 matches the family's unit.

        ``missing`` is the reason of a row whose unit was not asked for.
        """
        where = {(unit.family, unit.level): index for index, unit in enumerate(self.units)}
        where |= {(unit.family, 0): index for index, unit in enumerate(self.units)}
        keys = list(zip(families, levels, strict=True))
        rows = [where.get(key) for key in keys]
        lost = {(unit.family, level) for unit in self.dropped for level in (unit.level, 0)}
        held = self.held.effects
        series: dict[str, Any] = {
            "specificity_p": np.fmin(self.table.specificity, self._held_p()),
            "held_delta": held.mean,
            "held_rate": held.responder_rate,
            "held_responders": held.mean_responders,
            "held_status": self.held.status,
        }
        found = {name: [None if i is None else values[i] for i in rows] for name, values in series.items()}
        return written_columns(self.table, rows, [DROPPED if key in lost else missing for key in keys]) | found

    def _held_p(self) -> Floats:
        """The p of the units that act only as they are held; NaN for the others."""
        p = np.full(len(self.units), np.nan)
        only = self.acting_as_held()
        p[only] = self.held.specificity[only]
        return p


def no_causal_columns(n: int, reason: str) -> dict[str, Any]:
    """The same columns where nothing was run."""
    return {name: [None] * n for name in CausalColumns.model_fields} | {"causal_reason": [reason] * n}


def whole_pairs(design: Design) -> Design:
    """A design of pairs of conditions without a last condition whose partner was dropped."""
    pairs = len(design.kept) // 2
    return replace(design, conditions=design.conditions[: 2 * pairs], kept=design.kept[: 2 * pairs])


def unit_design(
    spec: ExperimentSpec, ctx: Context, units: Sequence[Unit], default: int = DEFAULT_CONTEXTS
) -> tuple[Design, list[Unit]]:
    """Base: the contexts as they are; for each unit a pair of conditions, without it and with it.

    Raises:
        RequestError: constraints leave too few contexts for any unit.
    """
    contexts = draw(spec, ctx, default)
    conditions, labels = [], []
    for unit in units:
        without = without_units(contexts.sets, [unit], ctx)
        conditions += [without, with_units(without, [unit], ctx)]
        labels += [f"without {unit.label(ctx)}", f"with {unit.label(ctx)}"]
    design = whole_pairs(admissible(contexts, contexts.sets, conditions, labels, spec=spec, ctx=ctx))
    if not design.kept:
        broken = ", ".join(violation.id for violation in design.violations if violation.hard)
        raise RequestError(
            f"too few of {len(contexts.positions)} contexts may hold {units[0].label(ctx)} under {broken}: leave the "
            f"constraint out, raise sample_size or choose other builds with dataset_slice. Nothing was run."
        )
    return design, list(units[: len(design.kept) // 2])


def unit_plan(spec: ExperimentSpec, ctx: Context, units: Sequence[Unit], default: int = DEFAULT_CONTEXTS) -> Plan:
    """The dry run of `unit_effects`."""
    design, kept = unit_design(spec, ctx, units, default)
    return design.plan(ctx, f"each of {plural(len(kept), 'unit')} written in, against the builds without it")


def unit_effects(
    spec: ExperimentSpec,
    ctx: Context,
    units: Sequence[Unit],
    *,
    min_effect: float,
    job: Job,
    default: int = DEFAULT_CONTEXTS,
    at_level: bool = False,
) -> UnitEffects:
    """Write each unit into contexts drawn from the slice, and take it out of those that hold it.

    Args:
        spec: its slice gives the contexts.
        ctx: the context, with a model.
        units: what is written in.
        min_effect: smallest effect of interest.
        job: progress, passes, cancellation.
        default: contexts where the slice gives no ``sample_size``.
        at_level: a context holds a unit only when it has the family at exactly the unit's level.
    """
    design, kept = unit_design(spec, ctx, units, default)
    pooled = design.pooled(ctx, job)
    natural, without, written = pooled[0], pooled[1::2], pooled[2::2]
    levels = levels_of(design.base.present, ctx.vocabulary)
    columns = levels[:, [ctx.vocabulary.family_index[unit.family] for unit in kept]].T
    wanted = np.array([unit.level for unit in kept])[:, None]
    held = np.where(((columns == wanted) if at_level else (columns > 0))[:, :, None], natural, without)
    nulls = [
        null_units(ctx, spec.feature_id, conditions, without, min_effect=min_effect) for conditions in (written, held)
    ]
    base = ctx.read(without, spec.feature_id)
    tables: list[EffectTable] = []
    for conditions in (written, held):
        readout = ctx.read(conditions, spec.feature_id)
        table = effect_table(
            readout.activation,
            readout.pre,
            base=(base.activation, base.pre),
            population=design.contexts.population.size,
            min_effect=min_effect,
            null=None,
            seed=spec.dataset_slice.random_seed,
        )
        tables.append(table)
    tables = specific(tables, [null for null in nulls if null is not None])
    base_pre, dropped = ctx.read(natural, spec.feature_id).pre, tuple(units[len(kept) :])
    return UnitEffects(kept, tables[0], tables[1], design, base_pre, at_level, dropped)


@dataclass(frozen=True)
class NullUnits:
    """What each of k units does to each of r random directions.

    Attributes:
        mean: [k, r], mean effects.
        responders: [k, r], mean effects on responders; 0 where fewer than 1 % of contexts respond.
        floor: no unit is taken to move random directions less than this.
    """

    mean: Floats
    responders: Floats
    floor: float

    def mean_by_scale(self, effects: Floats) -> Floats:
        """Mean effects [k] by how far each unit moves random directions (root mean square)."""
        return np.abs(effects) / np.maximum(np.sqrt(np.square(self.mean).mean(axis=1)), self.floor)

    def largest(self) -> tuple[Floats, Floats]:
        """Each direction's largest mean by the scale of the others, and its largest mean on responders, [r]."""
        squares = np.square(self.mean)
        others = (squares.sum(axis=1, keepdims=True) - squares) / (squares.shape[1] - 1)
        scaled = np.abs(self.mean) / np.maximum(np.sqrt(np.maximum(others, 0.0)), self.floor)
        return scaled.max(axis=0), np.abs(self.responders).max(axis=0)


def null_units(ctx: Context, feature: int, written: Floats, without: Floats, *, min_effect: float) -> NullUnits | None:
    """Effects of units on 200 random directions that are as often active, and as high, as the feature.

    Args:
        ctx: the context.
        feature: the feature they must look like.
        written: [k, m, d] pooled vectors with each unit.
        without: [k, m, d], the same without it.
        min_effect: smallest effect of interest, which makes a responder.

    Returns:
        None where the examples' pooled vectors are unknown or the feature is dead.
    """
    directions, top = ctx.random_directions(), ctx.effective_max(feature)
    if directions is None or top is None:
        return None
    matched = directions.matched(ctx.active_rate(feature), top)
    means: list[Floats] = []
    responders: list[Floats] = []
    for vectors, base in zip(written, without, strict=True):
        d = matched.activation(vectors) - matched.activation(base)
        responds = np.abs(d) > min_effect
        count = responds.sum(axis=0)
        on_responders = (d * responds).sum(axis=0) / np.maximum(count, 1)
        means.append(d.mean(axis=0))
        responders.append(np.where(count < RATE_OF_INTEREST * len(d), 0.0, on_responders))
    return NullUnits(np.stack(means), np.stack(responders), min_effect / 2.0)


def specific(tables: Sequence[EffectTable], nulls: Sequence[NullUnits]) -> list[EffectTable]:
    """The tables with a p of every effect against random directions; as they are where nothing is known of those.

    Two statistics are looked at, as an effect on every build and one on few builds are both effects: the mean, by how
    far the same unit moves random directions (a high level moves any direction far), and the mean on responders. Each
    is compared with every direction's largest over all units of all tables; the smaller of the two shares is itself
    compared with that of the directions, so that looking twice costs what it should (Westfall and Young 1993). The
    mean of a ``conditional`` effect is not looked at, as it is not certain.
    """
    if not nulls:
        return list(tables)
    over = [null.largest() for null in nulls]
    largest = (np.max([each[0] for each in over], axis=0), np.max([each[1] for each in over], axis=0))
    return [_with_p(table, null, largest) for table, null in zip(tables, nulls, strict=True)]


def _with_p(table: EffectTable, null: NullUnits, largest: tuple[Floats, Floats]) -> EffectTable:
    own = np.minimum(_share_of_its_own(largest[0]), _share_of_its_own(largest[1]))
    means = null.mean_by_scale(table.effects.mean)
    responders = np.abs(np.nan_to_num(table.effects.mean_responders))
    p = np.empty(len(table.status))
    for index, status in enumerate(table.status):
        smallest = share_at_least(float(responders[index]), largest[1])
        if status != "conditional":
            smallest = min(smallest, share_at_least(float(means[index]), largest[0]))
        p[index] = (1 + int((own <= smallest).sum())) / (1 + len(own))
    return replace(table, specificity=p, columns=table.columns | {"specificity_p": p})


def _share_of_its_own(values: Floats) -> Floats:
    """Share of the values that are at least as large, for each of them [r]."""
    return (len(values) - np.searchsorted(np.sort(values), values, side="left")) / len(values)
