"""Between AP tables, presence matrices and padded token batches, by table look-up."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...schemas.vocabulary import NULL, Vocabulary

Bool = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Codec:
    """Look-up tables over F families, R rungs (plus level 0) and V tokens.

    Attributes:
        vocabulary: The ability tokens.
        rungs: int64 [F, R + 1], AP by level index; index 0 is absent; unused indices repeat the last rung.
        top: int64 [F], the highest level index of the family.
        own: bool [F, V], the family's tokens.
        table: bool [2, F, R + 1, V], the tokens of a level index, as a thermometer (0) or a single token (1).
    """

    vocabulary: Vocabulary
    rungs: Ints
    top: Ints
    own: Bool
    table: Bool

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> "Codec":
        """Build the tables of a vocabulary."""
        families = vocabulary.families
        top = np.array([len(vocabulary.rungs(family)) for family in families])
        rungs = np.zeros((len(families), top.max() + 1), dtype=np.int64)
        table = np.zeros((2, len(families), top.max() + 1, len(vocabulary)), dtype=np.bool_)
        for column, family in enumerate(families):
            levels = vocabulary.rungs(family)
            for index in range(1, top.max() + 1):
                level = levels[min(index, len(levels)) - 1]
                rungs[column, index] = level
                table[0, column, index, list(vocabulary.encode(family, level, "thermometer"))] = True
                table[1, column, index, list(vocabulary.encode(family, level, "single"))] = True
        return cls(vocabulary, rungs, top, table[0, np.arange(len(families)), top], table)

    def tokenize(self, ap: NDArray[np.uint8]) -> Bool:
        """Thermometer encoding of AP per family [n, F]: every rung token up to the AP; bool [n, V]."""
        level = np.asarray(self.vocabulary.token_level)
        family = np.asarray(self.vocabulary.token_family)
        present = ap[:, family].astype(np.int64) >= level
        present[:, family < 0] = False
        return present

    def write(self, present: Bool, family: Ints, index: Ints, single: Bool) -> None:
        """Set one family a row to a level, in place; the family's own tokens are removed first.

        Args:
            present: bool [n, V], changed.
            family: [n] family columns.
            index: [n] level indices, 0 for absent.
            single: [n], true for the rung token alone.
        """
        present &= ~self.own[family]
        present |= self.table[single.astype(np.int64), family, np.minimum(index, self.top[family])]

    def level_index(self, family: str, ap: int) -> int:
        """Index of a rung of the family in `rungs`."""
        return self.vocabulary.rungs(family).index(ap) + 1

    def pad(self, present: Bool) -> Ints:
        """Token ids [n, longest] of presence rows [n, V]; ``<NULL>`` alone for an empty one, ``<PAD>`` at the end."""
        lengths = present.sum(axis=1)
        tokens = np.full((len(present), max(1, int(lengths.max(initial=0)))), self.vocabulary.pad_id, dtype=np.int64)
        rows, columns = np.nonzero(present)
        starts = np.cumsum(lengths) - lengths
        tokens[rows, np.arange(len(rows)) - starts[rows]] = columns
        tokens[lengths == 0, 0] = self.vocabulary.token_id[NULL]
        return tokens

    def to_csr(self, present: Bool) -> tuple[NDArray[np.int64], NDArray[np.int16]]:
        """Sets stored one after the other: indptr [n + 1] and tokens; ``<NULL>`` stands for an empty set."""
        tokens = self.pad(present)
        kept = tokens != self.vocabulary.pad_id
        indptr = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int64)
        return indptr, tokens[kept].astype(np.int16)
