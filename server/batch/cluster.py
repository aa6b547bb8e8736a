"""A batch on a Ray cluster: actors with a persistent context each compute, and write result files; the head indexes.

Ray places the actors, and starts one that dies again, here or elsewhere, when there is room.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...context.device import Compute
from ...context.home import Home
from ...schemas.errors import BundleError, RequestError
from ...schemas.spec import ExperimentSpec
from ..executor import code_digest
from ..store.index import Entry
from ..store.records import entry_of, read_result, read_spec, same_question
from ..store.store import Store
from .dispatch import Answered, Dispatch, Place, told_by
from .here import Finished, Stopped, Task, taken_meanwhile
from .summary import row_of, row_without_result
from .worker import Examined, Worker

_GROUP, _GROUP_SECONDS = 64, 1.0
_CONNECT_SECONDS, _START_SECONDS = 10.0, 30.0
_PART = 1000
"""Specs that are examined in one call."""
_EXAMINE_RETRIES = 2
_OBJECT_STORE_BYTES = 100 * 1024 * 1024
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """Which cluster, and what each worker gets of it.

    Attributes:
        address: of a running cluster, or "auto" for the one of this machine; None starts one here and ends it.
        workers: actors; None takes as many as fit.
        cpus_per_worker: cores of each.
        gpus_per_worker: GPUs of each; None takes one where the cluster has GPUs, else none.
    """

    address: str | None = None
    workers: int | None = None
    cpus_per_worker: float = 1
    gpus_per_worker: float | None = None

    def __post_init__(self) -> None:
        gpus = self.gpus_per_worker or 0
        if (self.workers is not None and self.workers < 1) or self.cpus_per_worker <= 0 or gpus < 0:
            raise RequestError(
                f"a cluster needs at least one worker and more than no cores for each; got workers {self.workers}, "
                f"cpus_per_worker {self.cpus_per_worker:g}, gpus_per_worker {gpus:g}. Nothing was run."
            )


class Actor:
    """A worker in a process of its own; it writes files of results and leaves the index alone."""

    def __init__(self, home: Path, bundle: Path | None, compute: Compute) -> None:
        self._worker, self._store = Worker(Home(home), bundle, compute), Store(home / "runs")

    def where(self) -> Place:
        """Host, process and code, so that a log names them and different code is refused."""
        return Place(socket.gethostname(), os.getpid(), code_digest())

    def examine(self, specs: Sequence[ExperimentSpec]) -> list[Examined]:
        """As `Worker.examine`."""
        return self._worker.examine(specs)

    def answer(self, spec: ExperimentSpec) -> Answered:
        """Run a spec and publish its files, unless an actor that died had published them before it could say so."""
        path = self._store.results / spec.file_name()
        if not path.exists():
            try:
                pair = self._worker.run(spec)
            except RequestError as error:
                return Answered(row_without_result(spec, "refused", str(error)))
            self._store.write_all([pair])
        if not same_question(read_spec(self._store.specs / path.name), spec):
            return Answered(row_without_result(spec, "refused", taken_meanwhile(spec)))
        result = read_result(path)
        return Answered(row_of(result), entry_of(result, path.name))


class Cluster:
    """Actors, one call at a time in each.

    Args:
        home: the home folder.
        actors: handles of `Actor`, those that live first.
        late: calls of `Actor.where` of the last of them, for which the cluster has no room yet.
    """

    def __init__(self, home: Home, actors: Sequence[Any], late: Sequence[Any] = ()) -> None:
        self._store, self._actors, self._late = Store(home.runs), list(actors), list(late)

    def examine(self, specs: Sequence[ExperimentSpec]) -> list[Examined]:
        """The digest of each spec as the actors see it, whose kind of device it holds, or what is wrong with it."""
        alive = self._actors[: len(self._actors) - len(self._late)]
        asked = [actor.examine.options(max_task_retries=_EXAMINE_RETRIES) for actor in alive]
        parts = [list(specs[at : at + _PART]) for at in range(0, len(specs), _PART)]
        calls = [asked[at % len(asked)].remote(part) for at, part in enumerate(parts)]
        return [found for call in calls for found in _examined(call)]

    def run(self, tasks: Sequence[Task], stopped: Stopped) -> Iterator[Finished]:
        """Run the tasks, and give each when its result is on disk; fewer when it was stopped.

        Raises:
            StoreError: an actor cannot write results.
            BundleError: an actor cannot use the bundle any more.
        """
        with _indexing(self._store) as index:
            for task, answered in Dispatch.of(tasks, self._actors, stopped, self._late).answers():
                if answered.entry is not None:
                    index.add(answered.entry)
                yield task, answered.row


def _examined(call: Any) -> list[Examined]:  # noqa: ANN401 - ray has no types
    told = told_by(call)
    if isinstance(told, Exception):
        raise BundleError(f"workers of the cluster died while they read the specs: {told}. Nothing was run.") from told
    return told


@dataclass
class _Index:
    """Takes entries up in groups."""

    store: Store
    _group: list[Entry] = field(default_factory=list[Entry])
    _since: float = field(default_factory=time.monotonic)

    def add(self, entry: Entry) -> None:
        self._group.append(entry)
        if len(self._group) >= _GROUP or time.monotonic() - self._since >= _GROUP_SECONDS:
            self.flush()

    def flush(self) -> None:
        group, self._group, self._since = self._group, [], time.monotonic()
        if group:
            self.store.take_up(group)


@contextmanager
def _indexing(store: Store) -> Generator[_Index]:
    index = _Index(store)
    try:
        yield index
    finally:
        index.flush()


# -- joining a cluster ----------------------------------------------------------------------------------------------


@contextmanager
def joined(home: Home, bundle: Path | None, compute: Compute, options: ClusterOptions) -> Generator[Cluster]:
    """Join a cluster or start one here, and start the actors; both end with the block.

    Raises:
        RequestError: ray is not installed, the cluster cannot be reached or has not the resources.
        BundleError: an actor cannot open the bundle.
    """
    bundle = bundle and bundle.expanduser().absolute()  # workers have folders of their own
    compute = replace(compute, pooled_cache=compute.pooled_cache and compute.pooled_cache.absolute())
    ray = _ray()
    started = not ray.is_initialized()
    try:
        if started:
            _connect(ray, options)
        yield Cluster(home, *_start(ray, home, bundle, compute, options))
    finally:
        if started:
            ray.shutdown()


def _ray() -> Any:  # noqa: ANN401 - ray is an extra
    try:
        import ray  # noqa: PLC0415
    except ImportError as error:
        raise RequestError(
            "--engine ray needs Ray, which is not installed: pip install 'mechinterp-runner[ray]'. Without it the "
            "batch runs in one process. Nothing was run."
        ) from error
    return ray


def _connect(ray: Any, options: ClusterOptions) -> None:  # noqa: ANN401
    """Start Ray here, or join the cluster at an address."""
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    # Ray otherwise announces a change of its own to come: that workers without a GPU will see the GPUs there are.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        if options.address is not None:
            _check_listening(options.address)
            ray.init(address=options.address, **quiet)
            return
        cores = os.cpu_count() or 1
        wanted = min(cores, math.ceil((options.workers or cores) * options.cpus_per_worker))
        ray.init(
            address="local",
            num_cpus=wanted,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            **quiet,
        )
    except (OSError, RuntimeError, ValueError) as error:
        where, why = options.address or "this machine", str(error).rstrip(".")
        raise RequestError(
            f"no Ray cluster at {where}: {why}. Start one with `ray start --head` (where it asks for a token, "
            f"RAY_AUTH_MODE=token sends it), or leave --ray-address out. Nothing was run."
        ) from error


def _check_listening(address: str) -> None:
    """Raise OSError when nothing listens at HOST:PORT, where Ray itself would wait for many minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "://" not in address:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()


def _start(
    ray: Any,  # noqa: ANN401
    home: Home,
    bundle: Path | None,
    compute: Compute,
    options: ClusterOptions,
) -> tuple[list[Any], list[Any]]:
    """Start the actors; returns them, those that live with the code of this process first, and the calls of the rest.

    An actor may have no room: another job uses the cluster, or a machine is lost that Ray still counts.
    """
    there = ray.cluster_resources()
    gpus = options.gpus_per_worker
    need = {"CPU": options.cpus_per_worker, "GPU": float(there.get("GPU", 0) > 0) if gpus is None else gpus}
    fit = min(int(there.get(name, 0) // each) for name, each in need.items() if each)
    count = options.workers or fit
    if not 0 < count <= fit:
        raise RequestError(
            f"{count} workers do not fit: each takes {need['CPU']:g} cores and {need['GPU']:g} GPUs, and the cluster "
            f"has {there.get('CPU', 0):g} and {there.get('GPU', 0):g}, enough for {fit}. Nothing was run."
        )
    remote = ray.remote(Actor).options(num_cpus=need["CPU"], num_gpus=need["GPU"], max_restarts=-1)
    actors = [remote.remote(home.root, bundle, compute) for _ in range(count)]
    calls = {actor.where.options(max_task_retries=-1).remote(): actor for actor in actors}
    alive, late = _first_to_live(ray, list(calls))
    try:
        places: list[Place] = ray.get(alive)
    except ray.exceptions.RayError as error:
        raise BundleError(f"a worker of the cluster could not start: {error}") from error
    for number, place in enumerate(places, 1):
        _log.info("worker %d of %d: process %d on %s", number, count, place.process, place.host)
        if fault := place.fault():
            raise RequestError(f"{fault}. Nothing was run.")
    return [calls[call] for call in [*alive, *late]], late


def _first_to_live(ray: Any, calls: list[Any]) -> tuple[list[Any], list[Any]]:  # noqa: ANN401
    """The calls whose actors live, one at the least, and those for which there was no room in some time."""
    alive, late = ray.wait(calls, num_returns=len(calls), timeout=_START_SECONDS)
    while not alive:
        _log.warning("the cluster has no room for a worker yet; `ray status` shows what uses it. Waiting.")
        alive, late = ray.wait(calls, num_returns=1, timeout=_START_SECONDS)
    if late:
        _log.warning("%d of %d workers have no room yet: they join when there is some", len(late), len(calls))
    return alive, late
