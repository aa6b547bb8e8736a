"""Comparing what was imported with what the network gives for the same examples."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..context import Context
from ..sae import SparseAutoencoder
from .columns import blocks_of
from .work import ArrayFile

AGREE = 1e-3
"""Differences above this are more than rounding in float32."""
_STREAM = 7


@dataclass(frozen=True, slots=True)
class Verified:
    """How far imported activations are from recomputed ones.

    Attributes:
        rows: examples compared, drawn at random.
        features: features compared: all.
        largest_difference: largest absolute difference of an activation.
        row: the example it was found at.
        feature: the feature it was found at.
        imported: the activation there as imported.
        recomputed: and as the network gives it.
        largest_pooled_difference: the same of a number of a pooled vector; None where none were imported.
    """

    rows: int
    features: int
    largest_difference: float
    row: int
    feature: int
    imported: float
    recomputed: float
    largest_pooled_difference: float | None

    @property
    def agrees(self) -> bool:
        """Whether the difference is one of rounding."""
        return self.largest_difference <= AGREE

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)

    def text(self) -> str:
        """In words."""
        where = f"example {self.row:,}, feature {self.feature}: {self.imported:.6g} imported, {self.recomputed:.6g} now"
        vectors = self.largest_pooled_difference
        pooled = "" if vectors is None else f"; of pooled vectors {vectors:.3g}"
        found = f"verified on {self.rows:,} examples: the largest difference is {self.largest_difference:.3g}"
        return f"{found} ({where}){pooled}"


def verify(context: Context, n: int, seed: int, block_bytes: int, *, pooled_imported: bool) -> Verified:
    """Compare the stored activations of some examples, all features of each, with those of the network.

    Args:
        context: the finished bundle, opened.
        n: examples to draw; all where there are fewer.
        seed: of the draw.
        block_bytes: dense activations in memory at a time.
        pooled_imported: whether the stored pooled vectors come from a file; else they are the network's own.
    """
    sae, bundle = context.sae, context.bundle
    assert sae is not None  # noqa: S101 - the plan asks for one
    n = min(n, len(context.data))
    rows = np.sort(np.random.default_rng([seed, _STREAM]).choice(len(context.data), n, replace=False))
    pooled = np.asarray(context.oracle.pooled(context.sets(rows)))
    stored = np.asarray(bundle.array("pooled.npy")[rows]) if pooled_imported else None
    with _Columns(bundle, rows) if bundle.has("activations/indptr.npy") else nullcontext() as columns:

        def imported(features: slice) -> NDArray[Any]:
            if columns is not None:
                return columns.dense(features)
            assert stored is not None  # noqa: S101 - the plan asks for one of the two
            return sae.encode(stored, np.arange(features.start, features.stop))

        difference, row, feature, there, fresh = _worst(
            sae, pooled, imported, _feature_blocks(sae, columns, n, block_bytes)
        )
    gap = None if stored is None else float(np.abs(stored - pooled).max())
    return Verified(n, sae.n_features, difference, int(rows[row]), feature, there, fresh, gap)


def _worst(
    sae: SparseAutoencoder, pooled: NDArray[Any], imported: Callable[[slice], NDArray[Any]], blocks: list[slice]
) -> tuple[float, int, int, float, float]:
    """The largest difference: its size, row, feature, the imported activation there, and the recomputed one."""
    worst = (-1.0, 0, 0, 0.0, 0.0)
    for features in blocks:
        there, fresh = imported(features), sae.encode(pooled, np.arange(features.start, features.stop))
        difference = np.abs(there - fresh)
        row, column = map(int, np.unravel_index(int(np.argmax(difference)), difference.shape))
        if difference[row, column] > worst[0]:
            here = float(there[row, column]), float(fresh[row, column])
            worst = (float(difference[row, column]), row, features.start + column, *here)
    return worst


def _feature_blocks(sae: SparseAutoencoder, columns: _Columns | None, n: int, block_bytes: int) -> list[slice]:
    """Blocks of features whose dense activations, and stored entries, fit in memory."""
    size = np.full(sae.n_features, 12 * n, dtype=np.int64)
    if columns is not None:
        size += 16 * np.diff(columns.indptr)
    return blocks_of(size, block_bytes)


class _Columns:
    """The stored columns of a bundle, at some rows."""

    def __init__(self, bundle: Bundle, rows: NDArray[np.intp]) -> None:
        self.indptr = np.asarray(bundle.array("activations/indptr.npy"))
        self._rows = ArrayFile(bundle.path / "activations/rows.npy")
        self._values = ArrayFile(bundle.path / "activations/values.npy")
        self._n = len(rows)
        self._place = np.full(bundle.manifest.n_examples, -1, dtype=np.int32)
        self._place[rows] = np.arange(len(rows))

    def dense(self, features: slice) -> NDArray[np.float32]:
        """Activations [n rows, features]."""
        start, stop = int(self.indptr[features.start]), int(self.indptr[features.stop])
        place = self._place[self._rows.read(start, stop)]
        column = np.repeat(
            np.arange(features.stop - features.start), np.diff(self.indptr[features.start : features.stop + 1])
        )
        found = place >= 0
        dense = np.zeros((self._n, features.stop - features.start), dtype=np.float32)
        dense[place[found], column[found]] = self._values.read(start, stop)[found]
        return dense

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._rows.__exit__(kind, error, at)
        self._values.__exit__(kind, error, at)
