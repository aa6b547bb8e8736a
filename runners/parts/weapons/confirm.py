"""Does the weapon that stands out on half of the builds stand out on the other half?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...stats.groups import deltas_from_global, group_means
from ...stats.tails import t_quantile

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
FEWEST_BUILDS = 40
CONFIRM_STREAM = 5


def top_confirmed(
    value: Floats, weapon: Ints, cluster: Ints, candidates: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[bool | None, str | None]:
    """Choose the top weapon on half of the builds and look at its delta from the mean in the other half.

    The builds, whole, are split at random, those of each weapon evenly. The candidate with the largest |delta| in one
    half must, in the other, have a delta of the same sign whose 95 % interval excludes 0.

    Args:
        value: [n].
        weapon: int [n], weapon of each example.
        cluster: int [n], its build.
        candidates: [k], weapons that may be chosen.
        rng: splits the builds.

    Returns:
        Whether it is confirmed, None where that cannot be told; and why not.
    """
    _, first, cluster = np.unique(cluster, return_index=True, return_inverse=True)
    n_builds = len(first)
    if n_builds < FEWEST_BUILDS:
        return None, f"fewer than {FEWEST_BUILDS} builds: no half to confirm on"
    order = rng.permutation(n_builds)
    order = order[np.argsort(weapon[first[order]], kind="stable")]
    choosing = np.isin(cluster, order[::2])
    means = group_means(value[choosing], weapon[choosing], len(candidates), cluster[choosing])
    delta = np.where(candidates, means.mean, np.nan) - float(value[choosing].mean(dtype=np.float64))
    if np.isnan(delta).all():
        return None, "no weapon has examples in the half that chooses"
    top = int(np.nanargmax(np.abs(delta)))
    low, high = _interval(value[~choosing], weapon[~choosing], cluster[~choosing], len(candidates), top)
    if np.isnan(low):
        return None, "the weapon chosen has fewer than 10 builds in the other half: no interval"
    return bool(low > 0.0 if delta[top] > 0 else high < 0.0), None


def _interval(value: Floats, weapon: Ints, cluster: Ints, n_weapons: int, index: int) -> tuple[float, float]:
    """95 % interval of one weapon's delta from the mean; NaN with fewer than 10 builds."""
    means = group_means(value, weapon, n_weapons, cluster)
    deltas = deltas_from_global(value, weapon, n_weapons, cluster).guarded(means.support)
    half = float(t_quantile(0.975, deltas.df[index])) * float(deltas.std_error[index])
    return float(deltas.delta[index]) - half, float(deltas.delta[index]) + half
