"""The network arranged for speed gives what the network as it is defined gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mechinterp_runner.context import inference
from mechinterp_runner.context.inference import FastSplatGPT
from mechinterp_runner.context.model import SplatGPT
from mechinterp_runner.schemas.manifest import ModelParams
from safetensors.numpy import load_file

FIXTURE = Path(__file__).parents[2] / ".." / "shared" / "fixtures" / "splatgpt-parity"
needs_fixture = pytest.mark.skipif(not FIXTURE.is_dir(), reason=f"the parity fixture is not at {FIXTURE}")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
SIZES = {"vocab_size": 23, "weapon_vocab_size": 7, "output_dim": 23, "pad_token_id": 22}
SMALL = {"embedding_dim": 6, "hidden_dim": 16, "num_layers": 2, "num_heads": 4, "num_inducing_points": 3}


def network(**changes) -> SplatGPT:
    """A network with random weights, biases and norms among them, in float64."""
    params = ModelParams(**SIZES, **(SMALL | changes))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = SplatGPT(params).eval().double()
        for parameter in model.parameters():
            if parameter.dim() == 1:
                torch.nn.init.normal_(parameter, mean=0.1, std=0.5)
    return model


def some_sets(n: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(length)
    tokens = np.stack([rng.permutation(22)[:length] for _ in range(n)])
    return torch.from_numpy(tokens), torch.from_numpy(rng.integers(0, 7, n))


@pytest.mark.parametrize("length", [1, 2, 5, 20])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_layers": 1},
        {"num_layers": 3, "num_inducing_points": 1},
        {"embedding_dim": 16},
        {"use_layer_norm": False},
    ],
)
def test_in_float64_it_is_the_network_itself(changes, length):
    model, (tokens, weapons) = network(**changes), some_sets(9, length)
    with torch.inference_mode():
        wanted = model.pooled(tokens, weapons)
    assert wanted.std() > 0.1
    assert torch.allclose(FastSplatGPT(model).pooled(tokens, weapons), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("product", ["oneDNN", "torch"])
def test_in_float32_it_is_within_a_ten_thousandth_of_float64_by_either_library(product, monkeypatch):
    monkeypatch.setattr(inference, "_LARGE", 0)
    if product == "torch":
        monkeypatch.setattr(inference, "_ONEDNN", None)
    model, (tokens, weapons) = network(hidden_dim=64, num_heads=8), some_sets(40, 7)
    with torch.inference_mode():
        wanted = model.pooled(tokens, weapons)
    found = FastSplatGPT(model.float()).pooled(tokens, weapons)
    assert found.dtype == torch.float32
    assert (found - wanted).abs().max() < 1e-4


def test_asking_changes_neither_the_weights_nor_the_tables():
    model, (tokens, weapons) = network().float(), some_sets(5, 4)
    fast, before = FastSplatGPT(model), {name: value.clone() for name, value in model.state_dict().items()}
    first = fast.pooled(tokens, weapons).clone()
    assert torch.equal(fast.pooled(tokens, weapons), first)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_tables_take_five_widths_a_token():
    fast = FastSplatGPT(network())
    assert fast.token_table.shape == (23, 5 * 16)
    assert fast.weapon_table.shape == (7, 5 * 16)


@needs_fixture
@pytest.mark.parametrize(("name", "dtype", "tolerance"), [("f32", torch.float32, 2e-5), ("f64", torch.float64, 1e-13)])
def test_it_agrees_with_the_reference_implementation(name, dtype, tolerance):
    model = SplatGPT(ModelParams.model_validate(json.loads((FIXTURE / "model_params.json").read_text())))
    model.load_state_dict({k: torch.from_numpy(v) for k, v in load_file(FIXTURE / "model.safetensors").items()})
    fast = FastSplatGPT(model.to(dtype).eval())
    with np.load(FIXTURE / "expected.npz") as want:
        rows = zip(want["tokens"], want["lengths"], want["weapons"], strict=True)
        found = [fast.pooled(torch.from_numpy(row[:n])[None], torch.from_numpy(weapon)) for row, n, weapon in rows]
        assert np.abs(torch.cat(found).numpy() - want[f"pooled_{name}"]).max() <= tolerance


@needs_cuda
def test_on_a_gpu_it_is_within_a_ten_thousandth_of_float64_on_the_cpu():
    model, (tokens, weapons) = network(hidden_dim=128, num_heads=8), some_sets(200, 9)
    with torch.inference_mode():
        wanted = model.pooled(tokens, weapons)
    fast = FastSplatGPT(model.to("cuda", torch.float32))
    assert (fast.pooled(tokens.cuda(), weapons.cuda()).cpu() - wanted).abs().max() < 1e-4
