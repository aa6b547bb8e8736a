"""What the weights say of features: what they write into the logits, how long their columns are, which are alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...context.context import Context
from ...context.feature_sums import BlockActivations
from ...schemas.errors import RequestError
from ..parts.decoder.logits import contributions, norm_percentile, unit_columns_of_all

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
TOP_OUTPUT = 3
SAMPLE_ROWS = 16_384
_SEED = 41


@dataclass(frozen=True)
class Weights:
    """What the weights say of all F features.

    Attributes:
        unit: float32 [d, F], decoder columns of length 1; None without SAE weights.
        norm_percentile: [F], percentile of the stored column's length; NaN where all have the same.
        contribution_percentile: [F], percentile of the largest contribution to a logit; NaN without an output layer.
        reason: why there are no contributions; None where there are.
    """

    unit: Floats | None
    norm_percentile: Floats
    contribution_percentile: Floats
    reason: str | None


def percentiles(values: Floats) -> Floats:
    """Midrank percentile (0-100) of each value among all."""
    ordered = np.sort(values)
    left, right = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
    return 50.0 * (left + right) / len(values)


def read_weights(ctx: Context, block: int = 4096) -> Weights:
    """Read the decoder, and the output layer where there is one."""
    unknown = np.full(ctx.n_features, np.nan)
    if ctx.sae is None:
        return Weights(None, unknown, unknown, "the bundle has no SAE weights")
    unit = np.asarray(unit_columns_of_all(ctx), dtype=np.float32)
    lengths = np.linalg.norm(np.asarray(ctx.sae.decoder_weight, dtype=np.float64), axis=0)
    tell = norm_percentile(ctx.sae, 0)["decoder_norm_reason"] is None
    lengths = percentiles(lengths) if tell else unknown
    try:
        ctx.output_head()
    except RequestError as error:
        return Weights(unit, lengths, unknown, str(error))
    starts = range(0, unit.shape[1], block)
    largest = np.concatenate([np.abs(contributions(ctx, unit[:, at : at + block])).max(axis=0) for at in starts])
    return Weights(unit, lengths, percentiles(largest), None)


@dataclass(frozen=True)
class Nearest:
    """The other feature whose decoder column points the most alike; arrays [b].

    Attributes:
        feature: int; -1 where there is none.
        cosine: of the two columns.
        correlation: Pearson's, of the two activations on examples drawn at random; NaN where one is constant there.
    """

    feature: Ints
    cosine: Floats
    correlation: Floats


def nearest_features(ctx: Context, weights: Weights, features: Ints) -> Nearest:
    """Find the nearest other feature of each by the cosine of decoder columns, and correlate their activations."""
    none = np.full(len(features), -1), np.full(len(features), np.nan), np.full(len(features), np.nan)
    if weights.unit is None or weights.unit.shape[1] < 2:
        return Nearest(*none)
    own = weights.unit[:, features]
    cosine = own.T @ weights.unit
    cosine[np.arange(len(features)), features] = -np.inf
    nearest = cosine.argmax(axis=1)
    written = np.any(own != 0, axis=0)
    best = np.where(written, cosine[np.arange(len(features)), nearest].astype(np.float64), np.nan)
    rows = sample_rows(len(ctx.data))
    correlation = _correlations(ctx, rows, features, nearest)
    return Nearest(np.where(written, nearest, -1), best, np.where(written, correlation, np.nan))


def sample_rows(n: int) -> NDArray[np.int64]:
    """Examples that activations are correlated on: all, or 16,384 drawn at random, always the same."""
    if n <= SAMPLE_ROWS:
        return np.arange(n)
    return np.sort(np.random.default_rng([_SEED, n]).choice(n, SAMPLE_ROWS, replace=False))


def _correlations(ctx: Context, rows: NDArray[np.int64], left: Ints, right: Ints) -> Floats:
    """Pearson correlation of the activations of pairs of features on some rows, [b]."""
    first, second = (BlockActivations(ctx, features).of(rows).numpy().astype(np.float64) for features in (left, right))
    first, second = (values - values.mean(axis=0) for values in (first, second))
    scale = np.sqrt((first**2).sum(axis=0) * (second**2).sum(axis=0))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(scale > 0, (first * second).sum(axis=0) / scale, np.nan)


def output_tokens(ctx: Context, weights: Weights, features: Ints) -> Floats | None:
    """Contribution of a unit of each feature to each token's logit, [t, b]; None without an output layer."""
    if weights.unit is None or weights.reason is not None:
        return None
    return contributions(ctx, weights.unit[:, features])
