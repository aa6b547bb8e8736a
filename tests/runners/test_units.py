"""Units, and the binary columns of what examples hold, against the sets themselves."""

from __future__ import annotations

import numpy as np
import pytest
from mechinterp_runner.context.token_sets import levels_of
from mechinterp_runner.runners.design.unit_columns import UnitColumns, held_levels, unit_columns, weapon_design
from mechinterp_runner.runners.design.units import (
    DEFAULT_RUNG,
    Unit,
    all_units,
    exclusive,
    parse_unit,
    parse_units,
    resolution_warnings,
    rivals_of,
    unit_at,
    with_units,
    without_units,
)
from mechinterp_runner.runners.stats.held import dense
from mechinterp_runner.schemas.errors import RequestError, UnknownNameError
from mechinterp_runner.schemas.facts import MAIN_ONLY, SLOTS, STACKABLE, STANDARD_RUNGS
from mechinterp_runner.schemas.spec import DatasetSlice

ROWS = np.arange(400)


def tokens_of(world, rows):
    """The tokens of each row as names, read off the stored sets."""
    data, names = world.data, world.vocabulary.tokens
    return [{names[token] for token in data.tokens[data.indptr[row] : data.indptr[row + 1]]} for row in rows]


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("swim_speed_up_21", Unit("swim_speed_up", 21)),
        ("swim_speed_up_41", Unit("swim_speed_up", 38)),
        ("swim_speed_up", Unit("swim_speed_up", 12)),
        ("comeback", Unit("comeback", 10)),
        ("comeback_10", Unit("comeback", 10)),
    ],
)
def test_a_unit_is_read_from_a_token_a_family_or_a_main_only_ability(world, text, unit):
    assert parse_unit(text, world) == unit


def test_a_family_without_its_ap_takes_the_rung_given(world):
    assert parse_unit("swim_speed_up", world, rung=30) == Unit("swim_speed_up", 29)
    assert parse_unit("comeback", world, rung=3) == Unit("comeback", 10)


def test_a_rung_below_the_lowest_is_the_lowest(world):
    assert unit_at("swim_speed_up", 1, world) == Unit("swim_speed_up", 3)


@pytest.mark.parametrize("text", ["swim_sped_up", "swim_sped_up_12", "comebak_10", "<NULL>", ""])
def test_an_unknown_unit_is_an_error(world, text):
    with pytest.raises(UnknownNameError):
        parse_unit(text, world)


@pytest.mark.parametrize("text", ["swim_speed_up_2", "swim_speed_up_58"])
def test_ap_out_of_range_is_an_error(world, text):
    with pytest.raises(RequestError, match="out of range"):
        parse_unit(text, world)


@pytest.mark.parametrize("text", ["swim_speed_up_0", "comeback_0"])
def test_zero_ap_is_no_unit(world, text):
    with pytest.raises(RequestError, match=r"at 0 AP: its absence.*Nothing was run\."):
        parse_unit(text, world)


def test_only_ap_that_is_no_rung_is_warned_about(world):
    texts = ["swim_speed_up_41", "swim_speed_up_38", "swim_speed_up", "comeback", "comeback_10", "weapon_id_41"]
    found = resolution_warnings(texts, world)
    assert found == ("swim_speed_up_41: rung 41 is no rung of the vocabulary: 38 is used, as the tokenizer does",)


def test_a_set_loses_a_rival_where_it_holds_another_ability_of_the_units_gear_slot(world):
    found = rivals_of(world.sets(ROWS), [Unit("comeback", 10), Unit("swim_speed_up", 12)], world)
    slot = world.vocabulary.slot("comeback")
    rivals = {each for each in MAIN_ONLY if each != "comeback" and world.vocabulary.slot(each) == slot}
    assert found.tolist() == [bool(tokens & rivals) for tokens in tokens_of(world, ROWS)]
    assert found.any()


def test_units_given_twice_in_any_spelling_are_an_error_that_names_them(world):
    with pytest.raises(RequestError, match=r"swim_speed_up, swim_speed_up_12.*Nothing was run"):
        parse_units(["swim_speed_up", "comeback", "swim_speed_up_12"], world)


def test_one_family_at_two_levels_is_two_units(world):
    assert len(parse_units(["swim_speed_up_3", "swim_speed_up_12"], world)) == 2


def test_all_units_are_every_family_once_at_the_default_rung(world):
    found = all_units(world)
    assert {unit.family for unit in found} == {*STACKABLE, *MAIN_ONLY}
    assert len(found) == len(STACKABLE) + len(MAIN_ONLY)
    assert {unit.level for unit in found if unit.family in STACKABLE} == {DEFAULT_RUNG}
    assert {unit.level for unit in found if unit.family in MAIN_ONLY} == {10}


def test_labels_are_the_tokens_and_are_read_back_as_the_same_unit(world):
    for unit in all_units(world, rung=29):
        assert unit.label(world) in world.vocabulary.token_id
        assert parse_unit(unit.label(world), world) == unit


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("swim_speed_up_3", "swim_speed_up_12", True),
        ("swim_speed_up_3", "run_speed_up_3", False),
        ("comeback", "tenacity", True),
        ("comeback", "stealth_jump", False),
        ("comeback", "swim_speed_up_3", False),
    ],
)
def test_two_units_exclude_each_other_within_a_family_or_a_gear_slot(world, first, second, expected):
    units = parse_units([first, second], world)
    assert exclusive(*units, world) is expected
    assert exclusive(*reversed(units), world) is expected


def test_without_a_unit_its_family_is_gone_at_every_level_and_nothing_else_changes(world):
    before = world.sets(ROWS)
    after = without_units(before, [Unit("swim_speed_up", 12)], world)
    own = [world.vocabulary.token_id[f"swim_speed_up_{rung}"] for rung in STANDARD_RUNGS]
    others = np.setdiff1d(np.arange(len(world.vocabulary)), own)
    assert before.present[:, own].any()
    assert not after.present[:, own].any()
    assert (after.present[:, others] == before.present[:, others]).all()
    assert (after.weapon == before.weapon).all()


def test_without_a_main_only_ability_its_whole_gear_slot_is_empty(world):
    before = world.sets(ROWS)
    after = without_units(before, [Unit("comeback", 10)], world)
    for family in MAIN_ONLY:
        token = world.vocabulary.token_id[family]
        same_slot = world.vocabulary.slot(family) == world.vocabulary.slot("comeback")
        assert after.present[:, token].any() == (before.present[:, token].any() and not same_slot)
    assert "comeback" in MAIN_ONLY
    assert world.vocabulary.slot("comeback") in SLOTS


def test_a_unit_is_written_as_the_tokenizer_does_in_place_of_its_family(world):
    sets = with_units(world.sets(ROWS), [Unit("swim_speed_up", 12), Unit("comeback", 10)], world)
    levels = levels_of(sets.present, world.vocabulary)
    assert (levels[:, world.vocabulary.family_index["swim_speed_up"]] == 12).all()
    assert (levels[:, world.vocabulary.family_index["comeback"]] == 10).all()
    for rung in STANDARD_RUNGS:
        assert (sets.present[:, world.vocabulary.token_id[f"swim_speed_up_{rung}"]] == (rung <= 12)).all()


def test_a_unit_written_into_sets_without_it_makes_no_impossible_gear(world):
    unit = Unit("tenacity", 10)
    sets = with_units(without_units(world.sets(ROWS), [unit], world), [unit], world)
    held = levels_of(sets.present, world.vocabulary) > 0
    for slot in SLOTS:
        own = [world.vocabulary.family_index[f] for f in MAIN_ONLY if world.vocabulary.slot(f) == slot]
        assert held[:, own].sum(axis=1).max() <= 1


def test_editing_leaves_the_sets_it_was_given_alone(world):
    sets = world.sets(ROWS)
    before = sets.present.copy()
    with_units(without_units(sets, all_units(world), world), all_units(world), world)
    assert (sets.present == before).all()


def test_columns_of_tokens_are_the_stored_sets(world):
    columns = unit_columns(world, ROWS, "tokens")
    dense = columns.matrix.toarray()
    for row, tokens in enumerate(tokens_of(world, ROWS)):
        assert {label for label, value in zip(columns.labels, dense[row], strict=True) if value} == tokens


def test_columns_of_families_say_whether_any_token_of_the_family_is_there(world):
    columns = unit_columns(world, ROWS, "families")
    assert columns.labels == columns.family == world.vocabulary.families
    dense = columns.matrix.toarray()
    for row, tokens in enumerate(tokens_of(world, ROWS)):
        families = {token if token in MAIN_ONLY else token.rpartition("_")[0] for token in tokens}
        assert {label for label, value in zip(columns.labels, dense[row], strict=True) if value} == families


def test_columns_of_levels_hold_the_highest_rung_of_each_family_alone(world):
    columns = unit_columns(world, ROWS, "levels")
    dense = columns.matrix.toarray()
    for row, tokens in enumerate(tokens_of(world, ROWS)):
        highest: dict[str, int] = {}
        for token in tokens:
            family, rung = (token, 10) if token in MAIN_ONLY else (token.rpartition("_")[0], int(token.rsplit("_")[-1]))
            highest[family] = max(highest.get(family, 0), rung)
        wanted = {family if family in MAIN_ONLY else f"{family}_{rung}" for family, rung in highest.items()}
        assert {label for label, value in zip(columns.labels, dense[row], strict=True) if value} == wanted


@pytest.mark.parametrize("kind", ["families", "levels", "tokens"])
def test_columns_are_zeros_and_ones_with_matching_names_and_counts(world, kind):
    columns = unit_columns(world, ROWS, kind)
    dense = columns.matrix.toarray()
    assert dense.shape == (len(ROWS), len(columns.labels))
    assert set(np.unique(dense)) <= {0.0, 1.0}
    assert len(set(columns.labels)) == len(columns.labels) == len(columns.family) == len(columns.level)
    assert (columns.counts() == dense.sum(axis=0)).all()
    if kind != "families":
        for label, family, level in zip(columns.labels, columns.family, columns.level, strict=True):
            assert world.vocabulary.parse_unit(label) == (family, level)


def test_chosen_columns_keep_their_names_in_the_order_chosen(world):
    columns = unit_columns(world, ROWS, "levels")
    order = np.array([7, 2, 90])
    taken = columns.take(order)
    assert taken.labels == tuple(columns.labels[i] for i in order)
    assert taken.family == tuple(columns.family[i] for i in order)
    assert taken.level == tuple(columns.level[i] for i in order)
    assert (taken.matrix.toarray() == columns.matrix.toarray()[:, order]).all()


def test_rows_may_be_any_and_in_any_order(world):
    rows = np.array([31, 4, 4, 1500])
    for kind in ("families", "levels", "tokens"):
        every = unit_columns(world, np.arange(len(world.data)), kind).matrix.toarray()
        assert (unit_columns(world, rows, kind).matrix.toarray() == every[rows]).all()


def test_no_rows_give_no_rows(world):
    for kind in ("families", "levels", "tokens"):
        assert unit_columns(world, np.array([], dtype=np.intp), kind).matrix.shape[0] == 0


@pytest.mark.parametrize("kind", ["families", "levels"])
def test_columns_read_when_asked_are_those_of_the_matrix(world, kind):
    rows = np.array([5, 900, 31, 31, 2000])
    for columns in (unit_columns(world, rows, kind), unit_columns(world, rows, kind).take(np.array([3, 1, 2]))):
        wanted = columns.matrix.toarray()
        for at in (np.arange(len(rows)), np.array([4, 0, 4])):
            assert (dense(columns.held[at]) == wanted[at]).all()
            assert (columns.among(at).matrix.toarray() == wanted[at]).all()
        assert columns.held.shape == wanted.shape


def test_columns_may_have_bounds_and_overlap(world):
    family, rows = "swim_speed_up", np.arange(0, 3000, 7)
    levels = np.asarray(world.data.levels)[rows, world.vocabulary.family_index[family]]
    held = held_levels(world, rows, [family] * 3, [0, 12, 3], [0, 0, 9])
    wanted = np.stack([levels > 0, levels >= 12, (levels >= 3) & (levels <= 9)], axis=1)
    assert wanted.any(axis=0).all()
    assert (held[np.arange(len(rows))] == wanted).all()
    assert (held.matrix().toarray() == wanted).all()


def test_columns_of_other_bounds_are_other_columns_under_any_name(world):
    exact = unit_columns(world, ROWS, "levels").take(np.array([3]))
    at_least = UnitColumns(
        exact.labels, exact.family, exact.level, held_levels(world, ROWS, exact.family, exact.level, [0])
    )
    assert exact.key != at_least.key
    assert exact.key == unit_columns(world, ROWS, "levels").take(np.array([3])).key
    population = world.population(DatasetSlice(), 0)
    found = [weapon_design(world, population, unit_columns(world, population.rows, "levels").take(np.array([3])))]
    held = held_levels(world, population.rows, exact.family, exact.level, [0])
    found.append(weapon_design(world, population, UnitColumns(exact.labels, exact.family, exact.level, held)))
    assert found[0].n_present[0] < found[1].n_present[0]
