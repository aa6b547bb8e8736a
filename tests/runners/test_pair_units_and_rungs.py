"""What a pair may be made of, and what is said of it: rungs, constraints, intervals, cleared gear."""

from __future__ import annotations

import numpy as np
import pytest
from mechinterp_runner.runners.design.interventions import draw
from mechinterp_runner.schemas.catalogue import find
from mechinterp_runner.schemas.errors import RequestError
from mechinterp_runner.schemas.job import Job
from mechinterp_runner.schemas.spec import parse_spec
from scipy import stats

PAIRS = "pairwise_interactions"
FOUR = ["run_speed_up", "ink_resistance_up", "ninja_squid", "special_saver"]


def spec_of(feature: int, *, part: dict | None = None, **variables):
    return parse_spec({"type": PAIRS, "feature_id": feature, "dataset_slice": part or {}, "variables": variables})


def test_in_the_data_a_unit_is_held_from_its_own_rung_on(ask, world, feature):
    values = np.asarray(world.activations(feature["dose"]), dtype=np.float64)
    level, where = np.asarray(world.data.levels), world.vocabulary.family_index
    jump = level[:, where["run_speed_up"]] >= 6
    seen = set()
    for rung in (6, 15):
        row = ask(
            world,
            PAIRS,
            "dose",
            method="observational",
            candidate_tokens=[f"quick_respawn_{rung}", "run_speed_up_6"],
        ).rows("pairs")[0]
        held = level[:, where["quick_respawn"]] >= rung
        assert row["n_both"] == int((held & jump).sum())
        assert row["f00"] == pytest.approx(values[~held & ~jump].mean())
        seen.add(row["delta_a"])
    assert len(seen) == 2


@pytest.mark.parametrize("tokens", [["run_speed_up_0", "ink_resistance_up"], ["comeback_0", "ink_resistance_up"]])
def test_zero_ap_is_no_candidate(world, feature, tokens):
    for act in (find(PAIRS).plan, lambda spec, ctx: find(PAIRS).run(spec, ctx, Job())):
        with pytest.raises(RequestError, match=r"at 0 AP: its absence.*Nothing was run\."):
            act(spec_of(feature["and"], candidate_tokens=tokens), world)


@pytest.mark.parametrize("method", ["interventional", "observational"])
def test_ap_that_is_no_rung_is_resolved_with_a_warning(ask, world, feature, method):
    given = {"candidate_tokens": ["run_speed_up_14", "ink_resistance_up"], "rung": 13, "method": method}
    answer = ask(world, PAIRS, "and", slice={"sample_size": 2000 if method == "observational" else 60}, **given)
    assert set(answer.custom["top_pair"]) == {"run_speed_up_12", "ink_resistance_up_12"}
    planned = find(PAIRS).plan(spec_of(feature["and"], **given), world)
    for warning in (
        "rung 13 is no rung of the vocabulary: 12 is used, as the tokenizer does",
        "run_speed_up_14: rung 14 is no rung of the vocabulary: 12 is used, as the tokenizer does",
    ):
        assert warning in answer.job.warnings
        assert warning in planned.notes


def test_two_tokens_of_one_family_break_the_constraint_unless_it_is_lifted(ask, world):
    given = {"candidate_tokens": ["swim_speed_up_3", "swim_speed_up_12", "run_speed_up_6"], "family_mode": False}
    kept = ask(world, PAIRS, "gap", slice={"sample_size": 60}, **given)
    broken = next(v for v in kept.findings.diagnostics.constraint_violations if v.id == "one_rung_per_family")
    assert (broken.hard, broken.contexts) == (False, 60)
    assert broken.example == "swim_speed_up_3 and swim_speed_up_12 in one build"
    assert any(text.startswith("one_rung_per_family is broken by 1 pair") for text in kept.job.warnings)
    lifted = ask(world, PAIRS, "gap", slice={"sample_size": 60}, constraints=[], **given)
    assert len(lifted.rows("pairs")) == len(kept.rows("pairs")) == 3
    assert all(v.id != "one_rung_per_family" for v in lifted.findings.diagnostics.constraint_violations)
    assert not any("one_rung_per_family" in text for text in lifted.job.warnings)


def test_each_pairs_own_interval_is_students_and_lies_in_the_simultaneous_one(ask, world, feature):
    part = {"sample_size": 200}
    answer = ask(world, PAIRS, "dose", slice=part, candidate_tokens=["quick_respawn_29", "ninja_squid", "haunt"])
    for row in answer.rows("pairs"):
        assert row["sim_low"] <= row["ci_low"] <= row["interaction"] <= row["ci_high"] <= row["sim_high"]
    data = ask(world, PAIRS, "and", method="observational").rows("synergies")[0]
    clusters = len(np.unique(world.data.clusters))
    half = stats.t.ppf(0.975, clusters - 1) * data["std_error"]
    assert data["ci_low"] == pytest.approx(data["interaction"] - half)
    assert data["ci_high"] == pytest.approx(data["interaction"] + half)


def test_an_unconfirmed_winner_has_its_reason(ask, world):
    few = ask(world, PAIRS, "and", candidate_tokens=FOUR, slice={"sample_size": 30})
    assert few.custom["winner_confirmed"] is None
    assert few.custom["winner_confirmed_reason"] == "fewer than 40 contexts: too few to split"
    none = ask(world, PAIRS, "additive", candidate_tokens=FOUR, slice={"sample_size": 60})
    assert "there is no winner" in none.custom["winner_confirmed_reason"]
    sure = ask(world, PAIRS, "and", candidate_tokens=FOUR, slice={"sample_size": 60})
    assert "winner_confirmed_reason" not in sure.custom


def test_contexts_that_lose_another_main_only_ability_are_counted(ask, world, feature):
    part = {"sample_size": 90}
    answer = ask(world, PAIRS, "and", slice=part, candidate_tokens=["comeback", "run_speed_up"])
    sets, vocabulary = draw(spec_of(feature["and"], part=part), world).sets, world.vocabulary
    rivals = [f for f in vocabulary.main_only if vocabulary.slot(f) == vocabulary.slot("comeback") and f != "comeback"]
    lost = int(sets.present[:, [vocabulary.token_id[each] for each in rivals]].any(axis=1).sum())
    assert lost > 0
    notes = answer.findings.diagnostics.notes
    assert f"in {lost} of 90 contexts another main-only ability was taken out, to free a unit's gear slot" in notes
    plain = ask(world, PAIRS, "and", slice=part, candidate_tokens=["ink_resistance_up", "run_speed_up"])
    assert not any("main-only ability was taken out" in note for note in plain.findings.diagnostics.notes)


def test_one_context_is_refused_before_any_pass(fresh_world, feature):
    ctx, _ = fresh_world
    job = Job()
    for act in (find(PAIRS).plan, lambda spec, ctx: find(PAIRS).run(spec, ctx, job)):
        with pytest.raises(RequestError, match="at least 2 contexts are needed"):
            act(spec_of(feature["and"], part={"sample_size": 1}, n_candidates=3), ctx)
    assert job.passes_made == 0


def test_chosen_tokens_never_pair_two_rungs_of_one_family(ask, world):
    answer = ask(world, PAIRS, "gap", n_candidates=4, family_mode=False, slice={"sample_size": 60})
    families = [unit.rsplit("_", 1)[0] for unit in answer.custom["units"]]
    assert len(families) == len(set(families)) == 4
