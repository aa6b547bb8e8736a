"""`bundle.json`: what a bundle holds, how it was made, and what is known to be true of it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from .planted import PlantedRule

MANIFEST = "bundle.json"
FORMAT_VERSION = 1
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""What ids of specs, names of bundles and of figures may look like; safe as a file name on every system."""
_NAME = re.compile(NAME_PATTERN)


def is_name(text: str) -> bool:
    """Whether the text is a legal id or bundle name."""
    return _NAME.fullmatch(text) is not None


class ModelParams(BaseModel):
    """Sizes of the set-completion model, as in ``model_params.json``."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    vocab_size: int = Field(ge=3)
    weapon_vocab_size: int = Field(ge=1)
    embedding_dim: int = Field(ge=1)
    hidden_dim: int = Field(ge=1)
    output_dim: int = Field(ge=1)
    num_layers: int = Field(ge=1)
    num_heads: int = Field(ge=1)
    num_inducing_points: int = Field(ge=1)
    use_layer_norm: bool = True
    dropout: float = Field(default=0.0, ge=0, le=1)
    pad_token_id: int = Field(ge=0)


class FileEntry(BaseModel):
    """One file of the bundle: its size in bytes and its SHA-256."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(ge=0)
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Manifest(BaseModel):
    """The manifest of a bundle.

    ``files`` lists every other file of the folder by its plain relative name. ``model`` is null for a bundle that
    only serves observational experiments; ``n_examples`` is 0 for one that only serves interventions. ``hidden_dim``
    is null where neither model, SAE nor pooled vectors are known: the features are columns of activations alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    format_version: Literal[1]
    model: ModelParams | None
    n_features: int = Field(ge=1)
    hidden_dim: int | None = Field(ge=1)
    n_examples: int = Field(ge=0)
    n_tokens: int = Field(ge=0)
    files: dict[str, FileEntry]
    made_by: dict[str, Any] = Field(default_factory=dict)
    planted: tuple[PlantedRule, ...] = ()

    def origin(self) -> str:
        """Where the bundle came from in one line: the command that made it and the files it read."""
        inputs: object = self.made_by.get("inputs")
        named = inputs.items() if isinstance(inputs, dict) else ()
        files = [f"{name} {entry['path']}" for name, entry in named if isinstance(entry, dict) and "path" in entry]
        files += [str(self.made_by["builds"])] if "builds" in self.made_by else []
        command = str(self.made_by.get("command", "not stated"))
        return f"{command}: {', '.join(files)}" if files else command
