"""What is not as it should be is refused by name, and nothing appears."""

import json
import shutil
import sys

import numpy as np
import pytest
from mechinterp_runner.context.splatnlp import importer
from mechinterp_runner.schemas.errors import RequestError


def test_files_that_do_not_go_together_are_refused(before_any_work, artefacts):
    network, rows = artefacts.network(), artefacts.activations(dense=True)
    other = artefacts.transposed()["transposed"]
    assert "--model needs --params" in before_any_work(model=network["model"], params=network["params"], **rows)
    assert "--params describes a --model" in before_any_work(params=network["params"], **rows)
    assert "hold no tokens: give --activations" in before_any_work(transposed=other, **network)
    assert "give one of them" in before_any_work(transposed=other, neuron_acts=other, **rows)
    assert "give one of them" in before_any_work(tokenized_csv=network["params"], **rows, **network)
    assert "needs --model, --params and --sae" in before_any_work(sae=network["sae"])
    assert "--verify" in before_any_work(**rows, verify=3)
    assert "--verify must be at least 0; got -1" in before_any_work(**rows, verify=-1)
    assert "--instances-per-build must be at least 1" in before_any_work(**rows, instances_per_build=0)


def test_verify_needs_something_that_was_imported(before_any_work, artefacts):
    message = before_any_work(**artefacts.activations(), **artefacts.network(), verify=5)
    assert "needs imported activations or pooled vectors" in message


def test_a_path_that_is_not_there_or_not_of_its_kind_is_named(before_any_work, artefacts):
    rows = artefacts.activations(dense=True)
    gone = artefacts.folder / "gone"
    assert f"--activations: there is no folder {gone}" in before_any_work(activations=gone)
    assert "is not a file" in before_any_work(sae=artefacts.folder, **rows)
    assert "is not a folder" in before_any_work(**rows, transposed=artefacts.folder / "vocab.json")
    assert "has no folder metadata/" in before_any_work(activations=artefacts.folder)


def test_metadata_alone_without_a_model_says_nothing_of_features(before_any_work, artefacts):
    assert "nothing says what features do" in before_any_work(**artefacts.activations())
    files = artefacts.activations(pooled=True)
    assert "pooled vectors without an SAE" in before_any_work(**files)


def test_missing_and_surplus_batches_are_named(before_any_work, artefacts):
    files = artefacts.activations(dense=True)
    folder = files["activations"]
    shutil.move(folder / "metadata" / "batch_0001.parquet", folder / "metadata" / "aside")
    assert "of 3 batches, missing: 0001" in before_any_work(**files)
    shutil.move(folder / "metadata" / "aside", folder / "metadata" / "batch_0001.parquet")
    shutil.rmtree(folder / "activations" / "batch_0002.zarr")
    assert "of 3 batches, missing: 0002" in before_any_work(**files)
    artefacts.json("s.json", {"n_batches": 2}).replace(folder / "conversion_metadata.json")
    assert "of 2 batches, too many: 0002" in before_any_work(**files)


def test_two_batches_or_features_of_one_number_are_refused(before_any_work, artefacts):
    files = artefacts.activations(dense=True)
    for part, ending in (("metadata", "parquet"), ("activations", "zarr")):
        stray = files["activations"] / part / f"batch_1.{ending}"
        stray.symlink_to(f"batch_0000.{ending}")
        assert f"batch_0001.{ending} and batch_1.{ending} have the same number" in before_any_work(**files)
        stray.unlink()
    neurons = artefacts.neuron_acts()
    (neurons["neuron_acts"] / "neuron_4").symlink_to("neuron_0005")
    assert "neuron_0004 and neuron_4 have the same number" in before_any_work(**files, **neurons)


def test_a_summary_that_states_too_much_is_refused_in_no_time(before_any_work, artefacts):
    files = artefacts.activations(dense=True, summary={"n_batches": 10**15})
    message = before_any_work(**files)
    assert "of 1,000,000,000,000,000 batches, missing: 0003, 0004, 0005, 0006, 0007, 0008, 0009, 0010, …" in message


@pytest.mark.parametrize(
    ("summary", "said"),
    [
        ({"total_samples": 300}, "states 300 samples, the batches hold 304"),
        ({"n_features": 13}, "features by conversion_metadata.json 13, the activations 12"),
        ({"n_batches": "3"}, "n_batches is '3'; a whole number is expected"),
    ],
)
def test_a_summary_that_disagrees_is_refused(before_any_work, artefacts, summary, said):
    assert said in before_any_work(**artefacts.activations(dense=True, summary=summary))


def test_rows_of_batches_must_be_those_of_their_metadata(before_any_work, artefacts):
    files = artefacts.activations(dense=True)
    last = artefacts.rows[artefacts.batches[2]]
    artefacts.parquet(files["activations"], 2, last[:-1])
    (files["activations"] / "conversion_metadata.json").unlink()
    message = before_any_work(**files)
    assert "batch_0002.zarr has the shape (44, 12) where (43, 12) is expected" in message


def test_activations_by_feature_must_have_the_positions_of_the_metadata(before_any_work, artefacts):
    files = artefacts.activations() | artefacts.network()
    artefacts.acts = artefacts.acts[:-1]
    assert "has 303 positions where the metadata has 304 rows" in before_any_work(**files, **artefacts.transposed())


def test_the_sae_must_have_the_features_of_the_activations(before_any_work, artefacts):
    files = artefacts.activations(summary={"n_features": None}) | artefacts.network()
    artefacts.acts = artefacts.acts[:, :-1]
    assert "features by the SAE 12, the activations 11" in before_any_work(**files, **artefacts.transposed())
    assert "of 12 features, missing: 0011" in before_any_work(**files, **artefacts.neuron_acts())


def test_the_sae_must_have_the_features_of_the_summary_even_where_nothing_is_copied(before_any_work, artefacts):
    files = artefacts.activations(pooled=True, summary={"n_features": 11}) | artefacts.network()
    assert "features by conversion_metadata.json 11, the SAE 12" in before_any_work(**files)


def test_a_missing_neuron_is_not_taken_for_a_dead_one(before_any_work, artefacts):
    files = artefacts.activations() | artefacts.neuron_acts()
    shutil.rmtree(files["neuron_acts"] / "neuron_0004")
    assert "of 12 features, missing: 0004" in before_any_work(**files)


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("idxs", [0, 304], "position 304 is not in the 304 rows"),
        ("idxs", [-1, 3], "position -1 is not in"),
        ("idxs", np.array([3, 2**63 + 7], np.uint64), "position 9,223,372,036,854,775,815 is not in the 304 rows"),
        ("idxs", [5, 5], "position 5 occurs twice"),
        ("idxs", [1], "2 values in acts.npy, 1 positions"),
        ("idxs", [0.0, 1.0], "holds float64"),
        ("acts", [1.0, np.nan], "values are no activations, such as nan"),
        ("acts", [[1.0, 2.0]], "of shape (1, 2)"),
    ],
)
def test_a_spoilt_neuron_is_named(refused, artefacts, name, values, said):
    files = artefacts.activations() | artefacts.neuron_acts()
    folder = files["neuron_acts"] / "neuron_0007"
    np.save(folder / "acts.npy", np.array([1.0, 2.0], np.float32))
    np.save(folder / "idxs.npy", np.array([3, 9]))
    np.save(folder / f"{name}.npy", np.array(values))
    message = refused(**files)
    assert said in message
    assert "neuron_0007" in message


def test_an_archive_in_place_of_an_array_is_named(refused, artefacts):
    files = artefacts.activations() | artefacts.neuron_acts()
    path = files["neuron_acts"] / "neuron_0007" / "acts.npy"
    with path.open("wb") as stream:
        np.savez(stream, acts=np.ones(3, np.float32))
    assert f"{path} cannot be read as an array" in refused(**files)


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.25, 7.0])
@pytest.mark.parametrize("path", ["dense", "transposed"])
def test_values_that_no_activation_can_have_are_refused(refused, artefacts, path, value):
    artefacts.acts[140, 5] = value
    files = artefacts.activations(dense=path == "dense")
    message = refused(**files, **(artefacts.transposed() if path == "transposed" else {}))
    assert f"1 values are no activations, such as {value:g}" in message
    assert ("batch_0001.zarr, rows 0 to 49" in message) or ("features 4 to 5" in message)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_pooled_vector_that_cannot_be_one_is_refused(refused, artefacts, value):
    artefacts.pooled[123] = value
    message = refused(**artefacts.activations(pooled=True), **artefacts.network())
    assert "sae_input.zarr, row 123: the pooled vector is all zeros or not finite" in message


def test_pooled_vectors_of_another_size_are_refused(before_any_work, artefacts):
    files = artefacts.activations(pooled=True)
    sae = artefacts.network()["sae"]
    artefacts.pooled = artefacts.pooled[:-1]
    shutil.rmtree(files["activations"] / "embeddings")
    artefacts.activations(pooled=True)
    assert "has 303 rows where the metadata has 304" in before_any_work(**files, sae=sae)
    artefacts.pooled = np.ones((304, 9), np.float32)
    shutil.rmtree(files["activations"] / "embeddings")
    artefacts.activations(pooled=True)
    assert "holds vectors of 9 where the SAE reads 8" in before_any_work(**files, sae=sae)


def test_a_zarr_folder_that_is_none_is_named(before_any_work, artefacts):
    import zarr

    files = artefacts.activations(dense=True)
    batch = files["activations"] / "activations" / "batch_0001.zarr"
    shutil.rmtree(batch)
    batch.mkdir()
    assert f"{batch} cannot be read as a zarr array: it holds no zarr.json" in before_any_work(**files)
    batch.rmdir()
    zarr.create_group(str(batch))
    assert "it is a group of arrays" in before_any_work(**files)
    shutil.rmtree(batch)
    zarr.create_array(str(batch), shape=(130, 12), dtype="int32", chunks=(50, 12))
    assert "it holds int32" in before_any_work(**files)
    shutil.rmtree(batch)
    batch.write_text("a file")
    assert "there is no such folder" in before_any_work(**files)


def test_a_chunk_that_cannot_be_decoded_is_named(refused, artefacts):
    files = artefacts.activations(dense=True)
    batch = files["activations"] / "activations" / "batch_0001.zarr"
    (batch / "c" / "1" / "0").write_bytes(b"damaged")
    assert f"{batch} cannot be read as a zarr array" in refused(**files)


def test_without_zarr_the_extra_is_named(before_any_work, artefacts, monkeypatch):
    files = artefacts.activations(dense=True)
    monkeypatch.setitem(sys.modules, "zarr", None)
    assert "pip install 'mechinterp-runner[import]'" in before_any_work(**files)


def test_without_zarr_what_needs_none_is_imported(artefacts, monkeypatch):
    files = artefacts.activations() | artefacts.neuron_acts()
    monkeypatch.setitem(sys.modules, "zarr", None)
    context, _ = artefacts.load(**files)
    assert np.array_equal(context.activations(1), artefacts.acts[:, 1])


def vocab_id(artefacts, token):
    return artefacts.contents.vocabulary[token]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (lambda a: (0, [99]), "an ability id outside the vocabulary"),
        (lambda a: (0, [-1]), "an ability id outside the vocabulary"),
        (lambda a: (4, [1]), "a weapon id outside the weapon vocabulary"),
        (lambda a: (0, [vocab_id(a, "comeback"), vocab_id(a, "<NULL>")]), "<NULL> beside other tokens"),
        (lambda a: (0, [vocab_id(a, "<NULL>")] * 2), "<NULL> beside other tokens"),
        (lambda a: (0, [vocab_id(a, "comeback")] * 2), "a token twice"),
        (lambda a: (0, None), "the ability tokens are not a list of ids"),
        (lambda a: (0, [1, None]), "the ability tokens are not a list of ids"),
    ],
)
def test_a_row_that_is_no_set_is_named_by_its_batch_and_sample(refused, artefacts, row, said):
    files = artefacts.activations(dense=True)
    rows = artefacts.rows[artefacts.batches[1]]
    rows[33] = row(artefacts)
    artefacts.parquet(files["activations"], 1, rows)
    message = refused(**files)
    assert "batch_0001.parquet: sample_id 33" in message
    assert said in message


def test_a_mask_token_in_a_row_is_refused(refused, artefacts):
    files = artefacts.activations(dense=True)
    vocabulary = artefacts.contents.vocabulary
    rows = artefacts.rows[artefacts.batches[0]]
    rows[5] = (0, [vocabulary["comeback"], len(vocabulary)])
    artefacts.parquet(files["activations"], 0, rows)
    vocab = artefacts.json("mask.json", vocabulary | {"<MASK>": len(vocabulary)})
    assert "sample_id 5: <MASK> in the set" in refused(**files, vocab=vocab)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_id": [0] * 44}, "a row says that it is of batch 0"),
        ({"sample_id": [1, *range(1, 44)]}, "sample_id does not number its 44 rows from 0"),
        ({"weapon_id_token": [None] * 44}, "weapon_id_token holds 44 missing values"),
        ({"ability_tokens": ["[1]"] * 44}, "ability_tokens holds string"),
        ({"ability_tokens": [["a"]] * 44}, "cannot be read"),
    ],
)
def test_metadata_of_another_form_is_refused(refused, artefacts, changes, said):
    files = artefacts.activations(dense=True)
    artefacts.parquet(files["activations"], 2, artefacts.rows[artefacts.batches[2]], **changes)
    assert said in refused(**files)


def test_parquet_that_is_none_or_lacks_a_column_is_refused(before_any_work, artefacts):
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = artefacts.activations(dense=True)
    path = files["activations"] / "metadata" / "batch_0002.parquet"
    pq.write_table(pa.table({"batch_id": [2]}), path)
    assert "has no column 'sample_id'; its columns are batch_id" in before_any_work(**files)
    path.write_bytes(b"PAR1")
    assert f"{path} cannot be read as parquet" in before_any_work(**files)


def test_a_folder_that_is_not_empty_is_refused_before_anything_is_read(artefacts, monkeypatch):
    target = artefacts.folder / "home" / "ultra"
    target.mkdir(parents=True)
    (target / "mine.txt").write_text("mine")
    monkeypatch.setattr(importer, "make_plan", lambda *_: pytest.fail("it was read"))
    with pytest.raises(RequestError, match="already exists and is not an empty folder"):
        artefacts.imported()
    assert [path.name for path in target.iterdir()] == ["mine.txt"]


def test_batches_without_a_row_are_refused(before_any_work, artefacts):
    folder = artefacts.folder / "empty"
    artefacts.parquet(folder, 0, [])
    (folder / "conversion_metadata.json").write_text(json.dumps({"n_batches": 1}))
    assert "its batches hold no row" in before_any_work(activations=folder, **artefacts.network())
