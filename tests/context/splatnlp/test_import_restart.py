"""An import that was stopped, at whatever point, goes on from what is finished and gives the same bundle."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock
from mechinterp_runner.context.bundle import Bundle
from mechinterp_runner.context.splatnlp import pooled, work
from mechinterp_runner.context.splatnlp.zarr_arrays import Matrix
from mechinterp_runner.schemas.errors import RequestError, StoreError
from safetensors import SafetensorError


class StoppedError(Exception):
    """As if the process had been killed here."""


class Watch:
    """Follows the progress; stops the import at one of its notes."""

    def __init__(self, stop_at=None):
        self.notes, self.stop_at = [], stop_at

    def __call__(self, stage, done, total, _note):
        self.notes.append((stage, done, total))
        if len(self.notes) - 1 == self.stop_at:
            raise StoppedError

    def begun_at(self, stage):
        return next(done for name, done, _ in self.notes if name == stage)


WAYS = {
    "dense batches and computed vectors": lambda a: a.activations(dense=True) | a.network(),
    "transposed and copied vectors": lambda a: a.activations(pooled=True) | a.transposed() | a.network(),
    "neuron acts": lambda a: a.activations() | a.neuron_acts(),
}


def fingerprint(artefacts):
    bundle = Bundle.open(artefacts.folder / "home" / "ultra", hash_files=True)
    shutil.rmtree(bundle.path)
    return bundle.fingerprint


@pytest.mark.parametrize("way", WAYS)
def test_an_import_stopped_at_any_note_of_progress_goes_on_from_there(artefacts, way, monkeypatch):
    monkeypatch.setattr(pooled, "SETS_PER_UNIT", 60)
    files, whole = WAYS[way](artefacts), Watch()
    artefacts.imported(report=whole, **files)
    wanted = fingerprint(artefacts)
    assert len(whole.notes) > 20
    for at in range(list(WAYS).index(way), len(whole.notes), 9):
        with pytest.raises(StoppedError):
            artefacts.imported(report=Watch(at), **files)
        (left,) = artefacts.left
        assert left.startswith(".ultra.")
        stage, done, _ = whole.notes[at]
        again = Watch()
        artefacts.imported(report=again, **files)
        assert again.begun_at(stage) == done
        assert artefacts.left == ["ultra"]
        assert fingerprint(artefacts) == wanted


@pytest.mark.parametrize("nth", [0, 4, 9, 23, 40])
def test_a_kill_between_two_writes_leaves_nothing_half_done(artefacts, monkeypatch, nth):
    files = artefacts.activations(dense=True)
    artefacts.imported(**files)
    wanted = fingerprint(artefacts)
    written, append = [], work.GrowingArray.append

    def killed(self, block):
        append(self, block)
        written.append(block)
        if len(written) - 1 == nth:
            self._stream.flush()
            raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(work.GrowingArray, "append", killed)
        with pytest.raises(StoppedError):
            artefacts.imported(**files)
    artefacts.imported(**files)
    assert fingerprint(artefacts) == wanted


def test_a_full_disk_is_said_and_what_is_finished_is_kept(artefacts, monkeypatch):
    files = artefacts.activations(dense=True)

    def full(self, block):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(work.GrowingArray, "append", full)
        with pytest.raises(StoreError, match=r"is full. What is finished is kept in .*: make room and run the same"):
            artefacts.imported(**files)
    watch = Watch()
    artefacts.imported(report=watch, **files)
    assert watch.begun_at("weights") == 1
    assert artefacts.left == ["ultra"]


def test_a_disk_that_is_full_before_the_weights_are_written_is_said(artefacts, monkeypatch):
    def full(*_given):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    files = artefacts.network()
    with monkeypatch.context() as patch:
        patch.setattr("safetensors.numpy.save_file", full)
        with pytest.raises(StoreError, match=r"model.safetensors cannot be written: .*No space left.*is kept in"):
            artefacts.imported(**files)
    artefacts.imported(**files)
    fingerprint(artefacts)


def test_a_bundle_that_could_not_be_given_its_name_is_published_by_the_next_try(artefacts, monkeypatch):
    files = artefacts.activations(dense=True)

    def refuse(self, target):
        raise OSError(f"{target} is not allowed")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        with pytest.raises(StoreError, match=r"is not allowed. What is finished is kept in"):
            artefacts.imported(**files)
    assert "ultra" not in artefacts.left
    artefacts.imported(**files)
    fingerprint(artefacts)


def test_vectors_that_will_not_fit_are_refused_before_they_are_computed(artefacts, monkeypatch):
    files = artefacts.activations() | artefacts.network()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: Usage())
        with pytest.raises(StoreError, match=r"pooled vectors take 0.0 GB, and 0.0 GB are free"):
            artefacts.imported(**files)
    watch = Watch()
    artefacts.imported(report=watch, **files)
    assert watch.begun_at("examples") == 3


class Usage:
    free = 10


def test_files_that_changed_since_are_imported_anew(artefacts):
    files = artefacts.activations(dense=True)
    with pytest.raises(StoppedError):
        artefacts.imported(report=Watch(12), **files)
    part = files["activations"] / "metadata" / "batch_0000.parquet"
    os.utime(part, ns=(1, 1))
    watch = Watch()
    artefacts.imported(report=watch, **files)
    assert watch.begun_at("weights") == 0
    assert artefacts.left == ["ultra"]


def test_a_file_that_changes_during_the_import_spoils_it(artefacts):
    files = artefacts.activations(dense=True)
    part = files["activations"] / "activations" / "batch_0001.zarr" / "c" / "0" / "0"

    def meddle(stage, done, total, note):
        if (stage, done) == ("hash inputs", total):
            os.utime(part, ns=(1, 1))

    with pytest.raises(RequestError, match="an input changed while it was imported"):
        artefacts.imported(report=meddle, **files)
    assert artefacts.left == []


def test_a_file_behind_a_link_that_changes_is_noticed(artefacts):
    files = artefacts.activations(dense=True)
    batch = files["activations"] / "activations" / "batch_0001.zarr"
    shutil.move(batch, artefacts.folder / "elsewhere.zarr")
    batch.symlink_to(artefacts.folder / "elsewhere.zarr")
    with pytest.raises(StoppedError):
        artefacts.imported(report=Watch(12), **files)
    os.utime(batch / "c" / "0" / "0", ns=(1, 1))
    watch = Watch()
    artefacts.imported(report=watch, **files)
    assert watch.begun_at("weights") == 0


def test_a_disk_that_fails_for_a_while_costs_nothing_that_is_finished(artefacts, monkeypatch):
    files = artefacts.activations(dense=True)
    broken = Matrix(artefacts.folder, (1, 1), (1, 1), Unreadable())
    with monkeypatch.context() as patch:
        patch.setattr(Matrix, "read", lambda _self, _rows, read=Matrix.read: read(broken, slice(1)))
        with pytest.raises(StoreError, match=r"Input/output error. What is finished is kept in"):
            artefacts.imported(**files)
    watch = Watch()
    artefacts.imported(report=watch, **files)
    assert watch.begun_at("examples") == 3


class Unreadable:
    def __getitem__(self, _where):
        raise OSError(errno.EIO, "Input/output error")


def test_a_name_that_another_import_took_meanwhile_stays_its_own(artefacts):
    files, target = artefacts.activations(dense=True), artefacts.folder / "home" / "ultra"

    def take(stage, done, total, note):
        if (stage, done) == ("hash inputs", total):
            target.mkdir()
            (target / "bundle.json").write_text("another's")

    with pytest.raises(StoreError, match=r"not empty.*What is finished is kept in"):
        artefacts.imported(report=take, **files)
    assert (target / "bundle.json").read_text() == "another's"
    shutil.rmtree(target)
    watch = Watch()
    artefacts.imported(report=watch, **files)
    assert watch.begun_at("activations") > 1
    assert artefacts.left == ["ultra"]


def test_what_is_kept_of_a_bundle_whose_name_begins_alike_stays(artefacts):
    files = artefacts.activations(dense=True)
    for name in ("ultra.v2", "ultra"):
        with pytest.raises(StoppedError):
            artefacts.imported(report=Watch(12), name=name, **files)
    (mine, kept) = sorted(artefacts.left, key=len)
    assert kept.startswith(".ultra.v2.")
    os.utime(files["activations"] / "metadata" / "batch_0000.parquet", ns=(1, 1))  # so that `mine` is of no use
    artefacts.imported(**files)
    assert mine not in artefacts.left
    assert artefacts.left == [kept, "ultra"]


def test_the_same_import_does_not_run_twice_at_a_time(artefacts):
    files = artefacts.activations(dense=True)
    with pytest.raises(StoppedError):
        artefacts.imported(report=Watch(3), **files)
    (left,) = artefacts.left
    lock = FileLock(artefacts.folder / "home" / left / "lock")
    with lock, pytest.raises(RequestError, match="the same import is running"):
        artefacts.imported(**files)
    artefacts.imported(**files)
    assert artefacts.left == ["ultra"]


def test_verifying_needs_no_second_import(artefacts):
    files = artefacts.activations(dense=True) | artefacts.network()
    with pytest.raises(StoppedError):
        artefacts.imported(report=Watch(15), **files)
    watch = Watch()
    made = artefacts.imported(report=watch, **files, verify=10)
    assert watch.begun_at("weights") == 1
    assert made.verified.rows == 10
