"""What an import will do: every input opened and compared with the others, before anything large is read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...schemas.errors import RequestError
from ...schemas.manifest import ModelParams
from ...schemas.vocabulary import Vocabulary, WeaponVocabulary
from .batches import open_batches
from .columns import ActivationSource
from .metadata import SUMMARY, Metadata, open_metadata
from .neuron_acts import open_neuron_acts
from .sources import NOTHING, ImportOptions, Sources
from .tokenized_csv import TokenizedCsv, check_header
from .transposed import open_transposed
from .weights import State, read_model, read_params, read_sae, read_vocabulary, read_weapon_vocabulary
from .zarr_arrays import Matrix, open_matrix

POOLED = Path("embeddings", "sae_input.zarr")


@dataclass(frozen=True, slots=True)
class Plan:
    """An import that can be carried out.

    Attributes:
        sources: the files given.
        options: how.
        vocabulary: ability tokens.
        weapons: weapon tokens.
        params: sizes of the network; None without one.
        model: its weights.
        sae: the autoencoder's weights; None without one.
        csv: the complete builds that examples are made of, if they are.
        metadata: the examples of an activations folder, if they come from there.
        activations: where activations are copied from; None where the SAE gives them.
        pooled: stored pooled vectors to copy.
        compute_pooled: whether the network computes the pooled vectors.
    """

    sources: Sources
    options: ImportOptions
    vocabulary: Vocabulary
    weapons: WeaponVocabulary
    params: ModelParams | None
    model: State | None
    sae: State | None
    csv: TokenizedCsv | None
    metadata: Metadata | None
    activations: ActivationSource | None
    pooled: Matrix | None
    compute_pooled: bool

    @property
    def n_features(self) -> int:
        """Features of the SAE, or columns of the activations."""
        if self.sae is not None:
            return len(self.sae["encoder.weight"])
        assert self.activations is not None  # noqa: S101 - checked by make_plan
        return self.activations.n_features

    @property
    def hidden_dim(self) -> int | None:
        """Length of a pooled vector; None where nothing tells."""
        if self.sae is not None:
            return self.sae["encoder.weight"].shape[1]
        return None if self.pooled is None else self.pooled.shape[1]

    def inputs(self) -> dict[str, Path]:
        """Everything that is read, by what it is."""
        named = asdict(self.sources)
        inputs = {name: path for name in ("vocab", "weapon_vocab", "model", "params", "sae") if (path := named[name])}
        if self.csv is not None:
            inputs["tokenized_csv"] = self.csv.path
        if self.metadata is not None:
            inputs["metadata"] = self.metadata.folder / "metadata"
            if (self.metadata.folder / SUMMARY).is_file():
                inputs["conversion_metadata"] = self.metadata.folder / SUMMARY
        if self.pooled is not None:
            inputs["sae_input"] = self.pooled.path
        if self.activations is not None:
            name, path = self.activations.origin()
            inputs[name] = path
        return inputs

    def settings(self) -> dict[str, Any]:
        """The options that what is written depends on."""
        csv = {"instances_per_build": self.options.instances_per_build, "seed": self.options.seed}
        asked = self.options.compute
        compute = {"device": asked.resolved_device(), "dtype": asked.dtype} if self.compute_pooled else {}
        return {"pooled": self.options.pooled} | (csv if self.csv else {}) | compute

    def notes(self) -> list[str]:
        """What the user should know of the inputs."""
        notes = [] if self.metadata is None else list(self.metadata.notes)
        return notes + ([] if self.activations is None else list(self.activations.notes()))


def make_plan(sources: Sources, options: ImportOptions) -> Plan:
    """Open and check every input; weights are read, examples and activations are not.

    Raises:
        RequestError: the inputs are not there, not of their format, or do not fit one another.
    """
    sources.check()
    vocabulary = read_vocabulary(sources.vocab)
    weapons = read_weapon_vocabulary(sources.weapon_vocab)
    params = None if sources.params is None else read_params(sources.params, vocabulary, weapons)
    csv = None
    if sources.tokenized_csv is not None:
        check_header(sources.tokenized_csv)
        csv = TokenizedCsv(sources.tokenized_csv, vocabulary, weapons, options)
    metadata = None if sources.activations is None else open_metadata(sources.activations)
    if metadata is not None and not len(metadata):
        raise RequestError(f"{metadata.folder}: its batches hold no row. {NOTHING}")
    sae = None if sources.sae is None else read_sae(sources.sae, params)
    model = None
    if sources.model is not None and sources.params is not None and params is not None:
        _check_device(options)
        model = read_model(sources.model, params, sources.params)
    pooled = _stored_pooled(metadata, sae)
    activations = None if metadata is None else _activations(sources, metadata, sae, pooled)
    compute_pooled = (csv is not None or metadata is not None) and model is not None and pooled is None
    plan = Plan(
        sources, options, vocabulary, weapons, params, model, sae, csv, metadata, activations, pooled,
        compute_pooled and options.pooled,
    )  # fmt: skip
    _check_enough(plan)
    return plan


def _check_device(options: ImportOptions) -> None:
    """Raise RequestError where the network cannot run as asked: it is needed last, after hours perhaps."""
    try:
        options.compute.resolved_device()
    except RequestError as error:
        raise RequestError(f"{error} {NOTHING}") from error


def _stored_pooled(metadata: Metadata | None, sae: State | None) -> Matrix | None:
    """The pooled vectors beside the metadata; None where there are none."""
    if metadata is None or not (metadata.folder / POOLED).exists():
        return None
    matrix = open_matrix(metadata.folder / POOLED)
    rows, dim = matrix.shape
    if rows != len(metadata):
        raise RequestError(f"{matrix.path} has {rows:,} rows where the metadata has {len(metadata):,}. {NOTHING}")
    if sae is not None and dim != sae["encoder.weight"].shape[1]:
        wanted = sae["encoder.weight"].shape[1]
        raise RequestError(f"{matrix.path} holds vectors of {dim} where the SAE reads {wanted}. {NOTHING}")
    return matrix


def _activations(
    sources: Sources, metadata: Metadata, sae: State | None, pooled: Matrix | None
) -> ActivationSource | None:
    """Where activations come from: what was named, else nowhere if the SAE can give them, else the dense batches."""
    known = metadata.n_features if sae is None else len(sae["encoder.weight"])
    dense = metadata.folder / "activations"
    source: ActivationSource | None = None
    if sources.transposed is not None:
        source = open_transposed(sources.transposed, len(metadata))
    elif sources.neuron_acts is not None:
        source = open_neuron_acts(sources.neuron_acts, len(metadata), known)
    elif dense.is_dir() and (sae is None or pooled is None):
        source = open_batches(dense, metadata)
    stated = {SUMMARY: metadata.n_features, "the SAE": None if sae is None else known}
    stated["the activations"] = None if source is None else source.n_features
    numbers = {of: number for of, number in stated.items() if number is not None}
    if len(set(numbers.values())) > 1:
        told = ", ".join(f"{of} {number:,}" for of, number in numbers.items())
        raise RequestError(f"these are not of one SAE; features by {told}. {NOTHING}")
    if 0 in numbers.values():
        raise RequestError(f"{sources.activations}: its activations have no feature. {NOTHING}")
    if source is not None and source.n_rows > np.iinfo(np.int32).max:
        raise RequestError(f"{source.n_rows:,} rows are more than a bundle can number. {NOTHING}")
    return source


def _check_enough(plan: Plan) -> None:
    """Raise RequestError where nothing says what the features do, or where there is nothing to verify."""
    if plan.metadata is not None and plan.activations is None and plan.model is None and not (plan.sae and plan.pooled):
        raise RequestError(
            f"{plan.metadata.folder} holds metadata alone, or pooled vectors without an SAE to read them: nothing says "
            f"what features do. Give --transposed or --neuron-acts, --sae with {POOLED}, or --model, --params and "
            f"--sae. {NOTHING}"
        )
    if plan.options.verify and (plan.model is None or (plan.activations is None and plan.pooled is None)):
        what = "--model, --params and --sae" if plan.model is None else "imported activations or pooled vectors"
        raise RequestError(
            f"--verify compares what is imported with what the network gives; it needs {what}. {NOTHING}"
        )
