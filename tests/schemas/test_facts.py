"""The game's own facts, against what is known of it independently."""

import csv
from pathlib import Path

import pytest
from mechinterp_runner.schemas.facts import (
    ABILITIES,
    MAIN_ONLY,
    MAX_AP,
    REACHABLE_AP,
    STACKABLE,
    WEAPON_CLASSES,
    WEAPONS,
    mains_and_subs,
    weapon_for,
)

SHARED = Path(__file__).parents[2] / ".." / "shared" / "facts"
needs_facts = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the facts are not at {SHARED}")
SLOTS = {
    "head": {"comeback", "last_ditch_effort", "opening_gambit", "tenacity"},
    "clothes": {"ability_doubler", "haunt", "ninja_squid", "respawn_punisher", "thermal_ink"},
    "shoes": {"drop_roller", "object_shredder", "stealth_jump"},
}
UNREACHABLE = {1, 2, 4, 5, 7, 8, 11, 14, 17, 40, 43, 46, 49, 50, 52, 53, 55, 56}


def test_there_are_14_stackable_and_12_main_only_abilities():
    assert (len(ABILITIES), len(STACKABLE), len(MAIN_ONLY)) == (26, 14, 12)


@pytest.mark.parametrize("slot", SLOTS)
def test_main_only_abilities_belong_to_the_slot_of_their_gear(slot):
    assert {family for family, ability in ABILITIES.items() if ability.slot == slot} == SLOTS[slot]


def test_names_and_short_codes_of_abilities_are_unique():
    assert len({ability.name for ability in ABILITIES.values()}) == 26
    assert len({ability.short for ability in ABILITIES.values()}) == 26
    assert all(family == ability.family for family, ability in ABILITIES.items())


def test_there_are_173_kits_with_a_sub_and_a_special_each():
    assert len(WEAPONS) == 173
    assert len({kit.name for kit in WEAPONS.values()}) == 173
    assert all(kit.name and kit.sub and kit.special and kit.known for kit in WEAPONS.values())


def test_kits_are_of_the_games_eleven_classes():
    assert set(WEAPON_CLASSES) == {
        "blaster", "brella", "brush", "charger", "dualies", "roller", "shooter", "slosher", "splatana", "splatling",
        "stringer",
    }  # fmt: skip


def test_kits_of_one_main_weapon_share_class_and_reference():
    for kit in WEAPONS.values():
        main = WEAPONS[kit.main_id]
        assert main.main_id == main.weapon_id
        assert main.weapon_class == kit.weapon_class


def test_the_splattershot_is_what_the_game_says_it_is():
    kit = WEAPONS[40]
    assert (kit.name, kit.weapon_class, kit.sub, kit.special) == (
        "Splattershot", "shooter", "Suction Bomb", "Trizooka",
    )  # fmt: skip
    assert weapon_for(40) is kit


def test_a_kit_outside_the_table_is_unknown_and_its_own_main_weapon():
    kit = weapon_for(123456)
    assert (kit.name, kit.weapon_class, kit.sub, kit.special, kit.main_id) == (
        "weapon_id_123456", "unknown", None, None, 123456,
    )  # fmt: skip
    assert not kit.known


def test_a_complete_build_has_57_ap():
    assert MAX_AP == 57
    assert mains_and_subs(57) == (3, 9)


def test_the_ap_totals_that_no_gear_gives_are_the_known_ones():
    assert set(range(1, 58)) - set(REACHABLE_AP) == UNREACHABLE
    assert all(mains_and_subs(ap) is None for ap in (*UNREACHABLE, -3, 58, 60, 67))


def test_ap_splits_into_mains_and_subs_in_exactly_one_way():
    splits = {}
    for mains in range(4):
        for subs in range(10):
            splits.setdefault(10 * mains + 3 * subs, []).append((mains, subs))
    assert all(len(ways) == 1 for ways in splits.values())
    assert {ap: mains_and_subs(ap) for ap in splits} == {ap: ways[0] for ap, ways in splits.items()}
    assert sorted(splits) == [0, *REACHABLE_AP]


@needs_facts
def test_kits_agree_with_the_recorded_facts():
    with (SHARED / "weapons.csv").open(encoding="utf-8") as stream:
        rows = {int(row["weapon_id"]): row for row in csv.DictReader(stream)}
    assert set(rows) == set(WEAPONS)
    for weapon_id, row in rows.items():
        kit = WEAPONS[weapon_id]
        assert (kit.name, kit.weapon_class, kit.sub, kit.special, kit.main_id) == (
            row["name"], row["weapon_class"], row["sub"], row["special"], int(row["reference_kit_id"]),
        )  # fmt: skip
        assert bool(kit.replica_of) == bool(row["replica"])


@needs_facts
def test_abilities_agree_with_the_recorded_facts():
    with (SHARED / "abilities.csv").open(encoding="utf-8") as stream:
        rows = {row["token"]: (row["name"], row["short_code"], row["gear_slot"]) for row in csv.DictReader(stream)}
    assert rows == {family: (a.name, a.short, a.slot or "any") for family, a in ABILITIES.items()}
