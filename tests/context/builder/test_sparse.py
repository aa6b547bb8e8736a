"""The autoencoder learns to rebuild, keeps the rows it was given, and its dead features cannot be woken."""

import numpy as np
import pytest
import torch
from mechinterp_runner.context.builder.sparse import (
    RANDOM_ACTIVE_RATE,
    GivenRows,
    SparseOptions,
    dead_rows,
    probe_rows,
    random_rows,
    stack_rows,
    train_sparse,
)
from mechinterp_runner.context.model import SplatGPT
from mechinterp_runner.schemas.manifest import ModelParams

PARAMS = ModelParams(
    vocab_size=20,
    weapon_vocab_size=4,
    embedding_dim=8,
    hidden_dim=8,
    output_dim=20,
    num_layers=1,
    num_heads=2,
    num_inducing_points=2,
    pad_token_id=19,
)


def silent(stage: str, done: int, total: int, note: str) -> None:
    """No progress is shown."""


def vectors(n: int = 4000, dim: int = 8) -> np.ndarray:
    rng = np.random.default_rng(0)
    codes = rng.exponential(size=(n, 12)) * (rng.random((n, 12)) < 0.15)
    columns = rng.standard_normal((12, dim))
    columns /= np.linalg.norm(columns, axis=1, keepdims=True)
    return (codes @ columns + 2.0).astype("f4")


def test_a_probe_of_x_is_a_row_of_x_minus_the_centre() -> None:
    x = vectors()
    weight, bias = np.ones((1, 8), "f4"), np.array([0.5], "f4")
    center = x.mean(axis=0)
    rows = probe_rows(weight, bias, center)
    assert np.allclose((x - center) @ rows.weight[0] + rows.bias[0], x @ weight[0] + bias[0], atol=1e-4)


def test_random_directions_are_active_at_the_stated_rate() -> None:
    x = vectors()
    rows = random_rows(x, x.mean(axis=0), 5, np.random.default_rng(1))
    hidden = (x - x.mean(axis=0)) @ rows.weight.T + rows.bias
    assert np.allclose((hidden > 0).mean(axis=0), RANDOM_ACTIVE_RATE, atol=0.01)
    assert np.allclose(hidden.std(axis=0), 1.0, atol=1e-3)


def test_random_directions_have_the_covariance_of_x() -> None:
    stretched = vectors() * np.array([20, 1, 1, 1, 1, 1, 1, 1], "f4")
    rows = random_rows(stretched, stretched.mean(axis=0), 400, np.random.default_rng(1))
    assert (np.abs(rows.weight[:, 0]) > 0.8 * np.linalg.norm(rows.weight, axis=1)).mean() > 0.8


def test_no_input_can_activate_a_dead_feature() -> None:
    torch.manual_seed(0)
    model = SplatGPT(PARAMS)
    torch.nn.init.normal_(model.ability_embedding.weight, std=50.0)
    center = np.full(8, 0.3, "f4")
    rows = dead_rows(model, center, 3, np.random.default_rng(0))
    with torch.inference_mode():
        pooled = model.pooled(torch.arange(19)[:, None], torch.zeros(19, dtype=torch.long)).numpy()
    assert ((pooled - center) @ rows.weight.T + rows.bias).max() < -0.5


def test_dead_features_need_a_layer_norm() -> None:
    model = SplatGPT(PARAMS.model_copy(update={"use_layer_norm": False}))
    with pytest.raises(ValueError, match="use_layer_norm"):
        dead_rows(model, np.zeros(8, "f4"), 1, np.random.default_rng(0))


def test_given_rows_are_kept_and_the_others_learn_to_rebuild() -> None:
    x = vectors()
    center = x.mean(axis=0)
    given = stack_rows(
        GivenRows(np.eye(8, dtype="f4")[:2], np.array([0.1, -0.2], "f4")),
        random_rows(x, center, 1, np.random.default_rng(0)),
    )
    torch.manual_seed(0)
    options = SparseOptions(features=24, steps=400, batch_size=256, sparsity=0.05)
    sae, report = train_sparse(x, center, given, options, seed=0, progress=silent)
    assert np.array_equal(sae.encoder_weight[:3], given.weight)
    assert np.array_equal(sae.encoder_bias[:3], given.bias)
    rebuilt = sae.decode(sae.encode(x))
    measured = 1 - ((rebuilt - x) ** 2).sum() / ((x - center) ** 2).sum()
    assert report.explained_variance == pytest.approx(measured, abs=1e-3)
    assert report.explained_variance > 0.9
    assert report.l0 == pytest.approx((sae.encode(x) > 0).sum(axis=1).mean(), rel=1e-3)
