"""The contexts of a slice: how many there may be, what they stand beside, and how faults are named."""

from __future__ import annotations

import pytest
from mechinterp_runner.schemas.errors import RequestError
from mechinterp_runner.schemas.spec import parse_spec

TWO = [{"weapon": "Splattershot", "tokens": ["haunt"]}, {"weapon": 10}]


def spec_with(contexts, **part):
    return parse_spec(
        {
            "type": "family_1d_sweep",
            "feature_id": 0,
            "dataset_slice": {"contexts": contexts, **part},
            "variables": {"family": "swim_speed_up"},
        }
    )


def test_contexts_are_part_of_the_question():
    one, same, other = spec_with(TWO), spec_with(TWO), spec_with([*TWO, {"weapon": 0}])
    assert one.scientific_fields() == same.scientific_fields()
    assert one.scientific_fields() != other.scientific_fields()
    assert parse_spec(one.model_dump(mode="json")).dataset_slice == one.dataset_slice


def test_a_spec_without_contexts_asks_the_question_it_asked_before_there_were_any():
    plain = parse_spec({"type": "feature_overview", "feature_id": 0}).scientific_fields()["dataset_slice"]
    assert "contexts" not in plain
    assert plain["sample_size"] is None


@pytest.mark.parametrize("number", [0, 1])
def test_fewer_than_two_contexts_are_refused(number):
    with pytest.raises(RequestError, match=f"contexts holds {number}: give at least 2.*Nothing was run"):
        spec_with(TWO[:number])


def test_more_than_a_thousand_contexts_are_refused():
    many = [{"weapon": index} for index in range(1001)]
    assert len(spec_with(many[:1000]).dataset_slice.contexts) == 1000
    with pytest.raises(RequestError, match="contexts: List should have at most 1000 items"):
        spec_with(many)


@pytest.mark.parametrize(
    "part",
    [
        {"weapon_filter": ["Splattershot"]},
        {"weapon_exclude": ["Splattershot"]},
        {"family_filter": ["haunt"]},
        {"family_exclude": ["haunt"]},
        {"activation_threshold": 0.0},
        {"percentile_min": 50},
        {"percentile_max": 50},
        {"sample_size": 10},
    ],
)
def test_what_would_choose_among_examples_is_refused_beside_contexts(part):
    (name,) = part
    with pytest.raises(RequestError, match=f"used as they are given, and {name} would choose among examples"):
        spec_with(TWO, **part)


def test_a_seed_stands_beside_contexts():
    assert spec_with(TWO, random_seed=7).dataset_slice.random_seed == 7


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({"weapn": 10}, r"missing argument 'dataset_slice\.contexts\.1\.weapon' \(Kit id"),
        ({"weapon": 10, "token": []}, r"unknown argument 'dataset_slice\.contexts\.token': did you mean 'tokens'"),
        ({"weapon": 10, "tokens": "haunt"}, r"dataset_slice\.contexts\.1\.tokens: Input should be a list; got 'haunt'"),
        ("haunt on Splattershot", r"dataset_slice\.contexts\.1: Input should be a JSON object; got 'haunt on"),
    ],
)
def test_a_fault_in_a_context_is_named_by_its_place(context, message):
    with pytest.raises(RequestError, match=message):
        spec_with([TWO[0], context])
