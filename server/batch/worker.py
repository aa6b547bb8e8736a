"""The persistent context that answers the specs of a batch: in this process, or in each process of a cluster."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ...context.context import Context
from ...context.contexts import Contexts
from ...context.device import Compute
from ...context.home import Home
from ...schemas.catalogue import find
from ...schemas.errors import RequestError
from ...schemas.job import Job
from ...schemas.result import ExperimentResult
from ...schemas.spec import ExperimentSpec
from ..executor import Executor, digest_of
from ..store.index import Entry
from ..store.store import Store

Stored = tuple[ExperimentSpec, ExperimentResult]
"""A resolved spec and its whole result, as the store keeps them."""


class Examined(NamedTuple):
    """What asking a spec of its bundle would mean: its digest, or what is wrong with it."""

    digest: str
    fault: str | None = None


@dataclass
class Outbox(Store):
    """Where an executor leaves the one result it made, for the batch to publish it with others.

    The batch has asked of all specs together whether they are answered and whether their ids are free, and it is
    resumed from its specs: so nothing is looked up here, and no run is noted as in flight.
    """

    left: Stored | None = field(default=None, repr=False)

    def find(self, spec_id: str) -> Entry | None:  # noqa: ARG002
        """No id is taken."""
        return None

    def check_id(self, spec: ExperimentSpec) -> None:
        """Every id was checked."""

    def check_writable(self) -> None:
        """The folder was proven writable."""

    @contextmanager
    def in_flight(self, spec: ExperimentSpec) -> Generator[None]:  # noqa: ARG002
        """Note nothing."""
        yield

    def publish(self, spec: ExperimentSpec, result: ExperimentResult) -> Path:
        """Keep the pair."""
        self.left = (spec, result)
        return self.results / spec.file_name()

    def take(self) -> Stored:
        """The pair that was left last."""
        if self.left is None:
            raise LookupError("the executor left no result")
        taken, self.left = self.left, None
        return taken


class Worker:
    """Bundles that stay open, and an executor whose results are handed back whole.

    Args:
        home: the home folder.
        bundle: folder of the bundle of all specs; None takes the bundle that each names.
        compute: device, precision and threads.
    """

    def __init__(self, home: Home, bundle: Path | None = None, compute: Compute | None = None) -> None:
        self._contexts, self._bundle = Contexts(home, compute=compute or Compute()), bundle
        self._outbox = Outbox(home.runs)
        self._executor = Executor(self._outbox)

    def examine(self, specs: Iterable[ExperimentSpec]) -> list[Examined]:
        """The digest of each spec, or what is wrong with it, in order.

        Raises:
            BundleError: a bundle cannot be used.
        """
        # A batch has thousands of specs of one type on one bundle.
        type_of = cache(find)

        @cache
        def context_of(name: str | None) -> Context:
            return self._contexts.get(name, path=self._bundle)

        def look(spec: ExperimentSpec) -> Examined:
            try:
                context = context_of(spec.model_type)
                self._executor.accept(spec, context)
                return Examined(digest_of(spec, context, type_of(spec.type)))
            except RequestError as error:
                return Examined("", str(error))

        return [look(spec) for spec in specs]

    def run(self, spec: ExperimentSpec, job: Job | None = None) -> Stored:
        """Run a spec, stored answer or not; the result is whole, and is not stored yet.

        Raises:
            RequestError: the experiment cannot be asked of this feature or slice.
            MechinterpError: the bundle cannot be used any more.
        """
        context = self._contexts.get(spec.model_type, path=self._bundle)
        self._executor.execute(spec, context, job=job, fresh=True)
        return self._outbox.take()

    def alias(self, kept: ExperimentResult, spec: ExperimentSpec) -> Stored:
        """A stored result under the id and with the words of a spec; it is not stored yet."""
        self._executor.alias(kept, spec)
        return self._outbox.take()


def in_context_order(specs: Sequence[ExperimentSpec]) -> list[int]:
    """Positions of specs so that those of one bundle and one set of contexts are neighbours, which share its cache."""
    return sorted(range(len(specs)), key=lambda at: (*context_set(specs[at]), specs[at].type, specs[at].feature_id))


def context_set(spec: ExperimentSpec) -> tuple[str, str]:
    """What specs have in common that run on the same contexts: the bundle, and the slice with its constraints."""
    slice_and_constraints = spec.dataset_slice.model_dump_json() + ",".join(sorted(spec.constraints))
    return spec.model_type or "", slice_and_constraints
