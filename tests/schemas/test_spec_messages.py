"""A bad spec is answered with one message: what was got, what is allowed, and the nearest name."""

import pytest
from mechinterp_runner.schemas.catalogue import catalogue
from mechinterp_runner.schemas.errors import RequestError
from mechinterp_runner.schemas.experiment_type import runner_names
from mechinterp_runner.schemas.spec import CONSTRAINTS, DatasetSlice, parse_spec, parse_spec_json

SWEEP = {"type": "family_1d_sweep", "feature_id": 1, "variables": {"family": "comeback"}}


def message(data, **how) -> str:
    with pytest.raises(RequestError) as caught:
        parse_spec(data, **how)
    text = str(caught.value)
    assert text.endswith("Nothing was run.")
    assert text.count("Nothing was run") == 1
    return text


def test_an_unknown_type_is_answered_with_the_nearest():
    text = message(SWEEP | {"type": "family_1d_swep"})
    assert text.startswith("unknown experiment type 'family_1d_swep': did you mean 'family_1d_sweep'? Allowed: ")
    assert all(name in text for name in runner_names())


def test_a_missing_type_is_answered_with_all_of_them():
    text = message({"feature_id": 1})
    assert text.startswith("a spec needs a type; allowed: ")
    assert all(name in text for name in runner_names())


def test_a_type_without_a_runner_says_so_and_what_there_is(monkeypatch):
    rest = tuple(name for name in runner_names() if name != "kit_sweep")
    monkeypatch.setattr("mechinterp_runner.schemas.catalogue.runner_names", lambda: rest)
    text = message({"type": "kit_sweep", "feature_id": 1, "variables": {}})
    assert text.startswith("experiment type 'kit_sweep' is defined but this version cannot run it; it can run: ")
    assert all(name in text for name in rest)


@pytest.mark.parametrize(
    ("change", "got", "near"),
    [
        ({"feature": 1}, "feature", "feature_id"),
        ({"datset_slice": {}}, "datset_slice", "dataset_slice"),
        ({"dataset_slice": {"percentle_min": 3}}, "dataset_slice.percentle_min", "percentile_min"),
        ({"outputs": {"table": True}}, "outputs.table", "tables"),
        ({"variables": {"family": "comeback", "rung": [3]}}, "variables.rung", "rungs"),
    ],
)
def test_a_misspelt_argument_is_answered_with_the_nearest(change, got, near):
    assert f"unknown argument {got!r}: did you mean {near!r}? Allowed: " in message(SWEEP | change)


@pytest.mark.parametrize("name", runner_names())
def test_a_misspelt_variable_of_any_type_is_answered_with_its_own_names(name):
    variables = catalogue()[name].variables.model_fields
    first = next(iter(variables))
    text = message({"type": name, "feature_id": 1, "variables": {f"{first}x": 1}})
    assert f"unknown argument 'variables.{first}x': did you mean {first!r}? Allowed: {', '.join(variables)}" in text


def test_an_argument_near_to_nothing_is_answered_with_all_that_is_allowed():
    allowed = ", ".join(DatasetSlice.model_fields)
    text = message(SWEEP | {"dataset_slice": {"qqq": 1}})
    assert text == f"unknown argument 'dataset_slice.qqq'. Allowed: {allowed}. Nothing was run."


def test_the_flat_doors_name_variables_without_their_group():
    text = message(SWEEP | {"variables": {"famly": "comeback"}}, flat=True)
    assert "missing argument 'family'" in text
    assert "unknown argument 'famly': did you mean 'family'?" in text
    assert "variables." not in text


def test_every_fault_of_a_spec_is_named_at_once():
    text = message(SWEEP | {"feature_id": -1, "variables": {"rungs": [70]}, "id": "../x"})
    assert "feature_id: Input should be greater than or equal to 0; got -1" in text
    assert "variables.rungs.0: Input should be less than or equal to 57; got 70" in text
    assert "missing argument 'variables.family'" in text
    assert "got '../x'" in text


def test_an_unknown_constraint_is_answered_with_those_there_are():
    text = message(SWEEP | {"constraints": ["one_rung_per_famly"]})
    assert "got 'one_rung_per_famly'" in text
    assert all(name in text for name in CONSTRAINTS)


def test_a_missing_argument_is_named():
    assert message({"type": "weapon_sweep"}) == "missing argument 'feature_id'. Nothing was run."


@pytest.mark.parametrize("data", [None, [], [SWEEP], "family_1d_sweep", 7])
def test_what_is_no_object_is_no_spec(data):
    assert message(data) == f"a spec is a JSON object; got {type(data).__name__}. Nothing was run."


@pytest.mark.parametrize("text", ["", "{", "{'type': 1}", b"\xff\xfe\x00", "[" * 100_000])
def test_what_is_not_json_is_refused_with_the_name_of_the_file(text):
    with pytest.raises(RequestError, match=r"my\.json is not JSON: .*Nothing was run"):
        parse_spec_json(text, "my.json")


def test_not_a_number_is_refused_wherever_it_stands():
    with pytest.raises(RequestError, match=r"variables\.min_effect: .*finite number; got nan"):
        parse_spec_json(
            '{"type": "family_1d_sweep", "feature_id": 1, "variables": {"family": "x", "min_effect": NaN}}', "f"
        )


def test_a_rung_without_its_family_is_refused_in_words():
    text = message({"type": "weapon_sweep", "feature_id": 1, "variables": {"condition_rung": 29}})
    assert text.startswith("variables: condition_rung needs condition_family")
