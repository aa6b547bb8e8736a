"""The Python door."""

from __future__ import annotations

import mechinterp_runner
import pytest
from mechinterp_runner import ExperimentSpec, ExperimentType, get_runner_for_type, load_context, run, to_frame
from mechinterp_runner.schemas.errors import RequestError
from mechinterp_runner.schemas.result import Followup
from mechinterp_runner.server.store.store import Store


@pytest.fixture
def spec():
    variables = {"family": "swim_speed_up", "method": "observational"}
    return ExperimentSpec(type=ExperimentType.FAMILY_1D_SWEEP, feature_id=1, variables=variables)


def test_a_spec_runs_on_an_open_bundle_and_is_stored(home, data_bundle, spec):
    context = load_context("toy")
    result = run(spec, context)
    assert result.success, result.error_message
    assert result.aggregates is not None
    assert result.headline in result.get_summary()
    assert Store(home.runs).result(spec.id) == result


def test_without_a_context_the_bundle_of_the_spec_is_opened(home, data_bundle, spec):
    assert run(spec).provenance.bundle == "toy"


def test_a_spec_in_its_json_form_runs_as_the_spec_does(home, data_bundle, spec):
    context = load_context("toy")
    data = spec.model_dump(mode="json")
    assert run(data, context).spec_id == spec.id
    assert get_runner_for_type(spec.type).run(data, context).cached_from == spec.id
    assert run(spec, context).cached_from == spec.id


def test_a_followup_runs_by_its_spec_and_not_by_itself(home, data_bundle):
    context = load_context("toy")
    first = run({"type": "feature_overview", "feature_id": 1}, context)
    followup = Followup(
        reason="look again", spec={"type": "weapon_sweep", "feature_id": 1, "parent_spec_id": first.spec_id}
    )
    assert run(followup.spec, context).provenance.parent_spec_id == first.spec_id
    for wrong in (followup, followup.model_dump()):
        with pytest.raises(RequestError, match=r"such as a followup: pass its `spec`"):
            run(wrong, context)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("weapon_sweep", "a spec is a JSON object; got text"),
        ([], "a spec is a JSON object; got a list"),
        ({"type": "family_1d_sweep", "feature_id": 1}, "missing argument 'variables' with 'family' in it"),
        ({"type": "weapon_sweep", "feature_id": 1, "sample_size": 3}, "it belongs in 'dataset_slice'"),
    ],
)
def test_what_is_no_spec_is_refused_in_words_before_anything_is_run(home, data_bundle, wrong, told):
    with pytest.raises(RequestError, match=f"{told}.*Nothing was run"):
        run(wrong, load_context("toy"))
    assert not home.runs.exists()


def test_the_name_of_a_bundle_is_no_context(home, spec):
    with pytest.raises(RequestError, match=r"pass load_context\('toy'\)\. Nothing was run"):
        run(spec, "toy")


def test_a_percentile_that_looks_like_a_fraction_is_a_warning_of_the_result(home, data_bundle):
    data = {"type": "weapon_sweep", "feature_id": 1, "dataset_slice": {"percentile_min": 0.9}}
    warnings = run(data, load_context("toy")).diagnostics.warnings
    assert [warning for warning in warnings if warning.startswith("percentile_min 0.9 was read as 0.9 %")]


def test_a_runner_runs_its_own_type_only(home, data_bundle, spec):
    context = load_context("toy")
    assert get_runner_for_type(spec.type).run(spec, context).success
    other = ExperimentSpec(type="weapon_sweep", feature_id=1, variables={})
    with pytest.raises(RequestError, match=r"runs 'family_1d_sweep'; the spec is a 'weapon_sweep'"):
        get_runner_for_type(ExperimentType.FAMILY_1D_SWEEP).run(other, context)


def test_a_type_that_is_unknown_names_the_nearest(toy):
    with pytest.raises(RequestError, match="did you mean 'family_1d_sweep'"):
        get_runner_for_type("family_1d_swep")


def test_results_go_to_the_home_that_is_named(data_bundle, spec, tmp_path):
    result = run(spec, load_context("toy"), home=tmp_path / "elsewhere", output_dir=tmp_path / "out")
    assert Store(tmp_path / "elsewhere" / "runs").path(result.spec_id).is_file()
    assert (tmp_path / "out" / spec.file_name()).is_file()


def test_a_table_becomes_a_data_frame_with_its_columns_in_order(home, data_bundle, spec):
    result = run(spec, load_context("toy"))
    frame = to_frame(result, "rung_stats")
    assert list(frame.columns) == result.tables["rung_stats"].columns
    assert int(frame["n"].sum()) == 600
    with pytest.raises(RequestError, match="did you mean 'rung_stats'"):
        to_frame(result, "rung_stat")


def test_a_name_the_package_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mechinterp_runner.nothing
