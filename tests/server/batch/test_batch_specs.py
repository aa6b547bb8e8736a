"""The specs of a batch: lists of features, files, and what is wrong with them."""

from __future__ import annotations

import json

import pytest
from mechinterp_runner.schemas.errors import RequestError
from mechinterp_runner.schemas.spec import parse_spec
from mechinterp_runner.server.batch.specs import Reader, each_checked, for_features, lines_of, parse_features

GOOD = {"type": "feature_overview", "feature_id": 3}


@pytest.mark.parametrize(
    ("text", "features"),
    [("7", [7]), ("0-3", [0, 1, 2, 3]), ("5,0-2, 9", [5, 0, 1, 2, 9]), ("1,0-2,1", [1, 0, 2]), ("4-4", [4])],
)
def test_features_are_single_or_ranges_each_once_in_the_order_given(text, features):
    assert parse_features(text) == features


@pytest.mark.parametrize("text", ["", "3-1", "a", "1,,2", "-4", "0-", "1.5", "9" * 20])
def test_what_is_no_list_of_features_is_named(text):
    with pytest.raises(RequestError, match=r"neither a feature nor a range .* 0-24575"):
        parse_features(text)


def test_more_features_than_a_batch_can_hold_are_refused_at_once():
    with pytest.raises(RequestError, match="names more than 1,000,000"):
        parse_features("0-999999999999")


def test_lines_keep_their_numbers_when_some_are_empty(tmp_path):
    path = tmp_path / "specs.jsonl"
    path.write_text('{"a": 1}\n\n  \n{"b": "\u2028"}', encoding="utf-8")
    assert list(lines_of(path)) == [(1, '{"a": 1}\n'), (4, '{"b": "\u2028"}')]


def test_a_byte_order_mark_and_line_ends_of_windows_are_read(tmp_path):
    path = tmp_path / "specs.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"b": 2}\r\n')
    assert [(at, json.loads(line)) for at, line in lines_of(path)] == [(1, {"a": 1}), (3, {"b": 2})]


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "specs.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RequestError, match=r"specs\.jsonl: it cannot be read as text"):
        list(lines_of(path))


@pytest.mark.parametrize("item", [GOOD, json.dumps(GOOD), parse_spec(GOOD)])
def test_a_spec_is_read_from_each_of_its_forms(item):
    spec = Reader()(item)
    assert (spec.type, spec.feature_id, spec.model_type) == ("feature_overview", 3, None)


def test_a_bundle_is_filled_in_where_a_spec_names_none():
    read = Reader("mine")
    assert read(GOOD).model_type == "mine"
    assert read(GOOD | {"model_type": "other"}).model_type == "other"


def test_a_wrong_spec_is_told_as_parse_spec_tells_it():
    for wrong in (GOOD | {"feature_id": -1}, {"feature_id": 1}, GOOD | {"type": "nothing"}, GOOD | {"colour": 1}):
        with pytest.raises(RequestError) as expected:
            parse_spec(wrong)
        with pytest.raises(RequestError) as told:
            Reader()(wrong)
        assert str(told.value) == str(expected.value)


def test_every_wrong_spec_is_counted_and_the_first_ten_are_named():
    items = [(f"line {at}", "{" if at % 2 else json.dumps(GOOD)) for at in range(1, 31)]
    with pytest.raises(RequestError) as told:
        each_checked(items, Reader())
    lines = str(told.value).splitlines()
    assert lines[0] == "15 of 30 specs are wrong, and none was run:"
    assert lines[1].startswith("line 1: no JSON")
    assert len(lines) == 12
    assert lines[-1] == "... and 5 more"


def test_a_question_about_many_features_is_the_same_but_for_the_feature():
    asked = {"type": "feature_overview", "feature_id": 0, "dataset_slice": {"sample_size": 5}, "rationale": "why"}
    made = [Reader()(item) for item in for_features(parse_spec(asked), range(4))]
    assert [spec.feature_id for spec in made] == [0, 1, 2, 3]
    assert len({spec.id for spec in made}) == 4
    assert all("id" not in spec.model_fields_set for spec in made)
    assert {(spec.rationale, spec.dataset_slice.sample_size) for spec in made} == {("why", 5)}
