"""What the server holds from start to end: bundles, store, runs; and how a request waits for a run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar
from weakref import WeakKeyDictionary

import anyio
from anyio import to_thread

from ..context.contexts import Contexts
from ..context.device import Compute
from ..context.home import Home
from ..schemas.result import ExperimentResult
from .executor import Executor
from .store.store import Store
from .work.run import Run
from .work.runs import Limits, Runs
from .work.tally import Tally

T = TypeVar("T")
Reporter = Callable[[float, float | None, str | None], Awaitable[None]]
_INTERVAL = 0.1
_READERS = 8
_STUDENTS = 2


@dataclass
class App:
    """The bundles that are open, the store, and the runs.

    Args:
        home: where bundles and runs are.
        contexts: opens bundles.
        limits: how much may run and wait.
    """

    home: Home
    contexts: Contexts
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        self.store = Store(self.home.runs, keep=self.limits.results_in_memory)
        self.executor = Executor(self.store)
        self.listeners = set[Callable[[], None]]()
        self.runs = self._new_runs(Tally())
        self._readers, self._students = anyio.CapacityLimiter(_READERS), anyio.CapacityLimiter(_STUDENTS)
        self._ends = WeakKeyDictionary[Run, asyncio.Future[ExperimentResult]]()
        self._users = 0

    def _new_runs(self, tally: Tally) -> Runs:
        return Runs(self.executor, self.contexts, self.limits, tally, self._tell)

    def _tell(self) -> None:
        """Tell those who listen, from whichever thread, that a result was stored."""
        for listener in tuple(self.listeners):
            listener()

    @classmethod
    def at(cls, home: Home, compute: Compute | None = None, limits: Limits | None = None) -> App:
        """The app of a home folder."""
        return cls(home, Contexts(home, compute=compute), limits or Limits())

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[App]:
        """Serve; when the last one to serve ends, its runs are stopped and stored as far as they came."""
        self._users += 1
        try:
            yield self
        finally:
            self._users -= 1
            if not self._users:
                stopped, self.runs = self.runs, self._new_runs(self.runs.tally)
                with anyio.CancelScope(shield=True):
                    await to_thread.run_sync(stopped.close)
                if not self._users:
                    self.store.journal.close()

    async def read(self, work: Callable[[], T]) -> T:
        """Run something short that reads files on a worker thread."""
        return await to_thread.run_sync(work, limiter=self._readers)

    async def study(self, work: Callable[[], T]) -> T:
        """Run something that may open a bundle or plan a run, which takes seconds, on a worker thread of its own."""
        return await to_thread.run_sync(work, limiter=self._students)

    # -- waiting for runs -------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def asked(self, submit: Callable[[], Sequence[Run]]) -> AsyncGenerator[list[Run]]:
        """Ask for runs and care for them as long as the block lasts; those that were kept go on after it.

        So a call that is given up gives its runs up too, unless others care for them.

        Args:
            submit: enters runs that are watched already (`Runs.submit`); called on a worker thread.
        """
        runs = list[Run]()
        try:
            await self.read(lambda: runs.extend(submit()))
            yield runs
        finally:
            for run in runs:
                self.runs.leave(run)

    async def wait(self, run: Run, seconds: float, report: Reporter) -> bool:
        """Wait for a run to end and report how far it is; say whether it has ended.

        Args:
            run: the run.
            seconds: how long to wait.
            report: sends progress (done, total, message) to the client.
        """
        until, sent = anyio.current_time() + seconds, -1.0
        while not run.ended.done() and (left := until - anyio.current_time()) > 0:
            await asyncio.wait([self._end_of(run)], timeout=min(_INTERVAL, left))
            if not run.ended.done():
                sent = await self._report(run, sent, report)
        return run.ended.done()

    def _end_of(self, run: Run) -> asyncio.Future[ExperimentResult]:
        """The end of a run on this event loop: one future for all who wait, however often they ask."""
        found = self._ends.get(run)
        if found is None or found.get_loop() is not asyncio.get_running_loop():
            found = self._ends[run] = asyncio.wrap_future(run.ended)
            # Who waits reads the outcome from the run itself; asyncio must not call it unread.
            found.add_done_callback(lambda done: None if done.cancelled() else done.exception())
        return found

    async def _report(self, run: Run, sent: float, report: Reporter) -> float:
        """Send how far the run is when it has got further; a client is never told of less than before."""
        progress = run.progress
        if progress is None:
            if sent < 0:
                await report(0.0, None, f"queued behind {self.runs.behind(run)}")
            return max(sent, 0.0)
        if progress.done <= sent or not progress.done:
            return sent
        await report(float(progress.done), progress.total, str(progress))
        return float(progress.done)
