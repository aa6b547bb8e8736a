"""Does the weapon that stands out on half of the builds stand out on the other half?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...stats.cells import Cells, CellSums, Part
from ...stats.groups import deltas_of, means_of
from ...stats.moments import Moments
from ...stats.tails import t_quantile

Bools = NDArray[np.bool_]
FEWEST_BUILDS = 40
CONFIRM_STREAM = 5


def halve(cells: Cells, rng: np.random.Generator) -> tuple[Part, Part]:
    """Split the builds, whole, at random, those of each weapon evenly."""
    order = rng.permutation(cells.n_clusters)
    order = order[np.argsort(cells.group[cells.starts[order]], kind="stable")]
    first = np.zeros(cells.n_clusters, dtype=np.bool_)
    first[order[::2]] = True
    return cells.part(first), cells.part(~first)


def top_confirmed(sums: CellSums, halves: tuple[Part, Part], candidates: Bools) -> tuple[bool | None, str | None]:
    """Choose the top weapon on half of the builds and look at its delta from the mean in the other half.

    The candidate with the largest |delta| in one half must, in the other, have a delta of the same sign whose 95 %
    interval excludes 0.

    Args:
        sums: the activation by weapon and build.
        halves: the builds that choose and those that confirm, as `halve` splits them.
        candidates: [k], weapons that may be chosen.

    Returns:
        Whether it is confirmed, None where that cannot be told; and why not.
    """
    if sums.cells.n_clusters < FEWEST_BUILDS:
        return None, f"fewer than {FEWEST_BUILDS} builds: no half to confirm on"
    choose, confirm = (Moments.of(sums.among(half)) for half in halves)
    grand = float(choose.total.sum()) / float(choose.cells.group_sizes.sum())
    delta = np.where(candidates, means_of(choose).mean, np.nan) - grand
    if np.isnan(delta).all():
        return None, "no weapon has examples in the half that chooses"
    top = int(np.nanargmax(np.abs(delta)))
    low, high = _interval(confirm, top)
    if np.isnan(low):
        return None, "the weapon chosen has fewer than 10 builds in the other half: no interval"
    return bool(low > 0.0 if delta[top] > 0 else high < 0.0), None


def _interval(moments: Moments, index: int) -> tuple[float, float]:
    """95 % interval of one weapon's delta from the mean; NaN with fewer than 10 builds."""
    deltas = deltas_of(moments).guarded(means_of(moments).support)
    half = float(t_quantile(0.975, deltas.df[index])) * float(deltas.std_error[index])
    return float(deltas.delta[index]) - half, float(deltas.delta[index]) + half
