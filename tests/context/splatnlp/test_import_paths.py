"""Every way in gives the same bundle: the examples by position, the activations of the dense truth."""

import json
import shutil

import numpy as np
import pytest
from mechinterp_runner.context.bundle import Bundle
from mechinterp_runner.context.device import Compute
from mechinterp_runner.schemas.errors import RequestError


def all_columns(context):
    return np.stack([context.activations(feature) for feature in range(context.n_features)], axis=1)


def assert_examples(context, artefacts):
    null = artefacts.contents.vocabulary["<NULL>"]
    assert context.examples.weapon.tolist() == [weapon for weapon, _ in artefacts.rows]
    stored = np.split(context.examples.tokens, context.examples.indptr[1:-1])
    assert [row.tolist() for row in stored] == [sorted(tokens) or [null] for _, tokens in artefacts.rows]
    assert np.array_equal(context.examples.levels, artefacts.contents.levels)


FROM_FILES = {
    "dense batches": lambda a: a.activations(dense=True),
    "transposed": lambda a: a.activations() | a.transposed(),
    "neuron acts": lambda a: a.activations() | a.neuron_acts(),
}


@pytest.mark.parametrize("path", FROM_FILES)
def test_stored_activations_come_through_exactly_and_need_no_weights(artefacts, path):
    context, made = artefacts.load(**FROM_FILES[path](artefacts))
    assert_examples(context, artefacts)
    assert np.array_equal(all_columns(context), artefacts.acts)
    manifest = made.manifest
    assert (manifest.model, manifest.hidden_dim, manifest.n_features) == (None, None, 12)
    assert not context.has_model
    assert context.sae is None
    with pytest.raises(RequestError, match="needs the model"):
        _ = context.oracle
    assert artefacts.left == ["ultra"]


@pytest.mark.parametrize("path", FROM_FILES)
def test_columns_are_stored_by_ascending_position(artefacts, path):
    context, _ = artefacts.load(**FROM_FILES[path](artefacts))
    rows, indptr = context.bundle.array("activations/rows.npy"), context.bundle.array("activations/indptr.npy")
    wanted = [np.flatnonzero(column) for column in artefacts.acts.T]
    assert indptr.tolist() == np.cumsum([0, *map(len, wanted)]).tolist()
    assert np.array_equal(rows, np.concatenate(wanted))


def test_metadata_alone_is_enough_with_a_model_and_an_sae(artefacts, naive_pooled):
    context, made = artefacts.load(**artefacts.activations(), **artefacts.network())
    assert_examples(context, artefacts)
    assert np.abs(context.bundle.array("pooled.npy") - naive_pooled).max() < 1e-5
    assert np.abs(all_columns(context) - artefacts.acts).max() < 1e-5
    assert made.manifest.made_by["pooled_vectors_from"] == f"the network, on {context.device} in float32"
    assert context.has_model


def test_vectors_kept_on_disk_for_other_bundles_are_not_taken_for_computed_ones(artefacts, monkeypatch, tmp_path):
    kept = tmp_path / "kept"
    monkeypatch.setenv("MECHINTERP_POOLED_CACHE", str(kept))
    files = artefacts.activations(dense=True) | artefacts.network()
    _, made = artefacts.load(**files, verify=304)
    assert made.verified.agrees
    assert not kept.exists()


def test_pooled_vectors_can_be_left_to_first_use(artefacts):
    context, made = artefacts.load(**artefacts.activations(), **artefacts.network(), pooled=False)
    assert not context.bundle.has("pooled.npy")
    assert made.manifest.made_by["pooled_vectors_from"] is None
    assert np.abs(all_columns(context) - artefacts.acts).max() < 1e-5


def test_stored_pooled_vectors_with_an_sae_need_no_activations(artefacts):
    files = artefacts.activations(dense=True, pooled=True)
    context, made = artefacts.load(**files, sae=artefacts.network()["sae"])
    assert np.array_equal(context.bundle.array("pooled.npy"), artefacts.pooled)
    assert not context.bundle.has("activations/indptr.npy")
    assert np.abs(all_columns(context) - artefacts.acts).max() < 1e-5
    assert (made.manifest.model, made.manifest.hidden_dim) == (None, 8)
    assert made.manifest.made_by["activations_from"] == "the SAE, from pooled vectors"


def test_activations_that_are_named_are_imported_beside_pooled_vectors(artefacts):
    files = artefacts.activations(pooled=True) | artefacts.transposed()
    context, _ = artefacts.load(**files, **artefacts.network())
    assert np.array_equal(all_columns(context), artefacts.acts)
    assert np.array_equal(context.bundle.array("pooled.npy"), artefacts.pooled)


def test_pooled_vectors_without_an_sae_keep_their_width(artefacts):
    context, made = artefacts.load(**artefacts.activations(dense=True, pooled=True))
    assert made.manifest.hidden_dim == 8
    assert np.array_equal(all_columns(context), artefacts.acts)
    assert context.random_directions() is not None


def test_weights_alone_make_a_bundle_without_examples(artefacts, naive_pooled):
    context, made = artefacts.load(**artefacts.network())
    assert made.manifest.n_examples == 0
    assert made.manifest.made_by["examples_from"] is None
    assert context.examples is None
    assert set(context.bundle.tensors("sae.safetensors")) == {
        "encoder.weight", "encoder.bias", "decoder.weight", "decoder_bias", "usage_ema",
    }  # fmt: skip


def test_the_dead_feature_stays_dead_and_the_first_one_may_be(artefacts):
    artefacts.acts[:, 0] = 0.0
    for path in FROM_FILES.values():
        files = path(artefacts)
        context, _ = artefacts.load(**files)
        assert not context.activations(0).any()
        assert np.array_equal(all_columns(context), artefacts.acts)
        shutil.rmtree(artefacts.folder / "home")
        for folder in files.values():
            shutil.rmtree(folder)


def test_no_activation_at_all_is_a_bundle_of_dead_features(artefacts):
    artefacts.acts[:] = 0.0
    context, _ = artefacts.load(**artefacts.activations(dense=True))
    assert not all_columns(context).any()


def test_the_vocabulary_may_hold_a_mask_token(artefacts):
    vocabulary = artefacts.contents.vocabulary
    files = artefacts.activations(dense=True)
    wanted = vocabulary | {"<MASK>": len(vocabulary)}
    context, _ = artefacts.load(**files, vocab=artefacts.json("with mask.json", wanted))
    assert context.vocabulary.mask_id == len(vocabulary)
    assert_examples(context, artefacts)


def test_padding_is_dropped_and_an_empty_row_is_the_empty_set(artefacts):
    vocabulary = artefacts.contents.vocabulary
    weapon, tokens = artefacts.rows[0]
    assert tokens == [vocabulary["<NULL>"]]
    artefacts.rows[0] = (weapon, [])
    artefacts.rows[10] = (artefacts.rows[10][0], [*artefacts.rows[10][1], vocabulary["<PAD>"], vocabulary["<PAD>"]])
    files = artefacts.activations(dense=True)
    artefacts.rows[10] = (artefacts.rows[10][0], artefacts.rows[10][1][:-2])
    context, _ = artefacts.load(**files)
    assert_examples(context, artefacts)


def test_the_bundle_says_where_it_came_from(artefacts):
    files = artefacts.activations(dense=True)
    network = artefacts.network()
    context, _ = artefacts.load(**files, **network)
    described = context.describe()
    made_by = described["made_by"]
    assert set(made_by["inputs"]) == {
        "vocab", "weapon_vocab", "model", "params", "sae", "metadata", "conversion_metadata", "activations",
    }  # fmt: skip
    import hashlib

    model = made_by["inputs"]["model"]
    assert model == {
        "path": str(network["model"]),
        "bytes": network["model"].stat().st_size,
        "sha256": hashlib.sha256(network["model"].read_bytes()).hexdigest(),
    }
    batches = sorted((files["activations"] / "activations").rglob("*"))
    there = [path for path in batches if path.is_file()]
    assert made_by["inputs"]["activations"]["files"] == len(there)
    assert made_by["inputs"]["activations"]["bytes"] == sum(path.stat().st_size for path in there)
    assert made_by["options"] == {"pooled": True, "device": context.device, "dtype": "float32"}
    assert made_by["versions"]["mechinterp-runner"]
    assert described["missing"] == {
        "examples/build_id.npy": "builds unknown: examples of the same weapon and token set count as one cluster"
    }


def test_paths_are_stated_in_full_wherever_they_were_given_from(artefacts, monkeypatch):
    files = artefacts.activations(dense=True)
    monkeypatch.chdir(artefacts.folder)
    _, made = artefacts.load(activations=files["activations"].relative_to(artefacts.folder))
    inputs = made.manifest.made_by["inputs"]
    assert inputs["activations"]["path"] == str(files["activations"] / "activations")
    assert inputs["conversion_metadata"]["path"] == str(files["activations"] / "conversion_metadata.json")


def test_the_same_files_give_the_same_bundle(artefacts):
    files = artefacts.activations(dense=True) | artefacts.network()
    target = artefacts.folder / "home" / "ultra"
    artefacts.imported(**files)
    first = Bundle.open(target).fingerprint
    shutil.rmtree(target)
    artefacts.imported(**files)
    assert Bundle.open(target).fingerprint == first


def test_a_wrong_total_that_counts_the_last_batch_as_full_is_noted(artefacts):
    files = artefacts.activations(dense=True, summary={"total_samples": 390})
    _, made = artefacts.load(**files)
    (note,) = made.notes
    assert note.startswith("conversion_metadata.json states 390 samples, the batches hold 304: it counts the last")


def test_a_folder_without_a_summary_is_imported_with_a_note(artefacts):
    files = artefacts.activations(dense=True)
    (files["activations"] / "conversion_metadata.json").unlink()
    context, made = artefacts.load(**files)
    assert np.array_equal(all_columns(context), artefacts.acts)
    assert "cannot be known" in made.notes[0]


def test_chunks_without_a_file_are_noted(artefacts):
    files = artefacts.activations(dense=True)
    (chunk,) = (files["activations"] / "activations" / "batch_0001.zarr" / "c" / "1").iterdir()
    chunk.unlink()
    _, made = artefacts.load(**files)
    (note,) = made.notes
    assert note.startswith("batch_0001.zarr: 1 of its chunks are not stored and read as zeros")


def test_a_feature_missing_at_the_end_is_not_known_of_and_that_is_noted(artefacts):
    files = artefacts.activations(summary={"n_features": None}) | artefacts.neuron_acts()
    _, made = artefacts.load(**files)
    assert made.notes[0].startswith("nothing states the number of features: that none is missing at the end")


def test_links_below_a_folder_are_followed_and_their_files_stated(artefacts):
    files = artefacts.activations(dense=True)
    linked = artefacts.folder / "elsewhere.zarr"
    batch = files["activations"] / "activations" / "batch_0001.zarr"
    shutil.move(batch, linked)
    batch.symlink_to(linked)
    context, made = artefacts.load(**files)
    assert np.array_equal(all_columns(context), artefacts.acts)
    there = [path for folder in (batch.parent, linked) for path in folder.rglob("*") if path.is_file()]
    assert made.manifest.made_by["inputs"]["activations"]["files"] == len(there)


def test_verify_compares_in_float32_what_was_computed_in_bfloat16(artefacts):
    files = artefacts.activations(dense=True) | artefacts.network()
    context, made = artefacts.load(**files, compute=Compute(device="cpu", dtype="bfloat16"), verify=304)
    assert np.abs(context.bundle.array("pooled.npy") - artefacts.pooled).max() > 1e-3
    assert made.verified.largest_difference < 1e-5


def test_verify_finds_nothing_but_rounding_where_the_files_are_of_the_model(artefacts):
    files = artefacts.activations(dense=True, pooled=True) | artefacts.transposed() | artefacts.network()
    _, made = artefacts.load(**files, verify=40)
    found = made.verified
    assert (found.rows, found.features) == (40, 12)
    assert 0 <= found.largest_difference < 1e-5
    assert 0 <= found.largest_pooled_difference < 1e-5
    assert found.agrees
    assert made.manifest.made_by["verified"] == json.loads(json.dumps(found.as_dict()))


@pytest.mark.parametrize("path", FROM_FILES)
def test_verify_finds_the_one_activation_that_was_changed(artefacts, path):
    row, feature = 200, int(np.argmax(artefacts.acts[200] > 0.5))
    before = float(artefacts.acts[row, feature])
    artefacts.acts[row, feature] = before / 4
    _, made = artefacts.load(**FROM_FILES[path](artefacts), **artefacts.network(), verify=10_000)
    found = made.verified
    assert (found.rows, found.row, found.feature) == (304, row, feature)
    assert found.largest_pooled_difference is None
    assert found.largest_difference == pytest.approx(before * 3 / 4, abs=1e-5)
    assert (found.imported, found.recomputed) == (pytest.approx(before / 4), pytest.approx(before, abs=1e-5))
    assert not found.agrees


def test_verify_compares_stored_pooled_vectors_through_the_sae(artefacts):
    sae = artefacts.contents.sae_state
    changed = artefacts.pooled[17].astype(np.float64)
    changed[3] += 0.5
    artefacts.pooled[17] = changed
    gaps = np.abs(
        np.clip((changed - sae["decoder_bias"]) @ sae["encoder.weight"].T + sae["encoder.bias"], 0, 6)
        - artefacts.acts[17]
    )
    _, made = artefacts.load(**artefacts.activations(pooled=True), **artefacts.network(), verify=304)
    found = made.verified
    assert found.largest_pooled_difference == pytest.approx(0.5, abs=1e-4)
    assert (found.row, found.feature) == (17, int(np.argmax(gaps)))
    assert found.largest_difference == pytest.approx(gaps.max(), abs=1e-4)
