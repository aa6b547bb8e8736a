"""The shape of a feature: its histogram, what builds hold in each band of activation, and examples of each."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ....context.context import Context
from ....context.population import Population
from ....schemas.result import Row, Table
from ...design.constraints import describe_set
from ...stats.held import summed
from .units import UnitDesign

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
N_BINS = 20
TOP_OF_BAND = 3
EXAMPLES_STREAM = 29
FIRST_TRIED = 16
BANDS = ((0.0, 25.0), (25.0, 75.0), (75.0, 90.0), (90.0, None))
EXAMPLE_BANDS = ((90.0, None), (75.0, 90.0), (50.0, 75.0), (25.0, 50.0), (0.0, 25.0))
Band = tuple[float, float | None]


class HistogramBin(Row):
    """Examples by activation; the first row holds those at 0."""

    low: float = Field(description="Lower edge, in activation; itself not in the bin.")
    high: float = Field(description="Upper edge, itself in the bin.")
    count: int = Field(description="Examples.")
    share: float = Field(description="Their share (0-1) of all examples.")


class BandRow(Row):
    """Active examples of one band of activation, and what they hold more often than the population."""

    band: str = Field(description="The band, in % of the effective max.")
    n: int = Field(description="Active examples in it.")
    share_of_active: float = Field(description="Their share (0-1) of the active examples.")
    top_units: str | None = Field(description="Families most over-represented: rate here, and in the population.")
    top_weapon: str | None = Field(description="Weapon most over-represented: share here, and in the population.")
    reason: str | None = Field(description="Why a cell is null.")


class ExampleBuild(Row):
    """One example of a band, drawn at random among different builds."""

    band: str = Field(description="The band, in % of the effective max.")
    activation: float = Field(description="Activation of the feature.")
    build: str = Field(description="What the example holds, as levels; it is part of a build.")
    weapon: str = Field(description="Its weapon.")
    row: int = Field(description="Row of the bundle's data.")


def _name(band: Band) -> str:
    return f"above {band[0]:g}" if band[1] is None else f"{band[0]:g}-{band[1]:g}"


def _inside(activation: Floats, band: Band, top: float) -> NDArray[np.bool_]:
    low, high = band[0] / 100.0 * top, np.inf if band[1] is None else band[1] / 100.0 * top
    return (activation > low) & (activation <= high)


def histogram(population: Population) -> Table:
    """The table ``activation_histogram``: examples at 0, then 20 equal bins up to the highest activation."""
    active = population.activation[population.activation > 0]
    edges = np.linspace(0.0, float(active.max()), N_BINS + 1)
    where = np.clip(np.searchsorted(edges, active, side="left"), 1, N_BINS)
    counts = np.r_[len(population) - len(active), np.bincount(where - 1, minlength=N_BINS)]
    columns: dict[str, Any] = {
        "low": np.r_[0.0, edges[:-1]],
        "high": np.r_[0.0, edges[1:]],
        "count": counts,
        "share": counts / len(population),
    }
    return Table.from_columns("activation_histogram", HistogramBin, columns)


def core_and_tail(ctx: Context, population: Population, units: UnitDesign, top: float) -> Table:
    """The table ``core_and_tail``: four bands of activation, with what their examples hold.

    Args:
        ctx: the context.
        population: with an active example.
        units: the units of its examples.
        top: effective max of the feature.
    """
    rows_active = np.flatnonzero(population.activation > 0)
    active = population.activation[rows_active]
    masks = np.stack([_inside(active, band, top) for band in BANDS])
    size = masks.sum(axis=1)
    held = summed(units.families.held, rows_active, masks.T.astype(np.float64)).T
    usual = units.by_family.n_present / len(population)
    weapon = np.asarray(ctx.data.weapon)[population.rows[rows_active]]
    base = _examples_by_weapon(ctx, population) / len(population)
    rows: list[BandRow] = []
    for index, band in enumerate(BANDS):
        n = int(size[index])
        weapons = np.bincount(weapon[masks[index]], minlength=len(ctx.weapons))
        rows.append(
            BandRow(
                band=_name(band),
                n=n,
                share_of_active=n / len(active),
                top_units=_more_often(held[index] / n, usual, units.labels) if n else None,
                top_weapon=_more_often(weapons / n, base, [k.name for k in ctx.weapons.facts], 1) if n else None,
                reason=None if n else "no example in the band",
            )
        )
    return Table.of("core_and_tail", BandRow, rows, ["rates over all weapons: no effect, a description"])


def _examples_by_weapon(ctx: Context, population: Population) -> Ints:
    def count() -> Ints:
        return np.bincount(np.asarray(ctx.data.weapon)[population.rows], minlength=len(ctx.weapons))

    return ctx.derived_for(population, "examples by weapon", count)


def _more_often(rate: Floats, usual: Floats, names: Any, most: int = TOP_OF_BAND) -> str | None:  # noqa: ANN401
    """The things with the largest gain in rate, in words; None where nothing is more frequent."""
    order = [i for i in np.argsort(-(rate - usual), kind="stable")[:most].tolist() if rate[i] > usual[i]]
    return ", ".join(f"{names[i]} {rate[i]:.0%} (usually {usual[i]:.0%})" for i in order) or None


def example_builds(ctx: Context, population: Population, top: float, n_examples: int, seed: int) -> Table:
    """The table ``examples``: a few examples of each band, each from another build, the highest band first."""
    rng = np.random.default_rng([seed, EXAMPLES_STREAM])
    active = np.flatnonzero(population.activation > 0)
    rows: list[ExampleBuild] = []
    for band in EXAMPLE_BANDS:
        candidates = rng.permutation(active[_inside(population.activation[active], band, top)])
        chosen = candidates[_first_distinct(ctx.data.clusters, population.rows[candidates], n_examples)]
        chosen = chosen[np.argsort(-population.activation[chosen], kind="stable")]
        sets = ctx.sets(population.rows[chosen])
        for i, position in enumerate(chosen.tolist()):
            weapon = ctx.weapons.facts[int(sets.weapon[i])].name
            build = describe_set(sets.take(np.array([i])), ctx).removesuffix(f" on {weapon}")
            row = int(population.rows[position])
            activation = float(population.activation[position])
            rows.append(ExampleBuild(band=_name(band), activation=activation, build=build, weapon=weapon, row=row))
    return Table.of("examples", ExampleBuild, rows, ["drawn at random within each band: the top alone misleads"])


def _first_distinct(clusters: Ints, rows: Ints, most: int) -> Ints:
    """The first positions among some rows that are of different clusters, ascending, at most so many."""
    tried = FIRST_TRIED * most
    while True:
        first = np.sort(np.unique(clusters[rows[:tried]], return_index=True)[1])
        if len(first) >= most or tried >= len(rows):
            return first[:most]
        tried *= 2


def shape_numbers(population: Population, top: float | None) -> dict[str, Any]:
    """How often and how strongly the feature is active, for ``custom``."""
    active = population.activation[population.activation > 0].astype(np.float64)
    rate = len(active) / len(population)
    centred = active - active.mean()
    squares = centred**2
    spread = float(np.sqrt(np.mean(squares)))
    skewed = len(active) > 2 and spread > 0
    return {
        "active_rate": rate,
        "sparsity": 1.0 - rate,
        "effective_max": top,
        "max_activation": float(active.max()),
        "mean_when_active": float(active.mean()),
        "skew": float(np.mean(squares * centred)) / spread**3 if skewed else None,
        "skew_reason": None if skewed else "fewer than three active examples, or all alike",
    }
