"""A bad spec is answered with one message: what was got, what is allowed, and the nearest name."""

import pytest
from mechinterp_runner.schemas.catalogue import catalogue
from mechinterp_runner.schemas.errors import RequestError
from mechinterp_runner.schemas.experiment_type import runner_names
from mechinterp_runner.schemas.result import Followup
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
    assert "missing argument 'variables.family' (Stackable family or main-only ability to sweep" in text
    assert "got '../x'" in text


def test_an_unknown_constraint_is_answered_with_those_there_are():
    text = message(SWEEP | {"constraints": ["one_rung_per_famly"]})
    assert "got 'one_rung_per_famly'" in text
    assert all(name in text for name in CONSTRAINTS)


def test_a_missing_argument_is_named():
    assert message({"type": "weapon_sweep"}) == (
        "missing argument 'feature_id' (Index of the SAE feature). Nothing was run."
    )


@pytest.mark.parametrize(
    ("data", "kind"),
    [(None, "null"), ([], "a list"), ([SWEEP], "a list"), ("family_1d_sweep", "text"), (7, "a number"), (True, "bool")],
)
def test_what_is_no_object_is_no_spec(data, kind):
    assert message(data) == f"a spec is a JSON object; got {kind}. Nothing was run."


@pytest.mark.parametrize("wrapped", [{"reason": "look", "spec": SWEEP, "runnable": True}, {"spec": SWEEP}])
def test_a_followup_is_not_taken_for_its_spec(wrapped):
    assert "such as a followup: pass its `spec`" in message(wrapped)


def test_a_followup_object_is_not_taken_for_its_spec():
    assert "such as a followup: pass its `spec`" in message(Followup(reason="look", spec=SWEEP))


def test_a_stored_result_is_not_taken_for_a_spec():
    text = message({"spec_id": "x", "experiment_type": "family_1d_sweep", "headline": "h"})
    assert text.startswith("this is a stored result, not a spec")


@pytest.mark.parametrize("text", ["", "{", "{'type': 1}", b"\xff\xfe\x00", "[" * 100_000])
def test_what_is_not_json_is_refused_with_the_name_of_the_file(text):
    with pytest.raises(RequestError, match=r"my\.json is not JSON: .*Nothing was run"):
        parse_spec_json(text, "my.json")


def test_not_a_number_is_refused_wherever_it_stands():
    with pytest.raises(RequestError, match=r"variables\.min_effect: .*finite number; got nan"):
        parse_spec_json(
            '{"type": "family_1d_sweep", "feature_id": 1, "variables": {"family": "x", "min_effect": NaN}}', "f"
        )


@pytest.mark.parametrize(("text", "why"), [("", "it is empty"), (b" \n", "it is empty"), (b"\x89PNG\r\n", "not text")])
def test_an_empty_file_and_a_binary_one_are_called_so(text, why):
    with pytest.raises(RequestError, match=rf"^my\.json is not JSON: .*{why}"):
        parse_spec_json(text, "my.json")


def test_a_file_whose_json_is_no_spec_is_named():
    with pytest.raises(RequestError, match=r"^my\.json: a spec is a JSON object; got a list\. Nothing was run\.$"):
        parse_spec_json("[1, 2]", "my.json")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"percentile_min": 10}, "'percentile_min': it belongs in 'dataset_slice'"),
        ({"rungs": [3]}, "'rungs': it belongs in 'variables'"),
        ({"figures": True}, "'figures': it belongs in 'outputs'"),
        ({"variables": {"family": "x", "sample_size": 5}}, "'variables.sample_size': it belongs in 'dataset_slice'"),
        ({"variables": {"family": "x", "rationale": "r"}}, "'variables.rationale': it belongs at the top"),
        ({"dataset_slice": {"encoding": "single"}}, "'dataset_slice.encoding': it belongs in 'variables'"),
        ({"dataset_slice": {"family": "x"}}, "it belongs in 'variables', or did you mean 'family_filter'?"),
        ({"percentle_min": 10}, "'percentle_min': did you mean 'dataset_slice.percentile_min'?"),
    ],
)
def test_a_key_in_the_wrong_object_is_told_where_it_belongs(change, told):
    assert told in message(SWEEP | change)


@pytest.mark.parametrize("change", [{"str": 1}, {"function-x": 1}, {"variables": {"family": "x", "int": 1}}])
def test_a_key_that_is_called_like_a_step_of_validation_is_unknown_like_any_other(change):
    assert "unknown argument" in message(SWEEP | change)


def test_a_rung_that_no_build_has_is_answered_with_the_rungs():
    text = message(SWEEP | {"variables": {"family": "comeback", "rungs": [3, 12, 99]}})
    assert "variables.rungs.2: " in text
    assert "; got 99 (rungs are the AP 3, 6, 12, 15, 21, 29, 38, 51, 57)" in text


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"constraints": ["one_rung_per_famly"]}, "got 'one_rung_per_famly': did you mean 'one_rung_per_family'?"),
        ({"variables": {"family": "x", "encoding": "sngle"}}, "got 'sngle': did you mean 'single'?"),
    ],
)
def test_a_misspelt_choice_is_answered_with_the_nearest(change, told):
    assert told in message(SWEEP | change)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"constraints": "max_ap_budget"}, "constraints: Input should be a list; got 'max_ap_budget'"),
        ({"variables": ["x"]}, "variables: Input should be a JSON object; got ['x']"),
        ({"feature_id": 1.5}, "feature_id: Input should be a valid integer; got 1.5"),
        ({"id": "a b"}, "id: Input should be letters, digits, '.', '_' and '-' only"),
        (
            {"dataset_slice": {"weapon_filter": [1.5]}},
            "weapon_filter.0: Input should be a valid string or integer; got",
        ),
        ({"created_at": "x"}, "created_at: Input should be a date or a time, such as 2025-06-07"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_without_words_of_python(change, told):
    text = message(SWEEP | change)
    assert told in text
    assert "tuple" not in text.lower()
    assert "instance of" not in text


def test_a_long_value_is_not_repeated_in_full():
    text = message(SWEEP | {"constraints": "x" * 5000})
    assert len(text) < 250


def test_a_door_may_call_every_field_its_own_way():
    wrong = {"family": "x", "rungs": [99]}
    text = message(SWEEP | {"variables": wrong, "dataset_slice": {"sample_size": 0}}, called=lambda name: f"--{name}")
    assert "--rungs: Input should be less than or equal to 57; got 99" in text
    assert "--sample_size: " in text


def test_a_rung_without_its_family_is_refused_in_words():
    text = message({"type": "weapon_sweep", "feature_id": 1, "variables": {"condition_rung": 29}})
    assert text.startswith("variables: condition_rung needs condition_family")
