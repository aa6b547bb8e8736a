"""Main-only abilities against rules whose answers can be worked out by hand."""

from __future__ import annotations

from itertools import combinations
from time import thread_time

import numpy as np
import pytest
import statsmodels.api as sm
from mechinterp_runner.context.bundle import Bundle
from mechinterp_runner.context.context import Context
from mechinterp_runner.context.contexts import load_context
from mechinterp_runner.schemas.catalogue import find
from mechinterp_runner.schemas.errors import RequestError, UnknownNameError
from mechinterp_runner.schemas.job import Job
from mechinterp_runner.schemas.spec import parse_spec
from statsmodels.stats.contingency_tables import StratifiedTable

BINARY = "binary_presence_effect"
FEW = {"sample_size": 200}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return load_context("demo", home=tmp_path_factory.mktemp("home"), device="cpu")


@pytest.fixture(scope="module")
def no_model(world):
    ctx = Context("no model", Bundle.open(world.bundle.path))
    assert not ctx.has_model
    return ctx


def held(ctx: Context, family: str) -> np.ndarray:
    return np.asarray(ctx.data.levels[:, ctx.vocabulary.family_index[family]])


@pytest.mark.parametrize(
    ("rule", "ability", "effect"), [("main_only", "comeback", 1.5), ("additive", "ninja_squid", 1.5)]
)
def test_an_ability_that_raises_by_itself_is_named_with_its_height(ask, world, rule, ability, effect):
    answer = ask(world, BINARY, rule, slice=FEW)
    assert answer.custom["top_ability"] == ability
    assert answer.custom["top_causal_delta"] == pytest.approx(effect)
    assert answer.custom["verdict"] == "present"
    assert answer.custom["specificity_p"] <= 0.05
    assert answer.headline.startswith(ability)
    assert "raises" in answer.headline
    assert answer.headline.endswith("interventional.")
    assert [finding.subject.split()[0] for finding in answer.findings.findings] == [ability]


def test_an_exclusive_or_raises_where_the_family_is_missing_and_lowers_where_it_is_there(ask, world):
    answer = ask(world, BINARY, "xor", primary_family="intensify_action", primary_rungs=[0, 12], slice=FEW)
    assert answer.custom["top_ability"] == "haunt"
    at = {row["rung"]: row for row in answer.rows("conditional_effects") if row["ability"] == "haunt"}
    assert at[0]["causal_delta"] == pytest.approx(2.0)
    assert at[12]["causal_delta"] == pytest.approx(-2.0)
    assert at[0]["delta"] > 1.5
    assert at[12]["delta"] < -1.0


def test_a_suppressor_lowers_where_what_it_mutes_is_there(ask, world):
    answer = ask(world, BINARY, "modulated", slice={"sample_size": 600})
    row = answer.row("binary_effects", ability="tenacity")
    assert row["causal_status"] == "conditional"
    assert row["mean_responders"] == pytest.approx(-2.4)
    assert answer.custom["verdict"] == "conditional"
    assert answer.findings.findings[0].relation.startswith("lowers")
    assert "tenacity (T) lowers" in answer.headline
    assert answer.findings.followups[0].spec["type"] == "pairwise_interactions"


@pytest.mark.parametrize("rule", ["threshold", "weapon", "and", "constant", "random_0", "random_1"])
@pytest.mark.parametrize("method", ["both", "observational"])
def test_where_no_ability_acts_nothing_is_found(ask, world, rule, method):
    answer = ask(world, BINARY, rule, method=method, slice={} if method == "observational" else FEW)
    assert answer.headline.startswith("nothing")
    assert answer.custom["verdict"] == "nothing_specific"
    assert answer.findings.followups == []


def test_means_rates_and_effects_equal_those_computed_by_hand(ask, world, feature):
    answer = ask(world, BINARY, "dose", method="observational")
    value = world.activations(feature["dose"]).astype(float)
    active = value[value > 0]
    high = value >= np.quantile(active, 0.9)
    assert answer.custom["n_high"] == int(high.sum())
    weapon, cluster = np.asarray(world.data.weapon), world.data.clusters
    dummies = (weapon[:, None] == np.unique(weapon)).astype(float)
    for ability in ("ninja_squid", "comeback", "drop_roller"):
        row, present = answer.row("binary_effects", ability=ability), held(world, ability) > 0
        assert row["n_present"] == int(present.sum())
        assert row["n_absent"] == int((~present).sum())
        assert row["mean_with"] == pytest.approx(value[present].mean())
        assert row["mean_without"] == pytest.approx(value[~present].mean())
        assert row["n_active"] == int((value[present] > 0).sum())
        assert row["mean_when_active"] == pytest.approx(value[present & (value > 0)].mean())
        assert row["raw_delta"] == pytest.approx(value[present].mean() - value[~present].mean())
        assert row["high_rate"] == pytest.approx(present[high].mean())
        assert row["baseline_rate"] == pytest.approx(present[~high].mean())
        fit = sm.OLS(value, np.hstack([present[:, None], dummies])).fit(
            cov_type="cluster", cov_kwds={"groups": cluster}
        )
        assert row["delta"] == pytest.approx(fit.params[0])
        variances = [(side.sum() - 1) * value[side].var(ddof=1) for side in (present, ~present)]
        assert row["effect_size"] == pytest.approx(fit.params[0] / np.sqrt(sum(variances) / (len(value) - 2)))
        tables = [
            np.array([[np.sum(h & p & at), np.sum(h & ~p & at)], [np.sum(~h & p & at), np.sum(~h & ~p & at)]], float)
            for at in (weapon == each for each in np.unique(weapon))
            for h, p in [(high, present)]
        ]
        stratified = StratifiedTable(tables)
        assert row["odds_ratio"] == pytest.approx(stratified.oddsratio_pooled)
        assert row["delta_low"] < row["delta"] < row["delta_high"]
        assert row["enrichment_low"] <= row["enrichment"] <= (row["enrichment_high"] or np.inf)


def test_the_ability_of_the_rule_is_enriched_among_high_examples_and_its_rival_is_not(ask, world):
    answer = ask(world, BINARY, "main_only", method="observational")
    row = answer.row("binary_effects", ability="comeback")
    assert row["enrichment_low"] > 1.0
    assert (row["enrichment"], row["enrichment_high"]) == (None, None)
    assert row["reason"] == "only high examples hold it: the ratio has no bound"
    rival = answer.row("binary_effects", ability="tenacity")
    assert rival["enrichment"] == 0.0
    assert rival["enrichment_high"] < 1.0
    assert "CORRELATIONAL" in answer.headline
    assert any(warning.startswith("CORRELATIONAL") for warning in answer.job.warnings)
    assert answer.findings.followups[0].spec["variables"]["method"] == "both"


def test_levels_of_the_primary_family_are_the_examples_at_exactly_that_level(ask, world, feature):
    answer = ask(world, BINARY, "xor", primary_family="intensify_action", method="observational")
    value = world.activations(feature["xor"]).astype(float)
    level = held(world, "intensify_action")
    assert {row["rung"] for row in answer.rows("conditional_effects")} == {
        0,
        *world.vocabulary.rungs("intensify_action"),
    }
    for row in answer.rows("conditional_effects"):
        at, present = level == row["rung"], held(world, row["ability"]) > 0
        assert row["n_present"] == int((at & present).sum())
        assert row["n_absent"] == int((at & ~present).sum())
        assert row["sparse"] == (min(row["n_present"], row["n_absent"]) < 20)
        assert row["causal_delta"] is None
        if row["n_present"]:
            assert row["mean_with"] == pytest.approx(value[at & present].mean())
        else:
            assert row["mean_with"] is None
            assert row["delta"] is None
            assert row["reason"]


def test_writing_the_primary_family_shows_where_an_ability_acts(ask, world):
    answer = ask(world, BINARY, "modulated", primary_family="sub_resistance_up", primary_rungs=[0, 3, 12], slice=FEW)
    at = {row["rung"]: row for row in answer.rows("conditional_effects") if row["ability"] == "tenacity"}
    jump = (held(world, "quick_super_jump") >= 6).mean()
    assert at[0]["causal_delta"] == at[3]["causal_delta"] == 0.0
    assert at[12]["causal_delta"] == pytest.approx(-2.4 * jump, abs=0.25)
    assert at[12]["responder_rate"] == pytest.approx(jump, abs=0.1)
    assert at[12]["causal_low"] <= at[12]["causal_delta"] <= at[12]["causal_high"]


@pytest.mark.parametrize("rungs", [[57], [51], [51, 57]])
def test_levels_that_no_build_has_room_for_are_null_with_a_reason(ask, world, rungs):
    given = {"primary_family": "swim_speed_up", "primary_rungs": rungs, "binary_tokens": ["comeback"]}
    answer = ask(world, BINARY, "main_only", constraints=["max_ap_budget"], slice=FEW, **given)
    assert answer.headline.startswith("comeback")
    for row in answer.rows("conditional_effects"):
        assert row["causal_delta"] is row["causal_status"] is row["mean_responders"] is None
        assert row["causal_reason"].startswith(f"constraints leave too few contexts for it at {row['rung']} AP")


def test_what_the_levels_break_and_drop_is_reported(ask, world):
    given = {"primary_family": "swim_speed_up", "primary_rungs": [3, 57], "binary_tokens": ["comeback"]}
    answer = ask(world, BINARY, "main_only", constraints=["max_ap_budget"], slice=FEW, **given)
    broken = answer.findings.diagnostics.constraint_violations[-1]
    # 57 AP and an ability are more than any build has: every context breaks it at that level.
    assert (broken.id, broken.contexts, broken.hard) == ("max_ap_budget", 200, True)
    assert any("conditional_effects: " in text and "57 with comeback" in text for text in answer.job.warnings)
    at = {row["rung"]: row for row in answer.rows("conditional_effects")}
    assert (at[3]["causal_delta"], at[3]["causal_reason"]) == (pytest.approx(1.5), None)


def test_without_one_rung_of_a_family_a_level_is_written_on_top_of_what_is_there(ask, world):
    given = {"primary_family": "intensify_action", "primary_rungs": [0, 3], "binary_tokens": ["haunt"]}
    high = (held(world, "intensify_action") >= 6).mean()
    for constraints, effect in ((["one_rung_per_family"], 2.0), ([], 2.0 - 4.0 * high)):
        answer = ask(world, BINARY, "xor", constraints=constraints, slice={"sample_size": 3000}, **given)
        at = {row["rung"]: row["causal_delta"] for row in answer.rows("conditional_effects")}
        assert at == {0: pytest.approx(2.0), 3: pytest.approx(effect)}


def test_the_winner_and_the_population_of_the_data_are_told(ask, world):
    answer = ask(world, BINARY, "main_only", slice={"sample_size": 100})
    assert answer.custom["winner_confirmed"] is True
    assert any("describe all 3,000 examples" in note for note in answer.findings.diagnostics.notes)
    assert ask(world, BINARY, "random_0", slice=FEW).custom["winner_confirmed"] is None
    more = ask(world, BINARY, "main_only", slice={"sample_size": 9000})
    assert any("sample_size 9,000 is more" in text for text in more.job.warnings)


def test_an_ap_between_rungs_is_read_as_the_tokenizer_does_with_a_warning(ask, world):
    answer = ask(
        world,
        BINARY,
        "additive",
        binary_tokens=["comeback", "stealth_jump"],
        primary_family="ink_saver_main",
        primary_rungs=[0, 12, 29, 41, 57],
        slice=FEW,
    )
    rungs = [(row["rung"], row["resolved_rung"]) for row in answer.rows("conditional_effects")]
    assert rungs == 2 * [(0, 0), (12, 12), (29, 29), (41, 38), (57, 57)]
    assert any("41" in warning and "38" in warning for warning in answer.job.warnings)


def test_combinations_equal_counting_and_least_squares_on_all_against_none(ask, world, feature):
    answer = ask(world, BINARY, "additive", method="observational", min_samples=30)
    value, weapon = world.activations(feature["additive"]).astype(float), np.asarray(world.data.weapon)
    slots = world.vocabulary
    names = slots.main_only
    seen = {row["abilities"] for row in answer.rows("combinations")}
    single = {row["ability"]: row["delta"] for row in answer.rows("binary_effects")}
    for size in (2, 3):
        for group in combinations(names, size):
            every = np.all([held(world, name) > 0 for name in group], axis=0)
            wearable = len({slots.slot(name) for name in group}) == size
            assert (" + ".join(group) in seen) == (bool(every.any()) and wearable)
    for row in answer.rows("combinations"):
        group = row["abilities"].split(" + ")
        every = np.all([held(world, name) > 0 for name in group], axis=0)
        none = ~np.any([held(world, name) > 0 for name in group], axis=0)
        assert (row["n"], row["n_none"], row["size"]) == (every.sum(), none.sum(), len(group))
        assert row["n_active"] == int((value[every] > 0).sum())
        assert row["sparse"] == (every.sum() < 30)
        assert row["mean_activation"] == pytest.approx(value[every].mean())
        active = value[every & (value > 0)]
        assert row["mean_when_active"] == (pytest.approx(active.mean()) if len(active) else None)
        used = every | none
        dummies = (weapon[used, None] == np.unique(weapon[used])).astype(float)
        fit = sm.OLS(value[used], np.hstack([every[used, None], dummies])).fit()
        assert row["delta"] == pytest.approx(fit.params[0])
        assert row["expected"] == pytest.approx(sum(single[name] for name in group))
        assert row["excess"] == pytest.approx(row["delta"] - row["expected"])


def test_abilities_that_build_no_example_holds_have_counts_and_reasons_and_no_numbers(ask, world):
    answer = ask(world, BINARY, "additive", method="observational")
    row = answer.row("binary_effects", ability="respawn_punisher")
    assert (row["n_present"], row["sparse"]) == (0, True)
    assert row["reason"] == "no example holds it"
    assert all(row[name] is None for name in ("mean_with", "delta", "q_value", "status", "enrichment", "observed_p"))


def test_each_method_leaves_the_other_columns_null_and_says_so(ask, world):
    seen = ask(world, BINARY, "additive", method="observational", primary_family="quick_super_jump")
    done = ask(world, BINARY, "additive", method="interventional", primary_family="quick_super_jump", slice=FEW)
    for row in seen.rows("binary_effects"):
        assert row["causal_delta"] is row["causal_status"] is row["held_delta"] is row["specificity_p"] is None
    for row in done.rows("binary_effects"):
        assert row["delta"] is row["mean_with"] is row["enrichment"] is row["status"] is None
        assert row["causal_delta"] is not None
    assert all(row["delta"] is None for row in done.rows("conditional_effects"))
    assert done.rows("combinations") == []
    for answer, word in ((seen, "causal columns are null"), (done, "columns of the data are null")):
        table = next(table for table in answer.findings.tables if table.name == "binary_effects")
        assert any(word in note for note in table.notes)
    assert seen.job.passes_made == 0
    assert (seen.custom["method"], done.custom["method"]) == ("observational", "interventional")


@pytest.mark.parametrize("method", ["both", "interventional"])
def test_without_a_model_only_the_data_can_be_asked(ask, no_model, method):
    with pytest.raises(RequestError, match=r"needs the model.*Nothing was run"):
        ask(no_model, BINARY, "main_only", method=method)
    with pytest.raises(RequestError, match="needs the model"):
        find(BINARY).plan(parse_spec({"type": BINARY, "feature_id": 0, "variables": {"method": method}}), no_model)
    assert ask(no_model, BINARY, "main_only", method="observational").custom["top_ability"] == "comeback"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"binary_tokens": ["comeback", "swim_speed_up"]}, r"'swim_speed_up', no main-only ability; allowed: .*haunt"),
        ({"binary_tokens": ["come_back"]}, r"'come_back', no main-only ability"),
        ({"binary_tokens": ["haunt", "haunt"]}, "haunt twice"),
        ({"primary_family": "comeback"}, "main-only and has no levels"),
        ({"primary_family": "swim_speed_up", "primary_rungs": [2]}, "out of range"),
    ],
)
def test_what_cannot_be_tested_is_refused_before_anything_runs(ask, world, variables, message):
    with pytest.raises(RequestError, match=message):
        ask(world, BINARY, "main_only", **variables)


def test_an_unknown_primary_family_is_answered_with_the_nearest(ask, world):
    with pytest.raises(UnknownNameError, match="ink_saver_main"):
        ask(world, BINARY, "main_only", primary_family="ink_saver_maim")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"primary_rungs": [12]}, "primary_rungs needs primary_family"),
        ({"primary_rungs": [], "primary_family": "swim_speed_up"}, "primary_rungs.*at least 1.*Nothing was run"),
        ({"binary_tokens": []}, "binary_tokens.*at least 1.*Nothing was run"),
    ],
)
def test_rungs_without_a_family_and_empty_lists_are_errors(variables, message):
    with pytest.raises(RequestError, match=message):
        parse_spec({"type": BINARY, "feature_id": 0, "variables": variables})


def test_a_dead_feature_succeeds_with_nulls_and_a_reason(ask, world):
    answer = ask(world, BINARY, "dead")
    assert answer.findings.findings[0].status == "dead"
    assert all(table.rows == [] for table in answer.findings.tables)


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_samples_too_small_for_intervals_say_that_nothing_can_be_said(ask, world, n):
    answer = ask(
        world, BINARY, "constant", method="observational", primary_family="quick_respawn", slice={"sample_size": n}
    )
    assert answer.headline.startswith("nothing can be said")
    assert answer.custom["reason"]


def test_the_plan_announces_the_passes_the_run_makes(fresh_world):
    ctx, _ = fresh_world
    fields = {
        "type": BINARY,
        "feature_id": 0,
        "variables": {"primary_family": "quick_respawn", "primary_rungs": [0, 12], "binary_tokens": ["haunt"]},
        "dataset_slice": {"sample_size": 40},
    }
    announced, job = find(BINARY).plan(parse_spec(fields), ctx), Job()
    find(BINARY).run(parse_spec(fields), ctx, job)
    assert announced.forward_passes == job.passes_made > 0


# -- what is planted in the demo network -----------------------------------------------------------------------------


def test_the_gate_of_the_demo_acts_where_the_jump_is(ask, demo):
    answer = ask(
        demo,
        BINARY,
        4,
        binary_tokens=["stealth_jump", "comeback"],
        primary_family="quick_super_jump",
        primary_rungs=[0, 3, 6, 12],
        slice={"sample_size": 300},
    )
    assert answer.custom["top_ability"] == "stealth_jump"
    assert answer.custom["verdict"] in {"present", "conditional"}
    row = answer.row("binary_effects", ability="stealth_jump")
    assert row["mean_responders"] == pytest.approx(2.4, rel=0.05)
    assert row["responder_rate"] < 0.3
    assert answer.custom["strongest_rung"] == 6
    assert "with quick_super_jump at 6 AP" in answer.headline


def test_the_modulator_of_the_demo_lowers_where_the_pair_is(ask, demo):
    answer = ask(demo, BINARY, 6, slice={"sample_size": 800}, binary_tokens=["comeback", "stealth_jump"])
    assert answer.headline.startswith("comeback (C) lowers feature 6")
    assert answer.row("binary_effects", ability="comeback")["mean_responders"] == pytest.approx(-2.6, rel=0.05)


@pytest.mark.parametrize("feature", [0, 2, 5, 8, 9, 13, 14, 15])
def test_abilities_outside_the_rule_get_nothing_from_the_demo(ask, demo, feature):
    answer = ask(demo, BINARY, feature, slice={"sample_size": 150})
    assert answer.headline.startswith("nothing")


def test_an_ability_that_only_goes_with_the_cause_is_named_as_that_where_the_contexts_decide_it(ask, demo):
    seen = ask(demo, BINARY, 2, method="observational")
    assert seen.headline.startswith("ninja_squid goes with feature 2")
    done = ask(demo, BINARY, 2)
    assert done.row("binary_effects", ability="ninja_squid")["causal_status"] == "negligible"
    assert done.custom["associated_only"] == ["ninja_squid (NS)"]
    assert "associated with it in the data only: ninja_squid" in done.headline
    few = ask(demo, BINARY, 2, slice={"sample_size": 150})
    assert few.row("binary_effects", ability="ninja_squid")["causal_status"] == "unclear"
    assert few.custom["associated_only"] == []
    assert few.custom["not_settled"] == ["ninja_squid (NS)"]
    assert "associated" not in few.headline


def test_reading_the_data_takes_less_than_a_tenth_of_a_second(ask, demo):
    times = []
    for _ in range(5):
        start = thread_time()
        ask(demo, BINARY, 4, method="observational")
        times.append(thread_time() - start)
    assert min(times) < 0.1
