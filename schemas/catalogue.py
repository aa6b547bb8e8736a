"""The catalogue of experiments: what each file in ``runners/`` registers.

The files are plug-ins: they are found by their names and imported by name, so nothing here, or anywhere else, lists
them. A plug-in whose import fails stops the program with its own error.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any, Literal

from .errors import RequestError, UnknownNameError
from .experiment_type import ExperimentType, runner_file, runner_names
from .job import Job
from .result import Findings, Method, Row
from .spec import ExperimentSpec, Variables

Cost = Literal["data", "model", "data or model"]
"""What a type costs: array passes over the data, forward passes of the model, or either by ``method``."""

Toolset = Literal["core", "interactions", "patterns", "weapons", "output", "validation"]
"""What a type belongs to; a server can be told to show some of them only."""


@dataclass(frozen=True)
class Plan:
    """What a run would do, found out without doing it.

    Attributes:
        contexts: contexts or examples the run reads.
        conditions: constructed conditions per context, in words.
        forward_passes: passes the model would make, after deduplication and the cache.
        saved_passes: passes deduplication and the cache would save.
        notes: constraint effects, defaults applied, warnings.
    """

    contexts: int
    conditions: str
    forward_passes: int = 0
    saved_passes: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Experiment:
    """A registered experiment type.

    Attributes:
        type: its name, which is its file's name.
        cli: name of its subcommand.
        summary: one line on the question it answers.
        spec: its typed spec.
        run: ``run(spec, context, job) -> Findings``.
        plan: ``plan(spec, context) -> Plan``, the dry run.
        tables: row model of every table it returns.
        methods: the values its ``method`` variable takes.
        cost: what it costs.
        toolset: the set of tools it belongs to.
        aliases: short command-line flags, ``{"top_k": "top_k_weapons"}``.
    """

    type: str
    cli: str
    summary: str
    spec: type[ExperimentSpec]
    run: Callable[[Any, Any, Job], Findings]
    plan: Callable[[Any, Any], Plan]
    tables: Mapping[str, type[Row]]
    methods: tuple[Method, ...]
    cost: Cost
    toolset: Toolset = "core"
    aliases: Mapping[str, str] = field(default_factory=dict)

    @property
    def variables(self) -> type[Variables]:
        """The model of the type's own variables."""
        annotation = self.spec.model_fields["variables"].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, Variables)):
            raise TypeError(f"{self.spec.__name__} declares no variables model")
        return annotation


_registered: dict[str, Experiment] = {}
Runner = Callable[[Any, Any, Job], Findings]


def experiment(
    name: str,
    *,
    spec: type[ExperimentSpec],
    plan: Callable[[Any, Any], Plan],
    cli: str,
    summary: str,
    tables: Mapping[str, type[Row]],
    methods: tuple[Method, ...],
    cost: Cost,
    toolset: Toolset,
    aliases: Mapping[str, str] | None = None,
) -> Callable[[Runner], Runner]:
    """Register the decorated function as the runner of an experiment type; see `Experiment` for the arguments."""

    def register(run: Runner) -> Runner:
        module = run.__module__.rsplit(".", 1)[-1]
        if module != name:
            raise ValueError(f"experiment {name!r} must be in the file of its name, not in {module}.py")
        _registered[name] = Experiment(
            type=name,
            cli=cli,
            summary=summary,
            spec=spec,
            run=run,
            plan=plan,
            tables=MappingProxyType(dict(tables)),
            methods=methods,
            cost=cost,
            toolset=toolset,
            aliases=MappingProxyType(dict(aliases or {})),
        )
        return run

    return register


@cache
def _load(name: str) -> Experiment:
    package = __package__.rsplit(".", 1)[0] if __package__ else ""
    importlib.import_module(f"{package}.runners.{name}")
    if name not in _registered:
        raise RuntimeError(f"runners/{name}.py registers no experiment of its name")
    return _registered[name]


def find(name: str) -> Experiment:
    """Return the experiment of that type.

    Raises:
        UnknownNameError: there is no such type.
        RequestError: the type is defined, but this version has no runner for it.
    """
    if name in runner_names():
        return _load(name)
    if name in {str(member) for member in ExperimentType}:
        raise RequestError(
            f"experiment type {name!r} is defined but this version cannot run it; it can run: "
            f"{', '.join(runner_names())}. Nothing was run."
        )
    raise UnknownNameError("experiment type", name, runner_names())


def file_of_command(word: str) -> str | None:
    """The runner whose file writes that subcommand out, found without importing any; None where none does."""
    wanted = f'cli="{word}"'
    return next((name for name in runner_names() if wanted in runner_file(name).read_text(encoding="utf-8")), None)


def of_command(word: str) -> Experiment | None:
    """The experiment with that subcommand, importing no other; None where there is none."""
    name = file_of_command(word)
    return _load(name) if name is not None and _load(name).cli == word else None


def catalogue() -> Mapping[str, Experiment]:
    """Every experiment this version can run, by type."""
    return MappingProxyType({name: _load(name) for name in runner_names()})
