"""A bounded memory of pooled vectors, keyed by (weapon, token set)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.floating]


class PooledCache:
    """Pooled vectors by key; when it is full the oldest make room.

    Pooled vectors do not depend on the feature, so the second feature asked about the same sets costs no pass.

    Args:
        dim: length of a vector.
        max_bytes: memory the vectors may take.
        dtype: precision in which they are kept.
    """

    def __init__(self, dim: int, max_bytes: int, dtype: str = "float32") -> None:
        self._dtype = np.dtype(dtype)
        self.capacity = max(1, max_bytes // (dim * self._dtype.itemsize))
        self._vectors = np.empty((min(1024, self.capacity), dim), dtype=self._dtype)
        self._keys: list[bytes] = []
        self._position: dict[bytes, int] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._position)

    @property
    def nbytes(self) -> int:
        """Bytes allocated for vectors."""
        return self._vectors.nbytes

    def positions(self, keys: list[bytes]) -> NDArray[np.intp]:
        """Where each key's vector is; -1 where there is none."""
        position = self._position
        return np.fromiter((position.get(key, -1) for key in keys), dtype=np.intp, count=len(keys))

    def vectors(self, positions: NDArray[np.intp]) -> Vectors:
        """The vectors at some positions [n, dim]."""
        return self._vectors[positions]

    def add(self, keys: list[bytes], vectors: Vectors) -> None:
        """Remember vectors [n, dim] of keys that are not there yet; of more than fit, the last."""
        keys, vectors = keys[-self.capacity :], vectors[-self.capacity :]
        self._grow(len(keys))
        slots = (self._next + np.arange(len(keys))) % self.capacity
        self._vectors[slots] = vectors
        for slot, key in zip(slots.tolist(), keys, strict=True):
            if slot < len(self._keys):
                del self._position[self._keys[slot]]
                self._keys[slot] = key
            else:
                self._keys.append(key)
            self._position[key] = slot
        self._next = int((self._next + len(keys)) % self.capacity)

    def clear(self) -> None:
        """Forget everything."""
        self._keys, self._position, self._next = [], {}, 0

    def _grow(self, extra: int) -> None:
        needed = min(self.capacity, len(self._keys) + extra)
        if needed > len(self._vectors):
            bigger = np.empty(
                (min(self.capacity, max(needed, 2 * len(self._vectors))), self._vectors.shape[1]), self._dtype
            )
            bigger[: len(self._keys)] = self._vectors[: len(self._keys)]
            self._vectors = bigger
