"""What is computed on the data and on every shuffle: one number for each token, weapon or family, and the largest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ....context.context import Context
from ...design.unit_columns import unit_columns
from ...stats.compact import BLOCK_ROWS, CompactRows
from ...stats.groups import MIN_N
from ...stats.permutation import Exchange, Moments, standardised

if TYPE_CHECKING:
    from scipy import sparse

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Statistic = Literal["max_token_effect", "max_weapon_effect", "top_token_concentration", "family_trend"]
Stratum = Literal["weapon", "none"]
Reader = Callable[[Floats], Floats]
"""Turns sums over the columns, [k, m], into each unit's statistic, [k, m]."""
LARGEST_EFFECT = ("max_token_effect", "max_weapon_effect")
_SEEN = 1e-9


@dataclass(frozen=True)
class Outcomes:
    """Outcomes of the examples of a `Prepared`.

    Attributes:
        values: float64 [r, n], by place.
        moments: of them.
        fixed: [k, r], their sums over the columns where nothing can be exchanged.
    """

    values: Floats
    moments: Moments
    fixed: Floats


@dataclass(frozen=True)
class Prepared:
    """Examples and units of a statistic, without the activations; examples are by place of the exchange.

    Attributes:
        statistic: which statistic.
        labels: names of the k units.
        family: family of each token; empty for weapons.
        columns: [n, k]: 0 and 1, or for ``family_trend`` the family's level.
        exchange: which examples can be exchanged; its strata are what is held fixed: the weapon, or 0 throughout.
        moments: of the columns.
        still: the rows of the columns that cannot be exchanged.
        mean: [g, k], mean of each column in each stratum.
        within: [k], squares of the columns within strata.
    """

    statistic: Statistic
    labels: tuple[str, ...]
    family: tuple[str, ...]
    columns: CompactRows
    exchange: Exchange
    moments: Moments
    still: sparse.csr_matrix
    mean: Floats
    within: Floats

    def outcomes(self, values: NDArray[Any]) -> Outcomes:
        """Outcomes [r, n] of the examples in their own order."""
        placed = np.asarray(values, dtype=np.float64)[:, self.exchange.order]
        fixed = self.still.T @ placed[:, ~self.exchange.movable()].T
        return Outcomes(placed, self.exchange.moments(placed), fixed)

    def reader(self, outcomes: Outcomes) -> Reader:
        """The statistic of r outcomes, from their sums over the columns [k, r].

        With one outcome it reads any number of its shuffles, since what it takes from the outcome is the same for all.

        * ``max_token_effect``, ``max_weapon_effect``: |t|, the sum less its mean over its standard deviation, both
          over all exchanges.
        * ``top_token_concentration``: share of the high examples with the token less share of the others with it.
        * ``family_trend``: |slope| of the outcome on the level, within groups.
        """
        if self.statistic not in LARGEST_EFFECT:
            signed = self.signed(outcomes)
            return signed if self.statistic == "top_token_concentration" else lambda sums: np.abs(signed(sums))
        mean, deviation = self.exchange.null_moments(self.moments, outcomes.moments, outcomes.fixed)
        return lambda sums: np.abs(standardised(sums, *np.broadcast_arrays(mean, deviation, sums)[:2]))

    def signed(self, outcomes: Outcomes) -> Reader:
        """Signed effect of each unit, from the sums as `reader`.

        A difference of means within groups (with less without), a slope per AP, or a difference of shares.
        """
        total = outcomes.moments.total
        if self.statistic == "top_token_concentration":
            n_high, count = total.sum(axis=0), self.moments.total.sum(axis=0)[:, None]
            n_other = len(self.columns) - n_high
            return lambda sums: _ratio(sums, n_high) - _ratio(count - sums, n_other)
        centre = self.mean.T @ _by_stratum(self.exchange, total)
        return lambda sums: _ratio(sums - centre, np.where(self.within > _SEEN, self.within, 0.0)[:, None])

    def sums(self, outcomes: Outcomes) -> Floats:
        """Sums of the outcomes over the columns, [k, r]."""
        return self.columns.sums(outcomes.values)

    def comparable(self, outcomes: Outcomes) -> Floats:
        """What a feature and random directions are compared by, [r].

        For the largest effect it is the largest effect x t, over the units: with many examples a large t alone is
        common, and so is a large effect of a rare token; a rule's token has both. Else the statistic itself.
        """
        sums = self.sums(outcomes)
        each = self.reader(outcomes)(sums)
        if self.statistic in LARGEST_EFFECT:
            each = each * np.abs(self.signed(outcomes)(sums))
        return largest(each)[0]


def prepare(
    ctx: Context, rows: Ints, statistic: Statistic, stratify_by: Stratum, family: str | None = None
) -> Prepared:
    """Units and exchanges of a statistic over some rows of the data; needs no activation.

    Units are the tokens, or weapons, of at least 20 of the rows, or the one family.
    """
    weapon = np.asarray(ctx.data.weapon)[rows]
    stratum = weapon if stratify_by == "weapon" else np.zeros(len(rows), dtype=np.int32)
    exchange = Exchange.of(stratum, ctx.data.clusters[rows])
    labels, families, columns = _columns(ctx, rows[exchange.order], statistic, family)
    moments = exchange.column_moments(columns)
    total = _by_stratum(exchange, moments.total)
    examples = _by_stratum(exchange, (exchange.size * exchange.count)[:, None].astype(np.float64))
    mean = total / np.maximum(examples, 1)
    within = moments.squares.sum(axis=0) - (mean * total).sum(axis=0)
    still = columns.some(np.flatnonzero(~exchange.movable()))
    return Prepared(statistic, labels, families, columns, exchange, moments, still, mean, within)


def _columns(
    ctx: Context, rows: Ints, statistic: Statistic, family: str | None
) -> tuple[tuple[str, ...], tuple[str, ...], CompactRows]:
    """Labels, families and matrix of the units."""
    parts = [rows[at : at + BLOCK_ROWS] for at in range(0, len(rows), BLOCK_ROWS)]
    if statistic == "family_trend" and family is not None:
        levels = ctx.data.levels[:, ctx.vocabulary.family_index[family]]
        return (family,), (family,), CompactRows.stacked(_dense(levels[part][:, None]) for part in parts)
    if statistic == "max_weapon_effect":
        weapon, every = np.asarray(ctx.data.weapon), np.arange(len(ctx.weapons))
        held = CompactRows.stacked(_dense(weapon[part][:, None] == every) for part in parts)
        usable = np.flatnonzero(held.counts() >= MIN_N)
        return tuple(ctx.weapons.facts[i].name for i in usable.tolist()), (), held.take(usable)
    names = unit_columns(ctx, rows[:0], "tokens")
    held = CompactRows.stacked(unit_columns(ctx, part, "tokens").matrix for part in parts)
    usable = np.flatnonzero(held.counts() >= MIN_N)
    names = names.take(usable)
    return names.labels, names.family, held.take(usable)


def _dense(values: NDArray[Any]) -> sparse.csr_matrix:
    """A small matrix as CSR."""
    from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

    return sparse.csr_matrix(values, dtype=np.float64)


def largest(each: Floats) -> tuple[Floats, Ints]:
    """Largest of [k, m] over the units, and which unit has it; NaN where no unit has a value."""
    if not len(each):
        return np.full(each.shape[1], np.nan), np.zeros(each.shape[1], dtype=np.int64)
    known = np.where(np.isnan(each), -np.inf, each)
    unit = known.argmax(axis=0)
    top = known[unit, np.arange(known.shape[1])]
    return np.where(np.isneginf(top), np.nan, top), unit


def _by_stratum(exchange: Exchange, by_block: Floats) -> Floats:
    """Sums [g, k] over the strata of what is given by block, [b, k]."""
    total = np.zeros((int(exchange.stratum.max()) + 1, by_block.shape[1]))
    np.add.at(total, exchange.stratum, by_block)
    return total


def _ratio(top: Floats, bottom: Floats) -> Floats:
    shape = np.broadcast_shapes(np.shape(top), np.shape(bottom))
    return np.divide(top, bottom, out=np.full(shape, np.nan), where=np.broadcast_to(bottom > 0, shape))
