"""The table and the numbers of a heatmap, the same for both methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ....schemas.facts import MAX_AP
from ....schemas.result import Row, Status, Table
from ...design.observed import without_p
from ...stats.groups import MIN_CLUSTERS, MIN_N
from .effects import Effects, Read
from .grid import Grid

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
PLATEAU = 0.95


class HeatmapCell(Row):
    """Both families at one pair of levels; 0 is absent."""

    x: int = Field(description="AP asked for of family_x; 0 is absent.")
    y: int = Field(description="AP asked for of family_y; 0 is absent.")
    resolved_x: int = Field(description="The vocabulary's rung that was used for x.")
    resolved_y: int = Field(description="The vocabulary's rung that was used for y.")
    mean_activation: float | None = Field(description="Mean activation over n.")
    std_error: float | None = Field(description="Its standard error: finite population, or robust to clusters.")
    n: int = Field(description="Contexts, or examples that hold exactly these levels.")
    n_active: int = Field(description="Of them active.")
    active_rate: float | None = Field(description="n_active / n.")
    mean_when_active: float | None = Field(description="Mean activation over the active.")
    sparse: bool = Field(description="Fewer than 20: not to be read as suppression.")
    n_data: int | None = Field(
        description="Examples of the slice at exactly these levels: 0 where nobody plays the cell."
    )
    delta: float | None = Field(description="f(x,y) - f(0,0): paired, or with the weapon held fixed; 0 at (0,0).")
    delta_std_error: float | None = Field(description="Its standard error.")
    delta_ci_low: float | None = Field(description="Lower end of its 95 % interval.")
    delta_ci_high: float | None = Field(description="Upper end of it.")
    delta_low: float | None = Field(description="Lower end of its 95 % interval that holds for all cells at once.")
    delta_high: float | None = Field(description="Upper end of that interval.")
    delta_p_value: float | None = Field(description="Two-sided p that delta is 0.")
    delta_q_value: float | None = Field(description="Benjamini-Hochberg q over the table's deltas.")
    delta_status: Status | None = Field(description="present, conditional, negligible or unclear; null when unknown.")
    delta_pre: float | None = Field(description="The same difference in pre-activation, which has no floor.")
    delta_specificity_p: float | None = Field(description="Share of random directions as large, doubled.")
    delta_responder_rate: float | None = Field(description="Share of contexts whose |delta| exceeds min_effect.")
    delta_responder_low: float | None = Field(description="Lower end of its Clopper-Pearson interval.")
    delta_responder_high: float | None = Field(description="Upper end of it.")
    delta_responders: float | None = Field(description="Mean delta on those contexts.")
    interaction: float | None = Field(description="f(x,y) - f(x,0) - f(0,y) + f(0,0), where both are above 0.")
    interaction_std_error: float | None = Field(description="Its standard error.")
    interaction_ci_low: float | None = Field(description="Lower end of its 95 % interval.")
    interaction_ci_high: float | None = Field(description="Upper end of it.")
    interaction_low: float | None = Field(description="Lower end of its 95 % interval that holds for all at once.")
    interaction_high: float | None = Field(description="Upper end of that interval.")
    interaction_p_value: float | None = Field(description="Two-sided p that it is 0.")
    interaction_q_value: float | None = Field(description="Benjamini-Hochberg q over the table's interactions.")
    interaction_status: Status | None = Field(description="Verdict on the interaction; null when unknown.")
    interaction_pre: float | None = Field(description="The same contrast in pre-activation.")
    interaction_specificity_p: float | None = Field(description="Share of random directions as large, doubled.")
    interaction_responder_rate: float | None = Field(description="Share of contexts whose |contrast| > min_effect.")
    interaction_responder_low: float | None = Field(description="Lower end of its Clopper-Pearson interval.")
    interaction_responder_high: float | None = Field(description="Upper end of it.")
    interaction_responders: float | None = Field(description="Mean contrast on those contexts.")
    n_to_settle: int | None = Field(description="Contexts that would settle an unclear interaction (else delta).")
    reason: str | None = Field(description="Why a number is null, or 0 by definition.")


@dataclass(frozen=True)
class Heat:
    """A heatmap, however it was made.

    Attributes:
        grid: the cells there are numbers for, [k].
        whole: the grid asked for: `grid`, and cells that constraints forbid.
        mean, std_error: of each cell's activation, [k].
        n, n_active: [k].
        mean_when_active: [k].
        n_data: examples at each cell of ``whole``; NaN where none are read.
        n_clusters: [k]; None for contexts, which are independent.
        effects: of the cells 1.., [k - 1].
        interactions: of the grid's pairs.
        read: the pattern.
        confirmed: whether the peak holds on the half that did not choose it.
        min_effect: smallest effect of interest.
    """

    grid: Grid
    whole: Grid
    mean: Floats
    std_error: Floats
    n: Ints
    n_active: Ints
    mean_when_active: Floats
    n_data: Ints | Floats
    n_clusters: Ints | None
    effects: Effects
    interactions: Effects
    read: Read
    confirmed: bool | None
    min_effect: float

    def alone(self, which: int) -> int | None:
        """The leading effect of one family without the other: position among the effects."""
        return self.effects.leading([i - 1 for i in self.grid.axis(which)])

    def pair_cell(self, pair: int) -> int:
        """The cell of an interaction."""
        return int(self.grid.pairs.both[pair])

    @property
    def acts(self) -> bool:
        """Whether anything may be headlined."""
        return bool(self.effects.acting() or self.interactions.acting())

    @property
    def peak(self) -> int | None:
        """The highest cell of at least 20."""
        height = np.where((self.n >= MIN_N) & ~np.isnan(self.mean), self.mean, -np.inf)
        return int(np.argmax(height)) if np.isfinite(height).any() else None

    @property
    def plateau(self) -> int | None:
        """The cell of fewest AP and at least 20 that has 95 % of the rise from (0, 0) to the peak."""
        peak = self.peak
        if peak is None or np.isnan(self.mean[0]):
            return None
        level = self.mean[0] + PLATEAU * (self.mean[peak] - self.mean[0])
        return int(np.flatnonzero((self.n >= MIN_N) & (np.nan_to_num(self.mean, nan=-np.inf) >= level))[0])


def heatmap_table(heat: Heat) -> Table:
    """The heatmap in long form, one row a cell asked for, x before y."""
    rows = [_row(heat, *row) for row in heat.whole.rows()]
    notes = ["delta is 0 at (0, 0) by definition; interactions are defined where both levels are above 0"]
    beyond = sum(x + y > MAX_AP for x, y in heat.grid.cells)
    if beyond and heat.n_clusters is None:
        notes.append(f"{beyond} cells add up to more than the {MAX_AP} AP of a build: no gear gives them")
    for found, noun in ((heat.effects, "cell"), (heat.interactions, "interaction")):
        notes += without_p(found.q_value, noun)
    return Table.from_rows("heatmap", HeatmapCell, rows, notes)


def _row(heat: Heat, x: int, y: int, resolved_x: int, resolved_y: int) -> dict[str, Any]:
    cell = heat.grid.index.get((resolved_x, resolved_y))
    values: dict[str, Any] = dict.fromkeys(HeatmapCell.model_fields)
    values |= {"x": x, "y": y, "resolved_x": resolved_x, "resolved_y": resolved_y, "n": 0, "n_active": 0}
    values |= {"sparse": True, "n_data": heat.n_data[heat.whole.index[resolved_x, resolved_y]]}
    if cell is None:
        return values | {"reason": "the constraints leave too few contexts for this cell"}
    n, n_active = int(heat.n[cell]), int(heat.n_active[cell])
    values |= {
        "mean_activation": heat.mean[cell],
        "std_error": heat.std_error[cell],
        "n": n,
        "n_active": n_active,
        "active_rate": n_active / n if n else None,
        "mean_when_active": heat.mean_when_active[cell],
        "sparse": n < MIN_N,
        "reason": _reason(heat, cell),
    }
    values |= {"delta": 0.0 if n else None} if cell == 0 else _effect_columns(heat.effects, cell - 1, "delta")
    pair = np.flatnonzero(heat.grid.pairs.both == cell)
    if len(pair):
        crossed = _effect_columns(heat.interactions, int(pair[0]), "interaction")
        crossed["n_to_settle"] = crossed["n_to_settle"] or values["n_to_settle"]
        values |= crossed
    return values


def _effect_columns(effects: Effects, index: int, name: str) -> dict[str, Any]:
    return {
        name: effects.mean[index],
        f"{name}_std_error": effects.std_error[index],
        f"{name}_ci_low": effects.ci_low[index],
        f"{name}_ci_high": effects.ci_high[index],
        f"{name}_low": effects.low[index],
        f"{name}_high": effects.high[index],
        f"{name}_p_value": effects.p_value[index],
        f"{name}_q_value": effects.q_value[index],
        f"{name}_status": effects.status[index],
        f"{name}_pre": effects.pre[index],
        f"{name}_specificity_p": effects.specificity[index],
        f"{name}_responder_rate": effects.responder_rate[index],
        f"{name}_responder_low": effects.responder_low[index],
        f"{name}_responder_high": effects.responder_high[index],
        f"{name}_responders": effects.mean_responders[index],
        "n_to_settle": effects.n_to_settle[index],
    }


def _reason(heat: Heat, cell: int) -> str | None:
    """Why a cell has no numbers, or the base a delta of 0."""
    clusters = heat.n_clusters
    pair = np.flatnonzero(heat.grid.pairs.both == cell)
    few = f"fewer than {MIN_CLUSTERS} builds"
    reasons: list[tuple[str, bool]] = [
        ("no example holds both at these levels", bool(heat.n[cell] == 0)),
        ("the base of every effect: its delta is 0 by definition", cell == 0),
        (f"{few}: no standard error", clusters is not None and bool(clusters[cell] < MIN_CLUSTERS)),
        (
            f"cell (0, 0), which it is compared with, has {few}",
            clusters is not None and bool(clusters[0] < MIN_CLUSTERS),
        ),
        ("no weapon has this cell and another one", bool(np.isnan(heat.effects.mean[cell - 1]))),
        (
            f"interaction: a cell of one family alone is empty or has {few}",
            len(pair) > 0 and bool(np.isnan(heat.interactions.mean[pair[0]])),
        ),
        (f"fewer than {MIN_N} examples: no verdict", clusters is not None and bool(heat.n[cell] < MIN_N)),
    ]
    return next((reason for reason, holds in reasons if holds), None)


def heat_numbers(heat: Heat) -> dict[str, Any]:
    """The type's own aggregates."""
    n_cells = len(heat.whole.cells)
    empty = n_cells - int((heat.n > 0).sum())
    return {
        **_peak_numbers(heat),
        **_interaction_numbers(heat),
        **_alone_numbers(heat),
        **_pattern_numbers(heat),
        "n_cells": n_cells,
        "n_empty_cells": empty,
        "n_sparse_cells": int(((heat.n > 0) & (heat.n < MIN_N)).sum()),
        **_verdict(heat),
    }


def _pattern_numbers(heat: Heat) -> dict[str, Any]:
    """The pattern, the cells f00, f10, f01, f11 it was read off, and where."""
    name, cell, reason = heat.read.name, heat.read.cell, heat.read.reason
    if not heat.acts:
        unknown = _pattern_unknown(heat)
        name, reason = (None, unknown) if unknown else ("none", None)
    elif name == "none":
        name, reason = None, "nothing moves at the levels at which both have data"
    return {
        "pattern": name,
        "pattern_x": None if cell is None else heat.grid.cells[cell][0],
        "pattern_y": None if cell is None else heat.grid.cells[cell][1],
        "pattern_cells": None if cell is None else heat.read.cells.tolist(),
        "pattern_reason": reason,
    }


def _pattern_unknown(heat: Heat) -> str | None:
    """Why not even 'none' can be said where nothing acts; None where it can."""
    if not any(heat.interactions.status):
        return heat.read.reason or "no interaction has a verdict"
    if heat.n_clusters is None and heat.n[0] < MIN_N:
        return f"fewer than {MIN_N} contexts: no verdict"
    return None


def _peak_numbers(heat: Heat) -> dict[str, Any]:
    peak, plateau = heat.peak, heat.plateau
    if peak is None or plateau is None:
        names = ("peak_x", "peak_y", "peak_activation", "peak_confirmed", "plateau_x", "plateau_y")
        return dict.fromkeys(names) | {"peak_reason": f"no cell has {MIN_N}, or (0, 0) is empty"}
    reason = None
    if not heat.acts:
        reason = "nothing acts: the peak is noise"
    elif heat.confirmed is None:
        reason = "the peak is the base, or too few are left to confirm it with"
    return {
        "peak_x": heat.grid.cells[peak][0],
        "peak_y": heat.grid.cells[peak][1],
        "peak_activation": heat.mean[peak],
        "peak_n_data": heat.n_data[peak],
        "peak_confirmed": heat.confirmed if heat.acts else None,
        "peak_confirmed_reason": reason,
        "plateau_x": heat.grid.cells[plateau][0],
        "plateau_y": heat.grid.cells[plateau][1],
    }


def _interaction_numbers(heat: Heat) -> dict[str, Any]:
    found, acting = heat.interactions, heat.interactions.acting()
    at = found.leading() if acting else found.largest()
    if at is None:
        names = ("", "_x", "_y", "_low", "_high", "_status", "_pre")
        reason = heat.read.reason
        return {f"max_interaction{name}": None for name in names} | {"max_interaction_reason": reason}
    x, y = heat.grid.cells[heat.pair_cell(at)]
    return {
        "max_interaction": found.mean[at],
        "max_interaction_x": x,
        "max_interaction_y": y,
        "max_interaction_low": found.low[at],
        "max_interaction_high": found.high[at],
        "max_interaction_status": found.status[at],
        "max_interaction_pre": found.pre[at],
        "max_interaction_responder_rate": found.responder_rate[at],
        "max_interaction_responders": found.mean_responders[at],
    }


def _alone_numbers(heat: Heat) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for which, axis in enumerate("xy"):
        at = heat.alone(which)
        numbers[f"{axis}_alone"] = None if at is None else heat.effects.mean[at]
        numbers[f"{axis}_alone_rung"] = None if at is None else heat.grid.cells[at + 1][which]
        numbers[f"{axis}_alone_status"] = None if at is None else heat.effects.status[at]
    return numbers


def _verdict(heat: Heat) -> dict[str, Any]:
    """The verdict and the p that it rests on: the smaller of those of effects and interactions, both doubled."""
    tops = [(found, found.leading()) for found in (heat.effects, heat.interactions)]
    p = [np.nan if at is None else float(found.specificity[at]) for found, at in tops]
    statuses = {found.status[i] for found, _ in tops for i in found.acting()}
    verdict = "present" if "present" in statuses else "conditional" if statuses else "nothing_specific"
    return {
        "verdict": verdict,
        "specificity_p": None if np.isnan(p).all() else float(np.nanmin(p)),
        "effect_specificity_p": p[0],
        "interaction_specificity_p": p[1],
    }
