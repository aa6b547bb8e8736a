"""The tools around the experiments: types, specs, stored results, the bundle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from ...schemas.spec import parse_spec
from .. import queries
from ..answers import Answer, RunList
from ..queries import (
    ContextArguments,
    ContextView,
    DryRunView,
    GetArguments,
    ListArguments,
    SpecArguments,
    TypesArguments,
    TypesView,
    ValidateArguments,
)
from . import schema as tool_schema
from .schema import RunOptions
from .served import App, Client, ServedTool, make_tool


def store_tools(app: App) -> list[ServedTool]:
    """The tools that are not experiments."""
    return [
        _reader(
            app,
            "list_experiment_types",
            title="List experiment types",
            description="What can be asked: every experiment type with its question, arguments, methods and tables.",
            models=(TypesArguments, TypesView),
            read=lambda given: queries.describe_types(given.type),
        ),
        _run_spec(app),
        _reader(
            app,
            "validate_spec",
            title="Validate a spec",
            description="Dry run: check a spec and say what it would run, with how many forward passes; runs nothing.",
            models=(ValidateArguments, DryRunView),
            read=lambda given: _dry_run(app, given),
        ),
        _reader(
            app,
            "get_run",
            title="Get a run",
            description="A stored result by its id: in full, as a markdown note, or a page of one table.",
            models=(GetArguments, Answer),
            read=lambda given: queries.get_run(app.store, given),
        ),
        _reader(
            app,
            "list_results",
            title="List results",
            description="Search stored results, newest first: by feature, type, hypothesis, parent, text, time.",
            models=(ListArguments, RunList),
            read=lambda given: queries.list_results(app.store, given),
        ),
        _reader(
            app,
            "describe_context",
            title="Describe the bundle",
            description="What experiments run on: bundles, sizes, abilities with their rungs, device, planted rules.",
            models=(ContextArguments, ContextView),
            read=lambda given: queries.describe_context(app.contexts, given),
        ),
    ]


def _dry_run(app: App, given: ValidateArguments) -> DryRunView:
    spec = parse_spec(given.spec)
    return queries.dry_run(app.executor, spec, app.contexts.get(spec.model_type))


def _run_spec(app: App) -> ServedTool:
    async def handler(arguments: dict[str, Any], client: Client) -> BaseModel:
        given = tool_schema.validated(SpecArguments, arguments)
        return await app.run(parse_spec(given.spec), given.options, client)

    schema = tool_schema.schema_of(SpecArguments)
    schema["properties"]["options"] = tool_schema.in_one_line(RunOptions, "max_rows, response_format, fresh.")
    return make_tool(
        "run_spec",
        handler,
        title="Run a spec",
        description="Run an experiment given as a spec: from a file, from a followup, or from validate_spec.",
        schema=schema,
        output=Answer,
        reads_only=False,
    )


def _reader(
    app: App,
    name: str,
    *,
    title: str,
    description: str,
    models: tuple[type[BaseModel], type[BaseModel]],
    read: Callable[[Any], BaseModel],
) -> ServedTool:
    """A tool that only reads: its arguments' model and its answer's, and a function from one to the other."""
    takes, gives = models

    async def handler(arguments: dict[str, Any], _client: Client) -> BaseModel:
        given = tool_schema.validated(takes, arguments)
        return await app.read(lambda: read(given))

    schema = tool_schema.schema_of(takes)
    return make_tool(name, handler, title=title, description=description, schema=schema, output=gives, reads_only=True)
