"""The persistent context: a bundle opened for experiments, and the questions it answers."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..schemas.errors import BundleError, RequestError
from ..schemas.job import Job
from ..schemas.spec import DatasetSlice
from .bundle import Bundle
from .derived import Derived
from .description import describe
from .device import DEFAULT_CACHE_BYTES, Compute
from .directions import RandomDirections
from .examples import Examples, Rows, open_examples
from .given import given_sets, no_examples, unknown_height
from .oracle import NetworkOracle, Oracle
from .output_head import OutputHead
from .population import Population, given_population, select
from .sae import CLAMP, SparseAutoencoder, open_sae
from .token_sets import TokenSets

Floats = NDArray[np.floating[Any]]
Column = NDArray[np.float32]
Columns = OrderedDict[int, Column]
T = TypeVar("T")
EFFECTIVE_MAX_QUANTILE = 0.995
MIN_EFFECT_SHARE = 0.05
_COLUMN_BYTES = 128 << 20
_DERIVED_BYTES = 768 << 20
_REFERENCE_ROWS = 20_000
_PROBE_SETS = 256
_COMPARED_SETS = 64


@dataclass(frozen=True, slots=True)
class Readout:
    """A feature read off pooled vectors: ``pre`` is h [n], ``activation`` is clamp(relu(h), 0, 6) [n].

    Of k features both are [k, n].
    """

    pre: Floats
    activation: Floats


class Context:
    """A bundle with its network, SAE and examples, opened once and asked many times.

    Args:
        name: name of the bundle.
        bundle: the checked bundle.
        compute: device, precision and threads of the network.
        cache_bytes: memory that pooled vectors of constructed sets may take.
        oracle: answers interventions instead of the bundle's network (for test worlds).
    """

    def __init__(
        self,
        name: str,
        bundle: Bundle,
        *,
        compute: Compute | None = None,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        oracle: Oracle | None = None,
    ) -> None:
        self.name, self.bundle, self.compute = name, bundle, compute or Compute()
        self.vocabulary = bundle.vocabulary()
        self.weapons = bundle.weapon_vocabulary()
        self.examples = open_examples(bundle, self.vocabulary, len(self.weapons))
        self.sae = open_sae(bundle)
        self._oracle = oracle or self._network(cache_bytes)
        self._columns, self._hidden = Columns(), Columns()
        self._derived = Derived(_DERIVED_BYTES)
        self._pooled: Floats | None = None
        self._maxima: dict[int, float | None] = {}
        self._lock = threading.RLock()
        self._check_sizes()

    def _check_sizes(self) -> None:
        """Raise BundleError unless model, SAE, vocabularies and manifest are of one size."""
        path, manifest = self.bundle.path, self.bundle.manifest
        params, wanted = manifest.model, (manifest.n_features, manifest.hidden_dim)
        if self.sae is not None and (self.sae.n_features, self.sae.dim) != wanted:
            raise BundleError(
                f"{path}: the SAE has {self.sae.n_features} features of {self.sae.dim} dimensions, "
                f"the manifest says {wanted[0]} of {wanted[1]}."
            )
        if params is None:
            return
        if (params.vocab_size, params.weapon_vocab_size) != (len(self.vocabulary), len(self.weapons)):
            raise BundleError(
                f"{path}: the model has {params.vocab_size} ability and {params.weapon_vocab_size} weapon "
                f"tokens, the vocabularies {len(self.vocabulary)} and {len(self.weapons)}."
            )
        if params.hidden_dim != manifest.hidden_dim:
            raise BundleError(
                f"{path}: the model's pooled vectors have {params.hidden_dim} dimensions, the manifest says "
                f"{manifest.hidden_dim}."
            )

    def _network(self, cache_bytes: int) -> Oracle | None:
        params = self.bundle.manifest.model
        if params is None:
            return None
        return NetworkOracle(
            self.bundle, params, self.vocabulary, self.compute, cache_bytes, probe=lambda: self._probe(_COMPARED_SETS)
        )

    def _probe(self, n: int) -> TokenSets:
        """Some sets to try the network on: examples spread over the data, or one token each where there are none."""
        if self.examples is not None and len(self.examples):
            return self.sets(np.unique(np.linspace(0, len(self.examples) - 1, n).astype(np.intp)))
        real = np.flatnonzero(np.asarray(self.vocabulary.token_family) >= 0)[:n]
        return TokenSets(np.zeros(len(real), np.int32), np.eye(len(self.vocabulary), dtype=np.bool_)[real])

    # -- what it is -------------------------------------------------------------------------------------------------

    @property
    def n_features(self) -> int:
        """Number of SAE features."""
        return self.bundle.manifest.n_features

    @property
    def has_model(self) -> bool:
        """Whether interventions can be answered."""
        return self._oracle is not None and self.sae is not None

    @property
    def dtype(self) -> str:
        """Precision of the network."""
        return self.compute.dtype

    @cached_property
    def device(self) -> str:
        """Device the network runs on; "cpu" where there is no network."""
        return self.compute.resolved_device() if self.bundle.manifest.model is not None else "cpu"

    @property
    def threads(self) -> int | None:
        """Threads asked for; None leaves the choice to torch."""
        return self.compute.threads

    def check_feature(self, feature: int) -> int:
        """Return the feature's index, or raise RequestError when the SAE has no such feature."""
        if not 0 <= feature < self.n_features:
            raise RequestError(
                f"feature_id {feature} is out of range: bundle {self.name!r} has features 0 to {self.n_features - 1}. "
                f"Nothing was run."
            )
        return feature

    @property
    def has_examples(self) -> bool:
        """Whether the bundle holds examples."""
        return self.examples is not None and len(self.examples) > 0

    @property
    def data(self) -> Examples:
        """The examples; raises RequestError when the bundle holds none."""
        if self.examples is None or not len(self.examples):
            raise no_examples(self.name)
        return self.examples

    # -- what the data say ------------------------------------------------------------------------------------------

    def activations(self, feature: int) -> NDArray[np.float32]:
        """Activation of the feature on every example, float32 [n_examples].

        Read from the stored sparse column where there is one, else one matrix-vector product over pooled vectors.
        """
        return self._kept(self._columns, self.check_feature(feature), self._read_column)

    def pre_activations(self, feature: int) -> NDArray[np.float32]:
        """Pre-activation h of the feature on every example, float32 [n_examples]: what `activations` clamps."""
        return self._kept(self._hidden, self.check_feature(feature), self._read_hidden)

    def _kept(self, columns: Columns, feature: int, read: Callable[[int], Column]) -> Column:
        """A feature's column, read where it is not among those kept."""
        with self._lock:
            if feature in columns:
                columns.move_to_end(feature)
                return columns[feature]
        column = read(feature)
        column.setflags(write=False)
        with self._lock:
            columns[feature] = column
            while len(columns) > max(1, _COLUMN_BYTES // max(1, column.nbytes)):
                columns.popitem(last=False)
        return column

    def _read_column(self, feature: int) -> NDArray[np.float32]:
        if self.bundle.has("activations/indptr.npy"):
            column = np.zeros(len(self.data), dtype=np.float32)
            start, stop = self.bundle.array("activations/indptr.npy", (self.n_features + 1,))[feature : feature + 2]
            column[self.bundle.array("activations/rows.npy")[start:stop]] = self.bundle.array("activations/values.npy")[
                start:stop
            ]
            return column
        return np.clip(self.pre_activations(feature), 0.0, 6.0)

    def _read_hidden(self, feature: int) -> NDArray[np.float32]:
        weight, offset = self._sae().readers([feature])
        pooled = np.asarray(self._pooled_of_examples())
        # Memory is the limit, which one core reaches; BLAS would wake its threads and wait for each of them.
        hidden = np.einsum("nd,d->n", pooled, weight[0].astype(pooled.dtype))
        hidden += hidden.dtype.type(offset[0])
        return hidden.astype(np.float32, copy=False)

    def _sae(self) -> SparseAutoencoder:
        if self.sae is None:
            raise RequestError(f"bundle {self.name!r} has no SAE weights. Nothing was run.")
        return self.sae

    @property
    def passes_owed(self) -> int:
        """Examples whose pooled vectors must be computed before activations can be read; 0 once they are."""
        stored = self.bundle.has("pooled.npy") or self.bundle.has("activations/indptr.npy")
        if stored or self._pooled is not None or self.examples is None or not self.has_model:
            return 0
        return len(self.examples)

    def prepare(self, job: Job) -> None:
        """Compute the pooled vectors of the examples where that is owed, reporting progress.

        Raises:
            Cancelled: the job was asked to stop.
        """
        if self.passes_owed:
            self._pooled_of_examples(job)

    def _pooled_of_examples(self, job: Job | None = None) -> Floats:
        """Pooled vectors of all examples [n, d]: stored, or computed once and kept, on disk where a folder is named."""
        with self._lock:
            if self._pooled is None:
                self._pooled = self._open_pooled(job)
            return self._pooled

    def _open_pooled(self, job: Job | None) -> Floats:
        if self.bundle.has("pooled.npy"):
            return self.bundle.array("pooled.npy", (len(self.data), self.bundle.manifest.hidden_dim))
        oracle = self.oracle
        if isinstance(oracle, NetworkOracle):
            return oracle.of_examples(self.data, job)
        return oracle.pooled(self.sets(np.arange(len(self.data))))

    def population(self, part: DatasetSlice, feature: int) -> Population:
        """The examples a slice leaves for a feature, see `population.select`; none where it gives contexts."""
        if part.contexts is not None:
            return self._given(part, feature)
        return select(part, self.data, self.activations(feature), self.vocabulary, self.weapons)

    def _given(self, part: DatasetSlice, feature: int) -> Population:
        """The population of contexts given in the spec."""
        sets, warnings = given_sets(part.contexts or (), self.vocabulary, self.weapons)
        if self.has_examples:
            dead = not bool(np.any(self.activations(feature) > 0))
            return given_population(len(sets), dead=dead, warnings=warnings)
        warnings = (*warnings, unknown_height(self.name, self.min_effect(self.check_feature(feature))))
        return given_population(len(sets), dead=False, warnings=warnings, caveat="; specificity unknown")

    def given_sets(self, part: DatasetSlice) -> TokenSets:
        """Token sets of the contexts that a slice gives; see `given.given_sets`."""
        return given_sets(part.contexts or (), self.vocabulary, self.weapons)[0]

    def sets(self, rows: Rows) -> TokenSets:
        """Token sets of some examples."""
        return self.data.sets(rows)

    def effective_max(self, feature: int) -> float | None:
        """99.5th percentile of the feature's active activations; None if it is dead, or there are no examples."""
        if not self.has_examples:
            return None
        if feature not in self._maxima:
            column = self.activations(feature)
            active = column[column > 0]
            self._maxima[feature] = float(np.quantile(active, EFFECTIVE_MAX_QUANTILE)) if len(active) else None
        return self._maxima[feature]

    def min_effect(self, feature: int) -> float | None:
        """Smallest effect of interest: 5 % of the effective max, or of 6 without examples; None for a dead feature."""
        top = self.effective_max(feature) if self.has_examples else CLAMP
        return None if top is None else MIN_EFFECT_SHARE * top

    def active_rate(self, feature: int) -> float:
        """Share of all examples on which the feature is active."""
        return float(np.mean(self.activations(feature) > 0))

    # -- what the network answers -----------------------------------------------------------------------------------

    @property
    def oracle(self) -> Oracle:
        """The intervention oracle; raises RequestError where there is none."""
        if self._oracle is None or self.sae is None:
            raise RequestError(
                f"an intervention needs the model, and bundle {self.name!r} has none (activations only). Use a bundle "
                f"with a model, or method 'observational' where the type has it. Nothing was run."
            )
        return self._oracle

    def evaluate(self, sets: TokenSets, feature: int, job: Job | None = None) -> Readout:
        """Run the network on constructed sets and read one feature; no pass is made twice."""
        read = self.evaluate_many(sets, [feature], job)
        return Readout(read.pre[0], read.activation[0])

    def evaluate_many(self, sets: TokenSets, features: Sequence[int], job: Job | None = None) -> Readout:
        """Run the network once on constructed sets and read k features, [k, n]."""
        weight, offset = self._sae_of(features)
        if isinstance(self.oracle, NetworkOracle):
            pre = self.oracle.project(sets, weight, offset, job)
        else:
            pooled = self.oracle.pooled(sets, job)
            pre = weight @ pooled.T + offset[:, None].astype(pooled.dtype)
        return Readout(pre, np.clip(pre, 0.0, 6.0))

    def _sae_of(self, features: Sequence[int]) -> tuple[Floats, Floats]:
        """Weight [k, d] and offset [k] that read features; interventions must be possible."""
        _ = self.oracle
        return self._sae().readers([self.check_feature(feature) for feature in features])

    def read(self, pooled: Floats, feature: int) -> Readout:
        """Read a feature off pooled vectors [n, d]."""
        pre = self._sae().pre_activation(pooled, self.check_feature(feature))
        return Readout(pre, np.clip(pre, 0.0, 6.0))

    def pooled_of(self, rows: Rows) -> Floats:
        """Pooled vectors [n, d] of some examples: stored, or computed once for all and kept."""
        return np.asarray(self._pooled_of_examples()[rows])

    def output_head(self) -> OutputHead:
        """The layer that turns pooled vectors into token logits, read from the weights alone (no torch).

        Raises:
            RequestError: the bundle has no model, or its logits are not one a token of the vocabulary.
        """
        return self.derived("output head", lambda: OutputHead.of(self.bundle, self.name, len(self.vocabulary)))

    def random_directions(self) -> RandomDirections | None:
        """Random directions with the covariance of the examples' pooled vectors; None where those are unknown."""
        if not self.has_examples or not (self.bundle.has("pooled.npy") or self.has_model):
            return None
        return self.derived("directions", self._make_directions)

    def _make_directions(self) -> RandomDirections:
        pooled = self._pooled_of_examples()
        n = len(pooled)
        rows = np.arange(n)
        if n > _REFERENCE_ROWS:
            rows = np.sort(np.random.default_rng(0).choice(n, _REFERENCE_ROWS, replace=False))
        return RandomDirections.from_reference(np.asarray(pooled[rows]))

    def derived(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what ``make`` gives, remembered under ``key``: matrices that depend on the bundle alone."""
        return self._derived.get(key, make)

    def derived_for(self, population: Population, name: Hashable, make: Callable[[], T]) -> T:
        """Return what ``make`` gives of a population's rows, remembered while the same rows are asked about.

        Where the feature's own activation chose the rows, they are hardly met again and nothing is remembered.
        """
        return make() if population.key is None else self.derived((name, population.key), make)

    @property
    def n_cached(self) -> int:
        """Pooled vectors of constructed sets in memory."""
        return len(self._oracle.cache) if isinstance(self._oracle, NetworkOracle) else 0

    def seconds_per_pass(self) -> float | None:
        """Measured seconds a forward pass takes; None before the first, or without a model."""
        return self._oracle.seconds_per_pass() if self._oracle is not None else None

    def measure_pass(self) -> float | None:
        """Seconds a forward pass takes, trying the network on some examples when nothing was measured yet."""
        if self._oracle is not None and self._oracle.seconds_per_pass() is None and self.examples is not None:
            self._oracle.pooled(self._probe(_PROBE_SETS))
        return self.seconds_per_pass()

    def differs_from_float32(self) -> dict[str, float] | None:
        """What a precision below float32 costs, see `Difference.report`; None in another, or without a network."""
        if self.dtype != "bfloat16" or not isinstance(self._oracle, NetworkOracle) or self.sae is None:
            return None
        return self._oracle.measure_difference().report(self.sae.encoder_weight)

    def describe(self) -> dict[str, Any]:
        """What the bundle is; see `description.describe`."""
        return describe(self)
