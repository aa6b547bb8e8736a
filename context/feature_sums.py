"""Sums over all examples for a block of features, in one pass: what a census of a bundle is made of.

Examples are read cluster by cluster (see `Examples.clusters`), in chunks of whole clusters; within a chunk they lie
weapon by weapon, so that a matrix product gives the sums of each weapon's examples. On a CUDA device the products run
there; on the CPU by the same code.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..schemas.job import Job
from .context import Context
from .sae import CLAMP

if TYPE_CHECKING:
    import torch
    from scipy import sparse

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Run = tuple[int, int, int]
DEFAULT_CHUNK = 32_768
"""Rows that are read at once."""
_SHIFT = 13
_FIRST = (127 - 10) << 10
BINS = int(np.float32(CLAMP).view(np.int32) >> _SHIFT) - _FIRST + 1
"""Histogram bins: ten bits of mantissa, so a bin is 0.1 % wide; what is below 2^-10 falls in the first."""


@dataclass(frozen=True)
class RowPlan:
    """The order in which examples are read.

    Attributes:
        order: int64 [n], rows of the bundle; within a chunk by weapon, then by cluster.
        bounds: int64 [k + 1], where each chunk begins in ``order``; a cluster lies within one chunk.
        weapon: int64 [n], weapon of each row, in order.
        cluster: int64 [n], cluster of each row, in order.
        n_clusters: clusters in all.
    """

    order: NDArray[np.int64]
    bounds: NDArray[np.int64]
    weapon: NDArray[np.int64]
    cluster: NDArray[np.int64]
    n_clusters: int

    @classmethod
    def of(cls, ctx: Context, chunk_rows: int = DEFAULT_CHUNK) -> RowPlan:
        """Plan the reading of a bundle's examples in chunks of about ``chunk_rows`` rows, at least one cluster each."""
        clusters, weapons = (np.asarray(each, dtype=np.int64) for each in (ctx.data.clusters, ctx.data.weapon))
        order = np.argsort(clusters, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(clusters[order]) > 0])
        # A chunk begins at the first cluster that begins in each stretch of chunk_rows rows.
        wanted = np.arange(0, len(order), chunk_rows)
        bounds = np.unique(np.r_[starts[np.minimum(np.searchsorted(starts, wanted), len(starts) - 1)], len(order)])
        chunk = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
        order = order[np.lexsort((clusters[order], weapons[order], chunk))]
        return cls(order, bounds.astype(np.int64), weapons[order], clusters[order], len(starts))

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def chunks(self) -> Generator[Chunk]:
        """The chunks, in order."""
        for start, stop in zip(self.bounds[:-1].tolist(), self.bounds[1:].tolist(), strict=True):
            yield Chunk(self.order[start:stop], self.weapon[start:stop], self.cluster[start:stop])


@dataclass(frozen=True)
class Chunk:
    """Some examples: weapon by weapon, and within a weapon cluster by cluster.

    Attributes:
        rows: int64 [r], rows of the bundle.
        weapon: int64 [r].
        cluster: int64 [r].
    """

    rows: NDArray[np.int64]
    weapon: NDArray[np.int64]
    cluster: NDArray[np.int64]

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.flatnonzero(np.r_[True, np.diff(self.cluster) != 0])

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Rows of each of the chunk's c clusters."""
        return np.diff(np.r_[self._starts, len(self.rows)])

    @property
    def position(self) -> NDArray[np.int64]:
        """Which of the chunk's clusters each row belongs to, int64 [r]."""
        return np.repeat(np.arange(len(self._starts)), self.sizes)

    @property
    def weapon_runs(self) -> list[Run]:
        """(weapon, first row, row after the last) of each weapon."""
        return _runs(self.weapon)

    @property
    def cluster_runs(self) -> list[Run]:
        """(weapon, first cluster, cluster after the last) of each weapon."""
        return _runs(self.weapon[self._starts])


def _runs(values: NDArray[np.int64]) -> list[Run]:
    starts = np.flatnonzero(np.r_[True, np.diff(values) != 0])
    stops = np.r_[starts[1:], len(values)]
    return list(zip(values[starts].tolist(), starts.tolist(), stops.tolist(), strict=True))


@dataclass(frozen=True)
class FeatureSums:
    """Sums over examples for b features; a is the activation, w a weapon, t a token.

    Attributes:
        active: float32 [w, t + 1, b], examples of the weapon that hold the token and are active; the last token is one
            that every example holds.
        total: float32 [w, t + 1, b], their summed a.
        square: float32 [w, t + 1, b], their summed a squared.
        cluster_square: float64 [w, b], sum over clusters of (sum of a) squared.
        cluster_sized: float64 [w, b], sum over clusters of (sum of a) times (rows of the cluster).
        active_clusters: int64 [b], clusters with an active example.
        maximum: float64 [b].
        histogram: int64 [BINS, b], of the active a.
    """

    active: Floats
    total: Floats
    square: Floats
    cluster_square: Floats
    cluster_sized: Floats
    active_clusters: Ints
    maximum: Floats
    histogram: Ints

    def quantile(self, share: float) -> Floats:
        """Quantile of the active activations, within 0.1 %, float64 [b]; NaN for a feature that is never active.

        As numpy's: linear between the two order statistics beside it.
        """
        count = self.histogram.sum(axis=0)
        rank = share * np.maximum(count - 1, 0)
        below = np.cumsum(self.histogram, axis=0)
        low, high = (self._ordered(below, step) for step in (np.floor(rank), np.ceil(rank)))
        value = low + (rank - np.floor(rank)) * (high - low)
        return np.where(count > 0, value, np.nan)

    def _ordered(self, below: Ints, rank: Floats) -> Floats:
        """The active activation of a rank counted from 0, evenly spread within its bin, [b]."""
        at = (below <= rank).sum(axis=0).clip(max=BINS - 1)
        columns = np.arange(len(rank))
        held = self.histogram[at, columns]
        part = (rank - (below[at, columns] - held) + 0.5) / np.maximum(held, 1)
        low, high = (((at + step + _FIRST).astype(np.int32) << _SHIFT).view(np.float32) for step in (0, 1))
        return np.minimum(low + part * (high.astype(np.float64) - low), self.maximum)


class BlockActivations:
    """Activations of a block of features on any rows: from pooled vectors, or from stored columns where there are any.

    Args:
        ctx: the open bundle.
        features: int [b], feature ids.
    """

    def __init__(self, ctx: Context, features: Ints) -> None:
        self._ctx, self.width = ctx, len(features)
        self._stored: sparse.csr_matrix | None = None
        if ctx.bundle.has("activations/indptr.npy"):
            self._stored = _stored_rows(ctx, features)
        elif ctx.sae is not None:
            weight = np.asarray(ctx.sae.encoder_weight[features], dtype=np.float32)
            self._weight = np.ascontiguousarray(weight.T)
            self._bias = np.asarray(ctx.sae.encoder_bias[features] - weight @ ctx.sae.decoder_bias, dtype=np.float32)

    def of(self, rows: NDArray[np.int64], device: str = "cpu") -> torch.Tensor:
        """Activations float32 [len(rows), b], on the device."""
        import torch  # noqa: PLC0415

        if self._stored is not None:
            return torch.from_numpy(self._stored[rows].toarray()).to(device)
        pooled = torch.from_numpy(np.ascontiguousarray(self._ctx.pooled_of(rows), dtype=np.float32)).to(device)
        weight, bias = (torch.from_numpy(array).to(device) for array in (self._weight, self._bias))
        return torch.addmm(bias, pooled, weight).clamp_(0.0, CLAMP)


def _stored_rows(ctx: Context, features: Ints) -> sparse.csr_matrix:
    """The stored columns of some features, by row: CSR [n, b]."""
    from scipy import sparse  # noqa: PLC0415

    bounds = ctx.bundle.array("activations/indptr.npy", (ctx.n_features + 1,))
    rows, values = ctx.bundle.array("activations/rows.npy"), ctx.bundle.array("activations/values.npy")
    parts = [slice(int(bounds[feature]), int(bounds[feature + 1])) for feature in features.tolist()]
    indptr = np.r_[0, np.cumsum([part.stop - part.start for part in parts])]
    held = [np.concatenate([np.asarray(array[part]) for part in parts]) for array in (values, rows)]
    return sparse.csr_matrix(sparse.csc_matrix((held[0], held[1], indptr), shape=(len(ctx.data), len(features))))


class _Sums:
    """The running sums, on the device."""

    def __init__(self, n_weapons: int, n_tokens: int, width: int, device: str) -> None:
        import torch  # noqa: PLC0415

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.zeros(*shape, dtype=dtype, device=device)

        self._torch, self._device, self._width = torch, device, width
        self.moments = zeros(3, n_weapons, n_tokens + 1, width)
        self.cluster_square, self.cluster_sized = (zeros(n_weapons, width, dtype=torch.float64) for _ in range(2))
        self.active_clusters = zeros(width, dtype=torch.int64)
        self.maximum = zeros(width)
        self.histogram = zeros(BINS * width, dtype=torch.int64)

    def add(self, chunk: Chunk, present: NDArray[np.bool_], activation: torch.Tensor) -> None:
        """Add a chunk: which tokens its rows hold, bool [r, t], and their activations [r, b]."""
        torch = self._torch
        tokens = torch.ones(len(chunk.rows), present.shape[1] + 1, device=self._device)
        tokens[:, :-1] = torch.from_numpy(present).to(self._device)
        powers = ((activation > 0).to(torch.float32), activation, activation * activation)
        for weapon, start, stop in chunk.weapon_runs:
            held = tokens[start:stop].T
            for moment, power in zip(self.moments, powers, strict=True):
                moment[weapon].addmm_(held, power[start:stop])
        self._add_clusters(chunk, activation)
        torch.maximum(self.maximum, activation.amax(dim=0), out=self.maximum)
        self._add_histogram(activation)

    def _add_clusters(self, chunk: Chunk, activation: torch.Tensor) -> None:
        torch = self._torch
        position, sizes = (torch.from_numpy(array).to(self._device) for array in (chunk.position, chunk.sizes))
        sums = torch.zeros(len(sizes), self._width, device=self._device).index_add_(0, position, activation)
        sized = sizes.to(torch.float32)
        for weapon, start, stop in chunk.cluster_runs:
            part = sums[start:stop]
            self.cluster_square[weapon] += (part * part).sum(dim=0)
            self.cluster_sized[weapon] += sized[start:stop] @ part
        self.active_clusters += (sums > 0).sum(dim=0)

    def _add_histogram(self, activation: torch.Tensor) -> None:
        torch = self._torch
        flat = activation.reshape(-1)
        where = torch.nonzero(flat).squeeze(1)
        bins = ((flat[where].view(torch.int32) >> _SHIFT).to(torch.int64) - _FIRST).clamp_(0, BINS - 1)
        self.histogram += torch.bincount(bins * self._width + where % self._width, minlength=len(self.histogram))

    def done(self) -> FeatureSums:
        """The sums, as arrays."""
        active, total, square = (moment.cpu().numpy() for moment in self.moments)
        return FeatureSums(
            active=active,
            total=total,
            square=square,
            cluster_square=self.cluster_square.cpu().numpy(),
            cluster_sized=self.cluster_sized.cpu().numpy(),
            active_clusters=self.active_clusters.cpu().numpy(),
            maximum=self.maximum.cpu().numpy().astype(np.float64),
            histogram=self.histogram.reshape(BINS, self._width).cpu().numpy(),
        )


def device_for_sums(ctx: Context) -> str:
    """Where the products run: CUDA where it was chosen or found, else the CPU (MPS has no float64)."""
    device = ctx.compute.resolved_device()
    return device if device.startswith("cuda") else "cpu"


def bytes_of(n_weapons: int, n_tokens: int, dim: int, chunk_rows: int = DEFAULT_CHUNK) -> tuple[int, int]:
    """Memory a pass takes: bytes in any case, and bytes a feature."""
    fixed = chunk_rows * (4 * dim + 5 * (n_tokens + 1) + 64)
    moments, bins = 2 * 12 * n_weapons * (n_tokens + 1), 3 * 8 * BINS
    return fixed, moments + bins + chunk_rows * (4 * 4 + 24)


def sum_features(
    ctx: Context, plan: RowPlan, features: Ints, tokens: Ints, *, device: str = "cpu", job: Job | None = None
) -> FeatureSums:
    """Read every example once and sum what the census needs of some features.

    Args:
        ctx: the open bundle.
        plan: the order of the examples.
        features: int [b], feature ids.
        tokens: int [t], token ids.
        device: where the products run.
        job: asked between chunks whether to stop.
    """
    import torch  # noqa: PLC0415

    ctx.compute.apply_threads()
    activations = BlockActivations(ctx, features)
    sums = _Sums(len(ctx.weapons), len(tokens), len(features), device)
    with torch.inference_mode():
        for chunk in plan.chunks():
            if job is not None:
                job.check()
            present = ctx.sets(chunk.rows).present[:, tokens]
            sums.add(chunk, present, activations.of(chunk.rows, device))
    return sums.done()
