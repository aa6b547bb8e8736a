"""Generated builds are complete, legal, varied like real ones, and follow their kit."""

import numpy as np
import pytest
from mechinterp_runner.context.builder.generate import COLUMNS, draw, generate_builds, load_archetypes
from mechinterp_runner.schemas.errors import RequestError
from mechinterp_runner.schemas.facts import ABILITIES, MAIN_ONLY, SLOTS, STACKABLE, WEAPONS, mains_and_subs


def test_every_build_is_complete_and_legal() -> None:
    builds = generate_builds(3000, np.random.default_rng(0))
    stackable, main_only = builds.ap[:, : len(STACKABLE)], builds.ap[:, len(STACKABLE) :]
    assert builds.ap.shape == (3000, 26)
    assert (builds.ap.sum(axis=1) == 57).all()
    assert np.isin(main_only, [0, 10]).all()
    splits = {int(ap): mains_and_subs(int(ap)) for ap in np.unique(stackable) if ap}
    assert None not in splits.values()
    mains = np.vectorize(lambda ap: splits[ap][0] if ap else 0)(stackable).sum(axis=1)
    assert (mains + (main_only > 0).sum(axis=1) == 3).all()
    for slot in SLOTS:
        columns = [i for i, name in enumerate(MAIN_ONLY) if ABILITIES[name].slot == slot]
        assert (main_only[:, columns] > 0).sum(axis=1).max() <= 1


def test_builds_hold_about_as_many_distinct_abilities_as_real_ones() -> None:
    builds = generate_builds(5000, np.random.default_rng(0))
    assert 5.0 < (builds.ap[:, : len(STACKABLE)] > 0).sum(axis=1).mean() < 6.0


def test_abilities_are_correlated_with_the_kit() -> None:
    saver = COLUMNS.index("ink_saver_sub")
    favours = generate_builds(2000, np.random.default_rng(0), kits=[10]).ap[:, saver].mean()
    others = generate_builds(2000, np.random.default_rng(0)).ap[:, saver].mean()
    assert favours > 3 * others


def test_equal_seeds_give_equal_builds() -> None:
    first, again, other = (generate_builds(50, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(first.ap, again.ap)
    assert np.array_equal(first.weapon_id, again.weapon_id)
    assert not np.array_equal(first.ap, other.ap)


def test_archetype_facts_are_probabilities_of_known_kits() -> None:
    facts = load_archetypes()
    assert np.allclose(facts.mixture.sum(axis=1), 1.0)
    assert np.allclose(facts.main_only.sum(axis=2), 1.0)
    assert (facts.main_only >= 0).all()
    assert all(int(kit) in WEAPONS and WEAPONS[int(kit)].replica_of is None for kit in facts.weapon_id)
    expected = 10 * facts.main_only[:, :, :-1].sum(axis=(1, 2)) + facts.mean_ap.sum(axis=1)
    assert np.allclose(expected, 57, atol=1.0)


def test_an_unknown_kit_is_refused() -> None:
    with pytest.raises(RequestError, match=r"no archetype facts for kits \[123456\]"):
        generate_builds(3, np.random.default_rng(0), kits=[40, 123456])


def test_draw_follows_its_weights() -> None:
    drawn = draw(np.tile([1.0, 0.0, 3.0], (20_000, 1)), np.random.default_rng(0))
    assert np.allclose(np.bincount(drawn, minlength=3) / 20_000, [0.25, 0.0, 0.75], atol=0.02)
