"""Stored examples: distinct partial sets, one empty set a weapon, rare rules raised."""

import numpy as np
from mechinterp_runner.context.builder.codec import Codec
from mechinterp_runner.context.builder.corrupt import corrupt
from mechinterp_runner.context.builder.demo_rules import demo_rules
from mechinterp_runner.context.builder.examples import build_chances, choose, held_out, make_examples
from mechinterp_runner.context.builder.rules import rule_values
from mechinterp_runner.context.token_sets import TokenSets
from mechinterp_runner.schemas.vocabulary import WeaponVocabulary


def test_examples_are_distinct_subsets_of_their_build(builds: TokenSets, weapons: WeaponVocabulary) -> None:
    made = make_examples(builds, 5, len(weapons), np.random.default_rng(0))
    partial = made.sets.take(slice(0, len(made.sets) - len(weapons)))
    of_build = made.build_id[: len(partial)]
    assert not (partial.present & ~builds.present[of_build]).any()
    assert np.array_equal(partial.weapon, builds.weapon[of_build])
    seen = {(int(b), row.tobytes()) for b, row in zip(of_build, partial.present, strict=True)}
    assert len(seen) == len(partial)
    assert set(of_build) == set(range(len(builds)))


def test_the_last_examples_are_one_empty_set_a_weapon(builds: TokenSets, weapons: WeaponVocabulary) -> None:
    made = make_examples(builds, 2, len(weapons), np.random.default_rng(0))
    tail = made.sets.take(slice(len(made.sets) - len(weapons), len(made.sets)))
    assert not tail.present.any()
    assert tail.weapon.tolist() == list(range(len(weapons)))
    assert len(np.unique(made.build_id[-len(weapons) :])) == len(weapons)
    assert made.build_id[-len(weapons) :].min() == len(builds)


def test_one_build_in_seven_is_held_out() -> None:
    assert np.flatnonzero(held_out(np.arange(21))).tolist() == [6, 13, 20]


def test_rare_rules_are_raised_to_about_the_wanted_share(
    codec: Codec, weapons: WeaponVocabulary, builds: TokenSets
) -> None:
    rules = [rule for rule in demo_rules() if rule.kind in {"threshold", "and", "confounded_ability"}]
    chance = build_chances(builds, rules, codec, weapons, np.random.default_rng(0), wanted=0.05)
    assert np.isclose(chance.sum(), 1.0)
    rng = np.random.default_rng(1)
    partial = TokenSets(builds.weapon, builds.present).take(rng.choice(len(builds), size=20_000, p=chance))
    share = rule_values(rules, TokenSets(partial.weapon, corrupt(partial.present, rng)), codec.vocabulary, weapons) > 0
    assert (share.mean(axis=0) > 0.02).all()


def test_choose_draws_distinct_rows_by_their_chances() -> None:
    chance = np.array([0.7, 0.1, 0.1, 0.1])
    firsts = [choose(chance, 2, np.random.default_rng(seed)) for seed in range(400)]
    assert all(len(set(rows)) == 2 for rows in firsts)
    assert 0.6 < np.mean([rows[0] == 0 for rows in firsts]) < 0.8
