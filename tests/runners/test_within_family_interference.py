"""Within-family interference against a rule that reads tokens, rules that read levels, and the demo's planted gap."""

from __future__ import annotations

import numpy as np
import pytest
from mechinterp_runner.context.bundle import Bundle
from mechinterp_runner.context.context import Context
from mechinterp_runner.context.contexts import load_context
from mechinterp_runner.schemas.catalogue import find
from mechinterp_runner.schemas.errors import Cancelled, RequestError
from mechinterp_runner.schemas.job import Job
from mechinterp_runner.schemas.spec import parse_spec

KIND, SWIM = "within_family_interference", "swim_speed_up"
FEW = {"sample_size": 100}
RUNGS = (3, 6, 12, 15, 21, 29, 38, 51, 57)


@pytest.fixture(scope="module")
def gap(ask, world):
    """The rule: token swim_speed_up_12 without token swim_speed_up_3, 2.0 high."""
    return ask(world, KIND, "gap", family=SWIM, slice=FEW)


def test_every_pair_and_every_thermometer_above_the_lowest_rung_is_a_row(gap):
    rows = gap.rows("interference")
    pairs = {(row["low_rung"], row["high_rung"]) for row in rows if row["comparison"] == "pair"}
    assert pairs == {(low, high) for low in RUNGS for high in RUNGS if low < high}
    assert [row["high_rung"] for row in rows if row["comparison"] == "thermometer"] == list(RUNGS[1:])
    assert len(rows) == 36 + 8


def test_the_deltas_are_those_the_rule_gives_by_hand(gap):
    for row in gap.rows("interference"):
        high, low = row["high_rung"], row["low_rung"]
        alone = 2.0 if high == 12 else 0.0
        held = {high, low} if low is not None else {rung for rung in RUNGS if rung <= high}
        both = 2.0 if 12 in held and 3 not in held else 0.0
        assert row["activation_high"] == pytest.approx(alone, abs=1e-6)
        assert row["activation_both"] == pytest.approx(both, abs=1e-6)
        assert row["mean_delta"] == pytest.approx(both - alone, abs=1e-6)
        assert row["delta"] == row["mean_delta"]
        if low is not None:
            assert row["activation_low"] == pytest.approx(2.0 if low == 12 else 0.0, abs=1e-6)


def test_the_headline_names_the_lower_rung_that_silences_the_feature(gap, feature):
    start = f"adding swim_speed_up_3 to swim_speed_up_12 silences feature {feature['gap']}: -2.00 "
    assert gap.headline.startswith(start)
    assert "of 43 other comparisons 1 lower and 6 raise it" in gap.headline
    assert "out of distribution" in gap.headline
    assert gap.headline.endswith("100 contexts of all examples; interventional.")
    assert gap.custom["interfering_pairs"] == [[3, 12]]
    assert gap.custom["supporting_pairs"] == [[12, high] for high in RUNGS if high > 12]
    assert gap.custom["thermometer_rungs"] == [12]
    assert gap.custom["verdict"] == "present"
    assert gap.custom["specificity_p"] <= 0.05
    assert gap.custom["winner_confirmed"] is True
    assert gap.findings.findings[0].relation == f"lowers feature {feature['gap']}"


def test_natural_occurrences_are_counted_in_the_examples(ask, world):
    answer = ask(world, KIND, "gap", family=SWIM, rungs=[3, 12])
    tokens = world.data.token_matrix(np.arange(len(world.data))).toarray() > 0
    three, six, twelve = (tokens[:, world.vocabulary.token_id[f"{SWIM}_{rung}"]] for rung in (3, 6, 12))
    pair = answer.row("interference", comparison="pair", low_rung=3, high_rung=12)
    assert (pair["n_data_alone"], pair["n_data_both"]) == ((twelve & ~three).sum(), (twelve & three).sum())
    thermometer = answer.row("interference", comparison="thermometer", high_rung=12)
    assert thermometer["n_data_alone"] == (twelve & ~three & ~six).sum()
    assert thermometer["n_data_both"] == (twelve & three & six).sum()


def test_a_conditional_interference_is_found_where_it_acts_and_said_to_be_conditional(ask, world, feature, monkeypatch):
    """The gap counts only beside two abilities that few builds hold together."""
    column = feature["gap"]
    needed = [world.vocabulary.token_id[token] for token in ("comeback", "special_saver_3")]
    vectors = world.oracle.vectors

    def rarely(sets):
        found = vectors(sets)
        found[:, column] *= sets.present[:, needed].all(axis=1)
        return found

    monkeypatch.setattr(world.oracle, "vectors", rarely)
    answer = ask(world, KIND, "gap", family=SWIM, rungs=[3, 12], slice={"sample_size": 800})
    row = answer.row("interference", comparison="pair")
    assert row["status"] == "conditional"
    assert row["mean_responders"] == pytest.approx(-2.0)
    assert f"lowers feature {column} in {row['responder_rate']:.1%} of contexts, by -2.00 there" in answer.headline


@pytest.mark.parametrize(
    ("name", "family"), [("threshold", "special_charge_up"), ("dose", "quick_respawn"), ("and", "run_speed_up")]
)
def test_a_rule_on_levels_hears_nothing_of_lower_rungs(ask, world, name, family):
    answer = ask(world, KIND, name, family=family, slice=FEW)
    assert answer.headline.startswith("nothing above")
    assert all(row["mean_delta"] == 0.0 for row in answer.rows("interference"))
    assert answer.custom["verdict"] == "nothing_specific"
    assert answer.findings.followups == []


@pytest.mark.parametrize("name", ["random_0", "random_1"])
@pytest.mark.parametrize("family", [SWIM, "quick_respawn"])
def test_a_random_direction_gets_nothing(ask, world, name, family):
    assert ask(world, KIND, name, family=family, slice=FEW).headline.startswith("nothing")


def test_a_family_outside_the_rule_gets_nothing(ask, world):
    assert ask(world, KIND, "gap", family="ink_recovery_up", slice=FEW).headline.startswith("nothing above")


def test_a_dead_feature_is_dead(ask, world):
    answer = ask(world, KIND, "dead", family=SWIM)
    assert answer.findings.findings[0].status == "dead"
    assert answer.rows("interference") == []
    assert answer.job.passes_made == 0


def test_the_context_s_own_tokens_of_the_family_are_taken_out_first(ask, world):
    """Without that, a context holding swim_speed_up_3 would be silent from the start."""
    answer = ask(world, KIND, "gap", family=SWIM, rungs=[3, 12], slice={"family_filter": [SWIM], "sample_size": 60})
    row = answer.row("interference", comparison="pair")
    assert row["activation_high"] == pytest.approx(2.0)
    assert row["responder_rate"] == 1.0


@pytest.mark.parametrize(("rungs", "comparisons"), [([3, 12], 2), ([12], 1), ([3, 6, 57], 5), ([6], 1)])
def test_chosen_rungs_make_their_pairs_and_thermometers(ask, world, rungs, comparisons):
    answer = ask(world, KIND, "gap", family=SWIM, rungs=rungs, slice={"sample_size": 60})
    assert len(answer.rows("interference")) == answer.custom["n_comparisons"] == comparisons


def test_an_ap_between_rungs_is_read_as_the_tokenizer_does_with_a_warning(ask, world):
    answer = ask(world, KIND, "gap", family=SWIM, rungs=[4, 41], slice={"sample_size": 60})
    row = answer.row("interference", comparison="pair")
    assert (row["low_rung"], row["resolved_low"], row["high_rung"], row["resolved_high"]) == (4, 3, 41, 38)
    assert "rung 41 is no rung of the vocabulary: 38 is used, as the tokenizer does" in answer.job.warnings


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"family": "comeback"}, "main-only ability: it has one rung.*Nothing was run"),
        ({"family": SWIM, "rungs": [3]}, "nothing to compare.*Nothing was run"),
        ({"family": SWIM, "rungs": [3, 4]}, "nothing to compare"),
        ({"family": SWIM, "rungs": [2, 12]}, "rung 2 of 'swim_speed_up' is out of range"),
        ({"family": "swim_sped_up"}, "swim_speed_up"),
    ],
)
def test_what_cannot_be_compared_is_an_error_in_plan_and_run(ask, world, variables, message):
    spec = parse_spec({"type": KIND, "feature_id": 0, "variables": variables})
    for door in (lambda: find(KIND).plan(spec, world), lambda: find(KIND).run(spec, world, Job())):
        with pytest.raises(RequestError, match=message):
            door()


def test_the_family_is_required():
    with pytest.raises(RequestError, match=r"missing argument 'variables.family'|missing argument 'variables'"):
        parse_spec({"type": KIND, "feature_id": 0, "variables": {}})


def test_without_a_model_it_is_an_error(world):
    silent = Context("silent", Bundle.open(world.bundle.path))
    spec = parse_spec({"type": KIND, "feature_id": 0, "variables": {"family": SWIM}})
    with pytest.raises(RequestError, match="needs the model"):
        find(KIND).run(spec, silent, Job())
    with pytest.raises(RequestError, match="needs the model"):
        find(KIND).plan(spec, silent)


def test_the_default_constraint_is_said_not_to_apply(ask, world, gap):
    assert any("one_rung_per_family does not apply" in note for note in gap.findings.diagnostics.notes)
    free = ask(world, KIND, "gap", family=SWIM, slice=FEW, constraints=[])
    assert not any("one_rung_per_family" in note for note in free.findings.diagnostics.notes)
    assert [row["mean_delta"] for row in free.rows("interference")] == gap.findings.tables[0].column("mean_delta")


LISTED = ["one_rung_per_family", "max_ap_budget"]


def test_a_listed_budget_drops_the_highest_rungs_and_their_comparisons(ask, world):
    answer = ask(world, KIND, "gap", family=SWIM, slice={"sample_size": 1500}, constraints=LISTED)
    assert any("dropped" in warning for warning in answer.job.warnings)
    rungs = {row["high_rung"] for row in answer.rows("interference")}
    assert 12 in rungs
    assert 57 not in rungs
    assert answer.row("interference", low_rung=3, high_rung=12)["mean_delta"] == pytest.approx(-2.0)


def test_a_budget_that_leaves_no_comparison_is_an_error_that_names_it(ask, world):
    with pytest.raises(RequestError, match=r"max_ap_budget.*Nothing was run"):
        ask(world, KIND, "gap", family=SWIM, rungs=[51, 57], slice={"sample_size": 80}, constraints=LISTED)


def test_the_plan_announces_the_passes_and_each_distinct_set_is_run_once(fresh_world):
    ctx, _ = fresh_world
    fields = {"type": KIND, "feature_id": 0, "variables": {"family": SWIM}, "dataset_slice": {"sample_size": 40}}
    announced, job = find(KIND).plan(parse_spec(fields), ctx), Job()
    find(KIND).run(parse_spec(fields), ctx, job)
    assert announced.forward_passes == job.passes_made
    spec = parse_spec(fields)
    rows = ctx.population(spec.dataset_slice, 0).rows
    bases = len(np.unique(ctx.sets(rows).without(SWIM, ctx.vocabulary).keys()))
    # Nothing, 9 tokens alone, 36 pairs, 7 thermometers of three tokens and more (that of 6 AP is the pair 3 and 6).
    assert job.passes_made == bases * (1 + 9 + 36 + 7)


def test_a_dead_feature_plans_no_passes(world, feature):
    spec = parse_spec({"type": KIND, "feature_id": feature["dead"], "variables": {"family": SWIM}})
    assert find(KIND).plan(spec, world).forward_passes == 0


def test_the_same_question_has_the_same_answer_and_followups_are_ready_to_run(ask, world, gap):
    again = ask(world, KIND, "gap", family=SWIM, slice=FEW)
    assert again.findings.tables == gap.findings.tables
    assert [each.spec["type"] for each in gap.findings.followups] == ["family_1d_sweep", "minimal_cores"]
    for each in gap.findings.followups:
        assert each.runnable
        parse_spec(each.spec)


def test_a_cancelled_run_stops(world):
    spec = parse_spec({"type": KIND, "feature_id": 14, "variables": {"family": SWIM}})
    with pytest.raises(Cancelled):
        find(KIND).run(spec, world, Job(is_cancelled=lambda: True))


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return load_context("demo", home=tmp_path_factory.mktemp("home"), device="cpu")


def test_the_network_s_planted_gap_is_found_with_its_height(ask, demo):
    answer = ask(demo, KIND, 11, family=SWIM, slice=FEW)
    assert answer.headline.startswith("adding swim_speed_up_3 to swim_speed_up_12 silences feature 11: -2.0")
    assert answer.row("interference", low_rung=3, high_rung=12)["mean_delta"] == pytest.approx(-2.0, rel=0.05)
    assert answer.custom["interfering_pairs"] == [[3, 12]]


@pytest.mark.parametrize("feature", [6, 7, 8, 13, 14])
def test_the_network_s_other_features_hear_nothing_of_the_gap(ask, demo, feature):
    assert ask(demo, KIND, feature, family=SWIM, slice=FEW).headline.startswith("nothing")


def test_random_directions_of_the_network_are_found_no_more_often_than_the_level_says(ask, demo):
    families = (SWIM, "quick_respawn", "special_charge_up", "ink_saver_sub")
    answers = [
        ask(demo, KIND, feature, family=family, rungs=[3, 12, 29, 57], slice=FEW)
        for feature in (13, 14, 15)
        for family in families
    ]
    assert sum(not answer.headline.startswith("nothing") for answer in answers) <= 1
