"""Serve over HTTP on a free port, with the fixtures of the conformance suite, until stopped."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from conformance_content import mount_content
from conformance_exchanges import mount_exchanges
from mcp.server.mcpserver import MCPServer
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.types import JSONRPCMessage
from mechinterp_runner.context.home import Home
from mechinterp_runner.server.app import App
from mechinterp_runner.server.http.app import build
from mechinterp_runner.server.http.serve import HttpServer, listen, say, serve_http, url_of
from mechinterp_runner.server.http.settings import HttpSettings


class Events(EventStore):
    """Keeps every message, so that a client whose stream has ended gets the rest on another; an id is its place."""

    def __init__(self) -> None:
        self.events: list[tuple[str, JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        self.events.append((stream_id, message))
        return str(len(self.events))

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        seen = int(last_event_id)
        stream_id = self.events[seen - 1][0]
        for place, (stream, message) in enumerate(self.events[seen:], start=seen + 1):
            if stream == stream_id and message is not None:
                await send_callback(EventMessage(message, str(place)))
        return stream_id


def mount(server: MCPServer[Any]) -> None:
    """Add the fixtures."""
    mount_content(server)
    mount_exchanges(server)


def main() -> None:
    """Serve as the command does; with ``--resumable``, keep the messages of streams that end early."""
    home, settings = Home.find(), HttpSettings(port=0)
    if "--resumable" not in sys.argv:
        serve_http(home, settings, mount=mount)
        return
    with listen(settings) as listener:
        site = build(App.at(home), settings, mount=mount, event_store=Events())
        url = url_of(settings, listener)
        asyncio.run(HttpServer(site, lambda: say(f"mechinterp-runner: serving MCP at {url}")).serve([listener]))


if __name__ == "__main__":
    main()
