"""Results stored as a group: all of them or none, found as those stored alone are."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from mechinterp_runner.schemas.errors import StoreError
from mechinterp_runner.schemas.result import ExperimentResult, Provenance
from mechinterp_runner.server.store import files, index
from mechinterp_runner.server.store.index import Query
from mechinterp_runner.server.store.records import entry_of
from mechinterp_runner.server.store.store import Store


@pytest.fixture
def pairs(make_spec):
    """Specs with results, of some ids."""

    def make(*ids, feature_id=7, success=True):
        specs = [make_spec(id=name, feature_id=feature_id) for name in ids]
        return [
            (
                spec,
                ExperimentResult(
                    spec_id=spec.id, feature_id=feature_id, experiment_type=spec.type, success=success,
                    headline=f"headline of {spec.id}", duration_seconds=1.0,
                    provenance=Provenance(bundle="demo", digest=f"digest of {spec.id}"),
                ),
            )
            for spec in specs
        ]  # fmt: skip

    return make


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_group_is_on_disk_and_in_the_index_when_it_was_stored(store, pairs):
    made = pairs("a", "b", "c")
    assert store.publish_all(made) == []
    assert names(store.specs) == names(store.results) == [spec.file_name() for spec, _ in made]
    for spec, result in made:
        assert store.result(spec.id) == result
        assert store.spec(spec.id) == spec
    assert store.search(Query())[0] == 3


def test_each_file_is_synced_before_it_has_its_name_and_each_folder_once(store, pairs, monkeypatch):
    real_sync, real_link, seen = os.fsync, os.link, []
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: (seen.append("sync"), real_sync(descriptor)))
    monkeypatch.setattr(files.os, "link", lambda source, target: (seen.append("link"), real_link(source, target)))
    store.publish_all(pairs("a", "b", "c"))
    assert seen == ["sync"] * 6 + ["link"] * 6 + ["sync"] * 2


@pytest.mark.parametrize("failing", ["link", "fsync"])
def test_a_group_that_cannot_be_written_leaves_nothing(store, pairs, monkeypatch, failing):
    store.publish_all(pairs("first"))
    real, calls = getattr(os, failing), []

    def fail_late(*given):
        calls.append(given)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*given)

    monkeypatch.setattr(files.os, failing, fail_late)
    with pytest.raises(StoreError, match=r"No space left on device\. Free some space"):
        store.publish_all(pairs("a", "b", "c"))
    monkeypatch.undo()
    assert names(store.specs) == names(store.results) == ["first__f7__family-1d-sweep.json"]
    assert store.search(Query())[0] == 1


def test_ids_that_were_taken_meanwhile_are_told_and_the_others_stored(store, pairs):
    store.publish_all(pairs("a", "b"))
    kept = store.result("a")
    assert sorted(store.publish_all(pairs("a", "c", success=False))) == ["a"]
    assert store.publish_all(pairs("b", feature_id=8)) == ["b"]
    assert store.result("a") == kept
    assert store.result("b").feature_id == 7
    assert store.search(Query())[0] == 3


def test_files_written_for_another_index_are_found_with_it_and_without_it(store, pairs):
    made = pairs("a", "b")
    assert Store(store.root).write_all(made) == []
    store.take_up([entry_of(result, spec.file_name()) for spec, result in made[:1]])
    assert {entry.spec_id for entry in store.search(Query())[1]} == {"a", "b"}
    assert Store(store.root).write_all(made) == ["a", "b"]


def test_many_digests_and_ids_are_looked_up_at_once(store, pairs, monkeypatch):
    monkeypatch.setattr(index, "_MOST_VALUES", 2)
    store.publish_all(pairs(*(f"run-{at}" for at in range(9))))
    wanted = [f"digest of run-{at}" for at in (0, 3, 4, 7, 8)] + ["digest of nothing"]
    assert {entry.digest for entry in store.having("digest", wanted)} == set(wanted[:-1])
    assert [entry.spec_id for entry in store.having("spec_id", ["run-7", "nothing"])] == ["run-7"]
    assert store.having("digest", []) == []
