"""Memory is counted where arrays are held, once each, and not where they are mapped."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
from mechinterp_runner.context.memory import array_bytes, give_back
from scipy import sparse


@dataclass(frozen=True)
class Plain:
    one: object
    two: object = None

    @cached_property
    def later(self) -> np.ndarray:
        return np.zeros(30, np.uint8)


@dataclass(frozen=True, slots=True)
class Slotted:
    one: object


KB = np.zeros(1000, np.uint8)


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (KB, 1000),
        ([KB.copy(), (KB.copy(),), {"a": KB.copy()}], 3000),
        (Plain(KB, Slotted(KB.copy())), 2000),
        ([KB, KB, KB[:10], KB.reshape(10, 100)], 1000),
        (KB[:10], 1000),
        ("text", 0),
        (None, 0),
        (Plain("text", 3), 0),
    ],
)
def test_arrays_are_found_and_counted_once_with_what_they_are_views_of(value, size):
    assert array_bytes(value) == size


def test_what_is_computed_later_counts_then():
    plain = Plain(None)
    assert array_bytes(plain) == 0
    assert len(plain.later) == array_bytes(plain) == 30


def test_sparse_matrices_are_their_three_arrays():
    matrix = sparse.csr_matrix(np.eye(100))
    assert array_bytes(matrix) == matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes > 0


def test_what_holds_itself_is_counted_once():
    ring = [KB]
    ring.append(ring)
    assert array_bytes(ring, ring) == 1000


def test_what_is_mapped_from_a_file_takes_no_memory(tmp_path):
    np.save(tmp_path / "a.npy", KB)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert array_bytes(mapped, np.asarray(mapped), mapped[3:]) == 0


def anonymous_kb() -> int:
    return int(re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads /proc, which only Linux has")
def test_memory_that_was_freed_is_given_back_though_some_of_it_is_in_use():
    blocks = [np.ones(2_000, np.uint8) for _ in range(50_000)]
    kept = blocks[-1]
    del blocks
    before = anonymous_kb()
    give_back()
    assert anonymous_kb() < before - 50_000
    assert kept.all()
