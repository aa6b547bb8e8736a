"""Contexts given in the spec: read against a bundle's vocabularies, as the token sets that interventions start from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..schemas.errors import RequestError
from ..schemas.facts import SLOTS
from ..schemas.spec import FEWEST_CONTEXTS, GivenContext
from ..schemas.vocabulary import Vocabulary, WeaponVocabulary
from .token_sets import TokenSets


def given_sets(
    contexts: Sequence[GivenContext], vocabulary: Vocabulary, weapons: WeaponVocabulary
) -> tuple[TokenSets, tuple[str, ...]]:
    """Read contexts as token sets; a family is written with every rung up to its AP, as the tokenizer does.

    Returns:
        The sets, and a warning for each AP that is no rung of the vocabulary.

    Raises:
        UnknownNameError: a weapon or an ability that the bundle does not have.
        RequestError: an ability given twice, two main-only ones of one gear slot, AP out of range, or a context given
            twice.
    """
    weapon = np.zeros(len(contexts), dtype=np.int32)
    present = np.zeros((len(contexts), len(vocabulary)), dtype=np.bool_)
    resolved: dict[str, int] = {}
    for at, context in enumerate(contexts):
        weapon[at] = weapons.resolve(context.weapon)
        for family, (text, level) in _levels(context, at, vocabulary).items():
            present[at, list(vocabulary.encode(family, level))] = True
            if text not in {family, f"{family}_{level}"}:
                resolved[text] = level
    sets = TokenSets(weapon, present)
    _check_once(sets)
    return sets, tuple(
        f"{text} is no rung of the vocabulary: {level} AP is used, as the tokenizer does"
        for text, level in resolved.items()
    )


def no_examples(bundle: str) -> RequestError:
    """What to say where examples are needed and the bundle holds none."""
    return RequestError(
        f"bundle {bundle!r} holds no examples, and this experiment reads them. Interventions (such as family_1d_sweep "
        f"and pairwise_interactions) can be run on contexts given in the spec: dataset_slice.contexts, at least "
        f'{FEWEST_CONTEXTS} such as {{"weapon": "Splattershot", "tokens": ["special_charge_up_12", "haunt"]}} '
        f"(on the command line --contexts FILE). Nothing was run."
    )


def unknown_height(bundle: str, min_effect: float | None) -> str:
    """What a run on given contexts must say where the bundle holds no examples."""
    return (
        f"bundle {bundle!r} holds no examples, so how high the feature goes is unknown: a change of the activation is "
        f"of interest from {min_effect:g} on (5 % of the highest there can be) unless min_effect is given, and "
        f"specificity_p is null (random directions are made to look like the feature on examples)"
    )


def _levels(context: GivenContext, at: int, vocabulary: Vocabulary) -> dict[str, tuple[str, int]]:
    """What a context holds: how it was written and its level, by family."""
    found: dict[str, tuple[str, int]] = {}
    for text in context.tokens:
        family, level = vocabulary.parse_unit(text)
        if family in found:
            first = found[family][0]
            both = f"{text!r} twice" if first == text else f"{first!r} and {text!r}"
            how = "" if vocabulary.is_main_only(family) else ", at its AP: the lower rungs are written with it"
            raise RequestError(f"dataset_slice.contexts.{at} holds {both}; give {family} once{how}. Nothing was run.")
        found[family] = (text, level)
    for slot in SLOTS:
        rivals = [family for family in found if vocabulary.is_main_only(family) and vocabulary.slot(family) == slot]
        if len(rivals) > 1:
            raise RequestError(
                f"dataset_slice.contexts.{at} holds {' and '.join(rivals)}, which both take the {slot} slot: no build "
                f"can hold both. Leave one out. Nothing was run."
            )
    return found


def _check_once(sets: TokenSets) -> None:
    """Raise RequestError when a context is there twice: it would count twice in every mean and error."""
    _, first, again = np.unique(sets.keys(), return_index=True, return_inverse=True)
    repeated = np.flatnonzero(first[again] != np.arange(len(sets)))
    if len(repeated):
        at = int(repeated[0])
        raise RequestError(
            f"dataset_slice.contexts.{at} is the same as contexts.{int(first[again][at])}: give each context once. "
            f"Nothing was run."
        )
