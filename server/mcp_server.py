"""The MCP server: every experiment type as a typed tool, over one open context."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import import_module
from importlib.metadata import version
from typing import Any

import anyio
from mcp.server import MCPServer
from mcp.server.mcpserver.tools import Tool
from mcp.types import CallToolResult, InputRequiredResult, TextContent

from ..context.device import Compute
from ..context.home import Home
from ..schemas.catalogue import catalogue
from ..schemas.errors import UnknownNameError
from .executor import PROJECT
from .tools.served import App, Client, ServedTool, experiment_tool
from .tools.store_tools import store_tools

INSTRUCTIONS = (
    "Experiments on the features of a sparse autoencoder trained on a model of Splatoon gear builds. Each experiment "
    "tool answers one question about one feature and stores the result; asking the same again returns the stored "
    "answer. Read the headline and the warnings first: interventional results are causal statements about the network, "
    "observational ones are correlational. Begin with describe_context (abilities and their rungs) and "
    "list_experiment_types; pass a followup's spec to run_spec as it is; get_run shows the rest of a result."
)
_WARM_AFTER = 0.3
Lifespan = Callable[[MCPServer[App]], AbstractAsyncContextManager[App]]


class Server(MCPServer[App]):
    """The server, which names the nearest tool when one is asked for that it does not have."""

    def __init__(self, tools: Sequence[ServedTool], lifespan: Lifespan) -> None:
        super().__init__(
            PROJECT,
            title="mechinterp-runner",
            description="Typed, reproducible interpretability experiments on sparse-autoencoder features.",
            instructions=INSTRUCTIONS,
            version=version(PROJECT),
            tools=list[Tool](tools),
            lifespan=lifespan,
            log_level="WARNING",
        )
        self._known = tuple(tool.name for tool in tools)

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Client | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Call a tool by name."""
        if name not in self._known:
            error = UnknownNameError("tool", name, self._known, "Nothing was run.")
            return CallToolResult(content=[TextContent(type="text", text=str(error))], is_error=True)
        return await super().call_tool(name, arguments, context)


def make_server(app: App, *, warm: bool = False) -> Server:
    """Make the server of an app; ``warm`` imports torch in the background once the server answers."""

    @asynccontextmanager
    async def lifespan(_server: MCPServer[App]) -> AsyncGenerator[App]:
        async with anyio.create_task_group() as group:
            if warm:
                group.start_soon(_warm_up)
            yield app
            group.cancel_scope.cancel()

    tools = [experiment_tool(app, experiment) for experiment in catalogue().values()]
    return Server([*tools, *store_tools(app)], lifespan)


async def _warm_up() -> None:
    """Import torch when the handshake is over, so that the first experiment need not wait for it."""
    await anyio.sleep(_WARM_AFTER)
    threading.Thread(target=import_module, args=("torch",), name="import torch").start()


def serve(home: Home, compute: Compute | None = None) -> None:
    """Serve over stdin and stdout until the client hangs up."""
    make_server(App.at(home, compute), warm=True).run("stdio")
