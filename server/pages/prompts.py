"""Prompts: a question planned, a result summarised, a feature investigated, each with the calls it takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver.prompts import Prompt
from mcp.server.mcpserver.prompts.base import Message, PromptArgument, UserMessage
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS
from pydantic import BaseModel, Field

from ...context.home import Home
from ...schemas.errors import RequestError
from ...schemas.result import ExperimentResult
from ...schemas.spec import Strict
from ..app import App
from ..render import to_markdown
from ..tools import schema as tool_schema
from . import texts
from .reading import read, unchecked_bundle

Writer = Callable[[Any], Awaitable[str]]
_NOTE_LENGTH = 24_000
"""Characters of a note, about 6,000 tokens; a longer one shows fewer rows of each table."""


class FeatureArguments(Strict):
    """Arguments of investigate_feature."""

    feature_id: int = Field(ge=0, description="Feature to investigate: its number in the bundle, from 0.")
    model_type: str | None = Field(default=None, description="Bundle; default: the default bundle.")


class PlanArguments(Strict):
    """Arguments of plan_experiments."""

    question: str = Field(max_length=4000, description="What you want to know, in your own words.")
    feature_id: int | None = Field(default=None, ge=0, description="Feature it is about, if it is about one.")
    budget: int | None = Field(default=None, ge=0, description="Forward passes the whole plan may make; 0: data only.")
    model_type: str | None = Field(default=None, description="Bundle; default: the default bundle.")


class ResultArguments(Strict):
    """Arguments of summarize_result."""

    run_id: str = Field(description="Id of the stored result, as list_results shows it.")


class ServedPrompt(Prompt):
    """A prompt that checks its arguments by a model and says what is wrong with them."""

    takes: type[BaseModel] = Field(exclude=True)
    write: Writer = Field(exclude=True)

    async def render(self, arguments: dict[str, Any] | None, context: object) -> list[Message]:  # noqa: ARG002 - the signature of the base class
        """Check the arguments and write the prompt; one that a client's form left empty is not given.

        Raises:
            MCPError: an argument is missing or wrong, or what it names is not there.
        """
        given = {name: value for name, value in (arguments or {}).items() if value not in {None, ""}}
        try:
            valid = tool_schema.validated(self.takes, given)
        except RequestError as error:
            raise MCPError(code=INVALID_PARAMS, message=str(error)) from error
        return [UserMessage(await self.write(valid))]


def add_prompts(server: MCPServer[App], app: App) -> None:
    """Add the prompts."""

    async def plan(given: PlanArguments) -> str:
        bundle, n_features = await read(app, lambda: _sizes(app.home, given))
        return texts.plan(given.question, given.feature_id, given.budget, bundle, n_features)

    async def summarize(given: ResultArguments) -> str:
        return await read(app, lambda: _summary(app.store.result(given.run_id)))

    async def investigate(given: FeatureArguments) -> str:
        return texts.investigation(given.feature_id, *await read(app, lambda: _sizes(app.home, given)))

    prompts = (
        ("plan_experiments", PlanArguments, plan, "Turn a question into checked specs with their costs."),
        ("summarize_result", ResultArguments, summarize, "A stored result, and how a summary must treat it."),
        ("investigate_feature", FeatureArguments, investigate, "From a feature's number to a claim about it."),
    )
    for name, takes, write, description in prompts:
        server.add_prompt(_prompt(name, takes, write, description))


def _prompt(name: str, takes: type[BaseModel], write: Writer, description: str) -> ServedPrompt:
    schema = tool_schema.schema_of(takes)
    required = schema.get("required", [])
    arguments = [
        PromptArgument(name=key, description=part["description"], required=key in required)
        for key, part in schema["properties"].items()
    ]
    return ServedPrompt(
        name=name,
        title=name.replace("_", " ").capitalize(),
        description=description,
        arguments=arguments,
        fn=write,
        context_kwarg=None,
        takes=takes,
        write=write,
    )


def _sizes(home: Home, given: FeatureArguments | PlanArguments) -> tuple[str, int]:
    """Name of the bundle and how many features it has.

    Raises:
        RequestError: no bundle of that name, or no such feature in it.
    """
    name = given.model_type or home.default_bundle()
    n_features = unchecked_bundle(home, name).manifest.n_features
    if given.feature_id is not None and given.feature_id >= n_features:
        raise RequestError(
            f"feature_id {given.feature_id} is out of range: bundle {name!r} has features 0 to {n_features - 1}. "
            f"Bundles here: {', '.join(home.bundle_names())}; model_type chooses one."
        )
    return name, n_features


def _summary(result: ExperimentResult) -> str:
    """The text for a result, its note with as many rows of each table as a prompt can take."""
    note = ""
    for rows in (20, 12, 8, 5, 3, 1):
        note = to_markdown(result, max_rows=rows)
        if len(note) <= _NOTE_LENGTH:
            break
    return texts.summary(result.spec_id, result.experiment_type, success=result.success, note=note)
