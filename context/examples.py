"""The examples of a bundle: partial builds with their weapon, mapped from disk and never copied whole."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
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
        where, indptr = self._entries(rows)
        return from_csr(self.weapon[rows], indptr, self.tokens[where], self.vocabulary)

    def token_matrix(self, rows: Rows) -> sparse.csr_matrix:
        """Which ability tokens some rows hold, as 0/1, CSR [n, vocab]; special tokens are left out."""
        from scipy import sparse  # noqa: PLC0415 - not needed to open a bundle

        where, indptr = self._entries(rows)
        tokens = np.asarray(self.tokens[where])
        real = (np.asarray(self.vocabulary.token_family) >= 0)[tokens]
        values = real.astype(np.float64)
        matrix = sparse.csr_matrix((values, tokens, indptr), shape=(len(rows), len(self.vocabulary)))
        matrix.eliminate_zeros()
        return matrix

    def _entries(self, rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions of the rows' tokens in ``tokens``, and where each row begins among them."""
        starts, stops = self.indptr[rows], self.indptr[rows + 1]
        lengths = stops - starts
        indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return np.repeat(starts - indptr[:-1], lengths) + np.arange(indptr[-1]), indptr

    @cached_property
    def clusters(self) -> NDArray[np.int64]:
        """Which examples are not independent of one another: int64 [n], 0 .. n_clusters - 1.

        By build where builds are known (a build has one weapon: with another it is another build), else by distinct
        (weapon, token set).
        """
        if self.build_id is not None:
            build = np.unique(self.build_id, return_inverse=True)[1].astype(np.int64)
            weapons = int(self.weapon.max()) + 1 if len(self.weapon) else 1
            return np.unique(build * weapons + self.weapon, return_inverse=True)[1].astype(np.int64)
        keys = np.concatenate(
            [
                self.sets(np.arange(start, min(start + _BLOCK, len(self)))).keys()
                for start in range(0, len(self), _BLOCK)
            ]
        )
        return np.unique(keys, return_inverse=True)[1].astype(np.int64)


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
