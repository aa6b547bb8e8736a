"""The set-completion transformer: a set of ability tokens and a weapon in, a pooled vector and token logits out.

The architecture follows Lee et al. 2019 (Set Transformer): induced self-attention encodes the set, seed vectors pool
it, and every token then attends to the pooled summary. The attribute names are those of the published state dicts, so
``load_state_dict(strict=True)`` accepts them. Nothing depends on the order of the tokens or on the padding.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..schemas.manifest import ModelParams


class Attention(nn.Module):
    """Multi-head attention with the packed input projection of ``torch.nn.MultiheadAttention``."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"hidden_dim {dim} is not a multiple of num_heads {heads}: choose one that is")
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
        """Let each query attend to the source.

        Args:
            query: [n or 1, q, d]; a first axis of 1 is shared by the batch.
            source: [n, s, d], both keys and values.
            mask: [n, 1, 1, s] of bool, true where a key may be attended to; None for all.

        Returns:
            [n, q, d].
        """
        n, s, dim = source.shape
        q = functional.linear(query, self.in_proj_weight[:dim], self.in_proj_bias[:dim])
        keys_values = functional.linear(source, self.in_proj_weight[dim:], self.in_proj_bias[dim:])
        size = dim // self.heads
        q = q.view(q.shape[0], q.shape[1], self.heads, size).transpose(1, 2).expand(n, -1, -1, -1)
        k, v = keys_values.view(n, s, 2, self.heads, size).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(mixed.transpose(1, 2).reshape(n, -1, dim))


def _feedforward(dim: int) -> nn.Sequential:
    """The position-wise network: d -> 4d, exact GELU, 4d -> d."""
    return nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))


def _norm(dim: int, *, used: bool) -> nn.Module:
    """A layer norm, or nothing."""
    return nn.LayerNorm(dim) if used else nn.Identity()


class AttentionBlock(nn.Module):
    """MAB(q, x): attention of q over x and a feed-forward network, each with a skip connection."""

    def __init__(self, params: ModelParams) -> None:
        super().__init__()
        dim = params.hidden_dim
        self.mha = Attention(dim, params.num_heads)
        self.feedforward = _feedforward(dim)
        self.layer_norm1 = _norm(dim, used=params.use_layer_norm)
        self.layer_norm2 = _norm(dim, used=params.use_layer_norm)

    def forward(self, query: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        """[n or 1, q, d] over [n, s, d] gives [n, q, d]."""
        hidden = self.layer_norm1(query + self.mha(query, source, mask))
        return self.layer_norm2(hidden + self.feedforward(hidden))


class InducedBlock(nn.Module):
    """ISAB(x): self-attention through k learned inducing points, ending in a layer norm of its own."""

    def __init__(self, params: ModelParams) -> None:
        super().__init__()
        self.inducing_points = nn.Parameter(torch.empty(params.num_inducing_points, params.hidden_dim))
        self.mab1 = AttentionBlock(params)
        self.mab2 = AttentionBlock(params)
        self.layer_norm = nn.LayerNorm(params.hidden_dim)
        nn.init.xavier_uniform_(self.inducing_points)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """[n, L, d] gives [n, L, d]."""
        summary = self.mab1(self.inducing_points[None], tokens, mask)
        return self.layer_norm(self.mab2(tokens, summary) + tokens)


class PoolingBlock(nn.Module):
    """PMA(x): k learned seeds attend to the set."""

    def __init__(self, params: ModelParams) -> None:
        super().__init__()
        self.seed_vectors = nn.Parameter(torch.empty(params.num_inducing_points, params.hidden_dim))
        self.mab = AttentionBlock(params)
        self.out_proj = nn.Linear(params.hidden_dim, params.hidden_dim)
        nn.init.xavier_uniform_(self.seed_vectors)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """[n, L, d] gives [n, k, d]."""
        return self.out_proj(self.mab(self.seed_vectors[None], tokens, mask))


class SelfBlock(nn.Module):
    """SAB(x) = MAB(x, x)."""

    def __init__(self, params: ModelParams) -> None:
        super().__init__()
        self.mab = AttentionBlock(params)

    def forward(self, tokens: Tensor) -> Tensor:
        """[n, k, d] gives [n, k, d]."""
        return self.mab(tokens, tokens)


class _SetTransformer(nn.Module):
    """Two induced blocks over the tokens, then pooling and two self-attention blocks over the seeds."""

    def __init__(self, params: ModelParams) -> None:
        super().__init__()
        self.enc_layer1 = InducedBlock(params)
        self.enc_layer2 = InducedBlock(params)
        self.dec_layer1 = PoolingBlock(params)
        self.dec_layer2 = SelfBlock(params)
        self.dec_layer3 = SelfBlock(params)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """[n, L, d] gives [n, k, d]."""
        tokens = self.enc_layer1(tokens, mask) + tokens
        tokens = self.enc_layer2(tokens, mask) + tokens
        seeds = self.dec_layer1(tokens, mask)
        seeds = self.dec_layer2(seeds) + seeds
        return self.dec_layer3(seeds) + seeds


class Layer(nn.Module):
    """Every token reads the set transformer's summary, then a feed-forward network."""

    def __init__(self, params: ModelParams) -> None:
        super().__init__()
        dim = params.hidden_dim
        self.set_transformer = _SetTransformer(params)
        self.cross_attention = AttentionBlock(params)
        self.feedforward = _feedforward(dim)
        self.layer_norm1 = _norm(dim, used=params.use_layer_norm)
        self.layer_norm2 = _norm(dim, used=params.use_layer_norm)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """[n, L, d] gives [n, L, d]."""
        read = self.cross_attention(tokens, self.set_transformer(tokens, mask))
        tokens = self.layer_norm1(tokens + read)
        return self.layer_norm2(tokens + self.feedforward(tokens))


class SplatGPT(nn.Module):
    """The set-completion transformer. Dropout is never applied: the network is only read, or trained on fresh noise.

    Args:
        params: The sizes; ``vocab_size`` tokens in, ``output_dim`` logits out.
    """

    def __init__(self, params: ModelParams) -> None:
        super().__init__()
        self.params = params
        self.ability_embedding = nn.Embedding(params.vocab_size, params.embedding_dim)
        self.weapon_embedding = nn.Embedding(params.weapon_vocab_size, params.embedding_dim)
        same = params.embedding_dim == params.hidden_dim
        self.input_proj = nn.Identity() if same else nn.Linear(params.embedding_dim, params.hidden_dim)
        self.transformer_layers = nn.ModuleList(Layer(params) for _ in range(params.num_layers))
        self.output_layer = nn.Linear(params.hidden_dim, params.output_dim)

    def pooled(self, tokens: Tensor, weapons: Tensor, padding: Tensor | None = None) -> Tensor:
        """Mean of the last layer's hidden states over the real tokens.

        Args:
            tokens: [n, L] ability token ids; every row holds at least one real token (``<NULL>`` if empty).
            weapons: [n] weapon token ids.
            padding: [n, L] of bool, true at positions to ignore; None when no row is padded.

        Returns:
            [n, hidden_dim], in the dtype of the parameters.
        """
        hidden = self.input_proj(self.ability_embedding(tokens) + self.weapon_embedding(weapons)[:, None])
        real = None if padding is None else ~padding
        mask = None if real is None else real[:, None, None, :]
        for layer in self.transformer_layers:
            hidden = layer(hidden, mask)
        if real is None:
            return hidden.mean(dim=1)
        weight = real.to(hidden.dtype)
        return torch.einsum("nld,nl->nd", hidden, weight) / weight.sum(dim=1, keepdim=True)

    def layers(self) -> list[Layer]:
        """The transformer's layers, first to last."""
        return [cast("Layer", layer) for layer in self.transformer_layers]

    def logits(self, pooled: Tensor) -> Tensor:
        """Token logits [n, output_dim] of pooled vectors [n, hidden_dim]; their sigmoids are probabilities."""
        return self.output_layer(pooled)

    def forward(self, tokens: Tensor, weapons: Tensor, padding: Tensor | None = None) -> Tensor:
        """Logits [n, output_dim] of sets; see `pooled`."""
        return self.logits(self.pooled(tokens, weapons, padding))
