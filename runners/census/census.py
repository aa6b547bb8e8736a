"""The census of a bundle: a summary of every feature, block by block, with one pass over the examples for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...context.context import EFFECTIVE_MAX_QUANTILE, Context
from ...context.feature_sums import DEFAULT_CHUNK, RowPlan, bytes_of, device_for_sums, sum_features
from ...schemas.errors import RequestError
from ...schemas.job import Job
from .decoder import Nearest, Weights, nearest_features, output_tokens, read_weights
from .design import Design, make_design
from .effects import BlockEffects, Effects, ratio
from .subjects import PART_KINDS, Kind, Subjects

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
DEFAULT_MEMORY = 1 << 30
LARGEST_BLOCK = 512
_ENTRY_BYTES = 16
"""Of a stored activation: its value and row, by column as they are read and by row as they are used."""


@dataclass(frozen=True)
class CensusBlock:
    """What the census says of b features.

    Attributes:
        features: int [b].
        numbers: scalars of each feature by name, [b] each; NaN where unknown.
        effects: by kind of subject, arrays [k, b].
        nearest: the nearest other feature of each.
        written: contributions to the tokens' logits, [t, b]; None where unknown.
    """

    features: Ints
    numbers: dict[str, Floats]
    effects: dict[Kind, Effects]
    nearest: Nearest
    written: Floats | None


@dataclass(frozen=True)
class Census:
    """A census about to be taken: what its blocks share.

    Attributes:
        ctx: the open bundle.
        plan: the order in which examples are read.
        design: counts of the examples.
        weights: what the weights say of all features.
        device: where the products run.
    """

    ctx: Context
    plan: RowPlan
    design: Design
    weights: Weights
    device: str

    @classmethod
    def of(cls, ctx: Context, *, chunk_rows: int = DEFAULT_CHUNK, job: Job | None = None) -> Census:
        """Count the examples and read the weights.

        Raises:
            RequestError: the bundle has no examples, or nothing to tell their activations from.
            Cancelled: the job was stopped.
        """
        check(ctx)
        ctx.prepare(job or Job())
        plan = RowPlan.of(ctx, chunk_rows)
        return cls(ctx, plan, make_design(ctx, plan, job), read_weights(ctx), device_for_sums(ctx))

    @property
    def subjects(self) -> Subjects:
        """What features are compared with."""
        return self.design.subjects

    def block(self, features: Ints, job: Job | None = None) -> CensusBlock:
        """Read the examples once and summarise some features.

        Raises:
            Cancelled: the job was stopped.
        """
        sums = sum_features(self.ctx, self.plan, features, self.subjects.tokens, device=self.device, job=job)
        effects = BlockEffects(sums, self.design)
        n, total, squares = self.design.total, effects.by_weapon.sum(axis=0), effects.squares.sum(axis=0)
        active = effects.active_by_weapon.sum(axis=0)
        spread = np.sqrt(np.maximum(squares - total**2 / n, 0.0) / max(n - 1.0, 1.0))
        numbers = {
            "n_active": active,
            "rate": active / n,
            "active_builds": sums.active_clusters.astype(np.float64),
            "max": sums.maximum,
            "effective_max": sums.quantile(EFFECTIVE_MAX_QUANTILE),
            "mean": total / n,
            "std": spread,
            "mean_when_active": ratio(total, active),
            "build_correlation": effects.correlation,
            "decoder_norm_percentile": self.weights.norm_percentile[features],
            "contribution_percentile": self.weights.contribution_percentile[features],
        }
        found: dict[Kind, Effects] = {"ability": effects.abilities(), "weapon": effects.weapons()}
        found |= {kind: effects.parts(self.subjects.parts[kind]) for kind in PART_KINDS}
        return CensusBlock(
            features=features,
            numbers=numbers,
            effects=found,
            nearest=nearest_features(self.ctx, self.weights, features),
            written=output_tokens(self.ctx, self.weights, features),
        )


def check(ctx: Context) -> None:
    """Check that a census of a bundle can be taken.

    Raises:
        RequestError: the bundle has no examples, or nothing to tell their activations from.
    """
    _ = ctx.data
    computed = ctx.sae is not None and (ctx.bundle.has("pooled.npy") or ctx.has_model)
    if not computed and not ctx.bundle.has("activations/indptr.npy"):
        raise RequestError(
            f"bundle {ctx.name!r} has neither stored activations nor SAE weights with pooled vectors, or a network, to "
            f"compute them. Nothing was run."
        )


def block_size(ctx: Context, memory: int = DEFAULT_MEMORY, chunk_rows: int = DEFAULT_CHUNK) -> int:
    """Features that one pass can summarise in so many bytes, at most 512.

    Raises:
        RequestError: not even one fits.
    """
    fixed, each = bytes_of(len(ctx.weapons), len(ctx.vocabulary), ctx.bundle.manifest.hidden_dim or 0, chunk_rows)
    largest = min(LARGEST_BLOCK, ctx.n_features)
    needed = fixed + each * np.arange(1, largest + 1) + _bytes_of_columns(ctx, largest)
    if needed[0] > memory:
        raise RequestError(
            f"a census of bundle {ctx.name!r} needs at least {needed[0] / 2**20:,.0f} MiB; {memory / 2**20:,.0f} "
            f"MiB were allowed. Allow more. Nothing was run."
        )
    return int(np.searchsorted(needed, memory, side="right"))


def _bytes_of_columns(ctx: Context, largest: int) -> Ints:
    """Memory that stored activations of any 1, 2, ... ``largest`` features take at most; 0 where none are stored."""
    if not ctx.bundle.has("activations/indptr.npy"):
        return np.zeros(largest, dtype=np.int64)
    held = np.diff(ctx.bundle.array("activations/indptr.npy", (ctx.n_features + 1,)))
    return _ENTRY_BYTES * np.cumsum(np.sort(held)[::-1][:largest])
