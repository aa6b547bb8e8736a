"""Irreducible cores of examples with too many units for the whole lattice: greedy deletion, verified."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .lattice import Case, Probe

Floats = NDArray[np.floating[Any]]
Bool = NDArray[np.bool_]
N_ORDERS = 5


def greedy_cores(
    case: Case, probe: Probe, *, threshold: float, seed: int
) -> tuple[float, dict[tuple[int, ...], float], Floats]:
    """Delete units in several seeded orders while the activation holds; every result is verified irreducible.

    In each order a unit goes when what is left still has ``threshold`` of the example's activation. That is repeated
    until no single unit can go, which is checked on all of them at once.

    Returns:
        a(S); the distinct cores as unit indices with their activation; and a(S without u) of every unit u.
    """
    n = len(case.names)
    members = np.vstack([np.ones((1, n), dtype=np.bool_), ~np.eye(n, dtype=np.bool_)])
    natural, values = probe.values(case, members)
    cores: dict[tuple[int, ...], float] = {}
    if values[0] < threshold * natural:
        return natural, cores, values[1:]
    rng = np.random.default_rng([seed, case.row])
    for _ in range(N_ORDERS):
        held = _delete(case, probe, rng.permutation(n), threshold * natural)
        cores[tuple(np.flatnonzero(held).tolist())] = float(probe.values(case, held[None])[1][0])
    return natural, cores, values[1:]


def _delete(case: Case, probe: Probe, order: NDArray[np.intp], goal: float) -> Bool:
    """Delete the first unit in the order that can go, until none can; bool [n_units]."""
    held = np.ones(len(order), dtype=np.bool_)
    while held.any():
        units = [int(unit) for unit in order if held[unit]]
        without = np.repeat(held[None], len(units), axis=0)
        without[np.arange(len(units)), units] = False
        enough = probe.values(case, without)[1] >= goal
        if not enough.any():
            return held
        held[units[int(np.argmax(enough))]] = False
    return held
