"""Rows of the minimal-cores tables."""

from __future__ import annotations

from pydantic import Field

from ...schemas.result import Row, Status


class CoreRow(Row):
    """A set of units that is a minimal core of some examples."""

    core: str = Field(description="The core in words; 'nothing' when no unit is needed.")
    units: list[str] = Field(description="Its units: families, main-only abilities, tokens, or 'weapon'.")
    rungs: dict[str, int] = Field(description="Lowest AP of each family that still suffices, median over examples.")
    size: int = Field(description="Number of units.")
    n: int = Field(description="Examples of which it is a minimal core.")
    coverage: float = Field(description="Share of the tested examples of which it is a minimal core.")
    coverage_random: float | None = Field(description="The same among the examples drawn at random.")
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

    example: int = Field(description="Row of the bundle's data.")
    build: str = Field(description="Its units and weapon.")
    activation: float = Field(description="Its activation.")
    drawn: str = Field(description="'top' or 'random'.")
    n_units: int = Field(description="Units that could be taken out.")
    n_cores: int = Field(description="Minimal cores found.")
    smallest_core: str | None = Field(description="The smallest of them; null when not even all units suffice.")
    exact: bool = Field(description="Whether the whole lattice was evaluated.")
