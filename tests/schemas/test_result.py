"""Results hold what JSON can hold, and read back through their own schema."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mechinterp_runner.schemas.result import (
    Aggregates,
    ConstraintViolation,
    Diagnostics,
    ExperimentResult,
    Finding,
    Followup,
    Provenance,
    Row,
    Table,
    plain,
)
from pydantic import BaseModel, Field, ValidationError

FINDING = {
    "subject": "special_charge_up 29", "relation": "raises", "effect": 2.1, "status": "present", "n": 500,
    "method": "interventional", "population": "all examples",
}  # fmt: skip
RESULT = {
    "spec_id": "20250607_142531", "feature_id": 18712, "experiment_type": "family_1d_sweep", "success": True,
    "duration_seconds": 1.5,
}  # fmt: skip
BRIEF = RESULT | {
    "spec_path": "specs/20250607_142531__f18712__family-1d-sweep.json",
    "aggregates": {"mean_delta": 0.1, "std_delta": 0.2, "n_samples": 500,
                   "custom": {"threshold_rung": 29, "max_rung_delta": 0.4}},
    "tables": {"rung_deltas": {"name": "rung_deltas", "columns": ["rung", "mean_delta", "std_error", "n"],
                               "rows": [{"rung": 3, "mean_delta": 0.01, "std_error": 0.002, "n": 500}]}},
    "diagnostics": {"relu_floor_detected": False, "relu_floor_rate": 0.1, "n_contexts_tested": 500,
                    "constraint_violations": [], "warnings": []},
    "error_message": None,
}  # fmt: skip


class Measured(Row):
    mean: float | None = Field(description="Mean.")
    n: int = Field(description="Examples.")


class Labelled(Measured):
    label: str = Field(description="Label.")
    parts: list[float | None] = Field(default_factory=list, description="Parts.")


def floats_of(model: type[BaseModel]) -> list[tuple[type[BaseModel], str]]:
    return [(model, name) for name, field in model.model_fields.items() if "float" in str(field.annotation)]


@pytest.mark.parametrize(("model", "name"), [*floats_of(Finding), *floats_of(Aggregates), *floats_of(Diagnostics)])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan"), np.float64("inf")])
def test_a_number_that_json_cannot_hold_becomes_null(model, name, value):
    given_fields = FINDING if model is Finding else {}
    made = model(**given_fields | {name: value})
    assert getattr(made, name) is None
    assert json.loads(made.model_dump_json())[name] is None


def test_numpy_values_become_plain_at_any_depth():
    nested = {"a": np.float32(1.5), 2: [np.int64(3), (np.nan, np.bool_(True))], "b": np.array([[1.0, np.inf]])}
    assert plain(nested) == {"a": 1.5, "2": [3, [None, True]], "b": [[1.0, None]]}
    assert Aggregates(custom=nested).custom == plain(nested)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5), values, max_size=4))
def test_custom_values_survive_json_whatever_they_are(custom):
    made = Aggregates(custom=custom)
    assert Aggregates.model_validate_json(made.model_dump_json()) == made
    assert json.loads(json.dumps(made.custom, allow_nan=False)) == made.custom


def test_the_briefs_result_loads_and_its_fields_come_out_as_they_went_in():
    result = ExperimentResult.model_validate(BRIEF)
    dumped = result.model_dump(mode="json")
    for key, value in BRIEF.items():
        if isinstance(value, dict):
            assert all(dumped[key][inner].items() >= part.items() if isinstance(part, dict) else
                       dumped[key][inner] == part for inner, part in value.items())  # fmt: skip
        else:
            assert dumped[key] == value


def test_a_stored_result_reads_back_equal():
    table = Table.of("t", Labelled, [Labelled(mean=math.nan, n=3, label="a", parts=[1.0, math.inf])], ["a note"])
    result = ExperimentResult(
        **RESULT, headline="h", findings=[Finding(**FINDING, ci_low=2.0, ci_high=math.inf)], tables={"t": table},
        aggregates=Aggregates(mean_delta=0.5, custom={"shape": "step"}),
        diagnostics=Diagnostics(
            min_effect=0.1, warnings=["w"],
            constraint_violations=[ConstraintViolation(id="max_ap_budget", hard=False, contexts=2, example="x")],
        ),
        followups=[Followup(reason="why", spec={"type": "kit_sweep", "variables": {}}, runnable=False)],
        provenance=Provenance(seeds={"slice": 0}, started_at="2025-06-07T14:25:31+00:00", versions={"numpy": "2"}),
    )  # fmt: skip
    again = ExperimentResult.model_validate_json(result.model_dump_json())
    assert again == result
    assert again.findings[0].ci_high is None
    assert again.tables["t"].rows == [{"label": "a", "parts": [1.0, None], "mean": None, "n": 3}]


def test_the_columns_of_a_table_are_the_row_models_own_and_then_those_it_inherits():
    table = Table.of("t", Labelled, [Labelled(mean=1.0, n=2, label="a")])
    assert table.columns == ["label", "parts", "mean", "n"]
    assert all(list(row) == table.columns for row in table.rows)
    assert table.column("label") == ["a"]


def test_an_empty_table_keeps_its_columns_and_says_why():
    table = Table.of("t", Measured, [], ["no active example"])
    assert (table.columns, table.rows, table.notes) == (["mean", "n"], [], ["no active example"])


def test_a_table_is_made_of_columns_with_nan_as_null():
    table = Table.from_columns("t", Measured, {"mean": np.array([0.5, np.nan]), "n": np.array([1, 2])})
    assert table.rows == [{"mean": 0.5, "n": 1}, {"mean": None, "n": 2}]


@pytest.mark.parametrize(
    "columns",
    [
        {"mean": [1.0], "n": [1], "other": [1]},
        {"mean": [1.0, 2.0], "n": [1]},
        {"mean": [1.0]},
        {"mean": ["x"], "n": [1]},
    ],
)
def test_columns_that_are_not_the_row_models_are_refused(columns):
    with pytest.raises(ValueError, match=r"unknown columns \['other'\]|argument 2 is shorter|n\n|mean\n"):
        Table.from_columns("t", Measured, columns)


def test_a_result_refuses_unknown_keys():
    with pytest.raises(ValidationError, match="extra"):
        ExperimentResult(**RESULT, sucess=True)


@pytest.mark.parametrize("value", [-1.0, math.nan])
def test_a_duration_is_a_number_of_seconds(value):
    with pytest.raises(ValidationError, match="duration_seconds"):
        ExperimentResult(**RESULT | {"duration_seconds": value})


def test_the_summary_is_the_headline_with_its_warnings():
    result = ExperimentResult(**RESULT, headline="It does.", diagnostics=Diagnostics(warnings=["few", "old"]))
    assert result.get_summary() == "It does.\nwarning: few\nwarning: old"


def test_the_summary_of_a_failure_says_what_went_wrong():
    failed: dict[str, Any] = RESULT | {"success": False, "error_message": "no such thing"}
    assert ExperimentResult(**failed).get_summary() == "family_1d_sweep of feature 18712 failed: no such thing"
