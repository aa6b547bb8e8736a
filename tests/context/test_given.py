"""Contexts given in the spec against a bundle's vocabularies: what they are read as, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from mechinterp_runner.context.given import given_sets
from mechinterp_runner.context.token_sets import TokenSets
from mechinterp_runner.schemas.errors import RequestError, UnknownNameError
from mechinterp_runner.schemas.facts import MAIN_ONLY, STACKABLE, STANDARD_RUNGS
from mechinterp_runner.schemas.spec import GivenContext
from mechinterp_runner.schemas.vocabulary import Vocabulary, WeaponVocabulary

TOKENS = [f"{family}_{rung}" for family in STACKABLE for rung in STANDARD_RUNGS] + list(MAIN_ONLY)
VOCABULARY = Vocabulary(("<NULL>", "<PAD>", *TOKENS))
WEAPONS = WeaponVocabulary(("weapon_id_40", "weapon_id_10", "weapon_id_0"))


def read(*contexts: tuple[str | int, list[str]]) -> tuple[TokenSets, tuple[str, ...]]:
    given = [GivenContext(weapon=weapon, tokens=tuple(tokens)) for weapon, tokens in contexts]
    return given_sets(given, VOCABULARY, WEAPONS)


def held(sets: TokenSets, row: int) -> set[str]:
    return {VOCABULARY.tokens[token] for token in np.flatnonzero(sets.present[row])}


def test_a_family_is_written_with_every_rung_up_to_its_ap_and_a_main_only_ability_alone():
    sets, warnings = read((40, ["special_charge_up_12", "haunt"]), (40, []))
    assert held(sets, 0) == {"special_charge_up_3", "special_charge_up_6", "special_charge_up_12", "haunt"}
    assert held(sets, 1) == set()
    assert warnings == ()


def test_a_weapon_is_known_by_its_kit_id_its_token_and_its_name_in_any_case():
    sets, _ = read((40, []), ("weapon_id_10", []), ("weapon_id_0", ["haunt"]), ("splattershot", ["haunt"]))
    assert sets.weapon.tolist() == [0, 1, 2, 0]


def test_ap_between_rungs_is_read_as_the_tokenizer_reads_it_and_that_is_said_once():
    sets, warnings = read((40, ["swim_speed_up_13"]), (10, ["swim_speed_up_13"]), (0, ["swim_speed_up_0"]))
    assert held(sets, 0) == {"swim_speed_up_3", "swim_speed_up_6", "swim_speed_up_12"}
    assert held(sets, 2) == set()
    assert warnings == ("swim_speed_up_13 is no rung of the vocabulary: 12 AP is used, as the tokenizer does",)


@pytest.mark.parametrize(
    ("context", "message"),
    [
        (("Splatershot", []), "unknown weapon 'Splatershot': did you mean 'Splattershot'"),
        ((40, ["swim_sped_up_12"]), "unknown family 'swim_sped_up_12': did you mean 'swim_speed_up'"),
        ((40, ["haunts"]), "unknown family 'haunts': did you mean 'haunt'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(context, message):
    with pytest.raises(UnknownNameError, match=message):
        read(context, (40, []))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["haunt", "haunt"], r"contexts\.1 holds 'haunt' twice; give haunt once\. Nothing"),
        (["swim_speed_up_3", "swim_speed_up_12"], r"holds 'swim_speed_up_3' and 'swim_speed_up_12'; give swim"),
        (["haunt", "ninja_squid"], r"contexts\.1 holds haunt and ninja_squid, which both take the clothes slot"),
        (["swim_speed_up"], r"'swim_speed_up' needs its AP, such as swim_speed_up_3"),
        (["swim_speed_up_58"], r"rung 58 of 'swim_speed_up' is out of range"),
    ],
)
def test_what_no_build_can_hold_is_refused_before_anything_runs(tokens, message):
    with pytest.raises(RequestError, match=message) as caught:
        read((40, []), (40, tokens))
    assert str(caught.value).endswith("Nothing was run.")


def test_a_context_given_twice_is_refused_however_it_is_written():
    with pytest.raises(RequestError, match=r"contexts\.2 is the same as contexts\.0: give each context once"):
        read((40, ["swim_speed_up_12", "haunt"]), (10, ["haunt"]), ("Splattershot", ["haunt", "swim_speed_up_13"]))
