"""Specs: the brief's files load unchanged, each type has its typed spec, and what is stored reads back."""

import json
import math
from pathlib import Path
from typing import Any

import annotated_types
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mechinterp_runner.runners.family_1d_sweep import FamilySweepSpec
from mechinterp_runner.runners.minimal_cores import MinimalCoresSpec
from mechinterp_runner.runners.weapon_sweep import WeaponSweepSpec
from mechinterp_runner.schemas.catalogue import catalogue
from mechinterp_runner.schemas.errors import RequestError
from mechinterp_runner.schemas.experiment_type import ExperimentType, runner_names
from mechinterp_runner.schemas.manifest import is_name
from mechinterp_runner.schemas.spec import (
    CONSTRAINTS,
    DatasetSlice,
    ExperimentSpec,
    Outputs,
    new_id,
    parse_spec,
    parse_spec_json,
)
from pydantic import BaseModel, ValidationError

SPECS = Path(__file__).parents[2] / ".." / "shared" / "fixtures" / "specs"
BRIEF = {
    "id": "20250607_142531",
    "type": "family_1d_sweep",
    "feature_id": 18712,
    "model_type": "ultra",
    "dataset_slice": {"percentile_min": 10.0, "percentile_max": 90.0, "sample_size": 500},
    "variables": {"family": "special_charge_up", "rungs": [3, 12, 29, 41, 57], "include_absent": True},
    "constraints": ["one_rung_per_family"],
    "outputs": {"aggregates": True, "tables": True, "diagnostics": True, "figures": False},
    "description": "...",
    "parent_hypothesis": "h001",
}
MODELS = {
    model.__name__: model
    for experiment in catalogue().values()
    for model in (experiment.spec, experiment.variables, DatasetSlice, Outputs)
}


def minimal(name: str) -> dict[str, Any]:
    """The least that makes a spec of the type; names are given where it needs some."""
    required = [key for key, field in catalogue()[name].variables.model_fields.items() if field.is_required()]
    return {"type": name, "feature_id": 1, "variables": dict.fromkeys(required, "special_charge_up")}


def contains(whole: Any, part: Any) -> bool:
    """Whether everything given is in the other value, unchanged."""
    if isinstance(part, dict):
        return all(key in whole and contains(whole[key], value) for key, value in part.items())
    return whole == part


def numeric(annotation: Any) -> bool:
    return annotation in {int, float} or any(numeric(part) for part in getattr(annotation, "__args__", ()))


def bounds(field: Any) -> list[Any]:
    """Every constraint of a field or of the items it holds."""

    def inside(annotation: Any) -> list[Any]:
        own = list(getattr(annotation, "__metadata__", ()))
        return own + [found for part in getattr(annotation, "__args__", ()) for found in inside(part)]

    found = [getattr(item, "metadata", [item]) for item in [*field.metadata, *inside(field.annotation)]]
    kinds = (annotated_types.Ge, annotated_types.Gt, annotated_types.Le, annotated_types.Lt)
    return [item for group in found for item in group if isinstance(item, kinds)]


# -- the brief's format -----------------------------------------------------------------------------------------------


def test_the_briefs_example_loads_unchanged_and_is_named_as_the_brief_says():
    spec = parse_spec(BRIEF)
    assert isinstance(spec, FamilySweepSpec)
    assert contains(spec.model_dump(mode="json"), BRIEF)
    assert spec.file_name() == "20250607_142531__f18712__family-1d-sweep.json"
    assert (spec.variables.rungs, spec.dataset_slice.sample_size) == ((3, 12, 29, 41, 57), 500)


@pytest.mark.skipif(not SPECS.is_dir(), reason=f"the spec files are not at {SPECS}")
def test_every_spec_file_loads_unchanged_or_says_that_its_type_cannot_run_here():
    seen = set()
    for path in sorted(SPECS.glob("*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        seen.add(data["type"])
        if data["type"] in runner_names():
            spec = parse_spec_json(path.read_bytes(), path.name)
            assert spec.feature_id == data["feature_id"], path.name
            if not {"metric", "high_percentile"} & set(data["variables"]):
                assert contains(spec.model_dump(mode="json"), data), path.name
            continue
        with pytest.raises(RequestError, match=f"{data['type']!r} is defined but this version cannot run it"):
            parse_spec_json(path.read_bytes(), path.name)
    assert {"family_1d_sweep", "weapon_sweep", "minimal_cores"} <= seen


# -- typed specs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", runner_names())
def test_the_constructor_validation_and_parsing_all_give_the_typed_spec(name):
    data, typed = minimal(name), catalogue()[name].spec
    assert type(ExperimentSpec(**data)) is typed
    assert type(ExperimentSpec(**data | {"type": ExperimentType(name)})) is typed
    assert type(ExperimentSpec.model_validate(data)) is typed
    assert type(ExperimentSpec.model_validate_json(json.dumps(data))) is typed
    assert type(parse_spec(data)) is typed
    assert typed.model_fields["type"].default == name


def test_a_typed_spec_is_taken_as_it_is():
    spec = parse_spec(BRIEF)
    assert ExperimentSpec.model_validate(spec) is spec
    assert parse_spec(spec) is spec


def test_a_typed_spec_refuses_the_name_of_another_type():
    with pytest.raises(ValidationError, match="minimal_cores"):
        MinimalCoresSpec(type="weapon_sweep", feature_id=1)


@pytest.mark.parametrize("data", [{}, {"type": "family_1d_swep"}, {"type": "weapon-sweep", "feature_id": 1}])
def test_the_constructor_refuses_a_missing_or_unknown_type(data):
    with pytest.raises(RequestError, match=r"needs a type|did you mean '(family_1d|weapon)_sweep'"):
        ExperimentSpec(**data)


def test_the_constructor_refuses_a_wrong_spec_in_the_words_of_parsing():
    wrong = {"type": "family_1d_sweep", "feature_id": -1, "dataset_slice": {"percentle_min": 3}}
    with pytest.raises(RequestError) as constructed:
        ExperimentSpec(**wrong)
    with pytest.raises(RequestError) as parsed:
        parse_spec(wrong)
    assert str(constructed.value) == str(parsed.value)
    assert "missing argument 'variables' with 'family' in it" in str(parsed.value)
    with pytest.raises(ValidationError, match="variables"):
        ExperimentSpec.model_validate(wrong)


@pytest.mark.parametrize("name", runner_names())
def test_a_spec_is_frozen_all_the_way_down(name):
    spec = parse_spec(minimal(name))
    for part in (spec, spec.dataset_slice, spec.variables, spec.outputs):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, next(iter(type(part).model_fields)), "other")


@pytest.mark.parametrize("model", MODELS)
def test_every_model_of_a_spec_forbids_unknown_keys(model):
    assert MODELS[model].model_json_schema()["additionalProperties"] is False


@pytest.mark.parametrize("model", MODELS)
def test_every_field_of_a_spec_has_a_description_in_its_schema(model):
    properties = MODELS[model].model_json_schema()["properties"]
    assert [name for name, schema in properties.items() if not schema.get("description")] == []


@pytest.mark.parametrize("model", MODELS)
def test_every_number_of_a_spec_has_a_bound(model: str):
    kind: type[BaseModel] = MODELS[model]
    numbers = {name: field for name, field in kind.model_fields.items() if numeric(field.annotation)}
    for weapon in ("weapon_filter", "weapon_exclude", "base_weapon"):  # kit ids: checked against the bundle
        numbers.pop(weapon, None)
    assert [name for name, field in numbers.items() if not bounds(field)] == []


def test_the_default_spec_is_about_everything_with_one_rung_per_family():
    spec = WeaponSweepSpec(feature_id=0)
    assert spec.dataset_slice == DatasetSlice(
        activation_threshold=None, weapon_filter=(), family_filter=(), percentile_min=0, percentile_max=100,
        sample_size=None, random_seed=0,
    )  # fmt: skip
    assert not spec.dataset_slice.selects_on_activation
    assert spec.constraints == ("one_rung_per_family",)
    assert (spec.outputs.aggregates, spec.outputs.tables, spec.outputs.diagnostics) == (True, True, True)
    assert not spec.outputs.figures


@pytest.mark.parametrize("given_slice", [{"activation_threshold": 0}, {"percentile_min": 1}, {"percentile_max": 99}])
def test_a_threshold_or_a_percentile_selects_on_the_outcome(given_slice):
    assert DatasetSlice(**given_slice).selects_on_activation


@pytest.mark.parametrize(("low", "high"), [(50, 50), (90, 10), (100, 100)])
def test_percentiles_must_be_in_order(low, high):
    with pytest.raises(ValidationError, match=r"percentile_min .* must be below percentile_max .*0-100"):
        DatasetSlice(percentile_min=low, percentile_max=high)


@pytest.mark.parametrize(
    "fault",
    [{"percentile_min": -1}, {"percentile_max": 101}, {"sample_size": 0}, {"random_seed": -1},
     {"activation_threshold": -0.1}, {"activation_threshold": math.nan}, {"percentile_min": math.inf}],
)  # fmt: skip
def test_a_number_outside_its_bounds_is_refused(fault):
    with pytest.raises(ValidationError, match=next(iter(fault))):
        DatasetSlice(**fault)


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ({"percentile_min": 0.9}, ["percentile_min 0.9 was read as 0.9 %"]),
        ({"percentile_max": 0.995}, ["percentile_max 0.995 was read as 0.995 %"]),
        ({"percentile_min": 0.5, "percentile_max": 1}, ["percentile_min 0.5 was", "percentile_max 1 was read as 1 %"]),
        ({"percentile_min": 1, "percentile_max": 99.5}, []),
        ({}, []),
    ],
)
def test_percentiles_that_look_like_fractions_are_read_as_percentages_and_that_is_noted(part, told):
    spec = parse_spec({"type": "weapon_sweep", "feature_id": 1, "dataset_slice": part})
    assert [note.startswith(words) for note, words in zip(spec.notes, told, strict=True)] == [True] * len(told)


def test_a_note_on_a_fraction_says_what_to_give_for_it():
    assert DatasetSlice(percentile_min=0.9).notes[0].endswith("for the fraction, give 90")


def test_a_variable_that_is_read_as_a_fraction_is_noted():
    spec = parse_spec({"type": "token_influence_sweep", "feature_id": 1, "variables": {"high_percentile": 0.995}})
    assert spec.notes == ("high_percentile 0.995 was read as a fraction: the 99.5th percentile of the active",)
    assert parse_spec({"type": "token_influence_sweep", "feature_id": 1}).notes == ()


# -- ids --------------------------------------------------------------------------------------------------------------


def test_made_up_ids_are_unique_legal_and_begin_with_the_time():
    made = [new_id() for _ in range(200)]
    assert len(set(made)) == 200
    assert all(is_name(name) for name in made)
    assert all(name[8] == name[15] == "_" and name[:8].isdigit() and name[9:15].isdigit() for name in made)
    assert parse_spec(minimal("weapon_sweep")).id != parse_spec(minimal("weapon_sweep")).id


@pytest.mark.parametrize("name", ["a", "0", "20250607_142531", "A.b-c_d", "a" * 64, "a..b"])
def test_a_legal_id_is_accepted(name):
    assert is_name(name)
    assert parse_spec(minimal("weapon_sweep") | {"id": name}).id == name


@pytest.mark.parametrize("name", ["", "../x", "/etc", "a/b", "a\\b", ".a", "-a", "_a", "a b", "a\n", "é", "a" * 65])
@pytest.mark.parametrize("field", ["id", "model_type", "parent_spec_id"])
def test_an_id_that_could_be_a_path_is_refused(name, field):
    assert not is_name(name)
    with pytest.raises(RequestError, match=f"^{field}: "):
        parse_spec(minimal("weapon_sweep") | {field: name})


# -- storing and asking again -----------------------------------------------------------------------------------------

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
texts = st.none() | st.text(max_size=40).filter(lambda text: text.isprintable())
slices = st.fixed_dictionaries(
    {},
    optional={
        "activation_threshold": st.none() | st.floats(0, 6),
        "weapon_filter": st.lists(st.integers(0, 9999) | st.text("abc_0", min_size=1, max_size=9), max_size=3),
        "family_filter": st.lists(st.sampled_from(["comeback", "swim_speed_up"]), max_size=2),
        "percentile_min": st.floats(0, 49),
        "percentile_max": st.floats(50, 100),
        "sample_size": st.none() | st.integers(1, 10**6),
        "random_seed": st.integers(0, 2**32 - 1),
    },
)
sweeps = st.fixed_dictionaries(
    {"type": st.just("family_1d_sweep"), "feature_id": st.integers(0, 24575)},
    optional={
        "id": names, "model_type": st.none() | names, "dataset_slice": slices, "description": texts,
        "rationale": texts, "parent_spec_id": st.none() | names,
        "constraints": st.lists(st.sampled_from(CONSTRAINTS), unique=True),
        "outputs": st.fixed_dictionaries({}, optional={"tables": st.booleans(), "figures": st.booleans()}),
    },
)  # fmt: skip
sweep_variables = st.fixed_dictionaries(
    {"family": st.sampled_from(["special_charge_up", "comeback"])},
    optional={
        "rungs": st.none() | st.lists(st.integers(0, 57), max_size=9),
        "include_absent": st.booleans(),
        "stable_tokens": st.lists(st.sampled_from(["comeback", "quick_respawn_12", "weapon_id_40"]), max_size=3),
        "encoding": st.sampled_from(["thermometer", "single"]),
        "min_effect": st.none() | st.floats(0.001, 6),
        "method": st.sampled_from(["interventional", "observational"]),
    },
)


@given(sweeps, sweep_variables)
def test_a_spec_reads_back_from_its_json_as_it_was_given(data, variables):
    spec = parse_spec(data | {"variables": variables})
    assert parse_spec_json(spec.model_dump_json(), "file") == spec
    assert parse_spec(spec.model_dump(mode="json")) == spec
    assert parse_spec(spec.model_dump()) == spec
    given_fields = data | {"variables": variables}
    assert contains(spec.model_dump(mode="json"), given_fields)


def test_two_specs_that_differ_in_bookkeeping_alone_ask_the_same_question():
    first = parse_spec(BRIEF)
    second = parse_spec(
        BRIEF | {"id": "other", "model_type": "full", "description": None, "rationale": "r", "parent_spec_id": "p",
                 "parent_hypothesis": None, "outputs": {"tables": False}, "created_at": "2024-01-01T00:00:00Z"}
    )  # fmt: skip
    assert first.scientific_fields() == second.scientific_fields()


@pytest.mark.parametrize(
    "change",
    [{"feature_id": 1}, {"constraints": []}, {"dataset_slice": {"random_seed": 1}}, {"variables": {"family": "x"}}],
)
def test_two_specs_that_differ_in_science_ask_different_questions(change):
    assert parse_spec(BRIEF | change).scientific_fields() != parse_spec(BRIEF).scientific_fields()
