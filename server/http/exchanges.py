"""How an exchange ends early: the client goes, or the server stops."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import Any

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOG = logging.getLogger(__name__)
_SDK_LOG = logging.getLogger("mcp.server.streamable_http")


class Exchanges:
    """Ends exchanges in order.

    The SDK cancels a call of the 2026 protocol when its client disconnects. It lets one of the 2025 protocols go on,
    because a client may fetch the answer later from an event store. Without such a store nobody can ever read that
    answer, so here the disconnect is passed on as what those protocols call a cancellation.

    The SDK acknowledges a notification before it hands it to the session, which the client may end in between: here the
    acknowledgement waits. A client that ends its session without waiting closes it under what it said last: that is
    no fault, and the SDK's report of one is left out.

    Args:
        app: what answers.
        resumable: the app keeps an event store, so that a disconnect means nothing.
    """

    def __init__(self, app: ASGIApp, *, resumable: bool = False) -> None:
        self._app, self._resumable = app, resumable
        self._streams = set[anyio.CancelScope]()
        _SDK_LOG.addFilter(_is_fault)

    def end_streams(self) -> None:
        """End the streams that stay open without a call, which would hold up the end of the server."""
        for stream in self._streams:
            stream.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the exchange on and see to its end."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(receive, send)
        with anyio.CancelScope() as stream:
            if _is_stream(scope):
                self._streams.add(stream)
            try:
                await self._app({**scope}, exchange.receive, exchange.send)
            except anyio.ClosedResourceError:
                _LOG.debug("a session ended under a message")
            finally:
                self._streams.discard(stream)
            await exchange.acknowledge()
        if stream.cancelled_caught:
            await exchange.finish()
        elif exchange.forsaken and not self._resumable:
            await self._cancel(scope, exchange.body)

    async def _cancel(self, scope: Scope, body: bytes) -> None:
        """Cancel the call that a forsaken exchange asked for, as its client would."""
        request_id = _request_id(body)
        if request_id is None or _value(scope, b"mcp-session-id") is None:
            return
        params = {"requestId": request_id, "reason": "the client has gone"}
        note = json.dumps({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}).encode()
        kept = [
            (name, value) for name, value in scope["headers"] if name not in {b"content-length", b"transfer-encoding"}
        ]
        headers = [*kept, (b"content-length", str(len(note)).encode())]
        parts: list[Message] = [{"type": "http.request", "body": note, "more_body": False}]

        async def receive() -> Message:
            return parts.pop() if parts else {"type": "http.disconnect"}

        async def send(_message: Message) -> None:
            """Drop the acknowledgement: nobody is there to read it."""

        await self._app({**scope, "headers": headers}, receive, send)


class _Exchange:
    """One request and its answer, watched."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self.body = b""
        self.forsaken = False
        self._begun = self._done = False
        self._acknowledgement: list[Message] = []

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.body += message.get("body", b"")
        elif not self._done:
            self.forsaken = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            # Whatever is said later, an error above all, takes the place of what nobody was told yet.
            self._acknowledgement = [message] if message["status"] == HTTPStatus.ACCEPTED else []
        elif self._acknowledgement:
            self._acknowledgement.append(message)
        if not self._acknowledgement:
            await self._pass_on(message)

    async def acknowledge(self) -> None:
        """Say that a notification was taken, once it was."""
        for message in self._acknowledgement:
            await self._pass_on(message)
        self._acknowledgement = []

    async def _pass_on(self, message: Message) -> None:
        self._begun = True
        self._done = message["type"] == "http.response.body" and not message.get("more_body", False)
        await self._send(message)

    async def finish(self) -> None:
        """Complete an answer that was cut off."""
        if not self._begun:
            await self.send({"type": "http.response.start", "status": 503, "headers": [(b"connection", b"close")]})
        if not self._done:
            await self.send({"type": "http.response.body", "body": b"", "more_body": False})


def _is_fault(record: logging.LogRecord) -> bool:
    """Whether the SDK reports more than a session that ended under a message."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, BaseExceptionGroup):
        return error.split(anyio.ClosedResourceError)[1] is not None
    return not isinstance(error, anyio.ClosedResourceError)


def _is_stream(scope: Scope) -> bool:
    """Whether the exchange stays open to tell of changes: in the 2025 protocols and in that of 2026."""
    return scope["method"] == "GET" or _value(scope, b"mcp-method") == b"subscriptions/listen"


def _value(scope: Scope, name: bytes) -> bytes | None:
    return next((value for key, value in scope["headers"] if key == name), None)


def _request_id(body: bytes) -> Any | None:  # noqa: ANN401 - a string or a number, as the client chose
    """The id of the request in a body; None when it holds none."""
    try:
        message = json.loads(body)
    except ValueError:
        return None
    return message.get("id") if isinstance(message, dict) and "method" in message else None
