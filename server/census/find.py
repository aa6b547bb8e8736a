"""Searching a census: which features go with an ability, a weapon, a sub, a special or a class of weapons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runners.census.subjects import KINDS, PART_KINDS
from ...runners.stats.groups import MIN_CLUSTERS
from ...schemas.errors import RequestError
from ...schemas.result import Followup
from .arguments import Direction, FindArguments
from .found import EffectView, FeatureList, FeatureRow
from .names import Subject, subjects_of
from .table import NOTHING, CensusTable, Floats

CORRELATIONAL = (
    "CORRELATIONAL: the census describes the examples, not the network. Abilities are compared within weapons, weapons "
    "and kits with all others (adjusted: abilities held fixed)."
)
_FOLLOWED = 3
_ALIKE = 0.9
_EFFECT_DIGITS = 6
"""Headlines round effects again: 1.9949 must not become 2.00 by way of 1.995."""


@dataclass(frozen=True)
class _Strengths:
    """Effects of the subjects asked for, arrays [s, f]; of an ability those of its strongest token that way.

    Attributes:
        subjects: what was asked for.
        chosen: int, which of a subject's columns.
        effect: float.
        share: of the effective max.
        z: float.
        adjusted: NaN for abilities.
    """

    subjects: list[Subject]
    chosen: NDArray[np.intp]
    effect: Floats
    share: Floats
    z: Floats
    adjusted: Floats

    @classmethod
    def of(cls, census: CensusTable, subjects: list[Subject], direction: Direction | None = None) -> _Strengths:
        """Read them off the census."""
        height = census.column("effective_max").astype(np.float64)
        found = [_strength(census, subject, direction) for subject in subjects]
        chosen, effect, z, adjusted = (
            np.array([each[at] for each in found]).reshape(len(found), len(census)) for at in range(4)
        )
        return cls(subjects, chosen.astype(np.intp), effect, effect / height, z, adjusted)


def _towards(z: Floats, direction: Direction | None) -> Floats:
    """How far z goes in a direction: |z| without one; unknown is 0."""
    known = np.nan_to_num(z)
    return {"raises": known, "lowers": -known, None: np.abs(known)}[direction]


def _strength(
    census: CensusTable, subject: Subject, direction: Direction | None
) -> tuple[Floats, Floats, Floats, Floats]:
    """Column with the largest |z| in the direction, its effect, z and adjusted effect, [f] each."""
    columns, rows = list(subject.columns), np.arange(len(census))
    z = census.matrix(f"{subject.kind}_z")[:, columns].astype(np.float64)
    best = _towards(z, direction).argmax(axis=1)
    at = np.asarray(columns)[best]
    effect = census.matrix(f"{subject.kind}_effect")[rows, at].astype(np.float64)
    adjusted = np.full(len(rows), np.nan)
    if subject.kind != "ability":
        adjusted = census.matrix(f"{subject.kind}_adjusted")[rows, at].astype(np.float64)
    return at.astype(np.float64), effect, z[rows, best], adjusted


def find(census: CensusTable, given: FindArguments) -> FeatureList:
    """Find features.

    Raises:
        UnknownNameError: a name that is not in the bundle.
        RequestError: arguments that contradict one another, or a feature the census does not hold.
    """
    subjects = subjects_of(census.meta, given)
    _check(census, given, subjects)
    strengths = _Strengths.of(census, subjects, given.direction)
    threshold = census.meta.z_threshold if given.min_z is None else given.min_z
    kept = _activity(census, given)
    matching = kept.copy()
    for effect, share, z in zip(strengths.effect, strengths.share, strengths.z, strict=True):
        side = {"raises": effect > 0, "lowers": effect < 0, None: effect != 0}[given.direction]
        matching &= side & (np.abs(np.nan_to_num(z)) >= threshold) & (np.abs(np.nan_to_num(share)) >= given.min_share)
    order = _ordered(census, given, strengths, matching)
    rows = [_row(census, strengths, at) for at in order[: given.limit]]
    unknown = None if rows else _unknown(census, strengths)
    near = _nearest_miss(census, given, strengths, kept) if subjects and not rows and unknown is None else ""
    return FeatureList(
        headline=_headline(census, given, subjects, rows, total=len(order), unknown=unknown) + near,
        total=len(order),
        features=rows,
        warnings=_warnings(census, given, subjects, rows),
        followups=_followups(census, strengths, order[:_FOLLOWED]),
        more=f"limit={min(len(order), 50)} shows more" if len(order) > len(rows) else None,
    )


def _check(census: CensusTable, given: FindArguments, subjects: list[Subject]) -> None:
    meta, feature = census.meta, given.redundant_with
    if given.dead and subjects:
        raise RequestError("dead features go with nothing: leave out dead, or the names. Nothing was run.")
    if given.min_rate > given.max_rate:
        raise RequestError(f"min_rate {given.min_rate:g} is above max_rate {given.max_rate:g}. Nothing was run.")
    if given.sort in {"effect", "z"} and not subjects:
        raise RequestError(f"sort {given.sort!r} needs a name: query, ability, weapon, ... Nothing was run.")
    asked = given.min_cosine is not None or feature is not None or given.sort == "cosine"
    if asked and not _known(census.column("nearest_cosine")):
        lacking = f"bundle {meta.bundle!r} has no SAE weights, or one feature only"
        raise RequestError(f"min_cosine, redundant_with and sort 'cosine' compare decoder columns: {lacking}.")
    if feature is not None and not meta.first <= feature < meta.stop:
        held = f"the census of bundle {meta.bundle!r} holds features {meta.first} to {meta.stop - 1}"
        raise RequestError(f"redundant_with {feature} is out of range: {held}. Nothing was run.")


def _activity(census: CensusTable, given: FindArguments) -> NDArray[np.bool_]:
    """Features that meet what is asked of their activity and redundancy, bool [f]."""
    rate, nearest = census.column("rate"), census.column("nearest_feature")
    kept = (census.column("dead") == given.dead) & (rate >= given.min_rate) & (rate <= given.max_rate)
    if given.min_cosine is not None:
        kept &= np.nan_to_num(census.column("nearest_cosine"), nan=-2.0) >= given.min_cosine
    if given.redundant_with is not None:
        own = nearest[given.redundant_with - census.meta.first]
        kept &= (nearest == given.redundant_with) | (census.column("feature_id") == own)
    return kept


def _ordered(
    census: CensusTable, given: FindArguments, strengths: _Strengths, matching: NDArray[np.bool_]
) -> NDArray[np.intp]:
    """Positions of the matching features, the first first; of several subjects the weakest counts."""
    sort = given.sort or ("effect" if strengths.subjects else "rate")
    if sort in {"effect", "z"}:
        score = np.abs(strengths.share if sort == "effect" else strengths.z).min(axis=0)
    else:
        score = census.column({"rate": "rate", "max": "effective_max", "cosine": "nearest_cosine"}[sort])
    found = np.flatnonzero(matching)
    return found[np.argsort(-np.nan_to_num(score[found], nan=-2.0), kind="stable")]


def _row(census: CensusTable, strengths: _Strengths, at: int) -> FeatureRow:
    height, nearest = census.column("effective_max")[at], census.column("nearest_feature")[at]
    return FeatureRow(
        feature_id=int(census.column("feature_id")[at]),
        label=str(census.column("label")[at]),
        rate=_short(census.column("rate")[at]) or 0.0,
        active_builds=int(census.column("active_builds")[at]),
        effective_max=_short(height),
        effects=[_effect(census, strengths, which, at) for which in range(len(strengths.subjects))],
        nearest_feature=None if np.isnan(nearest) else int(nearest),
        nearest_cosine=_short(census.column("nearest_cosine")[at]),
    )


def _effect(census: CensusTable, strengths: _Strengths, which: int, at: int) -> EffectView:
    subject, column = strengths.subjects[which], int(strengths.chosen[which, at])
    effect, z, adjusted = (float(values[which, at]) for values in (strengths.effect, strengths.z, strengths.adjusted))
    return EffectView(
        subject=subject.title_of(census.meta, column),
        effect=_short(effect, _EFFECT_DIGITS) or 0.0,
        share=_short(float(strengths.share[which, at])),
        z=_short(z),
        beyond_chance=abs(z) >= census.meta.z_threshold,
        adjusted=_short(adjusted, _EFFECT_DIGITS),
        explained_by_abilities=None if np.isnan(adjusted) else bool(np.sign(effect) * adjusted < 0.5 * abs(effect)),
        n=census.meta.held[subject.kind][column],
    )


def _short(value: float, digits: int = 4) -> float | None:
    """So many significant digits; None for NaN."""
    return None if np.isnan(value) else float(f"{value:.{digits}g}")


def _said(row: FeatureRow) -> str:
    """A feature in a headline."""
    parts = [f"{each.effect:+.2f} ({_percent(each.share or 0.0)} of its max)" for each in row.effects]
    return f"feature {row.feature_id} {' and '.join(parts)}"


def _percent(share: float) -> str:
    return f"{share:.0%}" if abs(share) >= 0.005 else f"{share:.1g}"


def _headline(
    census: CensusTable,
    given: FindArguments,
    subjects: list[Subject],
    rows: list[FeatureRow],
    *,
    total: int,
    unknown: str | None,
) -> str:
    meta = census.meta
    tail = f"{meta.n_examples:,} examples: all examples; observational, CORRELATIONAL."
    among = f"{total:,} of {len(census):,} features"
    if not subjects:
        kind = "dead" if given.dead else "as asked for"
        first = f": {', '.join(str(row.feature_id) for row in rows[:10])}" if rows else ""
        return f"{among} {'is' if total == 1 else 'are'} {kind}{first}; {tail}"
    named = " and ".join(subject.title for subject in subjects)
    verb = {"raises": "rise{} with", "lowers": "fall{} with", None: "go{} with"}[given.direction]
    verb = verb.format("" if total != 1 else "es" if given.direction is None else "s")
    if unknown is not None:
        return f"nothing can be said of {unknown}; {tail}"
    if not rows:
        return f"nothing found: none of {len(census):,} features {verb} {named}, as asked for; {tail}"
    first = ", ".join(_said(row) for row in rows[:3])
    chance = " beyond chance" if given.min_z is None else f" at |z| of {given.min_z:g} or more"
    return f"{among} {verb} {named}{chance}: {first}; {tail}"


def _unknown(census: CensusTable, strengths: _Strengths) -> str | None:
    """The first subject of which the examples tell nothing, and why, in words."""
    for subject, z in zip(strengths.subjects, strengths.z, strict=True):
        if np.isnan(z).all():
            held = max(census.meta.held[subject.kind][column] for column in subject.columns)
            units = "2 kits" if subject.kind in PART_KINDS else f"{MIN_CLUSTERS} builds"
            return f"{subject.title}: {held:,} examples have it, and it takes {units} with it and {units} without"
    return None


def _nearest_miss(census: CensusTable, given: FindArguments, strengths: _Strengths, kept: NDArray[np.bool_]) -> str:
    """The feature that comes nearest to what was asked for."""
    score = np.where(kept, _towards(strengths.z, given.direction).min(axis=0), -1.0)
    at = int(score.argmax())
    if score[at] <= 0:
        return ""
    threshold = census.meta.z_threshold if given.min_z is None else given.min_z
    row = _row(census, strengths, at)
    return f" The nearest: {_said(row)}, |z| = {score[at]:.1f}; asked for: {threshold:.1f}, {given.min_share:.0%}."


def _warnings(census: CensusTable, given: FindArguments, subjects: list[Subject], rows: list[FeatureRow]) -> list[str]:
    meta = census.meta
    found = [CORRELATIONAL + (" The followups test it." if rows else "")] if subjects else []
    if not meta.whole:
        found.append(f"the census holds features {meta.first} to {meta.stop - 1} of {meta.n_features:,} only")
    if given.min_z is not None and given.min_z < meta.z_threshold:
        sure = f"none reaches {meta.z_threshold:.1f} (p = 0.05)"
        found.append(f"of so many features some reach |z| = {given.min_z:g} by chance; {sure}")
    return [*found, *meta.notes]


def _followups(census: CensusTable, strengths: _Strengths, order: NDArray[np.intp]) -> list[Followup]:
    """What would confirm it, for the first features and their first subject."""
    if not strengths.subjects:
        return []
    meta, subject = census.meta, strengths.subjects[0]
    made: list[Followup] = []
    for at in order.tolist():
        feature, column = int(census.column("feature_id")[at]), int(strengths.chosen[0, at])
        title = subject.title_of(meta, column)
        kind, variables = _test_of(subject, column, meta.families, has_model=meta.has_model)
        reason = f"the census says that {title} goes with feature {feature}"
        spec: dict[str, Any] = {"type": kind, "feature_id": feature, "model_type": meta.bundle, "variables": variables}
        made.append(Followup(reason=reason, spec=spec | {"rationale": reason}))
    return made


def _test_of(
    subject: Subject, column: int, families: tuple[str, ...], *, has_model: bool
) -> tuple[str, dict[str, Any]]:
    """The experiment type and variables that test a subject."""
    method = {"method": "interventional"} if has_model else {}
    if subject.kind == "ability":
        return ("family_1d_sweep", {"family": families[column]} | ({} if has_model else {"method": "observational"}))
    return {"weapon": "weapon_sweep", "weapon_class": "weapon_sweep"}.get(subject.kind, "kit_sweep"), method


def strongest(census: CensusTable, limit: int) -> list[FeatureRow]:
    """The features with the largest effect beyond chance of any subject, in shares of the effective max."""
    height, best = census.column("effective_max").astype(np.float64), np.zeros(len(census))
    for kind in KINDS:
        beyond = np.abs(np.nan_to_num(census.matrix(f"{kind}_z"))) >= census.meta.z_threshold
        share = np.abs(np.where(beyond, census.matrix(f"{kind}_effect"), 0.0)) / height[:, None]
        best = np.maximum(best, np.nan_to_num(share).max(axis=1, initial=0.0))
    order = np.argsort(-best, kind="stable")[:limit]
    none = _Strengths.of(census, [])
    return [_row(census, none, at) for at in order.tolist() if best[at] > 0]


def counts(census: CensusTable) -> str:
    """How many features there are of which sort, in a line."""
    dead, label, threshold = census.column("dead"), census.column("label"), census.meta.z_threshold
    nothing, cosine = (label == NOTHING).sum(), census.column("nearest_cosine")
    alike = f", {(cosine >= _ALIKE).sum():,} with another of cosine {_ALIKE} or more" if _known(cosine) else ""
    return (
        f"{len(census):,} features, {census.meta.n_examples:,} examples: {dead.sum():,} dead, {nothing:,} with nothing "
        f"beyond chance (|z| >= {threshold:.1f}){alike}"
    )


def _known(values: NDArray[Any]) -> bool:
    """Whether any of the values is known."""
    return not np.isnan(values.astype(np.float64)).all()
