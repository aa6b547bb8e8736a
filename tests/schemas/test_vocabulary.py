"""Tokens, rungs and levels, read off whatever vocabulary is loaded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mechinterp_runner.schemas.errors import BundleError, RequestError, UnknownNameError
from mechinterp_runner.schemas.facts import MAIN_ONLY, STACKABLE, STANDARD_RUNGS
from mechinterp_runner.schemas.vocabulary import Vocabulary, WeaponVocabulary, parse_token

PUBLISHED = Vocabulary(
    tuple(f"{family}_{rung}" for family in STACKABLE for rung in STANDARD_RUNGS) + MAIN_ONLY + ("<NULL>", "<PAD>")
)
OTHER = Vocabulary(("<PAD>", "swim_speed_up_7", "<NULL>", "swim_speed_up_2", "comeback", "swim_speed_up_40", "<MASK>"))
WEAPONS = WeaponVocabulary(("weapon_id_1111", "weapon_id_40", "weapon_id_0", "weapon_id_98765"))

families = st.sampled_from(STACKABLE)
rungs = st.sampled_from(STANDARD_RUNGS)


def test_the_published_vocabulary_has_140_tokens_and_26_families():
    assert len(PUBLISHED) == 140
    assert len(PUBLISHED.families) == 26
    assert PUBLISHED.families == tuple(sorted(STACKABLE)) + tuple(sorted(MAIN_ONLY))


@given(families, rungs)
def test_a_stackable_token_parses_into_its_family_and_rung(family, rung):
    assert parse_token(f"{family}_{rung}") == (family, rung)


@pytest.mark.parametrize("token", ["<NULL>", "<PAD>", "<MASK>"])
def test_a_special_token_is_no_ability(token):
    assert parse_token(token) is None


@pytest.mark.parametrize("token", MAIN_ONLY)
def test_a_main_only_ability_stands_for_the_10_ap_of_its_slot(token):
    assert parse_token(token) == (token, 10)


@given(families, rungs)
def test_the_thermometer_writes_every_rung_up_to_the_level_and_reads_back(family, rung):
    ids = PUBLISHED.encode(family, rung)
    assert {PUBLISHED.tokens[index] for index in ids} == {f"{family}_{r}" for r in STANDARD_RUNGS if r <= rung}
    assert PUBLISHED.levels(ids) == {family: rung}


@given(families, rungs)
def test_the_single_encoding_writes_one_token_and_reads_back_as_the_same_level(family, rung):
    (index,) = PUBLISHED.encode(family, rung, "single")
    assert PUBLISHED.tokens[index] == f"{family}_{rung}"
    assert PUBLISHED.levels([index]) == {family: rung}


@given(st.dictionaries(st.sampled_from(PUBLISHED.families), rungs, max_size=8))
def test_levels_of_a_union_of_families_are_the_levels_that_were_written(asked):
    wanted = {family: 10 if family in MAIN_ONLY else rung for family, rung in asked.items()}
    ids = [index for family, level in wanted.items() for index in PUBLISHED.encode(family, level)]
    assert PUBLISHED.levels(reversed(ids)) == wanted


@given(st.sets(st.integers(0, 139), max_size=20))
def test_the_level_of_a_set_with_gaps_is_its_highest_rung(ids):
    expected = {}
    for token in (PUBLISHED.tokens[index] for index in ids):
        if token in MAIN_ONLY:
            expected[token] = 10
        elif not token.startswith("<"):
            family, _, rung = token.rpartition("_")
            expected[family] = max(expected.get(family, 0), int(rung))
    assert PUBLISHED.levels(ids) == expected


@given(families, st.integers(3, 57))
def test_an_ap_value_resolves_to_the_largest_rung_that_is_not_above_it(family, ap):
    resolved = PUBLISHED.resolve(family, ap)
    assert resolved in STANDARD_RUNGS
    assert resolved <= ap
    assert not any(resolved < rung <= ap for rung in STANDARD_RUNGS)


def test_41_resolves_to_38_and_absent_stays_absent():
    assert PUBLISHED.resolve("special_charge_up", 41) == 38
    assert PUBLISHED.resolve("special_charge_up", 0) == 0
    assert PUBLISHED.encode("special_charge_up", 0) == ()


@pytest.mark.parametrize("ap", [-1, 1, 2, 58, 1000])
def test_ap_outside_what_gear_can_give_is_refused_with_the_rungs_there_are(ap):
    with pytest.raises(RequestError, match=rf"rung {ap} of 'swim_speed_up' is out of range.*\[3, 6, 12, 15, 21"):
        PUBLISHED.resolve("swim_speed_up", ap)


def test_rungs_come_from_the_loaded_vocabulary():
    assert OTHER.rungs("swim_speed_up") == (2, 7, 40)
    assert OTHER.resolve("swim_speed_up", 39) == 7
    assert [OTHER.tokens[index] for index in OTHER.encode("swim_speed_up", 40)] == [
        "swim_speed_up_2", "swim_speed_up_7", "swim_speed_up_40",
    ]  # fmt: skip
    assert OTHER.families == ("swim_speed_up", "comeback")
    with pytest.raises(RequestError, match=r"\[2, 7, 40\]"):
        OTHER.resolve("swim_speed_up", 1)


def test_a_level_between_two_rungs_is_not_written():
    with pytest.raises(RequestError, match=r"level 41 is no rung of 'swim_speed_up'.*\[3, 6, 12"):
        PUBLISHED.encode("swim_speed_up", 41)


def test_columns_and_levels_of_the_tokens_follow_the_ids():
    assert OTHER.token_family == (-1, 0, -1, 0, 1, 0, -1)
    assert OTHER.token_level == (0, 7, 0, 2, 10, 40, 0)
    assert (OTHER.pad_id, OTHER.null_id, OTHER.mask_id, PUBLISHED.mask_id) == (0, 2, 6, None)


def test_a_main_only_ability_has_one_rung_and_a_slot():
    assert PUBLISHED.is_main_only("comeback")
    assert PUBLISHED.rungs("comeback") == (10,)
    assert PUBLISHED.slot("comeback") == "head"
    assert not PUBLISHED.is_main_only("swim_speed_up")
    assert PUBLISHED.slot("swim_speed_up") is None


@pytest.mark.parametrize(
    ("got", "near"),
    [("swim_speed", "swim_speed_up"), ("special_charge_up_29", "special_charge_up"), ("combeack", "comeback")],
)
def test_an_unknown_family_is_answered_with_the_nearest_one(got, near):
    with pytest.raises(UnknownNameError, match=f"unknown family '{got}': did you mean '{near}'") as caught:
        PUBLISHED.check_family(got)
    assert caught.value.suggestion == near
    assert all(family in str(caught.value) for family in PUBLISHED.families)


def test_a_unit_is_a_family_with_its_ap_or_a_main_only_ability():
    assert PUBLISHED.parse_unit("special_charge_up_41") == ("special_charge_up", 38)
    assert PUBLISHED.parse_unit("comeback") == ("comeback", 10)


def test_a_stackable_unit_without_ap_is_refused_with_an_example():
    with pytest.raises(RequestError, match="'special_charge_up' needs its AP, such as special_charge_up_3"):
        PUBLISHED.parse_unit("special_charge_up")


def test_a_misspelt_unit_is_answered_with_the_nearest_family():
    with pytest.raises(UnknownNameError, match="did you mean 'comeback'"):
        PUBLISHED.parse_unit("come_back")


@pytest.mark.parametrize("mapping", [{"a": 0, "<NULL>": 2, "<PAD>": 3}, {"<NULL>": 0, "<PAD>": 0}, {"<NULL>": 1}])
def test_ids_with_holes_or_doubles_are_no_vocabulary(mapping):
    with pytest.raises(BundleError, match=f"must number its {len(mapping)} tokens 0"):
        Vocabulary.from_mapping(mapping)


@pytest.mark.parametrize("missing", ["<NULL>", "<PAD>"])
def test_a_vocabulary_without_a_special_token_is_refused(missing):
    tokens = tuple(token for token in ("comeback", "<NULL>", "<PAD>") if token != missing)
    with pytest.raises(BundleError, match=f"no {missing} token"):
        Vocabulary(tokens)


@given(st.permutations(PUBLISHED.tokens))
def test_the_order_of_the_ids_is_not_relied_on(tokens):
    shuffled = Vocabulary.from_mapping({token: index for index, token in enumerate(tokens)})
    assert shuffled.families == PUBLISHED.families
    assert shuffled.rungs("quick_respawn") == STANDARD_RUNGS
    assert [tokens[index] for index in shuffled.encode("quick_respawn", 12)] == [
        "quick_respawn_3", "quick_respawn_6", "quick_respawn_12",
    ]  # fmt: skip


@pytest.mark.parametrize("given_as", [40, "40", "weapon_id_40", "Splattershot", "  sPLATTERSHOT "])
def test_a_weapon_is_found_by_kit_id_token_or_name_in_any_case(given_as):
    assert WEAPONS.resolve(given_as) == 1


def test_a_kit_outside_the_table_is_named_by_its_token():
    assert WEAPONS.facts[3].name == "weapon_id_98765"
    assert WEAPONS.resolve("weapon_id_98765") == WEAPONS.resolve(98765) == 3


@pytest.mark.parametrize("got", ["Splatershot", "splattershott"])
def test_a_misspelt_weapon_is_answered_with_the_nearest(got):
    with pytest.raises(UnknownNameError, match=f"unknown weapon '{got}': did you mean 'Splattershot'"):
        WEAPONS.resolve(got)


@pytest.mark.parametrize("got", [41, "41", "weapon_id_41", -1, "²", "", "../40"])
def test_a_weapon_the_bundle_does_not_have_is_an_error_that_says_how_to_name_one(got):
    with pytest.raises(UnknownNameError, match="weapon_id_NNNN token"):
        WEAPONS.resolve(got)


def test_weapon_tokens_of_another_form_are_refused():
    with pytest.raises(BundleError, match=r"weapon_id_NNNN; got \['Splattershot'\]"):
        WeaponVocabulary(("weapon_id_40", "Splattershot"))


def test_an_abbreviation_of_the_community_is_answered_with_the_family():
    with pytest.raises(UnknownNameError, match="unknown family 'SCU': did you mean 'special_charge_up'"):
        PUBLISHED.check_family("SCU")


def test_leading_zeros_of_a_weapon_token_do_not_matter():
    assert WEAPONS.resolve("weapon_id_0040") == WEAPONS.resolve("weapon_id_40") == 1
