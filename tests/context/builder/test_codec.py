"""Tables agree with the vocabulary's own encoding."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from mechinterp_runner.context.builder.codec import Codec
from mechinterp_runner.context.builder.generate import COLUMNS
from mechinterp_runner.context.token_sets import TokenSets, from_csr, levels_of


def test_columns_of_builds_are_the_vocabulary_s_families(codec: Codec) -> None:
    assert codec.vocabulary.families == COLUMNS


def test_tokenize_is_the_thermometer_of_the_resolved_level(codec: Codec) -> None:
    vocabulary = codec.vocabulary
    ap = np.zeros((58, 26), dtype=np.uint8)
    column = vocabulary.family_index["swim_speed_up"]
    ap[:, column] = np.arange(58)
    present = codec.tokenize(ap)
    for value in range(3, 58):
        wanted = vocabulary.encode("swim_speed_up", vocabulary.resolve("swim_speed_up", value))
        assert np.flatnonzero(present[value]).tolist() == sorted(wanted)
    assert not present[:3].any()


@given(level=st.integers(0, 9), single=st.booleans(), data=st.data())
def test_write_agrees_with_the_editing_of_token_sets(
    codec: Codec, level: int, single: bool, data: st.DataObject
) -> None:
    family = data.draw(st.sampled_from(codec.vocabulary.families))
    column = codec.vocabulary.family_index[family]
    level = min(level, int(codec.top[column]))
    present = np.random.default_rng(level).random((4, len(codec.vocabulary))) < 0.2
    sets = TokenSets(np.zeros(4, dtype=np.int32), present.copy())
    encoding = "single" if single else "thermometer"
    wanted = sets.with_level(family, int(codec.rungs[column, level]), codec.vocabulary, encoding=encoding)
    codec.write(present, np.full(4, column), np.full(4, level), np.full(4, single))
    assert np.array_equal(present, wanted.present)


def test_padded_rows_hold_the_tokens_and_null_for_an_empty_set(codec: Codec) -> None:
    present = np.zeros((3, len(codec.vocabulary)), dtype=bool)
    ids = codec.vocabulary.encode("quick_respawn", 12)
    present[1, list(ids)] = True
    tokens = codec.pad(present)
    assert tokens.shape == (3, 3)
    assert sorted(tokens[1]) == sorted(ids)
    assert tokens[0].tolist() == [codec.vocabulary.null_id, codec.vocabulary.pad_id, codec.vocabulary.pad_id]
    assert codec.pad(present[:1]).tolist() == [[codec.vocabulary.null_id]]


def test_csr_round_trip(codec: Codec, builds: TokenSets) -> None:
    indptr, tokens = codec.to_csr(builds.present)
    again = from_csr(builds.weapon, indptr, tokens, codec.vocabulary)
    assert np.array_equal(again.present, builds.present)
    assert levels_of(again.present, codec.vocabulary).max() <= 57
    empty_indptr, empty_tokens = codec.to_csr(np.zeros((2, len(codec.vocabulary)), dtype=bool))
    assert empty_indptr.tolist() == [0, 1, 2]
    assert set(empty_tokens.tolist()) == {codec.vocabulary.null_id}
