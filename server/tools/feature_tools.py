"""The tool that searches the census of a bundle."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from ..answers import Sent
from ..app import App
from ..census.arguments import FindArguments
from ..census.found import FeatureList
from . import schema as tool_schema
from .schema import Schema
from .served import Client, ServedTool, make_tool


def feature_tools(app: App) -> list[ServedTool]:
    """The tools that say which features there are."""

    async def handler(arguments: dict[str, Any], _client: Client) -> BaseModel | Sent:
        given = tool_schema.validated(FindArguments, arguments)
        return await app.study(lambda: Sent.of(_found(app, given)))

    return [
        make_tool(
            "find_features",
            handler,
            title="Find features",
            description="Which features go with an ability, weapon, sub, special or class; which are dead or redundant "
            "(from the census; correlational).",
            schema=_schema(),
            output=FeatureList,
            reads_only=True,
        )
    ]


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
