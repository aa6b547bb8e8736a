"""The tools that take the census of a bundle and search it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from ...schemas.errors import Cancelled, RequestError
from ..answers import Sent
from ..app import App
from ..census.arguments import FindArguments, TakeArguments
from ..census.found import CensusView, FeatureList
from ..census.taking import Taking, Takings
from . import schema as tool_schema
from .schema import Schema
from .served import Client, ServedTool, make_tool

if TYPE_CHECKING:
    from ...context.context import Context

_SHOWN = 10
_STOP_SECONDS = 10.0


def feature_tools(app: App) -> list[ServedTool]:
    """The tools that say which features there are."""
    return [_find_features(app), _take_census(app)]


def _find_features(app: App) -> ServedTool:
    async def handler(arguments: dict[str, Any], _client: Client) -> BaseModel | Sent:
        given = tool_schema.validated(FindArguments, arguments)
        return await app.study(lambda: Sent.of(_found(app, given)))

    return make_tool(
        "find_features",
        handler,
        title="Find features",
        description="Which features go with an ability, weapon, sub, special or class; which are dead or redundant "
        "(from the census; correlational).",
        schema=_schema(),
        output=FeatureList,
        reads_only=True,
    )


def _schema() -> Schema:
    """The arguments without their bounds, which their checks name: there are many, and the list of tools is long."""
    schema = tool_schema.schema_of(FindArguments)
    kept = ("type", "enum", "description")
    return schema | {
        "properties": {
            name: {key: part[key] for key in kept if key in part} for name, part in schema["properties"].items()
        }
    }


def _found(app: App, given: FindArguments) -> FeatureList:
    from ..census.api import census_of  # noqa: PLC0415 - the handshake need not wait for numpy
    from ..census.find import find  # noqa: PLC0415

    return find(census_of(app.contexts.get(given.model_type), app.home), given)


def _take_census(app: App) -> ServedTool:
    takings = Takings(app)

    async def handler(arguments: dict[str, Any], client: Client) -> BaseModel | Sent:
        given = tool_schema.validated(TakeArguments, arguments)
        ctx = await app.study(lambda: _checked(app, given))
        if given.stop:
            return await _stop(takings, ctx)
        async with takings.asked(ctx) as taking:
            if await taking.wait(given.wait_s, client.report_progress):
                takings.forget(taking)
                path = taking.taken.result()
                return await app.study(lambda: Sent.of(_taken(path)))
            taking.kept = True
            return _under_way(taking)

    return make_tool(
        "take_census",
        handler,
        title="Take the census",
        description="Summarise every feature of a bundle, once, for find_features; call again to wait for it.",
        schema=tool_schema.schema_of(TakeArguments),
        output=CensusView,
        reads_only=False,
    )


def _checked(app: App, given: TakeArguments) -> Context:
    """The bundle, if a census of it can be taken."""
    from ...runners.census.census import check  # noqa: PLC0415 - the handshake need not wait for numpy

    ctx = app.contexts.get(given.model_type)
    check(ctx)
    return ctx


def _taken(path: Path) -> CensusView:
    """A census that is stored, and its features with the largest effects."""
    from ..census.find import counts, strongest  # noqa: PLC0415
    from ..census.table import CensusTable  # noqa: PLC0415

    census = CensusTable.open(path)
    return CensusView(
        headline=counts(census),
        status="done",
        file=str(path),
        features=strongest(census, _SHOWN),
        hints=[f'find_features(model_type="{census.meta.bundle}", ...) searches it.'],
    )


def _under_way(taking: Taking) -> CensusView:
    """How far a census is."""
    again, stop = (f'take_census(model_type="{taking.bundle}"{more})' for more in ("", ", stop=true"))
    how = "stopping at its next chunk of examples" if taking.stopping else str(taking)
    return CensusView(
        headline=f"census of bundle {taking.bundle!r}: {how}",
        status="running",
        hints=[f"{again} waits for it; {stop} stops it. What is finished is kept, whatever stops it."],
    )


async def _stop(takings: Takings, ctx: Context) -> CensusView:
    """Stop a census, and say how many of its features are kept."""
    taking = takings.find(ctx)
    if taking is None or taking.taken.done():
        raise RequestError(f"no census of bundle {ctx.name!r} is being taken. Nothing was stopped.")
    taking.stop()
    if not await taking.wait(_STOP_SECONDS, _silent):
        return _under_way(taking)
    takings.forget(taking)
    ended = taking.taken.exception()
    if isinstance(ended, Cancelled):
        return CensusView(headline=str(ended), status="stopped")
    return _taken(taking.taken.result())


async def _silent(_done: float, _total: float | None, _message: str | None) -> None:
    """Report nothing."""
