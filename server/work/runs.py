"""All runs of a server: one model slot, a pool for what only reads data, and handles to what goes on.

Work happens on threads that belong to no request and to no event loop. So a client that leaves takes nothing with it
that others wait for, and no worker ever waits for a client.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from ...context.contexts import Contexts
from ...schemas.catalogue import find
from ...schemas.errors import RequestError
from ...schemas.result import ExperimentResult
from ...schemas.spec import ExperimentSpec
from ..executor import Executor, has_own_record, needs_model
from .run import Run
from .tally import Tally

_POLL = 0.1
_NICE = 5


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server takes on.

    Attributes:
        queue: runs that may wait.
        run_seconds: a run is stopped after so long.
        results_in_memory: results, and runs that ended, kept in memory.
        data_workers: runs that only read data, at once; models run one at a time.
    """

    queue: int = 1000
    run_seconds: float = 3600.0
    results_in_memory: int = 64
    data_workers: int = 4


class NotStartedError(RequestError):
    """The run was cancelled while it waited."""


class Runs:
    """The runs that wait, go on, or ended lately.

    Args:
        executor: runs a spec.
        contexts: opens bundles.
        limits: how much at once, and how long.
        tally: counts on from here.
    """

    def __init__(
        self, executor: Executor, contexts: Contexts, limits: Limits | None = None, tally: Tally | None = None
    ) -> None:
        self.executor, self.contexts, self.limits = executor, contexts, limits or Limits()
        self.tally = tally or Tally()
        self._model = ThreadPoolExecutor(1, "model", initializer=_step_back)
        self._data = ThreadPoolExecutor(self.limits.data_workers, "data", initializer=_step_back)
        self._early = ThreadPoolExecutor(2, "early")
        self._guard = threading.Lock()
        self._active: OrderedDict[str, Run] = OrderedDict()
        self._tickets: dict[str, Future[None]] = {}
        self._questions: dict[str, Run] = {}
        self._ended: OrderedDict[str, Run] = OrderedDict()
        self._closed = False

    # -- asking -----------------------------------------------------------------------------------------------------

    def submit(self, spec: ExperimentSpec, *, fresh: bool = False) -> Run:
        """Begin a run, or join the one in flight that answers the same question.

        A spec with an id or words of its own gets a run of its own, which waits for the one in flight and takes its
        answer.

        Raises:
            RequestError: the queue is full, the id is in flight for another question, or the server is stopping.
        """
        question = None if fresh else self._question(spec)
        with self._guard:
            self._check(spec, question)
            twin = self._active.get(spec.id) or self._questions.get(question or "")
            if twin is not None and not twin.stopping and (twin.id == spec.id or not has_own_record(spec)):
                self.tally.joined()
                return twin
            run = Run(spec, fresh, self.limits.run_seconds)
            slot, busy = self._slot(spec)
            self._active[run.id] = run
            if question:
                self._questions[question] = run
            self._tickets[run.id] = slot.submit(self._work, run, question, twin)
            if busy and not fresh:
                self._early.submit(self._answer_early, run, question)
        return run

    def _check(self, spec: ExperimentSpec, question: str | None) -> None:
        if self._closed:
            raise RequestError("the server is stopping. Nothing was run.")
        if sum(run.state == "queued" for run in self._active.values()) >= self.limits.queue:
            raise RequestError(
                f"the queue is full: {self.limits.queue:,} runs wait. Try again when some are done. Nothing was run."
            )
        namesake = self._active.get(spec.id)
        if namesake is not None and (namesake.stopping or self._question(namesake.spec) != question):
            raise RequestError(
                f"id {spec.id!r} is that of a run in flight ({namesake.spec.type} of feature "
                f"{namesake.spec.feature_id}). Leave the id out, or choose one that is free. Nothing was run."
            )

    def _slot(self, spec: ExperimentSpec) -> tuple[ThreadPoolExecutor, bool]:
        """Where the spec runs, and whether it must wait there."""
        model = needs_model(spec, find(spec.type))
        there = sum(needs_model(run.spec, find(run.spec.type)) == model for run in self._active.values())
        return (self._model, there > 0) if model else (self._data, there >= self.limits.data_workers)

    def _question(self, spec: ExperimentSpec) -> str:
        model = spec.model_type or self.contexts.home.default_bundle()
        return json.dumps([model, spec.scientific_fields(), spec.outputs.model_dump()], sort_keys=True)

    # -- looking ----------------------------------------------------------------------------------------------------

    def find(self, run_id: str) -> Run | None:
        """The run of that handle, when it is in flight or ended lately."""
        with self._guard:
            return self._active.get(run_id) or self._ended.get(run_id)

    def in_flight(self) -> list[Run]:
        """The runs that wait or go on, in the order they were asked for."""
        with self._guard:
            return list(self._active.values())

    def behind(self, run: Run) -> int:
        """How many runs of the same slot were asked for before this one and have not ended."""
        model = needs_model(run.spec, find(run.spec.type))
        with self._guard:
            before = list(self._active.values())
        ahead = before[: before.index(run)] if run in before else []
        return sum(needs_model(other.spec, find(other.spec.type)) == model for other in ahead)

    # -- stopping ---------------------------------------------------------------------------------------------------

    def keep(self, run: Run) -> None:
        """Let a run go on whose handle is given away, and note on disk that it was promised.

        Raises:
            StoreError: it cannot be noted; the run is stopped.
        """
        run.keep()
        if run.state == "queued":
            try:
                self.executor.store.journal.note(run.spec)
            except BaseException:
                self.cancel(run, "cancelled: its handle could not be noted on disk")
                raise
        if run.ended.done():
            self.executor.store.journal.strike(run.id)

    def cancel(self, run: Run, why: str = "cancelled") -> None:
        """Stop a run: at once when it waits, at its next batch when it goes on."""
        run.stop(why)
        with self._guard:
            ticket = self._tickets.get(run.id)
        if ticket is not None and ticket.cancel():
            self._end(run, None, not_started(run), "cancelled")

    def close(self) -> None:
        """Stop everything and wait until the workers have put away what they hold."""
        with self._guard:
            self._closed = True
        for run in reversed(self.in_flight()):
            self.cancel(run, "cancelled: the server was stopped")
        for pool in (self._early, self._model, self._data):
            pool.shutdown()
        self.executor.store.journal.close()

    # -- on a worker thread -----------------------------------------------------------------------------------------

    def _work(self, run: Run, question: str | None, twin: Run | None) -> None:
        if twin is not None:
            _wait_for(twin, run)
        if run.stopping:
            self._end(run, None, not_started(run), "cancelled", question)
        else:
            self._settle(run, question, lambda: self._execute(run))

    def _execute(self, run: Run) -> ExperimentResult:
        run.begin()
        context = self.contexts.get(run.spec.model_type)
        return self.executor.execute(run.spec, context, job=run.job, fresh=run.fresh)

    def _settle(self, run: Run, question: str | None, answer: Callable[[], ExperimentResult]) -> None:
        try:
            result, error = answer(), None
        except BaseException as caught:  # noqa: BLE001 - raised again by whoever waits for the run
            result, error = None, caught
        self._end(run, result, error, "refused", question)

    def _answer_early(self, run: Run, question: str | None) -> None:
        """Answer a run that would have to wait for its slot, when it is stored already or wrong."""
        try:
            context = self.contexts.get(run.spec.model_type)
            kept = self.executor.stored(run.spec, context)
            if kept is None:
                self.executor.check(run.spec, context)
        except BaseException as error:  # noqa: BLE001 - the request is wrong: it need not wait to hear it
            kept, fault = None, error
        else:
            fault = None
        with self._guard:
            ticket = self._tickets.get(run.id)
        if (kept is not None or fault is not None) and ticket is not None and ticket.cancel():
            self._end(run, kept, fault, "refused", question)

    def _end(
        self,
        run: Run,
        result: ExperimentResult | None,
        error: BaseException | None,
        otherwise: str,
        question: str | None = None,
    ) -> None:
        if result is not None:
            self.tally.add(result)
        else:
            self.tally.count(run.spec.type, otherwise)
        with self._guard:
            self._active.pop(run.id, None)
            self._tickets.pop(run.id, None)
            question = question or self._question(run.spec)
            if self._questions.get(question) is run:
                del self._questions[question]
            self._ended[run.id] = run
            while len(self._ended) > self.limits.results_in_memory:
                self._ended.popitem(last=False)
        self.executor.store.journal.strike(run.id)
        if result is not None:
            run.ended.set_result(result)
        else:
            run.ended.set_exception(error or RuntimeError("the run left neither a result nor an error"))


def _step_back() -> None:
    """Let the thread that answers clients go first: work done here takes seconds, an answer milliseconds."""
    if sys.platform == "linux":  # elsewhere it would set back the whole process
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


def not_started(run: Run) -> NotStartedError:
    """The error of a run that was cancelled while it waited."""
    why = run.job.cancelled_because
    return NotStartedError(f"run {run.id!r} was cancelled before it began ({why}); nothing was run or stored.")


def _wait_for(twin: Run, run: Run) -> None:
    """Wait until the run in flight that answers the same question has ended, or this one shall stop."""
    while not run.stopping and not wait([twin.ended], timeout=_POLL).done:
        pass
