"""What is computed on the data and on every shuffle: one number for each token, weapon or family, and the largest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ....context.context import Context
from ...design.unit_columns import unit_columns
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
class Prepared:
    """Examples and units of a statistic, without the activations; examples are by place of the exchange.

    Attributes:
        statistic: which statistic.
        labels: names of the k units.
        family: family of each token; empty for weapons.
        columns: CSR [n, k]: 0 and 1, or for ``family_trend`` the family's level.
        group: int [n], what is held fixed: the weapon, or 0 throughout.
        cluster: int [n].
        exchange: which examples can be exchanged.
        moments: of the columns.
        mean: [g, k], mean of each column in each group.
        within: [k], squares of the columns within groups.
    """

    statistic: Statistic
    labels: tuple[str, ...]
    family: tuple[str, ...]
    columns: sparse.csr_matrix
    group: Ints
    cluster: Ints
    exchange: Exchange
    moments: Moments
    mean: Floats
    within: Floats

    def outcomes(self, values: Floats) -> sparse.csr_matrix:
        """Outcomes [n, r] of the examples in their own order, as CSR by place: most are 0."""
        from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

        return sparse.csr_matrix(np.asarray(values, dtype=np.float64)[self.exchange.order])

    def reader(self, outcomes: sparse.csr_matrix) -> Reader:
        """The statistic of r outcomes [n, r], from their sums over the columns [k, r].

        With one outcome it reads any number of its shuffles, since what it takes from the outcome is the same for all.

        * ``max_token_effect``, ``max_weapon_effect``: |t|, the sum less its mean over its standard deviation, both
          over all exchanges.
        * ``top_token_concentration``: share of the high examples with the token less share of the others with it.
        * ``family_trend``: |slope| of the outcome on the level, within groups.
        """
        if self.statistic not in LARGEST_EFFECT:
            signed = self.signed(outcomes)
            return signed if self.statistic == "top_token_concentration" else lambda sums: np.abs(signed(sums))
        rows = np.flatnonzero(~self.exchange.movable())
        fixed = np.asarray((self.columns[rows].T @ outcomes[rows]).toarray(), dtype=np.float64)
        mean, deviation = self.exchange.null_moments(self.moments, self.exchange.moments(outcomes), fixed)
        return lambda sums: np.abs(standardised(sums, *np.broadcast_arrays(mean, deviation, sums)[:2]))

    def signed(self, outcomes: sparse.csr_matrix) -> Reader:
        """Signed effect of each unit, from the sums as `reader`.

        A difference of means within groups (with less without), a slope per AP, or a difference of shares.
        """
        if self.statistic == "top_token_concentration":
            n_high, count = np.asarray(outcomes.sum(axis=0), dtype=np.float64).ravel(), self.counts()[:, None]
            n_other = len(self.group) - n_high
            return lambda sums: _ratio(sums, n_high) - _ratio(count - sums, n_other)
        centre = self.mean.T @ _by_group(self.group, len(self.mean), outcomes)
        return lambda sums: _ratio(sums - centre, np.where(self.within > _SEEN, self.within, 0.0)[:, None])

    def sums(self, outcomes: sparse.csr_matrix) -> Floats:
        """Sums of the outcomes [n, r] over the columns, [k, r]."""
        return np.asarray((self.columns.T @ outcomes).toarray(), dtype=np.float64)

    def counts(self) -> Floats:
        """Sum of each column."""
        return np.asarray(self.columns.sum(axis=0), dtype=np.float64).ravel()

    def comparable(self, outcomes: sparse.csr_matrix) -> Floats:
        """What a feature and random directions are compared by, [r] of outcomes [n, r].

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
    weapon = np.asarray(ctx.data.weapon[rows], dtype=np.int64)
    cluster = np.unique(ctx.data.clusters[rows], return_inverse=True)[1]
    group = np.unique(weapon, return_inverse=True)[1] if stratify_by == "weapon" else np.zeros(len(rows), np.int64)
    exchange = Exchange.of(group, cluster)
    order = exchange.order
    labels, families, columns = _columns(ctx, rows[order], statistic, weapon[order], family)
    group, cluster = group[order], cluster[order]
    n_groups = int(group.max()) + 1
    total = _by_group(group, n_groups, columns)
    mean = total / np.maximum(np.bincount(group, minlength=n_groups), 1)[:, None]
    squares = np.asarray(columns.multiply(columns).sum(axis=0), dtype=np.float64).ravel()
    within = squares - (mean * total).sum(axis=0)
    moments = exchange.moments(columns)
    return Prepared(statistic, labels, families, columns, group, cluster, exchange, moments, mean, within)


def _columns(
    ctx: Context, rows: Ints, statistic: Statistic, weapon: Ints, family: str | None
) -> tuple[tuple[str, ...], tuple[str, ...], sparse.csr_matrix]:
    """Labels, families and matrix of the units."""
    from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

    if statistic == "family_trend" and family is not None:
        levels = ctx.data.levels[rows, ctx.vocabulary.family_index[family]]
        return (family,), (family,), sparse.csr_matrix(np.asarray(levels, dtype=np.float64)[:, None])
    if statistic == "max_weapon_effect":
        n = len(rows)
        held = sparse.csr_matrix((np.ones(n), weapon, np.arange(n + 1)), shape=(n, len(ctx.weapons)))
        usable = np.flatnonzero(np.bincount(weapon, minlength=len(ctx.weapons)) >= MIN_N)
        return tuple(ctx.weapons.facts[i].name for i in usable.tolist()), (), held[:, usable].tocsr()
    units = unit_columns(ctx, rows, "tokens")
    units = units.take(np.flatnonzero(units.counts() >= MIN_N))
    return units.labels, units.family, units.matrix


def largest(each: Floats) -> tuple[Floats, Ints]:
    """Largest of [k, m] over the units, and which unit has it; NaN where no unit has a value."""
    if not len(each):
        return np.full(each.shape[1], np.nan), np.zeros(each.shape[1], dtype=np.int64)
    known = np.where(np.isnan(each), -np.inf, each)
    unit = known.argmax(axis=0)
    top = known[unit, np.arange(known.shape[1])]
    return np.where(np.isneginf(top), np.nan, top), unit


def _by_group(group: Ints, n_groups: int, matrix: sparse.csr_matrix) -> Floats:
    """Sums of a sparse matrix [n, k] by group, [g, k]."""
    from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

    n = len(group)
    dummies = sparse.csr_matrix((np.ones(n), (group, np.arange(n))), shape=(n_groups, n))
    return np.asarray((dummies @ matrix).toarray(), dtype=np.float64)


def _ratio(top: Floats, bottom: Floats) -> Floats:
    shape = np.broadcast_shapes(np.shape(top), np.shape(bottom))
    return np.divide(top, bottom, out=np.full(shape, np.nan), where=np.broadcast_to(bottom > 0, shape))
