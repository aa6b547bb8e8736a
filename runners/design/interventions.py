"""Interventions: conditions constructed from contexts, the same contexts under every condition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...context.context import Context
from ...context.population import Population, draw_contexts
from ...context.token_sets import TokenSets, concatenate
from ...schemas.catalogue import Plan
from ...schemas.errors import RequestError
from ...schemas.job import Job
from ...schemas.result import ConstraintViolation, Method
from ...schemas.spec import ExperimentSpec
from ..stats.paired import FEW
from .constraints import admit

DEFAULT_CONTEXTS = 500
NOT_OF_THE_DATA = "the contexts are given in the spec: no examples are read beside them"
ENOUGH = 50
FEWEST = 2


@dataclass(frozen=True)
class Stable:
    """Units held in every condition: families at levels, and at most one weapon."""

    levels: dict[str, int] = field(default_factory=dict)
    weapon: int | None = None

    def apply(self, sets: TokenSets, ctx: Context) -> TokenSets:
        """Write them into the sets; a family's own tokens make room for its stable level."""
        for family, level in self.levels.items():
            sets = sets.with_level(family, level, ctx.vocabulary)
        return sets if self.weapon is None else sets.with_weapon(self.weapon)


def parse_stable(tokens: Sequence[str], swept: Sequence[str], ctx: Context) -> Stable:
    """Read stable tokens: ``family_AP``, a main-only ability, or one ``weapon_id_NNNN``.

    Raises:
        RequestError: a stable token of a swept family, two of one family, or two weapons.
    """
    levels: dict[str, int] = {}
    weapon: int | None = None
    for token in tokens:
        if token.startswith("weapon_id_"):
            if weapon is not None:
                raise RequestError(f"stable_tokens holds two weapons; one is allowed: {list(tokens)}. Nothing was run.")
            weapon = ctx.weapons.resolve(token)
            continue
        family, level = ctx.vocabulary.parse_unit(token)
        if family in swept:
            raise RequestError(
                f"stable_tokens holds {token!r}, but {family} is what is varied. Leave it out. Nothing was run."
            )
        if family in levels:
            raise RequestError(f"stable_tokens holds {family} twice; give it once. Nothing was run.")
        levels[family] = level
    return Stable(levels, weapon)


@dataclass(frozen=True)
class Contexts:
    """The contexts of an intervention.

    Attributes:
        population: what they stand for.
        positions: where they are in the population, int [m].
        sets: their token sets.
        notes: defaults that were applied.
    """

    population: Population
    positions: NDArray[np.intp]
    sets: TokenSets
    notes: tuple[str, ...]

    def take(self, keep: NDArray[np.bool_]) -> Contexts:
        """The contexts that stay."""
        return Contexts(self.population, self.positions[keep], self.sets.take(keep), self.notes)

    @property
    def rows(self) -> NDArray[np.intp]:
        """Their rows in the bundle's data."""
        return self.population.rows[self.positions]


def data_population(spec: ExperimentSpec, ctx: Context, method: Method) -> Population:
    """The examples that a run's observational tables describe.

    The contexts of an intervention are a sample that stands for the whole slice, so what is set beside their effects
    is taken from all of it; an observational run keeps to the sample it was asked for. Contexts given in the spec stand
    for no examples: their population has none.
    """
    part = spec.dataset_slice
    if method == "interventional":
        part = part.model_copy(update={"sample_size": None})
    return ctx.population(part, spec.feature_id)


def draw(spec: ExperimentSpec, ctx: Context, default: int = DEFAULT_CONTEXTS) -> Contexts:
    """Draw the contexts of a spec: those it gives, else its sample, else ``default`` at random."""
    population = ctx.population(spec.dataset_slice, spec.feature_id)
    if population.given:
        few = f"; of fewer than {FEW} they are wide bounds" if population.size < FEW else ""
        note = f"{population.description}: intervals take them as a sample of builds like them{few}"
        return Contexts(population, np.arange(population.size), ctx.given_sets(spec.dataset_slice), (note,))
    positions = draw_contexts(population, spec.dataset_slice.random_seed, default)
    notes: tuple[str, ...] = ()
    if len(positions) < len(population):
        notes = (f"sample_size not given: {len(positions):,} contexts drawn at random of {population.size:,} examples",)
    return Contexts(population, positions, ctx.sets(population.rows[positions]), notes)


@dataclass(frozen=True)
class Design:
    """Conditions on the same contexts, ready to run.

    Attributes:
        contexts: the admissible contexts.
        base: their base condition.
        conditions: the other conditions, one an entry of ``kept``.
        kept: which of the conditions asked for are still there, ascending.
        violations: broken constraints.
        warnings: conditions or contexts that had to go.
    """

    contexts: Contexts
    base: TokenSets
    conditions: tuple[TokenSets, ...]
    kept: tuple[int, ...]
    violations: list[ConstraintViolation]
    warnings: tuple[str, ...]

    def all_sets(self) -> TokenSets:
        """Base and conditions, one after the other."""
        return concatenate([self.base, *self.conditions])

    def pooled(self, ctx: Context, job: Job) -> NDArray[np.floating]:
        """Pooled vectors of base and conditions, [k + 1, m, d]."""
        vectors = ctx.oracle.pooled(self.all_sets(), job)
        return vectors.reshape(len(self.conditions) + 1, len(self.base), vectors.shape[1])

    def plan(self, ctx: Context, conditions: str) -> Plan:
        """The dry run: what the model would be asked, after deduplication and the cache."""
        sets = self.all_sets()
        missing = len(ctx.oracle.missing(sets))
        broken = tuple(
            f"{v.id}: {v.contexts} contexts break it ({'skipped' if v.hard else 'counted only'})"
            for v in self.violations
        )
        return Plan(
            contexts=len(self.base),
            conditions=conditions,
            forward_passes=missing,
            saved_passes=len(sets) - missing,
            notes=(*self.contexts.notes, *self.contexts.population.warnings, *self.warnings, *broken),
        )


def admissible(
    contexts: Contexts,
    base: TokenSets,
    conditions: Sequence[TokenSets],
    labels: Sequence[str],
    *,
    spec: ExperimentSpec,
    ctx: Context,
) -> Design:
    """Keep the contexts that are admissible under every condition.

    If constraints leave fewer than 50 contexts (or half of those whose base is admissible, where that is less),
    conditions are dropped from the end until enough are left.

    Raises:
        RequestError: fewer than two contexts are admissible: no error could be estimated.
    """
    admitted, violations = admit([base, *conditions], ctx, spec.constraints)
    # What the base itself breaks, dropping conditions cannot mend; and of few contexts half will do.
    ceiling = int(admitted[0].sum())
    enough = min(ENOUGH, (ceiling + 1) // 2)
    kept = len(conditions)
    while kept > 1 and admitted[: kept + 1].all(axis=0).sum() < enough:
        kept -= 1
    keep: NDArray[np.bool_] = np.all(admitted[: kept + 1], axis=0)
    if keep.sum() < FEWEST:
        why = ", ".join(f"{v.id} ({v.example})" for v in violations if v.hard) or contexts.population.description
        raise RequestError(
            f"at least {FEWEST} contexts are needed and {int(keep.sum())} is left: {why}. Change stable_tokens, the "
            f"slice or the constraints. Nothing was run."
        )
    warnings: list[str] = []
    if kept < len(conditions):
        dropped = ", ".join(labels[kept:])
        warnings.append(f"constraints leave fewer than {enough} contexts for {dropped}: dropped")
    if int(keep.sum()) < len(keep):
        warnings.append(f"constraints skip {len(keep) - int(keep.sum())} of {len(keep)} contexts")
    if int(keep.sum()) < ENOUGH:
        warnings.append(f"only {int(keep.sum())} contexts: intervals are wide")
    return Design(
        contexts=contexts.take(keep),
        base=base.take(keep),
        conditions=tuple(condition.take(keep) for condition in conditions[:kept]),
        kept=tuple(range(kept)),
        violations=violations,
        warnings=tuple(warnings),
    )
