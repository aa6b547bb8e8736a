"""Examples: sets, token matrices and clusters agree with plain loops over the stored rows."""

import numpy as np
import pytest
from mechinterp_runner.context.bundle import Bundle
from mechinterp_runner.context.context import Context
from mechinterp_runner.context.examples import Examples, all_rows, open_examples
from mechinterp_runner.context.token_sets import levels_of
from mechinterp_runner.schemas.vocabulary import Vocabulary


@pytest.fixture
def opened(small_bundle) -> Examples:
    bundle = Bundle.open(small_bundle)
    examples = open_examples(bundle, bundle.vocabulary(), len(bundle.weapon_vocabulary()))
    assert examples is not None
    return examples


@pytest.fixture
def naive(small_contents):
    """(weapon, set of real token ids) of every row."""
    special = {small_contents.vocabulary["<NULL>"], small_contents.vocabulary["<PAD>"]}
    bounds = small_contents.indptr.tolist()
    return [
        (weapon, frozenset(small_contents.tokens[start:stop].tolist()) - special)
        for weapon, start, stop in zip(small_contents.weapon.tolist(), bounds[:-1], bounds[1:], strict=True)
    ]


ROWS = {
    "all": np.arange(304),
    "none": np.arange(0),
    "one": np.array([7]),
    "backwards": np.arange(303, -1, -3),
    "repeated": np.array([9, 9, 2, 9]),
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_sets_are_the_stored_tokens_without_the_special_ones(opened, naive, rows):
    sets = opened.sets(rows)
    found = [
        (weapon, frozenset(np.flatnonzero(present).tolist()))
        for weapon, present in zip(sets.weapon.tolist(), sets.present, strict=True)
    ]
    assert found == [naive[row] for row in rows.tolist()]


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_the_token_matrix_is_one_where_a_row_holds_the_token(opened, naive, rows):
    expected = np.zeros((len(rows), 20))
    for place, row in enumerate(rows.tolist()):
        expected[place, sorted(naive[row][1])] = 1
    matrix = opened.token_matrix(rows)
    assert matrix.shape == expected.shape
    assert np.array_equal(matrix.toarray(), expected)
    assert matrix.nnz == expected.sum()


def test_a_row_of_the_null_token_alone_is_an_empty_set(opened):
    assert not opened.sets(np.arange(4)).present.any()
    assert not opened.levels[:4].any()


def test_stored_sets_have_gaps_and_levels_are_their_highest_rungs(opened, naive, small_contents):
    names = {index: token for token, index in small_contents.vocabulary.items()}
    gaps = 0
    for _, tokens in naive:
        held = {names[index] for index in tokens}
        gaps += "swim_speed_up_57" in held and "swim_speed_up_3" not in held
    assert gaps > 5
    assert np.array_equal(levels_of(opened.sets(np.arange(len(opened))).present, opened.vocabulary), opened.levels)


def partition(labels) -> set[frozenset[int]]:
    groups = {}
    for row, label in enumerate(labels):
        groups.setdefault(label, set()).add(row)
    return {frozenset(group) for group in groups.values()}


def test_clusters_are_the_builds_where_builds_are_known(opened, small_contents):
    assert partition(opened.clusters.tolist()) == partition(small_contents.build_id.tolist())
    assert set(opened.clusters.tolist()) == set(range(104))


def test_clusters_are_the_distinct_sets_where_builds_are_unknown(write_variant, naive):
    context = Context("variant", Bundle.open(write_variant(build_id=None)))
    assert context.data.build_id is None
    assert partition(context.data.clusters.tolist()) == partition(naive)
    assert len(partition(naive)) < len(naive)


def test_clusters_do_not_depend_on_the_blocks_they_are_made_in(write_variant, monkeypatch):
    folder = write_variant(build_id=None)
    whole = Context("variant", Bundle.open(folder)).data.clusters
    monkeypatch.setattr("mechinterp_runner.context.examples._BLOCK", 17)
    assert np.array_equal(Context("variant", Bundle.open(folder)).data.clusters, whole)


def test_a_bundle_without_examples_has_none(write_variant, without_examples):
    bundle = Bundle.open(write_variant(**without_examples))
    assert open_examples(bundle, bundle.vocabulary(), 4) is None


def test_examples_without_any_token_can_be_read(write_variant):
    bundle = Bundle.open(
        write_variant(
            weapon=np.zeros(2, np.int32), indptr=np.zeros(3, np.int64), tokens=np.zeros(0, np.int16),
            levels=np.zeros((2, 6), np.uint8), build_id=None,
        )
    )  # fmt: skip
    examples = open_examples(bundle, bundle.vocabulary(), 4)
    assert examples is not None
    assert not examples.sets(np.arange(2)).present.any()
    assert examples.clusters.tolist() == [0, 0]


def plain_examples(build_id, weapon) -> Examples:
    n = len(weapon)
    return Examples(
        weapon=np.array(weapon, dtype=np.int32),
        indptr=np.arange(n + 1, dtype=np.int64),
        tokens=np.zeros(n, dtype=np.int16),
        levels=np.zeros((n, 1), dtype=np.uint8),
        build_id=np.array(build_id, dtype=np.int32),
        vocabulary=Vocabulary.from_mapping({"comeback": 0, "<NULL>": 1, "<PAD>": 2}),
    )


@pytest.mark.parametrize(
    ("build_id", "weapon", "expected"),
    [
        ([0, 2, 1, 2], [5, 6, 5, 6], [0, 2, 1, 2]),
        ([7, 3, 7, 12], [5, 6, 5, 6], [1, 0, 1, 2]),
        ([-4, 2_000_000_000, -4, 8], [0, 0, 0, 0], [0, 2, 0, 1]),
        ([0, 0, 1, 1], [5, 6, 5, 5], [0, 1, 2, 2]),
    ],
    ids=["ranks already", "gaps", "far apart", "a build number on two weapons"],
)
def test_clusters_are_numbered_without_gaps_whatever_the_build_numbers(build_id, weapon, expected):
    examples = plain_examples(build_id, weapon)
    assert examples.clusters.tolist() == expected
    assert examples.clusters.dtype == np.int32


def test_all_rows_are_made_once_and_cannot_be_written_to():
    assert all_rows(1000) is all_rows(1000)
    assert np.array_equal(all_rows(1000), np.arange(1000))
    with pytest.raises(ValueError, match="read-only"):
        all_rows(1000)[0] = 1
