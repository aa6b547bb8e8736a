"""Which actor of a cluster runs which spec: neighbours stay together, and what a dead one had is tried once more."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

from ...schemas.errors import BundleError, MechinterpError
from ..executor import code_digest
from ..store.index import Entry
from .here import Stopped, Task
from .summary import Row, row_without_result
from .worker import context_set

_TRIES = 2
_SHARDS_PER_WORKER = 4
_WAIT_SECONDS = 0.5
_log = logging.getLogger(__name__)


class Place(NamedTuple):
    """Where an actor runs, and which code."""

    host: str
    process: int
    code: str

    def fault(self) -> str | None:
        """Why the actor cannot take part, or None."""
        if self.code == code_digest():
            return None
        return (
            f"the worker on {self.host} has other code than this process, and would give other answers: install the "
            f"same version on all machines"
        )


class Answered(NamedTuple):
    """What an actor says of a spec: its row, and the entry of its result, when one is stored."""

    row: Row
    entry: Entry | None = None


@dataclass
class Dispatch:
    """Keeps every actor that lives at one task of its shard; what an actor had in hand when it died, any may take.

    Args:
        actors: handles; Ray starts again those that die, as soon as there is room for them.
        waiting: shards that nobody works on.
        stopped: asked before each task.
        late: calls of `Actor.where` of the last actors, for which there is no room yet.
    """

    actors: list[Any]
    waiting: deque[deque[Task]]
    stopped: Stopped
    late: Sequence[Any] = ()
    _own: dict[int, deque[Task]] = field(default_factory=dict[int, deque[Task]])
    _flying: dict[Any, tuple[int, Task | None]] = field(default_factory=dict[Any, tuple[int, Task | None]])
    _deaths: Counter[int] = field(default_factory=Counter[int])

    @classmethod
    def of(cls, tasks: Sequence[Task], actors: Sequence[Any], stopped: Stopped, late: Sequence[Any] = ()) -> Dispatch:
        """The dispatch of tasks, in shards, to actors."""
        return cls(list(actors), deque(shards(tasks, len(actors))), stopped, late)

    def answers(self) -> Iterator[tuple[Task, Answered]]:
        """Tasks with what was said of them, as they end.

        Raises:
            BundleError: no actor could be started again, or one cannot use the bundle any more.
        """
        import ray  # noqa: PLC0415

        alive = len(self.actors) - len(self.late)
        self._flying |= {call: (number, None) for number, call in enumerate(self.late, alive)}
        idle = set(range(alive))
        while True:
            idle = {number for number in idle if not self._send(number)}
            busy = any(task is not None for _, task in self._flying.values())
            if not busy and (self.stopped() or not (self.waiting or any(self._own.values()))):
                return
            if not self._flying:
                raise BundleError("no worker of the cluster is left; the same command goes on with the rest.")
            for reference in ray.wait(list(self._flying), timeout=_WAIT_SECONDS)[0]:
                number, task = self._flying.pop(reference)
                told = told_by(reference)
                if isinstance(told, Exception):
                    yield from self._died(number, task, told)
                elif task is not None:
                    idle.add(number)
                    yield task, told
                elif (fault := told.fault()) is None:
                    idle.add(number)
                else:
                    _log.warning("%s; it is left out", fault)

    def _send(self, number: int) -> bool:
        """Give an actor its next task; False when there is none for it."""
        if not self._own.get(number) and self.waiting:
            self._own[number] = self.waiting.popleft()
        if not self._own.get(number) or self.stopped():
            return False
        task = self._own[number].popleft()
        self._flying[self.actors[number].answer.remote(task.spec)] = (number, task)
        return True

    def _died(self, number: int, task: Task | None, error: Exception) -> Iterator[tuple[Task, Answered]]:
        """Put back what a dead actor had, unless its task has killed another before; listen for when it lives again."""
        why = str(error).strip().splitlines()[0]
        if task is None:
            _log.warning("a worker could not be started again: %s", why)
            return
        if left := self._own.pop(number):
            self.waiting.appendleft(left)
        self._deaths[task.place] += 1
        if self._deaths[task.place] < _TRIES:
            self.waiting.appendleft(deque([task]))
        else:
            yield (
                task,
                Answered(row_without_result(task.spec, "failed", f"{_TRIES} workers died while they ran it: {why}")),
            )
        lives = self.actors[number].where.options(max_task_retries=-1).remote()
        self._flying[lives] = (number, None)


def told_by(reference: Any) -> Any:  # noqa: ANN401 - ray has no types
    """What an actor answered, or the error that says that it died.

    Raises:
        MechinterpError: the actor itself raised it.
    """
    import ray  # noqa: PLC0415
    from ray.exceptions import RayError, RayTaskError  # noqa: PLC0415

    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, MechinterpError):
            raise error.cause from error
        raise
    except RayError as error:
        return error


def shards(tasks: Sequence[Task], workers: int) -> list[deque[Task]]:
    """Neighbours that share a context set, cut so that every worker has something to do to the end."""
    most = max(1, -(-len(tasks) // (workers * _SHARDS_PER_WORKER)))
    found = list[deque[Task]]()
    for _, same in groupby(tasks, key=lambda task: context_set(task.spec)):
        group = list(same)
        found += [deque(group[at : at + most]) for at in range(0, len(group), most)]
    return found
