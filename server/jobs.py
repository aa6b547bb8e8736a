"""Experiments on a worker thread: progress by mailbox, cancellation by flag.

A worker must never wait for the event loop: a client that has gone would hold it, and its slot, for ever. So it leaves
its progress in a mailbox that a task on the loop empties, and reads a flag that the same task raises when it ends.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

import anyio
from anyio import to_thread

from ..schemas.job import Job

T = TypeVar("T")
Reporter = Callable[[float, float | None, str | None], Awaitable[None]]
_INTERVAL = 0.1


@dataclass
class Mailbox:
    """The last progress a worker left; written by the worker, read by the loop."""

    latest: tuple[int, int, str] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def put(self, done: int, total: int, message: str) -> None:
        """Leave progress, in place of what was not yet read."""
        with self._lock:
            self.latest = (done, total, message)

    def take(self) -> tuple[int, int, str] | None:
        """Take what was left since the last time."""
        with self._lock:
            latest, self.latest = self.latest, None
        return latest


async def run_in_worker(work: Callable[[Job], T], limiter: anyio.CapacityLimiter, report: Reporter) -> T:
    """Run ``work`` on a thread of the limiter's; its slot is free again only when the thread has stopped.

    Args:
        work: gets the job to report to and to be stopped by.
        limiter: how many may run at once; the others wait.
        report: sends progress to the client; called on the event loop.
    """
    mailbox, stop = Mailbox(), threading.Event()
    job = Job(on_progress=mailbox.put, is_cancelled=stop.is_set)
    waiting = limiter.statistics().tasks_waiting + limiter.borrowed_tokens
    if waiting >= limiter.total_tokens:
        await report(0, None, f"queued behind {waiting}")
    outcome: Future[T] = Future()  # carries the worker's own exception past the task group, which would wrap it
    async with anyio.create_task_group() as group:
        group.start_soon(_deliver, mailbox, stop, report)
        await to_thread.run_sync(_attempt, work, job, outcome, limiter=limiter, abandon_on_cancel=False)
        group.cancel_scope.cancel()
    return outcome.result()


def _attempt(work: Callable[[Job], T], job: Job, outcome: Future[T]) -> None:
    try:
        outcome.set_result(work(job))
    except BaseException as error:  # noqa: BLE001 - raised again by the caller, on the event loop
        outcome.set_exception(error)


async def _deliver(mailbox: Mailbox, stop: threading.Event, report: Reporter) -> None:
    try:
        while True:
            await anyio.sleep(_INTERVAL)
            latest = mailbox.take()
            if latest is not None:
                done, total, message = latest
                await report(done, total or None, message or None)
    finally:
        # Also when the client has gone or has cancelled: the worker sees it at its next batch.
        stop.set()
