"""The MCP server: every experiment type as a typed tool, over one open context."""

from __future__ import annotations

import asyncio
import base64
import gc
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anyio
from anyio import to_thread
from mcp.server import MCPServer
from mcp.server.caching import CacheableMethod, CacheHint
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver.tools import ToolManager
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import ResourcesListChanged
from mcp.types import INVALID_PARAMS, CallToolResult, GetPromptResult, Icon, InputRequiredResult, Resource, TextContent
from mcp.types import Tool as ListedTool
from pydantic import AnyUrl

from ..context.device import Compute
from ..context.home import Home
from ..schemas.errors import UnknownNameError
from .app import App
from .executor import PROJECT
from .pages.register import register
from .pages.resources import add_type_pages, newest_results
from .tools.served import Client
from .tools.toolsets import Selection, select
from .work.runs import Limits

INSTRUCTIONS = (
    "Experiments on the features of a sparse autoencoder trained on a model of Splatoon gear builds. Each experiment "
    "tool answers one question about one feature and stores the result; asking the same again returns the stored "
    "answer. Read the headline and the warnings first: interventional results are causal statements about the network, "
    "observational ones are correlational. Begin with describe_context (abilities and their rungs) and "
    "list_experiment_types; pass a followup's spec to run_spec as it is. A run that takes longer than wait_s answers "
    "with a run_id: get_run waits for it and shows the rest of a result. How to work: resource mechinterp://skill."
)
_WARM_AFTER = 0.3
_log = logging.getLogger(__name__)
_FIXED: tuple[CacheableMethod, ...] = ("tools/list", "prompts/list", "resources/templates/list")
"""Lists that stay as they are while the server runs: clients may keep them."""
_HEAVY = ("torch", "scipy.sparse", "scipy.special")
Lifespan = Callable[[MCPServer[App]], AbstractAsyncContextManager[App]]


class Server(MCPServer[App]):
    """The server, which names the nearest tool when one is asked for that it does not have.

    Its tools are made when they are first asked for: every experiment type must be imported for their schemas, and the
    handshake need not wait for that.
    """

    def __init__(self, app: App, selection: Selection, lifespan: Lifespan) -> None:
        self._app, self._selection = app, selection
        self._filled, self._filling = False, threading.Lock()
        super().__init__(
            PROJECT,
            title="mechinterp-runner",
            description="Typed, reproducible interpretability experiments on sparse-autoencoder features.",
            instructions=INSTRUCTIONS,
            version=version(PROJECT),
            icons=[_icon()],
            cache_hints=dict.fromkeys(_FIXED, CacheHint(ttl_ms=300_000, scope="public")),
            lifespan=lifespan,
            log_level="WARNING",
        )

    def fill(self) -> None:
        """Make the tools and list the pages of the experiment types, once."""
        with self._filling:
            if self._filled:
                return
            mounted = self._tool_manager.list_tools()
            self._tool_manager = ToolManager(tools=[*select(self._app, self._selection), *mounted])
            add_type_pages(self)
            self._filled = True

    async def _full(self) -> None:
        if not self._filled:
            await to_thread.run_sync(self.fill)

    async def announce(self, stored: asyncio.Event) -> None:
        """Tell clients of the 2026 protocol that listen of every new result, for as long as the server runs."""
        while True:
            await stored.wait()
            stored.clear()
            await self._subscriptions.publish(ResourcesListChanged())

    async def list_tools(self) -> list[ListedTool]:
        """The tools."""
        await self._full()
        return await super().list_tools()

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Client | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Call a tool by name."""
        await self._full()
        known = [tool.name for tool in self._tool_manager.list_tools()]
        if name not in known:
            error = UnknownNameError("tool", name, known, "Nothing was run.")
            return CallToolResult(content=[TextContent(type="text", text=str(error))], is_error=True)
        return await super().call_tool(name, arguments, context)

    async def list_resources(self) -> list[Resource]:
        """The guides, and the newest stored results."""
        await self._full()
        return [*await super().list_resources(), *await newest_results(self._app)]

    async def read_resource(
        self, uri: AnyUrl | str, context: Client | None = None
    ) -> Iterable[ReadResourceContents] | InputRequiredResult:
        """Read a resource by its address."""
        await self._full()
        return await super().read_resource(uri, context)

    async def get_prompt(
        self, name: str, arguments: dict[str, Any] | None = None, context: Client | None = None
    ) -> GetPromptResult | InputRequiredResult:
        """Render a prompt; a name or an argument that is wrong is the request's fault, not the server's."""
        prompts = {prompt.name: prompt for prompt in self._prompt_manager.list_prompts()}
        if name not in prompts:
            raise MCPError(INVALID_PARAMS, str(UnknownNameError("prompt", name, prompts)))
        allowed = {item.name: item.required for item in prompts[name].arguments or ()}
        for given in arguments or {}:
            if given not in allowed:
                raise MCPError(INVALID_PARAMS, str(UnknownNameError(f"argument of prompt {name}", given, allowed)))
        missing = [argument for argument, needed in allowed.items() if needed and argument not in (arguments or {})]
        if missing:
            raise MCPError(INVALID_PARAMS, f"prompt {name} needs {', '.join(missing)}. Allowed: {', '.join(allowed)}.")
        return await super().get_prompt(name, arguments, context)


def make_server(app: App, *, warm: bool = False, selection: Selection | None = None) -> Server:
    """Make the server of an app.

    Args:
        app: bundles, store and runs.
        warm: import torch in the background once the server answers.
        selection: which tools to show; default: all.

    Raises:
        UnknownNameError: the selection names a toolset or a tool that does not exist.
    """
    chosen = selection or Selection()
    chosen.check()

    @asynccontextmanager
    async def lifespan(_server: MCPServer[App]) -> AsyncGenerator[App]:
        stored, loop = asyncio.Event(), asyncio.get_running_loop()

        def listener() -> None:
            loop.call_soon_threadsafe(stored.set)

        app.listeners.add(listener)
        try:
            async with app.serving(), anyio.create_task_group() as group:
                group.start_soon(server.announce, stored)
                if warm:
                    group.start_soon(_warm_up, server)
                yield app
                group.cancel_scope.cancel()
        finally:
            app.listeners.discard(listener)

    server = Server(app, chosen, lifespan)
    register(server, app)
    return server


def _icon() -> Icon:
    """The picture clients may show: effects with their error bars, two of them beyond a threshold."""
    drawing = (Path(__file__).parent / "icon.svg").read_bytes()
    source = f"data:image/svg+xml;base64,{base64.b64encode(drawing).decode()}"
    return Icon(src=source, mime_type="image/svg+xml", sizes=["any"])


async def _warm_up(server: Server) -> None:
    """Make the tools and import torch when the handshake is over, so that the first experiment need not wait for it.

    A client that leaves at once is not kept waiting by more than this import: a thread that imports cannot be stopped,
    and must have ended before the interpreter does.
    """
    await anyio.sleep(_WARM_AFTER)
    try:
        await to_thread.run_sync(server.fill)
        await to_thread.run_sync(_import_all)
    except Exception:  # noqa: BLE001 - whoever needs what cannot be imported is told; the others are served
        _log.exception("what experiments need could not be imported")


def _import_all() -> None:
    """Import what experiments need, and keep it out of the garbage collector's sight.

    These libraries are some 280,000 objects that live as long as the process. A full collection would look at all of
    them, a fifth of a second during which no client is answered.
    """
    for name in _HEAVY:
        import_module(name)
    gc.collect()
    gc.freeze()
    gc.enable()


def serve(
    home: Home,
    compute: Compute | None = None,
    *,
    limits: Limits | None = None,
    selection: Selection | None = None,
) -> None:
    """Serve over stdin and stdout until the client hangs up."""
    make_server(App.at(home, compute, limits), warm=True, selection=selection).run("stdio")
