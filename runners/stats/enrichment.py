"""How much more often something is found among some examples than among others: odds, ratios, exact tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.floating[Any]]
Counts = NDArray[np.integer[Any]] | NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Ratio:
    """A ratio (of odds or of rates) with its interval; arrays of one shape, NaN where unknown."""

    value: Floats
    low: Floats
    high: Floats


def _interval(log: Floats, error: Floats, level: float) -> Ratio:
    half = special.ndtri(0.5 + level / 2) * error
    with np.errstate(over="ignore"):
        return Ratio(np.exp(log), np.exp(log - half), np.exp(log + half))


def odds_ratio(a: Counts, b: Counts, c: Counts, d: Counts, level: float = 0.95) -> Ratio:
    """Odds ratio a d / (b c) with Woolf's interval; 0.5 is added to every cell of a table with a zero (Haldane 1956).

    Args:
        a: first group, with it.
        b: first group, without.
        c: second group, with it.
        d: second group, without.
        level: level of the interval.
    """
    cells = [np.asarray(cell, dtype=np.float64) for cell in (a, b, c, d)]
    zero = np.any([cell == 0 for cell in cells], axis=0)
    a, b, c, d = (cell + 0.5 * zero for cell in cells)
    return _interval(np.log(a * d) - np.log(b * c), np.sqrt(1.0 / a + 1.0 / b + 1.0 / c + 1.0 / d), level)


def fisher_greater(a: Counts, b: Counts, c: Counts, d: Counts) -> Floats:
    """One-sided p of Fisher's exact test that the first group has more; arrays [k] of counts as in `odds_ratio`.

    A table with less than its share is far from the end of its tail, whose first terms are too small to represent:
    there the tail below it is summed, and taken from 1.
    """
    a, b, c, d = (np.asarray(cell, dtype=np.int64) for cell in (a, b, c, d))
    total = a + b + c + d
    log_factorial = special.gammaln(np.arange(int(total.max(initial=0)) + 2, dtype=np.float64) + 1.0)
    fixed = log_factorial[a + b] + log_factorial[c + d] + log_factorial[a + c] + log_factorial[b + d]
    fixed = fixed - log_factorial[total]
    below = a * total < (a + b) * (a + c)
    step = np.where(below, -1, 1)
    cells = np.stack([a - below, b + below, c + below, d - below])
    moves = np.stack([step, -step, -step, step])
    tail = np.zeros(len(a))
    # Terms fall from the first one on: all tables are summed at once, each until its terms no longer count.
    left = np.flatnonzero(cells.min(axis=0) >= 0)
    while len(left):
        term = np.exp(fixed[left] - log_factorial[cells[:, left]].sum(axis=0))
        tail[left] += term
        cells[:, left] += moves[:, left]
        left = left[(cells[:, left].min(axis=0) >= 0) & (term > tail[left] * 1e-17)]
    return np.clip(np.where(below, 1.0 - tail, tail), 0.0, 1.0)


@dataclass(frozen=True)
class Stratified:
    """Counts of one thing in two groups, by stratum; arrays [s, ...].

    Attributes:
        a, b: first group: with, without.
        c, d: second group: with, without.
    """

    a: Floats
    b: Floats
    c: Floats
    d: Floats

    @classmethod
    def of(cls, first: Floats, n_first: Floats, second: Floats, n_second: Floats) -> Stratified:
        """From counts [s, k] and the sizes of the two groups [s]."""
        return cls(first, n_first[:, None] - first, second, n_second[:, None] - second)

    def odds_ratio(self, level: float = 0.95) -> Ratio:
        """Odds ratio (Mantel and Haenszel 1959), interval by Robins, Breslow and Greenland (1986)."""
        a, b, c, d = self.a, self.b, self.c, self.d
        total = np.maximum(a + b + c + d, 1.0)
        r, s, p, q = a * d / total, b * c / total, (a + d) / total, (b + c) / total
        r_sum, s_sum = r.sum(axis=0), s.sum(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            variance = (p * r).sum(axis=0) / (2 * r_sum**2)
            variance = variance + (p * s + q * r).sum(axis=0) / (2 * r_sum * s_sum)
            variance = variance + (q * s).sum(axis=0) / (2 * s_sum**2)
            return _interval(np.log(r_sum) - np.log(s_sum), np.sqrt(variance), level)
