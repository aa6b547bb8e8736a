"""A shared server for clients that speak only stdio: their lines go there over HTTP, and its answers come back."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from contextlib import suppress

import anyio
import httpx2
from anyio import to_thread
from mcp.client.streamable_http import MCP_SESSION_ID, streamable_http_client
from mcp.shared.inbound import (
    MCP_METHOD_HEADER,
    MCP_NAME_HEADER,
    MCP_PROTOCOL_VERSION_HEADER,
    NAME_BEARING_METHODS,
    encode_header_value,
)
from mcp.shared.message import ClientMessageMetadata, SessionMessage
from mcp.types import (
    CONNECTION_CLOSED,
    PROTOCOL_VERSION_META_KEY,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
    jsonrpc_message_adapter,
)
from mcp.types.version import LATEST_MODERN_VERSION
from pydantic import ValidationError

from ...schemas.errors import RequestError
from .settings import MCP_PATH, is_loopback

_TIMEOUT = httpx2.Timeout(30.0, read=300.0)  # streams are pinged every 15 s
_CHUNK = 1 << 16
_LAST_WORDS = 5.0
Write = Callable[[bytes], Awaitable[None]]


class ServerAwayError(Exception):
    """The server does not answer, refuses this client, or has forgotten it."""


def connect(url: str, token: str | None = None) -> int:
    """Bridge stdin and stdout to a shared server until the client hangs up.

    Args:
        url: the server, such as ``http://127.0.0.1:8321``.
        token: its bearer token.

    Returns:
        0 when the client has hung up; 1, after a line on stderr, when the server does not answer, refuses this client
        or goes away. What it was asked and did not answer is then answered with an error.

    Raises:
        RequestError: the URL is none.
    """
    # What goes wrong in the transport is told in words, on stderr and to the client, and needs no traceback beside it.
    logging.getLogger("mcp").setLevel(logging.CRITICAL)
    bridge = Bridge(endpoint(url), token, _write)
    anyio.run(lambda: bridge.run(_lines(sys.stdin.fileno())))
    if bridge.fault is None:
        return 0
    print(f"mechinterp-runner: {bridge.fault}", file=sys.stderr, flush=True)
    return 1


def endpoint(url: str) -> httpx2.URL:
    """The address of MCP on a server, which may be left out.

    Raises:
        RequestError: it is no address.
    """
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise RequestError(f"{url!r} is no URL: {error}. Give one like http://127.0.0.1:8321.") from error
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise RequestError(f"{url!r} is not the URL of a server: give one like http://127.0.0.1:8321.")
    return parsed.copy_with(path=MCP_PATH) if parsed.path == "/" else parsed


class Bridge:
    """Passes messages on as they are, in both eras of the protocol.

    Only what HTTP needs is added: the headers that repeat what a message says of itself.

    Args:
        url: the MCP endpoint.
        token: its bearer token.
        write: writes one line to the client.

    Attributes:
        fault: why it ended, when it was not the client that hung up.
    """

    def __init__(self, url: httpx2.URL, token: str | None, write: Write) -> None:
        self._url, self._write = url, write
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._waiting = dict[RequestId, str]()
        self._version: str | None = None
        self._answered = False
        self.fault: str | None = None

    async def run(self, lines: AsyncIterable[bytes]) -> None:
        """Bridge until the lines end or the server is away."""
        try:
            await self._pump(lines)
        except* (ServerAwayError, httpx2.TransportError) as group:
            self.fault = self.fault or self._told(group)
        except* BrokenPipeError:
            self._waiting.clear()  # the client has gone without hanging up, and nobody waits
        if self.fault is not None:
            known = self._answered
            for request_id in self._waiting:
                await self._refuse(request_id, self.fault)
            if not known:
                # The client has yet to ask its first question: hanging up on it would tell it nothing.
                with anyio.move_on_after(_LAST_WORDS):
                    await self._refuse_all(lines, self.fault)

    async def _refuse_all(self, lines: AsyncIterable[bytes], fault: str) -> None:
        async for line in lines:
            with suppress(ValidationError):
                message = jsonrpc_message_adapter.validate_json(line, by_name=False)
                if isinstance(message, JSONRPCRequest):
                    await self._refuse(message.id, fault)

    async def _refuse(self, request_id: RequestId, fault: str) -> None:
        error = ErrorData(code=CONNECTION_CLOSED, message=fault)
        await self._send(JSONRPCError(jsonrpc="2.0", id=request_id, error=error))

    async def _pump(self, lines: AsyncIterable[bytes]) -> None:
        async with httpx2.AsyncClient(
            headers=self._headers,
            timeout=_TIMEOUT,
            limits=httpx2.Limits(max_connections=None),
            event_hooks={"response": [self._check]},
            # A proxy of the environment has no business with what stays on this machine.
            trust_env=not is_loopback(self._url.host),
        ) as client:
            # Ask for nothing, to hear at once whether somebody is there who will answer.
            await client.get(self._url, headers={MCP_PROTOCOL_VERSION_HEADER: LATEST_MODERN_VERSION})
            async with (
                streamable_http_client(str(self._url), http_client=client, max_sse_event_size=None) as (
                    inward,
                    outward,
                ),
                anyio.create_task_group() as group,
            ):
                group.start_soon(self._answers, inward)
                await self._requests(lines, outward.send)
                group.cancel_scope.cancel()

    async def _requests(self, lines: AsyncIterable[bytes], post: Callable[[SessionMessage], Awaitable[None]]) -> None:
        """Pass on what the client writes."""
        async for line in lines:
            try:
                message = jsonrpc_message_adapter.validate_json(line, by_name=False)
            except ValidationError:
                print("mechinterp-runner: left out a line that is no JSON-RPC message", file=sys.stderr, flush=True)
                continue
            if isinstance(message, JSONRPCRequest):
                self._waiting[message.id] = message.method
            elif isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
                self._waiting.pop((message.params or {}).get("requestId", ""), None)
            try:
                await post(SessionMessage(message, self._metadata(message)))
            except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
                raise ServerAwayError from error

    async def _answers(self, server: AsyncIterable[SessionMessage | Exception]) -> None:
        """Pass on what the server says, except answers to what the client has cancelled."""
        async for item in server:
            if isinstance(item, Exception):
                raise ServerAwayError from item
            message = item.message
            if isinstance(message, JSONRPCResponse | JSONRPCError) and message.id is not None:
                method = self._waiting.pop(message.id, None)
                if method is None:
                    continue
                if method == "initialize" and isinstance(message, JSONRPCResponse):
                    self._version = message.result.get("protocolVersion")
            await self._send(message)
            if isinstance(message, JSONRPCError) and message.error.code == CONNECTION_CLOSED:
                raise ServerAwayError(message.error.message)
        raise ServerAwayError

    async def _send(self, message: JSONRPCMessage) -> None:
        self._answered = True
        await self._write(message.model_dump_json(by_alias=True, exclude_unset=True).encode())

    def _metadata(self, message: JSONRPCMessage) -> ClientMessageMetadata | None:
        """The headers of a message: those of 2026 repeat what it says, those of 2025 the version agreed on."""
        if not isinstance(message, JSONRPCRequest | JSONRPCNotification) or message.method == "initialize":
            return None
        params = message.params or {}
        version = (params.get("_meta") or {}).get(PROTOCOL_VERSION_META_KEY)
        if version is None:
            headers = {MCP_PROTOCOL_VERSION_HEADER: self._version} if self._version else None
            return ClientMessageMetadata(headers=headers)
        headers = {MCP_PROTOCOL_VERSION_HEADER: str(version), MCP_METHOD_HEADER: message.method}
        name = params.get(NAME_BEARING_METHODS.get(message.method, ""))
        if isinstance(name, str):
            headers[MCP_NAME_HEADER] = encode_header_value(name)
        return ClientMessageMetadata(headers=headers)

    async def _check(self, response: httpx2.Response) -> None:
        """End the bridge when the server will never answer this client."""
        status, known = response.status_code, "Authorization" in self._headers
        if status == 401:
            given = "does not know this bearer token" if known else "needs its bearer token"
            self.fault = f"the server at {self._url} {given}: give the one it was started with, by --token-file FILE."
        elif status in {403, 421}:
            self.fault = (
                f"the server at {self._url} does not go by the name {self._url.host}: use a name it was started with, "
                f"or start it with --allowed-host {self._url.host}."
            )
        elif status == 404 and self._url.path != MCP_PATH and not self._answered:
            self.fault = f"there is no MCP server at {self._url}: its address ends in {MCP_PATH}."
        elif status == 404 and MCP_SESSION_ID in response.request.headers:
            self.fault = f"the server at {self._url} has forgotten this session: start the client anew."
        else:
            return
        raise ServerAwayError(self.fault)

    def _told(self, group: BaseExceptionGroup[Exception]) -> str:
        """What became of the server, in words."""
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        if isinstance(first, httpx2.ConnectError | httpx2.ConnectTimeout):
            return (
                f"no server answers at {self._url} ({first}): start it with `mechinterp-runner serve --transport http`."
            )
        detail = f" ({first})" if str(first) else ""
        return f"the server at {self._url} went away{detail}: start it again, and then this client."


async def _lines(descriptor: int) -> AsyncGenerator[bytes]:
    """The lines of a file, which a thread reads that nobody waits for at the end: a read cannot be called off."""
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[bytes | None]()

    def put(line: bytes | None) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, line)

    def read() -> None:
        rest = b""
        # RuntimeError: the loop has ended before the file has.
        with suppress(RuntimeError):
            while chunk := os.read(descriptor, _CHUNK):
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    put(line)
            put(rest)
            put(None)

    threading.Thread(target=read, name="stdin", daemon=True).start()
    while (line := await queue.get()) is not None:
        if line.strip():
            yield line


async def _write(line: bytes) -> None:
    """Write a line to stdout, on a thread: a client that does not read holds up nothing else."""

    def write() -> None:
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()

    await to_thread.run_sync(write)
