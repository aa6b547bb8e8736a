"""Rows as the files have them, a weapon id and a list of ability ids, checked and turned into token sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...schemas.vocabulary import Vocabulary
from ..builder.codec import Codec
from ..token_sets import TokenSets, levels_of

Bool = NDArray[np.bool_]
Ints = NDArray[np.int64]
NO_WEAPON = int(np.iinfo(np.int64).min)
BLOCK = 50_000
"""Rows that are spread into a presence matrix at a time."""
EXAMPLES = {
    "examples/weapon.npy": ("int32", ()),
    "examples/tokens.npy": ("int16", ()),
    "examples/indptr.npy": ("int64", ()),
}


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows that nothing has been checked of.

    Attributes:
        weapon: int64 [n], weapon token ids; `NO_WEAPON` where there is none.
        indptr: int64 [n + 1], where each row's tokens begin.
        tokens: int64 [nnz], ability token ids.
        unreadable: bool [n], rows whose tokens are not a list of numbers.
    """

    weapon: Ints
    indptr: Ints
    tokens: Ints
    unreadable: Bool

    def __len__(self) -> int:
        return len(self.weapon)

    def take(self, rows: NDArray[np.intp]) -> Rows:
        """Some rows, in that order."""
        lengths = np.diff(self.indptr)[rows]
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        where = np.repeat(self.indptr[rows] - indptr[:-1], lengths) + np.arange(indptr[-1])
        return Rows(self.weapon[rows], indptr, self.tokens[where], self.unreadable[rows])


@dataclass(frozen=True, slots=True)
class Checked:
    """What was made of rows.

    Attributes:
        sets: the token sets [n]; what a faulty row gives means nothing.
        faults: which rows are wrong, by reason.
    """

    sets: TokenSets
    faults: dict[str, Bool]

    def wrong(self) -> Bool:
        """Rows with any fault."""
        return np.logical_or.reduce(list(self.faults.values()))


def check_rows(rows: Rows, vocabulary: Vocabulary, n_weapons: int) -> Checked:
    """Spread rows into token sets and say which are no sets of this vocabulary.

    ``<PAD>`` is dropped; ``<NULL>`` alone, and no token at all, is the empty set.
    """
    n, row = len(rows), np.repeat(np.arange(len(rows)), np.diff(rows.indptr))

    def having(flags: Bool) -> Bool:
        return np.bincount(row[flags], minlength=n) > 0

    outside = (rows.tokens < 0) | (rows.tokens >= len(vocabulary))
    tokens = np.where(outside, vocabulary.pad_id, rows.tokens)
    real = np.asarray(vocabulary.token_family)[tokens] >= 0
    null, masked = tokens == vocabulary.null_id, tokens == (-1 if vocabulary.mask_id is None else vocabulary.mask_id)
    other = ~(real | null | masked | (tokens == vocabulary.pad_id))
    present = np.zeros((n, len(vocabulary)), dtype=np.bool_)
    present[row[real], tokens[real]] = True
    bad_weapon = (rows.weapon < 0) | (rows.weapon >= n_weapons)
    faults = {
        "the ability tokens are not a list of ids": rows.unreadable,
        "the weapon id is not a whole number": rows.weapon == NO_WEAPON,
        "a weapon id outside the weapon vocabulary": bad_weapon,
        "an ability id outside the vocabulary": having(outside),
        "<MASK> in the set, which no partial build holds": having(masked),
        "an unknown special token": having(other),
        "<NULL> beside other tokens": having(null) & (having(real) | (np.bincount(row[null], minlength=n) > 1)),
        "a token twice": np.bincount(row[real], minlength=n) != present.sum(axis=1),
    }
    return Checked(TokenSets(np.where(bad_weapon, 0, rows.weapon).astype(np.int32), present), faults)


def example_arrays(vocabulary: Vocabulary) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype and row shape of the arrays of examples."""
    return EXAMPLES | {"examples/levels.npy": ("uint8", (len(vocabulary.families),))}


@dataclass(slots=True)
class ExampleWriter:
    """Turns token sets into the pieces of a bundle's examples.

    Attributes:
        codec: tables of the vocabulary.
        n_tokens: tokens written so far.
    """

    codec: Codec
    n_tokens: int

    @classmethod
    def after(cls, vocabulary: Vocabulary, n_tokens: int) -> ExampleWriter:
        """A writer that goes on after so many tokens."""
        return cls(Codec.of(vocabulary), n_tokens)

    def piece(self, sets: TokenSets) -> dict[str, NDArray[Any]]:
        """The arrays of some sets; ``<NULL>`` stands for an empty one."""
        indptr, tokens = self.codec.to_csr(sets.present)
        start = [] if self.n_tokens else [np.zeros(1, np.int64)]
        ends = self.n_tokens + indptr[1:]
        self.n_tokens += len(tokens)
        return {
            "examples/weapon.npy": sets.weapon,
            "examples/tokens.npy": tokens,
            "examples/indptr.npy": np.concatenate([*start, ends]),
            "examples/levels.npy": levels_of(sets.present, self.codec.vocabulary),
        }


def first_fault(checked: Checked, name: Callable[[int], str]) -> str | None:
    """The first faulty row in words, with how many more there are; None when all are good."""
    wrong = np.flatnonzero(checked.wrong())
    if not len(wrong):
        return None
    reason = next(reason for reason, rows in checked.faults.items() if rows[wrong[0]])
    more = f" (and {len(wrong) - 1:,} more rows like it)" if len(wrong) > 1 else ""
    return f"{name(int(wrong[0]))}: {reason}{more}"
