"""The autoencoder of a bundle: planted, random and dead rows that are given, and ordinary features that are learned."""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..model import SplatGPT
from ..sae import CLAMP, SparseAutoencoder
from .train import Progress

Floats = NDArray[np.float32]

RANDOM_ACTIVE_RATE = 0.05
"""Share of the examples in which a random direction is active."""


@dataclass(frozen=True, slots=True)
class SparseOptions:
    """How to train the autoencoder.

    Attributes:
        features: Features in all, the given rows included.
        steps: Optimiser steps.
        batch_size: Pooled vectors a step.
        learning_rate: Peak of the schedule.
        sparsity: Weight of the L1 norm of the activations against the squared error a vector.
    """

    features: int = 256
    steps: int = 3000
    batch_size: int = 1024
    learning_rate: float = 3e-3
    sparsity: float = 0.8


@dataclass(frozen=True, slots=True)
class GivenRows:
    """Encoder rows that stay as they are: weight [G, d] and bias [G], acting on x - b_dec."""

    weight: Floats
    bias: Floats


@dataclass(frozen=True, slots=True)
class SparseReport:
    """How good the autoencoder is on the vectors it was measured on.

    Attributes:
        explained_variance: 1 - residual variance / variance, over all coordinates.
        l0: Mean number of active features a vector.
        dead: Learned features that are never active.
        curve: (step, mean squared error a vector, mean L1 norm) now and then.
    """

    explained_variance: float
    l0: float
    dead: int
    curve: list[tuple[int, float, float]] = field(default_factory=list)


def probe_rows(weight: Floats, bias: Floats, center: Floats) -> GivenRows:
    """Probes of x as encoder rows of x - b_dec: w . x + b = w . (x - b_dec) + (b + w . b_dec)."""
    return GivenRows(weight, (bias + weight @ center).astype(np.float32))


def random_rows(pooled: Floats, center: Floats, count: int, rng: np.random.Generator) -> GivenRows:
    """Random directions, Gaussian with the covariance of x, scaled to unit standard deviation and rarely active."""
    centered = (pooled - center).astype(np.float64)
    mixed = rng.standard_normal((count, len(centered))) @ centered / np.sqrt(len(centered))
    values = centered @ mixed.T
    scale = values.std(axis=0)
    bias = -np.quantile(values / scale, 1.0 - RANDOM_ACTIVE_RATE, axis=0)
    return GivenRows((mixed / scale[:, None]).astype(np.float32), bias.astype(np.float32))


def dead_rows(model: SplatGPT, center: Floats, count: int, rng: np.random.Generator) -> GivenRows:
    """Directions that no input whatever can activate.

    The last layer norm bounds the hidden states, hence their mean: |x| <= max|gain| sqrt(d) + |offset|. The bias lies
    below what a vector of that length can reach.

    Raises:
        ValueError: The network has no layer norm, so that nothing bounds its pooled vectors.
    """
    if not model.params.use_layer_norm:
        raise ValueError("dead features need a network with use_layer_norm: nothing else bounds its pooled vectors")
    state = model.state_dict()
    last = f"transformer_layers.{model.params.num_layers - 1}.layer_norm2"
    gain, offset = state[f"{last}.weight"].numpy(), state[f"{last}.bias"].numpy()
    dim = len(gain)
    longest = np.abs(gain).max() * np.sqrt(dim) + np.linalg.norm(offset) + np.linalg.norm(center)
    weight = rng.standard_normal((count, dim))
    weight /= np.linalg.norm(weight, axis=1, keepdims=True)
    return GivenRows(weight.astype(np.float32), np.full(count, -(1.0 + longest), dtype=np.float32))


def stack_rows(*parts: GivenRows) -> GivenRows:
    """Rows one after the other."""
    return GivenRows(np.concatenate([p.weight for p in parts]), np.concatenate([p.bias for p in parts]))


class _Coder(nn.Module):
    """The autoencoder in training: given encoder rows are buffers, the other rows and all decoder columns learn."""

    def __init__(self, given: GivenRows, center: Floats, features: int, start: Floats) -> None:
        super().__init__()
        learned = features - len(given.bias)
        rows = torch.from_numpy(start[:learned])
        rows = rows / rows.norm(dim=1, keepdim=True)
        self.register_buffer("given_weight", torch.from_numpy(given.weight))
        self.register_buffer("given_bias", torch.from_numpy(given.bias))
        self.weight = nn.Parameter(rows.clone())
        self.bias = nn.Parameter(torch.full((learned,), -0.1))
        columns = torch.cat([torch.from_numpy(given.weight), rows]).T
        self.decoder = nn.Parameter(columns / columns.norm(dim=0, keepdim=True))
        self.center = torch.from_numpy(center)

    def rows(self) -> tuple[Tensor, Tensor]:
        """Encoder weight [F, d] and bias [F]."""
        given_weight, given_bias = self.get_buffer("given_weight"), self.get_buffer("given_bias")
        return torch.cat([given_weight, self.weight]), torch.cat([given_bias, self.bias])

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Activations [n, F] and reconstructions [n, d] of pooled vectors."""
        weight, bias = self.rows()
        active = ((pooled - self.center) @ weight.T + bias).clamp(0.0, CLAMP)
        columns = self.decoder / self.decoder.norm(dim=0, keepdim=True).clamp(min=1e-6)
        return active, active @ columns.T + self.center


def train_sparse(
    pooled: Floats,
    center: Floats,
    given: GivenRows,
    options: SparseOptions,
    *,
    seed: int,
    progress: Progress,
) -> tuple[SparseAutoencoder, SparseReport]:
    """Learn the features beside the given ones: squared error plus an L1 penalty on the learned activations.

    Args:
        pooled: [n, d], the vectors to learn from and to measure on.
        center: [d], the decoder bias.
        given: Encoder rows of the first features.
        options: Size and schedule.
        seed: Seed of the first rows and of the batches.
        progress: Told of every hundredth step.

    Returns:
        The autoencoder and its quality.
    """
    rng = np.random.default_rng([seed, 77])
    learned = options.features - len(given.bias)
    start = pooled[rng.choice(len(pooled), size=learned, replace=len(pooled) < learned)] - center
    start = (start + 0.05 * rng.standard_normal(start.shape)).astype(np.float32)
    coder = _Coder(given, center, options.features, start)
    vectors = torch.from_numpy(pooled)
    optimizer = torch.optim.Adam(coder.parameters(), lr=options.learning_rate, betas=(0.9, 0.99))
    curve: list[tuple[int, float, float]] = []
    for step in range(options.steps):
        rows = torch.from_numpy(rng.integers(len(pooled), size=options.batch_size))
        active, rebuilt = coder(vectors[rows])
        error = (rebuilt - vectors[rows]).square().sum(dim=1).mean()
        norm = active[:, len(given.bias) :].sum(dim=1).mean()
        ramp = min(1.0, (step + 1) / (0.2 * options.steps))
        optimizer.zero_grad()
        (error + ramp * options.sparsity * norm).backward()
        optimizer.param_groups[0]["lr"] = options.learning_rate * min(1.0, 3.0 * (1.0 - step / options.steps))
        optimizer.step()
        if (step + 1) % 100 == 0 or step + 1 == options.steps:
            curve.append((step + 1, error.item(), norm.item()))
            progress("sparse autoencoder", step + 1, options.steps, f"error {error.item():.4f}")
    return _finish(coder, vectors, len(given.bias), curve)


def _finish(
    coder: _Coder, vectors: Tensor, n_given: int, curve: list[tuple[int, float, float]]
) -> tuple[SparseAutoencoder, SparseReport]:
    """The arrays of a trained autoencoder and its quality on the vectors."""
    with torch.inference_mode():
        active, rebuilt = coder(vectors)
        residual = float((rebuilt - vectors).square().sum())
        total = float((vectors - vectors.mean(dim=0)).square().sum())
        usage = (active > 0).to(torch.float32).mean(dim=0)
        weight, bias = coder.rows()
        columns = coder.decoder / coder.decoder.norm(dim=0, keepdim=True)
    sae = SparseAutoencoder(weight.numpy(), bias.numpy(), columns.numpy(), coder.center.numpy(), usage.numpy())
    dead = int((usage[n_given:] == 0).sum())
    l0 = float((active > 0).to(torch.float32).sum(dim=1).mean())
    return sae, SparseReport(1.0 - residual / total, l0, dead, curve)
