"""Paired effects keep their promises: levels, coverage, bounds, and what a verdict says it needs."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from mechinterp_runner.runners.stats.paired import bootstrap_weights, max_t_quantile, paired_effects, verdicts

HUGE = 10**9


def equal_weights(m: int) -> np.ndarray:
    return np.full((20, m), 1 / m)


def effects_of(d: np.ndarray, population: int = HUGE, min_effect: float = 0.1, seed: int = 0):
    return paired_effects(d, population, min_effect, bootstrap_weights(len(d), np.random.default_rng(seed), 300))


def test_p_values_of_true_nulls_are_uniform():
    rng = np.random.default_rng(1)
    d = rng.exponential(size=(200, 600)) - 1.0
    p = paired_effects(d, HUGE, 0.1, equal_weights(200)).p_value
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01
    assert 0.02 < (p < 0.05).mean() < 0.08


def test_intervals_with_the_finite_population_correction_cover_the_population_mean():
    rng = np.random.default_rng(2)
    population = rng.gamma(2.0, 1.0, 400) - 1.0
    hits, widths, plain = 0, [], []
    for _ in range(400):
        sample = rng.choice(population, 300, replace=False)
        effects = paired_effects(sample[:, None], 400, 0.1, equal_weights(300))
        hits += bool(effects.ci_low[0] <= population.mean() <= effects.ci_high[0])
        widths.append(effects.ci_high[0] - effects.ci_low[0])
        plain.append(np.ptp(scipy.stats.ttest_1samp(sample, 0).confidence_interval(0.95)))
    assert 0.91 <= hits / 400 <= 0.985
    assert np.mean(widths) == pytest.approx(np.mean(plain) * np.sqrt(1 - 300 / 400), rel=0.01)


def test_resampling_weights_are_those_of_draws_with_replacement():
    weights = bootstrap_weights(40, np.random.default_rng(3), 4000)
    assert weights.sum(axis=1) == pytest.approx(np.ones(4000))
    counts = weights[:, 0] * 40
    assert np.mean(counts == 0) == pytest.approx((39 / 40) ** 40, abs=0.03)
    assert counts.var() == pytest.approx(39 / 40, rel=0.1)


def test_the_simultaneous_quantile_of_independent_columns_is_near_sidak_s():
    d = np.random.default_rng(4).normal(size=(400, 12))
    sidak = scipy.stats.t.ppf(0.5 + 0.95 ** (1 / 12) / 2, 399)
    assert max_t_quantile(d, bootstrap_weights(400, np.random.default_rng(0))) == pytest.approx(sidak, rel=0.06)


def test_copies_of_a_column_do_not_widen_the_simultaneous_interval():
    column = np.random.default_rng(5).normal(size=(200, 1))
    one, many = effects_of(column), effects_of(np.repeat(column, 25, axis=1))
    assert many.sim_high[0] == pytest.approx(one.sim_high[0])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("constant", [0.1, 1 / 3, float(np.float32(1.7)), 2.0, -0.7])
def test_an_effect_that_is_the_same_everywhere_does_not_widen_the_others(constant, order):
    for m in (100, 137, 250, 333, 499):
        noise = np.random.default_rng(6).normal(size=(m, 1))
        both = np.asarray(np.hstack([np.full((m, 1), constant), noise]), order=order)
        weights = bootstrap_weights(m, np.random.default_rng(1), 400)
        alone = paired_effects(noise, HUGE, 0.05, weights)
        beside = paired_effects(both, HUGE, 0.05, weights)
        assert beside.sim_high[1] == pytest.approx(alone.sim_high[0])
        assert (beside.sim_low[0], beside.sim_high[0]) == pytest.approx((constant, constant))
        assert verdicts(beside, 0.05)[0][0] == "present"


@given(st.integers(0, 500), st.integers(30, 120), st.integers(1, 8), st.floats(0.02, 1.0))
def test_simultaneous_intervals_hold_the_single_ones_and_the_estimate(seed, m, k, share):
    rng = np.random.default_rng(seed)
    d = np.clip(rng.normal(0.3, 1.0, (m, k)), -6, 6) * (rng.random((m, k)) < share)
    effects = effects_of(d, seed=seed)
    for low, high in ((effects.ci_low, effects.ci_high), (effects.sim_low, effects.sim_high)):
        assert np.all(low <= effects.mean)
        assert np.all(effects.mean <= high)
    assert np.all(effects.sim_low <= effects.ci_low + 1e-12)
    assert np.all(effects.ci_high <= effects.sim_high + 1e-12)


@given(st.integers(0, 500), st.integers(2, 80))
def test_the_order_of_the_contexts_changes_nothing(seed, m):
    rng = np.random.default_rng(seed)
    d = np.round(rng.normal(size=(m, 3)), 2)
    order = rng.permutation(m)
    weights = bootstrap_weights(m, rng, 50)
    first, second = paired_effects(d, HUGE, 0.5, weights), paired_effects(d[order], HUGE, 0.5, weights[:, order])
    for name in ("mean", "ci_low", "ci_high", "sim_low", "sim_high", "p_value", "responder_rate", "mean_responders"):
        assert getattr(first, name) == pytest.approx(getattr(second, name), nan_ok=True), name


@given(st.lists(st.floats(-6, 6), min_size=2, max_size=60), st.floats(0.01, 3))
def test_responders_are_the_contexts_beyond_the_effect_of_interest(values, min_effect):
    d = np.array(values)
    effects = paired_effects(d[:, None], HUGE, min_effect, equal_weights(len(d)))
    beyond = [value for value in values if abs(value) > min_effect]
    assert effects.responder_rate[0] == pytest.approx(len(beyond) / len(d))
    assert effects.mean_responders[0] == pytest.approx(np.mean(beyond) if beyond else np.nan, nan_ok=True)
    assert 0 <= effects.responder_low[0] <= effects.responder_rate[0] <= effects.responder_high[0] <= 1


def test_responder_intervals_are_clopper_and_pearson_s():
    d = np.zeros((200, 1))
    d[:7] = 2.0
    exact = scipy.stats.binomtest(7, 200).proportion_ci(0.95, method="exact")
    effects = effects_of(d)
    assert (effects.responder_low[0], effects.responder_high[0]) == pytest.approx((exact.low, exact.high))


def test_few_changes_use_the_sign_test_and_bounds_of_either_sign():
    d = np.zeros((300, 1))
    d[:9], d[9:11] = 0.5, -0.5
    effects = effects_of(d)
    assert effects.p_value[0] == pytest.approx(scipy.stats.binomtest(9, 11).pvalue)
    assert effects.ci_high[0] == pytest.approx(6 * scipy.stats.binomtest(9, 300).proportion_ci(0.95).high)
    assert effects.ci_low[0] == pytest.approx(-6 * scipy.stats.binomtest(2, 300).proportion_ci(0.95).high)


def test_29_changes_are_few_and_30_are_not():
    d = np.zeros((100, 2))
    d[:29, 0], d[:30, 1] = 1.0, 1.0
    assert effects_of(d).few.tolist() == [True, False]


@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_intervals_near_the_border_of_few_changes_still_cover(scale):
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(400):
        d = np.where(rng.random(500) < 0.065, scale * rng.random(500), 0.0)
        effects = paired_effects(d[:, None], HUGE, 0.1, equal_weights(500))
        hits += bool(effects.ci_low[0] <= 0.065 * scale / 2 <= effects.ci_high[0])
    assert hits / 400 >= 0.91


def test_a_table_of_frequent_and_rare_changes_is_covered_jointly():
    rng = np.random.default_rng(8)
    rates, hits = np.array([0.01, 0.01, 0.02, 1.0, 1.0, 1.0]), 0
    for _ in range(200):
        d = np.where(rng.random((200, 6)) < rates, np.clip(rng.normal(1.0, 1.0, (200, 6)), -6, 6), 0.0)
        effects = paired_effects(d, HUGE, 0.1, bootstrap_weights(200, rng, 200))
        truth = rates * 1.0
        hits += bool(np.all((effects.sim_low <= truth) & (truth <= effects.sim_high)))
    assert hits / 200 >= 0.92


def test_a_rate_is_never_bounded_above_one():
    effects = paired_effects(np.zeros((2, 1)), HUGE, 0.1, equal_weights(2))
    assert effects.responder_high[0] == 1.0
    assert (effects.ci_low[0], effects.ci_high[0]) == (-6.0, 6.0)


@pytest.mark.parametrize(
    ("share", "size", "status"),
    [(1.0, 1.0, "present"), (1.0, -1.0, "present"), (0.04, 1.2, "conditional"), (1.0, 0.01, "negligible")],
)
def test_verdicts_on_effects_that_are_beyond_doubt(share, size, status):
    rng = np.random.default_rng(9)
    d = np.where(rng.random((1000, 1)) < share, size, 0.0) * rng.uniform(0.9, 1.1, (1000, 1))
    assert verdicts(effects_of(d, min_effect=0.2), 0.2)[0] == [status]


@pytest.mark.parametrize(
    ("m", "rest", "share", "there", "status"),
    [
        (150, 0.0, 0.02, 1.0, "conditional"),
        (200, 0.18, 0.02, 1.0, "conditional"),
        (200, 0.222, 0.02, 1.0, "conditional"),
        (120, 0.02, 0.0, 0.0, "negligible"),
        (250, 0.19, 0.0, 0.0, "negligible"),
    ],
)
def test_as_many_contexts_as_an_unclear_row_asks_for_settle_it_and_far_fewer_do_not(m, rest, share, there, status):
    def measured(n: int) -> tuple[str, int | None]:
        d = rest + 0.005 * scipy.stats.norm.ppf((np.arange(n) + 0.5) / n).clip(-2, 2) * (rest > 0)
        d[np.linspace(0, n - 1, round(share * n)).astype(int)] = there
        names, needed = verdicts(effects_of(d[:, None], min_effect=0.24), 0.24)
        return names[0], needed[0]

    first, needed = measured(m)
    assert first == "unclear"
    assert needed is not None
    assert needed > m
    assert measured(round(needed * 1.4))[0] == status
    assert needed < 3 * m or measured(needed // 3)[0] == "unclear"


@pytest.mark.parametrize(("m", "known"), [(19, False), (20, True)])
def test_fewer_than_20_contexts_give_no_verdict_and_say_how_many_would(m, known):
    d = np.full((m, 1), 2.0) + np.random.default_rng(0).normal(0, 0.01, (m, 1))
    effects = paired_effects(d, 10_000, 0.1, bootstrap_weights(m, np.random.default_rng(1)))
    status, needed = verdicts(effects, 0.1)
    assert (status == ["unclear"]) is not known
    assert needed == [None] if known else needed[0] >= 20
