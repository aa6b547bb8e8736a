"""Populations: the examples a dataset slice leaves, in the order in which its fields act."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..schemas.errors import EmptySliceError
from ..schemas.spec import DatasetSlice
from ..schemas.vocabulary import Vocabulary, WeaponVocabulary
from .examples import Examples, Rows, all_rows

Activation = NDArray[np.float32]
SAMPLING_STREAM = 1
CONTEXT_STREAM = 2


@dataclass(frozen=True)
class Population:
    """The examples an experiment speaks about.

    Attributes:
        rows: rows of the bundle's data, ascending.
        activation: float32 [n], the feature's activation on them.
        size: how many there were before ``sample_size`` acted.
        description: in words, for headlines.
        dead: the feature is active on no example of the bundle.
        key: names the rows: equal keys, equal rows, whatever the feature. None where the feature's own activation chose
            them. What was computed from the rows alone can be kept under it.
        warnings: what the slice could not do as asked.
        given: the spec gives contexts of its own: no example belongs to it, and ``size`` counts the contexts.
        caveat: what a headline must add of it, after a semicolon.
    """

    rows: Rows
    activation: Activation
    size: int
    description: str
    dead: bool
    sampled: bool
    warnings: tuple[str, ...] = ()
    key: str | None = None
    given: bool = False
    caveat: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def drawn_from(self) -> int:
        """How many the contexts of an intervention are drawn from, for the finite-population correction.

        Given contexts are taken as a sample of builds like them, of which there is no end.
        """
        return sys.maxsize if self.given else self.size

    def contexts(self, n: int, held: str = "") -> str:
        """``n`` contexts of it in words, and what they all hold."""
        if not self.given:
            return f"{n} contexts of {self.description}{held}"
        which = self.description if n == self.size else f"{n} of {self.description}"
        return f"{which}{held}{self.caveat}"


def given_population(n: int, *, dead: bool, warnings: tuple[str, ...], caveat: str = "") -> Population:
    """The population of ``n`` contexts that the spec gives: none of its examples."""
    return Population(
        rows=np.zeros(0, dtype=np.intp),
        activation=np.zeros(0, dtype=np.float32),
        size=n,
        description=f"{n} contexts given in the spec",
        dead=dead,
        sampled=True,
        warnings=warnings,
        given=True,
        caveat=caveat,
    )


def select(
    part: DatasetSlice, examples: Examples, activation: Activation, vocabulary: Vocabulary, weapons: WeaponVocabulary
) -> Population:
    """Apply a dataset slice to the data.

    Raises:
        EmptySliceError: nothing is left; the message names the filter that emptied it.
        UnknownNameError: a weapon or family that the bundle does not have.
    """
    dead = not bool(np.any(activation > 0))
    kept: NDArray[np.bool_] | None = None
    for name, mask in _filters(part, examples, activation, vocabulary, weapons):
        kept = mask if kept is None else kept & mask
        if not kept.any():
            raise EmptySliceError(
                f"dataset_slice leaves no example: {name} emptied it ({len(examples):,} examples in the bundle). "
                f"Widen {name.split('=')[0]} or leave it out. Nothing was run."
            )
    if (part.percentile_min, part.percentile_max) != (0.0, 100.0) and not dead:
        kept = _keep_percentiles(np.ones(len(examples), dtype=np.bool_) if kept is None else kept, activation, part)
    rows = all_rows(len(examples)) if kept is None else np.flatnonzero(kept)
    size, warnings = len(rows), []
    if part.sample_size is not None and part.sample_size < size:
        rng = np.random.default_rng([part.random_seed, SAMPLING_STREAM])
        rows = np.sort(rng.choice(rows, part.sample_size, replace=False))
    elif part.sample_size is not None and part.sample_size > size:
        warnings.append(f"sample_size {part.sample_size:,} is more than the slice has: all {size:,} examples are used")
    return Population(
        rows=rows,
        activation=activation if len(rows) == len(activation) else activation[rows],
        size=size,
        description=describe(part, weapons),
        dead=dead,
        sampled=part.sample_size is not None,
        warnings=tuple(warnings),
        key=None if part.selects_on_activation and not dead else _key(part),
    )


def _key(part: DatasetSlice) -> str:
    """Name the rows of a slice; the same for every slice that leaves all of them."""
    whole = DatasetSlice()
    chosen = part if part.sample_size is not None else part.model_copy(update={"random_seed": whole.random_seed})
    return chosen.model_dump_json()


def _filters(
    part: DatasetSlice, examples: Examples, activation: Activation, vocabulary: Vocabulary, weapons: WeaponVocabulary
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    wanted = [weapons.resolve(weapon) for weapon in part.weapon_filter]
    unwanted = [weapons.resolve(weapon) for weapon in part.weapon_exclude]
    held = [vocabulary.family_index[vocabulary.check_family(family)] for family in part.family_filter]
    barred = [vocabulary.family_index[vocabulary.check_family(family)] for family in part.family_exclude]
    # A dead feature is an answer, not an empty slice: filters on the outcome are left out for it.
    if part.activation_threshold is not None and np.any(activation > 0):
        yield f"activation_threshold={part.activation_threshold}", activation > part.activation_threshold
    if wanted:
        yield f"weapon_filter={list(part.weapon_filter)}", np.isin(examples.weapon, wanted)
    if unwanted:
        yield f"weapon_exclude={list(part.weapon_exclude)}", ~np.isin(examples.weapon, unwanted)
    if held:
        yield f"family_filter={list(part.family_filter)}", np.all(examples.levels[:, held] > 0, axis=1)
    if barred:
        yield f"family_exclude={list(part.family_exclude)}", np.all(examples.levels[:, barred] == 0, axis=1)


def _keep_percentiles(kept: NDArray[np.bool_], activation: Activation, part: DatasetSlice) -> NDArray[np.bool_]:
    """Keep active examples by their percentile among the active; equal activations share a midrank."""
    active = np.flatnonzero(kept & (activation > 0))
    named = f"percentile_min={part.percentile_min}, percentile_max={part.percentile_max}"
    if not len(active):
        raise EmptySliceError(
            f"dataset_slice leaves no example: {named} ranks the active examples and the other filters leave none "
            f"active. Widen the filters. Nothing was run."
        )
    values, inverse, counts = np.unique(activation[active], return_inverse=True, return_counts=True)
    midrank = np.cumsum(counts) - counts / 2.0
    percentile = 100.0 * midrank[inverse] / len(active)
    chosen = (percentile >= part.percentile_min) & (percentile <= part.percentile_max)
    if not chosen.any():
        raise EmptySliceError(
            f"dataset_slice leaves no example: {named} holds none of the {len(active):,} active examples "
            f"({len(values):,} distinct activations). Widen the percentiles. Nothing was run."
        )
    result = np.zeros_like(kept)
    result[active[chosen]] = True
    return result


def describe(part: DatasetSlice, weapons: WeaponVocabulary) -> str:
    """Name the population in words."""
    words: list[str] = []
    if part.weapon_filter:
        words.append("with " + " or ".join(_names(part.weapon_filter, weapons)))
    if part.weapon_exclude:
        words.append("without " + ", ".join(_names(part.weapon_exclude, weapons)))
    if part.family_filter:
        words.append("holding " + " and ".join(dict.fromkeys(part.family_filter)))
    if part.family_exclude:
        words.append("holding no " + " or ".join(dict.fromkeys(part.family_exclude)))
    if not part.selects_on_activation:
        return " ".join(["all examples", *words])
    chosen: list[str] = []
    if part.activation_threshold is not None:
        chosen.append(f"activation above {part.activation_threshold:g}")
    if (part.percentile_min, part.percentile_max) != (0.0, 100.0):
        chosen.append(f"percentiles {part.percentile_min:g} to {part.percentile_max:g}")
    start = f"examples already active (selected on the outcome: {', '.join(chosen)})"
    return " ".join([start, *words])


def _names(given: tuple[str | int, ...], weapons: WeaponVocabulary) -> list[str]:
    return list(dict.fromkeys(weapons.facts[weapons.resolve(weapon)].name for weapon in given))


def draw_contexts(population: Population, seed: int, default: int) -> Rows:
    """Draw the contexts of an intervention: positions in the population, ascending.

    The slice's own sample where it asks for one, else ``default`` drawn at random without replacement.
    """
    n = len(population)
    if population.sampled or n <= default:
        return np.arange(n)
    rng = np.random.default_rng([seed, CONTEXT_STREAM])
    return np.sort(rng.choice(n, default, replace=False))
