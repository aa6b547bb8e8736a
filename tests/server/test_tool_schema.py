"""Schemas that every client can read, and arguments checked against them."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator
from mechinterp_runner.schemas.catalogue import catalogue, find
from mechinterp_runner.schemas.errors import RequestError
from mechinterp_runner.schemas.experiment_type import runner_names
from mechinterp_runner.server.answers import Answer
from mechinterp_runner.server.tools.schema import (
    check,
    experiment_schema,
    output_schema_of,
    portable,
    schema_of,
    spec_and_options,
)
from pydantic import BaseModel, Field

FORBIDDEN = {"$ref", "$defs", "title", "oneOf", "allOf", "prefixItems", "not", "if"}


def walk(schema, path=""):
    """Every schema inside a schema, with its path; names of properties are not keywords."""
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from walk(part, f"{path}/{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from walk(schema[key], f"{path}/{key}")
    for part in schema.get("anyOf", []):
        yield from walk(part, f"{path}/anyOf")


@pytest.mark.parametrize("name", runner_names())
def test_the_schema_of_every_experiment_is_portable(name):
    schema = experiment_schema(find(name))
    Draft202012Validator.check_schema(schema)
    assert schema["type"] == "object"
    assert schema["additionalProperties"] is False
    assert "anyOf" not in schema
    for path, part in walk(schema):
        assert not FORBIDDEN & part.keys(), path
        assert "properties" not in part or part["additionalProperties"] is False, path
    assert {"feature_id", "model_type", "dataset_slice", "options"} <= schema["properties"].keys()
    assert "feature_id" in schema["required"]


@pytest.mark.parametrize("name", runner_names())
def test_every_variable_is_hoisted_with_its_description(name):
    experiment = find(name)
    properties = experiment_schema(experiment)["properties"]
    for variable in experiment.variables.model_fields:
        assert properties[variable]["description"], variable


def test_the_output_schema_keeps_null_and_is_portable():
    schema = output_schema_of(Answer)
    Draft202012Validator.check_schema(schema)
    for path, part in walk(schema):
        assert not FORBIDDEN & part.keys(), path
    assert {"type": "null"} in schema["properties"]["error_message"]["anyOf"]
    assert "headline" in schema["required"]


def test_a_property_called_title_is_kept():
    class Book(BaseModel):
        title: str = Field(description="Its title.")

    assert schema_of(Book)["properties"]["title"] == {"description": "Its title.", "type": "string"}


def test_what_has_no_portable_schema_is_an_error_of_its_author():
    class Pair(BaseModel):
        pair: tuple[int, int]

    class Node(BaseModel):
        below: list[Node]

    with pytest.raises(TypeError, match="fixed length"):
        schema_of(Pair)
    Node.model_rebuild(_types_namespace={"Node": Node})
    with pytest.raises(TypeError, match="recursive"):
        portable(Node.model_json_schema())


SCHEMA = {
    "type": "object",
    "properties": {
        "rungs": {"type": "array", "items": {"type": "integer"}},
        "family": {"type": "string"},
        "dataset_slice": {"type": "object", "properties": {"sample_size": {"type": "integer"}}},
        "spec": {"type": "object", "additionalProperties": True},
    },
    "required": ["family"],
}


def test_arguments_sent_as_json_text_are_decoded():
    given = {"family": "[1]", "rungs": "[3, 12]", "dataset_slice": '{"sample_size": 5}', "spec": '{"any": null}'}
    assert check(given, SCHEMA) == {
        "family": "[1]",
        "rungs": [3, 12],
        "dataset_slice": {"sample_size": 5},
        "spec": {"any": None},
    }


def test_null_means_not_given():
    assert check({"family": "x", "rungs": None, "dataset_slice": None}, SCHEMA) == {"family": "x"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"famly": "x"}, r"unknown argument 'famly': did you mean 'family'\? Allowed: rungs, family.*Nothing was run"),
        ({"family": "x", "dataset_slice": {"sampl_size": 1}}, "'dataset_slice.sampl_size': did you mean 'sample_size'"),
        ({}, r"missing argument family.*Nothing was run"),
        ({"family": None}, "missing argument family"),
        ({"family": "x", "rungs": "3,12"}, r"rungs: expected a JSON array; got '3,12'"),
        ({"family": "x", "spec": "[" * 100_000}, "spec: expected a JSON object"),
        ({"family": "x", "dataset_slice": [1]}, r"dataset_slice: expected a JSON object; got \[1\]"),
    ],
)
def test_a_wrong_argument_is_named_with_what_would_be_right(given, message):
    with pytest.raises(RequestError, match=message):
        check(given, SCHEMA)


def test_flat_arguments_give_the_spec_of_the_file(toy):
    experiment = toy.experiment()
    arguments = {
        "feature_id": 3,
        "family": "swim_speed_up",
        "rungs": [3],
        "dataset_slice": {"sample_size": 50},
        "options": {"spec_id": "mine", "constraints": ["max_ap_budget"], "parent_hypothesis": "h1", "max_rows": 5},
    }
    spec, options = spec_and_options(experiment, check(arguments, experiment_schema(experiment)))
    assert (spec.id, spec.feature_id, spec.variables.rungs) == ("mine", 3, (3,))
    assert (spec.constraints, spec.parent_hypothesis) == (("max_ap_budget",), "h1")
    assert spec.dataset_slice.sample_size == 50
    assert options.max_rows == 5
    assert json.loads(spec.model_dump_json(exclude_unset=True))["variables"] == {
        "family": "swim_speed_up",
        "rungs": [3],
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"feature_id": -1}, r"feature_id: Input should be greater than or equal to 0; got -1"),
        ({"rungs": ["x"]}, r"^rungs\.0: .*integer.*got 'x'"),
        ({"mode": "fin"}, r"^mode: Input should be 'fine'.*got 'fin'"),
        ({"options": {"max_rows": 0}}, r"options\.max_rows: .*greater than or equal to 1; got 0"),
        (
            {"options": {"constraints": ["one_rung"]}},
            r"options\.constraints\.0: .*'one_rung_per_family'.*got 'one_rung'",
        ),
        ({"options": {"spec_id": "../x"}}, r"options\.spec_id: .*got '\.\./x'"),
        ({"dataset_slice": {"percentile_min": 90, "percentile_max": 10}}, r"percentile_min 90.0 must be below"),
    ],
)
def test_a_wrong_value_is_named_as_the_tool_names_it(toy, arguments, message):
    given = {"feature_id": 3, "family": "swim_speed_up", **arguments}
    experiment = toy.experiment()
    with pytest.raises(RequestError, match=message) as caught:
        spec_and_options(experiment, check(given, experiment_schema(experiment)))
    assert str(caught.value).endswith("Nothing was run.")


def test_the_tools_of_all_seventeen_types_leave_room_for_the_others_in_12_000_tokens():
    tools = [[name, experiment.summary, experiment_schema(experiment)] for name, experiment in catalogue().items()]
    cost = {tool[0]: len(json.dumps(tool, separators=(",", ":"))) // 4 for tool in tools}
    assert len(cost) == 17
    assert sum(cost.values()) < 10_800, cost
