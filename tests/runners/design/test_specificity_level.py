"""A feature that is itself a random direction is specific about as often as the level says."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from mechinterp_runner.context.derived import Derived
from mechinterp_runner.context.directions import RandomDirections
from mechinterp_runner.runners.design.specificity import NullEffects, null_activations, null_effects
from mechinterp_runner.schemas.spec import DatasetSlice

RATE, TOP, DIM = 0.1, 3.0, 12


def test_the_p_value_counts_the_observation_itself():
    null = NullEffects(np.array([0.1, 0.2, 0.3, 0.4]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert null.p_value("present", -0.3, 9.9) == pytest.approx(3 / 5)
    assert null.p_value("conditional", 0.0, -3.5) == pytest.approx(2 / 5)
    assert null.p_value("present", 5.0, 0.0) == pytest.approx(1 / 5)


def test_a_feature_drawn_as_the_random_directions_are_is_specific_about_5_times_in_100():
    rng = np.random.default_rng(1)
    mixing = rng.normal(size=(DIM, DIM))
    reference = rng.normal(size=(2000, DIM)) @ mixing
    base = rng.normal(size=(100, DIM)) @ mixing
    conditions = np.stack([base + shift * rng.normal(size=DIM) @ mixing for shift in (0.2, 0.4, 0.8)])
    nulls = RandomDirections.from_reference(reference)
    ctx = SimpleNamespace(
        random_directions=lambda: nulls, effective_max=lambda feature: TOP, active_rate=lambda feature: RATE
    )
    null = null_effects(ctx, 0, conditions, base=base, min_effect=0.15)
    assert null is not None
    p = []
    for _ in range(400):
        direction = mixing.T @ rng.normal(size=DIM)
        projection = np.sort((reference - reference.mean(axis=0)) @ direction)
        bias = projection[-round(RATE * 2000) - 1]
        scale = TOP / (np.quantile(projection[-round(RATE * 2000) :], 0.995) - bias)

        def read(x, direction=direction, bias=bias, scale=scale):
            return np.clip(((x - reference.mean(axis=0)) @ direction - bias) * scale, 0, 6)

        largest = max(abs(float((read(vectors) - read(base)).mean())) for vectors in conditions)
        p.append(null.p_value("present", largest, 0.0))
    assert 0.01 <= np.mean(np.array(p) <= 0.05) <= 0.11
    assert np.mean(p) == pytest.approx(0.5, abs=0.08)


def test_without_a_base_effects_are_taken_against_the_mean_over_the_conditions():
    rng = np.random.default_rng(2)
    reference = rng.normal(size=(500, 4))
    nulls = RandomDirections.from_reference(reference, k=7)
    ctx = SimpleNamespace(
        random_directions=lambda: nulls, effective_max=lambda feature: TOP, active_rate=lambda feature: 0.5
    )
    conditions = rng.normal(size=(3, 60, 4))
    found = null_effects(ctx, 0, conditions, base=None, min_effect=0.1)
    matched = nulls.matched(0.5, TOP)
    activation = np.stack([matched.activation(vectors) for vectors in conditions])
    means = np.abs((activation - activation.mean(axis=0)).mean(axis=1))
    assert found is not None
    assert found.largest_mean == pytest.approx(means.max(axis=0))


def test_a_dead_feature_has_no_null():
    ctx = SimpleNamespace(random_directions=object, effective_max=lambda feature: None)
    assert null_effects(ctx, 0, np.zeros((1, 2, 3)), base=np.zeros((2, 3)), min_effect=0.1) is None


def test_the_rows_of_the_null_are_projected_once_for_all_features_and_read_as_directly(world, monkeypatch):
    read = []
    pooled_of = world.pooled_of
    monkeypatch.setattr(world, "pooled_of", lambda rows: read.append(len(rows)) or pooled_of(rows))
    monkeypatch.setattr(world, "_derived", Derived(1 << 30))
    feature = next(f for f in range(world.n_features) if world.effective_max(f) is not None)
    whole = world.population(DatasetSlice(), feature)
    part = replace(whole, rows=whole.rows[::3], activation=whole.activation[::3])
    for population in (whole, part, whole, part):
        found = null_activations(world, feature, population, 5)
        matched = world.random_directions().matched(world.active_rate(feature), world.effective_max(feature))
        direct = matched.activation(pooled_of(population.rows[found.positions]))
        assert found.activation == pytest.approx(direct, abs=1e-5)
    assert read == [len(whole), len(part)]


def test_the_top_of_a_direction_is_numpys_quantile_of_its_active_projections():
    reference = np.random.default_rng(3).normal(size=(777, 5))
    nulls = RandomDirections.from_reference(reference, k=6)
    for rate in (0.003, 0.2, 0.99):
        matched, active = nulls.matched(rate, TOP), round(rate * 777)
        threshold = nulls.sorted_projection[777 - active - 1]
        top = np.quantile(nulls.sorted_projection[777 - active :], 0.995, axis=0)
        assert matched.scale == pytest.approx(TOP / (top - threshold))
        assert matched.activation(reference) == pytest.approx(matched.of_projection(nulls.project(reference)))
