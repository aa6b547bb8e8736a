"""Pooled vectors on disk serve the next process, and are not believed when they are broken."""

from __future__ import annotations

import logging
import threading

import numpy as np
import pytest
from mechinterp_runner.context.bundle import Bundle
from mechinterp_runner.context.context import Context
from mechinterp_runner.context.contexts import load_context
from mechinterp_runner.context.device import POOLED_CACHE, Compute
from mechinterp_runner.context.pooled_store import PooledStore, folder_of
from mechinterp_runner.schemas.errors import RequestError
from mechinterp_runner.schemas.job import Job

N = 304


def keys(*names: int) -> list[bytes]:
    return [bytes([name] * 3) for name in names]


def vectors(*names: int) -> np.ndarray:
    return np.array([[name, 2 * name] for name in names], np.float32).reshape(-1, 2)


def store(folder, **how) -> PooledStore:
    return PooledStore(folder / "kept", 2, "float32", **how)


def opened(bundle, folder, dtype="float32") -> Context:
    return Context(bundle.name, Bundle.open(bundle), compute=Compute("cpu", dtype, pooled_cache=folder))


def passes(context: Context, rows=slice(None)) -> int:
    job = Job()
    context.evaluate(context.sets(np.arange(N)[rows]), 0, job)
    return job.passes_made


def test_what_one_process_keeps_another_finds(tmp_path):
    first, second = store(tmp_path), store(tmp_path)
    assert len(second.find(keys(1, 2))[0]) == 0
    first.add(keys(1, 2), vectors(1, 2))
    first.add(keys(3), vectors(3))
    first.flush()
    found, read = second.find(keys(9, 3, 1))
    assert found.tolist() == [1, 2]
    assert np.array_equal(read, vectors(3, 1))
    second.add(keys(9), vectors(9))
    second.flush()
    assert np.array_equal(first.find(keys(1, 9))[1], vectors(1, 9))


def test_nothing_is_written_before_it_is_flushed_and_nothing_half_written_is_left(tmp_path):
    here = store(tmp_path)
    here.add(keys(1), vectors(1))
    assert not list(here.folder.iterdir())
    here.flush()
    assert sorted(path.name.split(".", 1)[1] for path in here.folder.iterdir()) == ["keys.npy", "vectors.npy"]


@pytest.mark.parametrize("part", ["keys", "vectors"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "of another length", "pickled"])
def test_a_damaged_file_is_not_used_and_said_so(tmp_path, caplog, part, damage):
    here = store(tmp_path)
    here.add(keys(1, 2), vectors(1, 2))
    here.flush()
    path = next(here.folder.glob(f"*.{part}.npy"))
    if damage == "of another length":
        np.save(path, np.load(path)[:1].repeat(5, axis=0))
    elif damage == "pickled":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    else:
        path.write_bytes(path.read_bytes()[:-1] if damage == "truncated" else b"")
    with caplog.at_level(logging.WARNING):
        assert len(store(tmp_path).find(keys(1, 2))[0]) == 0
    assert "is not used" in caplog.text


def test_keys_without_their_vectors_are_not_believed(tmp_path):
    here = store(tmp_path)
    here.add(keys(1), vectors(1))
    here.flush()
    next(here.folder.glob("*.vectors.npy")).unlink()
    assert len(store(tmp_path).find(keys(1))[0]) == 0


def test_a_full_folder_is_read_and_not_added_to(tmp_path):
    here = store(tmp_path, max_bytes=20)
    for name in (1, 2, 3, 4):
        here.add(keys(name), vectors(name))
        here.flush()
        here.find(keys(name))
    assert here.find(keys(1, 2, 3, 4))[0].tolist() == [0, 1]


def test_a_disk_that_takes_no_more_costs_no_run(tmp_path, caplog, monkeypatch):
    here = store(tmp_path)
    monkeypatch.setattr("numpy.save", lambda *_, **__: (_ for _ in ()).throw(OSError("no space left")))
    here.add(keys(1), vectors(1))
    with caplog.at_level(logging.WARNING):
        here.flush()
    assert "no space left" in caplog.text
    assert not list(here.folder.iterdir())


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "kept").write_text("a file")
    with pytest.raises(RequestError, match="cannot be made"):
        store(tmp_path)


def test_the_second_process_makes_no_pass(small_bundle, tmp_path, naive_pooled):
    first, second = (opened(small_bundle, tmp_path / "pooled") for _ in range(2))
    made = passes(first, slice(0, 100))
    assert made > 50
    assert passes(second, slice(0, 100)) == 0
    assert np.allclose(second.oracle.pooled(second.sets(np.arange(100))), naive_pooled[:100], atol=1e-5)
    assert made + passes(second) == passes(opened(small_bundle, tmp_path / "other"))


def test_what_is_on_disk_is_not_missing(small_bundle, tmp_path):
    passes(opened(small_bundle, tmp_path))
    later = opened(small_bundle, tmp_path)
    assert len(later.oracle.missing(later.sets(np.arange(N)))) == 0


@pytest.mark.parametrize("change", ["weights", "dtype"])
def test_vectors_of_other_weights_or_another_precision_are_not_used(small_bundle, write_variant, tmp_path, change):
    made = passes(opened(small_bundle, tmp_path / "pooled"))
    if change == "dtype":
        other = opened(small_bundle, tmp_path / "pooled", "float64")
    else:
        state = Bundle.open(small_bundle).tensors("model.safetensors")
        other = opened(
            write_variant(model_state=state | {"output_layer.bias": state["output_layer.bias"] + 1}),
            tmp_path / "pooled",
        )
    assert passes(other) == made


def test_two_processes_at_once_leave_one_whole_store(small_bundle, tmp_path, naive_pooled):
    contexts = [opened(small_bundle, tmp_path) for _ in range(3)]
    threads = [threading.Thread(target=passes, args=(context,)) for context in contexts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    later = opened(small_bundle, tmp_path)
    assert passes(later) == 0
    assert np.allclose(later.oracle.pooled(later.sets(np.arange(N))), naive_pooled, atol=1e-5)


# -- vectors of all examples ------------------------------------------------------------------------------------------


@pytest.fixture
def blocks_of_100(monkeypatch):
    monkeypatch.setattr("mechinterp_runner.context.pooled_store.BLOCK", 100)


@pytest.mark.usefixtures("blocks_of_100")
def test_vectors_of_all_examples_are_computed_once_and_mapped(small_bundle, tmp_path, naive_pooled):
    first = opened(small_bundle, tmp_path)
    column = first.activations(1)
    folder = folder_of(tmp_path, first.bundle, "float32", "cpu")
    assert [path.suffix for path in sorted(folder.iterdir())] == [".lock", ".npy"]
    later = opened(small_bundle, tmp_path)
    assert np.array_equal(later.activations(1), column)
    assert later.seconds_per_pass() is None
    assert np.allclose(later.pooled_of(np.arange(N)), naive_pooled, atol=1e-5)
    assert isinstance(later.pooled_of(slice(None)).base, np.memmap)


@pytest.mark.usefixtures("blocks_of_100")
def test_computing_that_was_stopped_goes_on_where_it_was(small_bundle, tmp_path, naive_pooled):
    stopped, rows = opened(small_bundle, tmp_path), []
    original = stopped.examples.sets

    def sets(asked):
        rows.append(len(asked))
        if len(rows) == 3:
            raise KeyboardInterrupt
        return original(asked)

    object.__setattr__(stopped.examples, "sets", sets)
    with pytest.raises(KeyboardInterrupt):
        stopped.activations(1)
    later, again = opened(small_bundle, tmp_path), []
    object.__setattr__(later.examples, "sets", lambda asked: again.append(len(asked)) or original(asked))
    later.activations(1)
    assert (rows, again) == ([100, 100, 100], [100, 4])
    assert np.allclose(later.pooled_of(np.arange(N)), naive_pooled, atol=1e-5)


def test_a_truncated_file_of_all_examples_is_computed_anew(small_bundle, tmp_path):
    column = opened(small_bundle, tmp_path).activations(1)
    whole = next(tmp_path.rglob("examples-*.npy"))
    whole.write_bytes(whole.read_bytes()[:-8])
    assert np.array_equal(opened(small_bundle, tmp_path).activations(1), column)


def test_the_folder_is_named_by_the_caller_or_the_environment(small_bundle, tmp_path, monkeypatch):
    assert Compute("cpu").cache_folder() is None
    monkeypatch.setenv(POOLED_CACHE, str(tmp_path / "environment"))
    assert Compute("cpu").cache_folder() == tmp_path / "environment"
    context = load_context(bundle=small_bundle, home=tmp_path / "home", device="cpu", pooled_cache=tmp_path / "given")
    passes(context, slice(0, 10))
    assert list((tmp_path / "given").iterdir())
    assert not (tmp_path / "environment").exists()
