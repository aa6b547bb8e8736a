"""The network arranged for speed: the function `SplatGPT.pooled` defines, of sets that hold equally many tokens.

Nothing constant is computed twice, and nothing is padded:

* the queries of inducing points and seeds are parameters, projected once;
* what the first layer projects is W (P (e_token + e_weapon) + b), a sum of a token's part and a weapon's part: both are
  tabulated, so that the layer begins with a sum of two rows;
* the projections that read the same tensor are one product.

On a CPU large float32 products are made by oneDNN, which uses the widest vectors of any processor and applies the
activation function as it writes; the library behind ``torch.nn.functional.linear`` leaves AVX-512 unused on some. Small
ones gain nothing from it, and it keeps compiled code for every shape it meets.
"""

import os

import torch
from torch import Tensor, nn
from torch.nn import functional

from .model import AttentionBlock, InducedBlock, Layer, PoolingBlock, SelfBlock, SplatGPT

Projection = tuple[Tensor, Tensor]
"""Weight [out, in] and bias [out]."""
# oneDNN reads this when it is first asked; its own limit, 1,024 shapes, can take a gigabyte.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
_LARGE = 512
"""Outputs of a product from which on oneDNN is the faster."""
_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


def _linear(source: Tensor, weight: Tensor, bias: Tensor, *, gelu: bool = False) -> Tensor:
    """W x + b over the last axis, in a new tensor; ``gelu`` applies the exact GELU to it."""
    if _ONEDNN is not None and len(bias) >= _LARGE and source.device.type == "cpu" and source.dtype is torch.float32:
        return _ONEDNN(source, weight, bias, "gelu" if gelu else "none", [], "none")
    result = functional.linear(source, weight, bias)
    return functional.gelu(result) if gelu else result


def _parameters(layer: nn.Module) -> Projection:
    """Weight and bias of a linear layer."""
    if not isinstance(layer, nn.Linear):
        raise TypeError(f"a linear layer was expected, got {layer}")
    return layer.weight, layer.bias


class _Feedforward:
    """The position-wise network and its skip connection."""

    def __init__(self, layers: nn.Sequential) -> None:
        self.first, self.second = _parameters(layers[0]), _parameters(layers[2])

    def __call__(self, hidden: Tensor) -> Tensor:
        return _linear(_linear(hidden, *self.first, gelu=True), *self.second).add_(hidden)


class _Block:
    """`AttentionBlock` in two parts: what it projects, and what it does with the projections."""

    def __init__(self, block: AttentionBlock) -> None:
        self.block, self.attention = block, block.mha
        weight, bias = self.attention.in_proj_weight, self.attention.in_proj_bias
        dim = weight.shape[1]
        self.query = weight[:dim], bias[:dim]
        self.keys_values = weight[dim:], bias[dim:]
        self.all = weight, bias
        self.out, self.feedforward = _parameters(self.attention.out_proj), _Feedforward(block.feedforward)

    def _heads(self, projected: Tensor) -> Tensor:
        """[n, s, d] as [n, heads, s, d / heads]."""
        return projected.unflatten(-1, (self.attention.heads, -1)).transpose(1, 2)

    def __call__(self, query: Tensor, projected: Tensor, keys_values: Tensor) -> Tensor:
        """Attend and feed forward.

        Args:
            query: [n or 1, q, d], what is added to what was attended to.
            projected: [n or 1, q, d], its projection.
            keys_values: [n, s, 2 d], the source's.

        Returns:
            [n, q, d].
        """
        keys, values = (self._heads(part) for part in keys_values.chunk(2, dim=-1))
        queries = self._heads(projected).expand(len(keys), -1, -1, -1)
        mixed = functional.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)
        hidden = self.block.layer_norm1(_linear(mixed, *self.out).add_(query))
        return self.block.layer_norm2(self.feedforward(hidden))


class _Induced:
    """`InducedBlock`: its points' queries are made once."""

    def __init__(self, block: InducedBlock) -> None:
        self.norm, self.first, self.second = block.layer_norm, _Block(block.mab1), _Block(block.mab2)
        self.points = block.inducing_points[None]
        self.queries = _linear(self.points, *self.first.query)
        self.entry = _joined(self.first.keys_values, self.second.query)

    def __call__(self, tokens: Tensor, entry: Tensor) -> Tensor:
        """Encode tokens [n, L, d] whose projections by ``self.entry`` are [n, L, 3 d]; the skip connection included."""
        dim = tokens.shape[-1]
        summary = self.first(self.points, self.queries, entry[..., : 2 * dim])
        read = self.second(tokens, entry[..., 2 * dim :], _linear(summary, *self.second.keys_values))
        return self.norm(read.add_(tokens)).add_(tokens)


class _Pooling:
    """`PoolingBlock`: its seeds' queries are made once."""

    def __init__(self, block: PoolingBlock) -> None:
        self.out, self.block, self.seeds = _parameters(block.out_proj), _Block(block.mab), block.seed_vectors[None]
        self.queries = _linear(self.seeds, *self.block.query)

    def __call__(self, tokens: Tensor) -> Tensor:
        """[n, L, d] gives [n, k, d]."""
        read = self.block(self.seeds, self.queries, _linear(tokens, *self.block.keys_values))
        return _linear(read, *self.out)


class _SelfAttention:
    """`SelfBlock` and its skip connection."""

    def __init__(self, block: SelfBlock) -> None:
        self.block = _Block(block.mab)

    def __call__(self, seeds: Tensor) -> Tensor:
        """[n, k, d] gives [n, k, d]."""
        dim = seeds.shape[-1]
        projected = _linear(seeds, *self.block.all)
        return self.block(seeds, projected[..., :dim], projected[..., dim:]).add_(seeds)


class _FastLayer:
    """`Layer`, given what it projects of its input."""

    def __init__(self, layer: Layer) -> None:
        inner = layer.set_transformer
        self.layer, self.cross, self.feedforward = layer, _Block(layer.cross_attention), _Feedforward(layer.feedforward)
        self.encoders = _Induced(inner.enc_layer1), _Induced(inner.enc_layer2)
        self.pooling = _Pooling(inner.dec_layer1)
        self.decoders = _SelfAttention(inner.dec_layer2), _SelfAttention(inner.dec_layer3)
        self.entry = _joined(self.encoders[0].entry, self.cross.query)

    def __call__(self, tokens: Tensor, entry: Tensor) -> Tensor:
        """Transform tokens [n, L, d] whose projections by ``self.entry`` are [n, L, 4 d]."""
        dim = tokens.shape[-1]
        encoded = self.encoders[0](tokens, entry[..., : 3 * dim])
        encoded = self.encoders[1](encoded, _linear(encoded, *self.encoders[1].entry))
        seeds = self.pooling(encoded)
        for decoder in self.decoders:
            seeds = decoder(seeds)
        read = self.cross(tokens, entry[..., 3 * dim :], _linear(seeds, *self.cross.keys_values))
        hidden = self.layer.layer_norm1(read.add_(tokens))
        return self.layer.layer_norm2(self.feedforward(hidden))


def _joined(*parts: Projection) -> Projection:
    """Projections of one tensor as one projection."""
    weights, biases = zip(*parts, strict=True)
    return torch.cat(weights), torch.cat(biases)


class FastSplatGPT:
    """`SplatGPT.pooled` for reading alone. Built once for a network on its device, in its precision.

    Args:
        model: the network, in its final place; its weights are shared, and tables are added: 5 d numbers for each
            ability and weapon token.
    """

    @torch.inference_mode()
    def __init__(self, model: SplatGPT) -> None:
        self.layers = [_FastLayer(layer) for layer in model.layers()]
        self.dim, self.output_layer = model.params.hidden_dim, model.output_layer
        offset = model.input_proj(torch.zeros_like(model.ability_embedding.weight[:1]))
        token_part = model.input_proj(model.ability_embedding.weight) - offset
        weapon_part = model.input_proj(model.weapon_embedding.weight)
        weight, bias = self.layers[0].entry
        self.token_table = torch.cat([token_part, functional.linear(token_part, weight)], dim=1)
        self.weapon_table = torch.cat([weapon_part, functional.linear(weapon_part, weight, bias)], dim=1)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.token_table.device

    @torch.inference_mode()
    def pooled(self, tokens: Tensor, weapons: Tensor) -> Tensor:
        """Mean of the last layer's hidden states.

        Args:
            tokens: [n, L] ability token ids, all real.
            weapons: [n] weapon token ids.

        Returns:
            [n, hidden_dim], in the precision of the weights.
        """
        start = (
            functional.embedding(tokens, self.token_table) + functional.embedding(weapons, self.weapon_table)[:, None]
        )
        hidden, entry = start[..., : self.dim], start[..., self.dim :]
        for number, layer in enumerate(self.layers):
            hidden = layer(hidden, _linear(hidden, *layer.entry) if number else entry)
        return hidden.mean(dim=1)

    @torch.inference_mode()
    def logits(self, pooled: Tensor) -> Tensor:
        """Token logits [n, output_dim] of pooled vectors [n, hidden_dim]."""
        return self.output_layer(pooled)
