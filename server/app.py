"""What the server holds from start to end: bundles, store, runs; and how a request waits for a run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import anyio
from anyio import to_thread

from ..context.contexts import Contexts
from ..context.device import Compute
from ..context.home import Home
from .executor import Executor
from .store.store import Store
from .work.run import Run
from .work.runs import Limits, Runs

T = TypeVar("T")
Reporter = Callable[[float, float | None, str | None], Awaitable[None]]
_INTERVAL = 0.1
_READERS = 8


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
        self.runs = Runs(self.executor, self.contexts, self.limits)
        self._readers = anyio.CapacityLimiter(_READERS)
        self._users = 0

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
                stopped, tally = self.runs, self.runs.tally
                self.runs = Runs(self.executor, self.contexts, self.limits, tally)
                with anyio.CancelScope(shield=True):
                    await to_thread.run_sync(stopped.close)

    async def read(self, work: Callable[[], T]) -> T:
        """Run something short that reads files on a worker thread."""
        return await to_thread.run_sync(work, limiter=self._readers)

    async def wait(self, run: Run, seconds: float, report: Reporter) -> bool:
        """Wait for a run to end and report how far it is; say whether it has ended.

        A call that is given up before the time is over gives the run up too, unless others care for it.

        Args:
            run: the run.
            seconds: how long to wait; a run that has not ended by then goes on, its handle given away.
            report: sends progress (done, total, message) to the client.
        """
        run.watch()
        keep = False
        try:
            ended = await self._wait(run, seconds, report)
            keep = not ended
            if keep:
                await self.read(lambda: self.runs.keep(run))
            return ended
        finally:
            run.leave(keep=keep)
            if run.stopping and run.state == "queued":
                self.runs.cancel(run)  # it leaves the queue at once

    async def _wait(self, run: Run, seconds: float, report: Reporter) -> bool:
        until = anyio.current_time() + seconds
        ended = asyncio.wrap_future(run.ended)
        # Whoever waits last reads the outcome from the run itself; asyncio must not call it unread.
        ended.add_done_callback(lambda done: None if done.cancelled() else done.exception())
        sent = -1.0
        while not run.ended.done() and (left := until - anyio.current_time()) > 0:
            await asyncio.wait([ended], timeout=min(_INTERVAL, left))
            if not run.ended.done():
                sent = await self._report(run, sent, report)
        return run.ended.done()

    async def _report(self, run: Run, sent: float, report: Reporter) -> float:
        """Send how far the run is when it has got further; a client is never told of less than before."""
        progress = run.progress
        if progress is None:
            done, total, message = 0.0, None, f"queued behind {self.runs.behind(run)}"
        else:
            done, total, message = float(progress.done), progress.total, str(progress)
        if done <= sent:
            return sent
        await report(done, total, message)
        return done
