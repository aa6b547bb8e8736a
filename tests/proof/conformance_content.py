"""What the conformance suite asks for by name: tools that answer with content, resources, prompts, completions.

Each name, argument and answer is one that a scenario of the suite expects. Mounted on the project's own server, they
show that its build path serves everything the protocol has, also what the project itself does not use.
"""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Annotated, Any

from mcp.server import ServerRequestContext
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts.base import Prompt, UserMessage
from mcp.types import (
    AudioContent,
    CompleteRequestParams,
    CompleteResult,
    Completion,
    EmbeddedResource,
    EmptyResult,
    ImageContent,
    PromptReference,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    UnsubscribeRequestParams,
)
from pydantic import Field

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
WAV = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA="
STEP = 0.05
Region = Annotated[str, Field(description="Sent as a header too", json_schema_extra={"x-mcp-header": "Region"})]
KEYWORDS_OF_2020_12: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


def text(words: str) -> TextContent:
    return TextContent(type="text", text=words)


def picture() -> ImageContent:
    return ImageContent(type="image", data=PNG, mime_type="image/png")


def embedded(uri: str, words: str, mime_type: str = "text/plain") -> EmbeddedResource:
    return EmbeddedResource(type="resource", resource=TextResourceContents(uri=uri, mime_type=mime_type, text=words))


def test_simple_text() -> str:
    """Answers with text."""
    return "This is a simple text response for testing."


def test_image_content() -> list[ImageContent]:
    """Answers with a picture."""
    return [picture()]


def test_audio_content() -> list[AudioContent]:
    """Answers with a sound."""
    return [AudioContent(type="audio", data=WAV, mime_type="audio/wav")]


def test_embedded_resource() -> list[EmbeddedResource]:
    """Answers with a resource."""
    return [embedded("test://embedded-resource", "This is an embedded resource content.")]


def test_multiple_content_types() -> list[TextContent | ImageContent | EmbeddedResource]:
    """Answers with text, a picture and a resource."""
    data = embedded("test://mixed-content-resource", '{"test":"data","value":123}', "application/json")
    return [text("Multiple content types test:"), picture(), data]


def test_error_handling() -> str:
    """Answers with an error."""
    raise ToolError("This tool intentionally returns an error for testing")


async def test_tool_with_logging(ctx: Context) -> str:
    """Sends three log messages."""
    for words in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await ctx.info(words)
        await asyncio.sleep(STEP)
    return "logged three times"


async def test_logging_tool(ctx: Context) -> str:
    """Logs once, which a client of 2026-07-28 sees only if its request asked for a log level."""
    await ctx.info("test_logging_tool ran")
    return "logged once"


async def test_tool_with_progress(ctx: Context) -> str:
    """Reports 0, 50 and 100 of 100."""
    for done in (0, 50, 100):
        await ctx.report_progress(progress=done, total=100, message=f"{done} of 100")
        await asyncio.sleep(STEP)
    return "reported three times"


async def test_reconnection(ctx: Context) -> str:
    """Closes its stream in the middle; the answer is on the stream that the client opens next."""
    await ctx.close_sse_stream()
    await asyncio.sleep(4 * STEP)
    return "Reconnection test completed"


def test_x_mcp_header(region: Region = "") -> str:  # noqa: PT028 - a tool, not a test
    """Has an argument that a client of 2026-07-28 also sends as the header Mcp-Param-Region."""
    return f"region={region}"


def json_schema_2020_12_tool() -> str:
    """Has an input schema with the keywords of JSON Schema 2020-12, which must arrive unchanged."""
    return "json_schema_2020_12_tool"


def unportable() -> str:
    """Has an input schema that some clients refuse; no scenario asks for it, the Inspector must object to it."""
    return "unportable"


async def test_trigger_tool_change(ctx: Context) -> str:
    """Adds and removes a tool and tells the listeners."""
    ctx.mcp_server.add_tool(test_simple_text, name="test_dynamic_tool")
    ctx.mcp_server.remove_tool("test_dynamic_tool")
    await ctx.notify_tools_changed()
    return "tool list changed"


async def test_trigger_prompt_change(ctx: Context) -> str:
    """Adds and removes a prompt and tells the listeners."""
    ctx.mcp_server.add_prompt(Prompt.from_function(test_simple_prompt, name="test_dynamic_prompt"))
    ctx.mcp_server.remove_prompt("test_dynamic_prompt")
    await ctx.notify_prompts_changed()
    return "prompt list changed"


def static_text() -> str:
    """A text."""
    return "This is the content of the static text resource."


def static_binary() -> bytes:
    """A picture."""
    return base64.b64decode(PNG)


def template(id: str) -> str:  # noqa: A002 - the suite names the parameter
    """A resource for every id."""
    return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


def watched() -> str:
    """A text that can be subscribed to."""
    return "Watched resource content"


def test_simple_prompt() -> list[UserMessage]:
    """A prompt without arguments."""
    return [UserMessage(role="user", content=text("This is a simple prompt for testing."))]


def test_prompt_with_arguments(arg1: str, arg2: str) -> list[UserMessage]:
    """A prompt with two required arguments."""
    return [UserMessage(role="user", content=text(f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"))]


def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:
    """A prompt with a resource."""
    resource = embedded(resourceUri, "Embedded resource content for testing.")
    return [UserMessage(role="user", content=part) for part in (resource, text("Please process the resource above."))]


def test_prompt_with_image() -> list[UserMessage]:
    """A prompt with a picture."""
    return [UserMessage(role="user", content=part) for part in (picture(), text("Please analyze the image above."))]


TOOLS = (
    test_simple_text, test_image_content, test_audio_content, test_embedded_resource, test_multiple_content_types,
    test_error_handling, test_tool_with_logging, test_logging_tool, test_tool_with_progress, test_reconnection,
    test_x_mcp_header, json_schema_2020_12_tool, unportable, test_trigger_tool_change, test_trigger_prompt_change,
)  # fmt: skip
PROMPTS = (
    test_simple_prompt, test_prompt_with_arguments, test_prompt_with_embedded_resource, test_prompt_with_image,
)  # fmt: skip
RESOURCES = {
    "test://static-text": static_text,
    "test://static-binary": static_binary,
    "test://template/{id}/data": template,
    "test://watched-resource": watched,
}


def mount_content(server: MCPServer[Any]) -> None:
    """Add the fixtures of this module."""
    for tool in TOOLS:
        server.add_tool(tool)
    # There is no public way to give a tool a schema of one's own.
    tools = server._tool_manager._tools
    tools["json_schema_2020_12_tool"].parameters = KEYWORDS_OF_2020_12
    tools["unportable"].parameters = {"type": "object", "properties": {"these": {"type": "array", "items": True}}}
    for uri, read in RESOURCES.items():
        server.resource(uri)(read)
    for prompt in PROMPTS:
        server.add_prompt(Prompt.from_function(prompt))
    _mount_methods(server)


def _mount_methods(server: MCPServer[Any]) -> None:
    """Add the methods that the project's server has no use for, and completions of the prompts above."""
    low = server._lowlevel_server
    before = low.get_request_handler("completion/complete")

    async def accept(_ctx: ServerRequestContext, _params: object) -> EmptyResult:
        return EmptyResult()

    async def complete(ctx: ServerRequestContext, params: CompleteRequestParams) -> CompleteResult:
        ours = isinstance(params.ref, PromptReference) and params.ref.name in {prompt.__name__ for prompt in PROMPTS}
        if before is not None and not ours:
            return await before.handler(ctx, params)
        return CompleteResult(completion=Completion(values=["paris", "park", "party"], total=3, has_more=False))

    low.add_request_handler("logging/setLevel", SetLevelRequestParams, accept)
    low.add_request_handler("resources/subscribe", SubscribeRequestParams, accept)
    low.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, accept)
    low.add_request_handler("completion/complete", CompleteRequestParams, complete)
