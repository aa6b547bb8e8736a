"""What a dry run announces is what the run then makes: forward passes within 10 %, and none for array passes."""

from __future__ import annotations

from typing import Any

import pytest
from mechinterp_runner.schemas.catalogue import find
from mechinterp_runner.schemas.experiment_type import runner_names
from mechinterp_runner.schemas.job import Job
from mechinterp_runner.schemas.spec import parse_spec

FEW = {"sample_size": 60}
CASES: dict[str, list[dict[str, Any]]] = {
    "family_1d_sweep": [{"family": "quick_respawn"}, {"family": "comeback"}],
    "family_2d_heatmap": [{"family_x": "quick_respawn", "family_y": "comeback"}],
    "pairwise_interactions": [
        {"candidate_tokens": ["quick_respawn", "swim_speed_up", "comeback"]},
        {"n_candidates": 5},
        {},
    ],
    "conditional_interactions": [
        {"modulator_token": "tenacity", "candidate_tokens": ["quick_super_jump", "sub_resistance_up", "haunt"]},
        {"modulator_token": "tenacity", "n_candidates": 5},
    ],
    "within_family_interference": [{"family": "quick_respawn"}],
    "minimal_cores": [{"max_examples": 20}],
    "weapon_sweep": [{"method": "interventional"}],
    "kit_sweep": [{"method": "interventional"}],
    "binary_presence_effect": [{}, {"primary_family": "quick_respawn"}],
    "token_influence_sweep": [{"min_samples": 10}],
}
MODEL_TYPES = [
    (name, index) for name in runner_names() if find(name).cost != "data" for index in range(len(CASES.get(name, [])))
]
DATA_TYPES = [name for name in runner_names() if find(name).cost == "data" and name != "decoder_output_analysis"]
"""The world has no output layer for a decoder to write to: that type is asked on the demo bundle, in its own tests."""


def a_spec(name: str, feature: int, variables: dict[str, Any]) -> Any:
    return parse_spec(
        {"id": "asked", "type": name, "feature_id": feature, "dataset_slice": FEW, "variables": variables}
    )


@pytest.mark.parametrize(("name", "index"), MODEL_TYPES)
def test_the_passes_announced_are_within_10_percent_of_those_made(name, index, fresh_world, feature):
    ctx, _ = fresh_world
    experiment, spec = find(name), a_spec(name, feature["modulated"], CASES[name][index])
    announced = experiment.plan(spec, ctx)
    job = Job()
    experiment.run(spec, ctx, job)
    assert job.passes_made > 0
    assert announced.forward_passes == pytest.approx(job.passes_made, rel=0.10)
    assert announced.contexts > 0
    assert announced.conditions


@pytest.mark.parametrize(("name", "index"), MODEL_TYPES)
def test_a_second_run_makes_no_pass_again(name, index, fresh_world, feature):
    ctx, _ = fresh_world
    experiment, spec = find(name), a_spec(name, feature["modulated"], CASES[name][index])
    experiment.run(spec, ctx, Job())
    again = Job()
    experiment.run(spec, ctx, again)
    assert again.passes_made == 0
    assert again.passes_saved > 0
    assert experiment.plan(spec, ctx).forward_passes == 0


@pytest.mark.parametrize("name", DATA_TYPES)
def test_a_type_that_reads_the_data_makes_no_pass_and_announces_none(name, fresh_world, feature):
    ctx, _ = fresh_world
    experiment, spec = find(name), a_spec(name, feature["dose"], {})
    assert experiment.plan(spec, ctx).forward_passes == 0
    job = Job()
    experiment.run(spec, ctx, job)
    assert job.passes_made == 0
