"""Verdicts on what was observed: baselines, dominance and shared parts of kits must not fire by chance."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from mechinterp_runner.context.population import Population
from mechinterp_runner.runners.design.observed import observed_curve, rung_stats
from mechinterp_runner.runners.parts.weapons.confirm import halve, top_confirmed
from mechinterp_runner.runners.parts.weapons.dominance import dominance, shared_part
from mechinterp_runner.runners.parts.weapons.stats import WeaponTable, class_stats, weapon_stats, weapon_table
from mechinterp_runner.runners.stats.cells import Grouping
from mechinterp_runner.runners.stats.groups import GroupDeltas, GroupMeans
from mechinterp_runner.runners.stats.regression import ClusteredFit
from mechinterp_runner.schemas.facts import WEAPONS
from mechinterp_runner.schemas.job import Job
from mechinterp_runner.schemas.vocabulary import Vocabulary
from scipy import sparse

FAMILY = "swim_speed_up"
VOCABULARY = Vocabulary(("swim_speed_up_3", "swim_speed_up_12", "<NULL>", "<PAD>"))
FACTS = tuple(WEAPONS.values())
KITS = FACTS[:: len(FACTS) // 10]


def whole(activation: np.ndarray) -> Population:
    n = len(activation)
    return Population(np.arange(n), activation.astype(np.float32), n, "all examples", dead=False, sampled=False)


def made_context(weapon: np.ndarray, levels: np.ndarray, clusters: np.ndarray, n_weapons: int = 10) -> SimpleNamespace:
    held = sparse.csr_matrix(np.stack([levels >= 3, levels >= 12], axis=1).astype(float))
    data = SimpleNamespace(
        weapon=weapon,
        levels=levels[:, None],
        clusters=clusters,
        build_id=clusters,
        token_matrix=lambda rows: held[rows],
    )
    sized = type("Sized", (SimpleNamespace,), {"__len__": lambda self: n_weapons})
    whole_data = type("Data", (SimpleNamespace,), {"__len__": lambda self: len(weapon)})(**vars(data))
    return SimpleNamespace(
        data=whole_data,
        vocabulary=VOCABULARY,
        weapons=sized(facts=KITS[:n_weapons]),
        derived_for=lambda population, name, make: make(),
    )


def a_curve(baseline_clusters: int, activation: np.ndarray | None = None):
    rng = np.random.default_rng(0)
    levels = np.repeat([0, 3, 12], [60, 300, 300]).astype(np.uint8)
    clusters = np.arange(660)
    clusters[:60] %= baseline_clusters
    values = 1.0 + 0.5 * (levels == 12) + rng.normal(0, 0.2, 660) if activation is None else activation
    ctx = made_context(rng.integers(0, 5, 660)[clusters], levels, clusters)
    return observed_curve(ctx, whole(values), FAMILY, 0.1, Job())


def test_a_level_is_compared_with_a_baseline_of_10_clusters():
    curve = a_curve(10)
    assert curve.status == ("negligible", "present")
    rows = rung_stats(curve, FAMILY, main_only=False).rows
    assert rows[2]["within_low"] < 0.5 < rows[2]["within_high"]
    assert curve.usable(12)


def test_a_baseline_of_fewer_clusters_gives_neither_intervals_nor_verdicts_and_says_why():
    curve = a_curve(9)
    assert curve.status == (None, None)
    assert not curve.usable(12)
    rows = rung_stats(curve, FAMILY, main_only=False).rows
    for row in rows[1:]:
        assert row["within_weapon_delta"] is not None
        assert row["within_low"] is row["delta_high"] is row["q_value"] is None
        assert "level 0" in row["reason"]


def test_levels_that_differ_by_chance_alone_are_seldom_significant_on_a_sparse_feature():
    called = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        activation = np.where(rng.random(660) < 0.04, rng.gamma(2.0, 1.0, 660), 0.0)
        rows = rung_stats(a_curve(60, activation), FAMILY, main_only=False).rows
        called += any(row["q_value"] is not None and row["q_value"] < 0.05 for row in rows[1:])
    assert called <= 10


def weapons_by_chance(seed: int, clusters_of_first: int = 40):
    rng = np.random.default_rng(seed)
    weapon = np.repeat(np.arange(10), 40)
    clusters = np.arange(400)
    clusters[:40] %= clusters_of_first
    activation = np.where(rng.random(400) < 0.1, rng.gamma(2.0, 1.0, 400), 0.0)
    ctx = made_context(weapon, rng.choice([0, 3, 12], 400).astype(np.uint8), clusters)
    population = whole(activation)
    table = weapon_table(ctx, population, min_examples=10, min_effect=0.1, job=Job())
    return ctx, population, table


def test_weapons_and_classes_that_differ_by_chance_alone_are_seldom_significant_on_a_sparse_feature():
    weapons = classes = 0
    for seed in range(60):
        ctx, population, table = weapons_by_chance(seed)
        rows = weapon_stats(ctx, table, list(range(10))).rows
        weapons += any(row["q_value"] < 0.05 or row["status"] == "present" for row in rows)
        rows = class_stats(ctx, population, table, 0.1).rows
        assert len(rows) > 2
        classes += any(row["q_value"] < 0.05 or row["status"] == "present" for row in rows)
    assert weapons <= 6
    assert classes <= 6


def test_a_weapon_of_fewer_than_10_clusters_has_no_interval_adjusted_or_not():
    ctx, _, table = weapons_by_chance(0, clusters_of_first=9)
    first, second = weapon_stats(ctx, table, [0, 1]).rows
    assert first["ci_low"] is first["adjusted_low"] is first["adjusted_high"] is first["status"] is None
    assert "fewer than 10 clusters" in first["reason"]
    assert second["adjusted_low"] < second["adjusted_high"]


def test_a_slice_of_one_weapon_has_nothing_to_compare_it_with_and_says_so():
    rng = np.random.default_rng(3)
    levels = rng.choice([0, 3, 12], 300).astype(np.uint8)
    ctx = made_context(np.full(300, 4), levels, np.arange(300))
    population = whole(rng.random(300))
    table = weapon_table(ctx, population, min_examples=10, min_effect=0.1, job=Job())
    for rows in (weapon_stats(ctx, table, [4]).rows, class_stats(ctx, population, table, 0.1).rows):
        assert rows[0]["delta_from_global"] is rows[0].get("delta_adjusted") is None
        assert rows[0]["ci_low"] is rows[0]["sim_high"] is rows[0]["q_value"] is rows[0]["status"] is None
        assert "nothing to compare" in rows[0]["reason"]


def two_weapons(delta: list[float], error: list[float]) -> WeaponTable:
    """Weapons with known deltas and independent errors, a third one far below."""
    k = len(delta) + 1
    deltas, errors = np.array([*delta, -3.0]), np.array([*error, 0.1])
    count = np.full(k, 500)
    zeros = np.zeros(k)
    means = GroupMeans(count, count, count, deltas + 3.0, zeros, errors, deltas)
    fit = ClusteredFit(deltas, np.diag(errors**2), zeros, 500)
    usable = np.ones(k, bool)
    status = ["present" if d - 3 * e > 0.1 else "unclear" for d, e in zip(deltas, errors, strict=True)]
    contrasts = GroupDeltas(deltas, np.diag(errors**2), zeros, count)
    sums = Grouping.of(np.arange(k), k, np.arange(k)).sums(deltas)
    return WeaponTable(sums, means, contrasts, fit, usable, usable, 0.95, status)


@pytest.mark.parametrize(
    ("delta", "error", "detected"),
    [
        ([2.0, 0.5], [0.1, 0.1], True),
        ([2.0, 0.9], [0.1, 0.1], False),
        ([2.0, -0.5], [0.1, 0.1], True),
        ([1.0, -0.01], [0.1, 0.8], False),
        ([1.0, 0.01], [0.1, 0.8], False),
    ],
)
def test_dominance_needs_the_lower_bound_of_first_minus_twice_the_second_where_the_second_may_be_above_0(
    delta, error, detected
):
    found = dominance(two_weapons(delta, error))
    assert found.detected is detected
    bounds = [delta[0] - 1.965 * error[0], delta[0] - 2 * delta[1] - 1.965 * np.hypot(error[0], 2 * error[1])]
    assert found.margin_low == pytest.approx(min(bounds), abs=0.01)
    assert (found.ratio is None) is (delta[1] <= 0)


def confirmed_by(split: np.random.Generator, effect: float, seed: int, builds: int) -> tuple[bool | None, str | None]:
    """Two examples a build, eight weapons; the third one is higher by the effect."""
    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(builds), 2)
    weapon = rng.integers(0, 8, builds)[cluster]
    sums = Grouping.of(weapon, 8, cluster).sums(rng.normal(size=builds)[cluster] + effect * (weapon == 2))
    return top_confirmed(sums, halve(sums.cells, split), np.ones(8, bool))


def test_a_weapon_that_differs_is_confirmed_on_the_builds_that_did_not_choose_it():
    rng = np.random.default_rng(0)
    assert confirmed_by(rng, 3.0, 1, 400) == (True, None)
    assert confirmed_by(rng, -3.0, 1, 400) == (True, None)


def test_weapons_that_differ_by_chance_are_confirmed_no_more_often_than_the_interval_errs_on_one_side():
    rng = np.random.default_rng(1)
    confirmed = [confirmed_by(rng, 0.0, seed, 400)[0] for seed in range(200)]
    assert sum(map(bool, confirmed)) <= 12


def test_fewer_than_40_builds_confirm_nothing_and_a_weapon_of_few_builds_has_no_interval():
    rng = np.random.default_rng(2)
    confirmed, reason = confirmed_by(rng, 3.0, 1, 39)
    assert confirmed is None
    assert "fewer than 40 builds" in reason
    confirmed, reason = confirmed_by(rng, 3.0, 1, 48)
    assert confirmed is None
    assert "fewer than 10 builds in the other half" in reason


def test_kits_drawn_at_random_seldom_seem_to_share_a_part():
    rng = np.random.default_rng(0)
    ctx = SimpleNamespace(weapons=SimpleNamespace(facts=FACTS))
    pool = list(range(len(FACTS)))
    fired = [
        shared_part(ctx, rng.choice(pool, int(rng.integers(2, 15)), replace=False).tolist(), pool) is not None
        for _ in range(1500)
    ]
    assert np.mean(fired) <= 0.05


def test_kits_that_share_their_special_are_found():
    ctx = SimpleNamespace(weapons=SimpleNamespace(facts=FACTS))
    acting = [index for index, kit in enumerate(FACTS) if kit.special == "Trizooka"]
    found = shared_part(ctx, acting, list(range(len(FACTS))))
    assert found is not None
    assert (found.part, found.name, found.hits, found.drawn) == ("special", "Trizooka", len(acting), len(acting))
