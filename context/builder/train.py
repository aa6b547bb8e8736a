"""The trainer: partial builds are completed and, beside it, linear probes of the pooled vector learn planted rules."""

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ...schemas.manifest import ModelParams
from ...schemas.planted import PlantedRule
from ..model import SplatGPT
from ..token_sets import TokenSets
from .batches import Batch, BatchSource
from .checkpoint import load_checkpoint, save_checkpoint
from .codec import Codec

Progress = Callable[[str, int, int, str], None]
"""Called with (stage, done, total, note); raise from it to stop."""

MARGIN = 0.2
"""How far below 0, as a share of the height, a silent feature's pre-activation is pushed."""
DOSE_MARGIN = 0.05
DOSE_PRECISION = 4.0
"""A dose is small in most builds, so its errors are counted this many times larger."""


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How long and how to train.

    Attributes:
        steps: Optimiser steps.
        batch_size: Sets a step.
        learning_rate: Peak of the schedule (linear warm-up, then cosine to zero).
        warmup: Steps of warm-up.
        completion_weight: Weight of the completion loss against the sum of the planted losses.
        checkpoint_every: Steps between checkpoints, where one is kept.
    """

    steps: int = 2500
    batch_size: int = 256
    learning_rate: float = 2e-3
    warmup: int = 100
    completion_weight: float = 4.0
    checkpoint_every: int = 250


@dataclass(slots=True)
class Trained:
    """A trained network and its probes.

    Attributes:
        model: The network, in evaluation mode.
        probe_weight: float32 [n_rules, d].
        probe_bias: float32 [n_rules].
        curve: (step, completion loss, mean planted loss) every 50 steps, each averaged since the last.
    """

    model: SplatGPT
    probe_weight: NDArray[np.float32]
    probe_bias: NDArray[np.float32]
    curve: list[tuple[int, float, float]] = field(default_factory=list)


@contextmanager
def reproducible(seed: int, threads: int | None) -> Generator[None]:
    """Seed torch, fix its threads and ask for deterministic kernels; the settings are restored afterwards."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(threads or before[0])
        torch.use_deterministic_algorithms(True)  # noqa: FBT003 - torch's own signature
        try:
            yield
        finally:
            torch.set_num_threads(before[0])
            torch.use_deterministic_algorithms(before[1])


def pool(model: SplatGPT, codec: Codec, sets: TokenSets, chunk: int) -> Tensor:
    """Pooled vectors [n, d] of token sets, in their order, evaluated by similar length so that little is padded."""
    lengths = sets.present.sum(axis=1)
    order = np.argsort(lengths, kind="stable")
    parts: list[Tensor] = []
    for start in range(0, len(sets), chunk):
        rows = order[start : start + chunk]
        tokens = torch.from_numpy(codec.pad(sets.present[rows]))
        padding = tokens == codec.vocabulary.pad_id
        weapons = torch.from_numpy(sets.weapon[rows].astype(np.int64))
        parts.append(model.pooled(tokens, weapons, padding if bool(padding.any()) else None))
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return torch.cat(parts)[torch.from_numpy(back)]


def pooled_vectors(model: SplatGPT, codec: Codec, sets: TokenSets, chunk: int = 2048) -> NDArray[np.float32]:
    """Pooled vectors of token sets without gradients; float32 [n, d]."""
    with torch.inference_mode():
        return pool(model, codec, sets, chunk).numpy()


class _PlantedLoss:
    """Squared errors of the probes, balanced between active and wrongly active sets and between rules.

    Silent sets count only while their pre-activation is above the margin, and few of them count as much as many: a
    rare cell that the network gets wrong, such as a pair beside its modulator, is not diluted by the easy ones.
    """

    def __init__(self, rules: Sequence[PlantedRule]) -> None:
        dose = torch.tensor([rule.kind == "linear_dose" for rule in rules], dtype=torch.bool)
        height = torch.tensor([rule.height for rule in rules])
        self.scale = torch.where(dose, height / DOSE_PRECISION, height)
        self.margin = height * torch.where(dose, torch.tensor(DOSE_MARGIN), torch.tensor(MARGIN))
        self.recent = torch.ones(len(rules))

    def __call__(self, hidden: Tensor, target: Tensor) -> Tensor:
        """The loss of pre-activations [n, n_rules] against targets of the same shape."""
        active = target > 0
        wrong = torch.where(active, hidden - target, functional.relu(hidden + self.margin)) / self.scale
        squared = wrong.square()
        hits = active.sum(dim=0).clamp(min=1)
        wrongly = ((squared > 0) & ~active).sum(dim=0).clamp(min=len(target) / 16)
        losses = (squared * active).sum(dim=0) / hits + (squared * ~active).sum(dim=0) / wrongly
        self.recent = 0.97 * self.recent + 0.03 * losses.detach()
        weight = (self.recent / self.recent.mean()).clamp(0.4, 6.0)
        return (weight * losses).sum()


def _rate(step: int, options: TrainOptions) -> float:
    """Learning rate of a step as a share of the peak."""
    if step < options.warmup:
        return (step + 1) / options.warmup
    done = (step - options.warmup) / max(1, options.steps - options.warmup)
    return 0.5 * (1.0 + math.cos(math.pi * done))


class Trainer:
    """Trains one network; `run` may be left by an exception and taken up again from its checkpoint.

    Args:
        params: Sizes of the network.
        source: Where batches come from.
        options: Schedule.
        seed: Seed of the batches; the initial weights follow torch's own state (see `reproducible`).
    """

    def __init__(self, params: ModelParams, source: BatchSource, options: TrainOptions, seed: int) -> None:
        self.seed = seed
        self.source = source
        self.options = options
        self.model = SplatGPT(params)
        nn.init.normal_(self.model.ability_embedding.weight, std=0.5)
        nn.init.normal_(self.model.weapon_embedding.weight, std=0.5)
        self.probe = nn.Linear(params.hidden_dim, max(1, len(source.rules)))
        parameters = [*self.model.parameters(), *self.probe.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
        self.planted = _PlantedLoss(source.rules)
        self.curve: list[tuple[int, float, float]] = []
        self.sums = np.zeros(2)
        self.step = 0

    def run(self, progress: Progress, checkpoint: Path | None = None) -> Trained:
        """Train to the end.

        Args:
            progress: Told of every tenth step.
            checkpoint: File to take up from and to save to now and then.

        Returns:
            The network and its probes.
        """
        if checkpoint is not None:
            load_checkpoint(self, checkpoint)
        while self.step < self.options.steps:
            self.sums += self._one_step()
            self.step += 1
            if self.step % 50 == 0 or self.step == self.options.steps:
                since = self.step % 50 or 50
                self.curve.append((self.step, float(self.sums[0] / since), float(self.sums[1] / since)))
                self.sums[:] = 0
            if self.step % 10 == 0 or self.step == self.options.steps:
                progress("train", self.step, self.options.steps, self._note())
            if checkpoint is not None and self.step % self.options.checkpoint_every == 0:
                save_checkpoint(self, checkpoint)
        n_rules = len(self.source.rules)
        weight, bias = (p.detach().numpy()[:n_rules].copy() for p in (self.probe.weight, self.probe.bias))
        return Trained(self.model.eval(), weight, bias, self.curve)

    def _one_step(self) -> tuple[float, float]:
        """One optimiser step; returns (completion loss, mean planted loss)."""
        options = self.options
        batch = self.source.batch(options.batch_size, self.seed, self.step)
        pooled = pool(self.model, self.source.codec, batch.sets, max(64, options.batch_size // 4))
        completion = self._completion(pooled, batch)
        planted = torch.zeros(())
        if self.source.rules:
            planted = self.planted(self.probe(pooled), torch.from_numpy(batch.targets))
        self.optimizer.zero_grad()
        (options.completion_weight * completion + planted).backward()
        torch.nn.utils.clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = options.learning_rate * _rate(self.step, options)
        self.optimizer.step()
        return completion.item(), planted.item() / max(1, len(self.source.rules))

    def _completion(self, pooled: Tensor, batch: Batch) -> Tensor:
        """Binary cross-entropy of the natural rows' logits towards the complete builds, mean over tokens."""
        complete = torch.from_numpy(batch.complete).to(pooled.dtype)
        return functional.binary_cross_entropy_with_logits(self.model.logits(pooled[: len(complete)]), complete)

    def _note(self) -> str:
        """The latest losses in words."""
        if not self.curve:
            return ""
        _, completion, planted = self.curve[-1]
        return f"completion {completion:.4f}" + (f", planted {planted:.5f}" if self.source.rules else "")
