"""Evaluating planted rules on token sets: what a feature should be, without a network."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...schemas.facts import MAX_AP
from ...schemas.planted import Factor, PlantedRule
from ...schemas.vocabulary import Vocabulary, WeaponVocabulary
from ..token_sets import TokenSets

Bool = NDArray[np.bool_]
Floats = NDArray[np.float64]


def factor_value(factor: Factor, sets: TokenSets, vocabulary: Vocabulary, weapons: WeaponVocabulary) -> Floats:
    """Value of a factor on each set, in [0, 1]; float64 [n]. See `Factor` for the kinds."""
    value = _plain_value(factor, sets, vocabulary, weapons)
    return 1.0 - value if factor.absent else value


def _plain_value(factor: Factor, sets: TokenSets, vocabulary: Vocabulary, weapons: WeaponVocabulary) -> Floats:
    """The value before negation."""
    match factor.kind:
        case "weapon":
            is_it = np.array([str(weapon_id) == factor.name for weapon_id in weapons.weapon_ids])
            return is_it[sets.weapon].astype(np.float64)
        case "special":
            has_it = np.array([kit.special == factor.name for kit in weapons.facts])
            return has_it[sets.weapon].astype(np.float64)
        case "dose":
            tokens = list(vocabulary.family_tokens(factor.name))
            levels = np.asarray(vocabulary.token_level)[tokens]
            return (sets.present[:, tokens] * levels).max(axis=1).astype(np.float64) / MAX_AP
        case "level":
            rung = _needed(factor.rung, factor)
            tokens = [t for t in vocabulary.family_tokens(factor.name) if vocabulary.token_level[t] >= rung]
            return np.asarray(sets.present[:, tokens].any(axis=1), dtype=np.float64)
        case "gap":
            (high,) = vocabulary.encode(factor.name, _needed(factor.rung, factor), "single")
            (low,) = vocabulary.encode(factor.name, _needed(factor.low, factor), "single")
            return np.logical_and(sets.present[:, high], ~sets.present[:, low]).astype(np.float64)


def _needed(rung: int | None, factor: Factor) -> int:
    """The rung, which this kind of factor cannot do without."""
    if rung is None:
        raise ValueError(f"a {factor.kind} factor needs its rungs; got {factor}")
    return rung


def rule_value(rule: PlantedRule, sets: TokenSets, vocabulary: Vocabulary, weapons: WeaponVocabulary) -> Floats:
    """Activation the rule asks for on each set: max(0, sum of coefficient * product of factors); float64 [n]."""
    total = np.zeros(len(sets))
    for term in rule.terms:
        product = np.full(len(sets), term.coefficient)
        for factor in term.factors:
            product *= factor_value(factor, sets, vocabulary, weapons)
        total += product
    return np.maximum(total, 0.0)


def rule_values(
    rules: Sequence[PlantedRule], sets: TokenSets, vocabulary: Vocabulary, weapons: WeaponVocabulary
) -> Floats:
    """Activations of several rules on each set; float64 [n, n_rules]."""
    return np.stack([rule_value(rule, sets, vocabulary, weapons) for rule in rules], axis=1)
