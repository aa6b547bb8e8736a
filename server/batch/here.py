"""A batch in this process: one persistent context, results published in groups while the next ones are computed."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from ...schemas.errors import MechinterpError, RequestError
from ...schemas.job import Job
from ...schemas.spec import ExperimentSpec
from ..store.store import Store
from .summary import Row, row_of, row_without_result
from .worker import Examined, Stored, Worker

_GROUP, _GROUP_SECONDS = 32, 1.0


class Task(NamedTuple):
    """A spec that is to be run, with the digest of its question."""

    place: int
    spec: ExperimentSpec
    digest: str


Finished = tuple[Task, Row]
Stopped = Callable[[], bool]


@dataclass
class Publisher:
    """Publishes results in groups, on a thread that waits for the disk while the next results are computed.

    A task is finished when its result is on disk, and not before.
    """

    store: Store
    thread: ThreadPoolExecutor
    _group: list[tuple[Task, Stored]] = field(default_factory=list[tuple[Task, Stored]])
    _since: float = field(default_factory=time.monotonic)
    _writing: Future[list[Finished]] | None = None

    def add(self, task: Task, pair: Stored) -> list[Finished]:
        """Take a result in; returns the tasks that are finished meanwhile."""
        self._group.append((task, pair))
        if len(self._group) < _GROUP and time.monotonic() - self._since < _GROUP_SECONDS:
            return []
        finished = self._written()
        group, self._group, self._since = self._group, [], time.monotonic()
        self._writing = self.thread.submit(self._publish, group)
        return finished

    def flush(self) -> list[Finished]:
        """Publish what is left; returns the tasks that are finished now."""
        finished, group, self._group = self._written(), self._group, []
        return finished + (self._publish(group) if group else [])

    def _written(self) -> list[Finished]:
        writing, self._writing = self._writing, None
        return writing.result() if writing is not None else []

    def _publish(self, group: Sequence[tuple[Task, Stored]]) -> list[Finished]:
        taken = self.store.publish_all([pair for _, pair in group])
        return [(task, self._row(pair, taken)) for task, pair in group]

    def _row(self, pair: Stored, taken: Sequence[str]) -> Row:
        spec, result = pair
        if spec.id not in taken:
            return row_of(result)
        kept = self.store.result(spec.id)
        if kept.success and kept.provenance.digest == result.provenance.digest:
            return row_of(kept, cached=True)  # another process has answered this very question meanwhile
        return row_without_result(spec, "refused", taken_meanwhile(spec))


def taken_meanwhile(spec: ExperimentSpec) -> str:
    """Why a result was not stored: its id went to another question while it was computed."""
    return f"id {spec.id!r} was taken meanwhile: its result was not stored"


@contextmanager
def publishing(store: Store) -> Generator[Publisher]:
    """A publisher with its thread."""
    with ThreadPoolExecutor(1, "publisher") as thread:
        yield Publisher(store, thread)


class Here:
    """Runs tasks one after the other in this process.

    Args:
        worker: the bundles.
        store: where the results go.
    """

    def __init__(self, worker: Worker, store: Store) -> None:
        self._worker, self._store = worker, store

    def examine(self, specs: Sequence[ExperimentSpec]) -> list[Examined]:
        """The digest of each spec, or what is wrong with it."""
        return self._worker.examine(specs)

    def run(self, tasks: Sequence[Task], stopped: Stopped) -> Iterator[Finished]:
        """Run the tasks in their order, and give each when its result is on disk; fewer when it was stopped.

        Raises:
            StoreError: the results cannot be written.
            BundleError: the bundle cannot be used any more.
        """
        with publishing(self._store) as publisher:
            for task in tasks:
                if stopped():
                    break
                try:
                    spec, result = self._worker.run(task.spec, Job(is_cancelled=stopped))
                except RequestError as error:
                    yield task, row_without_result(task.spec, "refused", str(error))
                    continue
                except MechinterpError:
                    yield from publisher.flush()
                    raise
                if result.status == "cancelled":
                    break  # it is run when the batch is resumed, and needs its id then
                yield from publisher.add(task, (spec, result))
            yield from publisher.flush()
