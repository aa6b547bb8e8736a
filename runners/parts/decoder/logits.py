"""The direct effect of a feature on the token logits: output layer times unit decoder column, and what is usual."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ....context.context import Context
from ....context.sae import SparseAutoencoder
from ....schemas.errors import RequestError
from ....schemas.result import Row, Table
from ....schemas.spec import DatasetSlice
from ...design.specificity import null_activations, share_at_least

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
_ONE_LENGTH = 1e-4


class TokenContribution(Row):
    """What one unit of the feature adds to one token's logit."""

    token: str = Field(description="Token of the vocabulary; special tokens are left out.")
    family: str = Field(description="Its family.")
    contribution: float = Field(description="Output row of the token times the unit decoder column, logits per unit.")
    rank: int = Field(description="1 is the largest in the direction of the table.")


class FamilyContribution(Row):
    """The contributions of one family's tokens."""

    family: str = Field(description="Family or main-only ability.")
    mean_contribution: float = Field(description="Mean over its tokens, logits per unit of activation.")
    max_contribution: float = Field(description="Largest of its tokens.")
    min_contribution: float = Field(description="Smallest of its tokens.")
    share: float = Field(description="Its mean squared contribution as a share of the sum over families (0-1).")
    specificity_p: float | None = Field(
        description="Share of random directions whose learnt column puts as large a share on any one family."
    )
    n_tokens: int = Field(description="Tokens of the family.")


@dataclass(frozen=True)
class DirectEffect:
    """Contributions to the logits of the t tokens that are no special ones.

    Attributes:
        token: [t] token ids.
        family: [t], column of each token's family.
        contribution: [t], logits per unit of activation, float64.
        share: [families], see `family_shares`.
    """

    token: Ints
    family: Ints
    contribution: Floats
    share: Floats

    @property
    def top(self) -> int:
        """Position of the largest contribution in size."""
        return int(np.argmax(np.abs(self.contribution)))

    @property
    def top_family(self) -> int:
        """The family with the largest share."""
        return int(np.argmax(self.share))

    def strongest_of(self, family: int) -> int:
        """Position of the family's largest contribution in size."""
        return int(np.argmax(np.where(self.family == family, np.abs(self.contribution), -1.0)))


def sae_of(ctx: Context) -> SparseAutoencoder:
    """The autoencoder; raises RequestError where the bundle has none."""
    if ctx.sae is None:
        raise RequestError(f"bundle {ctx.name!r} has no SAE weights, and this experiment reads them. Nothing was run.")
    return ctx.sae


def real_tokens(ctx: Context) -> tuple[Ints, Ints]:
    """Ids of the tokens that are no special ones [t], and the column of each one's family [t]."""
    family = np.asarray(ctx.vocabulary.token_family)
    token = np.flatnonzero(family >= 0)
    return token, family[token]


def contributions(ctx: Context, columns: Floats) -> Floats:
    """Logit contributions of unit columns [d, ...] to the tokens that are no special ones, float64 [t, ...]."""
    weight = ctx.output_head().weight[real_tokens(ctx)[0]]
    return weight.astype(np.float64) @ np.asarray(columns, dtype=np.float64)


def unit_column(ctx: Context, feature: int) -> Floats:
    """The feature's decoder column scaled to length 1, float64 [d]; a zero column stays zero."""
    column = np.asarray(sae_of(ctx).decoder_weight[:, feature], dtype=np.float64)
    return column / max(float(np.linalg.norm(column)), np.finfo(np.float64).tiny)


def family_shares(contribution: Floats, family: Ints, n_families: int) -> Floats:
    """Mean squared contribution of each family as a share of the sum over families.

    The mean, so that a main-only ability with its one token counts as much as a family of nine rungs.

    Args:
        contribution: [t, ...].
        family: [t].
        n_families: number of families.

    Returns:
        [n_families, ...]; zero where nothing is contributed at all.
    """
    member = np.zeros((n_families, len(family)))
    member[family, np.arange(len(family))] = 1.0
    square = np.tensordot(member / np.maximum(member.sum(axis=1, keepdims=True), 1.0), contribution**2, axes=1)
    return square / np.maximum(square.sum(axis=0), np.finfo(np.float64).tiny)


def direct_effect(ctx: Context, feature: int) -> DirectEffect:
    """The direct effect of a feature: nothing nonlinear lies between the pooled vector and the logits."""
    token, family = real_tokens(ctx)
    contribution = contributions(ctx, unit_column(ctx, feature))
    return DirectEffect(token, family, contribution, family_shares(contribution, family, len(ctx.vocabulary.families)))


def null_columns(ctx: Context, feature: int, seed: int) -> Floats | None:
    """Unit decoder columns [d, 200] of random directions that are as often active, and as high, as the feature.

    A decoder column is learnt: it writes what the feature reads. So a random direction's column is the one that
    explains the pooled vectors best from its activation, cov(x, a) / |cov(x, a)| (least squares), over at most 6,000
    examples. A random column that nothing was learnt for would be too easy to beat.

    Returns:
        None where the examples' pooled vectors are unknown.
    """
    if not ctx.has_examples:
        return None
    everything = ctx.population(DatasetSlice(), feature)
    null = null_activations(ctx, feature, everything, seed)
    if null is None:
        return None
    rows = everything.rows[null.positions]

    def centred() -> Floats:
        pooled = ctx.pooled_of(rows)
        return pooled - pooled.mean(axis=0)

    pooled = ctx.derived_for(everything, ("centred pooled vectors", rows.tobytes()), centred)
    column = pooled.T @ (null.activation - null.activation.mean(axis=0))
    return column.astype(np.float64) / np.maximum(np.linalg.norm(column, axis=0), np.finfo(np.float32).tiny)


def concentration_p(ctx: Context, direct: DirectEffect, null: Floats | None) -> Floats:
    """For each family, the share of random directions that put as large a share of their effect on any one family.

    Args:
        ctx: the context.
        direct: the feature's direct effect.
        null: unit columns [d, r] from `null_columns`.

    Returns:
        [families]; NaN where the null is unknown.
    """
    if null is None:
        return np.full(len(direct.share), np.nan)
    shares = family_shares(contributions(ctx, null), direct.family, len(direct.share)).max(axis=0)
    return np.array([share_at_least(share, shares) for share in direct.share.tolist()])


def percentile_among(values: Floats, index: int) -> float:
    """Percentile (0-100, midrank) of one value among all."""
    own = values[index]
    return float(100.0 * ((values < own).sum() + 0.5 * (values == own).sum()) / len(values))


def unit_columns_of_all(ctx: Context) -> Floats:
    """Every feature's unit decoder column [d, F], kept."""
    return ctx.derived("unit decoder columns", sae_of(ctx).unit_decoder)


def nearest_features(ctx: Context, feature: int, most: int = 3) -> list[dict[str, Any]]:
    """The features whose decoder columns point the most alike, with the cosine."""
    columns = unit_columns_of_all(ctx)
    cosine = np.asarray(columns.T @ columns[:, feature], dtype=np.float64)
    cosine[feature] = -np.inf
    order = np.argsort(-cosine, kind="stable")[: min(most, len(cosine) - 1)]
    return [{"feature_id": int(index), "cosine": float(cosine[index])} for index in order]


def column_lengths(sae: SparseAutoencoder) -> Floats:
    """Length of every stored decoder column, float64 [F]."""
    return np.sqrt(np.einsum("df,df->f", sae.decoder_weight, sae.decoder_weight, dtype=np.float64))


def norm_percentile(sae: SparseAutoencoder, feature: int, lengths: Floats | None = None) -> dict[str, Any]:
    """Percentile of the stored decoder column's length among all features, for ``custom``; with a reason if unknown.

    Args:
        sae: the autoencoder.
        feature: the feature.
        lengths: `column_lengths`, where they are at hand.
    """
    norms = column_lengths(sae) if lengths is None else lengths
    if float(np.ptp(norms)) <= _ONE_LENGTH * float(norms.max()):
        reason = "all stored decoder columns have the same length: it tells features apart in no way"
        return {"decoder_norm_percentile": None, "decoder_norm_reason": reason}
    return {"decoder_norm_percentile": percentile_among(norms, feature), "decoder_norm_reason": None}


def direct_numbers(ctx: Context, feature: int, direct: DirectEffect) -> dict[str, Any]:
    """Numbers of the direct effect, for ``custom``."""
    sae, vocabulary = sae_of(ctx), ctx.vocabulary
    largest = ctx.derived(
        "largest contribution of each feature", lambda: np.abs(contributions(ctx, unit_columns_of_all(ctx))).max(axis=0)
    )
    encoder = np.asarray(sae.encoder_weight[feature], dtype=np.float64)
    length = float(np.linalg.norm(encoder))
    top, family = direct.top, direct.top_family
    height = ctx.effective_max(feature)
    return {
        "top_token": vocabulary.tokens[int(direct.token[top])],
        "top_contribution": float(direct.contribution[top]),
        "top_contribution_at_effective_max": None if height is None else float(direct.contribution[top]) * height,
        "top_family": vocabulary.families[family],
        "top_family_share": float(direct.share[family]),
        "contribution_percentile": percentile_among(largest, feature),
        **norm_percentile(sae, feature, ctx.derived("decoder column lengths", lambda: column_lengths(sae))),
        "encoder_cosine": float(encoder @ unit_column(ctx, feature)) / length if length > 0 else None,
    }


def token_table(ctx: Context, name: str, direct: DirectEffect, top_k: int) -> Table:
    """The tokens with the largest (``promoted``) or smallest (``suppressed``) contribution, of that sign."""
    sign = 1.0 if name == "promoted" else -1.0
    order = np.argsort(-sign * direct.contribution, kind="stable")
    order = [int(i) for i in order[:top_k] if sign * direct.contribution[i] > 0]
    rows = [
        TokenContribution(
            token=ctx.vocabulary.tokens[int(direct.token[i])],
            family=ctx.vocabulary.families[int(direct.family[i])],
            contribution=float(direct.contribution[i]),
            rank=rank,
        )
        for rank, i in enumerate(order, start=1)
    ]
    return Table.of(name, TokenContribution, rows)


def family_table(ctx: Context, direct: DirectEffect, specificity: Floats) -> Table:
    """The table ``family_summary``: every family, the largest share first."""
    rows: list[FamilyContribution] = []
    for index in np.argsort(-direct.share, kind="stable").tolist():
        own = direct.contribution[direct.family == index]
        rows.append(
            FamilyContribution(
                family=ctx.vocabulary.families[index],
                mean_contribution=float(own.mean()),
                max_contribution=float(own.max()),
                min_contribution=float(own.min()),
                share=float(direct.share[index]),
                specificity_p=None if np.isnan(specificity[index]) else float(specificity[index]),
                n_tokens=len(own),
            )
        )
    return Table.of("family_summary", FamilyContribution, rows)
