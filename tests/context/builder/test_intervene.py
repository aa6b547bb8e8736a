"""Constructed sets cover every cell of every rule's factorial, and the edits that experiments make."""

import numpy as np
from mechinterp_runner.context.builder.batches import BatchSource
from mechinterp_runner.context.builder.codec import Codec
from mechinterp_runner.context.builder.demo_rules import demo_rules
from mechinterp_runner.context.builder.intervene import Intervener, factor_weapons
from mechinterp_runner.context.builder.rules import factor_value, rule_values
from mechinterp_runner.context.token_sets import TokenSets
from mechinterp_runner.schemas.planted import Factor
from mechinterp_runner.schemas.vocabulary import WeaponVocabulary


def many(builds: TokenSets, n: int) -> TokenSets:
    return builds.take(np.arange(n) % len(builds))


def test_every_cell_of_every_rule_occurs(codec: Codec, weapons: WeaponVocabulary, builds: TokenSets) -> None:
    sets = Intervener(codec, weapons, demo_rules()).sample(many(builds, 12_000), np.random.default_rng(0))
    for rule in demo_rules():
        values = [factor_value(f, sets, codec.vocabulary, weapons) > 0 for f in rule.factors()]
        cells = np.unique(np.stack(values, axis=1), axis=0)
        assert len(cells) == 2 ** len(values), rule.kind


def test_the_base_is_left_alone_and_special_tokens_never_set(
    codec: Codec, weapons: WeaponVocabulary, builds: TokenSets
) -> None:
    before = builds.present.copy()
    sets = Intervener(codec, weapons, demo_rules()).sample(builds, np.random.default_rng(0))
    assert np.array_equal(builds.present, before)
    assert len(sets) == len(builds)
    assert not sets.present[:, np.asarray(codec.vocabulary.token_family) < 0].any()


def test_without_rules_it_still_edits(codec: Codec, weapons: WeaponVocabulary, builds: TokenSets) -> None:
    sets = Intervener(codec, weapons, ()).sample(builds, np.random.default_rng(0))
    assert (sets.present != builds.present).any()


def test_empty_sets_occur(codec: Codec, weapons: WeaponVocabulary, builds: TokenSets) -> None:
    sets = Intervener(codec, weapons, demo_rules()).sample(many(builds, 4000), np.random.default_rng(0))
    assert (sets.present.sum(axis=1) == 0).mean() > 0.01


def test_factor_weapons_are_the_kits_with_that_special(weapons: WeaponVocabulary) -> None:
    special = weapons.facts[0].special
    assert special is not None
    holds = factor_weapons(Factor(kind="special", name=special), weapons)
    assert holds.tolist() == [kit.special == special for kit in weapons.facts]
    assert factor_weapons(Factor(kind="weapon", name="50"), weapons).tolist() == [i == 50 for i in weapons.weapon_ids]


def source(codec: Codec, weapons: WeaponVocabulary, builds: TokenSets, rules: bool) -> BatchSource:
    chance = np.full(len(builds), 1 / len(builds))
    return BatchSource(builds, chance, codec, weapons, demo_rules() if rules else ())


def test_a_batch_is_decided_by_seed_and_step(codec: Codec, weapons: WeaponVocabulary, builds: TokenSets) -> None:
    made = source(codec, weapons, builds, rules=True)
    first, again, later = made.batch(64, 1, 2), made.batch(64, 1, 2), made.batch(64, 1, 3)
    assert np.array_equal(first.sets.present, again.sets.present)
    assert np.array_equal(first.targets, again.targets)
    assert not np.array_equal(first.sets.present, later.sets.present)


def test_natural_rows_are_subsets_of_their_targets(codec: Codec, weapons: WeaponVocabulary, builds: TokenSets) -> None:
    batch = source(codec, weapons, builds, rules=True).batch(512, 0, 0)
    n = len(batch.complete)
    assert 0 < n < 512
    assert not (batch.sets.present[:n] & ~batch.complete).any()
    assert np.allclose(batch.targets, rule_values(demo_rules(), batch.sets, codec.vocabulary, weapons))
    assert (batch.sets.present[:n].sum(axis=1) == 0).any()


def test_without_rules_a_batch_is_natural_only(codec: Codec, weapons: WeaponVocabulary, builds: TokenSets) -> None:
    batch = source(codec, weapons, builds, rules=False).batch(32, 0, 0)
    assert len(batch.complete) == len(batch.sets) == 32
    assert batch.targets.shape == (32, 0)
