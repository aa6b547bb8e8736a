"""What a family sweep says where the data are few, where nothing may be asked, and where no error is left."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from mechinterp_runner.context.contexts import load_context
from mechinterp_runner.schemas.catalogue import find
from mechinterp_runner.schemas.errors import RequestError
from mechinterp_runner.schemas.spec import parse_spec

SWEEP = "family_1d_sweep"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return load_context("demo", home=tmp_path_factory.mktemp("home"), device="cpu")


def test_levels_that_cannot_be_judged_are_named_and_not_denied(ask, demo):
    answer = ask(demo, SWEEP, 9, family="ink_saver_sub", method="observational", slice={"sample_size": 600})
    for rung in (6, 12, 15, 21):
        row = answer.row("rung_stats", rung=rung)
        assert row["n"] < 20
        assert row["within_weapon_delta"] > 1.9
    assert answer.custom["unjudged_rungs"] == [6, 12, 15, 21, 29, 38, 51, 57]
    start = "nothing can be said of ink_saver_sub (ISS) and feature 9 at 6, 12, 15, 21, 29, 38, 51 and 57 AP"
    assert answer.headline.startswith(start)
    assert "nothing above" not in answer.headline
    assert "at 3 AP" in answer.headline
    quiet = ask(demo, SWEEP, 13, family="swim_speed_up", method="observational")
    assert quiet.headline.startswith("nothing above")
    assert "too few examples to judge 29, 38, 51 and 57 AP (n = 0 to 12)" in quiet.headline


@pytest.mark.parametrize("method", ["interventional", "observational"])
@pytest.mark.parametrize("rungs", [[], [0]])
def test_rungs_without_a_level_above_0_are_refused_before_anything_runs(ask, world, method, rungs):
    given = {"family": "special_charge_up", "rungs": rungs, "method": method}
    with pytest.raises(RequestError, match=r"no level above 0.*Nothing was run"):
        ask(world, SWEEP, "threshold", **given)
    with pytest.raises(RequestError, match="no level above 0"):
        find(SWEEP).plan(parse_spec({"type": SWEEP, "feature_id": 0, "variables": given}), world)


@pytest.mark.parametrize("given", [{"stable_tokens": ["comeback"]}, {"encoding": "single"}])
def test_what_only_an_intervention_can_do_is_refused_in_the_data(ask, world, given):
    with pytest.raises(RequestError, match=r"is written into builds.*writes nothing"):
        ask(world, SWEEP, "threshold", family="special_charge_up", method="observational", **given)


def test_the_data_are_judged_at_the_rungs_asked_for_alone(ask, world):
    answer = ask(world, SWEEP, "and", family="run_speed_up", rungs=[6, 13], method="observational")
    rows = answer.rows("rung_stats")
    assert {row["rung"] for row in rows} == {0, 3, 6, 12, 15, 21, 29, 38, 51, 57}
    assert [row["rung"] for row in rows if row["status"] or row["q_value"] is not None] == [6, 12]
    assert "not among the rungs asked for" in answer.row("rung_stats", rung=15)["reason"]
    top = answer.row("rung_stats", rung=answer.custom["max_rung"])
    ratio = (answer.custom["max_rung_delta_high"] - top["within_weapon_delta"]) / (
        top["within_high"] - top["within_weapon_delta"]
    )
    # Sidak over the two levels asked for, not over all nine.
    assert ratio == pytest.approx(scipy.stats.norm.ppf(0.5 + 0.95**0.5 / 2) / scipy.stats.norm.ppf(0.975), rel=2e-3)
    missing = sum(row["q_value"] is None for row in rows[1:])
    notes = next(table.notes for table in answer.findings.tables if table.name == "rung_stats")
    assert notes == [f"{missing} levels without a p value: left out of q"]
    assert any("rung 13" in warning for warning in answer.job.warnings)


def test_the_data_give_the_onset_and_the_largest_delta_and_a_reason_for_the_rest(ask, world):
    answer = ask(world, SWEEP, "threshold", family="special_charge_up", method="observational")
    present = [row["rung"] for row in answer.rows("rung_stats") if row["status"] == "present"]
    assert answer.custom["onset_rung"] == min(present) == 29
    top = answer.row("rung_stats", rung=answer.custom["max_rung"])
    assert answer.custom["max_rung_delta"] == top["within_weapon_delta"]
    for name in ("shape", "threshold_rung", "half_max_rung", "saturation_rung", "trend", "confounding_gap"):
        assert answer.custom[name] is None
    assert "method 'interventional'" in answer.custom["curve_reason"]


def test_a_gap_beside_few_changing_contexts_is_as_wide_as_the_bounds_of_their_effect(ask, demo):
    answer = ask(demo, SWEEP, 0, family="comeback")
    row, seen = answer.row("confounding", rung=10), answer.row("rung_stats", rung=10)
    effect = answer.row("rung_deltas", rung=10)
    data = seen["delta_from_baseline"] - seen["delta_low"]
    assert row["ci_low"] == pytest.approx(row["gap"] - np.hypot(data, effect["sim_high"] - effect["mean_delta"]))
    assert row["ci_high"] == pytest.approx(row["gap"] + np.hypot(data, effect["mean_delta"] - effect["sim_low"]))
    assert row["ci_high"] - row["ci_low"] > effect["sim_high"] - effect["sim_low"] > 0.1


def test_a_single_level_has_no_shape_and_says_why(ask, world):
    one = ask(world, SWEEP, "threshold", family="special_charge_up", rungs=[0, 41])
    main_only = ask(world, SWEEP, "main_only", family="comeback")
    for answer in (one, main_only):
        assert (answer.custom["shape"], answer.custom["threshold_rung"]) == (None, None)
        assert "fewer than 2 levels" in answer.custom["shape_reason"]
        assert "step" not in answer.headline
    assert "at 38 AP;" in one.headline
    two = ask(world, SWEEP, "threshold", family="special_charge_up", rungs=[21, 41])
    assert (two.custom["shape"], two.custom["threshold_rung"], two.custom["shape_reason"]) == ("step", 38, None)


def test_where_all_examples_are_run_a_note_says_that_no_sampling_error_is_left(ask, world):
    census = "all examples of the slice were run: no sampling error is left"
    whole = ask(world, SWEEP, "and", family="run_speed_up", rungs=[6, 12], slice={"weapon_filter": [40]})
    assert whole.row("rung_deltas", rung=6)["std_error"] == 0.0
    assert census in whole.findings.diagnostics.notes
    part = ask(world, SWEEP, "and", family="run_speed_up", rungs=[6], slice={"weapon_filter": [40], "sample_size": 50})
    assert census not in part.findings.diagnostics.notes


def test_a_winner_that_cannot_be_confirmed_says_why(ask, world):
    few = ask(world, SWEEP, "threshold", family="special_charge_up", rungs=[29], slice={"sample_size": 39})
    assert few.custom["verdict"] == "present"
    assert few.custom["winner_confirmed"] is None
    assert "fewer than 40 contexts" in few.custom["winner_confirmed_reason"]
    many = ask(world, SWEEP, "threshold", family="special_charge_up", rungs=[29], slice={"sample_size": 40})
    assert (many.custom["winner_confirmed"], many.custom["winner_confirmed_reason"]) == (True, None)
    nothing = ask(world, SWEEP, "threshold", family="swim_speed_up", rungs=[29], slice={"sample_size": 40})
    assert (nothing.custom["winner_confirmed"], nothing.custom["winner_confirmed_reason"]) == (None, "nothing acts")


def test_the_network_is_asked_about_builds_none_of_which_is_active_and_the_data_say_so(ask, world):
    without = {"family_exclude": ["comeback"], "sample_size": 60}
    written = ask(world, SWEEP, "main_only", family="comeback", slice=without)
    assert written.row("rung_deltas", label="present")["mean_delta"] == pytest.approx(1.5)
    silent = ask(world, SWEEP, "main_only", family="swim_speed_up", method="observational", slice=without)
    assert silent.headline.startswith("nothing found: none of the 60 examples")


def test_an_effect_in_some_contexts_only_says_in_how_many_and_asks_what_else_it_needs(ask, world):
    answer = ask(world, "family_1d_sweep", "and", family="run_speed_up")
    row = answer.rows("rung_deltas")[-1]
    assert row["status"] == "present"
    assert f"({row['mean_responders']:+.2f} in {row['responder_rate']:.0%} of contexts)" in answer.headline
    assert answer.findings.followups[0].spec["type"] == "pairwise_interactions"


def test_what_the_data_show_and_writing_does_not_asks_for_gaps_in_the_tokens(ask, world):
    answer = ask(world, "family_1d_sweep", "gap", family="swim_speed_up")
    assert answer.headline.startswith("nothing")
    assert [each.spec["type"] for each in answer.findings.followups] == ["within_family_interference"]
    again = ask(world, "within_family_interference", "gap", **answer.findings.followups[0].spec["variables"])
    assert "swim_speed_up_3" in again.headline


def test_levels_written_on_top_are_announced(ask, world):
    answer = ask(world, "family_1d_sweep", "dose", family="quick_respawn", constraints=["max_ap_budget"])
    assert any("written on top" in warning for warning in answer.job.warnings)
