"""High examples against the rest: the contrast of every type that asks what goes with strong activation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ...context.population import Population
from ...schemas.job import Job

ENOUGH_HIGH = 50
HighPercentile = Annotated[
    float,
    Field(
        gt=0.5,
        lt=100,
        description="High examples reach this percentile (0-100) of the active ones; 0.995 is read as 99.5.",
    ),
]


@dataclass(frozen=True)
class HighSplit:
    """High examples and their baseline, which is everything else.

    Attributes:
        high: bool [n], over the population.
        threshold: lowest activation of a high example; NaN without any.
        percentile: percentile of the active examples that was used.
    """

    high: NDArray[np.bool_]
    threshold: float
    percentile: float

    @property
    def n_high(self) -> int:
        """High examples."""
        return int(self.high.sum())

    @property
    def n_baseline(self) -> int:
        """The others."""
        return len(self.high) - self.n_high

    def describe(self) -> str:
        """The contrast in words, for headlines."""
        return f"{self.n_high:,} high examples (activation from {self.threshold:.2f} on)"

    def numbers(self) -> dict[str, Any]:
        """What every such type reports of it in ``custom``."""
        return {
            "n_high": self.n_high,
            "n_baseline": self.n_baseline,
            "high_threshold": self.threshold,
            "high_percentile": self.percentile,
        }


def read_percentile(value: float, job: Job) -> float:
    """Read a percentile that older specs give as a fraction: a value in (0.5, 1) is 100 times it, and a warning."""
    if value < 1.0:
        job.warn(f"high_percentile {value:g} was read as a fraction: the {100.0 * value:g}th percentile of the active")
        return 100.0 * value
    return value


def split_high(population: Population, percentile: float, job: Job) -> HighSplit:
    """Split a population into high examples and the rest.

    High are active examples from the percentile of the active on, ties included; fewer than 50 are widened to the top
    50, or to all active.

    Args:
        population: where none is active, none is high.
        percentile: 0-100.
        job: receives the warning when the split was widened.
    """
    activation = population.activation
    active = activation[activation > 0]
    if not len(active):
        return HighSplit(np.zeros(len(activation), dtype=np.bool_), float("nan"), percentile)
    threshold = float(np.quantile(active, percentile / 100.0))
    high = (activation >= threshold) & (activation > 0)
    if high.sum() < min(ENOUGH_HIGH, len(active)):
        threshold = float(np.sort(active)[-min(ENOUGH_HIGH, len(active))])
        before, high = int(high.sum()), activation >= threshold
        which = f"top {int(high.sum())}" if len(active) > ENOUGH_HIGH else f"{len(active)} active ones"
        job.warn(f"only {before} examples reach percentile {percentile:g} of the active: widened to the {which}")
    return HighSplit(high, threshold, percentile)
