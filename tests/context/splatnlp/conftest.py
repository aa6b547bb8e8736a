"""A writer of every format of the SplatNLP files, from dense truth held in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from mechinterp_runner.context.bundle import Bundle, BundleContents
from mechinterp_runner.context.context import Context
from mechinterp_runner.context.splatnlp import importer
from mechinterp_runner.context.splatnlp.importer import import_splatnlp
from mechinterp_runner.context.splatnlp.sources import ImportOptions, Sources
from mechinterp_runner.schemas.errors import RequestError

BATCH = 130


def write_zarr(path: Path, array: np.ndarray, chunks: tuple[int, int], **how: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = zarr.create_array(str(path), shape=array.shape, dtype=array.dtype, chunks=chunks, **how)
    stored[:] = array


@dataclass
class Artefacts:
    """The files of a small world, and what they must give.

    Attributes:
        folder: where they are; its name has a space in it.
        contents: weights, vocabularies and examples of the small bundle.
        pooled: float32 [n, d], by the network, one example at a time.
        acts: float32 [n, F], by the SAE's formula.
    """

    folder: Path
    contents: BundleContents
    pooled: np.ndarray
    acts: np.ndarray
    rows: list[tuple[int, list[int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        bounds = self.contents.indptr
        self.rows = [
            (int(weapon), self.contents.tokens[start:stop].tolist())
            for weapon, start, stop in zip(self.contents.weapon, bounds[:-1], bounds[1:], strict=True)
        ]

    @property
    def batches(self) -> list[slice]:
        n = len(self.rows)
        return [slice(start, min(start + BATCH, n)) for start in range(0, n, BATCH)]

    def json(self, name: str, value: object) -> Path:
        path = self.folder / name
        path.write_text(json.dumps(value), encoding="utf-8")
        return path

    def vocabularies(self) -> dict[str, Path]:
        paths = {"vocab": self.folder / "vocab.json", "weapon_vocab": self.folder / "weapon_vocab.json"}
        if not paths["vocab"].exists():
            self.json("vocab.json", dict(reversed(self.contents.vocabulary.items())))
            self.json("weapon_vocab.json", self.contents.weapon_vocabulary)
        return paths

    def params(self, **changes: Any) -> Path:
        return self.json("model_params.json", self.contents.model_params.model_dump() | changes)

    def pth(self, name: str, state: Any) -> Path:
        import torch

        path = self.folder / name
        torch.save({key: torch.from_numpy(np.array(value)) for key, value in state.items()}, path)
        return path

    def model_state(self) -> dict[str, np.ndarray]:
        return dict(self.contents.model_state)

    def sae_state(self) -> dict[str, np.ndarray]:
        n_features, dim = self.contents.sae_state["encoder.weight"].shape
        unused = {"decoder.bias": np.full(dim, 9.0, np.float32), "usage_ema": np.full(n_features, 0.1, np.float32)}
        return dict(self.contents.sae_state) | unused

    def network(self) -> dict[str, Path]:
        files = {"model": self.pth("model_ultra.pth", self.model_state()), "params": self.params()}
        return files | {"sae": self.pth("sae_model_ultra.pth", self.sae_state())}

    def activations(
        self, *, dense: bool = False, pooled: bool = False, summary: dict[str, Any] | None = None
    ) -> dict[str, Path]:
        """Metadata, its rows in no order and its ``global_index`` wrong; dense batches and pooled vectors if asked."""
        folder = self.folder / "activations_ultra_efficient"
        for batch, part in enumerate(self.batches):
            self.parquet(folder, batch, self.rows[part])
            if dense:
                write_zarr(
                    folder / "activations" / f"batch_{batch:04d}.zarr", self.acts[part], (50, self.acts.shape[1])
                )
        if pooled:
            write_zarr(folder / "embeddings" / "sae_input.zarr", self.pooled, (100, self.pooled.shape[1]))
        stated = {"n_batches": len(self.batches), "total_samples": len(self.rows), "n_features": self.acts.shape[1]}
        (folder / "conversion_metadata.json").write_text(json.dumps(stated | (summary or {})), encoding="utf-8")
        return {"activations": folder}

    def parquet(self, folder: Path, batch: int, rows: list[tuple[int, list[int]]], **changes: Any) -> None:
        (folder / "metadata").mkdir(parents=True, exist_ok=True)
        order = np.random.default_rng(batch).permutation(len(rows))
        columns = {
            "batch_id": [batch] * len(rows),
            "sample_id": order,
            "ability_tokens": [rows[index][1] for index in order],
            "weapon_id_token": [rows[index][0] for index in order],
            "global_index": [7] * len(rows),
            "is_null_token": [False] * len(rows),
        } | changes
        pq.write_table(pa.table(columns), folder / "metadata" / f"batch_{batch:04d}.parquet")

    def transposed(self) -> dict[str, Path]:
        folder = self.folder / "activations_ultra_transposed"
        write_zarr(folder / "transposed_activations.zarr", np.ascontiguousarray(self.acts.T), (1, 100))
        return {"transposed": folder}

    def neuron_acts(self) -> dict[str, Path]:
        folder = self.folder / "neuron_acts"
        for feature, column in enumerate(self.acts.T):
            (folder / f"neuron_{feature:04d}").mkdir(parents=True)
            where = np.random.default_rng(feature).permutation(np.flatnonzero(column))
            np.save(folder / f"neuron_{feature:04d}" / "acts.npy", column[where])
            np.save(folder / f"neuron_{feature:04d}" / "idxs.npy", where.astype(np.int64))
        return {"neuron_acts": folder}

    def load(self, **files: Path) -> tuple[Context, Any]:
        """Import the files, and open what came of them."""
        target = self.folder / "home" / "ultra"
        made = self.imported(**files)
        return Context("ultra", Bundle.open(target, hash_files=True)), made

    def imported(self, report: Callable[..., None] | None = None, name: str = "ultra", **files: Any) -> Any:
        # Blocks of a few rows and features, so that every path goes through many of them.
        options = ImportOptions(block_bytes=3_000, **{key: files.pop(key) for key in list(files) if key in OPTIONS})
        sources = Sources(**(self.vocabularies() | files))
        return import_splatnlp(sources, self.folder / "home" / name, options, *([report] if report else []))

    @property
    def left(self) -> list[str]:
        """Names in the folder of bundles."""
        home = self.folder / "home"
        return sorted(path.name for path in home.iterdir()) if home.exists() else []


OPTIONS = {"instances_per_build", "seed", "pooled", "verify", "compute"}


@pytest.fixture
def artefacts(tmp_path: Path, small_contents: BundleContents, naive_pooled: np.ndarray) -> Artefacts:
    folder = tmp_path / "with a space"
    folder.mkdir()
    sae = small_contents.sae_state
    hidden = (naive_pooled - sae["decoder_bias"]) @ sae["encoder.weight"].astype(np.float64).T + sae["encoder.bias"]
    acts = np.clip(hidden, 0.0, 6.0).astype(np.float32)
    return Artefacts(folder, small_contents, naive_pooled.astype(np.float32), acts)


@pytest.fixture
def refused(artefacts):
    """Import files that cannot be; returns the message. Nothing may be left: no bundle, and no work folder."""

    def refused(**files):
        with pytest.raises(RequestError) as caught:
            artefacts.imported(**files)
        assert artefacts.left == []
        return str(caught.value)

    return refused


@pytest.fixture
def before_any_work(refused, artefacts, monkeypatch):
    """The same, when it must be found before a stage begins: there never is even a work folder."""

    def before_any_work(**files):
        with monkeypatch.context() as patch:
            patch.setattr(importer, "Work", lambda folder: pytest.fail(f"{folder} was begun"))
            message = refused(**files)
        assert message.endswith("Nothing was imported.")
        return message

    return before_any_work
