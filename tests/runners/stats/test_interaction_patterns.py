"""Contrasts of pairs: patterns and readings of functions that can be written down, and the regressions they equal."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import shapiq
import statsmodels.api as sm
from mechinterp_runner.runners.parts.interactions.contrasts import PAIR, contrast_effects, contrast_null
from mechinterp_runner.runners.parts.interactions.regression import PairDesign
from mechinterp_runner.runners.stats.paired import bootstrap_weights
from mechinterp_runner.runners.stats.patterns import contrast, modulation, pattern

CORNERS = [(0, 0), (1, 0), (0, 1), (1, 1)]
TOYS: dict[str, Callable[[int, int], float]] = {
    "and": lambda a, b: 2.0 * a * b,
    "or": lambda a, b: 2.0 * max(a, b),
    "xor": lambda a, b: 2.0 * abs(a - b),
    "suppression": lambda a, b: 2.0 * a * (1 - b),
}


def cells_of(function: Callable[[int, int], float]) -> np.ndarray:
    return np.array([function(a, b) for a, b in CORNERS])


def named(function: Callable[[int, int], float], *, interaction: str = "present", pre: str = "present") -> str:
    return pattern(cells_of(function), 0.1, interaction=interaction, interaction_pre=pre)


@pytest.mark.parametrize("name", TOYS)
def test_each_toy_has_its_own_pattern_whichever_unit_comes_first(name):
    toy = TOYS[name]
    assert named(toy) == name
    assert named(lambda a, b: toy(b, a)) == name


@pytest.mark.parametrize("name", TOYS)
def test_a_pattern_does_not_depend_on_the_sign_or_on_what_is_there_anyway(name):
    assert named(lambda a, b: 3.0 - TOYS[name](a, b)) == name
    assert named(lambda a, b: 1.3 + TOYS[name](a, b), interaction="conditional") == name


def test_half_of_an_effect_taken_away_is_suppression_too():
    assert named(lambda a, b: 2.0 * a * (1 - 0.5 * b)) == "suppression"


def test_effects_that_add_up_are_additive_and_nothing_at_all_is_none():
    assert named(lambda a, b: 1.2 * a + 1.5 * b, interaction="negligible") == "additive"
    assert named(lambda a, b: 0.05 * a - 0.04 * b, interaction="negligible") == "none"


def test_what_only_the_floor_makes_is_a_floor_artifact():
    def floored(a: int, b: int) -> float:
        return max(0.0, 2.0 * a - 0.9 * b)

    assert contrast(cells_of(floored)) == pytest.approx(-0.9)
    assert contrast(cells_of(lambda a, b: 2.0 * a - 0.9 * b)) == pytest.approx(0.0)
    assert named(floored, pre="negligible") == "floor_artifact"
    assert named(floored, pre="present") == "suppression"


def test_both_more_than_the_sum_of_two_real_effects_is_no_named_pattern():
    assert named(lambda a, b: 1.0 * a + 1.0 * b + 1.5 * a * b) == "other"


@pytest.mark.parametrize(("extra", "name"), [(1.9, "other"), (2.1, "and"), (3.0, "and")])
def test_single_effects_within_a_quarter_of_the_joint_one_count_as_none_so_the_pair_is_an_and(extra, name):
    assert named(lambda a, b: 1.0 * a + 1.0 * b + extra * a * b) == name


@pytest.mark.parametrize("seed", range(5))
def test_the_contrast_is_the_order_two_index_of_a_game_of_two(seed):
    cells = np.random.default_rng(seed).random(4)
    computer = shapiq.ExactComputer(lambda x: cells[(x @ [1, 2]).astype(int)], 2)
    assert contrast(cells) == pytest.approx(computer("SII", order=2)[0, 1])


@pytest.mark.parametrize("seed", range(5))
def test_contrasts_without_and_with_a_third_are_the_indices_of_a_game_of_three(seed):
    values = np.random.default_rng(seed).random(8)
    computer = shapiq.ExactComputer(lambda x: values[(x @ [1, 2, 4]).astype(int)], 3)
    without, held = contrast(values[:4]), contrast(values[4:])
    moebius = computer("Moebius", order=3)
    assert without == pytest.approx(moebius[0, 1])
    assert held - without == pytest.approx(moebius[0, 1, 2])
    assert (without + held) / 2 == pytest.approx(computer("SII", order=2)[0, 1])


@pytest.mark.parametrize(
    ("without", "held", "reading"),
    [
        (0.0, 2.0, "gates"),
        (0.05, -2.0, "gates"),
        (0.4, 2.0, "gates"),
        (2.0, 0.0, "blocks"),
        (-2.0, 0.3, "blocks"),
        (1.0, 2.0, "strengthens"),
        (-1.0, -2.0, "strengthens"),
        (2.0, 1.0, "weakens"),
        (2.0, -1.0, "reverses"),
    ],
)
def test_a_modulator_is_read_by_the_interaction_without_it_and_with_it(without, held, reading):
    assert modulation(without, held, 0.1, difference="present") == reading
    assert modulation(without, held, 0.1, difference="conditional") == reading
    assert modulation(without, held, 0.1, difference="unclear") == "none"


def a_table(seed: int, *, nested: bool, n_clusters: int = 220):
    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(n_clusters), rng.integers(1, 5, n_clusters))
    group = rng.integers(0, 6, n_clusters)[cluster] if nested else rng.integers(0, 6, len(cluster))
    columns = (rng.random((len(cluster), 4)) < 0.45).astype(float)
    noise = rng.normal(size=n_clusters)[cluster] + rng.normal(size=len(cluster))
    value = np.maximum(columns[:, 0] * columns[:, 1] + columns[:, 2] + 0.3 * group + noise, 0.0)
    return value, columns, group, cluster


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_observed_interactions_equal_least_squares_with_weapon_dummies_and_clustered_errors(seed, nested):
    value, columns, group, cluster = a_table(seed, nested=nested)
    shuffled = np.random.default_rng(seed).permutation(len(value))
    value, columns, group, cluster = value[shuffled], columns[shuffled], group[shuffled], cluster[shuffled]
    first, second = np.triu_indices(4, 1)
    effects = PairDesign.of(columns > 0, first, second, group, cluster).effects(value)
    dummies = (group[:, None] == np.unique(group)).astype(float)
    for pair, (a, b) in enumerate(zip(first, second, strict=True)):
        own = np.stack([columns[:, a], columns[:, b], columns[:, a] * columns[:, b]], axis=1)
        fit = sm.OLS(value, np.hstack([own, dummies])).fit(cov_type="cluster", cov_kwds={"groups": cluster})
        assert effects.coefficient[pair] == pytest.approx(fit.params[:3])
        assert effects.std_error[pair] == pytest.approx(fit.bse[2])


def test_many_outcomes_at_once_equal_one_at_a_time_and_cells_are_counted():
    value, columns, group, cluster = a_table(7, nested=True)
    first, second = np.triu_indices(4, 1)
    design = PairDesign.of(columns > 0, first, second, group, cluster)
    others = np.stack([value, value**2, -value], axis=1)
    for k in range(3):
        assert design.interactions(others)[:, k] == pytest.approx(design.interactions(others[:, k])[:, 0])
    for pair, (a, b) in enumerate(zip(first, second, strict=True)):
        crossed = np.bincount((columns[:, a] + 2 * columns[:, b]).astype(int), minlength=4)
        assert design.cells[pair].tolist() == crossed.tolist()


@pytest.mark.parametrize(("builds", "known"), [(9, False), (10, True)])
def test_a_cell_in_fewer_than_ten_builds_has_no_error(builds, known):
    n = 1200
    cluster = np.repeat(np.arange(100), 12)
    a, b = np.arange(n) % 2, (np.arange(n) // 2) % 2
    beyond = (a == 1) & (b == 1) & (cluster >= builds)
    columns = np.stack([np.where(beyond, 0, a), b], axis=1).astype(float)
    design = PairDesign.of(columns > 0, np.array([0]), np.array([1]), np.zeros(n, int), cluster)
    assert design.cells[0, 3] == 3 * builds >= 20
    error = design.effects(np.random.default_rng(0).random(n)).std_error[0]
    assert np.isfinite(error) == known


def test_a_cell_without_an_active_example_is_no_more_certain_than_the_others():
    rng = np.random.default_rng(4)
    columns = (rng.random((2000, 2)) < [0.15, 0.15]).astype(float)
    both = columns.prod(axis=1) > 0
    value = np.where(both | (rng.random(2000) < 0.7), 0.0, rng.random(2000))
    design = PairDesign.of(columns > 0, np.array([0]), np.array([1]), np.zeros(2000, int), np.arange(2000))
    assert 20 <= design.cells[0, 3] < 80
    exact = sm.OLS(value, np.column_stack([columns, both, np.ones(2000)])).fit()
    robust = exact.get_robustcov_results("HC1")
    assert robust.bse[2] < 0.6 * exact.bse[2]
    assert design.effects(value).std_error[0] == pytest.approx(exact.bse[2], rel=0.02)


def test_columns_that_are_the_same_have_no_interaction_to_tell():
    a = (np.random.default_rng(0).random(300) < 0.5).astype(float)
    columns = np.stack([a, a], axis=1) > 0
    design = PairDesign.of(columns, np.array([0]), np.array([1]), np.zeros(300, int), np.arange(300))
    effects = design.effects(np.random.default_rng(1).random(300))
    assert np.isnan(effects.coefficient[0, 2])
    assert np.isnan(effects.std_error[0])


def test_the_bound_of_a_contrast_that_rarely_changes_allows_for_its_whole_range():
    d = np.zeros((200, 1))
    d[:2] = 11.9
    weights = bootstrap_weights(200, np.random.default_rng(0), 50)
    effects = contrast_effects(d, 10_000, 0.1, weights, 12.0)
    rate = 7.05 / 200
    assert effects.mean[0] == pytest.approx(0.119)
    assert effects.ci_high[0] == pytest.approx(12.0 * rate, rel=0.02)


def test_random_directions_are_compared_by_the_same_contrast(world):
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(3, 4, 60, world.bundle.manifest.hidden_dim)).astype(np.float32)
    matched = world.random_directions().matched(0.3, 2.0)
    null = contrast_null(vectors, matched, PAIR, 0.5)
    means, responders = [], []
    for cells in vectors:
        f00, f10, f01, f11 = (matched.activation(cell) for cell in cells)
        d = (f11 - f10 - f01 + f00).astype(np.float64)
        acts = np.abs(d) > 0.5
        means.append(np.abs(d.mean(axis=0)))
        responders.append(np.abs(np.where(acts, d, 0.0).sum(axis=0) / np.maximum(acts.sum(axis=0), 1)))
    assert null.largest_mean == pytest.approx(np.max(means, axis=0), abs=1e-5)
    assert null.largest_responders == pytest.approx(np.max(responders, axis=0), abs=1e-5)
