"""``mechinterp-runner demo``: a client and a server on the embedded bundle, and one experiment between them."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import anyio
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.types import CallToolResult, TextContent
from rich.console import Console
from rich.text import Text

from ...context.home import DEMO, Home
from ...schemas.errors import RequestError
from ..store.store import Store
from .flags import PROGRAM
from .terminal import print_result

QUESTION: dict[str, Any] = {"feature_id": 0, "family": "special_charge_up", "model_type": DEMO}
TOOL = "family_1d_sweep"


def run_demo(home: Home) -> int:
    """Run the demonstration and return the exit status."""
    return anyio.run(_demo, home)


async def _demo(home: Home) -> int:
    console = Console()
    started = time.perf_counter()
    package = __name__.split(".", maxsplit=1)[0]
    command = [sys.executable, "-m", package, "serve", "--home", str(home.root)]
    console.print(Text(f"$ {PROGRAM} serve", style="dim"), Text("(MCP over stdio)", style="dim"))
    server = StdioServerParameters(command=command[0], args=command[1:], env=dict(os.environ))
    async with Client(server) as client:
        tools = (await client.list_tools()).tools
        console.print(f"connected in {time.perf_counter() - started:.1f} s; {len(tools)} tools:")
        for tool in tools:
            console.print(Text(f"  {tool.name:24} {tool.description}"), soft_wrap=True)
        asked = ", ".join(f"{name}={value!r}" for name, value in QUESTION.items())
        console.print(Text(f"\n> {TOOL}({asked})\n", style="bold"))
        called = await client.call_tool(TOOL, QUESTION)
    _print_answer(console, home, called)
    console.print(f"\nanswered in {time.perf_counter() - started:.1f} s, start of the server included.")
    console.print("Try next:")
    console.print(Text(f"  {PROGRAM} weapon-sweep --feature-id 0 --model {DEMO}"), soft_wrap=True)
    console.print(Text(f"  {PROGRAM} family-sweep --feature-id 0 --family special_charge_up --help"), soft_wrap=True)
    return 0


def _print_answer(console: Console, home: Home, called: CallToolResult) -> None:
    """Print the stored result that the answer names."""
    if called.is_error or called.structured_content is None:
        said = " ".join(part.text for part in called.content if isinstance(part, TextContent))
        raise RequestError(f"the server answered with an error: {said}")
    spec_id = str(called.structured_content["spec_id"])
    store = Store(home.runs)
    path: Path = store.path(spec_id)
    print_result(console, store.result(spec_id), path, only="rung_deltas")
