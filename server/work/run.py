"""One run: how far it is, how it ended, who cares for it, and how to stop it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal

from ...schemas.errors import BundleError, MechinterpError, RequestError, StoreError
from ...schemas.job import Job
from ...schemas.result import ExperimentResult
from ...schemas.spec import ExperimentSpec

State = Literal["queued", "running", "ended"]
FORSAKEN = "cancelled: the client that asked for it cancelled the call or has gone"


class NotStartedError(RequestError):
    """The run was cancelled while it waited; nothing was run."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        done: forward passes made; steps of the present part where it is not known how many there will be.
        total: as many as there will be; None where it is not known.
        unit: what is counted.
        seconds: since the run began.
        seconds_left: at the speed so far; None where it is not known.
    """

    done: int
    total: int | None
    unit: str
    seconds: float
    seconds_left: float | None

    def __str__(self) -> str:
        of = f" of {self.total:,}" if self.total else ""
        left = f", about {self.seconds_left:,.0f} s left" if self.seconds_left is not None else ""
        return f"{self.done:,}{of} {self.unit}{left}"


@dataclass(eq=False)
class Run:
    """A run from the moment it is asked for; threads and the event loop look at it without waiting for each other.

    Args:
        spec: what is run.
        model: whether it needs the network.
        question: what makes it the same as another run; None when it is never shared.
        fresh: run it even if its answer is stored.
        deadline_seconds: it is stopped when it has run so long.
    """

    spec: ExperimentSpec
    model: bool = True
    question: str | None = None
    fresh: bool = False
    deadline_seconds: float = float("inf")
    ended: Future[ExperimentResult] = field(default_factory=Future[ExperimentResult], repr=False)
    kept: bool = field(default=False, repr=False)
    _taken: bool = field(default=False, repr=False)
    _honoured: bool = field(default=False, repr=False)
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)
    _begun: float | None = field(default=None, repr=False)
    _counted: tuple[int, int | None, str] = field(default=(0, None, "steps"), repr=False)
    _watchers: int = field(default=0, repr=False)
    _guard: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        self.job = Job(on_progress=self._count, is_cancelled=self._should_stop)

    @property
    def id(self) -> str:
        """The handle: the id of the spec, and later of its result."""
        return self.spec.id

    @property
    def state(self) -> State:
        """Whether it waits, goes on or has ended."""
        if self.ended.done():
            return "ended"
        return "running" if self._taken else "queued"

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stop.is_set()

    @property
    def progress(self) -> Progress | None:
        """How far it is; None before it began."""
        if self._begun is None:
            return None
        done, total, unit = self._counted
        seconds = time.monotonic() - self._begun
        left = seconds / done * (total - done) if done and total else None
        return Progress(done, total, unit, seconds, left)

    def outcome(self) -> ExperimentResult:
        """The result of a run that has ended.

        Raises:
            MechinterpError: it ended in this error instead; a new one for each who asks.
        """
        error = self.ended.exception()
        if error is None:
            return self.ended.result()
        for kind in (NotStartedError, RequestError, StoreError, BundleError):
            if isinstance(error, kind):
                raise kind(str(error)) from None
        raise MechinterpError(f"{type(error).__name__}: {error}") from error

    # -- who ends it ------------------------------------------------------------------------------------------------

    def take(self) -> bool:
        """Take it out of the queue, to run it or to end it; only the first who tries gets it."""
        with self._guard:
            first, self._taken = not self._taken, True
        return first

    def begin(self) -> None:
        """Start the clock."""
        self._begun = time.monotonic()

    def stop(self, why: str) -> None:
        """Tell it to stop at its next batch; ``why`` goes into its record. The first reason counts."""
        with self._guard:
            self._tell(why)

    def _tell(self, why: str) -> None:
        if not self._stop.is_set():
            self.job.cancelled_because = why
            self._stop.set()

    # -- who cares for it -------------------------------------------------------------------------------------------

    def watch(self) -> bool:
        """Care for it; False when it is about to stop, and cannot be joined."""
        with self._guard:
            if self._stop.is_set():
                return False
            self._watchers += 1
            return True

    def leave(self) -> bool:
        """Care no longer; True when it stops, because nobody does and its handle was not given away."""
        with self._guard:
            self._watchers -= 1
            forsaken = not self._watchers and not self.kept and not self.ended.done()
            if forsaken:
                self._tell(FORSAKEN)
        return forsaken

    def keep(self) -> None:
        """Let it go on although nobody waits: its handle is given away."""
        with self._guard:
            self.kept = True

    def to_be_honoured(self) -> bool:
        """Whether its handle was given away and is yet to be made good; True once."""
        with self._guard:
            due = self.kept and not self._honoured
            self._honoured = self._honoured or due
        return due

    # -- called by the worker ---------------------------------------------------------------------------------------

    def _count(self, done: int, total: int, message: str) -> None:
        planned = self.job.expected_passes
        if planned:
            self._counted = (min(self.job.passes_made, planned), planned, "forward passes")
        else:
            self._counted = (done, total or None, message or "steps")

    def _should_stop(self) -> bool:
        if self._begun is not None and time.monotonic() - self._begun > self.deadline_seconds:
            self.stop(f"cancelled: it ran longer than the server allows ({self.deadline_seconds:g} s)")
        return self._stop.is_set()
