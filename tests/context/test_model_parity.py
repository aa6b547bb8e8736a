"""The network and the autoencoder agree with the reference implementation's stored outputs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mechinterp_runner.context.model import SplatGPT
from mechinterp_runner.context.sae import SparseAutoencoder
from mechinterp_runner.schemas.manifest import ModelParams
from safetensors.numpy import load_file

FIXTURE = Path(__file__).parents[2] / ".." / "shared" / "fixtures" / "splatgpt-parity"
needs_fixture = pytest.mark.skipif(not FIXTURE.is_dir(), reason=f"the parity fixture is not at {FIXTURE}")
DTYPES = [("f32", torch.float32, 1e-5), ("f64", torch.float64, 1e-10)]

SMALL = ModelParams(
    vocab_size=11,
    weapon_vocab_size=3,
    embedding_dim=6,
    hidden_dim=8,
    output_dim=11,
    num_layers=2,
    num_heads=2,
    num_inducing_points=3,
    pad_token_id=10,
)


def fixture_params() -> ModelParams:
    return ModelParams.model_validate(json.loads((FIXTURE / "model_params.json").read_text()))


def fixture_model(dtype: torch.dtype) -> SplatGPT:
    model = SplatGPT(fixture_params())
    state = {name: torch.from_numpy(value) for name, value in load_file(FIXTURE / "model.safetensors").items()}
    model.load_state_dict(state, strict=True)
    return model.to(dtype).eval()


def fixture_sae(dtype: str) -> SparseAutoencoder:
    state = load_file(FIXTURE / "sae.safetensors")
    return SparseAutoencoder.from_state({k: v.astype("f4" if dtype == "f32" else "f8") for k, v in state.items()})


def expected() -> dict[str, Any]:
    with np.load(FIXTURE / "expected.npz") as stored:
        return dict(stored)


def gap(got: Any, wanted: Any) -> float:
    return float(np.abs(np.asarray(got) - wanted).max())


@needs_fixture
@pytest.mark.parametrize(("name", "dtype", "tolerance"), DTYPES)
def test_pooled_logits_and_sae_agree_with_the_reference(name: str, dtype: torch.dtype, tolerance: float) -> None:
    want = expected()
    tokens, weapons = torch.from_numpy(want["tokens"]), torch.from_numpy(want["weapons"][:, 0])
    model = fixture_model(dtype)
    with torch.inference_mode():
        pooled = model.pooled(tokens, weapons, torch.from_numpy(want["key_padding_mask"]))
        logits = model.logits(pooled)
    sae = fixture_sae(name)
    post = sae.encode(pooled.numpy())
    assert pooled.dtype == dtype
    assert gap(pooled, want[f"pooled_{name}"]) <= tolerance
    assert gap(logits, want[f"logits_{name}"]) <= tolerance
    assert post.dtype == want[f"h_post_{name}"].dtype
    assert gap(post, want[f"h_post_{name}"]) <= tolerance
    assert gap(sae.decode(post), want[f"recon_{name}"]) <= tolerance
    one = [sae.activation(pooled.numpy(), feature) for feature in range(sae.n_features)]
    assert gap(np.stack(one, axis=1), want[f"h_post_{name}"]) <= tolerance


@needs_fixture
@pytest.mark.parametrize(("name", "dtype", "tolerance"), DTYPES)
def test_padding_and_order_do_not_matter_to_the_fixture_model(name: str, dtype: torch.dtype, tolerance: float) -> None:
    want = expected()
    model = fixture_model(dtype)
    rng = np.random.default_rng(0)
    with torch.inference_mode():
        rows = [
            model.pooled(torch.from_numpy(rng.permutation(row[:length]))[None], torch.from_numpy(weapon))
            for row, length, weapon in zip(want["tokens"], want["lengths"], want["weapons"], strict=True)
        ]
    assert gap(torch.cat(rows), want[f"pooled_{name}"]) <= tolerance


@needs_fixture
def test_hidden_states_agree_layer_by_layer() -> None:
    want = expected()
    with np.load(FIXTURE / "layers_f64.npz") as stored:
        layers = dict(stored)
    model = fixture_model(torch.float64)
    seen: dict[str, np.ndarray] = {}
    for index, layer in enumerate(model.transformer_layers):
        named = {
            f"enc1_out{index}": layer.set_transformer.enc_layer1,
            f"dec1_out{index}": layer.set_transformer.dec_layer1,
            f"set_transformer_out{index}": layer.set_transformer,
            f"cross_out{index}": layer.cross_attention,
            f"after_layer{index}": layer,
        }
        for name, module in named.items():
            module.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out.numpy()))
    model.input_proj.register_forward_hook(lambda _m, _i, out: seen.__setitem__("after_input_proj", out.numpy()))
    padding = want["key_padding_mask"]
    with torch.inference_mode():
        model.pooled(
            torch.from_numpy(want["tokens"]), torch.from_numpy(want["weapons"][:, 0]), torch.from_numpy(padding)
        )
    assert set(seen) == set(layers)
    for name, value in layers.items():
        keep = ~padding if value.shape[:2] == padding.shape else slice(None)
        assert gap(seen[name][keep], value[keep]) <= 1e-10, name


def small_sets(seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    rng = np.random.default_rng(seed)
    for length in (1, 2, 5, 10):
        yield torch.from_numpy(rng.permutation(10)[:length])[None], torch.tensor([seed % 3])


def test_a_random_model_ignores_padding_order_and_batch_mates() -> None:
    torch.manual_seed(0)
    model = SplatGPT(SMALL).double()
    sets = [pair for seed in range(4) for pair in small_sets(seed)]
    width = max(tokens.shape[1] for tokens, _ in sets) + 2
    padded = torch.full((len(sets), width), SMALL.pad_token_id)
    for row, (tokens, _) in enumerate(sets):
        padded[row, : tokens.shape[1]] = tokens.flip(1)
    with torch.inference_mode():
        alone = torch.cat([model.pooled(tokens, weapon) for tokens, weapon in sets])
        together = model.pooled(padded, torch.cat([weapon for _, weapon in sets]), padded == SMALL.pad_token_id)
    assert gap(together, alone.numpy()) <= 1e-12


@pytest.mark.parametrize("same_width", [True, False])
def test_sizes_decide_which_parameters_exist(same_width: bool) -> None:
    params = SMALL.model_copy(update={"embedding_dim": 8 if same_width else 6, "use_layer_norm": False})
    names = set(SplatGPT(params).state_dict())
    assert ("input_proj.weight" in names) is not same_width
    assert "transformer_layers.1.set_transformer.enc_layer1.layer_norm.weight" in names
    assert "transformer_layers.0.layer_norm1.weight" not in names


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="hidden_dim 8 is not a multiple of num_heads 3"):
        SplatGPT(SMALL.model_copy(update={"num_heads": 3}))
