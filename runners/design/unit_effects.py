"""Effects of writing units into builds, one at a time: each against the same builds without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ...context.context import Context
from ...schemas.catalogue import Plan
from ...schemas.job import Job
from ...schemas.result import Row
from ...schemas.spec import ExperimentSpec
from .effect_rows import EffectTable, effect_table
from .interventions import Design, admissible, draw
from .report import plural
from .specificity import null_effects
from .units import Unit, with_units, without_units

Floats = NDArray[np.floating[Any]]


class CausalColumns(Row):
    """What writing a unit into the same builds does, beside what the data say of it."""

    causal_delta: float | None = Field(description="Mean effect of writing it into builds without it, in activation.")
    causal_low: float | None = Field(description="Lower end of its 95 % interval that holds for all rows at once.")
    causal_high: float | None = Field(description="Upper end of that interval.")
    responder_rate: float | None = Field(description="Share of contexts it moves by more than min_effect.")
    mean_responders: float | None = Field(description="Mean effect on those contexts.")
    causal_status: str | None = Field(description="Verdict on the causal effect; null without the model.")
    specificity_p: float | None = Field(description="Share of random directions that respond at least as much.")


@dataclass(frozen=True)
class UnitEffects:
    """Effects of k units.

    Attributes:
        units: the units that could be run.
        table: their effects.
        design: the contexts and their conditions.
        base_pre: [m], pre-activation of the contexts as they are.
    """

    units: list[Unit]
    table: EffectTable
    design: Design
    base_pre: Floats

    def columns(self, families: Sequence[str], levels: Sequence[int]) -> dict[str, Any]:
        """The columns of `CausalColumns` for rows of (family, level); level 0 matches the family's unit."""
        where = {(unit.family, unit.level): index for index, unit in enumerate(self.units)}
        where |= {(unit.family, 0): index for index, unit in enumerate(self.units)}
        rows = [where.get(key) for key in zip(families, levels, strict=True)]
        effects, table = self.table.effects, self.table
        series: dict[str, Any] = {
            "causal_delta": effects.mean,
            "causal_low": effects.sim_low,
            "causal_high": effects.sim_high,
            "responder_rate": effects.responder_rate,
            "mean_responders": effects.mean_responders,
            "causal_status": table.status,
            "specificity_p": table.specificity,
        }
        return {name: [None if i is None else values[i] for i in rows] for name, values in series.items()}


def no_causal_columns(n: int) -> dict[str, Any]:
    """The same columns where nothing was run."""
    return {name: [None] * n for name in CausalColumns.model_fields}


def unit_design(spec: ExperimentSpec, ctx: Context, units: Sequence[Unit]) -> tuple[Design, list[Unit]]:
    """Base: the contexts as they are; for each unit a pair of conditions, without it and with it."""
    contexts = draw(spec, ctx)
    conditions, labels = [], []
    for unit in units:
        without = without_units(contexts.sets, [unit], ctx)
        conditions += [without, with_units(without, [unit], ctx)]
        labels += [f"without {unit.label(ctx)}", f"with {unit.label(ctx)}"]
    design = admissible(contexts, contexts.sets, conditions, labels, spec=spec, ctx=ctx)
    return design, list(units[: len(design.kept) // 2])


def unit_plan(spec: ExperimentSpec, ctx: Context, units: Sequence[Unit]) -> Plan:
    """The dry run of `unit_effects`."""
    design, kept = unit_design(spec, ctx, units)
    return design.plan(ctx, f"each of {plural(len(kept), 'unit')} written in, against the builds without it")


def unit_effects(
    spec: ExperimentSpec, ctx: Context, units: Sequence[Unit], *, min_effect: float, job: Job
) -> UnitEffects:
    """Write each unit into contexts drawn from the slice, against the same contexts without it."""
    design, kept = unit_design(spec, ctx, units)
    pooled = design.pooled(ctx, job)[: 2 * len(kept) + 1]
    readout = ctx.read(pooled, spec.feature_id)
    table = effect_table(
        readout.activation[2::2],
        readout.pre[2::2],
        base=(readout.activation[1::2], readout.pre[1::2]),
        population=design.contexts.population.size,
        min_effect=min_effect,
        null=null_effects(ctx, spec.feature_id, pooled[2::2], base=pooled[1::2], min_effect=min_effect),
        seed=spec.dataset_slice.random_seed,
    )
    return UnitEffects(kept, table, design, readout.pre[0])
