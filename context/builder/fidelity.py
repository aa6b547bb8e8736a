"""How well the network follows its planted rules, measured through the autoencoder on builds it never saw."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...schemas.planted import Factor, Fidelity, FidelityCell, PlantedRule
from ...schemas.vocabulary import WeaponVocabulary
from ..sae import SparseAutoencoder
from ..token_sets import TokenSets
from .codec import Codec
from .intervene import factor_weapons
from .rules import rule_value

Floats = NDArray[np.float32]
Pool = Callable[[TokenSets], Floats]
"""Pooled vectors [n, d] of token sets."""
CellValue = float | int | bool


@dataclass(frozen=True, slots=True)
class _State:
    """One state of a factor: how it is named in the cell, and what makes it so."""

    cell: dict[str, CellValue]
    index: int = 0
    single: bool = False
    lacks: int | None = None
    weapon: bool | None = None


@dataclass(frozen=True, slots=True)
class FidelityMeter:
    """Measures planted rules on constructed sets.

    Attributes:
        codec: Tables of the ability vocabulary.
        weapons: The weapon vocabulary.
        sae: The autoencoder; a rule's feature id is its row.
        pool: The network.
        contexts: Natural examples of held-out builds, from which every cell is constructed.
        seed: Seed of the weapons drawn for weapon factors.
    """

    codec: Codec
    weapons: WeaponVocabulary
    sae: SparseAutoencoder
    pool: Pool
    contexts: TokenSets
    seed: int = 0

    def r2(self, rule: PlantedRule, sets: TokenSets, pooled: Floats) -> float | None:
        """R2 of the activation against the rule on given sets and their pooled vectors; None for a constant rule."""
        wanted = rule_value(rule, sets, self.codec.vocabulary, self.weapons)
        got = self.sae.activation(pooled, rule.feature_id).astype(np.float64)
        total = float(((wanted - wanted.mean()) ** 2).sum())
        return None if total == 0.0 else round(1.0 - float(((got - wanted) ** 2).sum()) / total, 4)

    def cells(self, rule: PlantedRule) -> tuple[FidelityCell, ...]:
        """The full factorial of the rule's factors, each cell averaged over all contexts."""
        choices = [self._states(factor, alone=len(rule.factors()) == 1) for factor in rule.factors()]
        return tuple(self._cell(rule, combination) for combination in itertools.product(*choices))

    def measure(self, rule: PlantedRule, held_out: TokenSets, pooled: Floats, active_rate: float) -> Fidelity:
        """R2 on held-out examples and the factorial, as the manifest states them."""
        cells = self.cells(rule)
        return Fidelity(
            r2_held_out=self.r2(rule, held_out, pooled),
            n_contexts=len(self.contexts),
            active_rate=round(active_rate, 4),
            cells=cells,
            worst_cell_error=max(cell.error_of_height for cell in cells),
        )

    def _states(self, factor: Factor, *, alone: bool) -> list[_State]:
        """The states of a factor: every level of a single factor, the informative ones of several."""
        if factor.kind in {"special", "weapon"}:
            return [_State({factor.name: holds}, weapon=holds) for holds in (False, True)]
        family = self.codec.vocabulary.family_index[factor.name]
        top = int(self.codec.top[family])
        rung = 1 if factor.rung is None else self.codec.level_index(factor.name, factor.rung)
        if factor.kind == "gap":
            return list(self._gap_states(factor, rung))
        wanted = range(top + 1) if alone else sorted({0, rung - 1, rung, (rung + top) // 2, top})
        return [_State({factor.name: int(self.codec.rungs[family, index])}, index=index) for index in wanted]

    def _gap_states(self, factor: Factor, rung: int) -> Iterator[_State]:
        """With and without the high rung and the low one, everything between them there; and the high one alone."""
        high_name, low_name = f"{factor.name}_{factor.rung}", f"{factor.name}_{factor.low}"
        alone = f"{high_name} alone"
        for high, low in itertools.product((False, True), repeat=2):
            cell: dict[str, CellValue] = {high_name: high, low_name: low, alone: False}
            yield _State(cell, index=rung if high else rung - 1, lacks=None if low else factor.low)
        yield _State({high_name: True, low_name: False, alone: True}, index=rung, single=True)

    def _cell(self, rule: PlantedRule, states: Sequence[_State]) -> FidelityCell:
        """Construct one cell from every context and compare network and rule."""
        sets = TokenSets(self.contexts.weapon.copy(), self.contexts.present.copy())
        named: dict[str, CellValue] = {}
        for factor, state in zip(rule.factors(), states, strict=True):
            named |= state.cell
            self._apply(factor, state, sets)
        wanted = rule_value(rule, sets, self.codec.vocabulary, self.weapons)
        got = self.sae.activation(self.pool(sets), rule.feature_id)
        error = abs(float(got.mean()) - float(wanted.mean())) / rule.height
        return FidelityCell(
            cell=named,
            expected=round(float(wanted.mean()), 4),
            mean=round(float(got.mean()), 4),
            error_of_height=round(error, 4),
        )

    def _apply(self, factor: Factor, state: _State, sets: TokenSets) -> None:
        """Put every set into the factor's state, in place."""
        if state.weapon is not None:
            fits = np.flatnonzero(factor_weapons(factor, self.weapons) == state.weapon)
            sets.weapon[:] = np.random.default_rng(self.seed).choice(fits, size=len(sets))
            return
        n = len(sets)
        family = np.full(n, self.codec.vocabulary.family_index[factor.name])
        self.codec.write(sets.present, family, np.full(n, state.index), np.full(n, state.single))
        if state.lacks is not None:
            sets.present[:, list(self.codec.vocabulary.encode(factor.name, state.lacks, "single"))] = False
