"""Effects of units, written into builds and as builds hold them, against rules and against counting."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest
from mechinterp_runner.context.context import Context, Readout
from mechinterp_runner.context.directions import RandomDirections
from mechinterp_runner.context.token_sets import levels_of
from mechinterp_runner.runners.design import unit_effects as unit_effects_module
from mechinterp_runner.runners.design.effect_report import effect_finding
from mechinterp_runner.runners.design.effect_rows import effect_table
from mechinterp_runner.runners.design.unit_effects import (
    CausalColumns,
    NullUnits,
    UnitEffects,
    no_causal_columns,
    specific,
    unit_effects,
    unit_plan,
)
from mechinterp_runner.runners.design.units import Unit, all_units
from mechinterp_runner.schemas.errors import RequestError
from mechinterp_runner.schemas.job import Job
from mechinterp_runner.schemas.spec import DatasetSlice, ExperimentSpec, Variables
from scipy import stats


class UnitsSpec(ExperimentSpec):
    type: Literal["units"] = "units"
    variables: Variables = Variables()


def spec_of(feature: int, **part) -> ExperimentSpec:
    return UnitsSpec.model_construct(
        feature_id=feature, dataset_slice=DatasetSlice(**part), constraints=("one_rung_per_family",)
    )


def effects_of(ctx: Context, feature: int, units: list[Unit], *, at_level: bool = False, **part) -> UnitEffects:
    part = part or {"sample_size": 300}
    return unit_effects(
        spec_of(feature, **part), ctx, units, min_effect=ctx.min_effect(feature) or 0.1, job=Job(), at_level=at_level
    )


def held_by(ctx: Context, effects: UnitEffects, family: str) -> np.ndarray:
    levels = levels_of(effects.design.base.present, ctx.vocabulary)
    return levels[:, ctx.vocabulary.family_index[family]]


def test_an_ability_that_raises_by_itself_has_exactly_its_height(world, feature):
    found = effects_of(world, feature["main_only"], [Unit("comeback", 10), Unit("tenacity", 10)])
    assert found.table.effects.mean.tolist() == pytest.approx([1.5, 0.0])
    assert found.table.status[0] == "present"
    assert found.acting() == [0]
    assert found.acting_as_held() == []


def test_the_effect_as_held_is_that_of_taking_it_out_of_those_that_hold_it(world, feature):
    found = effects_of(world, feature["main_only"], [Unit("comeback", 10)])
    holders = (held_by(world, found, "comeback") > 0).mean()
    assert 0.05 < holders < 0.5
    assert found.held.effects.mean[0] == pytest.approx(1.5 * holders)
    assert found.held.effects.responder_rate[0] == pytest.approx(holders)
    assert found.held.effects.mean_responders[0] == pytest.approx(1.5)


def test_a_step_is_missed_when_written_below_it_and_seen_when_written_at_it(world, feature):
    below, at = (Unit("special_charge_up", level) for level in (12, 29))
    found = effects_of(world, feature["threshold"], [below, at], sample_size=600)
    assert found.table.effects.mean.tolist() == pytest.approx([0.0, 1.5])
    assert found.acting() == [1]
    assert (held_by(world, found, "special_charge_up") >= 29).mean() == pytest.approx(
        found.held.effects.responder_rate[0]
    )


def test_a_token_with_a_gap_below_it_acts_as_builds_hold_it_and_not_as_it_is_written(world, feature):
    found = effects_of(world, feature["gap"], all_units(world), sample_size=1000)
    swim = [unit.family for unit in found.units].index("swim_speed_up")
    assert found.table.effects.mean[swim] == 0.0
    assert found.acting() == []
    assert found.acting_as_held() == [swim]
    row = found.columns(["swim_speed_up"], [12])
    assert row["held_status"] == ["conditional"]
    assert row["causal_status"] == ["negligible"]
    assert row["specificity_p"][0] <= 0.05


def test_a_level_by_itself_is_held_only_by_builds_at_that_level(world, feature):
    units = [Unit("quick_respawn", 12), Unit("quick_respawn", 29)]
    found = effects_of(world, feature["dose"], units, at_level=True, sample_size=1000)
    level = held_by(world, found, "quick_respawn")
    for index, unit in enumerate(units):
        assert found.held.effects.mean[index] == pytest.approx(
            (level == unit.level).mean() * 3.0 * unit.level / 57.0, rel=1e-5
        )
        assert found.table.effects.mean[index] == pytest.approx(3.0 * unit.level / 57.0, rel=1e-5)


def test_an_ability_that_takes_another_away_is_compared_with_its_slot_empty(world, feature):
    found = effects_of(world, feature["main_only"], [Unit("tenacity", 10)])
    assert found.table.effects.mean[0] == 0.0
    assert found.held.effects.mean[0] == 0.0
    assert not (found.table.differences != 0).any()


def test_legs_of_an_and_act_where_the_other_leg_is_and_are_specific(world, feature):
    units = [Unit("run_speed_up", 12), Unit("ink_resistance_up", 12), Unit("swim_speed_up", 12)]
    found = effects_of(world, feature["and"], units)
    other = (held_by(world, found, "ink_resistance_up") >= 6).mean()
    assert found.table.effects.responder_rate[0] == pytest.approx(other)
    assert found.table.effects.mean[0] == pytest.approx(2.5 * other)
    assert sorted(found.acting()) == [0, 1]


def test_rows_get_the_columns_of_their_unit_and_nulls_without_one(world, feature):
    found = effects_of(world, feature["main_only"], [Unit("comeback", 10), Unit("quick_respawn", 12)])
    row = found.columns(["quick_respawn", "comeback", "quick_respawn", "haunt"], [0, 10, 29, 0])
    assert set(row) == set(CausalColumns.model_fields) == set(no_causal_columns(1, "not run"))
    assert row["causal_delta"] == pytest.approx([0.0, 1.5, None, None])
    assert row["held_status"][2:] == [None, None]
    assert row["causal_reason"] == [None, None, *2 * ["it was not written into builds"]]


def test_the_columns_are_students_on_the_paired_differences_with_the_finite_population(world, feature):
    found = effects_of(world, feature["dose"], [Unit("quick_respawn", 29), Unit("haunt", 10)])
    row = {name: values[0] for name, values in found.columns(["quick_respawn"], [29]).items()}
    assert (row["mean_pre_delta"], row["causal_n"]) == (pytest.approx(3.0 * 29 / 57), 300)
    legs = effects_of(world, feature["and"], [Unit("run_speed_up", 12)])
    row = {name: values[0] for name, values in legs.columns(["run_speed_up"], [12]).items()}
    d = 2.5 * (held_by(world, legs, "ink_resistance_up") >= 6)
    error = d.std(ddof=1) / np.sqrt(len(d)) * np.sqrt(1 - len(d) / len(world.data))
    assert row["causal_std_error"] == pytest.approx(error)
    bounds = stats.t.interval(0.95, len(d) - 1, loc=d.mean(), scale=error)
    assert (row["causal_ci_low"], row["causal_ci_high"]) == pytest.approx(bounds)
    assert row["causal_p_value"] == pytest.approx(2 * stats.t.sf(d.mean() / error, len(d) - 1))
    assert row["causal_q_value"] == row["causal_p_value"]
    exact = stats.binomtest(int((d > 0).sum()), len(d)).proportion_ci(0.95)
    assert (row["responder_low"], row["responder_high"]) == pytest.approx((exact.low, exact.high))


def test_below_the_floor_the_pre_activation_shows_the_whole_step(world, feature):
    found = effects_of(world, feature["threshold"], [Unit("special_charge_up", 29)])
    row = found.columns(["special_charge_up"], [29])
    assert (row["causal_delta"], row["mean_pre_delta"]) == ([pytest.approx(1.5)], [pytest.approx(2.0)])


def test_where_constraints_leave_no_unit_the_request_says_what_to_change(world):
    spec = spec_of(0, sample_size=100).model_copy(update={"constraints": ("max_ap_budget",)})
    with pytest.raises(RequestError, match=r"quick_respawn_57 under max_ap_budget: leave the constraint out.*Nothing"):
        unit_effects(spec, world, [Unit("quick_respawn", 57)], min_effect=0.1, job=Job())


def test_a_unit_that_constraints_drop_has_nulls_with_that_reason(world, feature):
    spec = spec_of(feature["main_only"], sample_size=100).model_copy(update={"constraints": ("max_ap_budget",)})
    units, job = [Unit("comeback", 10), Unit("quick_respawn", 57)], Job()
    announced = unit_plan(spec, world, units)
    found = unit_effects(spec, world, units, min_effect=0.1, job=job)
    row = found.columns(["comeback", "quick_respawn"], [10, 57])
    assert row["causal_delta"] == [pytest.approx(1.5), None]
    assert row["causal_reason"] == [None, "constraints leave too few contexts for it"]
    assert announced.forward_passes + announced.saved_passes == 3 * announced.contexts


def test_a_certain_effect_that_is_not_specific_is_not_said_to_be_undetectable():
    null = null_of(np.full(199, 5.0) * np.where(np.arange(199) % 2, 1, -1), np.full(199, 6.0))
    (table,) = specific([table_of(np.stack([np.full(400, 2.0)]))], [null])
    silent = table_of(np.zeros((1, 400)))
    words = [
        effect_finding(each, 0, subject="x", feature=7, population="all", table_name="t").relation
        for each in (table, silent)
    ]
    assert (table.status, silent.status) == (["present"], ["negligible"])
    assert words == ["does nothing specific to feature 7", "does nothing detectable to feature 7"]


def test_the_dry_run_announces_the_passes(fresh_world):
    ctx, _ = fresh_world
    units, job = [Unit("comeback", 10), Unit("haunt", 10), Unit("special_saver", 12)], Job()
    announced = unit_plan(spec_of(0), ctx, units, 40)
    assert announced.contexts == 40
    unit_effects(spec_of(0), ctx, units, min_effect=0.1, job=job, default=40)
    assert announced.forward_passes == job.passes_made > 0


def test_what_it_is_in_the_builds_costs_no_pass_of_its_own(fresh_world):
    ctx, world = fresh_world
    found = effects_of(ctx, 0, [Unit("comeback", 10)], sample_size=50)
    sets = [found.design.base, *found.design.conditions]
    assert len(world.seen) == len(set(np.concatenate([each.keys() for each in sets]).tolist()))


# -- against random directions ---------------------------------------------------------------------------------------


def table_of(d: np.ndarray):
    zero = np.zeros_like(d)
    return effect_table(d, d, base=(zero, zero), population=10**6, min_effect=0.1, null=None, seed=0)


def null_of(means, responders) -> NullUnits:
    return NullUnits(np.atleast_2d(means), np.atleast_2d(responders), 0.05)


def test_an_effect_is_specific_by_its_mean_or_by_what_it_does_where_it_acts():
    everywhere, somewhere = np.full(200, 2.5), np.where(np.arange(200) < 60, 2.5, 0.0)
    rng = np.random.default_rng(0)
    null = null_of(rng.uniform(-0.8, 0.8, (2, 199)), rng.uniform(1.0, 2.4, (2, 199)))
    (table,) = specific([table_of(np.stack([everywhere, somewhere]))], [null])
    assert table.status == ["present", "present"]
    assert table.specificity.tolist() == pytest.approx([1 / 200] * 2)
    assert table.columns["specificity_p"].tolist() == table.specificity.tolist()
    (weak,) = specific([table_of(np.stack([np.full(200, 0.4), np.where(np.arange(200) < 60, 1.5, 0.0)]))], [null])
    assert (weak.specificity > 0.2).all()


def test_an_effect_counts_by_how_far_the_unit_moves_random_directions():
    rng = np.random.default_rng(1)
    responders = np.full((2, 199), 6.0)
    null = null_of(np.stack([rng.normal(size=199), 0.1 * rng.normal(size=199)]), responders)
    (table,) = specific([table_of(np.stack([np.full(200, 0.9), np.full(200, 0.9)]))], [null])
    assert table.specificity[0] > 0.5
    assert table.specificity[1] <= 0.05


def test_looking_at_two_statistics_and_two_tables_costs_what_it_should():
    """A direction drawn as the others are gets a p that is uniform, whatever it is looked at for."""
    rng = np.random.default_rng(2)
    p = []
    for _ in range(300):
        nulls = [null_of(rng.normal(size=(5, 201)), rng.normal(size=(5, 201))) for _ in range(2)]
        others = [null_of(null.mean[:, 1:], null.responders[:, 1:]) for null in nulls]
        tables = [
            SimpleNamespace(
                status=["present"] * 5,
                effects=SimpleNamespace(mean=null.mean[:, 0], mean_responders=null.responders[:, 0]),
            )
            for null in nulls
        ]
        largest = tuple(np.max([each.largest()[i] for each in others], axis=0) for i in range(2))
        p.append(min(_with_p_of(table, null, largest) for table, null in zip(tables, others, strict=True)))
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.04)
    assert np.mean(p) == pytest.approx(0.5, abs=0.06)


def _with_p_of(table, null, largest) -> float:
    effects = table_of(np.zeros((5, 40)))
    effects = replace(
        effects,
        status=table.status,
        effects=replace(
            effects.effects, mean=table.effects.mean, mean_responders=np.asarray(table.effects.mean_responders)
        ),
    )
    return float(unit_effects_module._with_p(effects, null, largest).specificity.min())


def test_the_mean_of_a_conditional_effect_is_no_evidence():
    rare = np.where(np.arange(400) < 20, 1.0, 0.0)
    null = null_of(np.full(199, 0.001), np.linspace(0.5, 3.0, 199))
    (table,) = specific([table_of(rare[None])], [null])
    assert table.status == ["conditional"]
    assert table.specificity[0] > 0.5


def test_without_random_directions_nothing_is_known_of_them():
    (table,) = specific([table_of(np.full((1, 100), 2.0))], [])
    assert np.isnan(table.specificity).all()
    assert table.acting() == [0]


@pytest.mark.parametrize("rate", [0.03, 0.2])
def test_a_random_direction_acts_in_about_5_of_100_tries(world, monkeypatch, rate):
    pooled = world.pooled_of(np.arange(len(world.data)))
    monkeypatch.setattr("mechinterp_runner.context.directions._SEED", 99)
    fresh = RandomDirections.from_reference(pooled, k=60).matched(rate, 2.0)
    world.random_directions()
    monkeypatch.setattr(world, "active_rate", lambda feature: rate)
    monkeypatch.setattr(world, "effective_max", lambda feature: 2.0)
    acting = 0
    for index in range(60):

        def read(vectors, feature, index=index):
            pre = (vectors - fresh.centre) @ fresh.weight[:, index] + fresh.bias[index]
            return Readout(pre, np.clip(pre, 0.0, 6.0))

        monkeypatch.setattr(world, "read", read)
        found = effects_of(world, 0, all_units(world), sample_size=100)
        acting += bool(found.acting() or found.acting_as_held())
    assert acting <= 7
