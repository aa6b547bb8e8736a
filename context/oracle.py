"""The intervention oracle: token sets in, pooled vectors out, with no forward pass made twice."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..schemas.errors import BundleError
from ..schemas.job import Job
from ..schemas.manifest import ModelParams
from ..schemas.vocabulary import Vocabulary
from .bundle import Bundle
from .device import Compute
from .pooled_cache import PooledCache
from .token_sets import TokenSets

if TYPE_CHECKING:
    from .model import SplatGPT

Vectors = NDArray[np.floating[Any]]
_BATCH_BYTES = 64 << 20
_MAX_BATCH = 1024
_LIVE_TENSORS = 16


class Oracle(Protocol):
    """Answers what the network's pooled vector is for constructed sets.

    A test world may answer by a known rule; experiments cannot tell the difference.
    """

    def pooled(self, sets: TokenSets, job: Job | None = None) -> Vectors:
        """Pooled vectors [n, d] of the sets; counts passes and reports progress through ``job``."""
        ...

    def missing(self, sets: TokenSets) -> NDArray[np.void]:
        """Keys of the distinct sets that would need a forward pass."""
        ...

    def seconds_per_pass(self) -> float | None:
        """Measured seconds a set costs; None before anything was measured."""
        ...


class NetworkOracle:
    """The oracle that asks SplatGPT: deduplicates, groups by length, batches to fit memory, caches.

    The weights are read on first use. One caller at a time uses the network.

    Args:
        bundle: where the weights are.
        params: sizes of the network.
        vocabulary: the ability vocabulary.
        compute: device, precision, threads.
        cache_bytes: memory the pooled vectors may take.
    """

    def __init__(
        self, bundle: Bundle, params: ModelParams, vocabulary: Vocabulary, compute: Compute, cache_bytes: int
    ) -> None:
        self._bundle, self._params, self._vocabulary, self._compute = bundle, params, vocabulary, compute
        keep = "float64" if compute.dtype == "float64" else "float32"
        self.cache = PooledCache(params.hidden_dim, cache_bytes, keep)
        self._model: SplatGPT | None = None
        self._turn = threading.RLock()  # the network's: held as long as it computes
        self._lock = threading.Lock()  # the cache's: whoever only looks does not wait for the network
        self._seconds, self._passes = 0.0, 0

    def seconds_per_pass(self) -> float | None:
        """Mean seconds a forward pass took so far; None before the first."""
        return self._seconds / self._passes if self._passes else None

    def model(self) -> SplatGPT:
        """The network on its device, in evaluation mode.

        Raises:
            BundleError: the weights do not fit the sizes in the manifest; the offending key is named.
        """
        with self._turn:
            if self._model is None:
                self._model = _load_model(self._bundle, self._params, self._compute)
            return self._model

    def missing(self, sets: TokenSets) -> NDArray[np.void]:
        """Keys of the distinct sets that are not cached."""
        unique = np.unique(sets.keys())
        with self._lock:
            return unique[self.cache.positions(unique.tolist()) < 0]

    def pooled(self, sets: TokenSets, job: Job | None = None) -> Vectors:
        """Pooled vectors [n, d] of the sets.

        Raises:
            Cancelled: the job was asked to stop; what was computed stays cached.
        """
        if not len(sets):
            return self.cache.vectors(np.empty(0, dtype=np.intp))
        keys, first, inverse = np.unique(sets.keys(), return_index=True, return_inverse=True)
        with self._turn:
            with self._lock:
                positions = self.cache.positions(keys.tolist())
                missing = np.flatnonzero(positions < 0)
                known = np.flatnonzero(positions >= 0)
                vectors = np.empty((len(keys), self._params.hidden_dim), self.cache.vectors(positions[:0]).dtype)
                vectors[known] = self.cache.vectors(positions[known])
            if job is not None:
                job.count_passes(0, len(sets) - len(missing))
            self._fill(vectors, sets.take(first[missing]), missing, keys[missing].tolist(), job)
        return vectors[inverse.reshape(-1)]

    def _fill(
        self, vectors: Vectors, sets: TokenSets, where: NDArray[np.intp], keys: list[bytes], job: Job | None
    ) -> None:
        lengths = sets.present.sum(axis=1)
        order = np.argsort(lengths, kind="stable")
        bounds = np.flatnonzero(np.diff(lengths[order])) + 1
        done = 0
        for group in np.split(order, bounds):
            size = self._batch_size(int(lengths[group[0]]) if len(group) else 1)
            for start in range(0, len(group), size):
                batch = group[start : start + size]
                if job is not None:
                    job.progress(done, len(keys), "forward passes")
                result = self._forward(sets.take(batch))
                if job is not None:
                    job.count_passes(len(batch), 0)
                vectors[where[batch]] = result
                with self._lock:
                    self.cache.add([keys[index] for index in batch.tolist()], result)
                done += len(batch)
        if job is not None and done:
            job.progress(done, done, "forward passes")

    def _batch_size(self, length: int) -> int:
        width = max(length, self._params.num_inducing_points, 1)
        return int(np.clip(_BATCH_BYTES // (4 * width * self._params.hidden_dim * _LIVE_TENSORS), 1, _MAX_BATCH))

    def _forward(self, sets: TokenSets) -> Vectors:
        """One pass over sets of equal length (an empty set is shown as ``<NULL>``)."""
        import torch  # noqa: PLC0415 - loaded with the model, not with the module

        model = self.model()
        started = time.perf_counter()
        length = int(sets.present[0].sum())
        if length:
            tokens = np.nonzero(sets.present)[1].reshape(len(sets), length)
        else:
            tokens = np.full((len(sets), 1), self._vocabulary.null_id)
        device = next(model.parameters()).device
        with torch.inference_mode():
            pooled = model.pooled(
                torch.from_numpy(tokens.astype(np.int64)).to(device),
                torch.from_numpy(sets.weapon.astype(np.int64)).to(device),
                None,
            )
            wide = pooled.double() if self._compute.dtype == "float64" else pooled.float()
            result = wide.cpu().numpy()
        self._seconds += time.perf_counter() - started
        self._passes += len(sets)
        return result


def _load_model(bundle: Bundle, params: ModelParams, compute: Compute) -> SplatGPT:
    import torch  # noqa: PLC0415

    from .model import SplatGPT  # noqa: PLC0415

    compute.apply_threads()
    try:
        model = SplatGPT(params)
    except ValueError as error:
        raise BundleError(f"{bundle.path / 'bundle.json'}: model: {error}") from error
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in bundle.tensors("model.safetensors").items()}
    expected = model.state_dict()
    for name in sorted(set(expected) ^ set(tensors)):
        side = "has no" if name in expected else "has an unexpected"
        raise BundleError(f"{bundle.path / 'model.safetensors'} {side} {name!r}; it does not fit the manifest's sizes.")
    for name, value in tensors.items():
        if value.shape != expected[name].shape:
            raise BundleError(
                f"{bundle.path / 'model.safetensors'}: {name!r} is {tuple(value.shape)} where the manifest's sizes "
                f"need {tuple(expected[name].shape)}."
            )
    model.load_state_dict(tensors)
    model.to(device=compute.resolved_device(), dtype=compute.torch_dtype())
    return model.eval()
