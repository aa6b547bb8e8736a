"""The censuses a server takes: one after the other, on a thread that belongs to no request."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncGenerator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from ...schemas.job import Job
from ..work.runs import step_back

if TYPE_CHECKING:
    from ...context.context import Context
    from ..app import App, Reporter
    from ..work.runs import Runs

_INTERVAL = 0.1


@dataclass(eq=False)
class Taking:
    """A census that is being taken; the event loop looks at it without waiting for its thread.

    Attributes:
        bundle: name of the bundle.
        told: features done, features in all (0: unknown yet), and what it does, or its rate and time left, in words.
        taken: its file, or the error it ended in.
        callers: how many calls wait for it.
        kept: whether it goes on although no call waits for it.
    """

    bundle: str
    told: tuple[int, int, str]
    taken: Future[Path] = field(default_factory=Future[Path], repr=False)
    callers: int = 0
    kept: bool = False
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)

    def __str__(self) -> str:
        done, total, message = self.told
        return f"{done:,} of {total:,} {message}" if total else message

    def stop(self) -> None:
        """Tell it to stop at its next chunk of examples."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stop.is_set()

    async def wait(self, seconds: float, report: Reporter) -> bool:
        """Wait for its end and report how far it is; say whether it has ended."""
        until, sent = anyio.current_time() + seconds, (-1, 0, "")
        while not self.taken.done() and (left := until - anyio.current_time()) > 0:
            if self.told[0] > sent[0]:
                sent = self.told
                await report(sent[0], sent[1] or None, str(self))
            await anyio.sleep(min(_INTERVAL, left))
        return self.taken.done()


class Takings:
    """The censuses of a server, at most one of a bundle; used on the event loop.

    Args:
        app: the server's; when it ends, so do they, with what is finished kept for the next time.
    """

    def __init__(self, app: App) -> None:
        self._app, self._pool = app, ThreadPoolExecutor(1, "census", initializer=step_back)
        self._known: dict[tuple[str, str], Taking] = {}

    def find(self, ctx: Context) -> Taking | None:
        """The census of a bundle that is being taken, or whose end nobody was told."""
        return self._known.get((ctx.name, ctx.bundle.fingerprint))

    @asynccontextmanager
    async def asked(self, ctx: Context) -> AsyncGenerator[Taking]:
        """Begin or join the census of a bundle; given up by all who asked it stops, unless it was kept."""
        taking = self.find(ctx)
        if taking is None or (taking.stopping and not taking.taken.done()):
            taking = self._known[ctx.name, ctx.bundle.fingerprint] = self._begin(ctx)
        taking.callers += 1
        try:
            yield taking
        finally:
            taking.callers -= 1
            if not taking.callers and not taking.kept:
                taking.stop()
                self.forget(taking)

    def forget(self, taking: Taking) -> None:
        """Know it no longer: its end was told, or nobody waits to be told."""
        self._known = {of: each for of, each in self._known.items() if each is not taking}

    def _begin(self, ctx: Context) -> Taking:
        others = any(not each.taken.done() for each in self._known.values())
        taking = Taking(ctx.name, (0, 0, "queued behind another census" if others else "beginning"))
        self._pool.submit(self._take, ctx, taking, self._app.runs)
        return taking

    def _take(self, ctx: Context, taking: Taking, runs: Runs) -> None:
        """Take it; called on the thread. A server that ends puts its runs away (`App.serving`): then it stops too."""
        from .take import take_census  # noqa: PLC0415 - numpy

        until = time.monotonic() + self._app.limits.run_seconds

        def should_stop() -> bool:
            return taking.stopping or self._app.runs is not runs or time.monotonic() > until

        def tell(done: int, total: int, message: str) -> None:
            taking.told = (done, total, message)

        try:
            path = take_census(ctx, self._app.home, job=Job(on_progress=tell, is_cancelled=should_stop))
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits for it
            taking.taken.set_exception(error)
        else:
            taking.taken.set_result(path)
