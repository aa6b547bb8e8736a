"""The intervention oracle: token sets in, pooled vectors out, with no forward pass made twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..schemas.errors import BundleError
from ..schemas.job import Job
from ..schemas.manifest import ModelParams
from ..schemas.vocabulary import Vocabulary
from .bundle import Bundle
from .device import Compute, full_precision
from .examples import Examples, Rows
from .pooled_cache import PooledCache
from .token_sets import TokenSets

if TYPE_CHECKING:
    from torch import Tensor

    from .inference import FastSplatGPT
    from .model import SplatGPT
    from .pooled_store import PooledStore

Vectors = NDArray[np.floating[Any]]
# What a batch may take: on a CPU what the processor's cache still holds, elsewhere what keeps the device busy.
_CPU_BATCH_BYTES, _DEVICE_BATCH_BYTES = 32 << 20, 1 << 30
_MAX_BATCH = 1024
_LIVE_TENSORS = 16
_BLOCK = 10_000


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


@dataclass(frozen=True)
class Difference:
    """What bfloat16 costs.

    Attributes:
        difference: [m, d], pooled vectors of some sets less those in float32.
        largest: the largest component of the latter.
    """

    difference: Vectors
    largest: float

    def report(self, weight: Vectors) -> dict[str, float]:
        """The largest differences, given the encoder's weight [F, d].

        Returns:
            ``pooled``: of a pooled vector's components; ``pre_activation``: of any feature's h; ``largest_pooled``: the
            largest component there is, for comparison.
        """
        return {
            "pooled": float(np.abs(self.difference).max()),
            "pre_activation": float(np.abs(self.difference @ weight.T).max()),
            "largest_pooled": self.largest,
        }

    def __str__(self) -> str:
        return (
            f"bfloat16: pooled vectors differ from float32's by up to {np.abs(self.difference).max():.2g} (components "
            f"reach {self.largest:.2g}) on {len(self.difference)} sets"
        )


@dataclass(frozen=True)
class _New:
    """Distinct sets that need a pass, where their vectors belong, and their keys."""

    sets: TokenSets
    where: NDArray[np.intp]
    keys: list[bytes]


class NetworkOracle:
    """The oracle that asks SplatGPT: deduplicates, groups by length, batches to fit memory, caches.

    The weights are read on first use. One caller at a time uses the network. Weights and pooled vectors stay on the
    device; what is asked of the vectors is computed there.

    Args:
        bundle: where the weights are.
        params: sizes of the network.
        vocabulary: the ability vocabulary.
        compute: device, precision, threads.
        cache_bytes: memory the pooled vectors may take.
        probe: sets on which a precision below float32 is compared with it when the weights are read.
    """

    def __init__(
        self,
        bundle: Bundle,
        params: ModelParams,
        vocabulary: Vocabulary,
        compute: Compute,
        cache_bytes: int,
        *,
        probe: Callable[[], TokenSets] | None = None,
    ) -> None:
        self._bundle, self._params, self._vocabulary, self._compute = bundle, params, vocabulary, compute
        self.dtype = "float64" if compute.dtype == "float64" else "float32"
        self.cache = PooledCache(params.hidden_dim, cache_bytes, self.dtype)
        self._probe = probe
        self._model: FastSplatGPT | None = None
        self._store: PooledStore | None = None
        self._difference: Difference | None = None
        self._turn = threading.RLock()  # the network's: held as long as it computes
        self._lock = threading.Lock()  # the cache's: whoever only looks does not wait for the network
        self._seconds, self._passes = 0.0, 0

    def seconds_per_pass(self) -> float | None:
        """Mean seconds a forward pass took so far; None before the first."""
        return self._seconds / self._passes if self._passes else None

    def model(self) -> FastSplatGPT:
        """The network on its device.

        Raises:
            BundleError: the weights do not fit the sizes in the manifest; the offending key is named.
        """
        with self._turn:
            if self._model is None:
                with full_precision():
                    self._model = self._load()
            return self._model

    def _load(self) -> FastSplatGPT:
        from .inference import FastSplatGPT  # noqa: PLC0415 - loaded with the model, not with the module

        network = _load_model(self._bundle, self._params, self._compute)
        if self._compute.dtype == "bfloat16" and self._probe is not None:
            return self._compared(network, self._probe())
        return FastSplatGPT(network.to(device=self._compute.resolved_device(), dtype=self._compute.torch_dtype()))

    def store(self) -> PooledStore | None:
        """The pooled vectors on disk; None unless a folder for them was named."""
        root = self._compute.cache_folder()
        if self._store is None and root is not None:
            from .pooled_store import PooledStore, folder_of  # noqa: PLC0415 - only where it was asked for

            folder = folder_of(root, self._bundle, self._compute.dtype, self._compute.resolved_device())
            self._store = PooledStore(folder, self._params.hidden_dim, self.dtype)
        return self._store

    def missing(self, sets: TokenSets) -> NDArray[np.void]:
        """Keys of the distinct sets that are neither cached nor on disk."""
        unique = np.unique(sets.keys())
        with self._lock:
            unique = unique[self.cache.positions(unique.tolist()) < 0]
            store = self.store() if len(unique) else None
            return unique if store is None else np.delete(unique, store.find(unique.tolist())[0])

    def pooled(self, sets: TokenSets, job: Job | None = None) -> Vectors:
        """Pooled vectors [n, d] of the sets.

        Raises:
            Cancelled: the job was asked to stop; what was computed stays cached.
        """
        if not len(sets):
            return np.empty((0, self._params.hidden_dim), self.dtype)
        vectors, inverse = self._distinct(sets, job)
        return vectors.cpu().numpy()[inverse]

    def project(self, sets: TokenSets, weight: Vectors, offset: Vectors, job: Job | None = None) -> Vectors:
        """``weight . pooled + offset`` of the sets, [k, n], computed where the vectors are.

        Args:
            sets: n sets.
            weight: [k, d].
            offset: [k].
            job: counts passes and reports progress.

        Raises:
            Cancelled: as `pooled`.
        """
        import torch  # noqa: PLC0415 - loaded with the model

        if not len(sets):
            return np.empty((len(weight), 0), self.dtype)
        vectors, inverse = self._distinct(sets, job)
        rows, start = (torch.from_numpy(np.asarray(part, self.dtype)).to(vectors.device) for part in (weight, offset))
        with torch.inference_mode(), full_precision():
            return torch.addmm(start[:, None], rows, vectors.T).cpu().numpy()[:, inverse]

    def of_examples(self, examples: Examples, job: Job | None = None) -> Vectors:
        """Pooled vectors [n, d] of all examples, in memory; mapped from disk where a folder for them was named.

        Raises:
            Cancelled: the job was asked to stop; what was computed is kept on disk alone.
        """
        shape = (len(examples), self._params.hidden_dim)

        def make(rows: Rows) -> Vectors:
            if job is not None:
                job.progress(int(rows[0]), len(examples), "pooled vectors of the examples")
            vectors, inverse = self._distinct(examples.sets(rows), None, keep=False)
            return vectors.cpu().numpy()[inverse]

        store = self.store()
        if store is not None:
            return store.of_examples(self._bundle, shape, make)
        made = np.empty(shape, self.dtype)
        for start in range(0, len(examples), _BLOCK):
            made[start : start + _BLOCK] = make(np.arange(start, min(start + _BLOCK, len(examples))))
        return made

    def _distinct(self, sets: TokenSets, job: Job | None, *, keep: bool = True) -> tuple[Tensor, NDArray[np.intp]]:
        """Pooled vectors of the distinct sets, on the device, and which of them each set has.

        Args:
            sets: what is asked.
            job: counts passes and reports progress.
            keep: whether new vectors go to disk, where a folder for them was named.
        """
        import torch  # noqa: PLC0415 - loaded with the model

        keys, first, inverse = np.unique(sets.keys(), return_index=True, return_inverse=True)
        names = keys.tolist()
        with self._turn, torch.inference_mode():
            with self._lock:
                vectors, missing = self._recall(names)
            if job is not None:
                job.count_passes(0, len(sets) - len(missing))
                if self._compute.dtype == "bfloat16" and self._probe is not None:
                    job.warn(str(self.measure_difference()))
            new = _New(sets.take(first[missing]), missing, [names[index] for index in missing.tolist()])
            self._fill(vectors, new, job, self.store() if keep else None)
        return vectors, inverse.reshape(-1)

    def measure_difference(self) -> Difference:
        """What bfloat16 costs; raises LookupError in another precision, and where no probe was given."""
        self.model()
        if self._difference is None:
            raise LookupError(f"nothing to compare in {self._compute.dtype}")
        return self._difference

    def _recall(self, names: list[bytes]) -> tuple[Tensor, NDArray[np.intp]]:
        """Room for the vectors of the keys, with those that are cached or on disk; and which are still missing."""
        import torch  # noqa: PLC0415 - loaded with the model

        known = self.cache.positions(names)
        if (known >= 0).all():
            return self.cache.vectors(known), np.empty(0, np.intp)
        device = self._compute.resolved_device()
        vectors = torch.empty((len(names), self._params.hidden_dim), dtype=getattr(torch, self.dtype), device=device)
        held, missing = np.flatnonzero(known >= 0), np.flatnonzero(known < 0)
        if len(held):
            vectors[torch.from_numpy(held).to(device)] = self.cache.vectors(known[held])
        store = self.store()
        if store is not None:
            found, kept = store.find([names[index] for index in missing.tolist()])
            read, found_at = torch.from_numpy(kept).to(device), missing[found]
            vectors[torch.from_numpy(found_at).to(device)] = read
            self.cache.add([names[index] for index in found_at.tolist()], read)
            missing = np.delete(missing, found)
        return vectors, missing

    def _fill(self, vectors: Tensor, new: _New, job: Job | None, store: PooledStore | None) -> None:
        """Run the network on the sets that need it; write their vectors where they belong, and remember them."""
        import torch  # noqa: PLC0415 - loaded with the model

        done, where = 0, torch.from_numpy(new.where).to(vectors.device)
        try:
            for batch in self._batches(new.sets):
                if job is not None:
                    job.progress(done, len(new.keys), "forward passes")
                made, keys = self._timed(new.sets.take(batch)), [new.keys[index] for index in batch.tolist()]
                if job is not None:
                    job.count_passes(len(batch), 0)
                vectors[where[torch.from_numpy(batch).to(where.device)]] = made
                with self._lock:
                    self.cache.add(keys, made)
                if store is not None:
                    store.add(keys, made.cpu().numpy())
                done += len(batch)
        finally:
            if store is not None:
                store.flush()
        if job is not None and done:
            job.progress(done, done, "forward passes")

    def _batches(self, sets: TokenSets) -> list[NDArray[np.intp]]:
        """Which sets are run together: of one length, and no more than the batch may take."""
        if not len(sets):
            return []
        lengths = sets.present.sum(axis=1)
        order = np.argsort(lengths, kind="stable")
        batches: list[NDArray[np.intp]] = []
        for group in np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1):
            size = self._batch_size(int(lengths[group[0]]))
            batches += [group[start : start + size] for start in range(0, len(group), size)]
        return batches

    def _batch_size(self, length: int) -> int:
        width = max(length, self._params.num_inducing_points, 1)
        room = _CPU_BATCH_BYTES if self._compute.resolved_device() == "cpu" else _DEVICE_BATCH_BYTES
        return int(np.clip(room // (4 * width * self._params.hidden_dim * _LIVE_TENSORS), 1, _MAX_BATCH))

    def _timed(self, sets: TokenSets) -> Tensor:
        """One pass over sets of equal length, counted."""
        import torch  # noqa: PLC0415 - loaded with the model

        model = self.model()
        started = time.perf_counter()
        result = self._forward(model, sets)
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        self._seconds += time.perf_counter() - started
        self._passes += len(sets)
        return result

    def _forward(self, model: FastSplatGPT, sets: TokenSets) -> Tensor:
        """Pooled vectors of sets of equal length, on the device (an empty set is shown as ``<NULL>``)."""
        import torch  # noqa: PLC0415 - loaded with the model

        length = int(sets.present[0].sum())
        if length:
            tokens = np.nonzero(sets.present)[1].reshape(len(sets), length)
        else:
            tokens = np.full((len(sets), 1), self._vocabulary.null_id)
        shown = (torch.from_numpy(ids.astype(np.int64)).to(model.device) for ids in (tokens, sets.weapon))
        with torch.inference_mode(), full_precision():
            return model.pooled(*shown).to(getattr(torch, self.dtype))

    def _compared(self, network: SplatGPT, sets: TokenSets) -> FastSplatGPT:
        """The network in bfloat16, once its vectors were compared with those in float32."""
        import torch  # noqa: PLC0415

        from .inference import FastSplatGPT  # noqa: PLC0415

        def vectors(model: FastSplatGPT) -> Vectors:
            made = np.empty((len(sets), self._params.hidden_dim), np.float32)
            for batch in self._batches(sets):
                made[batch] = self._forward(model, sets.take(batch)).cpu().numpy()
            return made

        exact = vectors(FastSplatGPT(network.to(device=self._compute.resolved_device())))
        model = FastSplatGPT(network.to(dtype=torch.bfloat16))
        self._difference = Difference(vectors(model) - exact, float(np.abs(exact).max()))
        return model


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
    return model.eval()
