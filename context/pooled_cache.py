"""A bounded memory of pooled vectors, keyed by (weapon, token set), on the device that made them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


class PooledCache:
    """Pooled vectors by key; when it is full the oldest make room.

    Pooled vectors do not depend on the feature, so the second feature asked about the same sets costs no pass. They
    stay where the first ones added were, in their precision.

    Args:
        dim: length of a vector.
        max_bytes: memory the vectors may take.
        dtype: precision in which they will come.
    """

    def __init__(self, dim: int, max_bytes: int, dtype: str = "float32") -> None:
        self.capacity = max(1, max_bytes // (dim * np.dtype(dtype).itemsize))
        self._vectors: Tensor | None = None
        self._keys: list[bytes] = []
        self._position: dict[bytes, int] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._position)

    @property
    def nbytes(self) -> int:
        """Bytes allocated for vectors."""
        return 0 if self._vectors is None else self._vectors.nbytes

    def positions(self, keys: list[bytes]) -> NDArray[np.intp]:
        """Where each key's vector is; -1 where there is none."""
        position = self._position
        return np.fromiter((position.get(key, -1) for key in keys), dtype=np.intp, count=len(keys))

    def vectors(self, positions: NDArray[np.intp]) -> Tensor:
        """A copy of the vectors at some positions [n, dim]; something must have been added before."""
        import torch  # noqa: PLC0415 - loaded with the model

        if self._vectors is None:
            raise LookupError("nothing was added yet")
        return self._vectors.index_select(0, torch.from_numpy(positions).to(self._vectors.device))

    def add(self, keys: list[bytes], vectors: Tensor) -> None:
        """Remember vectors [n, dim] of keys that are not there yet; of more than fit, the last."""
        import torch  # noqa: PLC0415 - loaded with the model

        keys, vectors = keys[-self.capacity :], vectors[-self.capacity :]
        slots = (self._next + np.arange(len(keys))) % self.capacity
        self._room(len(keys), vectors)[torch.from_numpy(slots).to(vectors.device)] = vectors
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
        self._vectors, self._keys, self._position, self._next = None, [], {}, 0

    def _room(self, extra: int, like: Tensor) -> Tensor:
        """The storage, with room for so many more."""
        held, needed = len(self._keys), min(self.capacity, len(self._keys) + extra)
        if self._vectors is None or needed > len(self._vectors):
            bigger = like.new_empty((min(self.capacity, max(1024, needed, 2 * held)), like.shape[1]))
            if self._vectors is not None:
                bigger[:held] = self._vectors[:held]
            self._vectors = bigger
        return self._vectors
