"""The autoencoder computes what its formula says, keeps the dtype and refuses states that do not fit."""

import subprocess
import sys

import numpy as np
import pytest
from mechinterp_runner.context.sae import CLAMP, SparseAutoencoder
from mechinterp_runner.schemas.errors import BundleError


def two_features(dtype: str = "f4") -> SparseAutoencoder:
    return SparseAutoencoder(
        encoder_weight=np.array([[1.0, 0.0], [0.0, -2.0]], dtype),
        encoder_bias=np.array([0.5, 1.0], dtype),
        decoder_weight=np.array([[3.0, 0.0], [4.0, 2.0]], dtype),
        decoder_bias=np.array([1.0, 1.0], dtype),
    )


def test_pre_activation_and_activation_by_hand() -> None:
    sae = two_features()
    pooled = np.array([[1.0, 1.0], [3.0, 4.0], [99.0, -9.0]], "f4")
    assert sae.pre_activation(pooled, 0).tolist() == [0.5, 2.5, 98.5]
    assert sae.pre_activation(pooled, 1).tolist() == [1.0, -5.0, 21.0]
    assert sae.activation(pooled, 0).tolist() == [0.5, 2.5, CLAMP]
    assert sae.encode(pooled).tolist() == [[0.5, 1.0], [2.5, 0.0], [CLAMP, CLAMP]]
    assert sae.encode(pooled, [1]).tolist() == [[1.0], [0.0], [CLAMP]]


def test_decode_uses_unit_columns() -> None:
    sae = two_features()
    assert np.allclose(sae.decode(np.array([[5.0, 0.0], [0.0, 1.0]])), [[4.0, 5.0], [1.0, 2.0]])
    assert np.allclose(np.linalg.norm(sae.unit_decoder(), axis=0), 1.0)


def test_a_zero_decoder_column_stays_zero() -> None:
    state = two_features().to_state() | {"decoder.weight": np.zeros((2, 2), "f4")}
    assert SparseAutoencoder.from_state(state).unit_decoder().tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_dtype_is_kept(dtype: str) -> None:
    sae = two_features(dtype)
    pooled = np.ones((3, 2), dtype)
    assert sae.encode(pooled).dtype == sae.activation(pooled, 0).dtype == sae.decode(pooled).dtype == np.dtype(dtype)


def test_state_round_trip_ignores_the_unused_bias() -> None:
    state = two_features().to_state() | {"decoder.bias": np.zeros(2), "usage_ema": np.array([0.1, 0.2])}
    again = SparseAutoencoder.from_state(state)
    assert (again.n_features, again.dim) == (2, 2)
    assert set(again.to_state()) == set(state) - {"decoder.bias"}
    assert all(np.array_equal(value, state[name]) for name, value in again.to_state().items())


def test_a_missing_array_is_named() -> None:
    state = two_features().to_state()
    del state["decoder_bias"]
    with pytest.raises(BundleError, match="sae lacks decoder_bias"):
        SparseAutoencoder.from_state(state)


@pytest.mark.parametrize("name", ["encoder.bias", "decoder.weight", "decoder_bias", "encoder.weight"])
def test_shapes_that_do_not_fit_are_refused(name: str) -> None:
    with pytest.raises(BundleError, match="shape"):
        SparseAutoencoder.from_state(two_features().to_state() | {name: np.zeros(7, "f4")})


def test_reading_a_feature_needs_no_torch() -> None:
    code = "import sys, mechinterp_runner.context.sae; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
