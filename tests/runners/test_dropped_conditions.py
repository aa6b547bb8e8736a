"""Conditions are dropped when their own constraints cost contexts, never for what the base or a small sample costs."""

from __future__ import annotations

import numpy as np

SWEEP = "family_1d_sweep"


def test_contexts_that_the_base_already_breaks_cost_no_condition(ask, world):
    answer = ask(
        world,
        SWEEP,
        "threshold",
        family="special_charge_up",
        stable_tokens=["comeback"],
        slice={"sample_size": 50},
    )
    assert [row["rung"] for row in answer.rows("rung_deltas")] == [0, *world.vocabulary.rungs("special_charge_up")]
    assert answer.findings.diagnostics.n_contexts_tested < 50
    assert "a step at 29 AP" in answer.headline


def test_a_rung_that_most_builds_cannot_hold_is_dropped_and_named(ask, world):
    given = {"constraints": ["one_rung_per_family", "max_ap_budget"], "slice": {"sample_size": 400}}
    answer = ask(world, SWEEP, "threshold", family="special_charge_up", **given)
    rungs = [row["rung"] for row in answer.rows("rung_deltas")]
    assert 57 not in rungs
    assert any("special_charge_up 57" in warning and "dropped" in warning for warning in answer.job.warnings)
    others = np.delete(np.arange(len(world.vocabulary.families)), world.vocabulary.family_index["special_charge_up"])
    budget = np.asarray(world.data.levels[:, others]).sum(axis=1) + max(rungs) <= 57
    assert budget.mean() * 400 > 40
