"""How much memory arrays take, so that what is remembered can be bounded by it; and freed memory given back."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray


def array_bytes(*values: object) -> int:
    """Bytes of the arrays that objects hold, each counted once; those mapped from files take no memory of their own.

    Arrays are looked for in sequences, mappings, dataclasses and sparse matrices.
    """
    held: dict[int, int] = {}
    for array in _arrays(values, set()):
        owner: Any = array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        held[id(owner)] = 0 if isinstance(owner, np.memmap) else owner.nbytes
    return sum(held.values())


def give_back() -> None:
    """Return freed memory to the system, where the allocator would keep it.

    Batches of many sizes leave holes in the heap of glibc, which it does not return by itself: without this a server
    grows for as long as it meets new sizes.
    """
    if (trim := _malloc_trim()) is not None:
        trim(0)


@cache
def _malloc_trim() -> Any | None:  # noqa: ANN401 - a foreign function
    """glibc's own; None with another allocator."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def _arrays(value: object, seen: set[int]) -> Iterator[NDArray[Any]]:
    if isinstance(value, np.ndarray):
        yield value
        return
    if isinstance(value, str | bytes) or id(value) in seen:
        return
    seen.add(id(value))
    parts: list[object] = []
    if isinstance(value, Mapping):
        parts += value.values()
    elif isinstance(value, Sequence):
        parts += value
    elif is_dataclass(value) or hasattr(value, "indptr"):
        parts += getattr(value, "__dict__", {}).values()
        parts += [getattr(value, name, None) for name in getattr(type(value), "__slots__", ())]
    for part in parts:
        yield from _arrays(part, seen)
