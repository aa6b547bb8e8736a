"""The tools of the MCP server: one for each experiment type, and those around them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
from anyio import to_thread
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import UnexpectedToolError
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase, FuncMetadata
from mcp.shared.exceptions import MCPError
from mcp.types import CallToolResult, TextContent, ToolAnnotations
from pydantic import BaseModel

from ...context.contexts import Contexts
from ...context.device import Compute
from ...context.home import Home
from ...schemas.catalogue import Experiment, find
from ...schemas.errors import MechinterpError
from ...schemas.job import Job
from ...schemas.spec import ExperimentSpec
from ..answers import Answer, answer
from ..executor import Executor, needs_model
from ..jobs import run_in_worker
from ..store.store import Store
from . import schema as tool_schema
from .schema import RunOptions, Schema

T = TypeVar("T")
Client = Context[Any, Any]
Handler = Callable[[dict[str, Any], Client], Awaitable[BaseModel]]
_READERS = 4


@dataclass
class App:
    """What the server holds from start to end: the bundles that are open, the store, and who may run when."""

    home: Home
    contexts: Contexts
    model_slot: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(1))
    data_slots: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(_READERS))

    def __post_init__(self) -> None:
        self.store = Store(self.home.runs)
        self.executor = Executor(self.store)

    @classmethod
    def at(cls, home: Home, compute: Compute | None = None) -> App:
        """The app of a home folder."""
        return cls(home, Contexts(home, compute=compute))

    async def read(self, work: Callable[[], T]) -> T:
        """Run something short that reads files on a worker thread."""
        return await to_thread.run_sync(work, limiter=self.data_slots)

    async def run(self, spec: ExperimentSpec, options: RunOptions, client: Client) -> Answer:
        """Run a spec, or get its stored answer, and cut it to an answer."""

        def work(job: Job) -> Answer:
            context = self.contexts.get(spec.model_type)
            result = self.executor.execute(spec, context, job=job, fresh=options.fresh)
            return answer(result, self.store.path(result.spec_id), options.cut())

        slot = self.model_slot if needs_model(spec, find(spec.type)) else self.data_slots
        return await run_in_worker(work, slot, client.report_progress)


class ServedTool(Tool):
    """A tool that checks its arguments by its own published schema and answers with a model."""

    async def run(self, arguments: dict[str, Any], context: Client, convert_result: bool = False) -> Any:  # noqa: ANN401, ARG002, FBT001, FBT002 - the signature of the base class
        """Check the arguments, call the handler, turn its answer or its error into a tool result."""
        try:
            checked = tool_schema.check(arguments, self.parameters)
            return as_result(await self.fn(checked, context))
        except MCPError:
            raise
        except MechinterpError as error:
            return CallToolResult(content=[TextContent(type="text", text=str(error))], is_error=True)
        except Exception as error:
            raise UnexpectedToolError(
                f"{self.name}: a fault of the server, not of the arguments ({type(error).__name__}); its log has more."
            ) from error


def as_result(shown: BaseModel) -> CallToolResult:
    """A tool result that holds the model as structured content and as the same text."""
    required = {name for name, info in type(shown).model_fields.items() if info.is_required()}
    whole = shown.model_dump(mode="json")
    dumped = {name: value for name, value in whole.items() if name in required or value not in (None, [], {})}
    note = dumped.get("note")
    text = note if isinstance(note, str) else compact_json(dumped)
    return CallToolResult(content=[TextContent(type="text", text=text)], structured_content=dumped)


def compact_json(value: object) -> str:
    """JSON without the spaces, which cost a reader tokens."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def make_tool(
    name: str,
    handler: Handler,
    *,
    title: str,
    description: str,
    schema: Schema,
    output: type[BaseModel],
    reads_only: bool,
) -> ServedTool:
    """Make a tool; what it runs is stored and nothing is ever overwritten, so no tool is destructive."""
    annotations = ToolAnnotations(
        title=title,
        read_only_hint=reads_only,
        destructive_hint=False,
        idempotent_hint=True,
        open_world_hint=False,
    )
    return ServedTool(
        fn=handler,
        name=name,
        title=title,
        description=description,
        parameters=schema,
        fn_metadata=FuncMetadata(arg_model=ArgModelBase, output_schema=tool_schema.output_schema_of(output)),
        is_async=True,
        context_kwarg=None,
        annotations=annotations,
    )


def experiment_tool(app: App, experiment: Experiment) -> ServedTool:
    """The tool of an experiment type."""

    async def handler(arguments: dict[str, Any], client: Client) -> BaseModel:
        spec, options = tool_schema.spec_and_options(experiment, arguments)
        return await app.run(spec, options, client)

    methods = " or ".join(experiment.methods)
    description = f"{experiment.summary} ({methods}; costs {experiment.cost})"
    title = experiment.type.replace("_", " ").capitalize()
    schema = tool_schema.experiment_schema(experiment)
    return make_tool(
        experiment.type,
        handler,
        title=title,
        description=description,
        schema=schema,
        output=Answer,
        reads_only=False,
    )
