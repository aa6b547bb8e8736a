"""Token sets as one boolean matrix: the form in which interventions are built and deduplicated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ..schemas.vocabulary import Encoding, Vocabulary

Bool = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class TokenSets:
    """Token sets with their weapons; every editing method returns a new object.

    An empty set is kept empty here; the network is shown ``<NULL>`` alone in its place.

    Attributes:
        weapon: int32 [n], weapon token ids.
        present: bool [n, vocab], True where the set holds the token. Special tokens are never set.
    """

    weapon: NDArray[np.int32]
    present: Bool

    def __post_init__(self) -> None:
        if self.present.ndim != 2 or self.weapon.shape != self.present.shape[:1]:
            raise ValueError(f"weapon {self.weapon.shape} and present {self.present.shape} do not belong together")

    def __len__(self) -> int:
        return len(self.weapon)

    def take(self, rows: NDArray[np.intp] | Bool | slice) -> Self:
        """Return the chosen rows, in that order."""
        return type(self)(self.weapon[rows], self.present[rows])

    def without(self, family: str, vocabulary: Vocabulary) -> Self:
        """Remove every token of the family from every set."""
        present = self.present.copy()
        present[:, list(vocabulary.family_tokens(family))] = False
        return type(self)(self.weapon, present)

    def with_tokens(self, token_ids: Iterable[int]) -> Self:
        """Add the tokens to every set."""
        present = self.present.copy()
        present[:, list(token_ids)] = True
        return type(self)(self.weapon, present)

    def with_level(
        self,
        family: str,
        level: int,
        vocabulary: Vocabulary,
        *,
        encoding: Encoding = "thermometer",
        clear: bool = True,
    ) -> Self:
        """Write the family at a level into every set; ``clear`` first removes what the sets hold of it."""
        start = self.without(family, vocabulary) if clear else self
        return start.with_tokens(vocabulary.encode(family, level, encoding))

    def with_weapon(self, weapon: int | NDArray[np.int32]) -> Self:
        """Give every set that weapon (one token id, or one per set)."""
        return type(self)(np.broadcast_to(np.asarray(weapon, np.int32), self.weapon.shape).copy(), self.present)

    def keys(self) -> NDArray[np.void]:
        """One hashable key a set: equal exactly when weapon and tokens are."""
        weapon = np.ascontiguousarray(self.weapon, np.int32).view(np.uint8).reshape(len(self), 4)
        packed = np.ascontiguousarray(np.hstack([weapon, np.packbits(self.present, axis=1)]))
        return packed.view(np.dtype((np.void, packed.shape[1]))).ravel()


def concatenate(parts: Sequence[TokenSets]) -> TokenSets:
    """Stack token sets one after the other."""
    return TokenSets(
        np.concatenate([part.weapon for part in parts]).astype(np.int32),
        np.concatenate([part.present for part in parts]),
    )


@lru_cache(maxsize=32)
def _family_columns(vocabulary_tokens: tuple[str, ...]) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
    vocabulary = Vocabulary(vocabulary_tokens)
    column = np.asarray(vocabulary.token_family, dtype=np.intp)
    order = np.lexsort((np.asarray(vocabulary.token_level), column))
    order = order[column[order] >= 0]
    return order, np.asarray(vocabulary.token_level, dtype=np.uint8)


def levels_of(present: Bool, vocabulary: Vocabulary) -> NDArray[np.uint8]:
    """Level of every family in every set: its highest rung, 0 when absent; uint8 [n, n_families]."""
    order, level = _family_columns(vocabulary.tokens)
    values = np.where(present[:, order], level[order], np.uint8(0))
    column = np.asarray(vocabulary.token_family, dtype=np.intp)[order]
    starts = np.flatnonzero(np.r_[True, np.diff(column) > 0])
    return np.maximum.reduceat(values, starts, axis=1).astype(np.uint8)


def from_csr(
    weapon: NDArray[np.integer], indptr: NDArray[np.integer], tokens: NDArray[np.integer], vocabulary: Vocabulary
) -> TokenSets:
    """Spread sets stored one after the other (CSR) into a presence matrix; special tokens are left out."""
    present = np.zeros((len(weapon), len(vocabulary)), dtype=np.bool_)
    rows = np.repeat(np.arange(len(weapon)), np.diff(indptr))
    present[rows, tokens] = True
    present[:, np.asarray(vocabulary.token_family) < 0] = False
    return TokenSets(np.asarray(weapon, dtype=np.int32), present)
