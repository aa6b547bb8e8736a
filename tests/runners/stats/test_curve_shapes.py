"""Shapes, trends and winners at their edges."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from mechinterp_runner.runners.stats.curve import describe_curve, trend, winner_confirmed
from mechinterp_runner.runners.stats.paired import bootstrap_weights

LEVELS = [0, 3, 6, 12, 29, 57]
HUGE = 10**9


def described(curve, m: int = 120, noise: float = 0.02, seed: int = 0, levels=LEVELS):
    rng = np.random.default_rng(seed)
    activation = np.asarray(curve, dtype=float) + rng.normal(0, noise, (m, len(curve)))
    return describe_curve(levels, activation, bootstrap_weights(m, rng, 200), 0.1)


@given(st.integers(0, 4), st.floats(0.5, 4), st.booleans())
def test_a_step_is_found_where_it_is_up_or_down(jump, height, falls):
    curve = np.where(np.arange(6) > jump, height, 0.0)
    found = described(4.0 - curve if falls else curve)
    assert (found.shape, found.threshold, found.half_max, found.saturation) == ("step", *[LEVELS[jump + 1]] * 3)
    assert found.threshold_support == 1.0


def test_one_level_above_the_base_has_no_shape_and_two_have():
    one = described([0, 2], levels=[0, 38])
    assert (one.shape, one.threshold, one.threshold_support, one.half_max) == (None, None, None, None)
    assert "fewer than 2 levels" in one.reason
    two = described([0, 0, 2], levels=[0, 21, 38])
    assert (two.shape, two.threshold, two.reason) == ("step", 38, None)


def test_a_jump_of_69_percent_of_the_range_is_no_step_and_one_of_71_is():
    assert described([0, 0, 0, 0.69, 0.84, 1.0], noise=1e-4).threshold is None
    assert described([0, 0, 0, 0.71, 0.85, 1.0], noise=1e-4).threshold == 12


def test_a_jump_that_the_contexts_do_not_agree_on_is_no_step():
    rng = np.random.default_rng(1)
    where = rng.integers(1, 6, 120)
    activation = 2.0 * (np.arange(6) >= where[:, None])
    found = describe_curve(LEVELS, activation, bootstrap_weights(120, rng, 200), 0.1)
    assert found.shape in {"graded", "saturating"}
    assert found.threshold is None
    assert found.threshold_support < 0.9


def test_a_fall_within_the_effect_of_interest_is_not_called_non_monotone():
    assert described([0, 1, 2, 3, 4, 3.95], noise=0.001).shape != "non_monotone"
    assert described([0, 1, 2, 3, 4, 3.5], noise=0.001).shape == "non_monotone"


def test_half_and_saturation_are_levels_of_the_mean_curve():
    found = described([0, 0.3, 0.49, 0.51, 0.96, 1.0], noise=1e-5)
    assert (found.half_max, found.saturation) == (12, 29)


def test_contexts_that_cancel_out_have_no_shape():
    sign = np.where(np.arange(100) % 2 == 0, 1.0, -1.0)[:, None]
    activation = 3.0 + sign * np.arange(6)
    found = describe_curve(LEVELS, activation, bootstrap_weights(100, np.random.default_rng(0), 50), 0.1)
    assert (found.shape, found.half_max, found.saturation, found.threshold) == ("none", None, None, None)


def test_a_null_trend_rejects_about_5_times_in_100_though_contexts_differ():
    rng = np.random.default_rng(2)
    p = []
    for _ in range(400):
        activation = rng.exponential(size=(60, 1)) * 2 + rng.normal(0, 0.5, (60, 6))
        p.append(trend(LEVELS, activation, HUGE).p_value)
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01
    assert np.mean(np.array(p) < 0.05) < 0.085


def test_the_trend_of_a_whole_population_is_known_without_error():
    rng = np.random.default_rng(3)
    activation = rng.normal(size=(80, 6))
    found = trend(LEVELS, activation, 80)
    assert found.ci_low == found.slope == found.ci_high
    assert found.p_value == 0.0


def test_slopes_of_a_whole_population_that_cancel_out_are_no_trend():
    slopes = np.repeat([0.02, -0.02], 40)
    found = trend(LEVELS, slopes[:, None] * np.array(LEVELS), 80)
    assert found.slope == pytest.approx(0.0, abs=1e-12)
    assert found.p_value == 1.0


def test_a_trend_of_fewer_than_30_changing_contexts_is_unknown():
    activation = np.zeros((100, 6))
    activation[:29] = np.array(LEVELS) * 0.05
    assert trend(LEVELS, activation, HUGE).slope is None


def test_a_winner_that_few_contexts_carry_is_judged_by_the_sign_test():
    d = np.zeros((200, 4))
    d[:30, 2] = 3.0
    assert winner_confirmed(d, np.random.default_rng(0)) is True
    d = np.zeros((200, 4))
    d[:4, 2] = 6.0
    assert winner_confirmed(d, np.random.default_rng(0)) is False


def test_a_winner_of_one_half_that_has_the_other_sign_in_the_rest_is_not_confirmed():
    d = np.zeros((40, 1))
    order = np.random.default_rng(0).permutation(40)
    d[order[:20]], d[order[20:]] = 2.0, -1.0
    assert winner_confirmed(d, np.random.default_rng(0)) is False
