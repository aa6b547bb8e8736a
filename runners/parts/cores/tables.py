"""The tables of minimal cores: their rows, and how they are filled from the outcomes of the examples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from pydantic import Field

from ....context.context import Context
from ....schemas.result import Row, Status, Table
from ...design.constraints import describe_set
from ...stats.tails import clopper_pearson
from .lattice import WEAPON
from .outcomes import Core, Cut, Outcome


class CoreRow(Row):
    """A set of units that is a minimal core of some examples."""

    core: str = Field(description="The core in words; 'nothing' when no unit is needed.")
    units: list[str] = Field(description="Its units: families, main-only abilities, tokens, or 'weapon'.")
    rungs: dict[str, int] = Field(description="Lowest AP of each family that still suffices, median over examples.")
    size: int = Field(description="Number of units.")
    n: int = Field(description="Examples of which it is a minimal core.")
    coverage: float = Field(description="Share of the tested examples of which it is a minimal core.")
    coverage_random: float | None = Field(description="The same among the examples drawn at random, or given.")
    ci_low: float | None = Field(description="Lower end of the 95 % interval of coverage_random.")
    ci_high: float | None = Field(description="Upper end of the 95 % interval of coverage_random.")
    mean_retention: float = Field(description="Mean of a(core) / a(example) over those examples.")
    exact: bool = Field(description="Whether every one of them was found on the whole lattice.")
    transplant_delta: float | None = Field(
        description="Mean effect of writing the core into builds drawn at random; null beyond the most frequent cores."
    )
    transplant_low: float | None = Field(description="Lower end of its simultaneous 95 % interval.")
    transplant_high: float | None = Field(description="Upper end of its simultaneous 95 % interval.")
    transplant_rate: float | None = Field(description="Share of those builds whose activation changes by > min_effect.")
    specificity_p: float | None = Field(description="Share of random directions that the transplants move as much.")
    status: Status = Field(description="present: interval above one half; conditional: above one tenth; else unclear.")


class NecessityRow(Row):
    """What taking one unit out of the examples that hold it does."""

    unit: str = Field(description="Family, main-only ability, token, or 'weapon'.")
    n: int = Field(description="Tested examples that hold it.")
    share_lost: float = Field(description="Share of them that fall below the retention threshold without it.")
    ci_low: float = Field(description="Lower end of its 95 % Clopper-Pearson interval.")
    ci_high: float = Field(description="Upper end of its 95 % Clopper-Pearson interval.")
    mean_drop: float = Field(description="Mean of a(example) - a(example without the unit).")


class InhibitorRow(Row):
    """A unit whose removal raises the activation by more than min_effect."""

    unit: str = Field(description="Family, main-only ability, token, or 'weapon'.")
    n: int = Field(description="Tested examples that hold it.")
    share_raised: float = Field(description="Share of them in which its removal raises the activation by > min_effect.")
    ci_low: float = Field(description="Lower end of its 95 % Clopper-Pearson interval.")
    ci_high: float = Field(description="Upper end of its 95 % Clopper-Pearson interval.")
    mean_raise: float = Field(description="Mean rise in those examples.")


class ExampleRow(Row):
    """One tested example."""

    example: int = Field(description="Row of the bundle's data, or position among contexts given.")
    build: str = Field(description="Its units and weapon.")
    activation: float = Field(description="Its activation.")
    drawn: str = Field(description="'top', 'random', or 'given' in the spec.")
    n_units: int = Field(description="Units that could be taken out.")
    n_cores: int = Field(description="Minimal cores found.")
    smallest_core: str | None = Field(description="The smallest of them; null when not even all units suffice.")
    exact: bool = Field(description="Whether the whole lattice was evaluated.")


def core_name(core: Core, cut: Cut) -> str:
    """A core in words."""
    if core == frozenset({WEAPON}) or (not core and not cut.weapon and not cut.clamp):
        return "the weapon alone"
    if not core:
        return "the clamped families alone" if cut.clamp else "nothing"
    return " + ".join(sorted(core, key=lambda name: (name == WEAPON, name)))


def core_row(core: Core, held_by: list[int], outcomes: Sequence[Outcome], *, n_top: int, cut: Cut) -> CoreRow:
    """A core with its coverage; rungs and transplants are added for the most frequent ones."""
    n_random = len(outcomes) - n_top
    among_random = sum(index >= n_top for index in held_by)
    # Without a random half (few examples, all of them tested) the interval is that of all examples.
    count, n = (among_random, n_random) if n_random else (len(held_by), len(outcomes))
    low, high = (float(bound) for bound in clopper_pearson(float(count), n))
    status: Status = "present" if low > 0.5 else ("conditional" if low > 0.1 else "unclear")
    return CoreRow(
        core=core_name(core, cut),
        units=sorted(core),
        rungs={},
        size=len(core),
        n=len(held_by),
        coverage=len(held_by) / len(outcomes),
        coverage_random=count / n,
        ci_low=low,
        ci_high=high,
        mean_retention=float(np.mean([outcomes[i].cores[core] / outcomes[i].natural for i in held_by])),
        exact=all(outcomes[i].exact for i in held_by),
        transplant_delta=None,
        transplant_low=None,
        transplant_high=None,
        transplant_rate=None,
        specificity_p=None,
        status=status,
    )


def necessity(outcomes: Sequence[Outcome], threshold: float) -> Table:
    """What each unit's removal does, over the examples that hold it."""
    drops: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for outcome in outcomes:
        for unit, value in outcome.without.items():
            drops[unit].append((outcome.natural - value, value < threshold * outcome.natural))
    rows: list[NecessityRow] = []
    for unit, seen in drops.items():
        lost = sum(is_lost for _, is_lost in seen)
        low, high = (float(bound) for bound in clopper_pearson(float(lost), len(seen)))
        mean_drop = float(np.mean([drop for drop, _ in seen]))
        share = lost / len(seen)
        rows.append(
            NecessityRow(unit=unit, n=len(seen), share_lost=share, ci_low=low, ci_high=high, mean_drop=mean_drop)
        )
    rows.sort(key=lambda row: (-row.share_lost * row.n, row.unit))
    return Table.of("necessity", NecessityRow, rows)


def inhibitors(outcomes: Sequence[Outcome], min_effect: float) -> Table:
    """Units whose removal raises the activation by more than ``min_effect``."""
    rises: dict[str, list[float]] = defaultdict(list)
    for outcome in outcomes:
        for unit, value in outcome.without.items():
            rises[unit].append(value - outcome.natural)
    rows: list[InhibitorRow] = []
    for unit, seen in rises.items():
        raised = [rise for rise in seen if rise > min_effect]
        if not raised:
            continue
        low, high = (float(bound) for bound in clopper_pearson(float(len(raised)), len(seen)))
        share = len(raised) / len(seen)
        rows.append(
            InhibitorRow(
                unit=unit, n=len(seen), share_raised=share, ci_low=low, ci_high=high, mean_raise=float(np.mean(raised))
            )
        )
    rows.sort(key=lambda row: (-row.share_raised * row.n, row.unit))
    return Table.of("inhibitors", InhibitorRow, rows)


def tested_examples(ctx: Context, outcomes: Sequence[Outcome], n_top: int, cut: Cut, *, given: bool) -> Table:
    """The tested examples, the highest first."""
    rows = [
        ExampleRow(
            example=outcome.case.row,
            build=describe_set(outcome.case.natural, ctx),
            activation=outcome.natural,
            drawn="given" if given else ("top" if index < n_top else "random"),
            n_units=len(outcome.case.names),
            n_cores=len(outcome.cores),
            smallest_core=core_name(min(outcome.cores, key=lambda core: (len(core), sorted(core))), cut)
            if outcome.cores
            else None,
            exact=outcome.exact,
        )
        for index, outcome in enumerate(outcomes)
    ]
    return Table.of("examples", ExampleRow, rows)
