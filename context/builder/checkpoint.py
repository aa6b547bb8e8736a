"""Checkpoints of a training run: tensors only, written beside the target and replaced atomically."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save_file

if TYPE_CHECKING:
    from .train import Trainer


def save_checkpoint(trainer: Trainer, path: Path) -> None:
    """Write the parameters, the optimiser's moments, the rule weights and the loss curve."""
    tensors = {f"model.{name}": value for name, value in trainer.model.state_dict().items()}
    tensors |= {f"probe.{name}": value for name, value in trainer.probe.state_dict().items()}
    for index, moments in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    tensors["recent"] = trainer.planted.recent
    tensors["sums"] = torch.from_numpy(trainer.sums.copy())
    metadata = {"step": str(trainer.step), "curve": json.dumps(trainer.curve)}
    fresh = path.with_name(path.name + ".new")
    save_file({name: value.contiguous() for name, value in tensors.items()}, fresh, metadata)
    fresh.replace(path)


def load_checkpoint(trainer: Trainer, path: Path) -> None:
    """Take up a run where its checkpoint left it; without a file, leave the trainer as it is."""
    if not path.is_file():
        return
    with safe_open(path, framework="pt") as stored:
        tensors: dict[str, torch.Tensor] = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        metadata: dict[str, str] = stored.metadata()

    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    trainer.model.load_state_dict(part("model."))
    trainer.probe.load_state_dict(part("probe."))
    state = trainer.optimizer.state_dict()
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in part("adam.").items():
        index, moment = name.split(".", 1)
        moments.setdefault(int(index), {})[moment] = value
    trainer.optimizer.load_state_dict({"state": moments, "param_groups": state["param_groups"]})
    trainer.planted.recent = tensors["recent"]
    trainer.sums = tensors["sums"].numpy()
    trainer.step = int(metadata["step"])
    trainer.curve = [(int(step), float(a), float(b)) for step, a, b in json.loads(metadata["curve"])]
