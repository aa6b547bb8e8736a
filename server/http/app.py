"""The shared server as one ASGI app: MCP, health and metrics behind the guard."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

from anyio import to_thread
from mcp.server.streamable_http import EventStore
from mcp.server.transport_security import TransportSecuritySettings
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from ..app import App
from ..executor import PROJECT
from ..mcp_server import Server, make_server
from ..tools.toolsets import Selection
from .exchanges import Exchanges
from .guard import OPEN_PATH, Guard
from .settings import MCP_PATH, HttpSettings, as_patterns

METRICS_PATH = "/metrics"
_RETRY_MS = 1000


class Site:
    """The ASGI app of the shared server.

    Args:
        app: bundles, store and runs.
        server: what answers at ``/mcp``.
        settings: whom to answer.
        event_store: keeps the messages of streams that break, for clients that come back; default: none, and a call
            whose client disconnects is cancelled.
    """

    def __init__(self, app: App, server: Server, settings: HttpSettings, event_store: EventStore | None = None) -> None:
        self._app = app
        _add_routes(server, app)
        inner = server.streamable_http_app(
            streamable_http_path=MCP_PATH,
            event_store=event_store,
            retry_interval=None if event_store is None else _RETRY_MS,
            max_request_body_size=settings.max_request_bytes,
            transport_security=TransportSecuritySettings(
                allowed_hosts=as_patterns(settings.hosts), allowed_origins=as_patterns(settings.origins)
            ),
        )
        self._exchanges = Exchanges(inner, resumable=event_store is not None)
        self._guard = Guard(self._exchanges, settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await self._guard(scope, receive, send)

    async def stop(self) -> None:
        """Stop the runs, so that whoever waits for one is answered, and end the streams that would stay open."""
        await to_thread.run_sync(self._app.runs.close)
        self._exchanges.end_streams()


def build(
    app: App,
    settings: HttpSettings,
    *,
    selection: Selection | None = None,
    warm: bool = True,
    mount: Callable[[Server], None] | None = None,
    event_store: EventStore | None = None,
) -> Site:
    """Build the shared server.

    Args:
        app: bundles, store and runs.
        settings: whom to answer.
        selection: which tools to show; default: all.
        warm: import torch in the background once the server answers.
        mount: adds to the server before it serves.
        event_store: see `Site`.

    Raises:
        RequestError: the settings are wrong.
    """
    settings.check()
    server = make_server(app, warm=warm, selection=selection)
    if mount is not None:
        mount(server)
    return Site(app, server, settings, event_store)


def _add_routes(server: Server, app: App) -> None:
    """Add health and metrics."""
    health = {"status": "ok", "name": PROJECT, "version": version(PROJECT)}

    async def healthz(_request: Request) -> Response:
        return JSONResponse(health, headers={"cache-control": "no-store"})

    async def metrics(_request: Request) -> Response:
        from . import metrics  # noqa: PLC0415 - imported when first asked for: the handshake need not wait for it

        return Response(await to_thread.run_sync(metrics.text, app), headers={"content-type": metrics.CONTENT_TYPE})

    server.custom_route(OPEN_PATH, ["GET"])(healthz)
    server.custom_route(METRICS_PATH, ["GET"])(metrics)
