"""The process of the shared server: socket, signals, start and end."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from ...context.device import Compute
from ...context.home import Home
from ...schemas.errors import RequestError
from ..app import App
from ..mcp_server import Server
from ..tools.toolsets import Selection
from ..work.runs import Limits
from .app import Site, build
from .settings import MCP_PATH, HttpSettings, bracketed, parse_address

_GRACE_SECONDS = 3
_BACKLOG = 512


def say(line: str) -> None:
    """Print a line to stderr."""
    print(line, file=sys.stderr, flush=True)


def serve_http(
    home: Home,
    settings: HttpSettings,
    compute: Compute | None = None,
    *,
    limits: Limits | None = None,
    selection: Selection | None = None,
    mount: Callable[[Server], None] | None = None,
    announce: Callable[[str], None] = say,
) -> None:
    """Serve over HTTP until SIGINT or SIGTERM.

    Args:
        home: where bundles and runs are.
        settings: where to listen and whom to answer.
        compute: device, precision and threads.
        limits: how much may run and wait.
        selection: which tools to show; default: all.
        mount: adds to the server before it serves.
        announce: gets one line with the URL once the server answers.

    Raises:
        RequestError: the settings are wrong, or nothing can listen there.
    """
    settings.check()
    with listen(settings) as listener:
        site = build(App.at(home, compute, limits), settings, selection=selection, mount=mount)
        line = f"mechinterp-runner: serving MCP at {url_of(settings, listener)}"
        asyncio.run(HttpServer(site, lambda: announce(line)).serve([listener]))


def listen(settings: HttpSettings) -> socket.socket:
    """Open the socket that the settings name.

    Raises:
        RequestError: the port is in use, or the host is no address of this machine.
    """
    where = f"{bracketed(settings.host)}:{settings.port}"
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # asyncio turns off the delaying of small packets only where the protocol is named: 40 ms an answer.
        listener = socket.socket(family, kind, socket.IPPROTO_TCP)
        try:
            if sys.platform != "win32":
                # A server that is started again at once finds its port still held by connections that are gone.
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            advice = "another program listens there: stop it, or give another --port (0 takes any that is free)."
        else:
            advice = f"{error.strerror}: give another --host or --port."
        raise RequestError(f"cannot listen on {where}: {advice} Nothing was started.") from error
    return listener


def url_of(settings: HttpSettings, listener: socket.socket) -> str:
    """The address to give to clients."""
    first = None if settings.is_loopback else parse_address(settings.allowed_hosts[0])
    name = first.name if first else bracketed(settings.host)
    port = first.port if first and first.port not in {None, "*"} else listener.getsockname()[1]
    return f"http://{name}:{port}{MCP_PATH}"


class HttpServer(uvicorn.Server):
    """Serves a site; stops its runs before it waits for connections to close.

    Args:
        site: what to serve.
        announce: called once the server answers.
    """

    def __init__(self, site: Site, announce: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                site,
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                ws="none",
                lifespan="on",
                timeout_graceful_shutdown=_GRACE_SECONDS,
            )
        )
        self._site, self._announce = site, announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        self._announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop the runs and streams, then the connections."""
        await self._site.stop()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Take signals as the ordinary end: uvicorn would raise them once more, and the process would fail of them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        # A function, no method: sse_starlette looks for the server behind a method and would cut off the streams
        # on which the ends of the runs are still to be told.
        def stop(_signal: int, _frame: FrameType | None) -> None:
            self.force_exit = self.should_exit
            self.should_exit = True

        before = {name: signal.signal(name, stop) for name in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)
