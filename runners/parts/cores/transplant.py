"""Transplants: a core written into builds drawn at random. Does it activate the feature there, and only this one?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....context.context import Context
from ....context.population import Population
from ....context.token_sets import TokenSets, concatenate, levels_of
from ....schemas.job import Job
from ....schemas.result import ConstraintViolation
from ....schemas.spec import DatasetSlice, ExperimentSpec
from ...design.constraints import admit
from ...design.effect_rows import EffectTable, effect_table
from ...design.interventions import FEWEST
from ...design.specificity import null_effects
from .lattice import WEAPON, Case
from .outcomes import Core, Outcome

Bool = NDArray[np.bool_]
Floats = NDArray[np.floating[Any]]
N_CONTEXTS = 200
N_REFERENCE = 100
MIN_DONORS = 10
_STREAM = 8


@dataclass(frozen=True)
class Source:
    """Where tested examples, donors and builds come from: the slice, or the contexts given in the spec.

    Attributes:
        ctx: the context.
        population: the rows to draw from: of the bundle's data, or positions among the contexts given.
        given: the contexts given; None where the slice is drawn from.
    """

    ctx: Context
    population: Population
    given: TokenSets | None

    @classmethod
    def of(cls, ctx: Context, population: Population, part: DatasetSlice) -> Source:
        """The source of a spec's examples."""
        if not population.given:
            return cls(ctx, population, None)
        return cls(ctx, replace(population, rows=np.arange(population.size)), ctx.given_sets(part))

    def evaluated(self, feature: int, job: Job) -> Source:
        """The same, with the activations of the contexts given, which the network must be asked for."""
        if self.given is None:
            return self
        activation = self.ctx.evaluate(self.given, feature, job).activation.astype(np.float32)
        return replace(self, population=replace(self.population, activation=activation))

    def sets(self, rows: NDArray[np.intp]) -> TokenSets:
        """Token sets of some rows."""
        return self.ctx.sets(rows) if self.given is None else self.given.take(rows)

    def holders(self, column: int) -> NDArray[np.intp]:
        """The rows that hold a family."""
        rows = self.population.rows
        if self.given is None:
            return rows[np.flatnonzero(self.ctx.data.levels[rows, column] > 0)]
        return np.flatnonzero(levels_of(self.given.present, self.ctx.vocabulary)[:, column] > 0)


@dataclass(frozen=True)
class Donors:
    """Examples that something is taken from.

    Attributes:
        own: bool [n, vocab], the tokens that are written.
        weapon: int32 [n], the weapon that is written; None leaves the build its own.
    """

    own: Bool
    weapon: NDArray[np.int32] | None

    def into(self, contexts: TokenSets, choice: Floats, ctx: Context) -> tuple[TokenSets, TokenSets]:
        """Base (the builds without the donors' families) and the builds with a donor's tokens written in.

        Args:
            contexts: the builds, [m].
            choice: [m] in [0, 1), which donor each build gets.
            ctx: the context.
        """
        picked = (choice * len(self.own)).astype(np.intp)
        family = np.asarray(ctx.vocabulary.token_family)
        held = np.zeros((len(self.own), len(ctx.vocabulary.families)), dtype=np.bool_)
        rows, tokens = np.nonzero(self.own)
        held[rows, family[tokens]] = True
        touched = held[:, np.maximum(family, 0)] & (family >= 0)
        base = TokenSets(contexts.weapon, contexts.present & ~touched[picked])
        weapon = base.weapon if self.weapon is None else self.weapon[picked]
        return base, TokenSets(weapon, base.present | self.own[picked])


def _core_donors(core: Core, cases: Sequence[Case], *, keeps_weapon: bool) -> Donors:
    """What every subset of the examples held: the core, the clamped units, and the weapon where it is no unit."""
    own = np.stack(
        [
            case.fixed | case.tokens[[name in core for name in case.names[: len(case.tokens)]]].any(axis=0)
            for case in cases
        ]
    )
    weapon = np.array([case.natural.weapon[0] for case in cases], dtype=np.int32)
    return Donors(own, weapon if keeps_weapon or WEAPON in core else None)


def _family_donors(source: Source, rng: np.random.Generator) -> Iterator[Donors]:
    """Each family by itself, as random examples of the population hold it: what a direction might respond to."""
    vocabulary = source.ctx.vocabulary
    for column, family in enumerate(vocabulary.families):
        rows = source.holders(column)
        if len(rows) < MIN_DONORS:
            continue
        sets = source.sets(np.sort(rng.choice(rows, min(N_REFERENCE, len(rows)), replace=False)))
        own = np.zeros_like(sets.present)
        tokens = list(vocabulary.family_tokens(family))
        own[:, tokens] = sets.present[:, tokens]
        yield Donors(own, None)


def _builds(source: Source, seed: int) -> tuple[TokenSets, Floats, np.random.Generator]:
    """Builds drawn at random, a number in [0, 1) for each that chooses its donor, and the generator that drew them."""
    rng = np.random.default_rng([seed, _STREAM])
    rows = source.population.rows
    rows = np.sort(rng.choice(rows, min(N_CONTEXTS, len(rows)), replace=False))
    return source.sets(rows), rng.random(len(rows)), rng


def _reference_pairs(
    contexts: TokenSets, choice: Floats, source: Source, rng: np.random.Generator
) -> list[tuple[TokenSets, TokenSets]]:
    """Every family by itself, out of and in the first builds."""
    part = contexts.take(np.arange(min(N_REFERENCE, len(contexts))))
    return [donors.into(part, choice[: len(part)], source.ctx) for donors in _family_donors(source, rng)]


def reference_sets(source: Source, seed: int) -> TokenSets | None:
    """The sets a transplant runs whatever the cores are.

    None without a family that enough examples hold, and without examples to make random directions from.
    """
    if not source.ctx.has_examples:
        return None
    contexts, choice, rng = _builds(source, seed)
    pairs = _reference_pairs(contexts, choice, source, rng)
    return concatenate([sets for pair in pairs for sets in pair]) if pairs else None


def transplant(
    cores: Sequence[Core],
    outcomes: Sequence[Outcome],
    source: Source,
    *,
    min_effect: float,
    spec: ExperimentSpec,
    keeps_weapon: bool,
    job: Job,
) -> tuple[EffectTable, list[ConstraintViolation]] | None:
    """Effect of writing each core, as random examples hold it, into builds drawn at random from the population.

    Base: the build without the families of the core. The same builds serve every core; those whose gear would clash
    under any core are left out. A random direction is given the chance a feature had: its largest effect is sought
    over these cores and over every family by itself.

    Returns:
        The effects, and the constraints that were broken; None where fewer than two builds could take every core.
    """
    seed, ctx = spec.dataset_slice.random_seed, source.ctx
    feature = spec.feature_id
    contexts, choice, rng = _builds(source, seed)
    holders = [[outcome.case for outcome in outcomes if core in outcome.cores] for core in cores]
    pairs = [
        _core_donors(core, cases, keeps_weapon=keeps_weapon).into(contexts, choice, ctx)
        for core, cases in zip(cores, holders, strict=True)
    ]
    admitted, violations = admit([written for _, written in pairs], ctx, spec.constraints)
    kept = np.flatnonzero(np.all(admitted, axis=0))
    if len(kept) < FEWEST:
        return None
    base, written = _pooled_pairs([(b.take(kept), w.take(kept)) for b, w in pairs], ctx, job)
    null = null_effects(ctx, feature, written, base=base, min_effect=min_effect)
    families = [] if null is None else _reference_pairs(contexts, choice, source, rng)
    if null is not None and families:
        plain, single = _pooled_pairs(families, ctx, job)
        reference = null_effects(ctx, feature, single, base=plain, min_effect=min_effect)
        null = null if reference is None else null.union(reference)
    before, after = ctx.read(base, feature), ctx.read(written, feature)
    table = effect_table(
        after.activation,
        after.pre,
        base=(before.activation, before.pre),
        population=source.population.drawn_from,
        min_effect=min_effect,
        null=null,
        seed=seed,
    )
    return table, violations


def _pooled_pairs(pairs: Sequence[tuple[TokenSets, TokenSets]], ctx: Context, job: Job) -> tuple[Floats, Floats]:
    """Pooled vectors of bases and of written sets, [k, m, d] each."""
    vectors = ctx.oracle.pooled(concatenate([base for base, _ in pairs] + [written for _, written in pairs]), job)
    halves = vectors.reshape(2, len(pairs), len(pairs[0][0]), vectors.shape[1])
    return halves[0], halves[1]
