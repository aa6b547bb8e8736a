"""A tool as the protocol serves it: strict arguments in, structured content and the same text out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import UnexpectedToolError
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase, FuncMetadata
from mcp.shared.exceptions import MCPError
from mcp.types import CallToolResult, TextContent, ToolAnnotations
from pydantic import BaseModel, Field

from ...schemas.errors import MechinterpError
from ..answers import Sent
from . import schema as tool_schema
from .schema import Schema

Client = Context[Any, Any]
Handler = Callable[[dict[str, Any], Client], Awaitable[BaseModel | Sent]]


class ServedTool(Tool):
    """A tool that checks its arguments by its own published schema and answers with a model."""

    other_names: dict[str, str] = Field(default_factory=dict, exclude=True)
    """Arguments understood under other names than those of the schema."""

    async def run(self, arguments: dict[str, Any], context: Client, convert_result: bool = False) -> Any:  # noqa: ANN401, ARG002, FBT001, FBT002 - the signature of the base class
        """Check the arguments, call the handler, turn its answer or its error into a tool result."""
        try:
            checked = tool_schema.check(arguments, self.parameters, other_names=self.other_names)
            return as_result(await self.fn(checked, context))
        except MCPError:
            raise
        except MechinterpError as error:
            return CallToolResult(content=[TextContent(type="text", text=str(error))], is_error=True)
        except Exception as error:
            raise UnexpectedToolError(
                f"{self.name}: a fault of the server, not of the arguments ({type(error).__name__}); its log has more."
            ) from error


def as_result(shown: BaseModel | Sent) -> CallToolResult:
    """A tool result that holds the model as structured content and as the same text."""
    sent = shown if isinstance(shown, Sent) else Sent.of(shown)
    return CallToolResult(content=[TextContent(type="text", text=sent.text)], structured_content=sent.content)


def make_tool(
    name: str,
    handler: Handler,
    *,
    title: str,
    description: str,
    schema: Schema,
    output: type[BaseModel],
    reads_only: bool,
    destructive: bool = False,
    other_names: dict[str, str] | None = None,
) -> ServedTool:
    """Make a tool; what is run is stored and nothing stored is ever overwritten."""
    annotations = ToolAnnotations(
        title=title,
        read_only_hint=reads_only,
        destructive_hint=destructive,
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
        other_names=other_names or {},
    )
