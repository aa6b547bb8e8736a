"""Minimal cores against brute force over the subsets of small builds, and against rules with known cores."""

from __future__ import annotations

from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mechinterp_runner.runners.parts.cores.greedy import greedy_cores
from mechinterp_runner.runners.parts.cores.lattice import Probe, background_weapons, minimal_subsets
from mechinterp_runner.runners.parts.cores.outcomes import Cut, find_cores
from mechinterp_runner.schemas.catalogue import find
from mechinterp_runner.schemas.errors import RequestError, UnknownNameError
from mechinterp_runner.schemas.job import Job
from mechinterp_runner.schemas.spec import parse_spec

CORES = "minimal_cores"


def powerset(units: tuple[str, ...]) -> list[frozenset[str]]:
    return [frozenset(c) for c in chain.from_iterable(combinations(units, k) for k in range(len(units) + 1))]


def test_a_core_of_exactly_two_families_is_found(ask, world):
    answer = ask(world, CORES, "and", max_examples=60)
    assert answer.custom["top_core_units"] == ["ink_resistance_up", "run_speed_up"]
    assert answer.custom["top_core_coverage"] == 1.0
    assert answer.custom["n_cores"] == 1
    assert answer.custom["top_core_rungs"] == {"ink_resistance_up": 6, "run_speed_up": 6}
    assert answer.custom["specificity_p"] <= 0.05
    assert answer.custom["transplant_delta"] > 1.5
    assert "is a minimal core of feature" in answer.headline


def test_a_redundant_or_has_a_core_for_each_of_its_legs(ask, world):
    answer = ask(world, CORES, "or", max_examples=80)
    assert {row["core"] for row in answer.rows("cores")} == {"special_saver", "special_power_up"}
    for row in answer.rows("necessity"):
        if row["unit"] in {"special_saver", "special_power_up"}:
            assert row["share_lost"] < 1.0


def test_a_weapon_rule_has_the_weapon_alone_as_its_core(ask, world):
    answer = ask(world, CORES, "weapon", max_examples=40)
    assert answer.custom["top_core"] == "the weapon alone"
    assert answer.custom["top_core_units"] == ["weapon"]
    assert answer.findings.followups[0].spec["type"] == "weapon_sweep"


def test_the_empty_core_is_nothing_when_the_weapon_is_a_unit_and_the_weapon_alone_when_it_is_not(ask, world):
    assert ask(world, CORES, "constant", max_examples=10).rows("cores")[0]["core"] == "nothing"
    kept = ask(world, CORES, "weapon", max_examples=10, include_weapon=False)
    assert kept.rows("cores")[0]["core"] == "the weapon alone"


def test_a_dampening_family_is_listed_as_an_inhibitor_with_what_its_removal_adds(ask, world):
    answer = ask(world, CORES, "dampened", slice={"family_filter": ["ink_saver_main"]}, max_examples=40)
    assert answer.custom["top_core_units"] == ["swim_speed_up"]
    assert [row["unit"] for row in answer.rows("inhibitors")] == ["ink_saver_main"]
    assert answer.rows("inhibitors")[0]["share_raised"] == 1.0
    assert answer.rows("inhibitors")[0]["mean_raise"] == pytest.approx(0.9, abs=1e-5)


def test_a_suppressor_that_silences_completely_has_no_active_example_to_show_it(ask, world):
    answer = ask(world, CORES, "suppressed", slice={"family_filter": ["swim_speed_up"]}, max_examples=40)
    assert answer.custom["top_core_units"] == ["swim_speed_up"]
    assert answer.rows("inhibitors") == []


def test_cores_equal_brute_force_over_all_subsets_for_up_to_8_units(world, feature):
    cut = Cut(by_token=False, clamp=(), exclude=(), weapon=True)
    probe = Probe(world, 0, background_weapons(world, 0), Job())
    for name in ("and", "or", "dose", "threshold", "suppressed"):
        index = feature[name]
        rows = np.flatnonzero(world.activations(index) > 0.1)[:12]
        cases = [case for case in cut.cases(world, rows) if len(case.names) <= 8]
        outcomes = find_cores(cases, Probe(world, index, probe.background, Job()), threshold=0.5, exact_limit=8, seed=0)
        assert cases
        for outcome in outcomes:
            assert set(outcome.cores) == _brute_force(outcome.case, world, index, probe.background)


def _brute_force(case, world, index, background) -> set[frozenset[str]]:
    """Minimal sufficient subsets by definition, one subset at a time."""

    def value(units: frozenset[str]) -> float:
        present = np.zeros(len(world.vocabulary), dtype=bool)
        for name, tokens in zip(case.names, case.tokens, strict=False):
            if name in units:
                present |= tokens
        weapons = [case.natural.weapon[0]] if "weapon" in units else list(background)
        sets = type(case.natural)(np.array(weapons, np.int32), np.repeat(present[None], len(weapons), axis=0))
        return float(np.mean(np.clip(world.oracle.vectors(sets)[:, index], 0, 6), dtype=np.float64))

    natural = float(np.clip(world.oracle.vectors(case.natural)[0, index], 0, 6))
    enough = [units for units in powerset(case.names) if value(units) >= 0.5 * natural]
    return {units for units in enough if not any(smaller < units for smaller in enough)}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6).flatmap(lambda n: st.lists(st.booleans(), min_size=2**n, max_size=2**n)))
def test_minimal_subsets_equal_the_definition_on_any_set_function(sufficient):
    array = np.array(sufficient)
    expected = [
        bool(array[t]) and not any(array[s] for s in range(len(array)) if s != t and s & t == s)
        for t in range(len(array))
    ]
    assert minimal_subsets(array).tolist() == expected


def test_greedy_cores_are_sufficient_and_irreducible(world, feature):
    cut = Cut(by_token=True, clamp=(), exclude=(), weapon=True)
    index = feature["and"]
    rows = np.flatnonzero(world.activations(index) > 0.1)[:8]
    probe = Probe(world, index, background_weapons(world, 0), Job())
    for case in cut.cases(world, rows):
        natural, cores, without = greedy_cores(case, probe, threshold=0.5, seed=3)
        assert cores
        assert len(without) == len(case.names)
        for core, value in cores.items():
            assert value >= 0.5 * natural
            for unit in core:
                held = np.isin(np.arange(len(case.names)), [u for u in core if u != unit])
                assert probe.values(case, held[None])[1][0] < 0.5 * natural


def test_above_the_exact_limit_results_say_they_are_not_exact_and_agree_on_a_unique_core(ask, world):
    exact = ask(world, CORES, "and", max_examples=30)
    greedy = ask(world, CORES, "and", max_examples=30, exact_limit=1)
    assert exact.custom["n_exact"] == 30
    assert greedy.custom["n_exact"] == 0
    assert all(row["exact"] is False for row in greedy.rows("cores"))
    assert greedy.custom["top_core_units"] == exact.custom["top_core_units"]


def test_the_retention_threshold_decides_how_much_of_a_dose_is_kept(ask, world):
    low = ask(world, CORES, "dose", max_examples=30, retention_threshold=0.2, slice={"percentile_min": 90})
    high = ask(world, CORES, "dose", max_examples=30, retention_threshold=1.0, slice={"percentile_min": 90})
    assert low.custom["top_core_rungs"]["quick_respawn"] < high.custom["top_core_rungs"]["quick_respawn"]


def test_clamped_families_are_held_and_do_not_count(ask, world):
    answer = ask(world, CORES, "and", max_examples=30, clamp_families=["run_speed_up"])
    assert answer.custom["top_core_units"] == ["ink_resistance_up"]


def test_without_an_excluded_family_no_core_is_left_and_the_result_says_so(ask, world):
    answer = ask(world, CORES, "and", max_examples=30, exclude_families=["run_speed_up"])
    assert answer.custom["n_cores"] == 0
    assert answer.custom["n_without_core"] == 30
    assert "no core of feature" in answer.headline


def test_a_family_cannot_be_clamped_and_excluded(ask, world):
    with pytest.raises(RequestError, match="both clamped and excluded"):
        ask(world, CORES, "and", clamp_families=["run_speed_up"], exclude_families=["run_speed_up"])


def test_an_unknown_family_is_an_error_with_the_nearest_name(ask, world):
    with pytest.raises(UnknownNameError, match="run_speed_up"):
        ask(world, CORES, "and", clamp_families=["run_speed"])


def test_half_of_the_examples_are_the_highest_and_half_are_drawn_at_random(ask, world, feature):
    answer = ask(world, CORES, "dose", max_examples=40)
    rows = answer.rows("examples")
    top = [row for row in rows if row["drawn"] == "top"]
    assert len(rows) == 40
    assert len(top) == 20
    highest = np.sort(world.activations(feature["dose"]))[::-1][:20]
    assert sorted(row["activation"] for row in top) == pytest.approx(sorted(highest.tolist()))


def test_necessity_says_which_unit_an_example_cannot_lose(ask, world):
    answer = ask(world, CORES, "and", max_examples=30)
    for unit in ("ink_resistance_up", "run_speed_up"):
        row = answer.row("necessity", unit=unit)
        assert row["share_lost"] == 1.0
        assert row["mean_drop"] == pytest.approx(2.5)
    assert answer.row("necessity", unit="weapon")["share_lost"] == 0.0


def test_token_units_are_tokens(ask, world):
    answer = ask(world, CORES, "threshold", unit="token", max_examples=20)
    assert all("special_charge_up_" in unit for unit in answer.custom["top_core_units"])


def test_a_dead_feature_succeeds_with_nulls_and_a_reason(ask, world):
    answer = ask(world, CORES, "dead")
    assert answer.findings.findings[0].status == "dead"
    assert answer.rows("cores") == []


def test_no_example_above_the_effect_of_interest_is_said_and_not_guessed(ask, world):
    answer = ask(world, CORES, "threshold", min_effect=5.0)
    assert answer.headline.startswith("nothing found: no example")
    assert answer.custom["n_examples"] == 0


def test_a_handful_of_examples_is_called_too_few_and_not_a_negative_result(ask, world):
    answer = ask(world, CORES, "and", max_examples=2)
    assert answer.headline.startswith("too few examples to tell")


def test_the_plan_counts_the_lattice_passes(fresh_world):
    ctx, _ = fresh_world
    fields = {"type": CORES, "feature_id": 2, "variables": {"max_examples": 6}}
    announced, job = find(CORES).plan(parse_spec(fields), ctx), Job()
    find(CORES).run(parse_spec(fields), ctx, job)
    assert 0 < announced.forward_passes <= job.passes_made
    assert any("on top" in note for note in announced.notes)


def test_a_driver_that_is_clamped_is_a_core_by_itself_and_is_checked_in_random_builds(ask, world):
    answer = ask(world, "minimal_cores", "threshold", clamp_families=["special_charge_up"], max_examples=30)
    assert answer.custom["top_core_units"] == []
    assert "the clamped families alone" in answer.headline
    assert answer.custom["verdict"] == "present"
    assert answer.custom["transplant_delta"] == pytest.approx(1.5, abs=0.2)
    assert answer.custom["specificity_p"] <= 0.05


def test_what_is_always_active_has_an_empty_core_that_moves_nothing_in_random_builds(ask, world):
    answer = ask(world, "minimal_cores", "constant", max_examples=20)
    assert answer.custom["top_core_units"] == []
    assert answer.custom["transplant_delta"] == 0.0
    assert answer.custom["verdict"] == "nothing_specific"


def test_the_weapon_that_is_no_unit_moves_with_the_core(ask, world):
    answer = ask(world, "minimal_cores", "weapon", include_weapon=False, max_examples=20)
    assert answer.custom["top_core_units"] == []
    assert answer.custom["transplant_delta"] > 1.5
    assert answer.custom["verdict"] == "present"


def test_floor_and_clamp_are_those_of_the_examples_tested(ask, world):
    answer = ask(world, "minimal_cores", "and", max_examples=20)
    assert answer.findings.diagnostics.relu_floor_rate == 0.0
    assert answer.findings.diagnostics.relu_floor_detected is False


def test_one_example_gives_no_transplant_and_no_verdict(ask, world):
    answer = ask(world, "minimal_cores", "and", slice={"sample_size": 1, "activation_threshold": 0.0})
    assert answer.custom["transplant_delta"] is None
    assert answer.custom["verdict"] == "nothing_specific"
    assert any("fewer than two builds" in note for table in answer.findings.tables for note in table.notes)
