"""The tools that run something: one for each experiment type, run_spec, run_batch, get_run, cancel_run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
from pydantic import BaseModel

from ...schemas.catalogue import Experiment, find
from ...schemas.errors import RequestError
from ...schemas.spec import ExperimentSpec, parse_spec, parse_spec_json
from .. import queries
from ..answers import Answer, Sent
from ..app import App
from ..batch.handles import BatchView, batch_view, read_specs, summarise_at_end
from ..batch.summary import default_path
from ..executor import digest_of
from ..queries import BatchArguments, CancelArguments, GetArguments, SpecArguments
from ..work.run import Run
from ..work.showing import elsewhere_answer, ended_answer, unended_answer
from . import schema as tool_schema
from .schema import RunOptions
from .served import Client, ServedTool, make_tool

_RUN_NAMES = {"spec_id": "run_id", "id": "run_id"}
_STOP_SECONDS, _LOOK_SECONDS = 10.0, 0.5


def experiment_tool(app: App, experiment: Experiment) -> ServedTool:
    """The tool of an experiment type."""

    async def handler(arguments: dict[str, Any], client: Client) -> BaseModel | Sent:
        spec, options = tool_schema.spec_and_options(experiment, arguments)
        return await run(app, spec, options, client)

    methods = " or ".join(experiment.methods)
    return make_tool(
        experiment.type,
        handler,
        title=experiment.type.replace("_", " ").capitalize(),
        description=f"{experiment.summary} ({methods}; costs {experiment.cost})",
        schema=tool_schema.experiment_schema(experiment),
        output=Answer,
        reads_only=False,
    )


def run_tools(app: App) -> list[ServedTool]:
    """The tools that take specs and run handles."""
    return [_run_spec(app), _run_batch(app), _get_run(app), _cancel_run(app)]


async def run(app: App, spec: ExperimentSpec, options: RunOptions, client: Client) -> BaseModel | Sent:
    """Run a spec, or get its stored answer; what takes longer than the caller waits goes on."""
    async with app.asked(lambda: [app.runs.submit(spec, fresh=options.fresh)]) as [begun]:
        if not await app.wait(begun, options.wait_s, client.report_progress):
            await app.read(lambda: app.runs.keep(begun))
            if not begun.ended.done():
                return unended_answer(app.runs, begun)
        sent = await app.read(lambda: Sent.of(ended_answer(app.store, begun, options.cut())))
    if not begun.outcome().cached:
        # Clients of the 2026 protocol hear of it from the server; those before it, on their own session.
        await client.session.send_resource_list_changed()
    return sent


def _run_spec(app: App) -> ServedTool:
    async def handler(arguments: dict[str, Any], client: Client) -> BaseModel | Sent:
        given = tool_schema.validated(SpecArguments, arguments)
        return await run(app, parse_spec(given.spec), given.options, client)

    schema = tool_schema.schema_of(SpecArguments)
    schema["properties"]["options"] = tool_schema.in_one_line(RunOptions, "wait_s, max_rows, response_format, fresh.")
    return make_tool(
        "run_spec",
        handler,
        title="Run a spec",
        description="Run an experiment given as a spec: from a file, from a followup, or from validate_spec.",
        schema=schema,
        output=Answer,
        reads_only=False,
    )


def _run_batch(app: App) -> ServedTool:
    async def handler(arguments: dict[str, Any], client: Client) -> BaseModel:
        given = tool_schema.validated(BatchArguments, arguments)
        specs, digests = await app.study(lambda: _checked(app, given))
        summary = default_path(app.store.root, digests)
        async with app.asked(lambda: app.runs.submit_all(specs, fresh=given.fresh)) as runs:
            await app.read(lambda: summarise_at_end(runs, app.store, summary))
            await _wait_for_all(app, runs, given.wait_s, client)
            await app.read(lambda: [app.runs.keep(run) for run in runs])
        return batch_view(runs, summary)

    return make_tool(
        "run_batch",
        handler,
        title="Run a batch of specs",
        description="Queue many specs at once and return their run handles; get_run and list_results follow them. "
        "All are checked first: if one is wrong, none is run.",
        schema=tool_schema.schema_of(BatchArguments),
        output=BatchView,
        reads_only=False,
    )


def _checked(app: App, given: BatchArguments) -> tuple[list[ExperimentSpec], list[str]]:
    """The specs and the digests of their questions."""
    digests = list[str]()

    def accept(spec: ExperimentSpec) -> None:
        context = app.contexts.get(spec.model_type)
        app.executor.accept(spec, context)
        digests.append(digest_of(spec, context, find(spec.type)))

    return read_specs(given.specs, given.path, app.home.root, accept), digests


async def _wait_for_all(app: App, runs: Sequence[Run], seconds: float, client: Client) -> None:
    """Wait for all runs and report how many have ended."""
    until, sent = anyio.current_time() + seconds, 0
    for waited in runs:
        while not waited.ended.done() and (left := until - anyio.current_time()) > 0:
            await app.wait(waited, min(left, 1.0), _silent)
            ended = sum(run.ended.done() for run in runs)
            if ended > sent:
                sent = ended
                await client.report_progress(ended, len(runs), f"{ended:,} of {len(runs):,} runs")


async def _silent(_done: float, _total: float | None, _message: str | None) -> None:
    """Report nothing: a batch reports its own progress."""


def _get_run(app: App) -> ServedTool:
    async def handler(arguments: dict[str, Any], client: Client) -> BaseModel | Sent:
        given = tool_schema.validated(GetArguments, arguments)
        found = app.runs.find(given.run_id)
        if found is None:
            return await _get_other(app, given)
        async with app.asked(lambda: [found] if found.watch() else []):
            if not await app.wait(found, given.wait_s, client.report_progress):
                return unended_answer(app.runs, found)
        return await app.read(lambda: Sent.of(_get_ended(app, found, given)))

    return make_tool(
        "get_run",
        handler,
        title="Get a run",
        description="A run by its handle: its progress while it goes on; its result in full, as a markdown note, or a "
        "page of one table.",
        schema=tool_schema.schema_of(GetArguments),
        output=Answer,
        reads_only=True,
        other_names=_RUN_NAMES,
    )


def _get_ended(app: App, run: Run, given: GetArguments) -> Answer:
    """The stored result of a run that has ended, under whichever id it is stored."""
    if run.ended.exception() is None:
        return queries.get_run(app.store, given.model_copy(update={"run_id": run.outcome().spec_id}))
    if app.store.find(run.id) is None:
        run.outcome()
    return queries.get_run(app.store, given)


async def _get_other(app: App, given: GetArguments) -> BaseModel | Sent:
    """A run that is not this server's: stored, or another process's that shares the folder of runs."""
    until = anyio.current_time() + given.wait_s
    while (noted := await app.read(lambda: _noted_elsewhere(app, given.run_id))) is not None:
        left = until - anyio.current_time()
        if left <= 0:
            return elsewhere_answer(noted)
        await anyio.sleep(min(left, _LOOK_SECONDS))
    return await app.read(lambda: Sent.of(queries.get_run(app.store, given)))


def _noted_elsewhere(app: App, run_id: str) -> ExperimentSpec | None:
    noted = app.store.journal.elsewhere(run_id)
    if noted is None or app.store.find(run_id) is not None:
        return None
    return parse_spec_json(noted, run_id)


def _cancel_run(app: App) -> ServedTool:
    async def handler(arguments: dict[str, Any], _client: Client) -> BaseModel | Sent:
        given = tool_schema.validated(CancelArguments, arguments)
        found, read = app.runs.find(given.run_id), GetArguments(run_id=given.run_id, max_rows=5)
        if found is None and await app.read(lambda: _noted_elsewhere(app, given.run_id)) is not None:
            raise RequestError(f"run {given.run_id!r} goes on in another process: cancel it there. Nothing changed.")
        if found is None or found.ended.done():
            stored = await app.read(lambda: _get_ended(app, found, read) if found else queries.get_run(app.store, read))
            return stored.model_copy(update={"hints": ["It had ended before: nothing was cancelled.", *stored.hints]})
        await app.read(lambda: app.runs.cancel(found))
        await app.read(lambda: app.runs.keep(found))
        if not await app.wait(found, _STOP_SECONDS, _silent):
            return unended_answer(app.runs, found)
        return await app.read(lambda: Sent.of(_get_ended(app, found, read)))

    return make_tool(
        "cancel_run",
        handler,
        title="Cancel a run",
        description="Stop a run that waits or goes on, for everybody who waits for it; its finished tables are kept.",
        schema=tool_schema.schema_of(CancelArguments),
        output=Answer,
        reads_only=False,
        destructive=True,
        other_names=_RUN_NAMES,
    )
