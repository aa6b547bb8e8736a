"""Which files an import reads, and whether they go together; nothing of what they hold is read here."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...schemas.errors import RequestError
from ..device import Compute

NOTHING = "Nothing was imported."


@dataclass(frozen=True, slots=True)
class Sources:
    """The files given.

    Attributes:
        vocab: ``vocab.json``.
        weapon_vocab: ``weapon_vocab.json``.
        model: state dict of the network; with it come ``params`` and ``sae``.
        params: ``model_params.json``.
        sae: state dict of the autoencoder.
        tokenized_csv: complete builds, from which partial examples are made.
        activations: an ``activations_*_efficient`` folder: metadata, and optionally dense batches and pooled vectors.
        transposed: activations by feature, instead of the folder's own.
        neuron_acts: activations as one folder a feature, instead of the folder's own.
    """

    vocab: Path
    weapon_vocab: Path
    model: Path | None = None
    params: Path | None = None
    sae: Path | None = None
    tokenized_csv: Path | None = None
    activations: Path | None = None
    transposed: Path | None = None
    neuron_acts: Path | None = None

    def given(self) -> dict[str, Path]:
        """The paths there are, by their flag."""
        named = {name.replace("_", "-"): getattr(self, name) for name in self.__dataclass_fields__}
        return {f"--{name}": path for name, path in named.items() if path is not None}

    def check(self) -> None:
        """Raise RequestError unless the files are there and go together."""
        faults = {
            "--model needs --params (its sizes) and --sae (what is read off it)": (
                self.model is not None and (self.params is None or self.sae is None)
            ),
            "--params describes a --model, and none is given": self.params is not None and self.model is None,
            "--tokenized-csv and --activations each say what the examples are: give one of them": (
                self.tokenized_csv is not None and self.activations is not None
            ),
            "--transposed and --neuron-acts each hold the activations: give one of them": (
                self.transposed is not None and self.neuron_acts is not None
            ),
            "--transposed and --neuron-acts hold no tokens: give --activations DIR with its metadata too": (
                self.activations is None and (self.transposed is not None or self.neuron_acts is not None)
            ),
            "without --activations a bundle needs --model, --params and --sae: nothing else says what features do": (
                self.activations is None and self.model is None
            ),
        }
        for fault, found in faults.items():
            if found:
                raise RequestError(f"{fault}. {NOTHING}")
        folders = {"--activations", "--transposed", "--neuron-acts"}
        for flag, path in self.given().items():
            wanted = "folder" if flag in folders else "file"
            if not (path.is_dir() if flag in folders else path.is_file()):
                what = f"there is no {wanted} {path}" if not path.exists() else f"{path} is not a {wanted}"
                raise RequestError(f"{flag}: {what}. {NOTHING}")


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """How to import.

    Attributes:
        instances_per_build: partial sets made of each complete build of a CSV, at most.
        seed: of the tokens that are removed, and of the rows that are verified.
        pooled: store the pooled vector of every example where a model is given; else computed when first needed.
        verify: rows on which imported activations are compared with recomputed ones; 0 for none.
        compute: device, precision and threads of the network.
        block_bytes: size of the dense blocks that are in memory at a time.
    """

    instances_per_build: int = 5
    seed: int = 0
    pooled: bool = True
    verify: int = 0
    compute: Compute = field(default_factory=Compute)
    block_bytes: int = 128 << 20

    def __post_init__(self) -> None:
        for name, least in {"instances_per_build": 1, "verify": 0, "seed": 0}.items():
            if getattr(self, name) < least:
                flag = name.replace("_", "-")
                raise RequestError(f"--{flag} must be at least {least}; got {getattr(self, name)}. {NOTHING}")


def _raise(error: OSError) -> None:
    raise error


def files_below(path: Path) -> Generator[tuple[str, Path]]:
    """Every file of a folder in a fixed order, with its name below the folder; a file gives itself.

    Links are followed: what is read through them is an input too.

    Raises:
        OSError: a folder cannot be listed.
    """
    if path.is_file():
        yield path.name, path
        return
    for folder, inner, names in os.walk(path, onerror=_raise, followlinks=True):
        inner.sort()
        for name in sorted(names):
            file = Path(folder, name)
            yield file.relative_to(path).as_posix(), file


def stamp_of(inputs: Mapping[str, Path], options: Mapping[str, Any]) -> str:
    """A short name of what is imported: by the paths, sizes and times of change of all files, and by the options."""
    digest = hashlib.sha256(repr(sorted(options.items())).encode())
    for label, path in sorted(inputs.items()):
        digest.update(f"{label}\0{path.absolute()}\n".encode())
        for name, file in files_below(path):
            status = file.stat()
            digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def describe_input(path: Path) -> dict[str, Any]:
    """Where an input is, its size and SHA-256; that of a folder is of the list of its files' names and hashes."""
    if path.is_file():
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        return {"path": str(path.absolute()), "bytes": path.stat().st_size, "sha256": sha256}
    digest, size, count = hashlib.sha256(), 0, 0
    for name, file in files_below(path):
        with file.open("rb") as stream:
            digest.update(f"{hashlib.file_digest(stream, 'sha256').hexdigest()}  {name}\n".encode())
        size, count = size + file.stat().st_size, count + 1
    return {"path": str(path.absolute()), "files": count, "bytes": size, "sha256": digest.hexdigest()}
