"""Rules are evaluated as their terms say, against a straightforward count set by set."""

import numpy as np
import pytest
from mechinterp_runner.context.builder.codec import Codec
from mechinterp_runner.context.builder.demo_rules import demo_rules
from mechinterp_runner.context.builder.rules import factor_value, rule_value, rule_values
from mechinterp_runner.context.token_sets import TokenSets
from mechinterp_runner.schemas.facts import ABILITIES, WEAPONS
from mechinterp_runner.schemas.planted import Factor, PlantedRule
from mechinterp_runner.schemas.vocabulary import WeaponVocabulary


def by_hand(factor: Factor, tokens: set[str], kit: int) -> float:
    rungs = [int(t.rsplit("_", 1)[1]) for t in tokens if t.startswith(factor.name) and t[-1].isdigit()]
    level = max(rungs, default=10 if factor.name in tokens else 0)
    value = {
        "level": lambda: float(level >= (factor.rung or 0)),
        "dose": lambda: level / 57,
        "special": lambda: float(WEAPONS[kit].special == factor.name),
        "weapon": lambda: float(str(kit) == factor.name),
        "gap": lambda: float(f"{factor.name}_{factor.rung}" in tokens and f"{factor.name}_{factor.low}" not in tokens),
    }[factor.kind]()
    return 1.0 - value if factor.absent else value


def expected(rule: PlantedRule, tokens: set[str], kit: int) -> float:
    total = sum(t.coefficient * np.prod([by_hand(f, tokens, kit) for f in t.factors]) for t in rule.terms)
    return max(0.0, float(total))


@pytest.mark.parametrize("rule", demo_rules(), ids=lambda rule: f"{rule.feature_id}-{rule.kind}")
def test_every_demo_rule_equals_its_evaluation_set_by_set(
    rule: PlantedRule, codec: Codec, weapons: WeaponVocabulary, builds: TokenSets
) -> None:
    rng = np.random.default_rng(rule.feature_id)
    sets = TokenSets(builds.weapon, builds.present & (rng.random(builds.present.shape) < 0.7))
    for name in dict.fromkeys(f.name for f in rule.factors() if f.name in ABILITIES):
        half = rng.random(len(sets)) < 0.5
        tokens = list(codec.vocabulary.family_tokens(name))
        sets.present[np.ix_(half, tokens)] |= rng.random((int(half.sum()), len(tokens))) < 0.5
    got = rule_value(rule, sets, codec.vocabulary, weapons)
    names = [{codec.vocabulary.tokens[i] for i in np.flatnonzero(row)} for row in sets.present]
    wanted = [expected(rule, tokens, weapons.weapon_ids[w]) for tokens, w in zip(names, sets.weapon, strict=True)]
    assert np.allclose(got, wanted)
    assert got.max() > 0


def test_demo_rules_are_the_kinds_asked_for_and_feature_0_is_the_threshold_on_special_charge_up() -> None:
    rules = demo_rules()
    assert [rule.feature_id for rule in rules] == list(range(len(rules)))
    assert rules[0].kind == "threshold"
    assert rules[0].drivers == ("special_charge_up",)
    kinds = {rule.kind for rule in rules}
    assert kinds == {
        "threshold",
        "linear_dose",
        "suppressor",
        "and",
        "gated",
        "or",
        "modulated_pair",
        "special",
        "weapon",
        "confounded_ability",
        "core",
        "gap",
    }
    assert all(1.5 <= rule.height <= 3.5 for rule in rules)
    names = {f.name for rule in rules for f in rule.factors() if f.kind in {"level", "dose", "gap"}}
    assert names <= set(ABILITIES)


def test_heights_are_the_largest_values(codec: Codec, weapons: WeaponVocabulary) -> None:
    full = TokenSets(np.zeros(2, dtype=np.int32), np.zeros((2, len(codec.vocabulary)), dtype=bool))
    full.present[1] = np.asarray(codec.vocabulary.token_family) >= 0
    simple = [rule for rule in demo_rules() if rule.kind in {"threshold", "linear_dose", "and", "gated", "or", "core"}]
    values = rule_values(simple, full, codec.vocabulary, weapons)
    assert values[0].tolist() == [0.0] * len(simple)
    assert np.allclose(values[1], [rule.height for rule in simple])


def test_a_level_factor_without_its_rung_is_refused(codec: Codec, weapons: WeaponVocabulary, builds: TokenSets) -> None:
    with pytest.raises(ValueError, match="needs its rungs"):
        factor_value(Factor(kind="level", name="quick_respawn"), builds, codec.vocabulary, weapons)
