"""Contrasts of subs and specials over kits: against brute force, statsmodels, scipy and by chance."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from mechinterp_runner.runners.parts.kits.contrasts import PartEffects, part_effects
from mechinterp_runner.runners.parts.kits.tables import Kits, Parts
from mechinterp_runner.schemas.facts import WEAPONS
from scipy import stats


def effects_of(n, total, member, main=None, family=None, deals: int | None = None) -> PartEffects:
    member = np.atleast_2d(np.asarray(member, bool))
    main = np.arange(len(n)) if main is None else np.asarray(main)
    family = np.zeros(len(member), int) if family is None else np.asarray(family)
    rng = None if deals is None else np.random.default_rng(deals)
    return part_effects(np.asarray(n, float), np.asarray(total, float), member, main, family=family, rng=rng)


def examples(sizes: list[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Values with an effect of their kit, and the kit of each."""
    rng = np.random.default_rng(seed)
    kit = np.repeat(np.arange(len(sizes)), sizes)
    return rng.normal(size=len(kit)) + rng.normal(size=len(sizes))[kit], kit


def test_the_error_of_a_mean_is_cr2_of_a_regression_on_a_constant():
    sizes = [3, 5, 8, 2, 12, 7]
    y, kit = examples(sizes, 0)
    n = len(y)
    hat = np.full((n, n), 1.0 / n)
    variance = 0.0
    for each in range(len(sizes)):
        own = kit == each
        values, vectors = np.linalg.eigh(np.eye(own.sum()) - hat[np.ix_(own, own)])
        adjust = (vectors / np.sqrt(values)) @ vectors.T
        variance += (np.ones(own.sum()) @ adjust @ (y[own] - y.mean())) ** 2 / n**2
    # A second part, of two kits that agree, keeps the pooled variance from raising the first one's.
    total = np.r_[np.bincount(kit, y), 1.0, 1.0]
    found = effects_of([*sizes, 1, 1], total, [[1] * 6 + [0, 0], [0] * 6 + [1, 1]])
    assert found.std_error[0] == pytest.approx(np.sqrt(variance))


def test_with_equal_kits_the_error_is_that_of_statsmodels_clustered_by_kit():
    y, kit = examples([9] * 7, 1)
    fit = sm.OLS(y, np.ones(len(y))).fit(cov_type="cluster", cov_kwds={"groups": kit})
    total = np.r_[np.bincount(kit, y), 1.0, 1.0]
    found = effects_of([9] * 7 + [1, 1], total, [[1] * 7 + [0, 0], [0] * 7 + [1, 1]])
    assert found.std_error[0] == pytest.approx(fit.bse[0])


def test_a_part_of_30_kits_is_compared_as_welch_does():
    rng = np.random.default_rng(2)
    one, rest = rng.normal(0.5, 1.0, 31), rng.normal(0.0, 2.5, 45)
    found = effects_of(np.ones(76), np.r_[one, rest], [1] * 31 + [0] * 45)
    welch = stats.ttest_ind(one, rest, equal_var=False)
    assert found.delta[0] / found.error[0] == pytest.approx(welch.statistic)
    assert found.df[0] == pytest.approx(welch.df)
    low, high = found.interval()
    share = 45 / 76
    assert (low[0], high[0]) == pytest.approx(tuple(share * end for end in welch.confidence_interval()))


def test_a_part_without_an_active_kit_is_no_more_certain_than_kits_of_the_others():
    total = np.r_[np.zeros(5), 0.0, 4.0, 0.0, 4.0, 0.0]
    found = effects_of(np.ones(10), total, np.eye(2, dtype=bool).repeat(5, axis=1))
    spread = np.r_[np.zeros(5), total[5:] - 1.6]
    pooled = (spread @ spread / 5) / (2 * (1 - 1 / 5))
    assert found.std_error[0] == pytest.approx(np.sqrt(pooled / 5))
    assert found.std_error[1] == pytest.approx(np.sqrt(spread @ spread / 4 / 5))


def test_random_deals_give_the_hypergeometric_probability_that_the_active_kits_are_dealt_to_the_part():
    total = np.zeros(40)
    total[:3] = 1.0
    member = np.zeros(40, bool)
    member[:8] = True
    found = effects_of(np.ones(40), total, member, deals=3)
    assert found.p_value[0] == pytest.approx(stats.hypergeom.sf(2, 40, 3, 8), abs=0.004)
    member[2], member[20] = False, True
    found = effects_of(np.ones(40), total, member, deals=3)
    assert found.p_value[0] == pytest.approx(stats.hypergeom.sf(1, 40, 3, 8), abs=0.02)


def test_random_deals_agree_with_scipys_permutation_test():
    rng = np.random.default_rng(4)
    n, means = rng.integers(5, 40, 30).astype(float), rng.normal(size=30)
    member = np.arange(30) < 7
    means[member] += 1.2

    def weighted(kits, axis=-1):
        order = kits.astype(int)
        return np.abs((n[order] * means[order])[..., :7].sum(-1) / n[order][..., :7].sum(-1) - (n @ means) / n.sum())

    scipy = stats.permutation_test(
        (np.arange(30.0),), lambda kits, axis=-1: weighted(kits), permutation_type="pairings", vectorized=True,
        n_resamples=8000, alternative="greater", rng=np.random.default_rng(1),
    )  # fmt: skip
    assert effects_of(n, n * means, member, deals=5).p_value[0] == pytest.approx(scipy.pvalue, abs=0.015)


def test_the_contrast_within_main_weapons_is_the_mean_over_main_weapons_that_have_both():
    rng = np.random.default_rng(6)
    n, main = rng.integers(1, 9, 24).astype(float), np.repeat(np.arange(10), [3, 2, 3, 2, 2, 3, 2, 3, 2, 2])
    total, member = n * rng.normal(size=24), rng.random(24) < 0.4
    contrasts = []
    for each in range(10):
        ours, theirs = (main == each) & member, (main == each) & ~member
        if ours.any() and theirs.any():
            contrasts.append(total[ours].sum() / n[ours].sum() - total[theirs].sum() / n[theirs].sum())
    found = effects_of(n, total, member, main)
    t = stats.ttest_1samp(contrasts, 0.0)
    assert 1 < len(contrasts) < 10
    assert found.within_mains[0] == len(contrasts)
    assert found.within[0] == pytest.approx(np.mean(contrasts))
    low, high = found.within_interval()
    assert (low[0], high[0]) == pytest.approx(tuple(t.confidence_interval()))


def test_the_strongest_kit_is_the_one_whose_main_weapon_the_delta_needs_most():
    rng = np.random.default_rng(7)
    for _ in range(20):
        n, main = rng.integers(1, 9, 20).astype(float), rng.permutation(np.repeat(np.arange(10), 2))
        total, member = n * rng.normal(size=20), rng.random(20) < 0.4
        found = effects_of(n, total, member, main)
        left = {}
        for each in np.unique(main[member]):
            rest = ~(member & (main == each))
            ours = member & rest
            if ours.any():
                left[each] = total[ours].sum() / n[ours].sum() - total[rest].sum() / n[rest].sum()
        sign = np.sign(found.delta[0])
        weakest = min(left, key=lambda each: sign * left[each])
        assert main[found.strongest[0]] == weakest
        assert member[found.strongest[0]]
        assert found.delta_without[0] == pytest.approx(left[weakest])


def test_a_part_of_one_kit_has_no_error_and_no_p_and_a_kit_without_examples_takes_no_part():
    alone = effects_of([4, 5, 6, 0], [1, 0, 0, 9], [[1, 0, 0, 0], [0, 1, 1, 1]], deals=0)
    assert np.isnan([alone.error[0], alone.p_value[0], alone.std_error[0], alone.delta_without[0]]).all()
    assert alone.strongest[0] == -1
    assert alone.carried[0]
    assert alone.kits.tolist() == [1, 2]
    assert alone.mean.tolist() == [0.25, 0.0]


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_without_any_example_everything_is_unknown():
    nothing = effects_of([0, 0, 0], [0, 0, 0], [[1, 0, 0], [0, 1, 1]], deals=0)
    assert nothing.n.tolist() == nothing.kits.tolist() == [0, 0]
    for value in (nothing.mean, nothing.delta, nothing.error, nothing.p_value, nothing.within, *nothing.interval()):
        assert np.isnan(value).all()
    assert nothing.strongest.tolist() == [-1, -1]


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_part_that_every_kit_has_is_compared_with_nothing():
    found = effects_of([4, 5, 6], [1, 2, 0], [[1, 1, 1], [0, 1, 1]], main=[0, 1, 2])
    assert np.isnan([found.delta[0], found.error[0], found.p_value[0], found.delta_without[0]]).all()
    assert found.strongest[0] == -1
    assert found.mean[0] == pytest.approx(3 / 15)
    assert found.delta[1] == pytest.approx(2 / 11 - 3 / 15)


def test_kits_whose_means_are_heavy_tailed_seldom_make_a_part_that_seems_certain():
    """Parts dealt at random to weapons of which few are active: nothing is true of any part."""
    rng = np.random.default_rng(8)
    called = 0
    for seed in range(150):
        parts = rng.permutation(np.repeat(np.arange(12), 10))
        total = np.where(rng.random(120) < 0.15, rng.gamma(2.0, 1.0, 120), 0.0)
        found = effects_of(np.ones(120), total, parts == np.arange(12)[:, None], deals=seed)
        low, high = found.interval(0.95 ** (1 / 12))
        q = stats.false_discovery_control(found.p_value)
        called += bool((((low > 0) | (high < 0)) & (q <= 0.05)).any())
    assert called <= 12


def test_a_replica_is_the_kit_it_replicates_and_kits_of_one_main_weapon_are_told_apart():
    replica = next(kit for kit in WEAPONS.values() if kit.replica_of is not None)
    twins = [
        k for k in WEAPONS.values() if (k.main_id, k.sub, k.special) == (replica.main_id, replica.sub, replica.special)
    ]
    others = [kit for kit in WEAPONS.values() if kit.main_id == replica.main_id and kit not in twins]
    kits = Kits.of([replica, *others, *(kit for kit in twins if kit is not replica)])
    assert len(twins) >= 2
    assert len(kits) == len({(kit.main_id, kit.sub, kit.special) for kit in [*twins, *others]})
    assert kits.facts[0].replica_of is None
    assert kits.of_weapon[0] == kits.of_weapon[-1]
    assert set(kits.main.tolist()) == {replica.main_id}


def test_every_kind_of_part_covers_every_kit_once():
    kits = Kits.of(tuple(WEAPONS.values()))
    for kind in ("sub", "special", "combo"):
        assert (Parts.of(kits, (kind,)).member.sum(axis=0) == 1).all()
