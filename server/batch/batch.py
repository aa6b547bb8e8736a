"""Run many specs: what is answered is skipped, the rest is run on an engine, and all of it is summarised."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from filelock import FileLock, Timeout

from ...context.device import Compute
from ...context.home import Home
from ...schemas.errors import RequestError
from ...schemas.spec import ExperimentSpec
from ..executor import has_own_record
from ..store.store import Store
from .here import Finished, Here, Stopped, Task, publishing
from .planning import Planned, Waiting, plan
from .specs import Item, Reader, each_checked, refuse
from .summary import Row, by_spec_id, check_summary, default_path, frame_of, read_summary, row_of, write_summary
from .worker import Examined, Worker, in_context_order

if TYPE_CHECKING:
    import pandas as pd

    from .cluster import ClusterOptions


class Engine(Protocol):
    """Where the tasks of a batch are run."""

    def examine(self, specs: Sequence[ExperimentSpec]) -> list[Examined]:
        """The digest of each spec, or what is wrong with it."""
        ...

    def run(self, tasks: Sequence[Task], stopped: Stopped) -> Iterator[Finished]:
        """Run the tasks, and give each when its result is on disk."""
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch is.

    Attributes:
        total: specs.
        skipped: that were answered already: before this batch, or by another spec of it.
        done: that were run by this batch and have an answer.
        failed: that were run or refused and have none.
        seconds: since the first was run.
    """

    total: int
    skipped: int = 0
    done: int = 0
    failed: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float | None:
        """Specs run a second."""
        ran = self.done + self.failed
        return ran / self.seconds if ran and self.seconds else None

    @property
    def left(self) -> int:
        """Specs still to be run."""
        return self.total - self.skipped - self.done - self.failed


@dataclass(frozen=True)
class Batch:
    """What became of a batch.

    Attributes:
        rows: one a spec, in the order given; those of specs that were not run are left out.
        progress: how many there were, were skipped, run and failed, in how many seconds.
        summary: the Parquet file with the rows.
    """

    rows: list[Row]
    progress: Progress
    summary: Path

    @property
    def failures(self) -> list[Row]:
        """The rows of specs that have no answer."""
        return [row for row in self.rows if not row.ok]

    @property
    def success(self) -> bool:
        """Whether every spec has an answer."""
        return not self.failures and not self.progress.left

    def frame(self) -> pd.DataFrame:
        """The rows as a pandas DataFrame, as the summary holds them."""
        return frame_of(self.rows)


@dataclass
class _Count:
    """Counts rows and tells the hook."""

    total: int
    hook: Callable[[Progress], None] | None
    skipped: int = 0
    done: int = 0
    failed: int = 0
    began: float = field(default_factory=time.monotonic)

    def add(self, row: Row) -> None:
        self.skipped += row.ok and row.cached
        self.done += row.ok and not row.cached
        self.failed += not row.ok
        if self.hook is not None:
            self.hook(self.progress())

    def progress(self) -> Progress:
        return Progress(self.total, self.skipped, self.done, self.failed, time.monotonic() - self.began)


class Prepared:
    """A batch that was read and checked whole: what would be run, and what is answered.

    Args:
        specs: typed, in the order given.
        home: the home folder.
        engine: where it runs.
        worker: bundles of this process.
        fresh: run even what has a stored answer.
        places: words for where each spec stands; default ``"spec 1"``, ``"spec 2"``, ...

    Raises:
        RequestError: some specs are wrong, each named; none was run.
    """

    def __init__(
        self,
        specs: Sequence[ExperimentSpec],
        home: Home,
        engine: Engine,
        worker: Worker,
        *,
        fresh: bool = False,
        places: Sequence[str] | None = None,
    ) -> None:
        self.specs, self._engine, self._worker, self._fresh = specs, engine, worker, fresh
        self._places = places or [f"spec {at}" for at in range(1, len(specs) + 1)]
        self.store = Store(home.runs)
        examined = engine.examine(specs)
        faults = [(place, found.fault) for place, found in zip(self._places, examined, strict=True) if found.fault]
        refuse([f"{place}: {fault}" for place, fault in faults], len(specs))
        self.digests = [found.digest for found in examined]

    def plan(self) -> Planned:
        """What would be run now, and what is answered.

        Raises:
            RequestError: some ids are taken, each named; none was run.
        """
        return plan(self.specs, self.digests, self._places, self.store, fresh=self._fresh)

    def run(
        self,
        summary: Path | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        is_cancelled: Stopped | None = None,
    ) -> Batch:
        """Run what has no answer, and write the summary, also when it is stopped or fails half way.

        Raises:
            RequestError: another process runs this batch, or some ids are taken; nothing was run.
            StoreError: results or summary cannot be written.
            BundleError: the bundle cannot be used any more.
        """
        path = summary or default_path(self.store.root, self.digests)
        check_summary(path)
        self.store.check_writable()
        with self._alone():
            planned = self.plan()
            known, count = by_spec_id(read_summary(path)), _Count(len(self.specs), on_progress)
            rows = dict[int, Row]()
            try:
                for place, row in self._rows(planned, known, is_cancelled or (lambda: False)):
                    rows[place] = row
                    count.add(row)
            finally:
                in_order = [rows[place] for place in sorted(rows)]
                write_summary(path, in_order)
        return Batch(in_order, count.progress(), path)

    @contextmanager
    def _alone(self) -> Generator[None]:
        """Hold the lock of these questions: two processes at once would run each of them twice."""
        name = default_path(self.store.root, self.digests).stem
        path = self.store.journal.root / f".{name}.lock"
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise RequestError(
                f"another process runs this batch in {self.store.root}: wait for it, or stop it; then the same command "
                f"goes on with the rest. Nothing was run."
            ) from error
        try:
            yield
        finally:
            with suppress(OSError):  # where a file that is open cannot be deleted, it stays, empty
                path.unlink()
            lock.release()

    def _rows(self, planned: Planned, known: dict[str, Row], stopped: Stopped) -> Iterator[tuple[int, Row]]:
        for place, entry in planned.answered.items():
            if stopped():
                return
            yield place, _again(known.get(entry.spec_id) or row_of(self.store.load(entry)))
        yield from self._aliases(planned.to_alias)
        specs = [task.spec for task in planned.tasks]
        tasks = [planned.tasks[at] for at in in_context_order(specs)]
        twins = list[tuple[Waiting, str]]()
        for task, row in self._engine.run(tasks, stopped):
            yield task.place, row
            for waiting in planned.twins.get(task.digest, ()):
                if row.ok and has_own_record(waiting.spec):
                    twins.append((waiting, row.spec_id))
                else:
                    yield waiting.place, _again(row) if row.ok else row
        yield from self._aliases(twins)

    def _aliases(self, waiting: Iterable[tuple[Waiting, str]]) -> Iterator[tuple[int, Row]]:
        """Store answers again under the ids and words of specs that bring their own."""
        with publishing(self.store) as publisher:
            for each, spec_id in waiting:
                task = Task(each.place, each.spec, "")
                pair = self._worker.alias(self.store.result(spec_id), each.spec)
                yield from ((task.place, row) for task, row in publisher.add(task, pair))
            yield from ((task.place, row) for task, row in publisher.flush())


def _again(row: Row) -> Row:
    return replace(row, cached=True)


def run_batch(
    specs: Iterable[Item],
    *,
    home: Path | str | None = None,
    bundle: Path | str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    threads: int | None = None,
    summary: Path | str | None = None,
    fresh: bool = False,
    cluster: ClusterOptions | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    is_cancelled: Stopped | None = None,
) -> Batch:
    """Run many specs and store their results; those whose question has a stored answer are skipped.

    All specs are checked before one is run. A batch that was stopped goes on when it is asked again.

    Args:
        specs: specs, their JSON forms, or lines of JSON.
        home: the home folder results are stored in; default ``$MECHINTERP_HOME`` or the user data folder.
        bundle: a bundle's folder, for all specs, instead of the bundle that each names.
        device: as for `load_context`.
        dtype: as for `load_context`.
        threads: threads torch may use.
        summary: the Parquet file to write; default: one in ``runs/summaries``, named by what is asked.
        fresh: run even what has a stored answer.
        cluster: run on a Ray cluster instead of in this process.
        on_progress: called after each spec; must be cheap.
        is_cancelled: asked between batches of passes; True stops the batch.

    Raises:
        RequestError: some specs are wrong, each named, or another process runs this batch; nothing was run.
        BundleError: a bundle cannot be used.
        StoreError: the folder of runs cannot be used.
    """
    typed = each_checked(((f"spec {at}", item) for at, item in enumerate(specs, 1)), Reader())
    found, folder = Home.find(home), Path(bundle) if bundle is not None else None
    compute = Compute(device=device, dtype=dtype, threads=threads)
    with opened(found, folder, compute, cluster) as (engine, worker):
        prepared = Prepared(typed, found, engine, worker, fresh=fresh)
        return prepared.run(Path(summary) if summary is not None else None, on_progress, is_cancelled)


@contextmanager
def opened(
    home: Home, bundle: Path | None, compute: Compute, cluster: ClusterOptions | None
) -> Generator[tuple[Engine, Worker]]:
    """The engine that was asked for, and the bundles of this process."""
    worker = Worker(home, bundle, compute)
    if cluster is None:
        yield Here(worker, Store(home.runs)), worker
        return
    from .cluster import joined  # noqa: PLC0415 - ray is an extra, and takes a second to import

    with joined(home, bundle, compute, cluster) as engine:
        yield engine, worker
