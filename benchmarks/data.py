"""The data that benchmarks run on: as many examples as asked for, of realistic shape, the same every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..context.bundle import BundleContents, write_bundle
from ..context.contexts import load_context
from ..schemas.vocabulary import Vocabulary

TOKENS_EACH = 10
ACTIVE = 0.20
N_FEATURES = 8
_EXAMPLES_A_BUILD = 4
_BLOCK = 100_000
_SEED = 7


def write_examples(folder: Path, n: int, hidden: int) -> None:
    """Write a bundle without a model: examples, their pooled vectors and an SAE whose features are 20 % active.

    Each example holds 10 tokens drawn without replacement by how common they are in the demo bundle, and a weapon drawn
    likewise. Pooled vectors are sums of a random vector for each token and for the weapon, and noise: features have
    causes among both. Four examples in a row come from one build.

    Args:
        folder: where; must not exist.
        n: examples.
        hidden: length of pooled vectors.
    """
    demo = load_context("demo")
    rng = np.random.default_rng(_SEED)
    vocabulary, common = demo.vocabulary, demo.data
    chance = np.bincount(common.tokens, minlength=len(vocabulary)) * (np.asarray(vocabulary.token_family) >= 0)
    weapon = rng.choice(common.weapon, -(-n // _EXAMPLES_A_BUILD)).repeat(_EXAMPLES_A_BUILD)[:n]
    tokens = np.concatenate([_draw(chance, min(_BLOCK, n - at), rng) for at in range(0, n, _BLOCK)])
    sizes = len(vocabulary), len(demo.weapons)
    pooled = _pooled(tokens, weapon, sizes, hidden, rng)
    encoder = rng.standard_normal((N_FEATURES, hidden)).astype(np.float32) / np.sqrt(hidden)
    sample = pooled[rng.choice(n, min(n, _BLOCK), replace=False)] @ encoder.T
    write_bundle(
        folder,
        BundleContents(
            model_params=None,
            model_state=None,
            sae_state={
                "encoder.weight": encoder,
                "encoder.bias": -np.quantile(sample, 1.0 - ACTIVE, axis=0).astype(np.float32),
                "decoder.weight": encoder.T.copy(),
                "decoder_bias": np.zeros(hidden, dtype=np.float32),
            },
            vocabulary=dict(vocabulary.token_id),
            weapon_vocabulary=dict(demo.weapons.token_id),
            weapon=weapon,
            indptr=np.arange(n + 1, dtype=np.int64) * TOKENS_EACH,
            tokens=tokens.ravel(),
            levels=_levels(tokens, vocabulary),
            build_id=np.arange(n, dtype=np.int32) // _EXAMPLES_A_BUILD,
            pooled=pooled,
        ),
    )


def _draw(chance: NDArray[np.integer], n: int, rng: np.random.Generator) -> NDArray[np.int16]:
    """Tokens [n, 10] without replacement, by the exponential race: the ten that arrive first."""
    possible = np.flatnonzero(chance)
    arrival = rng.standard_exponential((n, len(possible)), dtype=np.float32) / chance[possible].astype(np.float32)
    first = np.argpartition(arrival, TOKENS_EACH, axis=1)[:, :TOKENS_EACH]
    return np.sort(possible[first], axis=1).astype(np.int16)


def _levels(tokens: NDArray[np.int16], vocabulary: Vocabulary) -> NDArray[np.uint8]:
    """Highest rung of each family in each example [n, families]."""
    family, level = np.asarray(vocabulary.token_family), np.asarray(vocabulary.token_level, dtype=np.uint8)
    levels = np.zeros((len(tokens), len(vocabulary.families)), dtype=np.uint8)
    rows = np.arange(len(tokens))
    for column in tokens.T:  # ten columns, each written for all examples at once
        levels[rows, family[column]] = np.maximum(levels[rows, family[column]], level[column])
    return levels


def _pooled(
    tokens: NDArray[np.int16], weapon: NDArray[np.int32], sizes: tuple[int, int], hidden: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Pooled vectors [n, hidden]: of each token and of the weapon a vector, and noise."""
    of_token, of_weapon = (rng.standard_normal((size, hidden), dtype=np.float32) for size in sizes)
    pooled = np.empty((len(tokens), hidden), dtype=np.float32)
    for at in range(0, len(tokens), _BLOCK):
        held = tokens[at : at + _BLOCK].astype(np.int32).ravel()
        starts = np.arange(0, len(held) + 1, TOKENS_EACH)
        present = sparse.csr_matrix((np.ones(len(held), np.float32), held, starts), shape=(len(starts) - 1, sizes[0]))
        block = pooled[at : at + _BLOCK]
        rng.standard_normal(out=block, dtype=np.float32)
        block += present @ of_token + of_weapon[weapon[at : at + _BLOCK]]
    return pooled
