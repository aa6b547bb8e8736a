"""Enhancers and suppressors against rules, planted features and random directions."""

from __future__ import annotations

from time import thread_time
from types import SimpleNamespace

import numpy as np
import pytest
from mechinterp_runner.context.bundle import Bundle
from mechinterp_runner.context.context import Context
from mechinterp_runner.context.contexts import load_context
from mechinterp_runner.runners.parts.influence.association import count_tertile, population_columns
from mechinterp_runner.runners.parts.influence.report import causal_sign
from mechinterp_runner.schemas.catalogue import find
from mechinterp_runner.schemas.errors import RequestError
from mechinterp_runner.schemas.job import Job
from mechinterp_runner.schemas.spec import DatasetSlice, parse_spec
from statsmodels.stats.contingency_tables import StratifiedTable

SWEEP = "token_influence_sweep"
FEW = {"sample_size": 200}
RULES = {
    "threshold": {"special_charge_up"},
    "dose": {"quick_respawn"},
    "and": {"run_speed_up", "ink_resistance_up"},
    "or": {"special_saver", "special_power_up"},
    "confounded": {"sub_power_up"},
    "main_only": {"comeback"},
    "xor": {"intensify_action", "haunt"},
    "gap": {"swim_speed_up"},
}
PLANTED = {
    0: {"special_charge_up"},
    1: {"quick_respawn"},
    2: {"swim_speed_up", "ink_resistance_up"},
    3: {"run_speed_up", "ink_resistance_up"},
    4: {"quick_super_jump", "stealth_jump"},
    5: {"special_power_up", "special_saver"},
    9: {"ink_saver_sub"},
    10: {"sub_resistance_up", "quick_super_jump"},
    12: {"intensify_action"},
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return load_context("demo", home=tmp_path_factory.mktemp("home"), device="cpu")


@pytest.fixture(scope="module")
def no_model(world):
    return Context("no model", Bundle.open(world.bundle.path))


def acting(answer) -> set[str]:
    """Families of the units that act in the network, by the verdicts of the table."""
    certain = {"present", "conditional"}
    return {
        row["family"]
        for row in answer.rows("all_tokens")
        if row["specificity_p"] is not None
        and row["specificity_p"] <= 0.05
        and certain & {row["causal_status"], row["held_status"]}
    }


def held(ctx: Context, family: str) -> np.ndarray:
    return np.asarray(ctx.data.levels[:, ctx.vocabulary.family_index[family]])


@pytest.mark.parametrize(("rule", "families"), RULES.items())
def test_the_families_of_a_rule_act_and_no_other(ask, world, rule, families):
    answer = ask(world, SWEEP, rule, slice={"sample_size": 800 if rule == "gap" else 200})
    assert acting(answer) == families
    assert {unit.rsplit("_", 1)[0] if unit[-1].isdigit() else unit for unit in answer.custom["acting"]} == families
    assert all(family in answer.headline for family in families)
    assert answer.custom["verdict"] in {"present", "conditional"}
    assert answer.headline.endswith("interventional.")


def test_an_ability_that_adds_to_another_is_named_with_its_height(ask, world):
    answer = ask(world, SWEEP, "additive", slice=FEW)
    assert acting(answer) <= {"quick_super_jump", "ninja_squid"}
    assert answer.headline.startswith("ninja_squid raises feature")
    assert answer.row("all_tokens", token="ninja_squid")["causal_delta"] == pytest.approx(1.5)
    assert answer.row("all_tokens", token="quick_super_jump")["causal_delta"] == pytest.approx(1.2)


def test_enhancers_and_suppressors_of_the_data_are_confirmed_by_the_network_or_not(ask, world):
    answer = ask(world, SWEEP, "suppressed", slice={"sample_size": 400}, min_samples=20)
    enhancer = answer.row("enhancers", token="swim_speed_up")
    suppressor = answer.row("suppressors", token="ink_saver_sub")
    assert (enhancer["confirmed"], suppressor["confirmed"]) == (True, True)
    assert enhancer["causal_delta"] > 1.0
    assert suppressor["mean_responders"] == pytest.approx(-2.0)
    rival = ask(world, SWEEP, "main_only", slice={"sample_size": 900})
    assert rival.row("suppressors", token="tenacity")["confirmed"] is False
    assert rival.custom["not_confirmed"] == ["tenacity"]
    assert rival.custom["confirmed"] == ["comeback"]


@pytest.mark.parametrize(
    ("written", "held", "sign"),
    [
        ("negligible", "negligible", 0),
        ("negligible", "unclear", 0),
        ("negligible", "conditional", None),
        ("unclear", "negligible", None),
        ("present", "negligible", None),
        ("conditional", "negligible", None),
    ],
)
def test_the_network_denies_an_effect_only_where_it_is_negligible(written, held, sign):
    tables = [SimpleNamespace(status=[each], acting=list) for each in (written, held)]
    assert causal_sign(SimpleNamespace(table=tables[0], held=tables[1]), 0) is sign


def test_a_certain_effect_that_is_not_specific_is_neither_confirmed_nor_denied(ask, demo):
    answer = ask(demo, SWEEP, 247)
    row = answer.row("enhancers", token="stealth_jump")
    assert (row["causal_status"], row["confirmed"]) == ("present", None)
    assert row["specificity_p"] > 0.05
    assert answer.custom["not_settled"][0] == "stealth_jump"
    assert answer.custom["not_confirmed"] == []
    assert "(not settled: stealth_jump," in answer.headline
    assert answer.findings.findings[0].relation == "does nothing specific to feature 247"


def test_the_winner_must_hold_where_it_was_not_chosen_and_is_null_where_nothing_acts(ask, world):
    assert ask(world, SWEEP, "dose", slice=FEW).custom["winner_confirmed"] is True
    assert ask(world, SWEEP, "random_0", slice=FEW).custom["winner_confirmed"] is None


def test_the_columns_of_the_data_are_said_to_describe_more_than_the_contexts(ask, world):
    answer = ask(world, SWEEP, "dose", slice={"sample_size": 60})
    notes = answer.findings.diagnostics.notes
    assert any("describe all 3,000 examples of the slice; the 60 contexts" in note for note in notes)
    assert answer.row("all_tokens", token="comeback")["n_present"] == int((held(world, "comeback") > 0).sum())
    part = {"weapon_filter": ["11"], "sample_size": 9000}
    assert any("sample_size 9,000 is more" in text for text in ask(world, SWEEP, "dose", slice=part).job.warnings)


@pytest.mark.parametrize("rule", ["threshold", "or", "confounded", "sub", "weapon", "special", "constant"])
def test_a_feature_of_one_thing_has_no_false_enhancer(ask, world, rule):
    answer = ask(world, SWEEP, rule, method="observational")
    assert set(answer.custom["enhancers"]) <= RULES.get(rule, set())


def test_unstratified_a_feature_of_one_family_has_false_enhancers_and_stratified_none(ask, demo):
    for feature in (0, 12):
        answer = ask(demo, SWEEP, feature, method="observational")
        rows = [row for row in answer.rows("all_tokens") if row["n_present"] >= 50]
        raw = [row["token"] for row in rows if row["high_rate"] > 1.2 * row["low_rate"]]
        assert len(raw) > 5
        assert set(answer.custom["enhancers"]) == PLANTED[feature]


def test_a_family_is_written_at_the_highest_level_that_is_common_whatever_the_feature(ask, world):
    levels: dict[str, set[int]] = {}
    for rule in ("threshold", "dose"):
        for row in ask(world, SWEEP, rule, slice=FEW).rows("all_tokens"):
            levels.setdefault(row["family"], set()).add(row["level"])
    for family in world.vocabulary.stackable:
        held_at = held(world, family)[held(world, family) > 0]
        common = max(rung for rung in world.vocabulary.rungs(family) if (held_at >= rung).mean() >= 0.05)
        assert levels[family] == {common}
    assert levels["comeback"] == {10}


def test_levels_apart_are_counted_once_at_the_highest_rung(ask, world):
    answer = ask(world, SWEEP, "threshold", collapse_families=False, min_samples=20, slice={"sample_size": 100})
    for row in answer.rows("all_tokens"):
        level = 10 if row["family"] in world.vocabulary.main_only else int(row["token"].rsplit("_", 1)[1])
        assert row["n_present"] == int((held(world, row["family"]) == level).sum())
        assert (row["level"] is None) == (row["n_present"] < 20)
        assert row["level"] in {level, None}
    for token, effect in (("special_charge_up_21", 0.0), ("special_charge_up_29", 1.5)):
        assert answer.row("all_tokens", token=token)["causal_delta"] == pytest.approx(effect)
    assert answer.custom["enhancers"] == ["special_charge_up_29"]
    assert "special_charge_up_29" in answer.headline


def test_ratios_equal_mantel_and_haenszel_within_weapon_and_tertile_of_unit_count(ask, world, feature):
    answer = ask(world, SWEEP, "random_0", method="observational", high_percentile=10)
    value = world.activations(feature["random_0"]).astype(float)
    high = value >= np.quantile(value[value > 0], 0.1)
    units = (np.asarray(world.data.levels) > 0).sum(axis=1)
    thirds = np.quantile(units, [1 / 3, 2 / 3])
    stratum = np.asarray(world.data.weapon) * 3 + (units > thirds[0]).astype(int) + (units > thirds[1])
    for token in ("quick_respawn", "swim_speed_up", "comeback"):
        row, present = answer.row("all_tokens", token=token), held(world, token) > 0
        tables = [
            np.array([[(h & p).sum(), (h & ~p).sum()], [(~h & p).sum(), (~h & ~p).sum()]], dtype=float)
            for at in (stratum == each for each in np.unique(stratum))
            for h, p in [(high[at], present[at])]
        ]
        seen = sum(t[0, 0] * t[1].sum() / t.sum() for t in tables)
        expected = sum(t[1, 0] * t[0].sum() / t.sum() for t in tables)
        assert row["high_rate_ratio"] == pytest.approx(seen / expected)
        assert row["odds_ratio"] == pytest.approx(StratifiedTable(tables).oddsratio_pooled)
        assert row["high_rate"] == pytest.approx(present[high].mean())
        assert row["low_rate"] == pytest.approx(present[~high].mean())
        assert row["n_active"] == int((value[present] > 0).sum())
        active = value[present & (value > 0)]
        assert row["mean_when_active"] == (pytest.approx(active.mean()) if len(active) else None)
        assert row["mean_with"] == pytest.approx(value[present].mean())
        assert row["raw_delta"] == pytest.approx(value[present].mean() - value[~present].mean())
        assert row["ratio_low"] <= row["high_rate_ratio"] < row["ratio_high"]


def test_tertiles_part_examples_by_how_many_units_they_hold(world, feature):
    population = world.population(DatasetSlice(), feature["dose"])
    tertile = count_tertile(population_columns(world, population, "families"))
    units = (np.asarray(world.data.levels) > 0).sum(axis=1)
    assert set(tertile.tolist()) == {0, 1, 2}
    assert all(units[tertile == low].max() < units[tertile == low + 1].min() for low in (0, 1))


def test_only_units_that_enough_examples_hold_and_whose_interval_excludes_1_are_listed(ask, world):
    answer = ask(world, SWEEP, "dose", method="observational", min_samples=400)
    for name, sign in (("enhancers", 1), ("suppressors", -1)):
        for row in answer.rows(name):
            assert row["n_present"] >= 400
            low, high = row["ratio_low"], row["ratio_high"]
            assert low > 1.0 if sign > 0 else high < 1.0
            assert row["high_rate_ratio"] > 1.2 if sign > 0 else row["high_rate_ratio"] < 0.8
    assert len(ask(world, SWEEP, "dose", method="observational", min_samples=3000).rows("enhancers")) == 0
    assert len(answer.rows("all_tokens")) == len(world.vocabulary.families)


def test_thresholds_move_the_lists(ask, world):
    loose = ask(world, SWEEP, "and", method="observational")
    strict = ask(world, SWEEP, "and", method="observational", enhancer_threshold=6.0, suppressor_threshold=0.01)
    assert loose.custom["enhancers"]
    assert strict.custom["enhancers"] == strict.custom["suppressors"] == []


def test_a_permuted_feature_lists_about_one_unit_in_twenty_tries(ask, world, feature):
    """The lists use intervals that hold for all rows at once: few tries have any false entry."""
    values = np.array(world.activations(feature["dose"]))
    tries = 0
    for seed in range(20):
        ctx = Context("shuffled", Bundle.open(world.bundle.path), oracle=world.oracle)
        builds = np.random.default_rng(seed).permutation(len(values) // 2)
        ctx._columns[feature["dose"]] = values.reshape(-1, 2)[builds].ravel()
        answer = ask(ctx, SWEEP, "dose", method="observational")
        tries += bool(answer.custom["enhancers"] or answer.custom["suppressors"])
        assert answer.headline.startswith("nothing")
    assert tries <= 4


@pytest.mark.parametrize("method", ["both", "observational"])
@pytest.mark.parametrize("rule", ["weapon", "special", "sub", "constant", "random_0", "random_1"])
def test_weapon_features_and_random_directions_get_nothing(ask, world, rule, method):
    answer = ask(world, SWEEP, rule, method=method, slice={} if method == "observational" else FEW)
    assert answer.headline.startswith("nothing")
    assert answer.custom["verdict"] == "nothing_specific"
    assert answer.custom["confirmed"] == []
    assert answer.findings.followups == []


def test_the_data_alone_are_called_correlational_and_leave_the_causal_columns_null(ask, world):
    answer = ask(world, SWEEP, "threshold", method="observational")
    assert answer.headline.startswith("special_charge_up goes with")
    assert "CORRELATIONAL" in answer.headline
    assert any(warning.startswith("CORRELATIONAL") for warning in answer.job.warnings)
    assert all(row["causal_delta"] is row["confirmed"] is row["level"] is None for row in answer.rows("all_tokens"))
    assert answer.findings.followups[0].spec["variables"]["method"] == "both"
    assert answer.job.passes_made == 0


def test_the_network_alone_leaves_the_columns_of_the_data_null(ask, world):
    answer = ask(world, SWEEP, "threshold", method="interventional", slice=FEW)
    assert all(row["high_rate_ratio"] is row["delta"] is row["status"] is None for row in answer.rows("all_tokens"))
    assert answer.rows("enhancers") == answer.rows("suppressors") == []
    assert acting(answer) == {"special_charge_up"}
    assert all("are null" in table.notes[0] for table in answer.findings.tables)


@pytest.mark.parametrize("method", ["both", "interventional"])
def test_without_a_model_only_the_data_can_be_asked(ask, no_model, method):
    with pytest.raises(RequestError, match=r"needs the model.*Nothing was run"):
        ask(no_model, SWEEP, "dose", method=method)
    with pytest.raises(RequestError, match="needs the model"):
        find(SWEEP).plan(parse_spec({"type": SWEEP, "feature_id": 0, "variables": {"method": method}}), no_model)
    assert ask(no_model, SWEEP, "dose", method="observational").custom["acting"] == ["quick_respawn"]


def test_levels_that_no_build_holds_often_enough_are_an_error(ask, world):
    with pytest.raises(RequestError, match=r"lower min_samples.*Nothing was run"):
        ask(world, SWEEP, "dose", collapse_families=False, min_samples=3000)


def test_a_percentile_given_as_a_fraction_is_read_as_one_and_announced(ask, world):
    answer = ask(world, SWEEP, "dose", method="observational", high_percentile=0.995)
    assert answer.custom["high_percentile"] == pytest.approx(99.5)
    assert any("fraction" in warning for warning in answer.job.warnings)


def test_unclear_bounds_are_refused():
    for variables in ({"suppressor_threshold": 1.3}, {"enhancer_threshold": 0.9}, {"high_percentile": 0.3}):
        with pytest.raises(RequestError, match="Nothing was run"):
            parse_spec({"type": SWEEP, "feature_id": 0, "variables": variables})


def test_a_dead_feature_succeeds_with_nulls_and_a_reason(ask, world):
    answer = ask(world, SWEEP, "dead")
    assert answer.findings.findings[0].status == "dead"
    assert all(table.rows == [] for table in answer.findings.tables)


@pytest.mark.parametrize("n", [1, 3, 40])
def test_samples_too_small_for_intervals_say_that_nothing_can_be_said(ask, world, n):
    answer = ask(world, SWEEP, "constant", method="observational", slice={"sample_size": n})
    assert answer.headline.startswith("nothing can be said")
    assert answer.custom["reason"]


@pytest.mark.parametrize("collapse", [True, False])
def test_the_plan_announces_the_passes_the_run_makes(fresh_world, collapse):
    ctx, _ = fresh_world
    fields = {
        "type": SWEEP,
        "feature_id": 0,
        "variables": {"collapse_families": collapse, "min_samples": 30},
        "dataset_slice": {"sample_size": 30},
    }
    announced, job = find(SWEEP).plan(parse_spec(fields), ctx), Job()
    find(SWEEP).run(parse_spec(fields), ctx, job)
    assert announced.forward_passes == job.passes_made > 0


# -- what is planted in the demo network -----------------------------------------------------------------------------


@pytest.mark.parametrize(("feature", "families"), PLANTED.items())
def test_what_is_planted_in_the_demo_is_named_and_nothing_else(ask, demo, feature, families):
    answer = ask(demo, SWEEP, feature, slice={"sample_size": 150})
    assert acting(answer) == families
    assert all(family in answer.headline for family in families)


def test_the_suppressor_of_the_demo_lowers_and_is_confirmed(ask, demo):
    answer = ask(demo, SWEEP, 2, slice={"sample_size": 150})
    row = answer.row("suppressors", token="ink_resistance_up")
    assert row["confirmed"] is True
    assert row["mean_responders"] == pytest.approx(-2.2, rel=0.05)
    assert "ink_resistance_up_12 lowers it" in answer.headline


def test_the_modulated_pair_and_the_gap_of_the_demo_are_found_in_more_contexts(ask, demo):
    part = {"sample_size": 500}
    pair = ask(demo, SWEEP, 6, slice=part)
    assert acting(pair) == {"swim_speed_up", "ink_saver_main", "comeback"}
    gap = ask(demo, SWEEP, 11, slice=part)
    assert acting(gap) == {"swim_speed_up"}
    assert "as builds hold it" in gap.headline
    assert gap.findings.followups[0].spec["type"] == "within_family_interference"


@pytest.mark.parametrize("feature", [7, 8, 13, 14, 15])
def test_weapon_features_and_random_directions_of_the_demo_get_nothing(ask, demo, feature):
    for method, part in (("both", {"sample_size": 150}), ("observational", {})):
        answer = ask(demo, SWEEP, feature, slice=part, method=method)
        assert answer.headline.startswith("nothing")
        assert answer.custom["verdict"] == "nothing_specific"
        assert answer.custom["confirmed"] == []


def test_reading_the_data_takes_less_than_a_tenth_of_a_second(ask, demo):
    times = []
    for _ in range(5):
        start = thread_time()
        ask(demo, SWEEP, 4, method="observational")
        times.append(thread_time() - start)
    assert min(times) < 0.1
