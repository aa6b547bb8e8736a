"""A network of the published size with random weights: what it costs does not depend on what it has learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ..context.bundle import BundleContents, write_bundle
from ..context.context import Context
from ..context.model import SplatGPT
from ..context.token_sets import TokenSets, concatenate
from ..schemas.manifest import ModelParams

N_FEATURES = 64
CONDITIONS = 12
_FAMILIES = ("swim_speed_up", "special_charge_up")
_SEED = 11


def ultra_params(demo: Context, *, small: bool) -> ModelParams:
    """The published sizes with the vocabularies of the demo bundle; ``small``: a little one, to see that it runs."""
    return ModelParams(
        vocab_size=len(demo.vocabulary),
        weapon_vocab_size=len(demo.weapons),
        output_dim=len(demo.vocabulary),
        pad_token_id=demo.vocabulary.pad_id,
        embedding_dim=32,
        hidden_dim=16 if small else 512,
        num_layers=2 if small else 3,
        num_heads=2 if small else 8,
        num_inducing_points=4 if small else 32,
    )


def write_ultra(folder: Path, demo: Context, *, small: bool) -> SplatGPT:
    """Write a bundle without examples: the network, and an SAE of `N_FEATURES`; return the network."""
    params = ultra_params(demo, small=small)
    with torch.random.fork_rng():
        torch.manual_seed(_SEED)
        model = SplatGPT(params).eval()
    rng = np.random.default_rng(_SEED)
    encoder = rng.standard_normal((N_FEATURES, params.hidden_dim)).astype(np.float32)
    write_bundle(
        folder,
        BundleContents(
            model_params=params,
            model_state={name: value.numpy() for name, value in model.state_dict().items()},
            sae_state={
                "encoder.weight": encoder,
                "encoder.bias": np.zeros(N_FEATURES, np.float32),
                "decoder.weight": encoder.T.copy(),
                "decoder_bias": np.zeros(params.hidden_dim, np.float32),
            },
            vocabulary=dict(demo.vocabulary.token_id),
            weapon_vocabulary=dict(demo.weapons.token_id),
        ),
    )
    return model


def conditions(demo: Context, n_contexts: int) -> TokenSets:
    """Examples of the demo bundle, drawn at random, each as it is and with a family written in at a rung: 12 in all."""
    vocabulary = demo.vocabulary
    rows = np.sort(np.random.default_rng(_SEED).choice(len(demo.data), n_contexts, replace=False))
    contexts = demo.sets(rows)
    written = [
        contexts.with_level(family, level, vocabulary) for family in _FAMILIES for level in vocabulary.rungs(family)
    ]
    return concatenate([contexts, *written[: CONDITIONS - 1]])
