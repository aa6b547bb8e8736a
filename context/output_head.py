"""The last layer of the network, read from the weights alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..schemas.errors import RequestError
from .bundle import Bundle

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class OutputHead:
    """The last layer: logits = weight . pooled + bias, linear; a token's probability is the sigmoid of its own logit.

    Attributes:
        weight: [vocab, d].
        bias: [vocab].
    """

    weight: Floats
    bias: Floats

    @classmethod
    def of(cls, bundle: Bundle, name: str, n_tokens: int) -> Self:
        """Read it, without torch.

        Args:
            bundle: where the weights are.
            name: the bundle's name.
            n_tokens: size of its ability vocabulary.

        Raises:
            RequestError: the bundle has no model, or its logits are not one a token of the vocabulary.
        """
        if not bundle.has("model.safetensors"):
            raise RequestError(
                f"bundle {name!r} has no model, and this experiment reads its output layer. Use a bundle with a "
                f"model. Nothing was run."
            )
        state = bundle.tensors("model.safetensors")
        weight, bias = (state.get(f"output_layer.{part}") for part in ("weight", "bias"))
        wanted = (n_tokens, bundle.manifest.hidden_dim)
        if weight is None or bias is None or weight.shape != wanted or bias.shape != wanted[:1]:
            got = "none" if weight is None else f"one of shape {weight.shape}"
            raise RequestError(
                f"bundle {name!r}: logits are named by an output layer of shape {wanted}, one row a token; the "
                f"model has {got}. Nothing was run."
            )
        return cls(weight, bias)

    def logits(self, pooled: Floats) -> Floats:
        """Token logits [n, vocab] of pooled vectors [n, d], in float64."""
        return np.asarray(pooled, dtype=np.float64) @ self.weight.T.astype(np.float64) + self.bias
