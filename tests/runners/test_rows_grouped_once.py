"""What is kept of the rows of one question must not answer another one."""

from __future__ import annotations

import numpy as np
import pytest

SWEEP, HEATMAP, FAMILY = "weapon_sweep", "family_2d_heatmap", "family_1d_sweep"
OBSERVED = {"method": "observational"}
AXES = {"family_x": "run_speed_up", "family_y": "ink_resistance_up"}


@pytest.mark.parametrize(
    ("type_name", "first", "then"),
    [
        (SWEEP, {}, {"condition_family": "run_speed_up"}),
        (SWEEP, {"condition_family": "run_speed_up"}, {"condition_family": "run_speed_up", "condition_rung": 12}),
        ("weapon_group_analysis", {}, {"slice": {"family_filter": ["run_speed_up"]}}),
        ("kit_sweep", {}, {"slice": {"sample_size": 400, "random_seed": 3}}),
        (FAMILY, OBSERVED | {"family": "run_speed_up"}, OBSERVED | {"family": "haunt"}),
        (HEATMAP, OBSERVED | AXES, OBSERVED | AXES | {"rungs_x": [0, 3]}),
        (HEATMAP, OBSERVED | AXES | {"rungs_x": [0, 3]}, OBSERVED | AXES | {"rungs_x": [0, 6], "rungs_y": [3]}),
        (HEATMAP, OBSERVED | AXES, OBSERVED | AXES | {"slice": {"random_seed": 5}}),
    ],
)
def test_a_question_after_another_is_answered_as_if_it_came_first(
    fresh_world, make_world, tmp_path, ask, type_name, first, then
):
    used, unused = fresh_world[0], make_world(tmp_path / "unused", n_builds=300)[0]
    ask(used, type_name, "and", **first)
    after, alone = ask(used, type_name, "and", **then), ask(unused, type_name, "and", **then)
    assert after.findings.model_dump(exclude={"followups"}) == alone.findings.model_dump(exclude={"followups"})
    assert [table.rows for table in after.findings.tables if table.rows]


def test_another_feature_of_the_same_rows_is_answered_as_if_it_came_first(fresh_world, make_world, tmp_path, ask):
    used, unused = fresh_world[0], make_world(tmp_path / "unused", n_builds=300)[0]
    for type_name in (SWEEP, "weapon_group_analysis", "kit_sweep"):
        ask(used, type_name, "and")
        after, alone = ask(used, type_name, "or"), ask(unused, type_name, "or")
        assert after.findings.model_dump(exclude={"followups"}) == alone.findings.model_dump(exclude={"followups"})


def test_pre_activations_of_the_examples_are_the_encoder_s_and_what_activations_clamp(world, feature):
    for index in (feature["and"], feature["random_0"]):
        pre = world.pre_activations(index)
        pooled = np.asarray(world.pooled_of(np.arange(len(world.data))), dtype=np.float64)
        np.testing.assert_allclose(pre, world.sae.pre_activation(pooled, index), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(world.activations(index), np.clip(pre, 0.0, 6.0), atol=1e-4)
        assert world.pre_activations(index) is pre
        assert not pre.flags.writeable
