"""The fidelity measurement tells a network that follows its rule from one that does not."""

from collections.abc import Callable

import numpy as np
import pytest
from mechinterp_runner.context.builder.codec import Codec
from mechinterp_runner.context.builder.demo_rules import demo_rules
from mechinterp_runner.context.builder.fidelity import FidelityMeter
from mechinterp_runner.context.builder.rules import rule_value, rule_values
from mechinterp_runner.context.sae import SparseAutoencoder
from mechinterp_runner.context.token_sets import TokenSets
from mechinterp_runner.schemas.planted import PlantedRule
from mechinterp_runner.schemas.vocabulary import WeaponVocabulary

RULES = demo_rules()
BY_KIND = {rule.kind: rule for rule in RULES}
Pool = Callable[[TokenSets], np.ndarray]


def meter_of(codec: Codec, weapons: WeaponVocabulary, contexts: TokenSets, pool: Pool) -> FidelityMeter:
    """A meter whose autoencoder reads coordinate i of the pooled vector as feature i."""
    eye = np.eye(len(RULES), dtype="f4")
    sae = SparseAutoencoder(eye, np.zeros(len(RULES), "f4"), eye, np.zeros(len(RULES), "f4"))
    return FidelityMeter(codec, weapons, sae, pool, contexts)


def perfect(codec: Codec, weapons: WeaponVocabulary) -> Pool:
    return lambda sets: rule_values(RULES, sets, codec.vocabulary, weapons).astype("f4")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.feature_id}-{rule.kind}")
def test_a_network_that_is_its_rule_has_no_error(
    rule: PlantedRule, codec: Codec, weapons: WeaponVocabulary, builds: TokenSets
) -> None:
    contexts = builds.take(slice(0, 60))
    meter = meter_of(codec, weapons, contexts, perfect(codec, weapons))
    held_out = TokenSets(builds.weapon, builds.present)
    measured = meter.measure(rule, held_out, meter.pool(held_out), 0.1)
    assert measured.worst_cell_error < 1e-4
    assert measured.n_contexts == 60
    assert {cell.expected > 0 for cell in measured.cells} == {True, False}
    assert measured.r2_held_out is None or measured.r2_held_out > 0.999


def test_a_network_that_ignores_the_modulator_is_caught_although_its_r2_is_high(
    codec: Codec, weapons: WeaponVocabulary, builds: TokenSets
) -> None:
    rule = BY_KIND["modulated_pair"]
    pair = rule.model_copy(update={"terms": tuple(t.model_copy(update={"factors": t.factors[:2]}) for t in rule.terms)})

    def ignorant(sets: TokenSets) -> np.ndarray:
        pooled = perfect(codec, weapons)(sets)
        pooled[:, rule.feature_id] = rule_value(pair, sets, codec.vocabulary, weapons)
        return pooled

    comeback = codec.vocabulary.token_id["comeback"]
    rare = builds.take(~builds.present[:, comeback] | (np.arange(len(builds)) % 20 == 0))
    meter = meter_of(codec, weapons, builds.take(slice(0, 60)), ignorant)
    measured = meter.measure(rule, rare, ignorant(rare), 0.1)
    assert measured.r2_held_out is not None
    assert measured.r2_held_out > 0.9
    assert measured.worst_cell_error > 0.99
    worst = max(measured.cells, key=lambda cell: cell.error_of_height)
    assert worst.cell["comeback"] == 10


def test_cells_are_the_full_factorial_with_every_level_of_a_lone_family(
    codec: Codec, weapons: WeaponVocabulary, builds: TokenSets
) -> None:
    meter = meter_of(codec, weapons, builds.take(slice(0, 5)), perfect(codec, weapons))
    threshold = meter.cells(BY_KIND["linear_dose"])
    assert [cell.cell["quick_respawn"] for cell in threshold] == [0, 3, 6, 12, 15, 21, 29, 38, 51, 57]
    pair = meter.cells(BY_KIND["and"])
    assert len({tuple(cell.cell.items()) for cell in pair}) == len(pair) == 25
    gap = meter.cells(BY_KIND["gap"])
    assert [cell.expected for cell in gap] == [0.0, 0.0, 2.0, 0.0, 2.0]
    weapon = [cell.cell for cell in meter.cells(BY_KIND["weapon"])]
    assert weapon == [{"40": False}, {"40": True}]


def test_contexts_are_not_changed(codec: Codec, weapons: WeaponVocabulary, builds: TokenSets) -> None:
    contexts = TokenSets(builds.weapon.copy(), builds.present.copy())
    meter = meter_of(codec, weapons, contexts, perfect(codec, weapons))
    meter.cells(BY_KIND["gap"])
    meter.cells(BY_KIND["weapon"])
    assert np.array_equal(contexts.present, builds.present)
    assert np.array_equal(contexts.weapon, builds.weapon)


def test_a_rule_that_is_constant_on_the_examples_has_no_r2(
    codec: Codec, weapons: WeaponVocabulary, builds: TokenSets
) -> None:
    meter = meter_of(codec, weapons, builds, perfect(codec, weapons))
    nothing = TokenSets(builds.weapon[:5], np.zeros_like(builds.present[:5]))
    assert meter.r2(RULES[0], nothing, meter.pool(nothing)) is None
