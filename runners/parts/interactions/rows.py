"""The rows of a pair's table, and what of them is shown as synergies and redundancies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ....context.context import Context
from ....context.population import Population
from ....schemas.result import Row, Status, Table
from ...design.interventions import NOT_OF_THE_DATA
from ...design.specificity import SPECIFIC
from ...design.unit_columns import unit_columns
from ...design.units import Unit
from ...stats.compact import BLOCK_ROWS
from ...stats.patterns import Pattern
from .candidates import Pair
from .contrasts import Contrasts, Factorial

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


class PairRow(Row):
    """Two units: neither, each alone, both."""

    unit_a: str = Field(description="First unit.")
    unit_b: str = Field(description="Second unit.")
    pattern: Pattern | None = Field(
        description="What they do together, in the contexts in which the pair acts; null when unclear."
    )
    f00: float | None = Field(description="Mean activation with neither; observational: of examples with neither.")
    f10: float | None = Field(description="With the first alone; observational: f00 and the within-weapon effect.")
    f01: float | None = Field(description="With the second alone.")
    f11: float | None = Field(description="With both.")
    delta_a: float | None = Field(description="f10 - f00.")
    delta_b: float | None = Field(description="f01 - f00.")
    interaction: float | None = Field(description="I = f11 - f10 - f01 + f00, in activation.")
    std_error: float | None = Field(description="Its standard error.")
    ci_low: float | None = Field(description="Lower end of the 95 % interval of I.")
    ci_high: float | None = Field(description="Upper end of the 95 % interval of I.")
    sim_low: float | None = Field(description="Lower end of its 95 % interval that holds for all pairs at once.")
    sim_high: float | None = Field(description="Upper end of that interval.")
    p_value: float | None = Field(description="Two-sided p that I is 0.")
    q_value: float | None = Field(description="Benjamini-Hochberg q over the pairs.")
    interaction_pre: float | None = Field(description="I of the pre-activation h, which has no floor.")
    pre_low: float | None = Field(description="Lower end of its simultaneous 95 % interval.")
    pre_high: float | None = Field(description="Upper end of it.")
    responder_rate: float | None = Field(description="Share of contexts where |I| exceeds min_effect.")
    responder_low: float | None = Field(description="Lower end of its Clopper-Pearson interval.")
    responder_high: float | None = Field(description="Upper end of it.")
    mean_responders: float | None = Field(description="Mean I on those contexts.")
    n: int = Field(description="Contexts; observational: examples.")
    n_both: int | None = Field(
        description="Examples of the data that hold both (families at that AP or more, tokens as they are)."
    )
    cooccurrence_lift: float | None = Field(description="n_both over what independence would give; no interaction.")
    status: Status | None = Field(description="Verdict on I; null where the data cannot tell.")
    specificity_p: float | None = Field(description="Share of random directions that interact at least as much.")
    reason: str | None = Field(description="Why numbers are null.")


TABLES: dict[str, type[Row]] = {"synergies": PairRow, "redundancies": PairRow, "pairs": PairRow}


@dataclass(frozen=True)
class Cooccurrence:
    """How often the examples hold both units of each pair.

    Attributes:
        n: examples.
        n_both: [P].
        lift: [P], over what independence would give; NaN where a unit is never held.
    """

    n: int
    n_both: Ints
    lift: Floats


def held_units(ctx: Context, rows: NDArray[np.intp], units: Sequence[Unit], *, single: bool) -> NDArray[np.bool_]:
    """Which examples hold a unit, its family at its level or a higher one, or its token: [n, units]."""
    held = np.zeros((len(rows), len(units)), dtype=np.bool_)
    family = [ctx.vocabulary.family_index[unit.family] for unit in units]
    least = np.array([unit.level for unit in units])
    for at in range(0, len(rows), BLOCK_ROWS):
        some = slice(at, at + BLOCK_ROWS)
        if single:
            columns = unit_columns(ctx, rows[some], "tokens")
            where = {key: index for index, key in enumerate(zip(columns.family, columns.level, strict=True))}
            chosen = [where[unit.family, unit.level] for unit in units]
            held[some] = columns.matrix[:, chosen].toarray() > 0
        else:
            held[some] = np.asarray(ctx.data.levels[rows[some]])[:, family] >= least
    return held


def units_of(pairs: Sequence[Pair]) -> list[Unit]:
    """The units of some pairs, each once, in order of appearance."""
    return list(dict.fromkeys(unit for pair in pairs for unit in pair))


def places(pairs: Sequence[Pair]) -> tuple[Ints, Ints]:
    """Where the first and the second unit of each pair are in `units_of`."""
    where = {unit: index for index, unit in enumerate(units_of(pairs))}
    first, second = zip(*((where[a], where[b]) for a, b in pairs), strict=True)
    return np.array(first, dtype=np.intp), np.array(second, dtype=np.intp)


def cooccurrence(ctx: Context, population: Population, pairs: Sequence[Pair], *, single: bool) -> Cooccurrence:
    """Count the examples of a population that hold both units."""
    held = held_units(ctx, population.rows, units_of(pairs), single=single)
    blocks = (held[at : at + BLOCK_ROWS].astype(np.float32) for at in range(0, len(held), BLOCK_ROWS))
    gram = sum((np.rint(part.T @ part).astype(np.int64) for part in blocks), np.zeros((held.shape[1],) * 2, np.int64))
    first, second = places(pairs)
    n_both, n = gram[first, second], len(population)
    with np.errstate(divide="ignore", invalid="ignore"):
        lift = n_both * float(n) / (np.diag(gram)[first] * np.diag(gram)[second])
    return Cooccurrence(n, n_both, np.where(np.isfinite(lift), lift, np.nan))


def caused_pairs(
    pairs: Sequence[Pair],
    factorial: Factorial,
    found: Contrasts,
    *,
    together: Cooccurrence | None,
    patterns: Sequence[Pattern | None],
    ctx: Context,
) -> dict[str, Any]:
    """The columns of `PairRow` of an intervention; ``together`` is None where no examples are read beside it."""
    effects, cells = found.table.effects, factorial.activation.mean(axis=2, dtype=np.float64)
    reasons: list[str | None] = [NOT_OF_THE_DATA] * len(pairs)
    if together is not None:
        never = np.isnan(together.lift).tolist()
        reasons = ["no example holds one of them: no lift" if absent else None for absent in never]
    return {
        **names(pairs, ctx),
        "pattern": list(patterns),
        **cell_columns(cells),
        "interaction": effects.mean,
        "std_error": effects.std_error,
        "ci_low": effects.ci_low,
        "ci_high": effects.ci_high,
        "sim_low": effects.sim_low,
        "sim_high": effects.sim_high,
        "p_value": effects.p_value,
        "q_value": effects.q_value,
        "interaction_pre": found.pre.mean,
        "pre_low": found.pre.sim_low,
        "pre_high": found.pre.sim_high,
        "responder_rate": effects.responder_rate,
        "responder_low": effects.responder_low,
        "responder_high": effects.responder_high,
        "mean_responders": effects.mean_responders,
        "n": [effects.n] * len(pairs),
        "n_both": [None] * len(pairs) if together is None else together.n_both,
        "cooccurrence_lift": [None] * len(pairs) if together is None else together.lift,
        "status": found.table.status,
        "specificity_p": found.table.specificity,
        "reason": reasons,
    }


def names(pairs: Sequence[Pair], ctx: Context) -> dict[str, list[str]]:
    """The columns that name the units: their tokens."""
    labels = [[unit.label(ctx) for unit in pair] for pair in pairs]
    return {"unit_a": [first for first, _ in labels], "unit_b": [second for _, second in labels]}


def cell_columns(cells: Floats) -> dict[str, Floats]:
    """The columns of the cells [P, 4]."""
    f00, f10, f01, f11 = cells.T
    return {"f00": f00, "f10": f10, "f01": f01, "f11": f11, "delta_a": f10 - f00, "delta_b": f01 - f00}


def ranked(acting: Sequence[int], size: Floats, status: Sequence[Status | None], artifact: Sequence[bool]) -> list[int]:
    """Acting pairs, strongest first: real ones before artifacts of the floor, present before conditional."""
    return sorted(acting, key=lambda i: (artifact[i], status[i] != "present", -abs(float(size[i]))))


def pair_tables(columns: dict[str, Any], order: Sequence[int], top_k: int, notes: Sequence[str]) -> list[Table]:
    """synergies, redundancies and pairs.

    Args:
        columns: the columns of `PairRow`.
        order: the pairs that act, strongest first.
        top_k: rows shown of either sign.
        notes: for the table of all pairs.
    """
    size = np.asarray(columns["interaction"], dtype=np.float64)
    columns = {name: np.asarray(values).tolist() for name, values in columns.items()}
    tables: list[Table] = []
    for name, sign in (("synergies", 1), ("redundancies", -1)):
        chosen = [i for i in order if np.sign(size[i]) == sign]
        shown = chosen[:top_k]
        said = [f"{len(shown)} of {len(chosen)} pairs shown (top_k)"] if len(shown) < len(chosen) else []
        none = [] if chosen else [f"no pair with I {'above' if sign > 0 else 'below'} 0 acts specifically"]
        tables.append(Table.from_columns(name, PairRow, picked(columns, shown), [*said, *none]))
    all_pairs = np.argsort(-np.nan_to_num(np.abs(size), nan=-1.0), kind="stable").tolist()
    tables.append(Table.from_columns("pairs", PairRow, picked(columns, all_pairs), notes))
    return tables


def picked(columns: dict[str, Any], where: Sequence[int]) -> dict[str, Any]:
    """Some rows of columns, in that order."""
    return {name: [values[i] for i in where] for name, values in columns.items()}


def specific(status: Sequence[Status | None], specificity: Floats) -> list[int]:
    """Pairs that may be headlined."""
    return [i for i, name in enumerate(status) if name in {"present", "conditional"} and not specificity[i] > SPECIFIC]
