"""A small world that the builder's tests share."""

import numpy as np
import pytest
from mechinterp_runner.context.builder.codec import Codec
from mechinterp_runner.context.builder.generate import generate_builds
from mechinterp_runner.context.token_sets import TokenSets
from mechinterp_runner.schemas.facts import MAIN_ONLY, STACKABLE, STANDARD_RUNGS
from mechinterp_runner.schemas.vocabulary import Vocabulary, WeaponVocabulary

KITS = (40, 50, 10, 1000, 2050, 210, 30, 31, 20, 70)


@pytest.fixture(scope="session")
def codec() -> Codec:
    rungs = [f"{family}_{rung}" for family in STACKABLE for rung in STANDARD_RUNGS]
    tokens = [*rungs, *MAIN_ONLY, "<NULL>", "<PAD>", "<MASK>"]
    order = np.random.default_rng(3).permutation(len(tokens))
    return Codec.of(Vocabulary(tuple(tokens[i] for i in order)))


@pytest.fixture(scope="session")
def weapons() -> WeaponVocabulary:
    return WeaponVocabulary(tuple(f"weapon_id_{kit}" for kit in KITS))


@pytest.fixture(scope="session")
def builds(codec: Codec, weapons: WeaponVocabulary) -> TokenSets:
    made = generate_builds(400, np.random.default_rng(1), kits=KITS)
    tokens = [weapons.token_id[f"weapon_id_{kit}"] for kit in made.weapon_id]
    return TokenSets(np.array(tokens, dtype=np.int32), codec.tokenize(made.ap))
