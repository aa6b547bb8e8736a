"""Every way in which a bundle can be damaged is one clear error, before anything is read from it."""

import json
import re

import numpy as np
import pytest
from mechinterp_runner.context.bundle import ARRAYS, MANIFEST, Bundle
from mechinterp_runner.context.context import Context
from mechinterp_runner.schemas.errors import BundleError
from safetensors.numpy import load_file, save_file


def refused(folder, message: str) -> None:
    """The bundle cannot be opened for experiments; the message names its path and the fault."""
    with pytest.raises(BundleError, match=message) as caught:
        Context("small", Bundle.open(folder))
    assert str(folder) in str(caught.value)


def flip(path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def change_manifest(folder, **changes) -> None:
    manifest = json.loads((folder / MANIFEST).read_text()) | changes
    (folder / MANIFEST).write_text(json.dumps(manifest))


FILES = ["vocab.json", "weapon_vocab.json", "model.safetensors", "sae.safetensors", "examples/tokens.npy"]


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_found(small_bundle, name):
    flip(small_bundle / name)
    refused(small_bundle, rf"{re.escape(name)} does not have the SHA-256 .*changed\. Restore it")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(small_bundle, name):
    (small_bundle / name).unlink()
    refused(small_bundle, rf"{re.escape(name)} is missing\. Restore it")


def test_a_truncated_array_is_named_with_both_sizes(small_bundle):
    path = small_bundle / "examples/tokens.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-2])
    refused(small_bundle, rf"tokens\.npy has {len(whole) - 2:,} bytes where the manifest says {len(whole):,}")


@pytest.mark.parametrize("name", FILES)
def test_a_link_is_refused_even_to_the_same_bytes(small_bundle, tmp_path, name):
    (small_bundle / name).rename(tmp_path / "outside")
    (small_bundle / name).symlink_to(tmp_path / "outside")
    refused(small_bundle, f"{re.escape(name)} is a link")


def test_a_linked_folder_of_examples_is_refused(small_bundle, tmp_path):
    (small_bundle / "examples").rename(tmp_path / "outside")
    (small_bundle / "examples").symlink_to(tmp_path / "outside")
    refused(small_bundle, "is a link")


def test_a_linked_manifest_is_refused(small_bundle, tmp_path):
    (small_bundle / MANIFEST).rename(tmp_path / "outside.json")
    (small_bundle / MANIFEST).symlink_to(tmp_path / "outside.json")
    refused(small_bundle, r"bundle\.json is a link")


@pytest.mark.parametrize("name", ["../secret.txt", "/etc/hostname", "model.pth", "examples/../vocab.json", "a.pkl"])
def test_a_manifest_that_names_a_file_no_bundle_holds_is_refused(small_bundle, name):
    files = json.loads((small_bundle / MANIFEST).read_text())["files"]
    change_manifest(small_bundle, files=files | {name: {"size": 1, "sha256": "0" * 64}})
    refused(small_bundle, rf"lists {name!r}, which no bundle holds. Files known: vocab\.json")


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path):
    refused(tmp_path, r"is no bundle: it has no bundle\.json\. Make one with")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format_version: Input should be 1; got 2. Rebuild"),
        ({"n_features": 0}, "n_features: Input should be greater than or equal to 1; got 0"),
        ({"n_examples": "many"}, "n_examples: .*got 'many'"),
        ({"later_field": 1}, "later_field: Extra inputs"),
        ({"files": {"vocab.json": {"size": 1, "sha256": "xyz"}}}, "sha256: String should match"),
    ],
)
def test_a_manifest_of_another_version_or_form_is_named_with_what_it_says(small_bundle, change, message):
    change_manifest(small_bundle, **change)
    refused(small_bundle, rf"bundle\.json: .*{message}")


def test_a_manifest_without_a_version_is_of_another_form(small_bundle):
    manifest = json.loads((small_bundle / MANIFEST).read_text())
    del manifest["format_version"]
    (small_bundle / MANIFEST).write_text(json.dumps(manifest))
    refused(small_bundle, r"bundle\.json: format_version: Field required")


@pytest.mark.parametrize("text", ["", "{", "[]", "\ud83d"])
def test_a_manifest_that_is_not_json_is_refused(small_bundle, text):
    (small_bundle / MANIFEST).write_bytes(text.encode(errors="surrogatepass"))
    refused(small_bundle, r"bundle\.json: (Invalid JSON|Input should be|JSON input)")


@pytest.mark.parametrize("name", ["vocab.json", "weapon_vocab.json"])
def test_a_manifest_must_list_the_vocabularies(small_bundle, reseal, name):
    (small_bundle / name).unlink()
    reseal(small_bundle)
    refused(small_bundle, f"the manifest lists no {name}")


def test_a_manifest_with_a_model_must_list_its_weights(small_bundle, reseal):
    (small_bundle / "model.safetensors").unlink()
    reseal(small_bundle)
    refused(small_bundle, "describes a model but lists no model.safetensors")


def test_a_file_the_manifest_does_not_list_is_never_read(small_bundle):
    files = json.loads((small_bundle / MANIFEST).read_text())["files"]
    del files["examples/tokens.npy"]
    change_manifest(small_bundle, files=files)
    refused(small_bundle, r"the manifest lists no examples/tokens\.npy")


# -- files whose hash is right and whose content is wrong --------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda ids: {token: index + (index > 2) for token, index in ids.items()},
            r"must number its \d+ tokens 0 \.\.",
        ),
        (lambda ids: dict.fromkeys(ids, 0), "must number"),
        (lambda ids: {token: str(index) for token, index in ids.items()}, r"must be one object \{token: id\}"),
        (
            lambda ids: {token: bool(index) if index < 2 else index for token, index in ids.items()},
            "must be one object",
        ),
        (list, "must be one object"),
    ],
)
@pytest.mark.parametrize("name", ["vocab.json", "weapon_vocab.json"])
def test_a_vocabulary_whose_ids_have_holes_or_are_no_numbers_is_refused(small_bundle, reseal, name, change, message):
    path = small_bundle / name
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    reseal(small_bundle)
    refused(small_bundle, rf"{re.escape(name)}: .*{message}")


@pytest.mark.parametrize(("name", "dtype"), [("weapon", "int64"), ("tokens", "int32"), ("levels", "float32")])
def test_an_array_of_the_wrong_dtype_is_refused_with_both(small_bundle, reseal, name, dtype):
    path = small_bundle / f"examples/{name}.npy"
    np.save(path, np.load(path).astype(dtype))
    reseal(small_bundle)
    refused(small_bundle, rf"{name}\.npy holds {dtype} where {ARRAYS[f'examples/{name}.npy']} is expected")


@pytest.mark.parametrize("cut", [0, 5, 60, 200])
def test_an_array_file_that_ends_too_early_is_refused(small_bundle, reseal, cut):
    path = small_bundle / "examples/indptr.npy"
    path.write_bytes(path.read_bytes()[:cut])
    reseal(small_bundle)
    refused(small_bundle, r"indptr\.npy cannot be read as an array")


def test_an_archive_or_a_pickle_under_an_arrays_name_is_never_loaded(small_bundle, reseal):
    path = small_bundle / "examples/weapon.npy"
    for save in (
        lambda stream: np.savez(stream, a=np.zeros(3)),
        lambda stream: np.save(stream, np.array([{}], object), allow_pickle=True),
    ):
        with path.open("wb") as stream:
            save(stream)
        reseal(small_bundle)
        refused(small_bundle, r"weapon\.npy cannot be read as an array")


@pytest.mark.parametrize("name", ["weapon", "indptr", "tokens", "levels", "build_id"])
@pytest.mark.parametrize("change", [lambda array: array[:-1], lambda array: array[..., None]])
def test_an_array_of_the_wrong_shape_is_refused_with_both(small_bundle, reseal, name, change):
    path = small_bundle / f"examples/{name}.npy"
    np.save(path, np.ascontiguousarray(change(np.load(path))))
    reseal(small_bundle)
    refused(small_bundle, rf"{name}\.npy has the shape \(.*\) where \(.*\) is expected")


@pytest.mark.parametrize(
    ("name", "row", "value", "message"),
    [
        ("weapon", 5, 4, r"weapon\.npy names a weapon outside weapon_vocab\.json"),
        ("weapon", 5, -1, r"weapon\.npy names a weapon outside"),
        ("tokens", 7, 20, r"tokens\.npy names a token outside vocab\.json"),
        ("tokens", 7, -1, r"tokens\.npy names a token outside"),
        ("indptr", 0, 1, r"indptr\.npy does not describe examples/tokens\.npy"),
        ("indptr", 9, 0, r"indptr\.npy does not describe"),
        ("indptr", -1, 3, r"indptr\.npy does not describe"),
    ],
)
def test_ids_and_pointers_that_lead_outside_are_refused(small_bundle, reseal, name, row, value, message):
    path = small_bundle / f"examples/{name}.npy"
    array = np.load(path)
    array[row] = value
    np.save(path, array)
    reseal(small_bundle)
    refused(small_bundle, message)


def test_a_manifest_that_counts_examples_it_does_not_list_is_refused(small_bundle, reseal):
    for path in (small_bundle / "examples").iterdir():
        path.unlink()
    reseal(small_bundle)
    refused(small_bundle, r"counts \d+ examples but lists no examples/weapon\.npy")


def test_sizes_that_do_not_fit_the_manifest_are_refused(small_bundle, reseal):
    reseal(small_bundle, n_features=13)
    refused(small_bundle, "the SAE has 12 features of 8 dimensions, the manifest says 13 of 8")


@pytest.mark.parametrize("key", ["encoder.weight", "encoder.bias", "decoder.weight", "decoder_bias"])
def test_an_autoencoder_without_one_of_its_arrays_is_refused(small_bundle, reseal, key):
    path = small_bundle / "sae.safetensors"
    state = load_file(path)
    del state[key]
    save_file(state, path)
    reseal(small_bundle)
    refused(small_bundle, rf"sae\.safetensors: sae lacks {key}")


def test_weights_that_are_no_safetensors_are_refused(small_bundle, reseal):
    (small_bundle / "sae.safetensors").write_bytes(b"\x80\x04not safe")
    reseal(small_bundle)
    refused(small_bundle, r"sae\.safetensors cannot be read")


def test_a_model_for_another_vocabulary_is_refused(small_bundle, reseal):
    params = json.loads((small_bundle / MANIFEST).read_text())["model"]
    reseal(small_bundle, model=params | {"vocab_size": 140})
    refused(small_bundle, "the model has 140 ability and 4 weapon tokens, the vocabularies 20 and 4")


def test_a_model_whose_vectors_the_autoencoder_cannot_read_is_refused(small_bundle, reseal):
    params = json.loads((small_bundle / MANIFEST).read_text())["model"]
    reseal(small_bundle, model=params | {"hidden_dim": 16})
    refused(small_bundle, "pooled vectors have 16 dimensions, the manifest says 8")
