"""Who may ask: host, origin, token and size of every request, checked around the whole app."""

from __future__ import annotations

import hmac
import json

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .settings import HttpSettings, is_allowed

OPEN_PATH = "/healthz"
"""The one route that needs no token."""

_INVALID_REQUEST = -32600


class Refusal(Exception):  # noqa: N818 - an answer, not a fault
    """Why a request is not answered.

    Args:
        status: the HTTP status.
        message: what was got, and what to do.
        header: a further header of the answer.
    """

    def __init__(self, status: int, message: str, header: tuple[bytes, bytes] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.header = status, message, header

    async def answer(self, send: Send) -> None:
        """Send it, as the JSON-RPC error that MCP clients show."""
        error = {"code": _INVALID_REQUEST, "message": self.message}
        body = json.dumps({"jsonrpc": "2.0", "id": None, "error": error}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            # What is left of the request is not read.
            (b"connection", b"close"),
        ]
        if self.header:
            headers.append(self.header)
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Guard:
    """Checks every request of every route before the app sees it.

    The SDK's own checks cover only its own route; a route added beside it would be open.

    Args:
        app: what is guarded.
        settings: whom to answer.
    """

    def __init__(self, app: ASGIApp, settings: HttpSettings) -> None:
        self._app = app
        self._hosts, self._origins = settings.hosts, settings.origins
        self._token = None if settings.token is None else settings.token.encode()
        self._most = settings.max_request_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, refuse, or pass on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            self._check(scope)
            body = await self._read(receive)
        except Refusal as refusal:
            await refusal.answer(send)
            return
        if body is not None:
            await self._app(scope, _again(body, receive), send)

    def _check(self, scope: Scope) -> None:
        """Check what the head of a request says."""
        hosts = _values(scope, b"host")
        if len(hosts) != 1 or not is_allowed(hosts[0], self._hosts):
            raise Refusal(421, f"host {', '.join(hosts)!r} is not one this server goes by (--allowed-host adds one)")
        for origin in _values(scope, b"origin"):
            if not is_allowed(origin, self._origins):
                raise Refusal(403, f"origin {origin!r} may not ask this server (--allowed-origin adds one)")
        if scope["path"] != OPEN_PATH and not self._is_known(_values(scope, b"authorization")):
            raise Refusal(
                401,
                "this server needs its bearer token (--token-file, or the header 'Authorization: Bearer TOKEN')",
                (b"www-authenticate", b"Bearer"),
            )
        for length in _values(scope, b"content-length"):
            if length.isdecimal() and int(length) > self._most:
                raise self._too_large()

    def _is_known(self, given: list[str]) -> bool:
        """Whether the one ``Authorization`` header bears the token; compared in constant time."""
        if self._token is None:
            return True
        scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        return scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode("latin-1"), self._token)

    async def _read(self, receive: Receive) -> bytes | None:
        """Read the body, which need not say its length before; None when the client has gone."""
        parts, size = list[bytes](), 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._most:
                raise self._too_large()
            if not message.get("more_body", False):
                return b"".join(parts)

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the request is larger than {self._most:,} bytes: send it in parts")


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def _again(body: bytes, receive: Receive) -> Receive:
    """Receive the body that was read already, and then what comes after it."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay
