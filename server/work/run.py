"""One run: how far it is, how it ended, and how to stop it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal

from ...schemas.job import Job
from ...schemas.result import ExperimentResult
from ...schemas.spec import ExperimentSpec

State = Literal["queued", "running", "ended"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        done: forward passes made; steps of the present part where the run makes none.
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
        fresh: run it even if its answer is stored.
        deadline_seconds: it is stopped when it has run so long.
    """

    spec: ExperimentSpec
    fresh: bool = False
    deadline_seconds: float = float("inf")
    ended: Future[ExperimentResult] = field(default_factory=Future[ExperimentResult], repr=False)
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)
    _begun: float | None = field(default=None, repr=False)
    _counted: tuple[int, int | None, str] = field(default=(0, None, "steps"), repr=False)
    _watchers: int = field(default=0, repr=False)
    _kept: bool = field(default=False, repr=False)
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
        return "queued" if self._begun is None else "running"

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stop.is_set()

    def begin(self) -> None:
        """Start the clock."""
        self._begun = time.monotonic()

    def stop(self, why: str) -> None:
        """Tell it to stop at its next batch; ``why`` goes into its record. The first reason counts."""
        with self._guard:
            if not self._stop.is_set():
                self.job.cancelled_because = why
                self._stop.set()

    @property
    def progress(self) -> Progress | None:
        """How far it is; None before it began."""
        if self._begun is None:
            return None
        done, total, unit = self._counted
        seconds = time.monotonic() - self._begun
        left = seconds / done * (total - done) if done and total else None
        return Progress(done, total, unit, seconds, left)

    # -- who cares for it -------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Somebody waits for it."""
        with self._guard:
            self._watchers += 1

    def leave(self, *, keep: bool) -> None:
        """Somebody waits no longer; unless one of them kept its handle, it stops when the last one has gone."""
        with self._guard:
            self._watchers -= 1
            self._kept = self._kept or keep
            forsaken = not self._watchers and not self._kept
        if forsaken and not self.ended.done():
            self.stop("cancelled: the client that asked for it cancelled the call or has gone")

    def keep(self) -> None:
        """Let it go on although nobody waits: its handle was given away."""
        with self._guard:
            self._kept = True

    # -- called by the worker ---------------------------------------------------------------------------------------

    def _count(self, done: int, total: int, message: str) -> None:
        planned = self.job.expected_passes
        if planned:
            made = min(self.job.passes_made, planned)
            self._counted = (made, planned, "forward passes")
        else:
            self._counted = (done, total or None, message or "steps")

    def _should_stop(self) -> bool:
        if self._begun is not None and time.monotonic() - self._begun > self.deadline_seconds:
            self.stop(f"cancelled: it ran longer than the server allows ({self.deadline_seconds:g} s)")
        return self._stop.is_set()
