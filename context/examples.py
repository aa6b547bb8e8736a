"""The examples of a bundle: partial builds with their weapon, mapped from disk and never copied whole."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..schemas.errors import BundleError
from ..schemas.vocabulary import Vocabulary
from .bundle import Bundle
from .token_sets import TokenSets, from_csr

if TYPE_CHECKING:
    from scipy import sparse

Rows = NDArray[np.intp]
_BLOCK = 100_000
_DENSE = 8
"""Ids are numbered by a table where it is no longer than this many times the ids."""


@lru_cache(maxsize=2)
def all_rows(n: int) -> Rows:
    """Every row of ``n``, ascending; made once and read-only."""
    rows = np.arange(n)
    rows.setflags(write=False)
    return rows


@dataclass(frozen=True)
class Examples:
    """The rows of a bundle's data.

    Attributes:
        weapon: int32 [n], weapon token ids.
        indptr: int64 [n + 1], where each example's tokens begin.
        tokens: int16 [nnz], ability token ids.
        levels: uint8 [n, n_families], the highest rung of each family, 0 when absent.
        build_id: int32 [n], the build an example was made from; None when unknown.
        vocabulary: the ability vocabulary the ids belong to.
    """

    weapon: NDArray[np.int32]
    indptr: NDArray[np.int64]
    tokens: NDArray[np.int16]
    levels: NDArray[np.uint8]
    build_id: NDArray[np.int32] | None
    vocabulary: Vocabulary

    def __len__(self) -> int:
        return len(self.weapon)

    def sets(self, rows: Rows) -> TokenSets:
        """Token sets of some rows, as a presence matrix."""
        tokens, indptr = self.entries(rows)
        return from_csr(self.weapon[rows], indptr, tokens, self.vocabulary)

    def token_matrix(self, rows: Rows) -> sparse.csr_matrix:
        """Which ability tokens some rows hold, as 0/1, CSR [n, vocab]; special tokens are left out."""
        from scipy import sparse  # noqa: PLC0415 - not needed to open a bundle

        tokens, indptr = self.entries(rows)
        real = (np.asarray(self.vocabulary.token_family) >= 0)[tokens]
        if not real.all():
            tokens, indptr = tokens[real], np.concatenate([[0], np.cumsum(real)])[indptr]
        values = np.ones(len(tokens))
        return sparse.csr_matrix((values, tokens.astype(np.int32), indptr), shape=(len(rows), len(self.vocabulary)))

    def entries(self, rows: Rows) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
        """Tokens of some rows, one row after the other, special ones included, and where each row begins."""
        tokens, starts = np.asarray(self.tokens), np.asarray(self.indptr)
        if not len(rows):
            return tokens[:0], np.zeros(1, dtype=np.int64)
        first, last = int(rows[0]), int(rows[-1])
        if last - first == len(rows) - 1 and bool(np.all(rows[1:] > rows[:-1])):
            bounds = starts[first : last + 2]
            return tokens[bounds[0] : bounds[-1]], bounds - bounds[0]
        lengths = starts[rows + 1] - starts[rows]
        indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return tokens[np.repeat(starts[rows] - indptr[:-1], lengths) + np.arange(indptr[-1])], indptr

    @cached_property
    def clusters(self) -> NDArray[np.int32]:
        """Which examples are not independent of one another: int32 [n], 0 .. n_clusters - 1.

        By build where builds are known (a build has one weapon: with another it is another build), else by distinct
        (weapon, token set).
        """
        if self.build_id is not None:
            build, weapon = _numbered(np.asarray(self.build_id)), np.asarray(self.weapon)
            home = np.zeros(int(build.max(initial=-1)) + 1, dtype=weapon.dtype)
            home[build] = weapon
            if np.array_equal(home[build], weapon):
                return build
            return _numbered(build.astype(np.int64) * (int(weapon.max()) + 1) + weapon)
        keys = np.concatenate(
            [
                self.sets(np.arange(start, min(start + _BLOCK, len(self)))).keys()
                for start in range(0, len(self), _BLOCK)
            ]
        )
        return np.unique(keys, return_inverse=True)[1].astype(np.int32)


def _numbered(ids: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    """The rank of each id among the distinct ones; ids that are ranks already are given back."""
    low, high = (int(ids.min()), int(ids.max())) if len(ids) else (0, -1)
    if high - low >= _DENSE * len(ids):
        return np.unique(ids, return_inverse=True)[1].astype(np.int32)
    seen = np.zeros(high - low + 1, dtype=np.bool_)
    seen[ids - low if low else ids] = True
    if low == 0 and seen.all():
        return ids.astype(np.int32, copy=False)
    return (np.cumsum(seen, dtype=np.int32) - 1)[ids - low]


def open_examples(bundle: Bundle, vocabulary: Vocabulary, n_weapons: int) -> Examples | None:
    """Map the examples of a bundle; None when it has none.

    Raises:
        BundleError: arrays whose shapes or ids do not fit together.
    """
    n = bundle.manifest.n_examples
    if not bundle.has("examples/weapon.npy"):
        if n:
            raise BundleError(f"{bundle.path}: the manifest counts {n:,} examples but lists no examples/weapon.npy.")
        return None
    examples = Examples(
        weapon=bundle.array("examples/weapon.npy", (n,)),
        indptr=bundle.array("examples/indptr.npy", (n + 1,)),
        tokens=bundle.array("examples/tokens.npy", (bundle.manifest.n_tokens,)),
        levels=bundle.array("examples/levels.npy", (n, len(vocabulary.families))),
        build_id=bundle.array("examples/build_id.npy", (n,)) if bundle.has("examples/build_id.npy") else None,
        vocabulary=vocabulary,
    )
    indptr, n_tokens = examples.indptr, len(examples.tokens)
    faults = {
        "examples/indptr.npy does not describe examples/tokens.npy": (
            int(indptr[0]) != 0 or int(indptr[-1]) != n_tokens or bool(np.any(indptr[1:] < indptr[:-1]))
        ),
        "examples/weapon.npy names a weapon outside weapon_vocab.json": not _within(examples.weapon, n_weapons),
        "examples/tokens.npy names a token outside vocab.json": not _within(examples.tokens, len(vocabulary)),
    }
    for fault, found in faults.items():
        if found:
            raise BundleError(f"{bundle.path}: {fault}. Rebuild or re-import the bundle.")
    return examples


def _within(ids: NDArray[np.integer[Any]], size: int) -> bool:
    """Whether every id is in 0 .. size - 1."""
    return not len(ids) or (int(ids.min()) >= 0 and int(ids.max()) < size)
