"""The index when it is damaged, locked or has no room: the files are the truth, and nothing stored is lost."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest
from mechinterp_runner.schemas.errors import IdTakenError, StoreError
from mechinterp_runner.server.executor import Executor
from mechinterp_runner.server.store import index as index_module
from mechinterp_runner.server.store import store as store_module
from mechinterp_runner.server.store.index import Index, Query
from mechinterp_runner.server.store.store import Store

PAGE = 4096


@contextmanager
def locked(path):
    """Another process holds the index for writing, for longer than anybody waits."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.rollback()


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(index_module, "_BUSY_SECONDS", 0.05)


@pytest.fixture
def damaged(store, executor, ctx, make_spec):
    """A store of forty results in whose index every page but the first is damaged."""
    for feature in range(40):
        executor.execute(make_spec(feature_id=feature, id=f"of-{feature}", description="long " * 300), ctx)
    path = store.index.path
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(path.read_bytes())
    for start in range(PAGE, len(data), PAGE):
        data[start : start + 200] = b"Z" * 200
    path.write_bytes(data)
    with closing(sqlite3.connect(path)) as connection, pytest.raises(sqlite3.DatabaseError, match="malformed"):
        connection.execute("SELECT SUM(LENGTH(haystack)) FROM results").fetchone()
    return store.root


@pytest.mark.parametrize(
    "use",
    [
        lambda store, run: store.find("of-7").feature_id == 7,
        lambda store, run: store.search(Query(text="long"))[0] == 40,
        lambda store, run: store.reindex().count == 40,
        lambda store, run: run() and store.search(Query())[0] == 41,
    ],
    ids=["find", "search", "reindex", "run"],
)
def test_an_index_with_damaged_pages_is_made_anew(damaged, use, make_spec, ctx):
    store = Store(damaged)
    assert use(store, lambda: Executor(store).execute(make_spec(feature_id=50), ctx).success)
    assert Store(damaged).find("of-39").feature_id == 39


def test_an_index_that_stays_damaged_is_an_error_of_the_store(store):
    def work(_connection):
        raise sqlite3.DatabaseError("database disk image is malformed")

    with pytest.raises(StoreError, match=r"index.*malformed"):
        store.index.use(work)


def test_a_run_whose_files_are_stored_when_the_index_breaks_is_stored_once(
    store, executor, ctx, make_spec, monkeypatch
):
    executor.execute(make_spec(), ctx)
    real, broken = index_module.put, [sqlite3.DatabaseError("database disk image is malformed")]

    def put(connection, entry):
        if broken:
            raise broken.pop()
        real(connection, entry)

    monkeypatch.setattr(index_module, "put", put)
    assert executor.execute(make_spec(id="mine", rungs=[6]), ctx).success
    assert store.search(Query())[0] == 2


def test_a_run_that_ends_while_the_index_is_locked_is_stored_and_found_later(
    store, executor, ctx, make_spec, toy, impatient, caplog
):
    executor.execute(make_spec(), ctx)
    with locked(store.index.path):
        result = executor.execute(make_spec(id="mine", rungs=[6]), ctx)
        assert "database is locked" in caplog.text
        with pytest.raises(IdTakenError, match="has a result already"):
            store.publish(make_spec(id="mine", rungs=[6]), result)
        with pytest.raises(IdTakenError, match="is taken by another spec"):
            store.publish(make_spec(id="mine", feature_id=8), result)
    assert store.result("mine").status == "done"
    assert executor.execute(make_spec(rungs=[6]), ctx).cached
    assert toy.runs == 2


def test_a_run_is_stored_when_no_folder_can_hold_the_index(store, make_spec, executor, ctx, tmp_path, caplog):
    result = executor.execute(make_spec(), ctx)
    (tmp_path / "file").write_text("")
    store.index._places, store.index._chosen = [tmp_path / "file" / "index.sqlite"], None
    spec = make_spec(id="mine", rungs=[6])
    store.publish(spec, result.model_copy(update={"spec_id": "mine"}))
    assert "no folder can hold the index" in caplog.text
    assert Store(store.root).result("mine").feature_id == 7


def test_others_can_store_while_new_results_are_read(store, executor, ctx, make_spec, monkeypatch):
    for feature in range(3):
        executor.execute(make_spec(feature_id=feature), ctx)
    store.index.use(index_module.clear)
    real, seen = store_module.read_result, []

    def read(path):
        with closing(sqlite3.connect(store.index.path, timeout=0, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")  # raises when a transaction is open
            other.rollback()
        seen.append(path)
        return real(path)

    monkeypatch.setattr(store_module, "read_result", read)
    assert store.search(Query())[0] == len(seen) == 3


def test_what_one_thread_reads_the_others_need_not(store, executor, ctx, make_spec, monkeypatch):
    for feature in range(3):
        executor.execute(make_spec(feature_id=feature), ctx)
    store.index.use(index_module.clear)
    real, seen, begin = store_module.read_result, [], threading.Barrier(4)

    def read(path):
        seen.append(path)
        return real(path)

    def search(_number):
        begin.wait(10)
        return store.search(Query())[0]

    monkeypatch.setattr(store_module, "read_result", read)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(search, range(4))) == [3] * 4
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("error", "at"),
    [
        (sqlite3.OperationalError("database or disk is full"), 1),
        (sqlite3.DatabaseError("database disk image is malformed"), 0),
    ],
)
def test_a_failure_that_two_threads_see_is_mended_once(tmp_path, monkeypatch, error, at):
    index = Index(tmp_path / "runs")
    places, both, failed = list(index._places), threading.Barrier(2), threading.local()
    real, drops = index.drop, []
    monkeypatch.setattr(index, "drop", lambda: (drops.append(1), real()))

    def work(_connection):
        if not hasattr(failed, "once"):
            failed.once = True
            both.wait(10)
            raise error
        return index.path

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _number: index.use(work), range(2)))
    assert found == [places[at]] * 2
    assert len(drops) == (1 - at)
