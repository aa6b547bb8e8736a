"""What the conformance suite asks for by name: tools that ask the client something before they answer.

Until 2025-11-25 a server sends the question while the call runs; from 2026-07-28 on it answers with what it needs
(`InputRequiredResult`) and the client calls again with the answers and with the state that it was given.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Context, Elicit, ElicitationResult, MCPServer, Resolve
from mcp.server.mcpserver.prompts.base import Prompt, UserMessage
from mcp.shared.exceptions import MCPError
from mcp.types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    SamplingMessage,
    TextContent,
)
from pydantic import BaseModel, Field

NONCE = "request-state-nonce"


class Contact(BaseModel):
    """A form with two required texts."""

    username: str = Field(description="User's response")
    email: str = Field(description="User's email address")


class Defaults(BaseModel):
    """A form with a default of every primitive type."""

    name: str = "John Doe"
    age: int = 30
    score: float = 95.5
    status: Annotated[str, Field(json_schema_extra={"enum": ["active", "inactive", "pending"]})] = "active"
    verified: bool = True


def titled(**titles: str) -> list[dict[str, str]]:
    """Choices with a title each."""
    return [{"const": value, "title": title} for value, title in titles.items()]


SINGLE = {"enum": ["active", "inactive", "pending"]}
SINGLE_TITLED = {"oneOf": titled(low="Low Priority", medium="Medium Priority", high="High Priority")}
MULTI = {"items": {"type": "string", "enum": ["read", "write", "execute"]}}
MULTI_TITLED = {"items": {"anyOf": titled(feature="New Feature", bug="Bug Fix", docs="Documentation")}}
LEGACY = {"enum": ["small", "medium", "large"], "enumNames": ["Small Size", "Medium Size", "Large Size"]}


class Choices(BaseModel):
    """A form with every kind of choice."""

    untitledSingle: str = Field(json_schema_extra=SINGLE)  # noqa: N815 - the suite's names
    titledSingle: str = Field(json_schema_extra=SINGLE_TITLED)  # noqa: N815
    untitledMulti: list[str] = Field(json_schema_extra=MULTI)  # noqa: N815
    titledMulti: list[str] = Field(json_schema_extra=MULTI_TITLED)  # noqa: N815
    legacyEnum: str = Field(json_schema_extra=LEGACY)  # noqa: N815


async def _elicit(ctx: Context, message: str, form: type[BaseModel]) -> str:
    given = await ctx.elicit(message=message, schema=form)
    content = given.data.model_dump_json() if given.action == "accept" else "{}"
    return f"action={given.action}, content={content}"


async def test_elicitation(message: str, ctx: Context) -> str:
    """Asks for a name and an address while it runs."""
    return await _elicit(ctx, message, Contact)


async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
    """Asks with defaults."""
    return await _elicit(ctx, "Please provide user information", Defaults)


async def test_elicitation_sep1330_enums(ctx: Context) -> str:
    """Asks for choices."""
    return await _elicit(ctx, "Please select values", Choices)


async def test_sampling(prompt: str, ctx: Context) -> str:
    """Asks the client's model while it runs."""
    message = SamplingMessage(role="user", content=TextContent(type="text", text=prompt))
    # Without the id the question goes to the stream that no request holds open, which may not be there yet.
    given = await ctx.session.create_message(messages=[message], max_tokens=100, related_request_id=ctx.request_id)
    return f"LLM response: {given.content.text}"


async def test_missing_capability(ctx: Context) -> str:
    """Needs a client that can sample; a client that cannot gets a protocol error."""
    declared = ctx.session.client_capabilities
    if declared is None or declared.sampling is None:
        raise MCPError(
            code=MISSING_REQUIRED_CLIENT_CAPABILITY,
            message="This tool requires the client 'sampling' capability",
            data={"requiredCapabilities": {"sampling": {}}},
        )
    return "the client can sample"


def _question() -> Elicit[Contact]:
    return Elicit("The stateless streaming probe asks for a contact", Contact)


async def test_streaming_elicitation(given: Annotated[ElicitationResult[Contact], Resolve(_question)]) -> str:
    """Asks in the way of the client's revision."""
    return f"elicitation {given.action}"


def form(message: str, name: str, kind: Literal["string", "boolean"] = "string") -> ElicitRequest:
    """A question with one field."""
    schema = {"type": "object", "properties": {name: {"type": kind}}, "required": [name]}
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def sample(words: str) -> CreateMessageRequest:
    """A question for the client's model."""
    message = SamplingMessage(role="user", content=TextContent(type="text", text=words))
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[message], max_tokens=100))


def need(state: str | None = None, **questions: InputRequest) -> InputRequiredResult:
    """An answer that says what is needed first."""
    return InputRequiredResult(input_requests=questions, request_state=state)


def answered(ctx: Context, name: str, field: str) -> object | None:
    """The field of an answered form, or None."""
    given = (ctx.input_responses or {}).get(name)
    return given.content.get(field) if isinstance(given, ElicitResult) and given.content else None


async def test_input_required_result_elicitation(ctx: Context) -> str | InputRequiredResult:
    """Needs a name."""
    name = answered(ctx, "user_name", "name")
    return f"Hello, {name}!" if name else need(user_name=form("What is your name?", "name"))


async def test_input_required_result_sampling(ctx: Context) -> str | InputRequiredResult:
    """Needs the client's model."""
    given = (ctx.input_responses or {}).get("capital_question")
    if isinstance(given, CreateMessageResult):
        return f"Model said: {given.content.text}"
    return need(capital_question=sample("What is the capital of France?"))


async def test_input_required_result_list_roots(ctx: Context) -> str | InputRequiredResult:
    """Needs the client's roots."""
    given = (ctx.input_responses or {}).get("client_roots")
    if isinstance(given, ListRootsResult):
        return f"Client exposed {len(given.roots)} root(s)."
    return need(client_roots=ListRootsRequest())


async def test_input_required_result_request_state(ctx: Context) -> str | InputRequiredResult:
    """Needs a confirmation, and its own state back."""
    if answered(ctx, "confirm", "ok") is not None and ctx.request_state == NONCE:
        return "state-ok: confirmation received"
    return need(NONCE, confirm=form("Please confirm", "ok", "boolean"))


async def test_input_required_result_multiple_inputs(ctx: Context) -> str | InputRequiredResult:
    """Needs three things at once."""
    questions: dict[str, InputRequest] = {
        "user_name": form("What is your name?", "name"),
        "greeting": sample("Generate a greeting"),
        "client_roots": ListRootsRequest(),
    }
    if questions.keys() <= (ctx.input_responses or {}).keys():
        return "All inputs received."
    return need("multiple-inputs", **questions)


async def test_input_required_result_multi_round(ctx: Context) -> str | InputRequiredResult:
    """Needs a name, then a colour; an answer out of order starts again."""
    state = json.loads(ctx.request_state) if ctx.request_state else {"round": 0}
    if state["round"] == 1 and (name := answered(ctx, "step1", "name")):
        second = form("Step 2: What is your favorite color?", "color")
        return need(json.dumps({"round": 2, "name": name}), step2=second)
    if state["round"] == 2 and (color := answered(ctx, "step2", "color")):
        return f"{state['name']} likes {color}."
    return need(json.dumps({"round": 1}), step1=form("Step 1: What is your name?", "name"))


async def test_input_required_result_tampered_state(ctx: Context) -> str | InputRequiredResult:
    """Gives out a state, which comes back only if nobody changed it."""
    if ctx.request_state is None:
        return need("round-1", confirm=form("Please confirm", "ok", "boolean"))
    return f"state-ok: {ctx.request_state}"


async def test_input_required_result_capabilities(ctx: Context) -> InputRequiredResult:
    """Asks only for what the client can do."""
    can = ctx.client_capabilities
    questions: dict[str, InputRequest] = {}
    if can is None or can.sampling is not None:
        questions["sample"] = sample("Say hello")
    if can is None or can.elicitation is not None:
        questions["ask"] = form("What is your name?", "name")
    return need("capability-gated", **questions)


async def test_input_required_result_prompt(ctx: Context) -> list[UserMessage] | InputRequiredResult:
    """A prompt that needs its context first."""
    context = answered(ctx, "user_context", "context")
    if context is None:
        return need(user_context=form("What context should the prompt use?", "context"))
    return [UserMessage(role="user", content=TextContent(type="text", text=f"Use the following context: {context}"))]


TOOLS = (
    test_elicitation, test_elicitation_sep1034_defaults, test_elicitation_sep1330_enums, test_sampling,
    test_missing_capability, test_streaming_elicitation, test_input_required_result_elicitation,
    test_input_required_result_sampling, test_input_required_result_list_roots,
    test_input_required_result_request_state, test_input_required_result_multiple_inputs,
    test_input_required_result_multi_round, test_input_required_result_tampered_state,
    test_input_required_result_capabilities,
)  # fmt: skip


def mount_exchanges(server: MCPServer[Any]) -> None:
    """Add the fixtures of this module."""
    for tool in TOOLS:
        server.add_tool(tool)
    server.add_prompt(Prompt.from_function(test_input_required_result_prompt))
