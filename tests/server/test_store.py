"""The store: files appear whole, are found again, and several writers share a folder."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from mechinterp_runner.schemas.errors import IdTakenError, RequestError, StoreError
from mechinterp_runner.schemas.result import ExperimentResult, Provenance
from mechinterp_runner.server.store import files, index
from mechinterp_runner.server.store.index import Index, Query
from mechinterp_runner.server.store.store import Store


def result_of(spec, moment="2025-01-01T00:00:00Z", **given):
    words = {name: given.pop(name) for name in list(given) if name in Provenance.model_fields}
    origin = Provenance(started_at=moment, bundle="demo", **words)
    base = {"headline": "a headline", "success": True, "duration_seconds": 1.0}
    return ExperimentResult(
        spec_id=spec.id, feature_id=spec.feature_id, experiment_type=spec.type, provenance=origin, **(base | given)
    )


@pytest.fixture
def put(store, make_spec):
    def put(spec_id, feature_id=7, **given):
        spec = make_spec(id=spec_id, feature_id=feature_id)
        return store.publish(spec, result_of(spec, **given))

    return put


def ids(store, **query):
    return [entry.spec_id for entry in store.search(Query(**query))[1]]


def test_nothing_is_created_by_looking(store):
    assert store.search(Query()) == (0, [])
    assert not store.results.exists()


def test_files_are_named_for_people(put, store):
    path = put("20250607_142531", 18712)
    assert path.name == "20250607_142531__f18712__family-1d-sweep.json"
    assert path.parent == store.results
    assert (store.specs / path.name).is_file()
    assert store.spec("20250607_142531").feature_id == 18712


def test_an_unknown_id_names_the_nearest(put, store):
    put("first-run")
    with pytest.raises(RequestError, match=r"did you mean 'first-run'\? 1 are stored in .*\n  first-run: "):
        store.result("frst-run")


@pytest.mark.parametrize("bad", ["../first", "a/b", "", ".hidden", "x" * 65, "a\0b"])
def test_an_id_is_never_a_path(store, bad):
    with pytest.raises(RequestError, match="not allowed"):
        store.result(bad)


def test_a_result_is_never_overwritten(put, store, make_spec):
    put("first", headline="one")
    spec = store.spec("first")
    with pytest.raises(IdTakenError, match="has a result already"):
        store.publish(spec, result_of(spec, headline="two"))
    assert store.result("first").headline == "one"


def test_an_id_is_taken_in_the_files_too_when_the_index_does_not_know_it(put, store, make_spec):
    put("first")
    store.index.drop()
    with pytest.raises(IdTakenError, match="taken by another spec"):
        store.check_id(make_spec(id="first", feature_id=8))
    store.check_id(make_spec(id="first"))
    store.check_id(make_spec(id="firs", feature_id=8))


def test_ids_that_look_like_the_rest_of_a_file_name_are_told_apart(put, store, make_spec):
    put("a__f1")
    store.check_id(make_spec(id="a", feature_id=1))
    put("a", 1)
    assert store.result("a__f1").feature_id == 7
    assert store.result("a").feature_id == 1


@pytest.mark.parametrize("failing", ["link", "fsync"])
@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "No space left on device. Free some space"),
        (errno.EROFS, "Read-only file system. Name a folder that can be written with --home"),
        (errno.EPERM, "hard links are needed"),
    ],
)
def test_a_folder_that_fails_is_named_with_the_reason_and_left_clean(put, store, monkeypatch, failing, number, words):
    put("first")

    def fail(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, failing, fail)
    with pytest.raises(StoreError) as caught:
        put("second")
    assert words in str(caught.value)
    assert str(store.root) in str(caught.value)
    monkeypatch.undo()
    names = [path.name for folder in (store.specs, store.results) for path in folder.iterdir()]
    assert names == ["first__f7__family-1d-sweep.json"] * 2


def test_a_result_that_cannot_be_written_takes_its_spec_back(put, store, monkeypatch):
    real, calls = os.link, []

    def second_fails(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "full")
        real(source, target)

    monkeypatch.setattr(files.os, "link", second_fails)
    with pytest.raises(StoreError):
        put("first")
    assert list(store.specs.iterdir()) == list(store.results.iterdir()) == []
    assert ids(store) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(StoreError, match=r"runs.*--home"):
        Store(tmp_path / "runs").check_writable()


def test_a_probe_leaves_nothing(store):
    store.check_writable()
    assert [path for folder in (store.specs, store.results, store.root / "running") for path in folder.iterdir()] == []


def test_a_probe_leaves_the_index_current(put, store):
    put("first")
    os.utime(store.results, ns=(10**18, 10**18))
    assert ids(store) == ["first"]
    store.check_writable()
    assert store.index.use(lambda connection: index.is_current(connection, store.results))


@pytest.fixture
def probed(monkeypatch):
    """The folders in which a file was published."""
    real, seen = os.link, set()
    monkeypatch.setattr(files.os, "link", lambda source, target: (seen.add(Path(target).parent), real(source, target)))
    return seen


def test_one_probe_speaks_for_the_folders_of_its_file_system(store, probed):
    store.check_writable()
    assert probed == {store.root / "running"}


def test_a_folder_of_another_file_system_is_probed_itself(store, probed):
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == store.root.parent.parent.stat().st_dev:
        pytest.skip("there is no other file system here")
    with tempfile.TemporaryDirectory(dir=memory) as far:
        store.root.mkdir(parents=True)
        store.results.symlink_to(far)
        store.check_writable()
    assert probed == {store.root / "running", store.results}


_CHECK = """
import sys
from pathlib import Path
from mechinterp_runner.schemas.errors import StoreError
from mechinterp_runner.server.store.store import Store
try:
    Store(Path(sys.argv[1])).check_writable()
except StoreError as error:
    print(error)
"""


@pytest.mark.parametrize("folder", ["specs", "results", "running"])
def test_a_single_folder_that_cannot_be_written_is_found_before_a_run(store, folder):
    bound = [] if os.geteuid() else ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    if bound and shutil.which("setpriv") is None:
        pytest.skip("root heeds no file modes, and setpriv is not there to make it")
    store.check_writable()
    (store.root / folder).chmod(0o500)
    command = [*bound, sys.executable, "-W", "error", "-c", _CHECK, str(store.root)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (store.root / folder).chmod(0o700)
    assert f"cannot write in the folder {store.root / folder}: Permission denied" in said


def test_results_put_there_by_others_are_found_and_removed_ones_forgotten(put, store, tmp_path):
    path = put("first")
    other = Store(tmp_path / "other")
    other.check_writable()
    assert ids(other) == []
    (other.results / "any-name-at-all.json").write_bytes(path.read_bytes())
    assert ids(other) == ["first"]
    assert other.result("first").spec_id == "first"
    (other.results / "any-name-at-all.json").unlink()
    assert ids(other) == []


def test_an_unchanged_folder_is_not_read_again(put, store, monkeypatch):
    put("first")
    os.utime(store.results, ns=(10**18, 10**18))
    assert ids(store) == ["first"]
    monkeypatch.setattr(index, "file_names", None)  # would be called if the folder were listed again
    assert ids(store) == ["first"]


def test_a_freshly_changed_folder_is_not_trusted(put, store):
    put("first")
    assert ids(store) == ["first"]
    assert not store.index.use(lambda connection: index.is_current(connection, store.results))


def test_reindex_lists_what_it_cannot_read_and_keeps_it(put, store):
    put("first")
    (store.results / "broken.json").write_text('{"spec_id": "x"')
    (store.results / "foreign.json").write_text('{"spec_id": "x"}')
    found = store.reindex()
    assert found.count == 1
    assert [name for name, _ in found.unreadable] == ["broken.json", "foreign.json"]
    assert "feature_id" in dict(found.unreadable)["foreign.json"]
    assert (store.results / "broken.json").exists()
    assert ids(store) == ["first"]


def test_reindex_names_a_second_file_with_the_same_id(put, store):
    path = put("first")
    (store.results / "zz-copy.json").write_bytes(path.read_bytes())
    found = store.reindex()
    assert found.count == 1
    assert "has the id of first__f7" in dict(found.unreadable)["zz-copy.json"]


def test_reindex_removes_old_temporary_files_and_folders_only(store):
    store.check_writable()
    folders = (store.specs, store.results, store.root / "running")
    old, young = ([folder / f"{files.TEMPORARY}{age}" for folder in folders] for age in ("old", "young"))
    for path in (*old[:2], *young[:2]):
        path.write_text("")
    for path in (old[2], young[2]):  # of a process that was killed while it made its folder
        path.mkdir()
        (path / "alive.lock").touch()
    for path in old:
        os.utime(path, (0, 0))
    assert store.reindex().removed == 3
    assert [path.exists() for path in (*old, *young)] == [False] * 3 + [True] * 3


def test_a_run_that_ended_without_a_result_is_stored_with_the_reason(store, make_spec):
    spec = make_spec(id="first", model_type="demo", rationale="why it was asked", parent_hypothesis="h1")
    path = store.publish_unfinished(spec, "cancelled", "cancelled before it began")
    result = store.result("first")
    assert path == store.path("first")
    assert (result.success, result.status, result.error_message) == (False, "cancelled", "cancelled before it began")
    assert result.headline == "family_1d_sweep of feature 7 did not finish: cancelled before it began"
    assert result.tables == {}
    assert (result.provenance.bundle, result.provenance.rationale) == ("demo", "why it was asked")
    assert ids(store, parent_hypothesis="h1", bundle="demo", success=False) == ["first"]
    assert store.spec("first") == spec
    with pytest.raises(IdTakenError, match="has a result already"):
        store.publish_unfinished(spec, "failed", "again")


def test_a_corrupt_result_is_an_error_that_names_the_file(put, store):
    path = put("first")
    path.write_text("{")
    with pytest.raises(StoreError, match=r"first__f7.*is no readable result.*reindex"):
        store.result("first")


@pytest.mark.parametrize("content", [b"this is no database", b"SQLite format 3\0" + b"x" * 4096])
def test_a_broken_index_is_made_anew_from_the_files(put, store, content):
    put("first")
    file = store.index.path
    store.index.drop()
    file.write_bytes(content)
    assert ids(Store(store.root)) == ["first"]


def test_an_index_of_another_version_is_made_anew(put, store):
    put("first")
    connection = sqlite3.connect(store.index.path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert ids(store) == ["first"]


def test_an_index_that_cannot_be_beside_the_results_goes_to_the_cache(put, store):
    put("first")
    beside = index.index_path(store.root)
    store.index.drop()
    beside.mkdir()  # a folder cannot be opened as a database
    moved = Store(store.root)
    assert ids(moved) == ["first"]
    assert moved.index.path != beside


def test_a_network_folder_is_recognised_by_its_mount(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/x {tmp_path}/far nfs4 rw 0 0\n")
    assert files.on_network(tmp_path / "far" / "runs", mounts)
    assert not files.on_network(tmp_path / "near", mounts)
    assert not files.on_network(tmp_path, tmp_path / "absent")


def test_on_a_network_folder_the_index_lies_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "on_network", lambda _runs: True)
    assert not Index(tmp_path / "runs").path.is_relative_to(tmp_path / "runs")


def test_searches_narrow_by_every_field_newest_first(put, store):
    put("a", 1, moment="2025-01-01T00:00:00Z", parent_hypothesis="h1", description="Swim speed")
    put("b", 2, moment="2025-01-02T00:00:00Z", parent_spec_id="a", rationale="because of swim")
    put("c", 2, moment="2025-01-03T00:00:00Z", success=False, error_message="broke")
    assert ids(store) == ["c", "b", "a"]
    assert ids(store, feature_id=2) == ["c", "b"]
    assert ids(store, parent_hypothesis="h1") == ["a"]
    assert ids(store, parent_spec_id="a") == ["b"]
    assert ids(store, success=False) == ["c"]
    assert ids(store, success=True, feature_id=2) == ["b"]
    assert ids(store, text="SWIM") == ["b", "a"]
    assert ids(store, text="swim because") == ["b"]
    assert ids(store, text="%") == []
    assert ids(store, experiment_type="weapon_sweep") == []
    assert ids(store, bundle="demo", since="2025-01-02", until="2025-01-02T12:00:00") == ["b"]


def test_pages_say_how_many_there_are(put, store):
    for name in "abcde":
        put(name, moment=f"2025-01-0{ord(name) - 96}T00:00:00Z")
    total, page = store.search(Query(limit=2, offset=2))
    assert (total, [entry.spec_id for entry in page]) == (5, ["c", "b"])


_WRITER = """
import sys
from mechinterp_runner.schemas.errors import IdTakenError
from mechinterp_runner.schemas.result import ExperimentResult, Provenance
from mechinterp_runner.schemas.spec import ExperimentSpec
from mechinterp_runner.server.store.index import Query
from mechinterp_runner.server.store.store import Store
from pathlib import Path
store, me = Store(Path(sys.argv[1])), int(sys.argv[2])
won = 0
for number in range(12):
    shared = number % 3 == 0
    name = f"shared{number}" if shared else f"w{me}-{number}"
    spec = ExperimentSpec(type="family_1d_sweep", id=name, feature_id=me, variables={"family": "swim_speed_up"})
    origin = Provenance(started_at="2025-01-01T00:00:00Z")
    result = ExperimentResult(spec_id=name, feature_id=me, experiment_type=spec.type, provenance=origin,
                              success=True, duration_seconds=0.0)
    try:
        store.publish(spec, result)
        won += shared
    except IdTakenError:
        assert shared
    store.search(Query(text=name))
print(won)
"""


def test_several_processes_share_a_folder_and_each_id_goes_to_one(tmp_path):
    command = [sys.executable, "-W", "error", "-c", _WRITER, str(tmp_path / "runs")]
    writers = [subprocess.Popen([*command, str(me)], stdout=subprocess.PIPE, text=True) for me in range(4)]
    outputs = [writer.communicate(timeout=120)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0, 0]
    assert sum(int(output) for output in outputs) == 4
    store = Store(tmp_path / "runs")
    total, _ = store.search(Query())
    assert total == 4 * 8 + 4
    assert store.reindex().count == total
    assert list(Path(tmp_path).rglob(f"{files.TEMPORARY}*")) == []
