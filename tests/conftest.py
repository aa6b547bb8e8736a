"""A small bundle with random weights, the partial builds in it, and what a test needs to damage or change it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from mechinterp_runner.context.bundle import MANIFEST, BundleContents, sha256_of, write_bundle
from mechinterp_runner.context.home import Home
from mechinterp_runner.schemas.manifest import ModelParams

settings.register_profile("suite", deadline=None, max_examples=60)
settings.load_profile("suite")

RUNGS = (3, 6, 12, 29, 57)
STACKABLE = ("quick_respawn", "special_charge_up", "swim_speed_up")
MAINS = ("comeback", "ninja_squid", "stealth_jump")
KITS = (40, 50, 1111, 9999)
N_BUILDS, HIDDEN, N_FEATURES = 100, 8, 12
DEAD_FEATURE = 3


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    """What the tests and the processes they start keep in the user's cache folder goes with them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def small_vocabulary() -> dict[str, int]:
    """``{token: id}`` in no order that could be relied on."""
    tokens = [f"{family}_{rung}" for family in STACKABLE for rung in RUNGS] + [*MAINS, "<NULL>", "<PAD>"]
    order = np.random.default_rng(3).permutation(len(tokens)).tolist()
    return dict(zip(tokens, order, strict=True))


def _partial_builds(mapping: dict[str, int]) -> tuple[list[int], list[list[int]], list[int]]:
    """Weapons, token ids and build ids: three rows a build, with tokens removed, and one empty build a weapon."""
    rng = np.random.default_rng(4)
    weapons, rows, builds = list(range(len(KITS))), [[mapping["<NULL>"]] for _ in KITS], list(range(len(KITS)))
    for build in range(len(KITS), len(KITS) + N_BUILDS):
        weapon = int(rng.integers(len(KITS)))
        ap = {family: int(rng.choice([0, 3, 6, 13, 29, 57])) for family in STACKABLE}
        whole = [mapping[f"{family}_{rung}"] for family in STACKABLE for rung in RUNGS if rung <= ap[family]]
        whole += [mapping[name] for name in MAINS if rng.random() < 0.3] or [mapping["comeback"]]
        for _ in range(3):
            kept = int(rng.integers(1, len(whole) + 1))
            weapons.append(weapon)
            rows.append(rng.permutation(whole)[:kept].tolist())
            builds.append(build)
    return weapons, rows, builds


def _naive_levels(rows: list[list[int]], mapping: dict[str, int]) -> np.ndarray:
    """Highest rung of each family, main-only abilities last, token by token."""
    names = {index: token for token, index in mapping.items()}
    columns = [*sorted(STACKABLE), *sorted(MAINS)]
    levels = np.zeros((len(rows), len(columns)), np.uint8)
    for row, tokens in enumerate(rows):
        for token in (names[index] for index in tokens if not names[index].startswith("<")):
            family, _, rung = token.rpartition("_")
            known = family in STACKABLE
            column = columns.index(family if known else token)
            levels[row, column] = max(levels[row, column], int(rung) if known else 10)
    return levels


def _weights(params: ModelParams) -> dict[str, np.ndarray]:
    import torch
    from mechinterp_runner.context.model import SplatGPT

    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = SplatGPT(params)
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def _sae_state() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(6)
    bias = rng.normal(size=N_FEATURES).astype(np.float32) * 0.3
    bias[DEAD_FEATURE] = -100.0
    return {
        "encoder.weight": rng.normal(size=(N_FEATURES, HIDDEN)).astype(np.float32),
        "encoder.bias": bias,
        "decoder.weight": rng.normal(size=(HIDDEN, N_FEATURES)).astype(np.float32),
        "decoder_bias": rng.normal(size=HIDDEN).astype(np.float32) * 0.1,
    }


@pytest.fixture(scope="session")
def small_contents() -> BundleContents:
    """A tiny SplatGPT and SAE with random weights over partial builds; feature 3 is dead."""
    mapping = small_vocabulary()
    weapons, rows, builds = _partial_builds(mapping)
    params = ModelParams(
        vocab_size=len(mapping), weapon_vocab_size=len(KITS), embedding_dim=6, hidden_dim=HIDDEN,
        output_dim=len(mapping), num_layers=1, num_heads=2, num_inducing_points=3, pad_token_id=mapping["<PAD>"],
    )  # fmt: skip
    return BundleContents(
        model_params=params,
        model_state=_weights(params),
        sae_state=_sae_state(),
        vocabulary=mapping,
        weapon_vocabulary={f"weapon_id_{kit}": index for index, kit in enumerate(KITS)},
        weapon=np.array(weapons, np.int32),
        indptr=np.cumsum([0, *map(len, rows)]).astype(np.int64),
        tokens=np.concatenate(rows).astype(np.int16),
        levels=_naive_levels(rows, mapping),
        build_id=np.array(builds, np.int32),
        made_by={"seed": 5},
    )


@pytest.fixture(scope="session")
def naive_pooled(small_contents: BundleContents) -> np.ndarray:
    """float64 [n, d]: every example through the network alone, unbatched and unpadded."""
    import torch
    from mechinterp_runner.context.model import SplatGPT

    model = SplatGPT(small_contents.model_params).double().eval()
    model.load_state_dict({name: torch.from_numpy(value) for name, value in small_contents.model_state.items()})
    bounds = small_contents.indptr
    with torch.inference_mode():
        return np.concatenate([
            model.pooled(
                torch.from_numpy(small_contents.tokens[start:stop].astype(np.int64))[None],
                torch.tensor([int(weapon)]),
            ).numpy()
            for weapon, start, stop in zip(small_contents.weapon, bounds[:-1], bounds[1:], strict=True)
        ])  # fmt: skip


@pytest.fixture(scope="session")
def _written(small_contents: BundleContents, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "small"
    write_bundle(folder, small_contents)
    return folder


@pytest.fixture
def small_bundle(_written: Path, tmp_path: Path) -> Path:
    """A fresh copy of the small bundle, to read or to damage."""
    return Path(shutil.copytree(_written, tmp_path / "small"))


@pytest.fixture
def write_variant(small_contents: BundleContents, tmp_path: Path) -> Callable[..., Path]:
    """Write the small bundle with some of its contents replaced."""

    def write(name: str = "variant", **changes: Any) -> Path:
        write_bundle(tmp_path / name, dataclasses.replace(small_contents, **changes))
        return tmp_path / name

    return write


@pytest.fixture
def without_examples() -> dict[str, None]:
    """The changes that make a bundle without examples."""
    return dict.fromkeys(("weapon", "indptr", "tokens", "levels", "build_id", "pooled"))


@pytest.fixture
def reseal() -> Callable[..., None]:
    """Write the manifest anew for the files that are there, so that only what they hold can be wrong."""

    def seal(folder: Path, **changes: Any) -> None:
        manifest = json.loads((folder / MANIFEST).read_text()) | changes
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
        manifest["files"] = {
            path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256_of(path)}
            for path in files
        }
        (folder / MANIFEST).write_text(json.dumps(manifest))

    return seal


@pytest.fixture
def small_home(_written: Path, tmp_path: Path) -> Home:
    """A home folder with the bundles alpha, beta and gamma, all copies of the small one."""
    for name in ("alpha", "beta", "gamma"):
        shutil.copytree(_written, tmp_path / "home" / "bundles" / name)
    return Home.find(tmp_path / "home")
