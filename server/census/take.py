"""Taking a census: block after block, each kept as soon as it is finished."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...context.home import Home
from ...runners.census.subjects import KINDS, Kind
from ...schemas.errors import Cancelled, RequestError
from ...schemas.job import Job
from ..executor import PROJECT, code_digest
from ..pace import pace
from ..store import files
from .store import CensusStore
from .table import ArrowTable, CensusMeta, CensusTable, stored_key, to_bytes, to_table

if TYPE_CHECKING:
    from ...context.context import Context
    from ...runners.census.census import Census

DEFAULT_MEMORY = 1 << 30
_LEVEL = 0.05
_CHUNK_ROWS = 32_768
_SMALL = 4_000_000_000
"""Multiplications, about two seconds of one core, that a question may cost where no census is stored."""


@dataclass(frozen=True, slots=True)
class CensusOptions:
    """How a census is taken.

    Attributes:
        features: first feature and the one after the last; None for all.
        block: features that are read in one pass over the examples; None: as many as fit into the memory.
        memory: bytes that a pass may take.
        chunk_rows: examples that are read at once.
    """

    features: tuple[int, int] | None = None
    block: int | None = None
    memory: int = DEFAULT_MEMORY
    chunk_rows: int = field(default=_CHUNK_ROWS)

    def span(self, ctx: Context) -> Span:
        """What is taken, in which blocks.

        Raises:
            RequestError: the bundle has no such features, the block is empty, or the memory too small for any.
        """
        from ...context.feature_sums import device_for_sums  # noqa: PLC0415 - numpy
        from ...runners.census.census import block_size  # noqa: PLC0415 - scipy

        first, stop = self.features or (0, ctx.n_features)
        if not 0 <= first < stop <= ctx.n_features:
            raise RequestError(
                f"features {first} to {stop - 1} are out of range: bundle {ctx.name!r} has features 0 to "
                f"{ctx.n_features - 1}. Nothing was run."
            )
        if (self.block is not None and self.block < 1) or self.chunk_rows < 1:
            got = f"block {self.block} and chunk_rows {self.chunk_rows}"
            raise RequestError(f"{got} were given; both must be 1 or more. Nothing was run.")
        size = self.block or block_size(ctx, self.memory, self.chunk_rows)
        key, device = _key(ctx, (first, stop)), device_for_sums(ctx).split(":")[0]
        return Span(first, stop, size, self.chunk_rows, key, _digest([key, size, self.chunk_rows, device]))


@dataclass(frozen=True, slots=True)
class Span:
    """The features of a census, and how they are taken.

    Attributes:
        first: first feature.
        stop: the feature after the last.
        size: features of a block.
        chunk_rows: examples that are read at once.
        key: digest of what decides its numbers.
        blocks_key: digest of that and of what changes them by rounding only; finished blocks are joined under it.
    """

    first: int
    stop: int
    size: int
    chunk_rows: int
    key: str
    blocks_key: str

    def blocks(self) -> list[tuple[int, int]]:
        """First feature of each block, and the one after its last."""
        return [(at, min(at + self.size, self.stop)) for at in range(self.first, self.stop, self.size)]

    def whole(self, ctx: Context) -> bool:
        """Whether these are all features of the bundle."""
        return (self.first, self.stop) == (0, ctx.n_features)


def take_census(
    ctx: Context,
    home: Home,
    options: CensusOptions | None = None,
    *,
    job: Job | None = None,
    fresh: bool = False,
) -> Path:
    """Take the census of a bundle, or take up one that was interrupted, and return its file.

    A census of the same bundle, options and code that is stored is not taken again, unless ``fresh``.

    Raises:
        RequestError: the request is wrong, or another process takes this census.
        StoreError: the home folder cannot be written.
        Cancelled: the job was stopped; finished blocks are kept for the next time.
    """
    from filelock import FileLock, Timeout  # noqa: PLC0415

    options = options or CensusOptions()
    span = options.span(ctx)
    store = CensusStore.of(ctx, home)
    path = store.path(None if span.whole(ctx) else (span.first, span.stop))
    if not fresh and stored_key(path) == span.key:
        return path
    blocks = store.blocks(span.blocks_key)
    files.make_folder(blocks)
    try:
        with FileLock(blocks / ".lock", timeout=0):
            # Another process may have stored it since.
            if fresh or stored_key(path) != span.key:
                store.publish(_take_blocks(ctx, blocks, span, job or Job()), path)
            store.forget(blocks)
    except Timeout as error:
        raise RequestError(
            f"another process takes this census of bundle {ctx.name!r}: wait for it, then ask again."
        ) from error
    return path


def _take_blocks(ctx: Context, folder: Path, span: Span, job: Job) -> list[Path]:
    """Take the blocks that are not there yet; return the files of all."""
    parts = {part: folder / f"{part[0]:07d}-{part[1] - 1:07d}.parquet" for part in span.blocks()}
    missing = [part for part, file in parts.items() if not file.is_file()]
    if missing:
        from ...runners.census.census import Census  # noqa: PLC0415 - scipy

        total, left = span.stop - span.first, sum(stop - start for start, stop in missing)
        done = 0
        try:
            job.progress(total - left, total, "features done, counting the examples")
            taken = Census.of(ctx, chunk_rows=span.chunk_rows, job=job)
            meta = census_meta(taken, span)
            began = time.monotonic()
            for start, stop in missing:
                files.replace(parts[start, stop], to_bytes(_block(taken, meta, start, stop, job)))
                done += stop - start
                told = pace(done, left - done, time.monotonic() - began)
                job.progress(total - left + done, total, f"features, {told}")
        except Cancelled as error:
            kept = f"{total - left + done:,} of {total:,} features are kept"
            raise Cancelled(f"the census was cancelled: {kept}, the same request goes on from there") from error
    return list(parts.values())


def _block(taken: Census, meta: CensusMeta, start: int, stop: int, job: Job) -> ArrowTable:
    return to_table(taken.block(np.arange(start, stop), job), taken.subjects, meta)


def small_census(ctx: Context) -> CensusTable | None:
    """The census of a bundle that is small enough to take it within a question, in memory; None for a larger one."""
    width = (ctx.bundle.manifest.hidden_dim or 0) + 3 * len(ctx.vocabulary)
    if ctx.n_features * len(ctx.data) * width > _SMALL:
        return None
    return ctx.derived("census", lambda: _in_memory(ctx))


def _in_memory(ctx: Context) -> CensusTable:
    import pyarrow as pa  # noqa: PLC0415

    from ...runners.census.census import Census  # noqa: PLC0415 - scipy

    span, taken = CensusOptions().span(ctx), Census.of(ctx)
    meta = census_meta(taken, span)
    return CensusTable.of(pa.concat_tables([_block(taken, meta, *part, Job()) for part in span.blocks()]), meta)


def _key(ctx: Context, features: tuple[int, int]) -> str:
    """Digest of everything that decides the numbers of a census beyond rounding."""
    return _digest([ctx.bundle.fingerprint, features, version(PROJECT), code_digest()])


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def census_meta(taken: Census, span: Span) -> CensusMeta:
    """What the census says of itself."""
    from scipy import special  # noqa: PLC0415

    ctx, subjects, design = taken.ctx, taken.subjects, taken.design
    tests = subjects.count * (span.stop - span.first)
    kits = subjects.kits
    by_kit = kits.summed(design.n)
    held: dict[Kind, Any] = {"ability": design.held.sum(axis=0), "weapon": design.n}
    held |= {kind: parts.member @ by_kit for kind, parts in subjects.parts.items()}
    notes = [] if taken.weights.reason is None else [f"promoted and suppressed are null: {taken.weights.reason}"]
    if ctx.data.build_id is None:
        notes.append("builds are unknown: examples of one weapon and token set count as one build")
    return CensusMeta(
        bundle=ctx.name,
        fingerprint=ctx.bundle.fingerprint,
        software=version(PROJECT),
        key=span.key,
        first=span.first,
        stop=span.stop,
        n_features=ctx.n_features,
        n_examples=int(design.total),
        n_clusters=design.n_clusters,
        z_threshold=float(-special.ndtri(_LEVEL / 2 / tests)),
        has_model=ctx.has_model,
        device=taken.device,
        names={kind: subjects.names(kind) for kind in KINDS},
        families=subjects.families,
        weapon_ids=ctx.weapons.weapon_ids,
        held={kind: tuple(int(count) for count in counts) for kind, counts in held.items()},
        notes=tuple(notes),
    )
