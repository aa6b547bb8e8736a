"""The tools that only read: types, dry runs, stored results, the bundle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from ...schemas.spec import parse_spec
from .. import queries
from ..answers import RunList, Sent, in_short
from ..app import App
from ..queries import (
    ContextArguments,
    ContextView,
    DryRunView,
    ListArguments,
    TypesArguments,
    TypesView,
    ValidateArguments,
)
from ..work.showing import flight_row
from . import schema as tool_schema
from .schema import DEFAULT_WAIT
from .served import Client, ServedTool, make_tool


def store_tools(app: App) -> list[ServedTool]:
    """The tools that only read."""
    return [
        _reader(
            app,
            "list_experiment_types",
            title="List experiment types",
            description="What can be asked: every experiment type with its question, arguments, methods and tables.",
            models=(TypesArguments, TypesView),
            read=lambda given: queries.describe_types(given.type),
        ),
        _reader(
            app,
            "validate_spec",
            title="Validate a spec",
            description="Dry run: check a spec and say what it would run, with how many forward passes; runs nothing.",
            models=(ValidateArguments, DryRunView),
            read=lambda given: _dry_run(app, given),
            slow=True,
        ),
        _reader(
            app,
            "list_results",
            title="List results",
            description="Search stored results, newest first: by feature, type, hypothesis, parent, text, time.",
            models=(ListArguments, RunList),
            read=lambda given: _list_results(app, given),
        ),
        _reader(
            app,
            "describe_context",
            title="Describe the bundle",
            description="What experiments run on: bundles, sizes, abilities with their rungs, device, planted rules.",
            models=(ContextArguments, ContextView),
            read=lambda given: queries.describe_context(app.contexts, given),
            slow=True,
        ),
    ]


def _list_results(app: App, given: ListArguments) -> RunList:
    stored = queries.list_results(app.store, given)
    flying = [run for run in app.runs.in_flight() if queries.matches(run.spec, given)] if not given.offset else []
    return stored.model_copy(update={"in_flight": [flight_row(app.runs, run) for run in flying[: given.limit]]})


def _dry_run(app: App, given: ValidateArguments) -> DryRunView:
    spec = parse_spec(given.spec)
    view = queries.dry_run(app.executor, spec, app.contexts.get(spec.model_type))
    view = view.model_copy(update={"spec": in_short(view.spec)})
    if (view.estimated_seconds or 0.0) <= DEFAULT_WAIT:
        return view
    return view.model_copy(update={"notes": [*view.notes, "Longer than a call waits: it will answer with a run_id."]})


def _reader(
    app: App,
    name: str,
    *,
    title: str,
    description: str,
    models: tuple[type[BaseModel], type[BaseModel]],
    read: Callable[[Any], BaseModel],
    slow: bool = False,
) -> ServedTool:
    """A tool that only reads: its arguments' model and its answer's, and a function from one to the other.

    What is ``slow`` may open a bundle or plan a run: it must not hold up those that read a file.
    """
    work = app.study if slow else app.read
    takes, gives = models

    async def handler(arguments: dict[str, Any], _client: Client) -> BaseModel | Sent:
        given = tool_schema.validated(takes, arguments)
        return await work(lambda: Sent.of(read(given)))

    schema = tool_schema.schema_of(takes)
    return make_tool(name, handler, title=title, description=description, schema=schema, output=gives, reads_only=True)
