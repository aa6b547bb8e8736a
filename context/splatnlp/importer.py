"""From the files of the SplatNLP project to a bundle: planned, written stage by stage, checked, and published whole."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ...schemas.errors import RequestError, StoreError
from ...schemas.manifest import FORMAT_VERSION, FileEntry, Manifest
from ..bundle import MANIFEST, Bundle, check_free, publish, save_tensors, sha256_of
from ..context import Context
from ..device import Compute
from .metadata import example_pieces
from .plan import Plan, make_plan
from .pooled import POOLED, compute_pooled, copy_pooled
from .rows import ExampleWriter, example_arrays
from .sources import NOTHING, ImportOptions, Sources, describe_input, stamp_of
from .verify import Verified, verify
from .weights import as_mapping
from .work import Pieces, Report, Work

_CACHE_BYTES = 0
"""What is read here is read once."""
_UNKNOWN_HASH = "0" * 64
PROJECT = "mechinterp-runner"


class _Anew(Compute):
    """The network itself: what an earlier process kept of another one is neither read nor added to."""

    __slots__ = ()

    def cache_folder(self) -> Path | None:
        """None, whatever folder is named."""
        return None


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import made.

    Attributes:
        manifest: of the new bundle.
        notes: what the user should know of the inputs.
        verified: how well imported activations agree with recomputed ones, if that was asked.
    """

    manifest: Manifest
    notes: tuple[str, ...]
    verified: Verified | None


def _silent(stage: str, done: int, total: int, note: str) -> None:
    del stage, done, total, note


def import_splatnlp(
    sources: Sources,
    folder: Path,
    options: ImportOptions | None = None,
    report: Report = _silent,
    *,
    stamps: Path | None = None,
) -> ImportReport:
    """Import files of the SplatNLP project as a bundle.

    An import that was stopped leaves a work folder beside ``folder``; the same import (equal options, and files of
    equal size and time of change) goes on from there. One that is refused leaves nothing.

    Args:
        sources: the files.
        folder: the bundle's folder: absent or empty. It appears whole, at the end.
        options: how.
        report: told (stage, done, total, note).
        stamps: where it is remembered that the bundle's files were hashed; see `Bundle.open`.

    Raises:
        RequestError: the inputs are not what they should be, or changed meanwhile; no bundle appears.
        StoreError: the disk is full, or something on it cannot be read or written.
    """
    folder, options = folder.absolute(), options or ImportOptions()
    check_free(folder)
    plan = make_plan(sources, options)
    stamp = _stamp(plan)
    with _locked(folder, stamp) as work_folder:
        work = Work(work_folder)
        try:
            with work.room():
                _write(plan, work, report)
                verified, manifest = _seal(plan, work, folder.name, report)
            _check_unchanged(plan, stamp)
        except RequestError:
            shutil.rmtree(work_folder)  # the inputs are at fault, and others begin anew
            raise
        with work.room():  # where another import took the name meanwhile, this one is kept
            publish(work.bundle, folder, manifest)
    _clean(folder)
    if stamps is not None:
        Bundle.open(folder, hash_files=False).remember_hashed(stamps)
    return ImportReport(manifest, tuple(manifest.made_by["notes"]), verified)


def _stamp(plan: Plan) -> str:
    """Names what is imported and how: two imports of one stamp write the same bytes, unit by unit."""
    how = plan.settings() | {"block_bytes": plan.options.block_bytes, "version": _version(PROJECT)}
    try:
        return stamp_of(plan.inputs(), how)
    except OSError as error:
        raise RequestError(f"an input cannot be read: {error}. {NOTHING}") from error


def _check_unchanged(plan: Plan, stamp: str) -> None:
    """Raise RequestError when the inputs are not those that the import began with."""
    if _stamp(plan) != stamp:
        raise RequestError("an input changed while it was imported: run the same command again. No bundle was made.")


@contextmanager
def _locked(folder: Path, stamp: str) -> Generator[Path]:
    """The work folder of an import, for this process alone."""
    work_folder = folder.parent / f".{folder.name}.{stamp}.import"
    lock = FileLock(work_folder / "lock")
    try:
        work_folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RequestError(f"the same import is running: {lock.lock_file} is held. {NOTHING}") from error
    except OSError as error:
        raise StoreError(f"{work_folder} cannot be written: {error}. {NOTHING}") from error
    try:
        yield work_folder
    finally:
        lock.release()


def _clean(folder: Path) -> None:
    """Remove the work folders of a bundle that is there now, but for those in use."""
    form = re.compile(rf"\.{re.escape(folder.name)}\.[0-9a-f]{{16}}\.import")  # not those of ultra.v2 for ultra
    for stale in [path for path in folder.parent.iterdir() if form.fullmatch(path.name)]:
        with suppress(Timeout), FileLock(stale / "lock").acquire(timeout=0):
            shutil.rmtree(stale)


def _write(plan: Plan, work: Work, report: Report) -> None:
    """All stages that write files of the bundle."""
    work.once("weights", lambda: _write_weights(plan, work), report)
    if plan.model is not None:
        plan.model.clear()  # the network is read from the bundle from here on: it need not be held twice
    arrays = example_arrays(plan.vocabulary)
    if plan.csv is not None:
        plan.csv.grow(work, arrays, report)
    if plan.metadata is not None:
        metadata = plan.metadata
        writer = ExampleWriter.after(plan.vocabulary, work.length("examples", "examples/tokens.npy"))

        def examples(unit: int) -> Pieces:
            return example_pieces(metadata, unit, plan.vocabulary, plan.weapons, writer)

        work.grow("examples", arrays, len(metadata.files), examples, report)
    if plan.activations is not None:
        plan.activations.grow(work, plan.options, report)
    if plan.pooled is not None:
        copy_pooled(work, plan.pooled, plan.options.block_bytes, report)
    elif plan.compute_pooled:
        context = _open(plan, work, work.folder.name, plan.options.compute.dtype, without=POOLED)
        work.facts["network"] = f"the network, on {context.device} in {context.dtype}"
        compute_pooled(work, context, plan.hidden_dim or 0, plan.options.block_bytes, report)


def _write_weights(plan: Plan, work: Work) -> None:
    """The vocabularies, and the weights there are."""
    for name, tokens in (("vocab.json", plan.vocabulary.tokens), ("weapon_vocab.json", plan.weapons.tokens)):
        (work.bundle / name).write_text(json.dumps(as_mapping(tokens), indent=0) + "\n", encoding="utf-8")
    for name, state in (("model.safetensors", plan.model), ("sae.safetensors", plan.sae)):
        if state is not None:
            save_tensors(state, work.bundle / name)


def _manifest(plan: Plan, work: Work, files: dict[str, FileEntry], made_by: dict[str, Any]) -> Manifest:
    has_examples = "examples/weapon.npy" in files
    return Manifest(
        format_version=FORMAT_VERSION,
        model=plan.params,
        n_features=plan.n_features,
        hidden_dim=plan.hidden_dim,
        n_examples=len(work.array("examples/weapon.npy")) if has_examples else 0,
        n_tokens=len(work.array("examples/tokens.npy")) if has_examples else 0,
        files=files,
        made_by=made_by,
    )


def _names(work: Work) -> list[str]:
    """Files of the bundle so far."""
    names = [path.relative_to(work.bundle).as_posix() for path in work.bundle.rglob("*") if path.is_file()]
    return sorted(name for name in names if name != MANIFEST)  # which is there when publishing was cut short


def _open(plan: Plan, work: Work, name: str, dtype: str, *, without: str = "") -> Context:
    """Open what is finished as a context; its sizes and ids are checked, its hashes are not known yet."""
    files = {
        file: FileEntry(size=work.path(file).stat().st_size, sha256=_UNKNOWN_HASH)
        for file in _names(work)
        if file != without
    }
    bundle = Bundle(work.bundle, _manifest(plan, work, files, {}), _UNKNOWN_HASH)
    asked = plan.options.compute
    compute = _Anew(device=asked.device, dtype=dtype, threads=asked.threads)
    return Context(name, bundle, compute=compute, cache_bytes=_CACHE_BYTES)


def _seal(plan: Plan, work: Work, name: str, report: Report) -> tuple[Verified | None, Manifest]:
    """Check the finished files as a reader would, compare, hash, and state where everything came from."""
    verified, options = None, plan.options
    # Whether weights and activations belong together cannot be told in the 8 bits of bfloat16.
    context = _open(plan, work, name, "float64" if options.compute.dtype == "float64" else "float32")
    if options.verify:
        report("verify", 0, 1, "")
        verified = verify(
            context, options.verify, options.seed, options.block_bytes, pooled_imported=plan.pooled is not None
        )
        report("verify", 1, 1, "")
    inputs, files = sorted(plan.inputs().items()), _names(work)
    hashed: dict[str, Any] = work.facts.setdefault("inputs", {})
    sealed: dict[str, Any] = work.facts.setdefault("files", {})

    def hash_input(unit: int) -> Pieces:
        label, path = inputs[unit]
        hashed[label] = describe_input(path)
        return ()

    def hash_file(unit: int) -> Pieces:
        path = work.path(files[unit])
        with path.open("rb") as stream:
            os.fsync(stream.fileno())  # what is remembered as hashed must be on the disk
        sealed[files[unit]] = {"size": path.stat().st_size, "sha256": sha256_of(path)}
        return ()

    work.grow("hash inputs", {}, len(inputs), hash_input, report)
    work.grow("hash bundle", {}, len(files), hash_file, report)
    entries = {name: FileEntry.model_validate(entry) for name, entry in sealed.items()}
    return verified, _manifest(plan, work, entries, _made_by(plan, work, verified))


def _made_by(plan: Plan, work: Work, verified: Verified | None) -> dict[str, Any]:
    """Where the bundle came from."""
    origin = "the SAE, from pooled vectors" if plan.activations is None else plan.activations.origin()[0]
    copied = None if plan.pooled is None else plan.pooled.path.name
    return {
        "command": "mechinterp-runner import splatnlp",
        "inputs": work.facts["inputs"],
        "options": plan.settings(),
        "examples_from": _examples_from(plan),
        "activations_from": origin,
        "pooled_vectors_from": work.facts.get("network", copied),
        "table": work.facts.get("csv"),
        "notes": [*plan.notes(), *work.facts.get("notes", [])],
        "verified": None if verified is None else verified.as_dict(),
        "versions": {name: _version(name) for name in (PROJECT, "numpy", "torch", "zarr")},
    }


def _examples_from(plan: Plan) -> str | None:
    """Which file the examples are of."""
    if plan.csv is not None:
        return "partial sets made of the complete builds of tokenized_csv"
    return None if plan.metadata is None else "rows of metadata, by batch and sample_id"


def _version(name: str) -> str | None:
    """Installed version of a distribution; None where it is not."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
