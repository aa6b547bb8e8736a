"""The bundle that travels with the package is what its manifest says."""

import json
from dataclasses import asdict
from pathlib import Path

import mechinterp_runner.context.demo as demo_package
import numpy as np
import pytest
import torch
from mechinterp_runner.context.builder.assemble import CELL_ERROR_ALLOWED, R2_WANTED, shortfalls
from mechinterp_runner.context.builder.build import DemoOptions
from mechinterp_runner.context.builder.codec import Codec
from mechinterp_runner.context.builder.demo_rules import demo_rules
from mechinterp_runner.context.builder.examples import held_out
from mechinterp_runner.context.builder.fidelity import FidelityMeter
from mechinterp_runner.context.builder.train import pooled_vectors
from mechinterp_runner.context.bundle import Bundle
from mechinterp_runner.context.model import SplatGPT
from mechinterp_runner.context.sae import SparseAutoencoder
from mechinterp_runner.context.token_sets import TokenSets, from_csr, levels_of
from mechinterp_runner.schemas.manifest import Manifest
from mechinterp_runner.schemas.planted import PlantedRule
from mechinterp_runner.schemas.vocabulary import Vocabulary, WeaponVocabulary
from safetensors.numpy import load_file

DEMO = Path(demo_package.__file__).parent
MOST_BYTES = 12_000_000


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return Bundle.open(DEMO, hash_files=True).manifest


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.from_mapping(json.loads((DEMO / "vocab.json").read_text()))


@pytest.fixture(scope="module")
def weapons() -> WeaponVocabulary:
    return WeaponVocabulary.from_mapping(json.loads((DEMO / "weapon_vocab.json").read_text()))


@pytest.fixture(scope="module")
def sets(vocabulary: Vocabulary) -> TokenSets:
    stored = [np.load(DEMO / "examples" / f"{name}.npy") for name in ("weapon", "indptr", "tokens")]
    return from_csr(*stored, vocabulary)


@pytest.fixture(scope="module")
def model(manifest: Manifest) -> SplatGPT:
    assert manifest.model is not None
    network = SplatGPT(manifest.model)
    network.load_state_dict({k: torch.from_numpy(v) for k, v in load_file(DEMO / "model.safetensors").items()})
    return network.eval()


@pytest.fixture(scope="module")
def sae() -> SparseAutoencoder:
    return SparseAutoencoder.from_state(load_file(DEMO / "sae.safetensors"))


def planted_rules(manifest: Manifest) -> list[PlantedRule]:
    return [rule for rule in manifest.planted if rule.terms]


def test_it_is_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.suffix != ".pyc") <= MOST_BYTES


def test_it_was_made_with_the_default_options_and_rules(manifest: Manifest) -> None:
    options = {name: value for name, value in asdict(DemoOptions()).items() if name != "require_fidelity"}
    assert manifest.made_by["options"] == json.loads(json.dumps(options))
    blank = {"fidelity": None, "confounded_weapons": ()}
    assert tuple(rule.model_copy(update=blank) for rule in planted_rules(manifest)) == demo_rules()


def test_every_planted_rule_is_followed_and_active_in_a_useful_share(manifest: Manifest) -> None:
    assert shortfalls(manifest.planted) == []
    for rule in planted_rules(manifest):
        assert rule.fidelity is not None
        assert rule.fidelity.n_contexts >= 300
        assert 0.015 <= rule.fidelity.active_rate <= 0.25, rule.feature_id


def test_the_confounded_ability_names_the_kits_that_favour_it(manifest: Manifest) -> None:
    (rule,) = (rule for rule in manifest.planted if rule.kind == "confounded_ability")
    assert rule.confounded_weapons


def test_examples_are_consistent(
    manifest: Manifest, sets: TokenSets, vocabulary: Vocabulary, weapons: WeaponVocabulary
) -> None:
    build_id = np.load(DEMO / "examples" / "build_id.npy")
    assert manifest.n_examples == len(sets) == len(build_id)
    assert np.array_equal(np.load(DEMO / "examples" / "levels.npy"), levels_of(sets.present, vocabulary))
    empty = ~sets.present.any(axis=1)
    assert sorted(sets.weapon[empty]) == list(range(len(weapons)))


def test_stored_pooled_vectors_are_the_network_s(model: SplatGPT, sets: TokenSets, vocabulary: Vocabulary) -> None:
    rows = np.arange(0, len(sets), 97)
    fresh = pooled_vectors(model, Codec.of(vocabulary), sets.take(rows))
    assert np.abs(fresh - np.load(DEMO / "pooled.npy")[rows]).max() < 1e-4


def test_measured_again_on_other_contexts_every_cell_is_within_the_bounds(
    manifest: Manifest,
    model: SplatGPT,
    sae: SparseAutoencoder,
    sets: TokenSets,
    vocabulary: Vocabulary,
    weapons: WeaponVocabulary,
) -> None:
    codec = Codec.of(vocabulary)
    build_id = np.load(DEMO / "examples" / "build_id.npy")
    held = held_out(build_id) & sets.present.any(axis=1)
    rows = np.random.default_rng(99).choice(np.flatnonzero(held), size=60, replace=False)
    meter = FidelityMeter(codec, weapons, sae, lambda s: pooled_vectors(model, codec, s), sets.take(rows), seed=1)
    natural, pooled = sets.take(held), np.load(DEMO / "pooled.npy")[held]
    for rule in planted_rules(manifest):
        r2 = meter.r2(rule, natural, pooled)
        assert r2 is not None
        assert r2 >= R2_WANTED, rule.feature_id
        assert max(cell.error_of_height for cell in meter.cells(rule)) <= CELL_ERROR_ALLOWED, rule.feature_id


def test_random_directions_are_rare_and_the_dead_are_dead(manifest: Manifest, sae: SparseAutoencoder) -> None:
    pooled = np.load(DEMO / "pooled.npy")
    for rule in manifest.planted:
        rate = float((sae.activation(pooled, rule.feature_id) > 0).mean())
        if rule.kind == "random_direction":
            assert rate == pytest.approx(0.05, abs=0.005)
        if rule.kind == "dead":
            assert rate == 0.0
