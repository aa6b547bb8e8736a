"""From a trained network to a bundle's contents: pooled vectors, autoencoder, planted rules and their fidelity."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...schemas.manifest import ModelParams
from ...schemas.planted import Fidelity, PlantedRule
from ...schemas.vocabulary import WeaponVocabulary
from ..bundle import BundleContents
from ..sae import SparseAutoencoder
from ..token_sets import TokenSets, levels_of
from .codec import Codec
from .examples import PartialBuilds
from .fidelity import FidelityMeter
from .rules import rule_value
from .sparse import GivenRows, SparseOptions, SparseReport, dead_rows, probe_rows, random_rows, stack_rows, train_sparse
from .train import Progress, Trained, pooled_vectors

R2_WANTED = 0.9
CELL_ERROR_ALLOWED = 0.10
FAVOURED = 3.0
"""A kit is confounded with a rule when its examples follow the rule this many times as much as the average."""
_FAVOURED_MIN_N = 50
_FAVOURED_MOST = 6


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Sizes of the network."""

    embedding_dim: int = 32
    hidden_dim: int = 64
    num_layers: int = 2
    num_heads: int = 4
    num_inducing_points: int = 8

    def params(self, codec: Codec, weapons: WeaponVocabulary) -> ModelParams:
        """The model's parameters for these vocabularies."""
        return ModelParams(
            vocab_size=len(codec.vocabulary),
            weapon_vocab_size=len(weapons),
            embedding_dim=self.embedding_dim,
            hidden_dim=self.hidden_dim,
            output_dim=len(codec.vocabulary),
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            num_inducing_points=self.num_inducing_points,
            pad_token_id=codec.vocabulary.pad_id,
        )


@dataclass(frozen=True, slots=True)
class Extras:
    """Features beside the ordinary and the planted ones."""

    random_directions: int = 0
    dead: int = 0
    contexts: int = 400


@dataclass(frozen=True, slots=True)
class World:
    """What a network was trained on, and its examples.

    Attributes:
        codec: Tables of the ability vocabulary.
        weapons: The weapon vocabulary.
        examples: The partial builds to store.
        held_out: bool [n], which examples come from builds never trained on.
        rules: Planted rules by feature id.
        seed: Seed of what is drawn when assembling.
    """

    codec: Codec
    weapons: WeaponVocabulary
    examples: PartialBuilds
    held_out: NDArray[np.bool_]
    rules: Sequence[PlantedRule] = ()
    seed: int = 0


def versions() -> dict[str, str]:
    """What the numbers of a build depend on beside its options."""
    try:
        own = version("mechinterp-runner")
    except PackageNotFoundError:
        own = "not installed"
    return {
        "mechinterp_runner": own,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
    }


def assemble(
    world: World, trained: Trained, sparse: SparseOptions, extras: Extras, progress: Progress
) -> BundleContents:
    """Everything of a bundle that follows from a trained network.

    Args:
        world: Vocabularies, examples and rules.
        trained: The network and its probes.
        sparse: How to learn the autoencoder.
        extras: Random directions, dead features, contexts of the fidelity measurement.
        progress: Told how far it is.

    Returns:
        The contents; ``made_by`` holds the loss curve's end and the autoencoder's quality.
    """
    model, codec, sets = trained.model, world.codec, world.examples.sets
    pooled = pooled_vectors(model, codec, sets)
    center = pooled.mean(axis=0)
    rng = np.random.default_rng([world.seed, 5])
    rows = [probe_rows(trained.probe_weight, trained.probe_bias, center)]
    rows.append(random_rows(pooled, center, extras.random_directions, rng))
    rows.append(dead_rows(model, center, extras.dead, rng) if extras.dead else _no_rows(len(center)))
    sae, quality = train_sparse(pooled, center, stack_rows(*rows), sparse, seed=world.seed, progress=progress)
    planted = _planted(world, trained, sae, pooled, extras=extras, progress=progress)
    indptr, tokens = codec.to_csr(sets.present)
    return BundleContents(
        model_params=model.params,
        model_state={name: value.numpy() for name, value in model.state_dict().items()},
        sae_state=sae.to_state(),
        vocabulary=dict(codec.vocabulary.token_id),
        weapon_vocabulary=dict(world.weapons.token_id),
        weapon=sets.weapon,
        indptr=indptr,
        tokens=tokens,
        levels=levels_of(sets.present, codec.vocabulary),
        build_id=world.examples.build_id,
        pooled=pooled,
        made_by={"training": _curve_end(trained), "autoencoder": _quality(quality), "versions": versions()},
        planted=planted,
    )


def shortfalls(planted: Sequence[PlantedRule]) -> list[str]:
    """The planted rules that the network does not follow well enough, each in words."""
    return [
        f"feature {rule.feature_id} ({rule.kind}): R2 {rule.fidelity.r2_held_out}, "
        f"worst cell {rule.fidelity.worst_cell_error:.1%} of the height"
        for rule in planted
        if rule.fidelity is not None and not _good(rule.fidelity)
    ]


def _good(fidelity: Fidelity) -> bool:
    """Whether a rule is followed well enough to be shipped."""
    r2 = fidelity.r2_held_out
    return r2 is not None and r2 >= R2_WANTED and fidelity.worst_cell_error <= CELL_ERROR_ALLOWED


def _no_rows(dim: int) -> GivenRows:
    return GivenRows(np.zeros((0, dim), np.float32), np.zeros(0, np.float32))


def _curve_end(trained: Trained) -> dict[str, Any]:
    """The last recorded losses."""
    if not trained.curve:
        return {}
    step, completion, planted = trained.curve[-1]
    return {"step": step, "completion_loss": round(completion, 5), "planted_loss": round(planted, 6)}


def _quality(report: SparseReport) -> dict[str, Any]:
    """The autoencoder's quality, rounded."""
    return {
        "explained_variance": round(report.explained_variance, 4),
        "l0": round(report.l0, 2),
        "dead_learned_features": report.dead,
    }


def _planted(
    world: World,
    trained: Trained,
    sae: SparseAutoencoder,
    pooled: NDArray[np.float32],
    *,
    extras: Extras,
    progress: Progress,
) -> tuple[PlantedRule, ...]:
    """The rules with their fidelity, then the random directions and the dead features."""
    named = world.held_out & world.examples.sets.present.any(axis=1)
    candidates = np.flatnonzero(named)
    rng = np.random.default_rng([world.seed, 6])
    rows = np.sort(rng.choice(candidates, size=min(extras.contexts, len(candidates)), replace=False))
    meter = FidelityMeter(
        codec=world.codec,
        weapons=world.weapons,
        sae=sae,
        pool=lambda sets: pooled_vectors(trained.model, world.codec, sets),
        contexts=world.examples.sets.take(rows),
        seed=world.seed,
    )
    held_sets, held_pooled = world.examples.sets.take(world.held_out), pooled[world.held_out]
    measured: list[PlantedRule] = []
    for rule in world.rules:
        progress("fidelity", rule.feature_id + 1, len(world.rules), rule.kind)
        rate = float((sae.activation(pooled, rule.feature_id) > 0).mean())
        fidelity = meter.measure(rule, held_sets, held_pooled, rate)
        confounded = _favoured_weapons(rule, world) if rule.kind == "confounded_ability" else ()
        measured.append(rule.model_copy(update={"fidelity": fidelity, "confounded_weapons": confounded}))
    return (*measured, *_ruleless(len(world.rules), extras))


def _ruleless(first: int, extras: Extras) -> list[PlantedRule]:
    """The entries of features that follow no rule."""
    drawn = "A random direction (Gaussian with the covariance of the pooled vectors), active in about 5 % of examples."
    silent = "Dead: its bias lies below anything that an input of this network can reach."
    randoms = [
        PlantedRule(feature_id=first + i, kind="random_direction", height=0.0, statement=drawn)
        for i in range(extras.random_directions)
    ]
    after = first + extras.random_directions
    dead = [PlantedRule(feature_id=after + i, kind="dead", height=0.0, statement=silent) for i in range(extras.dead)]
    return [*randoms, *dead]


def _favoured_weapons(rule: PlantedRule, world: World) -> tuple[str, ...]:
    """Ids of the kits whose examples follow the rule far more than the average, the most first."""
    sets: TokenSets = world.examples.sets
    wanted = rule_value(rule, sets, world.codec.vocabulary, world.weapons)
    count = np.bincount(sets.weapon, minlength=len(world.weapons))
    mean = np.bincount(sets.weapon, wanted, minlength=len(world.weapons)) / np.maximum(count, 1)
    favoured = np.flatnonzero((mean >= FAVOURED * wanted.mean()) & (count >= _FAVOURED_MIN_N))
    favoured = favoured[np.argsort(-mean[favoured], kind="stable")][:_FAVOURED_MOST]
    return tuple(str(world.weapons.weapon_ids[token]) for token in favoured)
