"""The experiment types are those of the methods and those found on disk."""

from pathlib import Path

import mechinterp_runner.schemas.experiment_type as module
from mechinterp_runner.schemas.experiment_type import ExperimentType, runner_names

OF_THE_METHODS = {
    "family_1d_sweep", "family_2d_heatmap", "frequent_itemsets", "minimal_cores", "pairwise_interactions",
    "conditional_interactions", "split_half", "shuffle_null", "weapon_sweep", "kit_sweep", "binary_presence_effect",
    "core_coverage_analysis", "token_influence_sweep", "within_family_interference", "weapon_group_analysis",
    "decoder_output_analysis", "feature_overview",
}  # fmt: skip
RUNNERS = Path(module.__file__).parents[1] / "runners"


def test_the_types_are_the_methods_seventeen_and_those_discovered():
    assert len(OF_THE_METHODS) == 17
    assert {str(member) for member in ExperimentType} == OF_THE_METHODS | set(runner_names())


def test_what_can_run_is_what_has_a_file():
    assert set(runner_names()) == {path.stem for path in RUNNERS.glob("[!_]*.py")}


def test_a_type_is_its_name_and_its_constant_the_name_in_capitals():
    assert ExperimentType.FAMILY_1D_SWEEP == "family_1d_sweep"
    assert all(member.name == member.value.upper() for member in ExperimentType)
