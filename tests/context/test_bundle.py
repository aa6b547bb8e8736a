"""A bundle is written whole or not at all, and read back as it was written."""

import json
from pathlib import Path

import numpy as np
import pytest
from mechinterp_runner.context import bundle as module
from mechinterp_runner.context.bundle import ARRAYS, Bundle, sha256_of, write_bundle
from mechinterp_runner.schemas.errors import RequestError
from mechinterp_runner.schemas.manifest import Manifest
from mechinterp_runner.schemas.planted import Factor, PlantedRule, Term

EXAMPLES = ["weapon", "indptr", "tokens", "levels", "build_id"]


def test_what_was_written_is_what_is_read(small_bundle, small_contents):
    bundle = Bundle.open(small_bundle)
    for name in EXAMPLES:
        stored = bundle.array(f"examples/{name}.npy")
        assert np.array_equal(stored, getattr(small_contents, name))
        assert stored.dtype == ARRAYS[f"examples/{name}.npy"]
    for file, state in (("model", small_contents.model_state), ("sae", small_contents.sae_state)):
        read = bundle.tensors(f"{file}.safetensors")
        assert read.keys() == state.keys()
        assert all(np.array_equal(read[key], state[key]) for key in state)
    assert dict(bundle.vocabulary().token_id) == small_contents.vocabulary
    assert dict(bundle.weapon_vocabulary().token_id) == small_contents.weapon_vocabulary


def test_the_manifest_says_what_the_bundle_holds(small_bundle, small_contents):
    manifest = Bundle.open(small_bundle).manifest
    assert manifest.format_version == 1
    assert manifest.model == small_contents.model_params
    assert (manifest.n_features, manifest.hidden_dim) == (12, 8)
    assert (manifest.n_examples, manifest.n_tokens) == (len(small_contents.weapon), len(small_contents.tokens))
    assert manifest.made_by == {"seed": 5}
    there = {path.relative_to(small_bundle).as_posix() for path in small_bundle.rglob("*") if path.is_file()}
    assert set(manifest.files) == there - {"bundle.json"}
    assert all(entry.sha256 == sha256_of(small_bundle / name) for name, entry in manifest.files.items())


def test_planted_rules_travel_with_the_manifest(write_variant):
    term = Term(coefficient=2.0, factors=(Factor(kind="level", name="special_charge_up", rung=29),))
    rule = PlantedRule(feature_id=0, kind="threshold", terms=(term,), height=2.0, statement="2 from 29 AP on")
    assert Bundle.open(write_variant(planted=(rule,))).manifest.planted == (rule,)


def test_arrays_are_mapped_and_cannot_be_written_to(small_bundle):
    array = Bundle.open(small_bundle).array("examples/weapon.npy")
    assert isinstance(array, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_arrays_are_stored_in_the_dtype_of_the_format(write_variant, small_contents):
    bundle = Bundle.open(write_variant(weapon=small_contents.weapon.astype(np.int64)))
    assert bundle.array("examples/weapon.npy").dtype == np.int32


def test_equal_bundles_have_equal_fingerprints_and_others_others(write_variant):
    first, second, other = write_variant("a"), write_variant("b"), write_variant("c", made_by={"seed": 6})
    assert Bundle.open(first).fingerprint == Bundle.open(second).fingerprint != Bundle.open(other).fingerprint


@pytest.mark.parametrize("drop", [("model_params", "model_state"), tuple(EXAMPLES)])
def test_a_bundle_may_lack_its_model_or_its_examples(write_variant, drop):
    bundle = Bundle.open(write_variant(**dict.fromkeys(drop)))
    assert bundle.has("model.safetensors") is ("model_state" not in drop)
    assert bundle.has("examples/weapon.npy") is ("weapon" not in drop)
    assert (bundle.manifest.model is None) is ("model_params" in drop)


@pytest.mark.parametrize("fault", [OSError("no space left"), KeyboardInterrupt()])
def test_a_failure_midway_leaves_nothing_behind(tmp_path, small_contents, monkeypatch, fault):
    saved = []

    def save(path: Path, array: np.ndarray, **_how: bool) -> None:
        saved.append(path)
        if len(saved) == 3:
            raise fault
        array.tofile(path)

    monkeypatch.setattr(module.np, "save", save)
    parent = tmp_path / "bundles"
    with pytest.raises(type(fault)):
        write_bundle(parent / "new", small_contents)
    assert len(saved) == 3
    assert list(parent.iterdir()) == []


def test_a_failure_of_the_last_step_leaves_nothing_behind(tmp_path, small_contents, monkeypatch):
    def refuse(self: Path, target: Path) -> None:
        raise OSError(f"{target} is not allowed")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="not allowed"):
        write_bundle(tmp_path / "bundles" / "new", small_contents)
    assert list((tmp_path / "bundles").iterdir()) == []


def test_nothing_but_the_bundle_is_left_beside_it(tmp_path, small_contents):
    write_bundle(tmp_path / "bundles" / "new", small_contents)
    assert [path.name for path in (tmp_path / "bundles").iterdir()] == ["new"]


def test_an_empty_folder_is_filled_and_a_full_one_is_refused(tmp_path, small_contents):
    (tmp_path / "new").mkdir()
    write_bundle(tmp_path / "new", small_contents)
    before = (tmp_path / "new" / "bundle.json").read_bytes()
    with pytest.raises(RequestError, match="not an empty folder: choose another"):
        write_bundle(tmp_path / "new", small_contents)
    assert (tmp_path / "new" / "bundle.json").read_bytes() == before


def test_a_file_or_a_link_in_its_place_is_refused_and_left_alone(tmp_path, small_contents):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("file", "link"):
        with pytest.raises(RequestError, match="not an empty folder"):
            write_bundle(tmp_path / name, small_contents)
    assert (tmp_path / "file").read_text() == "mine"
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_the_manifest_is_json_that_reads_back_as_itself(small_bundle):
    text = (small_bundle / "bundle.json").read_text(encoding="utf-8")
    manifest = Manifest.model_validate(json.loads(text))
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest
