"""Bundles: the on-disk form of a context, written atomically and verified before they are trusted."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError

from ..schemas.errors import BundleError, RequestError
from ..schemas.manifest import FORMAT_VERSION, MANIFEST, FileEntry, Manifest, ModelParams
from ..schemas.planted import PlantedRule
from ..schemas.vocabulary import Vocabulary, WeaponVocabulary

ARRAYS = {
    "examples/weapon.npy": "int32",
    "examples/indptr.npy": "int64",
    "examples/tokens.npy": "int16",
    "examples/levels.npy": "uint8",
    "examples/build_id.npy": "int32",
    "pooled.npy": "float32",
    "activations/indptr.npy": "int64",
    "activations/rows.npy": "int32",
    "activations/values.npy": "float32",
}
"""Every array a bundle may hold, with its dtype."""
TEXTS = ("vocab.json", "weapon_vocab.json")
WEIGHTS = ("model.safetensors", "sae.safetensors")
REQUIRED = ("vocab.json", "weapon_vocab.json")
_CHUNK = 1 << 20


@dataclass
class BundleContents:
    """Everything that goes into a new bundle, in memory.

    Attributes:
        model_params: sizes of the network, or None for a bundle that only serves observational experiments.
        model_state: the network's state dict as numpy arrays, or None.
        sae_state: ``encoder.weight [F, d]``, ``encoder.bias [F]``, ``decoder.weight [d, F]``, ``decoder_bias [d]``.
        vocabulary: ``{token: id}``.
        weapon_vocabulary: ``{"weapon_id_1111": id}``.
        weapon: int32 [n], weapon token ids of the examples; None for a bundle without examples.
        indptr: int64 [n + 1], where each example's tokens begin.
        tokens: int16 [nnz], ability token ids.
        levels: uint8 [n, n_families].
        build_id: int32 [n], which build an example was made from.
        pooled: float32 [n, d], the model's pooled vectors of the examples.
        made_by: how the bundle was made (seeds, steps, versions, ...).
        planted: the rules known to hold, if any.
    """

    model_params: ModelParams | None
    model_state: Mapping[str, NDArray[Any]] | None
    sae_state: Mapping[str, NDArray[Any]]
    vocabulary: Mapping[str, int]
    weapon_vocabulary: Mapping[str, int]
    weapon: NDArray[np.int32] | None = None
    indptr: NDArray[np.int64] | None = None
    tokens: NDArray[np.int16] | None = None
    levels: NDArray[np.uint8] | None = None
    build_id: NDArray[np.int32] | None = None
    pooled: NDArray[np.float32] | None = None
    made_by: dict[str, Any] = field(default_factory=dict)
    planted: tuple[PlantedRule, ...] = ()

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays there are, by file name."""
        named = {
            "examples/weapon.npy": self.weapon,
            "examples/indptr.npy": self.indptr,
            "examples/tokens.npy": self.tokens,
            "examples/levels.npy": self.levels,
            "examples/build_id.npy": self.build_id,
            "pooled.npy": self.pooled,
        }
        return {name: np.asarray(value, ARRAYS[name]) for name, value in named.items() if value is not None}


def write_bundle(folder: Path, contents: BundleContents) -> Manifest:
    """Write a bundle; the folder appears whole or not at all.

    Raises:
        RequestError: when something is already there that is not an empty folder.
    """
    folder = folder.absolute()
    check_free(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _write_files(partial, contents)
        manifest = _manifest_of(partial, contents)
        publish(partial, folder, manifest)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return manifest


def check_free(folder: Path) -> None:
    """Raise RequestError when something is at the place of a new bundle that is not an empty folder."""
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise RequestError(f"{folder} already exists and is not an empty folder: choose another, or remove it first.")


def publish(partial: Path, folder: Path, manifest: Manifest) -> None:
    """Seal a finished folder with its manifest and give it its name, in one step.

    Args:
        partial: the folder with every file of the bundle, on the file system of ``folder``.
        folder: where it is to appear: absent, or an empty folder.
        manifest: what the files are.
    """
    with (partial / MANIFEST).open("w", encoding="utf-8") as stream:
        stream.write(manifest.model_dump_json(indent=1) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    partial.chmod(0o755)
    if folder.exists():
        folder.rmdir()
    partial.rename(folder)


def _write_files(folder: Path, contents: BundleContents) -> None:
    (folder / "vocab.json").write_text(json.dumps(dict(contents.vocabulary), indent=0) + "\n", encoding="utf-8")
    weapons = json.dumps(dict(contents.weapon_vocabulary), indent=0) + "\n"
    (folder / "weapon_vocab.json").write_text(weapons, encoding="utf-8")
    if contents.model_state is not None:
        save_tensors(contents.model_state, folder / "model.safetensors")
    save_tensors(contents.sae_state, folder / "sae.safetensors")
    for name, array in contents.arrays().items():
        (folder / name).parent.mkdir(exist_ok=True)
        np.save(folder / name, array, allow_pickle=False)


def save_tensors(state: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Write arrays by name as a safetensors file; OSError where it cannot be written."""
    arrays = {name: np.ascontiguousarray(value) for name, value in sorted(state.items())}
    try:
        safetensors.numpy.save_file(arrays, path)
    except SafetensorError as error:  # its word for a full disk
        raise OSError(f"{path} cannot be written: {error}") from error


def _manifest_of(folder: Path, contents: BundleContents) -> Manifest:
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    n_features, hidden_dim = contents.sae_state["encoder.weight"].shape
    return Manifest(
        format_version=FORMAT_VERSION,
        model=contents.model_params,
        n_features=n_features,
        hidden_dim=hidden_dim,
        n_examples=0 if contents.weapon is None else len(contents.weapon),
        n_tokens=0 if contents.tokens is None else len(contents.tokens),
        files={name: FileEntry(size=(folder / name).stat().st_size, sha256=sha256_of(folder / name)) for name in names},
        made_by=contents.made_by,
        planted=contents.planted,
    )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose manifest and files have been checked.

    Attributes:
        path: its folder.
        manifest: what it says of itself.
        fingerprint: SHA-256 of the manifest (which lists the hash of every file): equal bundles, equal fingerprints.
    """

    path: Path
    manifest: Manifest
    fingerprint: str

    @classmethod
    def open(cls, path: Path, *, hash_files: bool | None = None, stamps: Path | None = None) -> Bundle:
        """Read the manifest and check the files.

        Args:
            path: the bundle's folder.
            hash_files: True hashes every file; False compares names and sizes only; None hashes unless ``stamps``
                remembers that these files (by size and time of change) were hashed before.
            stamps: folder in which hashed bundles are remembered; None remembers nothing.

        Raises:
            BundleError: a part is missing, truncated, changed, a link, or not of this format.
        """
        manifest, fingerprint = read_manifest(path)
        bundle = cls(path, manifest, fingerprint)
        stamp = bundle._stamp()
        if hash_files is None:
            hash_files = stamps is None or not _stamp_file(stamps, fingerprint, stamp).is_file()
        bundle.check(hash_files=hash_files)
        if hash_files and stamps is not None:
            _remember(_stamp_file(stamps, fingerprint, stamp))
        return bundle

    def check(self, *, hash_files: bool, progress: Callable[[str], None] | None = None) -> None:
        """Check every file of the manifest: there, no link, of the stated size and (if asked) hash."""
        for name in REQUIRED:
            if name not in self.manifest.files:
                raise BundleError(f"{self.path}: the manifest lists no {name}. Rebuild or re-import the bundle.")
        if self.manifest.model is not None and "model.safetensors" not in self.manifest.files:
            raise BundleError(f"{self.path}: the manifest describes a model but lists no model.safetensors.")
        for name, entry in self.manifest.files.items():
            self._check_file(name, entry, hash_files=hash_files)
            if progress:
                progress(name)

    def _check_file(self, name: str, entry: FileEntry, *, hash_files: bool) -> None:
        if name not in ARRAYS and name not in TEXTS and name not in WEIGHTS:
            known = ", ".join([*TEXTS, *WEIGHTS, *ARRAYS])
            raise BundleError(f"{self.path}: the manifest lists {name!r}, which no bundle holds. Files known: {known}.")
        path = self.path / name
        remedy = "Restore it from where the bundle came from, or rebuild the bundle."
        if path.is_symlink() or path.parent.is_symlink():
            raise BundleError(f"{path} is a link; a bundle holds plain files only. {remedy}")
        if not path.is_file():
            raise BundleError(f"{path} is missing. {remedy}")
        size = path.stat().st_size
        if size != entry.size:
            raise BundleError(f"{path} has {size:,} bytes where the manifest says {entry.size:,}. {remedy}")
        if hash_files and sha256_of(path) != entry.sha256:
            raise BundleError(f"{path} does not have the SHA-256 that the manifest states: it was changed. {remedy}")

    def _stamp(self) -> str:
        parts: list[str] = []
        for name in sorted(self.manifest.files):
            path = self.path / name
            if path.is_file():
                status = path.stat()
                parts.append(f"{name}:{status.st_size}:{status.st_mtime_ns}")
        return hashlib.sha256("\n".join([str(self.path), *parts]).encode()).hexdigest()

    def remember_hashed(self, stamps: Path) -> None:
        """Note that the files were hashed just now, so that opening the bundle does not hash them again."""
        _remember(_stamp_file(stamps, self.fingerprint, self._stamp()))

    def has(self, name: str) -> bool:
        """Whether the bundle holds that file."""
        return name in self.manifest.files

    def _listed(self, name: str) -> Path:
        """Path of a file; one that the manifest does not list was never checked and is not read."""
        if not self.has(name):
            raise BundleError(f"{self.path}: the manifest lists no {name}. Rebuild or re-import the bundle.")
        return self.path / name

    def missing(self) -> dict[str, str]:
        """The parts that this bundle does not have, and what that means for who asks."""
        meaning = {
            "model.safetensors": "no network: interventional methods are refused, observational ones work",
            "sae.safetensors": "no SAE: what reads encoder or decoder weights is refused or null",
            "pooled.npy": "no stored pooled vectors: the network computes them on first use, where there is one",
            "examples/weapon.npy": "no examples: interventions need dataset_slice.contexts, all else is refused",
            "examples/build_id.npy": "builds unknown: examples of the same weapon and token set count as one cluster",
            "activations/indptr.npy": "no stored activations: the SAE computes them from pooled vectors",
        }
        return {name: text for name, text in meaning.items() if not self.has(name)}

    def array(self, name: str, shape: tuple[int | None, ...] | None = None) -> NDArray[Any]:
        """Map an array of the bundle into memory, read-only.

        Raises:
            BundleError: when it is not the kind of array the format says, or not of the shape it must have.
        """
        path = self._listed(name)
        try:
            array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
        except (ValueError, OSError) as error:
            raise BundleError(f"{path} cannot be read as an array: {error}") from error
        if array.dtype != np.dtype(ARRAYS[name]):
            raise BundleError(f"{path} holds {array.dtype} where {ARRAYS[name]} is expected.")
        if shape is not None and array.shape != shape:
            raise BundleError(f"{path} has the shape {array.shape} where {shape} is expected.")
        return array

    def tensors(self, name: str) -> dict[str, NDArray[Any]]:
        """Read ``model.safetensors`` or ``sae.safetensors`` as numpy arrays."""
        path = self._listed(name)
        try:
            return safetensors.numpy.load_file(path)
        except (SafetensorError, OSError) as error:
            raise BundleError(f"{path} cannot be read: {error}") from error

    def vocabulary(self) -> Vocabulary:
        """The ability vocabulary."""
        with _naming(self.path / "vocab.json"):
            return Vocabulary.from_mapping(self._mapping("vocab.json"))

    def weapon_vocabulary(self) -> WeaponVocabulary:
        """The weapon vocabulary."""
        with _naming(self.path / "weapon_vocab.json"):
            return WeaponVocabulary.from_mapping(self._mapping("weapon_vocab.json"))

    def _mapping(self, name: str) -> dict[str, int]:
        path = self.path / name
        try:
            loaded: object = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise BundleError(f"it cannot be read: {error}") from error
        if not isinstance(loaded, dict) or not all(type(value) is int for value in loaded.values()):
            raise BundleError("it must be one object {token: id}.")
        return {str(token): int(index) for token, index in loaded.items()}


@contextmanager
def _naming(path: Path) -> Generator[None]:
    """Put the file's path before what is wrong with it."""
    try:
        yield
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error


def read_manifest(path: Path) -> tuple[Manifest, str]:
    """Read ``bundle.json``; return it with its fingerprint.

    Raises:
        BundleError: no such folder or file, or a manifest of another form.
    """
    file = path / MANIFEST
    if not file.is_file():
        raise BundleError(f"{path} is no bundle: it has no {MANIFEST}. Make one with `mechinterp-runner build`.")
    if file.is_symlink():
        raise BundleError(f"{file} is a link; a bundle holds plain files only. Copy the file in its place.")
    try:
        text = file.read_bytes()
        manifest = Manifest.model_validate_json(text)
    except OSError as error:
        raise BundleError(f"{file} cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        got = f"; got {first['input']!r}" if isinstance(first["input"], str | int | float) and where else ""
        place = f"{where}: " if where else ""
        raise BundleError(f"{file}: {place}{first['msg']}{got}. Rebuild or re-import the bundle.") from error
    return manifest, hashlib.sha256(text).hexdigest()


def _stamp_file(stamps: Path, fingerprint: str, stamp: str) -> Path:
    return stamps / f"{fingerprint[:16]}-{stamp[:16]}"


def _remember(file: Path) -> None:
    """Note that these files were hashed; a folder that cannot be written only means hashing again."""
    with suppress(OSError):
        file.parent.mkdir(exist_ok=True)
        file.touch()
