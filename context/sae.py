"""The sparse autoencoder over pooled vectors, in numpy: reading a feature costs one matrix-vector product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ..schemas.errors import BundleError

if TYPE_CHECKING:
    from .bundle import Bundle

Array = NDArray[np.floating[Any]]

CLAMP = 6.0
"""Activations are clamped to [0, CLAMP]."""


@dataclass(frozen=True, slots=True)
class SparseAutoencoder:
    """activation = clamp(relu(W_e (x - b_dec) + b_e), 0, 6); reconstruction = unit decoder . activation + b_dec.

    Attributes:
        encoder_weight: [F, d].
        encoder_bias: [F].
        decoder_weight: [d, F]; columns are normalised when used, not when stored.
        decoder_bias: [d], the centre subtracted from pooled vectors.
        usage_ema: [F] running use of each feature during training, where known.
    """

    encoder_weight: Array
    encoder_bias: Array
    decoder_weight: Array
    decoder_bias: Array
    usage_ema: Array | None = None

    def __post_init__(self) -> None:
        if self.encoder_weight.ndim != 2:
            raise BundleError(f"encoder.weight has shape {self.encoder_weight.shape}; it must be [features, hidden]")
        features, dim = self.encoder_weight.shape
        wanted = {"encoder_bias": (features,), "decoder_weight": (dim, features), "decoder_bias": (dim,)}
        if self.usage_ema is not None:
            wanted["usage_ema"] = (features,)
        for name, shape in wanted.items():
            got = getattr(self, name).shape
            if got != shape:
                raise BundleError(f"sae {name} has shape {got}; encoder.weight {(features, dim)} asks for {shape}")

    @classmethod
    def from_state(cls, state: Mapping[str, Array]) -> Self:
        """Read the arrays of a stored autoencoder.

        Args:
            state: Arrays by their published names; ``decoder.bias`` is present in some files and unused.

        Raises:
            BundleError: A name is missing or a shape does not fit.
        """
        names = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder_bias")
        missing = [name for name in names if name not in state]
        if missing:
            raise BundleError(f"sae lacks {', '.join(missing)}; it has {', '.join(sorted(state))}; import it again")
        arrays = [np.asarray(state[name]) for name in names]
        usage = state.get("usage_ema")
        return cls(*arrays, usage_ema=None if usage is None else np.asarray(usage))

    def to_state(self) -> dict[str, Array]:
        """The arrays by their published names, ready for a safetensors file."""
        state = {
            "encoder.weight": self.encoder_weight,
            "encoder.bias": self.encoder_bias,
            "decoder.weight": self.decoder_weight,
            "decoder_bias": self.decoder_bias,
        }
        return state if self.usage_ema is None else state | {"usage_ema": self.usage_ema}

    @property
    def n_features(self) -> int:
        """Number of features F."""
        return self.encoder_weight.shape[0]

    @property
    def dim(self) -> int:
        """Length d of a pooled vector."""
        return self.encoder_weight.shape[1]

    def readers(self, features: Sequence[int] | NDArray[np.integer[Any]]) -> tuple[Array, Array]:
        """Weight [k, d] and offset [k], float64, of features: h = weight . x + offset, without centring x first."""
        weight = self.encoder_weight[np.asarray(features, dtype=np.intp)]
        return weight, self.encoder_bias[features].astype(np.float64) - weight @ self.decoder_bias.astype(np.float64)

    def pre_activation(self, pooled: Array, feature: int) -> Array:
        """h = w_f . (x - b_dec) + b_f of pooled vectors [..., d]; returns [...]."""
        weight, offset = self.readers([feature])
        hidden = pooled @ weight[0]
        return hidden + hidden.dtype.type(offset[0])

    def activation(self, pooled: Array, feature: int) -> Array:
        """a = clamp(relu(h), 0, 6) of pooled vectors [..., d]; returns [...]."""
        return np.clip(self.pre_activation(pooled, feature), 0.0, CLAMP)

    def encode(self, pooled: Array, features: Sequence[int] | NDArray[np.integer[Any]] | None = None) -> Array:
        """Activations of several features (all by default) at pooled vectors [n, d]; returns [n, n_features asked]."""
        rows = slice(None) if features is None else np.asarray(features)
        hidden = (pooled - self.decoder_bias) @ self.encoder_weight[rows].T + self.encoder_bias[rows]
        return np.clip(hidden, 0.0, CLAMP)

    def unit_decoder(self) -> Array:
        """Decoder columns scaled to length 1 [d, F]; a zero column stays zero."""
        norms = np.linalg.norm(self.decoder_weight, axis=0, keepdims=True)
        return self.decoder_weight / np.maximum(norms, np.finfo(norms.dtype).tiny)

    def decode(self, activations: Array) -> Array:
        """Reconstructed pooled vectors [n, d] of activations [n, F]."""
        return activations @ self.unit_decoder().T + self.decoder_bias


def open_sae(bundle: Bundle) -> SparseAutoencoder | None:
    """Read the autoencoder of a bundle; None when it has none."""
    if not bundle.has("sae.safetensors"):
        return None
    state = bundle.tensors("sae.safetensors")
    try:
        return SparseAutoencoder.from_state(state)
    except BundleError as error:
        raise BundleError(f"{bundle.path / 'sae.safetensors'}: {error}") from error
