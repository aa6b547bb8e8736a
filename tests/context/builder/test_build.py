"""Building bundles from end to end, with toys: reproducible, interruptible, resumable, all or nothing."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from mechinterp_runner.context.builder.assemble import shortfalls
from mechinterp_runner.context.builder.build import (
    BuildReport,
    DemoOptions,
    TableOptions,
    build_demo,
    build_from_table,
)
from mechinterp_runner.context.builder.demo_rules import demo_rules
from mechinterp_runner.context.sae import SparseAutoencoder
from mechinterp_runner.schemas.errors import BundleError, RequestError
from mechinterp_runner.schemas.planted import Fidelity, PlantedRule
from safetensors.numpy import load_file

TOY = DemoOptions.toy()
TOY_TABLE = TableOptions(threads=1, size=TOY.size, train=TOY.train, sparse=TOY.sparse)


class StopError(Exception):
    """What an interrupting caller raises."""


def stop_at(stage: str, done: int):
    def progress(now: str, step: int, total: int, note: str) -> None:
        if (now, step) == (stage, done):
            raise StopError

    return progress


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "bundle.json").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BuildReport]:
    out = tmp_path_factory.mktemp("built") / "toy"
    return out, build_demo(out, TOY)


def test_the_same_options_give_the_same_bytes(toy: tuple[Path, BuildReport], tmp_path: Path) -> None:
    build_demo(tmp_path / "again", TOY)
    assert digest(tmp_path / "again") == digest(toy[0])
    build_demo(tmp_path / "other", DemoOptions.toy(seed=1))
    assert digest(tmp_path / "other") != digest(toy[0])


def test_a_stopped_build_leaves_no_bundle_and_is_taken_up_again(toy: tuple[Path, BuildReport], tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    with pytest.raises(StopError):
        build_demo(out, TOY, stop_at("train", 20))
    assert not out.exists()
    (checkpoint,) = tmp_path.iterdir()
    assert checkpoint.name.startswith(".stopped.")
    steps: list[int] = []
    build_demo(out, TOY, lambda stage, done, *_: steps.append(done) if stage == "train" else None)
    assert steps in ([], [20])
    assert digest(out) == digest(toy[0])
    assert [path.name for path in tmp_path.iterdir()] == ["stopped"]


def test_a_folder_that_is_not_empty_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "keep.txt").write_text("mine")
    for build in (lambda: build_demo(tmp_path, TOY), lambda: build_from_table(tmp_path / "none.csv", tmp_path)):
        with pytest.raises(RequestError, match="not empty"):
            build()
    assert [path.name for path in tmp_path.iterdir()] == ["keep.txt"]


def test_the_manifest_states_every_planted_rule_and_how_it_was_made(toy: tuple[Path, BuildReport]) -> None:
    manifest = toy[1].manifest
    kinds = [rule.kind for rule in manifest.planted]
    assert kinds[: len(demo_rules())] == [rule.kind for rule in demo_rules()]
    assert kinds[len(demo_rules()) :] == ["random_direction"] * 3 + ["dead"] * 2
    assert [rule.feature_id for rule in manifest.planted] == list(range(len(kinds)))
    for rule in manifest.planted:
        assert (rule.fidelity is not None) == bool(rule.terms)
    made_by = manifest.made_by
    assert made_by["options"]["seed"] == 0
    assert {"training", "autoencoder", "versions", "held_out"} <= set(made_by)


def test_stored_pooled_vectors_make_the_dead_dead_and_the_random_rare(toy: tuple[Path, BuildReport]) -> None:
    out, report = toy
    sae = SparseAutoencoder.from_state(load_file(out / "sae.safetensors"))
    pooled = np.load(out / "pooled.npy")
    for rule in report.manifest.planted:
        rate = (sae.activation(pooled, rule.feature_id) > 0).mean()
        if rule.kind == "dead":
            assert rate == 0
        if rule.kind == "random_direction":
            assert 0.03 < rate < 0.07


def test_a_demo_that_does_not_follow_its_rules_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"does not follow \d+ planted rules: feature 0 \(threshold\)"):
        build_demo(tmp_path / "strict", dataclasses.replace(TOY, require_fidelity=True))
    assert not (tmp_path / "strict").exists()


def test_building_leaves_torch_s_settings_and_randomness_alone(tmp_path: Path) -> None:
    threads, randomness = torch.get_num_threads(), torch.get_rng_state().clone()
    torch.set_num_threads(2)
    try:
        build_demo(tmp_path / "toy", TOY)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.equal(randomness, torch.get_rng_state())


def test_a_table_becomes_a_bundle_without_planted_rules(tmp_path: Path) -> None:
    table = tmp_path / "builds.csv"
    rows = [f"{kit},{10 + 3 * i},{21 - 3 * i},10,{i + 1}" for i in range(7) for kit in (40, 50)]
    table.write_text("\n".join(["weapon_id,swim_speed_up,quick_respawn,comeback,n", *rows, "40,7,0,0,1"]) + "\n")
    report = build_from_table(table, tmp_path / "mine", TOY_TABLE)
    assert report.table is not None
    assert (report.table.rows, report.table.used, report.table.distinct) == (15, 14, 14)
    assert report.manifest.planted == ()
    assert report.manifest.n_features == TOY.sparse.features
    assert report.manifest.made_by["table"]["skipped"] == {"AP that no gear gives": 1}
    assert len(np.load(tmp_path / "mine" / "examples" / "weapon.npy")) == report.manifest.n_examples
    again = build_from_table(table, tmp_path / "again", TOY_TABLE)
    assert again.manifest == report.manifest


def test_one_build_is_enough(tmp_path: Path) -> None:
    table = tmp_path / "one.csv"
    table.write_text("weapon_id,swim_speed_up\n40,57\n")
    assert build_from_table(table, tmp_path / "one", TOY_TABLE).manifest.n_examples > 0


def test_examples_are_limited(tmp_path: Path) -> None:
    table = tmp_path / "builds.csv"
    rows = [f"40,{10 + 3 * i},{3 * j}" for i in range(4) for j in range(5)]
    table.write_text("\n".join(["weapon_id,swim_speed_up,quick_respawn", *rows]) + "\n")
    few = build_from_table(table, tmp_path / "few", dataclasses.replace(TOY_TABLE, max_examples=11))
    assert few.manifest.n_examples <= 11


def test_shortfalls_name_rules_with_a_low_r2_none_or_a_bad_cell() -> None:
    def rule(feature: int, r2: float | None, error: float) -> PlantedRule:
        fidelity = Fidelity(r2_held_out=r2, n_contexts=300, active_rate=0.1, cells=(), worst_cell_error=error)
        return demo_rules()[feature].model_copy(update={"fidelity": fidelity})

    named = shortfalls([rule(0, 0.95, 0.05), rule(1, 0.89, 0.05), rule(2, 0.95, 0.11), rule(3, None, 0.0)])
    assert [text.split(" (")[0] for text in named] == ["feature 1", "feature 2", "feature 3"]
