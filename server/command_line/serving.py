"""The commands that serve MCP: ``serve`` and ``connect``."""

from __future__ import annotations

import argparse
import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...schemas.errors import RequestError
from .commands import compute_of, home_of

if TYPE_CHECKING:
    from ..http.settings import HttpSettings

_HTTP_ONLY = ("host", "port", "token_file", "allowed_host", "allowed_origin", "max_request_bytes")


def add_serve_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of ``serve`` beside home and device."""
    tools = parser.add_argument_group("tools")
    tools.add_argument("--toolsets", metavar="A,B", type=_names, help="show the tools of these sets only")
    tools.add_argument("--tools", metavar="A,B", type=_names, help="show these tools, beside those of the sets")
    limits = parser.add_argument_group("limits")
    limits.add_argument("--max-queue", type=_count, metavar="N", help="runs that may wait (1000)")
    limits.add_argument("--max-run-seconds", type=_count, metavar="S", help="a run is stopped after this time (3600)")
    limits.add_argument("--results-in-memory", type=_count, metavar="N", help="results kept in memory (64)")
    http = parser.add_argument_group("HTTP (--transport http)")
    http.add_argument("--transport", choices=("stdio", "http"), default="stdio", help="default: stdio")
    http.add_argument("--host", help="address to listen on (127.0.0.1); another one needs a token and --allowed-host")
    http.add_argument("--port", type=int, help="port (8321); 0: any that is free")
    add_token_flag(http)
    http.add_argument("--allowed-host", action="append", metavar="NAME", help="name the server goes by; repeatable")
    http.add_argument("--allowed-origin", action="append", metavar="ORIGIN", help="web page that may ask; repeatable")
    http.add_argument("--max-request-bytes", type=_count, metavar="N", help="largest request that is read (4 MiB)")


def add_connect_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of ``connect``."""
    parser.add_argument("url", metavar="URL", help="address of the shared server, such as http://127.0.0.1:8321/mcp")
    add_token_flag(parser)


def add_token_flag(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:  # pyright: ignore[reportPrivateUsage] - argparse has no public name for its groups
    """Where the bearer token is; never the token itself, which every user of the machine could read."""
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="file with the bearer token; or set MECHINTERP_TOKEN"
    )


def serve(given: argparse.Namespace) -> int:
    """Serve MCP over stdin and stdout, or over HTTP."""
    gc.disable()  # while it imports, everything stays; the server turns it on again when it is up
    from ..mcp_server import serve as serve_stdio  # noqa: PLC0415 - these take time that --help need not
    from ..tools.toolsets import Selection  # noqa: PLC0415
    from ..work.runs import Limits  # noqa: PLC0415

    selection = Selection(given.toolsets or (), given.tools or ())
    asked: dict[str, Any] = {
        "queue": given.max_queue,
        "run_seconds": given.max_run_seconds,
        "results_in_memory": given.results_in_memory,
    }
    limits = Limits(**{name: value for name, value in asked.items() if value is not None})
    selection.check()
    # Idle threads of torch must not spin on the cores that its event loop, and other processes, need.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    home, compute = home_of(given), compute_of(given)
    if given.transport == "http":
        from ..http.serve import serve_http  # noqa: PLC0415

        serve_http(home, _http_settings(given), compute, limits=limits, selection=selection)
        return 0
    useless = [name for name in _HTTP_ONLY if getattr(given, name) is not None]
    if useless:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in useless)
        raise RequestError(f"{flags}: only for --transport http. Nothing was started.")
    serve_stdio(home, compute, limits=limits, selection=selection)
    return 0


def _http_settings(given: argparse.Namespace) -> HttpSettings:
    from ..http.settings import HttpSettings, read_token  # noqa: PLC0415

    asked: dict[str, Any] = {
        "host": given.host,
        "port": given.port,
        "token": read_token(given.token_file),
        "allowed_hosts": tuple(given.allowed_host or ()),
        "allowed_origins": tuple(given.allowed_origin or ()),
        "max_request_bytes": given.max_request_bytes,
    }
    return HttpSettings(**{name: value for name, value in asked.items() if value is not None})


def connect(given: argparse.Namespace) -> int:
    """Bridge stdin and stdout to a shared server."""
    from ..http.bridge import connect as bridge  # noqa: PLC0415 - takes time that --help need not
    from ..http.settings import read_token  # noqa: PLC0415

    return bridge(given.url, read_token(given.token_file))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {text}; allowed: 1 and above")
    return value
