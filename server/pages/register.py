"""Everything the server shows beside its tools, added in one call."""

from __future__ import annotations

from mcp.server import MCPServer

from ..app import App
from .completions import add_completions
from .prompts import add_prompts
from .resources import add_resources


def register(server: MCPServer[App], app: App) -> None:
    """Add resources, templates, prompts and completions to a server."""
    add_resources(server, app)
    add_prompts(server, app)
    add_completions(server, app)
