"""What a batch has to run: not what is answered already, and what is asked twice only once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ...schemas.spec import ExperimentSpec
from ..executor import OWN_WORDS, has_own_id
from ..store.index import Entry
from ..store.records import same_question
from ..store.store import Store
from .here import Task
from .specs import refuse


class Waiting(NamedTuple):
    """A spec whose answer is that of another run."""

    place: int
    spec: ExperimentSpec


@dataclass
class Planned:
    """What is to be done for each spec of a batch.

    Attributes:
        tasks: to be run.
        answered: the stored answer of each spec, by its place, that has one under its id and with its words.
        to_alias: specs that have a stored answer under another id or with other words, each with that answer's id.
        twins: specs that ask what a task asks, by its digest.
    """

    tasks: list[Task] = field(default_factory=list[Task])
    answered: dict[int, Entry] = field(default_factory=dict[int, Entry])
    to_alias: list[tuple[Waiting, str]] = field(default_factory=list[tuple[Waiting, str]])
    twins: dict[str, list[Waiting]] = field(default_factory=lambda: defaultdict[str, list[Waiting]](list))


def plan(
    specs: Sequence[ExperimentSpec],
    digests: Sequence[str],
    places: Sequence[str],
    store: Store,
    *,
    fresh: bool = False,
) -> Planned:
    """Find out what has to be run; the store is asked twice, however many specs there are.

    A spec that failed before is run again; where the failure holds the id of the spec, under an id that is made up.

    Args:
        specs: in the order given.
        digests: of their questions.
        places: words for where each stands, such as ``"line 3"``.
        store: the results there are.
        fresh: run even what has a stored answer.

    Raises:
        RequestError: the id of a spec is taken by another run, or by another spec of the batch; each is named.
    """
    named = {entry.spec_id: entry for entry in store.having("spec_id", [spec.id for spec in specs if has_own_id(spec)])}
    answers = defaultdict[str, list[Entry]](list)
    for entry in [] if fresh else store.having("digest", list(dict.fromkeys(digests))):
        if entry.success:
            answers[entry.digest].append(entry)
    planned, wrong, asked, seen = Planned(), list[str](), set[str](), dict[str, str]()
    for place, (spec, digest) in enumerate(zip(specs, digests, strict=True)):
        record = named.get(spec.id) if has_own_id(spec) else None
        if record is not None and _failed_at(record, spec, store):
            spec, record = _without_id(spec), None  # noqa: PLW2901 - results are never overwritten
        if record is not None and (fresh or not record.success or record.digest != digest):
            wrong.append(f"{places[place]}: id {spec.id!r} is that of a stored run{_of(record)}")
        elif has_own_id(spec) and seen.setdefault(spec.id, digest) != digest:
            wrong.append(f"{places[place]}: id {spec.id!r} is that of another spec of the batch")
        elif record is not None:
            planned.answered[place] = record
        else:
            _place(planned, Task(place, spec, digest), answers[digest], asked)
    refuse(wrong, len(specs))
    return planned


def _place(planned: Planned, task: Task, answers: Sequence[Entry], asked: set[str]) -> None:
    """Put a spec whose id is free where it belongs."""
    fitting = next((entry for entry in answers if not has_own_id(task.spec) and _says(entry, task.spec)), None)
    if fitting is not None:
        planned.answered[task.place] = fitting
    elif answers:
        planned.to_alias.append((Waiting(task.place, task.spec), answers[0].spec_id))
    elif task.digest in asked:
        planned.twins[task.digest].append(Waiting(task.place, task.spec))
    else:
        asked.add(task.digest)
        planned.tasks.append(task)


def _without_id(spec: ExperimentSpec) -> ExperimentSpec:
    return type(spec).model_validate(spec.model_dump(exclude_unset=True, exclude={"id"}))


def _says(entry: Entry, spec: ExperimentSpec) -> bool:
    """Whether a stored run has the words of a spec (description, hypothesis, ...); one without words fits any."""
    words = [(getattr(entry, name), getattr(spec, name)) for name in OWN_WORDS]
    return all(wanted is None or stored == wanted for stored, wanted in words)


def _failed_at(record: Entry, spec: ExperimentSpec, store: Store) -> bool:
    return not record.success and same_question(store.spec(record.spec_id), spec)


def _of(record: Entry) -> str:
    """Whose answer it is, in words."""
    return f" ({record.experiment_type} of feature {record.feature_id}): leave the id out, or choose one that is free"
