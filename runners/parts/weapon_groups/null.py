"""Do means by weapon differ more than those of random directions read on the same examples?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....context.context import Context
from ....context.population import Population
from ...design.specificity import null_activations, share_at_least

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class WeaponSums:
    """Activation summed by weapon token id, of a feature and of random directions on the same examples.

    Attributes:
        n: [k], examples of each weapon.
        observed: [k], the feature's activation.
        null: [k, r], each direction's activation.
    """

    n: Ints
    observed: Floats
    null: Floats

    def p_value(self, member: NDArray[np.bool_]) -> float:
        """Specificity of the largest |mean of a group - mean of all examples|.

        Args:
            member: [g, k], which weapons each group holds; groups may overlap.

        Returns:
            (1 + number of directions whose largest difference is at least the feature's) / (1 + directions).
        """
        return share_at_least(float(self._largest(member, self.observed[:, None])[0]), self._largest(member, self.null))

    def _largest(self, member: NDArray[np.bool_], total: Floats) -> Floats:
        """Largest difference over the groups, [r], of totals [k, r]."""
        groups = member.astype(np.float64)
        count = groups @ self.n
        means = (groups @ total) / np.maximum(count, 1.0)[:, None]
        return np.abs(means - total.sum(axis=0) / self.n.sum())[count > 0].max(axis=0, initial=0.0)


def weapon_sums(ctx: Context, feature: int, population: Population, seed: int) -> WeaponSums | None:
    """Sum the feature and 200 random directions by weapon over (at most 6,000 of) the examples of a population.

    Returns:
        None where the examples' pooled vectors are unknown or the feature is dead.
    """
    from scipy import sparse  # noqa: PLC0415 - not needed to discover the runners

    null = null_activations(ctx, feature, population, seed)
    if null is None:
        return None
    weapon = np.asarray(ctx.data.weapon[population.rows[null.positions]], dtype=np.intp)
    shape = (len(ctx.weapons), len(weapon))
    by_weapon = sparse.csr_matrix((np.ones(len(weapon), np.float32), (weapon, np.arange(len(weapon)))), shape=shape)
    return WeaponSums(
        n=np.bincount(weapon, minlength=len(ctx.weapons)),
        observed=np.asarray(by_weapon @ population.activation[null.positions], dtype=np.float64),
        null=np.asarray(by_weapon @ null.activation, dtype=np.float64),
    )
