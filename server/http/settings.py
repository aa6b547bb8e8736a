"""Where the shared server listens and whom it answers."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ...schemas.errors import RequestError

TOKEN_VARIABLE = "MECHINTERP_TOKEN"  # noqa: S105 - the name of a variable, not a token
MCP_PATH = "/mcp"
_TOKEN_LENGTH = 16
_ADDRESS = re.compile(
    r"(?:(?P<scheme>https?)://)?(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(?P<port>\d{1,5}|\*))?", re.ASCII
)
_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")


class Address(NamedTuple):
    """A host or an origin as a header gives it, or as one is allowed; an allowed one without a port means any port."""

    scheme: str | None
    name: str
    port: str | None


@dataclass(frozen=True)
class HttpSettings:
    """Where to listen and whom to answer.

    Attributes:
        host: the address to listen on.
        port: the port; 0 takes any that is free.
        token: what every request must bear, except for ``/healthz``; None asks for none, which only loopback may.
        allowed_hosts: what a request may name as its host, such as ``lab.example.org``, with any port, or
            ``lab.example.org:8321``; on loopback the names of this machine are always allowed.
        allowed_origins: web pages that may ask, such as ``https://notes.example.org``; on loopback those of this
            machine may. Programs send no origin and are not concerned.
        max_request_bytes: the largest request that is read.
    """

    host: str = "127.0.0.1"
    port: int = 8321
    token: str | None = field(default=None, repr=False)
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    max_request_bytes: int = 4 * 1024 * 1024

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine can connect."""
        return is_loopback(self.host)

    @property
    def hosts(self) -> tuple[Address, ...]:
        """The hosts that are answered."""
        own = (*_LOOPBACK_NAMES, bracketed(self.host)) if self.is_loopback else ()
        return _addresses((*own, *self.allowed_hosts))

    @property
    def origins(self) -> tuple[Address, ...]:
        """The origins that are answered."""
        own = (*_LOOPBACK_NAMES, bracketed(self.host)) if self.is_loopback else ()
        return _addresses((*(f"http://{name}" for name in own), *self.allowed_origins))

    def check(self) -> None:
        """Check the settings before anything is opened.

        Raises:
            RequestError: the server would be open to others without a token or without naming its hosts, the token is
                weak, or a port, host, origin or size is none.
        """
        if not 0 <= self.port <= 65535:
            raise RequestError(f"--port {self.port} is no port: give one from 1 to 65535, or 0 for any that is free.")
        if not self.host.strip():
            raise RequestError("--host is empty: give an address, such as 127.0.0.1.")
        if self.max_request_bytes < 1024:
            raise RequestError(f"--max-request-bytes {self.max_request_bytes:,} is too few: give at least 1,024.")
        if self.token is not None:
            _check_token(self.token, "the token")
        for flag, allowed, with_scheme, example in (
            ("--allowed-host", self.allowed_hosts, False, "lab.example.org or lab.example.org:8321"),
            ("--allowed-origin", self.allowed_origins, True, "https://notes.example.org"),
        ):
            for given in allowed:
                found = parse_address(given)
                if found is None or (found.scheme is not None) != with_scheme:
                    raise RequestError(f"{flag} {given!r} is not of the form {example}, in lower case.")
        if not self.is_loopback:
            self._check_open()

    def _check_open(self) -> None:
        """Check what a server that others can reach must have."""
        reach = f"--host {self.host} can be reached from other machines"
        if self.token is None:
            raise RequestError(
                f"{reach}, so a bearer token is needed: --token-file FILE, or the variable {TOKEN_VARIABLE}. "
                "Nothing was opened."
            )
        if not self.allowed_hosts:
            raise RequestError(
                f"{reach}, so the names it goes by must be given: --allowed-host lab.example.org. Nothing was opened."
            )


def is_loopback(host: str) -> bool:
    """Whether an address is that of this machine, which no other can reach."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(path: Path | None, environ: Mapping[str, str] = os.environ) -> str | None:
    """The bearer token: from a file, else from the variable ``MECHINTERP_TOKEN``; None when neither is given.

    Raises:
        RequestError: the file cannot be read or others can read it, or the token is empty or weak. The message never
            holds the token.
    """
    if path is None:
        token = environ.get(TOKEN_VARIABLE)
        if token is not None:
            _check_token(token, f"the variable {TOKEN_VARIABLE}")
        return token
    token = _read_private(path)
    _check_token(token, f"the token in {path}")
    return token


def _read_private(path: Path) -> str:
    try:
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise RequestError(f"others can read the token file {path}: run `chmod 600 {path}` first.")
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise RequestError(f"the token file {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError:
        # Its own text quotes the file.
        raise RequestError(f"the token in {path} holds other characters than printable ASCII.") from None


def _check_token(token: str, what: str) -> None:
    advice = "`python -c 'import secrets; print(secrets.token_urlsafe(32))'` makes a good one."
    if not token:
        raise RequestError(f"{what} is empty. {advice}")
    if len(token) < _TOKEN_LENGTH:
        raise RequestError(f"{what} has {len(token)} characters; at least {_TOKEN_LENGTH} are needed. {advice}")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise RequestError(f"{what} holds white space or other characters than printable ASCII. {advice}")


def parse_address(text: str) -> Address | None:
    """Read a host (``name``, ``name:port``) or an origin (``scheme://name:port``); None when it is neither."""
    found = _ADDRESS.fullmatch(text)
    return Address(found["scheme"], found["name"], found["port"]) if found else None


def is_allowed(text: str, allowed: Iterable[Address]) -> bool:
    """Whether a host or origin, as a header gives it, is one of the allowed."""
    got = parse_address(text)
    if got is None or got.port == "*":
        return False
    return any(want[:2] == got[:2] and want.port in {None, "*", got.port} for want in allowed)


def as_patterns(allowed: Iterable[Address]) -> list[str]:
    """The allowed hosts or origins as the SDK writes them: without a port, and with any (``:*``) or with the one."""
    patterns = list[str]()
    for scheme, name, port in allowed:
        base = f"{scheme}://{name}" if scheme else name
        patterns += [base, f"{base}:*"] if port in {None, "*"} else [f"{base}:{port}"]
    return patterns


def bracketed(host: str) -> str:
    """A host as a URL writes it: an IPv6 address goes in brackets."""
    return f"[{host}]" if ":" in host else host


def _addresses(texts: Iterable[str]) -> tuple[Address, ...]:
    return tuple(dict.fromkeys(found for text in texts if (found := parse_address(text)) is not None))
