"""Interventions on contexts given in the spec, on a bundle without examples and beside its examples."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from mechinterp_runner.context.bundle import Bundle
from mechinterp_runner.context.context import Context
from mechinterp_runner.schemas.catalogue import catalogue, find
from mechinterp_runner.schemas.errors import RequestError
from mechinterp_runner.schemas.job import Job
from mechinterp_runner.schemas.spec import parse_spec

TAKERS = {
    "conditional_interactions",
    "decoder_output_analysis",
    "family_1d_sweep",
    "family_2d_heatmap",
    "kit_sweep",
    "minimal_cores",
    "pairwise_interactions",
    "within_family_interference",
}
GIVEN = "40 contexts given in the spec"
NO_DATA = "the contexts are given in the spec: no examples are read beside them"
ASKED = {
    "conditional_interactions": (
        "modulated",
        {"modulator_token": "tenacity", "candidate_tokens": ["quick_super_jump_6", "sub_resistance_up_6"]},
    ),
    "family_1d_sweep": ("threshold", {"family": "special_charge_up"}),
    "family_2d_heatmap": ("and", {"family_x": "run_speed_up", "family_y": "ink_resistance_up", "rungs_x": [3, 6]}),
    "kit_sweep": ("sub", {"method": "interventional"}),
    "pairwise_interactions": ("and", {"candidate_tokens": ["run_speed_up_6", "ink_resistance_up_6", "haunt"]}),
    "within_family_interference": ("gap", {"family": "swim_speed_up", "rungs": [3, 12]}),
}
"""For each type a rule of the test world and what is asked of it."""


def some_contexts(n=40):
    """Contexts over all weapons, of which every second dampens and every fifth wears Tenacity."""
    weapons = [0, 1, 10, 11, 20, 21, 30, 31, 40, 41]
    return [
        {
            "weapon": weapons[i % len(weapons)],
            "tokens": [f"special_power_up_{(3, 6, 12, 15)[i // 10]}"]
            + ["ink_saver_main_6"] * (i % 2)
            + ["tenacity"] * (i % 5 == 0),
        }
        for i in range(n)
    ]


@pytest.fixture
def worlds(make_world, reseal, tmp_path):
    """The world with its examples, and the same world without any."""
    full, oracle = make_world(tmp_path / "world", n_builds=300)
    folder = tmp_path / "bare"
    shutil.copytree(full.bundle.path, folder)
    shutil.rmtree(folder / "examples")
    (folder / "pooled.npy").unlink()
    reseal(folder, n_examples=0, n_tokens=0)
    return SimpleNamespace(full=full, bare=Context("bare", Bundle.open(folder), oracle=oracle), oracle=oracle)


def spec_of(feature, type_name, contexts=None, **fields):
    name, variables = ASKED[type_name]
    part = {"contexts": some_contexts() if contexts is None else contexts}
    fields = {"type": type_name, "feature_id": feature[name], "dataset_slice": part, "variables": variables} | fields
    return parse_spec(fields)


def test_a_sweep_on_a_bundle_without_examples_finds_the_rule_on_the_contexts_given(worlds, ask):
    answer = ask(
        worlds.bare, "family_1d_sweep", "threshold", slice={"contexts": some_contexts()}, family="special_charge_up"
    )
    # The rule is 2 from 29 AP on, minus 0.5: 1.5 there and below it nothing, in any build.
    for row in answer.rows("rung_deltas"):
        assert row["mean_delta"] == (1.5 if row["rung"] >= 29 else 0.0)
        assert row["n"] == 40
        assert row["specificity_p"] is None
    assert answer.headline.endswith(f"a step at 29 AP; {GIVEN}; specificity unknown; interventional.")
    assert answer.custom["threshold_rung"] == 29
    assert answer.findings.diagnostics.population == GIVEN
    assert answer.findings.findings[0].population == GIVEN


def test_what_only_examples_tell_is_null_with_its_reason(worlds, ask):
    answer = ask(
        worlds.bare, "family_1d_sweep", "threshold", slice={"contexts": some_contexts()}, family="special_charge_up"
    )
    for name in ("rung_stats", "confounding"):
        table = next(each for each in answer.findings.tables if each.name == name)
        assert (table.rows, table.notes) == ([], [NO_DATA])
    dumped = answer.findings.aggregates.model_dump(mode="json")["custom"]
    assert (dumped["confounding_gap"], dumped["confounding_gap_reason"]) == (None, NO_DATA)
    assert dumped["specificity_p"] is None
    assert "the bundle holds none" in dumped["specificity_reason"]
    assert answer.findings.diagnostics.effective_max is None
    assert answer.findings.diagnostics.min_effect == pytest.approx(0.3)
    assert any("of interest from 0.3 on" in warning for warning in answer.job.warnings)


def test_beside_examples_the_contexts_have_the_same_effects_and_a_specificity(worlds, ask):
    asked = {"slice": {"contexts": some_contexts()}, "family": "special_charge_up"}
    full, bare = (ask(ctx, "family_1d_sweep", "threshold", **asked) for ctx in (worlds.full, worlds.bare))
    for name in ("mean_delta", "std_error", "ci_low", "mean_activation"):
        assert [row[name] for row in full.rows("rung_deltas")] == [row[name] for row in bare.rows("rung_deltas")]
    assert full.custom["specificity_p"] <= 0.05
    assert full.findings.diagnostics.effective_max == pytest.approx(1.5)
    assert f"; {GIVEN}; interventional." in full.headline
    assert full.custom["confounding_gap_reason"] == NO_DATA


def test_given_contexts_are_a_sample_of_builds_like_them_and_no_census(worlds, ask):
    # Swim Speed Up adds 2, or 1.1 where Ink Saver (Main) takes 0.9 off: every second context.
    asked = {"slice": {"contexts": some_contexts()}, "family": "swim_speed_up", "rungs": [3]}
    answer = ask(worlds.bare, "family_1d_sweep", "dampened", **asked)
    effects = np.array([2.0 - 0.9 * (i % 2) for i in range(40)])
    row = answer.row("rung_deltas", rung=3)
    assert row["mean_delta"] == pytest.approx(effects.mean(), abs=1e-6)
    assert row["std_error"] == pytest.approx(effects.std(ddof=1) / np.sqrt(40), abs=1e-6)
    assert f"{GIVEN}: intervals take them as a sample of builds like them" in answer.findings.diagnostics.notes


def test_the_seed_does_not_draw_among_the_contexts_given(worlds, ask):
    asked = {"family": "swim_speed_up", "rungs": [3]}
    rows = [
        ask(worlds.full, "family_1d_sweep", "dampened", slice={"contexts": some_contexts(), "random_seed": s}, **asked)
        for s in (0, 1)
    ]
    assert rows[0].row("rung_deltas", rung=3)["n"] == 40
    assert rows[0].row("rung_deltas", rung=3)["mean_delta"] == rows[1].row("rung_deltas", rung=3)["mean_delta"]


@pytest.mark.parametrize("kind", ["full", "bare"])
def test_pairs_interact_on_the_contexts_given_and_their_company_in_the_data_is_null(worlds, ask, kind):
    variables = ASKED["pairwise_interactions"][1]
    answer = ask(
        getattr(worlds, kind), "pairwise_interactions", "and", slice={"contexts": some_contexts()}, **variables
    )
    pair = answer.row("pairs", unit_a="run_speed_up_6", unit_b="ink_resistance_up_6")
    assert (pair["interaction"], pair["status"], pair["pattern"]) == (2.5, "present", "and")
    assert (pair["n_both"], pair["cooccurrence_lift"], pair["reason"]) == (None, None, NO_DATA)
    assert (pair["specificity_p"] is None) == (kind == "bare")
    assert f"3 pairs on {GIVEN}" in answer.headline


def test_a_modulator_acts_on_the_contexts_given(worlds, ask):
    variables = ASKED["conditional_interactions"][1]
    answer = ask(worlds.bare, "conditional_interactions", "modulated", slice={"contexts": some_contexts()}, **variables)
    assert answer.row("pairs")["difference"] == pytest.approx(-2.4, abs=1e-6)
    assert f"1 pair on {GIVEN}" in answer.headline


def test_a_weapon_modulates_without_examples_and_others_of_the_vocabulary_stand_in(worlds, ask, feature):
    variables = ASKED["conditional_interactions"][1] | {"modulator_token": "Splattershot"}
    answer = ask(worlds.bare, "conditional_interactions", "weapon", slice={"contexts": some_contexts()}, **variables)
    # The rule is 2 on kit 11: none of the contexts is left on it by the Splattershot, every tenth stands on it else.
    modulator = answer.row("modulator")
    assert modulator["modulator"] == "Splattershot"
    assert modulator["mean_delta"] <= -2.0 * 4 / 40


def test_lower_rungs_interfere_on_the_contexts_given_and_are_not_counted_in_the_data(worlds, ask):
    for ctx in (worlds.bare, worlds.full):
        variables = ASKED["within_family_interference"][1]
        answer = ask(ctx, "within_family_interference", "gap", slice={"contexts": some_contexts()}, **variables)
        row = answer.row("interference", comparison="pair")
        assert (row["delta"], row["n_data_alone"], row["n_data_both"]) == (-2.0, None, None)
        assert "examples" not in answer.headline
        assert any(NO_DATA in note for note in answer.findings.tables[0].notes)


@pytest.mark.parametrize("kind", ["full", "bare"])
def test_a_heatmap_is_drawn_on_the_contexts_given_without_counts_of_the_data(worlds, ask, kind):
    variables = ASKED["family_2d_heatmap"][1]
    answer = ask(getattr(worlds, kind), "family_2d_heatmap", "and", slice={"contexts": some_contexts()}, **variables)
    assert answer.row("heatmap", x=6, y=6)["mean_activation"] == 2.5
    assert answer.row("heatmap", x=3, y=6)["mean_activation"] == 0.0
    assert {row["n_data"] for row in answer.rows("heatmap")} == {None}
    assert (answer.custom["peak_n_data"], answer.custom["peak_n_data_reason"]) == (None, NO_DATA)
    assert ("specificity_reason" in answer.custom) == (kind == "bare")
    assert f"; {GIVEN}{'; specificity unknown' * (kind == 'bare')}; interventional." in answer.headline


def test_cores_are_found_in_the_contexts_that_activate_the_feature(worlds, ask):
    active = [
        {"weapon": weapon, "tokens": ["run_speed_up_12", "ink_resistance_up_6", "haunt"]} for weapon in (0, 1, 10, 11)
    ]
    answer = ask(worlds.bare, "minimal_cores", "and", slice={"contexts": some_contexts(6) + active})
    assert answer.custom["top_core_units"] == ["ink_resistance_up", "run_speed_up"]
    assert answer.custom["top_core_rungs"] == {"ink_resistance_up": 6, "run_speed_up": 6}
    assert answer.custom["transplant_delta"] == pytest.approx(2.5)
    assert answer.custom["specificity_p"] is None
    assert "the bundle holds none" in answer.custom["specificity_reason"]
    assert [row["example"] for row in answer.rows("examples")] == [6, 7, 8, 9]
    assert {row["drawn"] for row in answer.rows("examples")} == {"given"}
    assert "4 active ones of 10 contexts given in the spec; specificity unknown; interv" in answer.headline
    core = answer.rows("cores")[0]
    assert (core["coverage"], core["coverage_random"], core["ci_high"]) == (1.0, 1.0, 1.0)


def test_cores_beside_examples_are_compared_with_random_directions(worlds, ask):
    active = [{"weapon": i, "tokens": ["run_speed_up_12", "ink_resistance_up_6"]} for i in (0, 1, 10, 11)]
    answer = ask(worlds.full, "minimal_cores", "and", slice={"contexts": some_contexts(20) + active})
    assert answer.custom["top_core_units"] == ["ink_resistance_up", "run_speed_up"]
    assert answer.custom["specificity_p"] is not None
    assert "specificity_reason" not in answer.custom


def test_contexts_none_of_which_activates_the_feature_have_no_core(worlds, ask):
    answer = ask(worlds.bare, "minimal_cores", "and", slice={"contexts": some_contexts(5)})
    assert answer.headline.startswith("nothing found: none of the 5 contexts given in the spec activates feature")


def test_every_kit_of_the_vocabulary_is_swapped_into_the_contexts_given(worlds, ask):
    answer = ask(worlds.bare, "kit_sweep", "sub", slice={"contexts": some_contexts()}, method="interventional")
    assert answer.custom["n_weapons"] == len(worlds.bare.weapons)
    assert answer.custom["top_sub"] == "Suction Bomb"
    assert (answer.custom["n_kits"], answer.custom["n_kits_reason"]) == (None, NO_DATA)
    for name in ("sub_stats", "special_stats", "combo_stats"):
        table = next(each for each in answer.findings.tables if each.name == name)
        assert (table.rows, table.notes) == ([], [NO_DATA])
    table = next(each for each in answer.findings.tables if each.name == "sub_effects")
    assert {row["observational_delta"] for row in table.rows} == {None}
    assert f"observational_delta is null: {NO_DATA}" in table.notes


@pytest.mark.parametrize("name", ["min_examples", "analyze_combinations"])
def test_what_a_kit_sweep_does_with_examples_is_refused_beside_given_contexts(worlds, ask, name):
    asked = {"slice": {"contexts": some_contexts()}, "method": "interventional", name: True}
    with pytest.raises(RequestError, match=rf"{name} is about examples.*leave it out\. Nothing was run"):
        ask(worlds.full, "kit_sweep", "sub", **asked)


@pytest.mark.parametrize("kind", ["full", "bare"])
@pytest.mark.parametrize("type_name", sorted(ASKED))
def test_the_plan_announces_the_passes_that_a_run_on_given_contexts_makes(worlds, feature, kind, type_name):
    spec, ctx = spec_of(feature, type_name), getattr(worlds, kind)
    plan = find(type_name).plan(spec, ctx)
    job = Job()
    find(type_name).run(spec, ctx, job)
    assert plan.forward_passes == job.passes_made > 0
    assert plan.contexts == 40
    assert any(GIVEN in note for note in plan.notes)
    assert find(type_name).plan(spec, ctx).forward_passes == 0


@pytest.mark.parametrize("type_name", sorted(ASKED))
def test_what_a_run_without_examples_proposes_can_be_planned_there(worlds, feature, type_name):
    found = find(type_name).run(spec_of(feature, type_name), worlds.bare, Job())
    for followup in found.followups:
        spec = parse_spec(followup.spec)
        assert spec.dataset_slice.contexts is not None
        assert find(spec.type).plan(spec, worlds.bare).contexts > 0


def test_a_sweep_that_finds_something_proposes_the_weapons_of_the_examples_where_there_are_any(worlds, feature):
    spec = spec_of(feature, "family_1d_sweep")
    beside, bare = (find("family_1d_sweep").run(spec, ctx, Job()).followups for ctx in (worlds.full, worlds.bare))
    assert [each.spec["type"] for each in bare] == ["minimal_cores"]
    weapons = next(each for each in beside if each.spec["type"] == "weapon_sweep")
    assert "dataset_slice" not in weapons.spec
    assert weapons.reason.endswith("(on the bundle's examples)")


def test_a_feature_that_no_example_activates_is_dead_whatever_the_contexts(worlds, ask):
    answer = ask(
        worlds.full, "family_1d_sweep", "dead", slice={"contexts": some_contexts()}, family="special_charge_up"
    )
    assert answer.custom["dead"]


def test_few_contexts_are_said_to_give_bounds(worlds, ask):
    asked = {"slice": {"contexts": some_contexts(12)}, "family": "special_charge_up"}
    notes = ask(worlds.bare, "family_1d_sweep", "threshold", **asked).findings.diagnostics.notes
    assert any(note.endswith("of fewer than 30 they are wide bounds") for note in notes)


def test_without_examples_and_contexts_the_refusal_says_how_to_give_them(worlds, ask):
    with pytest.raises(RequestError, match="holds no examples") as caught:
        ask(worlds.bare, "family_1d_sweep", "threshold", family="special_charge_up")
    said = str(caught.value)
    assert 'dataset_slice.contexts, at least 2 such as {"weapon": "Splattershot", "tokens": [' in said
    assert said.endswith("(on the command line --contexts FILE). Nothing was run.")


def test_the_types_that_take_contexts_are_those_that_intervene_and_need_no_examples():
    assert {name for name, each in catalogue().items() if each.spec.takes_contexts} == TAKERS


@pytest.mark.parametrize("type_name", sorted(set(catalogue()) - TAKERS))
def test_a_type_that_works_on_examples_refuses_contexts_and_names_those_that_take_them(type_name):
    required = {"binary_tokens": ["haunt"]} if type_name == "binary_presence_effect" else {}
    with pytest.raises(
        RequestError, match=rf"{type_name} works on the bundle's examples\. Leave contexts out"
    ) as caught:
        parse_spec(
            {
                "type": type_name,
                "feature_id": 0,
                "dataset_slice": {"contexts": some_contexts(2)},
                "variables": required,
            }
        )
    assert all(name in str(caught.value) for name in TAKERS)


@pytest.mark.parametrize("type_name", ["family_1d_sweep", "family_2d_heatmap", "kit_sweep", "pairwise_interactions"])
def test_an_observational_run_refuses_contexts_and_says_what_to_do(feature, type_name):
    variables = ASKED[type_name][1] | {"method": "observational"}
    with pytest.raises(RequestError, match=r"method 'observational' groups.*Set method to 'interventional'"):
        spec_of(feature, type_name, variables=variables)


DECODED = [
    {"weapon": weapon, "tokens": [f"quick_respawn_{rung}"]}
    for weapon in (40, 50, 1111, 9999)
    for rung in (3, 6, 12, 29)
]


@pytest.fixture
def networks(write_variant, without_examples, small_bundle):
    """The small network with its examples, and without any."""
    return [Context(path.name, Bundle.open(path)) for path in (small_bundle, write_variant(**without_examples))]


def test_steering_acts_on_the_contexts_given_with_and_without_examples(networks, ask):
    full, bare = (ask(ctx, "decoder_output_analysis", 7, slice={"contexts": DECODED}, steer=[0, 2]) for ctx in networks)
    assert full.rows("steering")
    for one, other in zip(full.rows("steering"), bare.rows("steering"), strict=True):
        assert (one["token"], one["n"]) == (other["token"], 16)
        assert one["mean_delta"] == pytest.approx(other["mean_delta"], abs=1e-6)
    assert "16 contexts given in the spec" in bare.headline
    assert bare.job.passes_made == 16
    assert "the bundle holds none" in bare.custom["specificity_reason"]


def test_what_a_feature_writes_is_read_off_the_weights_without_examples(networks, ask):
    full, bare = (ask(ctx, "decoder_output_analysis", 7) for ctx in networks)
    assert bare.rows("promoted") == full.rows("promoted")
    assert bare.findings.diagnostics.population == "no examples: the bundle holds none"
    assert bare.findings.findings[0].specificity_p is None


def test_contexts_that_nothing_is_done_to_are_refused(networks, ask):
    with pytest.raises(RequestError, match=r"contexts are what steer acts on.*Nothing was run"):
        ask(networks[0], "decoder_output_analysis", 7, slice={"contexts": DECODED})


def test_of_more_contexts_than_may_be_tested_some_are_drawn_at_random_for_cores(worlds, ask):
    active = [
        {"weapon": weapon, "tokens": [f"run_speed_up_{rung}", "ink_resistance_up_6"]}
        for weapon in (0, 1, 10, 11)
        for rung in (6, 12, 15)
    ]
    tested = [
        ask(worlds.bare, "minimal_cores", "and", slice={"contexts": active, "random_seed": seed}, max_examples=5)
        for seed in (0, 1)
    ]
    tested = [[row["example"] for row in answer.rows("examples")] for answer in tested]
    assert [len(each) for each in tested] == [5, 5]
    assert tested[0] != tested[1]
