"""Subs and specials by swapping in every kit: the interventional half of the kit sweep."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ....context.context import Context, Readout
from ....context.population import Population
from ....schemas.job import Job
from ....schemas.result import Aggregates, Finding, Findings, Followup, Table
from ....schemas.spec import ExperimentSpec
from ...design.effect_report import conditional_text, effect_finding, effect_text, noted, nothing_text, summarise
from ...design.effect_rows import EffectRow, EffectTable, effect_table
from ...design.interventions import NOT_OF_THE_DATA
from ...design.report import answerable, followup, number, plural
from ...design.specificity import NullEffects
from ...stats.curve import winner_confirmed
from ...stats.groups import sum_by
from ...stats.paired import RATE_OF_INTEREST
from ...stats.tails import benjamini_hochberg
from ..weapons.confirm import CONFIRM_STREAM
from .chosen import SHOWN_KINDS, ChosenParts, Sought
from .contrasts import PartEffects, part_effects
from .observed import LARGEST_Q
from .tables import DEALS_STREAM, Kind, Kits, Parts, separability

Floats = NDArray[np.floating[Any]]
_BLOCK = 100


class PartEffect(EffectRow):
    """The same builds, mean over the kits with one sub or special, against the mean over all kits swapped in."""

    name: str = Field(description="Sub or special.")
    n_weapons: int = Field(description="Kits with it; replicas count with their original.")
    deal_p: float | None = Field(description="Share of random deals of the kits with an |effect| at least as large.")
    deal_q: float | None = Field(description="Benjamini-Hochberg q of deal_p; subs and specials together.")
    within_main_delta: float | None = Field(
        description="Kits with it minus kits of the same main weapon without it, mean over main weapons."
    )
    within_main_low: float | None = Field(description="Lower end of its 95 % interval (t over main weapons).")
    within_main_high: float | None = Field(description="Upper end of its 95 % interval (t over main weapons).")
    n_mains: int = Field(description="Main weapons that have both.")
    strongest_weapon: str | None = Field(description="Kit that carries most of the effect.")
    delta_without_strongest: float | None = Field(description="Effect without that kit's main weapon.")
    separable: bool | None = Field(description="False: not separable from one weapon; null: no effect to separate.")
    observational_delta: float | None = Field(description="delta_from_global in the data, to compare.")
    reason: str | None = Field(description="Why the part is not separable or a number is null.")


@dataclass(frozen=True)
class Swapped:
    """Effects of subs and specials over the same contexts; arrays are [g].

    Attributes:
        kits: the kits.
        parts: subs and specials of the weapons swapped in.
        table: effects over contexts.
        over_kits: the same effects with the kits as observations.
        deal_q: of the random deals.
        separable: False where one weapon, or the main weapons, may carry the effect; None where there is none.
        reasons: why not.
        observed: delta_from_global in the data.
        unread: no examples were read, so ``observed`` is unknown.
        n_weapons: weapons swapped in.
        n_dropped: parts that never leave the floor and are dropped for it.
        left_out: by kind, what is said of the parts that are not among these.
    """

    kits: Kits
    parts: Parts
    table: EffectTable
    over_kits: PartEffects
    deal_q: Floats
    separable: list[bool | None]
    reasons: list[str | None]
    observed: Floats
    unread: bool
    n_weapons: int
    n_dropped: int
    left_out: dict[Kind, list[str]]

    @property
    def acting(self) -> list[int]:
        """Parts that may be headlined, strongest first: specific, more than random deals give, and separable."""
        return self._strongest_first(
            [i for i in self.table.acting() if self.separable[i] and self.deal_q[i] <= LARGEST_Q]
        )

    @property
    def leader(self) -> int:
        """The part to speak of."""
        return next(iter([*self.acting, *self._strongest_first(self.table.acting())]), int(self._size().argmax()))

    def _size(self) -> Floats:
        return np.abs(self.table.effects.mean)

    def _strongest_first(self, indices: list[int]) -> list[int]:
        if not indices:
            return []
        first = self.table.strongest(indices)
        return sorted(indices, key=lambda i: (i != first, -float(self._size()[i])))


def swap_parts(
    spec: ExperimentSpec,
    ctx: Context,
    job: Job,
    *,
    pooled: Floats,
    readout: Readout,
    chosen: ChosenParts,
    sought: Sought,
    population: int,
    min_effect: float,
) -> Swapped:
    """Average over the kits of each sub and special, on the contexts with every weapon swapped in.

    ``pooled`` is [k + 1, m, d], the base first, and ``readout`` what the feature reads off it; ``chosen`` holds the
    parts of ``sought`` that have an effect, ``population`` the examples the contexts were drawn from.
    """
    activation, pre, kept = readout.activation[1:], readout.pre[1:], chosen.kept
    share = chosen.held[kept] / chosen.held[kept].sum(axis=1, keepdims=True)
    table = effect_table(
        share @ activation,
        share @ pre,
        base=(activation.mean(axis=0), pre.mean(axis=0)),
        population=population,
        min_effect=min_effect,
        null=_null_of_parts(ctx, spec.feature_id, pooled[1:], share, min_effect=min_effect, job=job),
        seed=spec.dataset_slice.random_seed,
    )
    parts = sought.parts.take(kept)
    over_kits = _over_kits(sought.kits, parts, chosen.of_weapon, activation, spec.dataset_slice.random_seed)
    usable = ~np.isnan(over_kits.error)
    acts = np.array([status in {"present", "conditional"} for status in table.status])
    separable, reasons = separability(sought.kits, parts, over_kits, usable, acts)
    return Swapped(
        kits=sought.kits,
        parts=parts,
        table=table,
        over_kits=over_kits,
        deal_q=benjamini_hochberg(np.where(usable, over_kits.p_value, np.nan)),
        separable=separable,
        reasons=reasons,
        observed=sought.observed[kept],
        unread=bool(np.isnan(sought.observed).all()),
        n_weapons=len(chosen.of_weapon),
        n_dropped=chosen.n_dropped,
        left_out={kind: chosen.notes(kind) for kind in SHOWN_KINDS},
    )


def _over_kits(kits: Kits, parts: Parts, of_weapon: NDArray[np.intp], activation: Floats, seed: int) -> PartEffects:
    """The same effects with the kits as observations: their means over the contexts, activation [k, m]."""
    count = np.bincount(of_weapon, minlength=len(kits)).astype(np.float64)
    total = sum_by(of_weapon, activation.mean(axis=1, dtype=np.float64), len(kits))
    rng = np.random.default_rng([seed, DEALS_STREAM])
    return part_effects(count, total, parts.member, kits.main, family=parts.family, rng=rng)


def _null_of_parts(
    ctx: Context, feature: int, pooled: Floats, share: Floats, *, min_effect: float, job: Job
) -> NullEffects | None:
    """What random directions do on the same contrasts: means over the kits of each part against the mean over all.

    Args:
        ctx: the context.
        feature: the feature they must look like.
        pooled: [k, m, d] pooled vectors of the contexts with each weapon.
        share: [g, k], weight of each weapon in each part.
        min_effect: smallest effect of interest, which makes a responder.
        job: may cancel.

    Returns:
        None where the examples' pooled vectors are unknown or the feature is dead.
    """
    directions, top = ctx.random_directions(), ctx.effective_max(feature)
    if directions is None or top is None:
        return None
    matched = directions.matched(ctx.active_rate(feature), top)
    k, m, _ = pooled.shape
    contrast = (share - 1.0 / k).astype(np.float32)
    total, count, responders = (np.zeros((len(share), matched.weight.shape[1])) for _ in range(3))
    for start in range(0, m, _BLOCK):
        job.check()
        activation = matched.activation(pooled[:, start : start + _BLOCK])
        d = np.tensordot(contrast, activation, axes=1)
        responds = np.abs(d) > min_effect
        total += d.sum(axis=1)
        count += responds.sum(axis=1)
        responders += (d * responds).sum(axis=1)
    there = np.where(count >= RATE_OF_INTEREST * m, np.abs(responders) / np.maximum(count, 1), 0.0)
    return NullEffects(np.abs(total / m).max(axis=0), there.max(axis=0))


def part_effect_table(swapped: Swapped, kind: Kind, top_k: int) -> Table:
    """The table ``sub_effects`` or ``special_effects``: the largest effects first."""
    over, names = swapped.over_kits, swapped.kits.facts
    low, high = over.within_interval()
    columns: dict[str, Any] = dict(swapped.table.columns) | {
        "name": swapped.parts.names,
        "n_weapons": over.kits,
        "deal_p": np.where(np.isnan(over.error), np.nan, over.p_value),
        "deal_q": swapped.deal_q,
        "within_main_delta": over.within,
        "within_main_low": low,
        "within_main_high": high,
        "n_mains": over.within_mains,
        "strongest_weapon": [names[i].name if i >= 0 else None for i in over.strongest],
        "delta_without_strongest": over.delta_without,
        "separable": swapped.separable,
        "observational_delta": swapped.observed,
        "reason": swapped.reasons,
    }
    order = np.argsort(-swapped.table.effects.mean, kind="stable").tolist()
    order = [i for i in order if swapped.parts.kinds[i] == kind]
    notes = [f"effects against each context's mean over {swapped.n_weapons} weapons", *swapped.left_out[kind]]
    if len(order) > top_k:
        notes.append(f"{top_k} of {plural(len(order), kind)}: the largest effects")
    if swapped.unread:
        notes.append(f"observational_delta is null: {NOT_OF_THE_DATA}")
    rows = {name: [values[i] for i in order[:top_k]] for name, values in columns.items()}
    return Table.from_columns(f"{kind}_effects", PartEffect, rows, notes)


def swapped_findings(
    spec: ExperimentSpec,
    swapped: Swapped,
    sought: Sought,
    *,
    min_effect: float,
    population: Population,
    ctx: Context,
) -> Findings:
    """Headline, findings, numbers and followups of the swapped kits."""
    table, acting, leader = swapped.table, swapped.acting, swapped.leader
    rng = np.random.default_rng([spec.dataset_slice.random_seed, CONFIRM_STREAM])
    confirmed = winner_confirmed(table.differences, rng) if acting else None
    custom = sought.numbers | _numbers(swapped) | {"winner_confirmed": confirmed}
    shown = acting[:5] or [leader]
    findings = [_finding(spec, swapped, i, population.description) for i in shown]
    gone = f"; {plural(swapped.n_dropped, 'part')} dropped: never off the ReLU floor" if swapped.n_dropped else ""
    tail = f"{population.contexts(table.effects.n)}; interventional{gone}."
    return Findings(
        headline=_headline(spec, swapped, min_effect, tail),
        findings=findings,
        aggregates=summarise(table.effects.mean, table.effects.n, custom),
        followups=answerable(_followups(spec, swapped), ctx),
    )


def no_parts(chosen: ChosenParts, sought: Sought, *, n_contexts: int, population: Population) -> Findings:
    """The answer where no sub or special of the kits swapped in is left to compare."""
    custom: dict[str, Any] = sought.numbers | {
        "method": "interventional",
        "reason": chosen.reason,
        "n_weapons": len(chosen.of_weapon),
        "n_dropped_parts": chosen.n_dropped,
    }
    for kind in SHOWN_KINDS:
        custom |= dict.fromkeys((f"top_{kind}", f"top_{kind}_mean", f"top_{kind}_delta", f"top_{kind}_separable"))
        custom[f"top_{kind}_reason"] = "; ".join(chosen.notes(kind)) or f"no {kind} is known"
    custom |= {"acting_parts": [], "carried_by": None, "specificity_p": None, "winner_confirmed": None}
    return Findings(
        headline=f"nothing can be said: {chosen.reason}; {population.contexts(n_contexts)}; interventional.",
        aggregates=Aggregates(n_samples=n_contexts, custom=custom | {"verdict": "nothing_specific"}),
    )


def _finding(spec: ExperimentSpec, swapped: Swapped, index: int, scope: str) -> Finding:
    table = swapped.table
    if index not in swapped.acting:
        # Only what may be headlined raises or lowers the feature: effects that one weapon carries are its own.
        table = replace(table, specificity=np.ones(len(table.status)))
    found = effect_finding(
        table,
        index,
        subject=swapped.parts.title(index),
        feature=spec.feature_id,
        population=scope,
        table_name=f"{swapped.parts.kinds[index]}_effects",
    )
    return found.model_copy(update={"specificity_p": float(swapped.table.specificity[index])})


def _numbers(swapped: Swapped) -> dict[str, Any]:
    table, acting, leader = swapped.table, swapped.acting, swapped.leader
    numbers: dict[str, Any] = {
        "method": "interventional",
        "n_weapons": swapped.n_weapons,
        "n_dropped_parts": swapped.n_dropped,
    }
    for kind in SHOWN_KINDS:
        among = [i for i, each in enumerate(swapped.parts.kinds) if each == kind]
        top = max(among, key=lambda i: float(table.effects.mean[i]), default=None)
        numbers |= {
            f"top_{kind}": None if top is None else swapped.parts.names[top],
            f"top_{kind}_reason": None
            if top is not None
            else "; ".join(swapped.left_out[kind]) or f"no {kind} is known",
            f"top_{kind}_mean": None if top is None else float(table.columns["mean_activation"][top]),
            f"top_{kind}_delta": None if top is None else float(table.effects.mean[top]),
            f"top_{kind}_separable": None if top is None else swapped.separable[top],
        }
    return numbers | {
        "acting_parts": [swapped.parts.title(i) for i in acting],
        "carried_by": None if acting else _carrier(swapped, leader),
        "specificity_p": float(table.specificity[leader]),
        "verdict": table.status[leader] if acting else "nothing_specific",
    }


def _carrier(swapped: Swapped, index: int) -> str | None:
    strongest = int(swapped.over_kits.strongest[index])
    carried = strongest >= 0 and (swapped.reasons[index] or "").startswith("mostly carried")
    return swapped.kits.facts[strongest].name if carried else None


def _headline(spec: ExperimentSpec, swapped: Swapped, min_effect: float, tail: str) -> str:
    table, top, acting = swapped.table, swapped.leader, swapped.acting
    title, feature = swapped.parts.title(top), f"feature {spec.feature_id}"
    if not acting:
        if not table.acting():
            subject = f"swapping the kit ({swapped.parts.title(noted(table))})"
            return f"{nothing_text(table, subject, spec.feature_id, min_effect)}; {tail}"
        deals = f"kits dealt at random do as much in {float(swapped.over_kits.p_value[top]):.1%}"
        why = deals if swapped.separable[top] else swapped.reasons[top]
        moves = f"{title} moves {feature} {effect_text(table, top)}"
        return f"nothing specific to a sub or special found: {moves}, {why}; {tail}"
    others = len(acting) - 1
    more = f" ({others} more subs or specials too)" if others > 1 else " (1 more sub or special too)" * others
    within = float(swapped.over_kits.within[top])
    same_main = "" if np.isnan(within) else f", {number(within)} within main weapons"
    if table.status[top] == "conditional":
        return f"{title} acts on {feature}{more} {conditional_text(table, top)}{same_main}; {tail}"
    against = f"against the mean over {swapped.n_weapons} weapons{same_main}"
    return f"{title} drives {feature}{more}: {effect_text(table, top)} {against}; {tail}"


def _followups(spec: ExperimentSpec, swapped: Swapped) -> list[Followup]:
    carrier = None if swapped.acting else _carrier(swapped, swapped.leader)
    if carrier is None or swapped.leader not in swapped.table.acting():
        return []
    variables = {"method": "interventional"}
    return [followup(spec, "weapon_sweep", variables, f"{carrier} carries the effect: is it the weapon itself?")]
