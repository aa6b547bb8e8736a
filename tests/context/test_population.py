"""Slices leave the examples they say, in the order in which their fields act."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from mechinterp_runner.context.population import draw_contexts, select
from mechinterp_runner.schemas.errors import EmptySliceError, UnknownNameError
from mechinterp_runner.schemas.spec import DatasetSlice
from mechinterp_runner.schemas.vocabulary import Vocabulary, WeaponVocabulary

TOKENS = ["swim_speed_up_3", "swim_speed_up_12", "run_speed_up_3", "comeback", "<NULL>", "<PAD>"]
VOCABULARY = Vocabulary.from_mapping({token: index for index, token in enumerate(TOKENS)})
WEAPONS = WeaponVocabulary.from_mapping({"weapon_id_40": 0, "weapon_id_41": 1, "weapon_id_50": 2})
N = 200
RNG = np.random.default_rng(0)


class Rows(SimpleNamespace):
    def __len__(self) -> int:
        return len(self.weapon)


EXAMPLES = Rows(
    weapon=RNG.integers(0, 3, N).astype(np.int32),
    levels=np.stack([RNG.choice([0, 3], N), RNG.choice([0, 3, 12], N), RNG.choice([0, 10], N)], axis=1).astype(
        np.uint8
    ),
)
ACTIVATION = np.where(RNG.random(N) < 0.5, 0, np.round(RNG.random(N) * 4, 1)).astype(np.float32)


def chosen(activation=ACTIVATION, **fields):
    return select(DatasetSlice(**fields), EXAMPLES, activation, VOCABULARY, WEAPONS)


def test_the_default_slice_is_everything_inactive_included():
    population = chosen()
    assert population.rows.tolist() == list(range(N))
    assert population.description == "all examples"
    assert np.array_equal(population.activation, ACTIVATION)


@pytest.mark.parametrize("weapon", [40, "40", "weapon_id_40", "Splattershot", "splattershot"])
def test_weapons_are_given_by_id_token_or_name(weapon):
    assert chosen(weapon_filter=[weapon]).rows.tolist() == np.flatnonzero(EXAMPLES.weapon == 0).tolist()
    assert chosen(weapon_exclude=[weapon]).rows.tolist() == np.flatnonzero(EXAMPLES.weapon != 0).tolist()


def test_family_filter_keeps_examples_that_hold_all_and_exclude_those_that_hold_none():
    families = ["swim_speed_up", "comeback"]
    run, swim, comeback = EXAMPLES.levels.T
    assert VOCABULARY.families == ("run_speed_up", "swim_speed_up", "comeback")
    assert chosen(family_filter=families).rows.tolist() == np.flatnonzero((swim > 0) & (comeback > 0)).tolist()
    assert chosen(family_exclude=families).rows.tolist() == np.flatnonzero((swim == 0) & (comeback == 0)).tolist()
    assert run.any()


def test_the_threshold_keeps_what_lies_above_it():
    assert chosen(activation_threshold=2.0).rows.tolist() == np.flatnonzero(ACTIVATION > 2.0).tolist()
    assert chosen(activation_threshold=0).rows.tolist() == np.flatnonzero(ACTIVATION > 0).tolist()


@settings(max_examples=60, deadline=None)
@given(low=st.floats(0, 60), width=st.floats(5, 40))
def test_percentiles_are_midranks_among_the_active(low, width):
    active = np.flatnonzero(ACTIVATION > 0)
    midrank = (scipy.stats.rankdata(ACTIVATION[active]) - 0.5) / len(active) * 100
    expected = active[(midrank >= low) & (midrank <= low + width)]
    if not len(expected):
        with pytest.raises(EmptySliceError):
            chosen(percentile_min=low, percentile_max=low + width)
        return
    assert chosen(percentile_min=low, percentile_max=low + width).rows.tolist() == expected.tolist()


def test_percentiles_never_split_equal_activations():
    tied = np.where(np.arange(N) < 100, 1.0, 0.0).astype(np.float32)
    assert len(chosen(tied, percentile_min=40, percentile_max=60)) == 100
    with pytest.raises(EmptySliceError, match="percentile"):
        chosen(tied, percentile_min=60)


def test_percentiles_rank_what_the_other_filters_left():
    mask = (EXAMPLES.weapon == 1) & (ACTIVATION > 0)
    expected = np.flatnonzero(mask)[scipy.stats.rankdata(ACTIVATION[mask]) - 0.5 >= 0.5 * mask.sum()]
    assert chosen(weapon_filter=[41], percentile_min=50).rows.tolist() == expected.tolist()


def test_a_slice_on_the_outcome_says_so():
    assert "selected on the outcome" in chosen(percentile_max=90).description
    assert "selected on the outcome" in chosen(activation_threshold=1).description
    assert "selected" not in chosen(weapon_filter=[40]).description


def test_a_sample_is_drawn_without_replacement_and_repeats_with_its_seed():
    first, again = chosen(sample_size=50), chosen(sample_size=50)
    other = chosen(sample_size=50, random_seed=1)
    assert len(set(first.rows.tolist())) == 50
    assert first.rows.tolist() == again.rows.tolist() != other.rows.tolist()
    assert first.size == N


def test_a_sample_larger_than_the_slice_takes_all_and_warns():
    population = chosen(sample_size=N + 1)
    assert len(population) == N
    assert "more than the slice has" in population.warnings[0]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"activation_threshold": 6.0}, "activation_threshold"),
        ({"weapon_filter": [40], "weapon_exclude": [40]}, "weapon_exclude"),
        ({"family_filter": ["comeback"], "family_exclude": ["comeback"]}, "family_exclude"),
    ],
)
def test_an_empty_slice_names_the_filter_that_emptied_it(fields, named):
    with pytest.raises(EmptySliceError, match=named):
        chosen(**fields)


def test_unknown_names_are_errors_with_the_nearest():
    with pytest.raises(UnknownNameError, match="Splattershot"):
        chosen(weapon_filter=["Splatershot"])
    with pytest.raises(UnknownNameError, match="swim_speed_up"):
        chosen(family_filter=["swim_sped_up"])


def test_a_dead_feature_is_dead_and_not_an_empty_slice():
    population = chosen(np.zeros(N, np.float32), percentile_min=50, activation_threshold=1.0)
    assert population.dead
    assert len(population) == N


def test_contexts_are_the_sample_of_the_slice_or_a_draw_of_the_default_size():
    assert len(draw_contexts(chosen(), 0, 30)) == 30
    assert len(draw_contexts(chosen(sample_size=50), 0, 30)) == 50
    assert len(draw_contexts(chosen(), 0, 1000)) == N
    assert draw_contexts(chosen(), 0, 30).tolist() != draw_contexts(chosen(), 1, 30).tolist()


def test_the_key_of_a_population_names_its_rows_whatever_the_feature():
    parts = [
        {},
        {"random_seed": 5},
        {"family_filter": ("swim_speed_up",)},
        {"sample_size": 50, "random_seed": 0},
        {"sample_size": 50, "random_seed": 1},
    ]
    other = np.roll(ACTIVATION, 7)
    populations = [chosen(activation, **part) for activation in (ACTIVATION, other) for part in parts]
    for first, second in itertools.combinations(populations, 2):
        assert (first.key == second.key) == np.array_equal(first.rows, second.rows)
    assert len({population.key for population in populations}) == 4


def test_rows_that_the_feature_chose_have_no_key():
    assert chosen(activation_threshold=0.5).key is None
    assert chosen(percentile_min=50).key is None
