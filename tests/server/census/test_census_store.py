"""A census is taken block by block, can be interrupted, and appears whole."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from mechinterp_runner import census, find_features, load_context
from mechinterp_runner.context.device import Compute
from mechinterp_runner.schemas.errors import Cancelled, RequestError, StoreError
from mechinterp_runner.schemas.job import Job
from mechinterp_runner.server.census import take
from mechinterp_runner.server.census.store import CensusStore
from mechinterp_runner.server.census.table import CensusTable
from mechinterp_runner.server.census.take import CensusOptions, take_census

BLOCKS = CensusOptions(block=3)


@pytest.fixture
def toy_ctx(home, data_bundle):
    """600 examples, 8 features, no model."""
    return load_context("toy", home=home.root, device="cpu")


class Watched(Job):
    """A job that remembers its progress and stops after some reports."""

    def __init__(self, stop_after=None):
        self.seen = []
        super().__init__(
            on_progress=lambda done, total, message: self.seen.append((done, total, message)),
            is_cancelled=lambda: stop_after is not None and len(self.seen) >= stop_after,
        )

    @property
    def done(self):
        return [done for done, _, _ in self.seen]


def rows_of(path):
    """Every number of a census, as JSON: NaN equals NaN there."""
    return json.dumps(pq.read_table(path).to_pylist())


def test_a_census_reports_its_progress_with_rate_and_time_left(toy_ctx, home):
    job = Watched()
    take_census(toy_ctx, home, BLOCKS, job=job)
    assert job.done == [0, 3, 6, 8]
    assert all(total == 8 for _, total, _ in job.seen)
    assert all("a second" in message and "left" in message for _, _, message in job.seen[1:])


def test_an_interrupted_census_goes_on_where_it_was_and_equals_an_uninterrupted_one(toy_ctx, home, tmp_path):
    with pytest.raises(Cancelled, match="6 of 8 features are kept"):
        take_census(toy_ctx, home, BLOCKS, job=Watched(stop_after=3))
    store = CensusStore(home, "toy", toy_ctx.bundle.fingerprint)
    assert not store.path().exists()
    kept = BLOCKS.span(toy_ctx)
    assert len(list(store.blocks(kept.blocks_key).glob("*.parquet"))) == 2
    again = Watched()
    path = take_census(toy_ctx, home, BLOCKS, job=again)
    assert again.done == [6, 8]
    other = type(home).find(tmp_path / "other")
    assert rows_of(path) == rows_of(take_census(toy_ctx, other, BLOCKS))
    assert [each.name for each in store.folder.iterdir()] == [path.name]


def test_a_stored_census_is_not_taken_again_unless_fresh(toy_ctx, home):
    path = take_census(toy_ctx, home, BLOCKS)
    before, job = rows_of(path), Watched()
    assert take_census(toy_ctx, home, BLOCKS, job=job) == path
    assert job.seen == []
    take_census(toy_ctx, home, BLOCKS, job=job, fresh=True)
    assert job.done[-1] == 8
    assert rows_of(path) == before


def test_a_stored_census_is_not_taken_again_in_blocks_of_another_size(toy_ctx, home):
    path, job = take_census(toy_ctx, home, BLOCKS), Watched()
    assert take_census(toy_ctx, home, CensusOptions(block=5), job=job) == path
    assert take_census(toy_ctx, home, CensusOptions(memory=1 << 28), job=job) == path
    assert job.seen == []


def test_kept_blocks_are_joined_with_their_like_only(toy_ctx, home):
    with pytest.raises(Cancelled, match="3 of 8 features are kept"):
        take_census(toy_ctx, home, BLOCKS, job=Watched(stop_after=2))
    job = Watched()
    take_census(toy_ctx, home, CensusOptions(block=5), job=job)
    assert job.done == [0, 5, 8]


def test_a_census_that_another_process_stored_meanwhile_is_not_taken_twice(toy_ctx, home, monkeypatch):
    """Its lock was awaited after the first look at the store."""
    path = take_census(toy_ctx, home, BLOCKS)
    looks, job = iter([None]), Watched()
    real = take.stored_key
    monkeypatch.setattr(take, "stored_key", lambda where: next(looks, real(where)))
    assert take_census(toy_ctx, home, BLOCKS, job=job) == path
    assert job.seen == []


def test_a_census_of_other_code_is_taken_again(toy_ctx, home, monkeypatch):
    take_census(toy_ctx, home, BLOCKS)
    job = Watched()
    monkeypatch.setattr(take, "code_digest", lambda: "other")
    take_census(toy_ctx, home, BLOCKS, job=job)
    assert job.done[-1] == 8


def test_the_size_of_blocks_changes_no_number(toy_ctx, home):
    frames = [census(toy_ctx, home=home.root, block=size, fresh=True) for size in (1, 3, 8)]
    for frame in frames[1:]:
        assert frame["feature_id"].tolist() == list(range(8))
        assert frame["label"].tolist() == frames[0]["label"].tolist()
        for name in ("rate", "mean", "std", "max", "active_builds", "nearest_cosine"):
            np.testing.assert_allclose(frame[name], frames[0][name], rtol=1e-5)


def test_a_part_of_the_features_is_stored_under_its_own_name(toy_ctx, home):
    frame = census(toy_ctx, home=home.root, features=(2, 5))
    store = CensusStore(home, "toy", toy_ctx.bundle.fingerprint)
    assert frame["feature_id"].tolist() == [2, 3, 4]
    assert store.path((2, 5)).is_file()
    assert not store.path().exists()
    assert store.find().meta.stop == 5
    whole = census(toy_ctx, home=home.root)
    np.testing.assert_allclose(whole["mean"][2:5], frame["mean"], rtol=1e-5)
    assert store.find().meta.whole


def test_the_file_says_what_it_is_of(toy_ctx, home):
    path = take_census(toy_ctx, home, BLOCKS)
    stored = json.loads(pq.read_schema(path).metadata[b"mechinterp_census"])
    assert stored["fingerprint"] == toy_ctx.bundle.fingerprint
    assert (stored["bundle"], stored["n_examples"], stored["format"]) == ("toy", 600, 1)
    assert stored["held"]["weapon"] == np.bincount(toy_ctx.data.weapon).tolist()
    assert any("promoted and suppressed are null" in note for note in stored["notes"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (CensusOptions(features=(0, 9)), r"features 0 to 8 are out of range: bundle 'toy' has features 0 to 7"),
        (CensusOptions(features=(3, 3)), "out of range"),
        (CensusOptions(block=0), "block 0"),
        (CensusOptions(memory=1000), r"needs at least [\d,]+ MiB"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_written(toy_ctx, home, options, message):
    with pytest.raises(RequestError, match=message + r".*Nothing was run"):
        take_census(toy_ctx, home, options)
    assert not (home.root / "census").exists()


def test_two_processes_do_not_take_the_same_census(toy_ctx, home):
    span = BLOCKS.span(toy_ctx)
    folder = CensusStore(home, "toy", toy_ctx.bundle.fingerprint).blocks(span.blocks_key)
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"), pytest.raises(RequestError, match="another process takes this census"):
        take_census(toy_ctx, home, BLOCKS)


def test_a_damaged_block_is_named_with_its_folder(toy_ctx, home):
    with pytest.raises(Cancelled):
        take_census(toy_ctx, home, BLOCKS, job=Watched(stop_after=2))
    store = CensusStore.of(toy_ctx, home)
    folder = store.blocks(BLOCKS.span(toy_ctx).blocks_key)
    next(folder.glob("*.parquet")).write_bytes(b"no parquet at all")
    with pytest.raises(StoreError, match=f"finished blocks in .*{folder.name} cannot be joined.*Remove that folder"):
        take_census(toy_ctx, home, BLOCKS)
    assert [each.name for each in store.folder.iterdir()] == [folder.name]


@pytest.mark.parametrize("name", ["my bundle", "a[1]"])
def test_a_bundle_whose_name_no_spec_can_hold_is_refused(toy_ctx, home, name):
    toy_ctx.name = name
    for ask in (lambda: take_census(toy_ctx, home), lambda: find_features("comeback", toy_ctx, home=home.root)):
        with pytest.raises(RequestError, match=r"is no name a spec can hold.*Nothing was run"):
            ask()


def test_a_file_that_is_no_census_is_named(toy_ctx, home):
    path = take_census(toy_ctx, home, BLOCKS)
    path.write_bytes(b"no parquet")
    with pytest.raises(StoreError, match=f"{path.name} cannot be read"):
        CensusTable.open(path)
    table = pq.read_table(take_census(toy_ctx, home, BLOCKS, fresh=True))
    pq.write_table(table.replace_schema_metadata(), path)
    with pytest.raises(StoreError, match="is no census"):
        CensusTable.open(path)


def test_a_bundle_without_examples_has_no_census(home, toy_ctx):
    toy_ctx.examples = None
    with pytest.raises(RequestError, match="holds no examples"):
        take_census(toy_ctx, home)


def test_the_sums_run_on_the_device_that_was_chosen(toy_ctx, monkeypatch):
    import torch
    from mechinterp_runner.context.feature_sums import device_for_sums

    assert device_for_sums(toy_ctx) == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    toy_ctx.compute = Compute(device="auto")
    assert device_for_sums(toy_ctx) == "cuda"


def test_a_census_of_an_older_format_is_taken_again(toy_ctx, home):
    path = take_census(toy_ctx, home, BLOCKS)
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({"mechinterp_census": json.dumps({"format": 0})}), path)
    with pytest.raises(StoreError, match="format 0; this version reads 1"):
        CensusTable.open(path)
    take_census(toy_ctx, home, BLOCKS)
    assert CensusTable.open(path).meta.n_examples == 600
