"""All runs of a server: one model slot, a pool for what only reads data, and handles to what goes on.

Work happens on threads that belong to no request and to no event loop. So a client that leaves takes nothing with it
that others wait for, and no worker ever waits for a client.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ...context.contexts import Contexts
from ...schemas.catalogue import find
from ...schemas.errors import MechinterpError, RequestError
from ...schemas.result import ExperimentResult
from ...schemas.spec import ExperimentSpec
from ..executor import Executor, has_own_record, needs_model
from .run import NotStartedError, Run
from .tally import Tally

_NICE = 5
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server takes on.

    Attributes:
        queue: runs that may wait for the model, and as many for the data workers.
        run_seconds: a run is stopped after so long.
        results_in_memory: results, and runs that ended, kept in memory.
        data_workers: runs that only read data, at once; models run one at a time.
    """

    queue: int = 1000
    run_seconds: float = 3600.0
    results_in_memory: int = 64
    data_workers: int = 4


class QueueFullError(RequestError):
    """More would wait than the server allows."""


class Runs:
    """The runs that wait, go on, or ended lately.

    Args:
        executor: runs a spec.
        contexts: opens bundles.
        limits: how much at once, and how long.
        tally: counts on from here.
        on_result: called when a result was stored; must be quick.
    """

    def __init__(
        self,
        executor: Executor,
        contexts: Contexts,
        limits: Limits | None = None,
        tally: Tally | None = None,
        on_result: Callable[[], None] | None = None,
    ) -> None:
        self.executor, self.contexts, self.limits = executor, contexts, limits or Limits()
        self.tally, self._on_result = tally or Tally(), on_result
        self._model = ThreadPoolExecutor(1, "model", initializer=step_back)
        self._data = ThreadPoolExecutor(self.limits.data_workers, "data", initializer=step_back)
        self._lookups = ThreadPoolExecutor(2, "lookups")
        self._plans = ThreadPoolExecutor(1, "plans", initializer=step_back)
        self._guard = threading.RLock()
        self._active: OrderedDict[str, Run] = OrderedDict()
        self._questions: dict[str, Run] = {}
        self._ended: OrderedDict[str, Run] = OrderedDict()
        self._closed = False

    # -- asking -----------------------------------------------------------------------------------------------------

    def submit(self, spec: ExperimentSpec, *, fresh: bool = False) -> Run:
        """Begin a run, or join the one in flight that answers the same question; whoever asked must `Run.leave` it.

        A spec with an id or words of its own gets a run of its own, which waits for the one in flight and takes its
        answer. A stored answer is given however full the queue is.

        Raises:
            QueueFullError: too many wait.
            RequestError: the id is in flight for another question, or the server is stopping.
        """
        try:
            return self.submit_all([spec], fresh=fresh)[0]
        except QueueFullError:
            kept = None if fresh else self.executor.stored(spec, self.contexts.get(spec.model_type))
            if kept is None:
                raise
            self.tally.add(kept)
            run = Run(spec)
            run.watch()
            run.ended.set_result(kept)
            return run

    def submit_all(self, specs: Sequence[ExperimentSpec], *, fresh: bool = False) -> list[Run]:
        """Begin or join the runs of many specs: all of them, or none when one is refused; errors as for `submit`."""
        asked = [(spec, None if fresh else self._question(spec)) for spec in specs]
        with self._guard:
            self._check(asked)
            entered = list[Run]()
            try:
                for spec, question in asked:
                    entered.append(self._enter(spec, question, fresh=fresh))
            except BaseException:
                for run in entered:
                    self.leave(run)
                raise
            return entered

    def _question(self, spec: ExperimentSpec) -> str:
        model = spec.model_type or self.contexts.home.default_bundle()
        return json.dumps([model, spec.scientific_fields(), spec.outputs.model_dump()], sort_keys=True)

    def _check(self, asked: Sequence[tuple[ExperimentSpec, str | None]]) -> None:
        if self._closed:
            raise RequestError("the server is stopping. Nothing was run.")
        ids = {spec.id: (spec, question) for spec, question in reversed(asked)}
        for spec, question in asked:
            namesake = self._active.get(spec.id)
            other, same = (namesake.spec, namesake.question) if namesake else ids[spec.id]
            clash = question is None or same != question or (namesake is not None and namesake.stopping)
            if clash and other is not spec:
                raise RequestError(
                    f"id {spec.id!r} is that of a run in flight ({other.type} of feature {other.feature_id}). "
                    f"Leave the id out, or choose one that is free. Nothing was run."
                )
        for model in (True, False):
            new = [spec for spec, question in asked if _needs_model(spec) == model and not self._joins(spec, question)]
            waiting = max(0, len(self._of_slot(model=model)) - self._workers(model=model))
            if new and len(self._of_slot(model=model)) + len(new) > self.limits.queue + self._workers(model=model):
                raise QueueFullError(
                    f"the queue is full: {waiting:,} runs wait and {self.limits.queue:,} may. Try again when some are "
                    f"done, or send fewer. Nothing was run."
                )

    def _workers(self, *, model: bool) -> int:
        return 1 if model else self.limits.data_workers

    def _joins(self, spec: ExperimentSpec, question: str | None) -> bool:
        leader = self._questions.get(question or "")
        return leader is not None and not leader.stopping and not has_own_record(spec)

    def _enter(self, spec: ExperimentSpec, question: str | None, *, fresh: bool) -> Run:
        leader = self._questions.get(question or "")
        namesake = self._active.get(spec.id)
        joined = namesake or (leader if self._joins(spec, question) else None)
        if joined is not None and joined.watch():
            self.tally.joined()
            return joined
        if namesake is not None:
            raise RequestError(f"id {spec.id!r} is that of a run being cancelled. Try again in a moment.")
        run = Run(spec, _needs_model(spec), question, fresh, self.limits.run_seconds)
        run.watch()
        self._active[run.id] = run
        if leader is not None and not leader.stopping:
            leader.ended.add_done_callback(lambda _ended: self._dispatch(run))
            return run
        if question:
            self._questions[question] = run
        self._dispatch(run)
        return run

    def _dispatch(self, run: Run) -> None:
        """Hand a run to its slot; what would have to wait there is looked up in the store meanwhile, and checked."""
        with self._guard:
            closed = self._closed
            if not closed:
                busy = len(self._of_slot(model=run.model)) > self._workers(model=run.model)
                (self._model if run.model else self._data).submit(self._work, run)
                if busy and not run.fresh:
                    self._lookups.submit(self._look_up, run)
        if closed:
            self.cancel(run, "the server was stopped")

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
        with self._guard:
            slot = self._of_slot(model=run.model)
        return slot.index(run) if run in slot else 0

    def _of_slot(self, *, model: bool) -> list[Run]:
        return [run for run in self._active.values() if run.model == model]

    # -- handles and ends -------------------------------------------------------------------------------------------

    def keep(self, run: Run) -> None:
        """Let a run go on whose handle is given away, and note on disk that it was promised.

        Raises:
            StoreError: it cannot be noted; the run is stopped unless others care for it.
        """
        if not run.ended.done():
            self.executor.store.journal.note(run.spec)
        run.keep()
        if run.ended.done():
            error = run.ended.exception()
            self._honour(run, None if error else run.ended.result(), error)
            self.executor.store.journal.strike(run.id)

    def leave(self, run: Run) -> None:
        """Care no longer for a run; one that nobody cares for leaves the queue at once, or stops at its next batch."""
        if run.leave():
            self._withdraw(run)

    def cancel(self, run: Run, why: str = "cancelled") -> None:
        """Stop a run: at once when it waits, at its next batch when it goes on."""
        run.stop(why)
        self._withdraw(run)

    def close(self) -> None:
        """Stop everything and wait until the workers have put away what they hold."""
        with self._guard:
            self._closed = True
        for run in reversed(self.in_flight()):
            self.cancel(run, "cancelled: the server was stopped")
        for pool in (self._lookups, self._plans, self._model, self._data):
            pool.shutdown(cancel_futures=True)

    def _withdraw(self, run: Run) -> None:
        if run.take():
            why = run.job.cancelled_because
            error = f"run {run.id!r} was cancelled before it began ({why}); nothing was run."
            self._end(run, None, NotStartedError(error))

    def _end(self, run: Run, result: ExperimentResult | None, error: BaseException | None) -> None:
        """End a run; called by the one who took it."""
        error = error or (RuntimeError("the run left neither a result nor an error") if result is None else None)
        self._honour(run, result, error)
        with self._guard:
            self._active.pop(run.id, None)
            if self._questions.get(run.question or "") is run:
                del self._questions[run.question or ""]
            self._ended[run.id] = run
            while len(self._ended) > self.limits.results_in_memory:
                self._ended.popitem(last=False)
        if result is not None:
            self.tally.add(result)
            run.ended.set_result(result)
        else:
            self.tally.count(run.spec.type, "cancelled" if isinstance(error, NotStartedError) else "refused")
            run.ended.set_exception(error)
        self._honour(run, result, error)  # its handle may have been given away meanwhile
        self.executor.store.journal.strike(run.id)
        if result is not None and not result.cached and self._on_result is not None:
            self._on_result()

    def _honour(self, run: Run, result: ExperimentResult | None, error: BaseException | None) -> None:
        """Make good a handle that was given away: whatever became of the run, it is stored under that id."""
        if not run.to_be_honoured():
            return
        store = self.executor.store
        try:
            if result is None:
                status = "cancelled" if isinstance(error, NotStartedError) else "failed"
                store.publish_unfinished(run.spec, status, str(error))
            elif result.spec_id != run.id:
                self.executor.alias(store.result(result.spec_id), run.spec)
        except MechinterpError as fault:
            _log.warning("what became of run %s could not be stored: %s", run.id, fault)

    # -- on worker threads ------------------------------------------------------------------------------------------

    def _work(self, run: Run) -> None:
        if not run.take():
            return
        run.begin()
        result, error = None, None
        try:
            context = self.contexts.get(run.spec.model_type)
            if run.model and run.job.expected_passes is None:
                self._plan(run)
            result = self.executor.execute(run.spec, context, job=run.job, fresh=run.fresh)
        except BaseException as caught:  # noqa: BLE001 - raised again by whoever waits for the run
            error = caught
        self._end(run, result, error)

    def _look_up(self, run: Run) -> None:
        """Answer from the store a run that would have to wait for its slot."""
        try:
            found = self.executor.look_up(run.spec, self.contexts.get(run.spec.model_type))
        except MechinterpError as caught:
            if run.take():
                self._end(run, None, caught)
            return
        if found is None:
            self._plan(run)
        elif run.take():
            result, error = None, None
            try:
                result = self.executor.answer_from(found, run.spec)
            except BaseException as caught:  # noqa: BLE001 - raised again by whoever waits for the run
                error = caught
            self._end(run, result, error)

    def _plan(self, run: Run) -> None:
        with self._guard:
            if not self._closed:
                self._plans.submit(self._expect, run)

    def _expect(self, run: Run) -> None:
        """Find out how many passes the run makes, beside it; what is wrong with one that waits is told at once."""
        if run.ended.done() or run.stopping:
            return
        made = run.job.passes_made
        try:
            _, plan = self.executor.check(run.spec, self.contexts.get(run.spec.model_type))
        except MechinterpError as error:
            if run.take():
                self._end(run, None, error)
            return
        except Exception:  # noqa: BLE001 - the run itself goes on, and meets the same fault
            _log.exception("the plan of %s failed", run.spec.type)
            return
        run.job.expected_passes = made + plan.forward_passes


def _needs_model(spec: ExperimentSpec) -> bool:
    return needs_model(spec, find(spec.type))


def step_back() -> None:
    """Let the thread that answers clients go first: work done here takes seconds, an answer milliseconds."""
    if sys.platform == "linux":  # elsewhere it would set back the whole process
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
