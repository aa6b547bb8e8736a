"""Lists tools and pings: at a steady rate, to print how long each answer took, or as one client after the other.

It measures the server, so it does next to nothing itself: a connection kept open, and an answer read but not parsed.
A request is sent when it is due; one whose forerunner has not been answered by then is sent at once, so that a server
that stalls is asked less often, but for at most as many requests as were due in the stall.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections import defaultdict
from typing import Any
from urllib.parse import urlsplit

MODERN, LEGACY = "2026-07-28", "2025-11-25"
INFO = {"name": "probe", "version": "1"}
ABOUT = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientInfo": INFO,
    "io.modelcontextprotocol/clientCapabilities": {},
}
# The modern era has no ping; its discovery is the request that costs as little.
PING = {LEGACY: "ping", MODERN: "server/discover"}
TO_ANSWER = 30


class Probe:
    """One connection of one era."""

    def __init__(self, url: str, era: str) -> None:
        parts = urlsplit(url)
        self.connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=TO_ANSWER)
        self.path, self.era, self.asked = parts.path, era, 0
        self.headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
        if era == LEGACY:
            greeting = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": INFO}
            self.ask("initialize", greeting)
            self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def ask(self, method: str, params: dict[str, Any] | None = None) -> float:
        """Send a request; the seconds until its answer was read to the end."""
        self.asked += 1
        params = {**(params or {}), **({"_meta": ABOUT} if self.era == MODERN else {})}
        message = {"jsonrpc": "2.0", "id": self.asked, "method": method, "params": params}
        began = time.perf_counter()
        status, answer = self.send(message)
        seconds = time.perf_counter() - began
        assert status == 200, f"{method} was answered with status {status}: {answer[:500]!r}"
        assert b'"result"' in answer, f"{method} was answered with {answer[:500]!r}"
        return seconds

    def send(self, message: dict[str, Any]) -> tuple[int, bytes]:
        extra = {"mcp-protocol-version": MODERN, "mcp-method": message["method"]} if self.era == MODERN else {}
        self.connection.request("POST", self.path, json.dumps(message).encode(), self.headers | extra)
        response = self.connection.getresponse()
        answer = response.read()
        if session := response.getheader("mcp-session-id"):
            self.headers |= {"mcp-session-id": session, "mcp-protocol-version": LEGACY}
        return response.status, answer

    def leave(self) -> None:
        """End the session, where there is one, and the connection."""
        if self.era == LEGACY:
            self.connection.request("DELETE", self.path, headers=self.headers)
            assert self.connection.getresponse().read() is not None
        self.connection.close()


def watch(
    url: str, era: str, due: float, period: float, until: float, seconds: dict[str, list[float]], wrong: list[str]
) -> None:
    """List tools and ping in turn, one request a period; how late the machine woke this thread tells how busy it is."""
    try:
        probe = Probe(url, era)
        while due < until:
            if (rest := due - time.monotonic()) > 0:
                time.sleep(rest)
                seconds["(waking up)"].append(time.monotonic() - due)
            method = "tools/list" if probe.asked % 2 else PING[era]
            seconds["tools/list" if method == "tools/list" else "ping"].append(probe.ask(method))
            due += period
    except Exception as error:  # noqa: BLE001 - reported, and the test fails of it
        wrong.append(f"{era}: {error!r}")


def measure(url: str, length: float, period: float, each_era: int) -> None:
    """Watch for so many seconds with as many clients of each era, and print what they saw."""
    seconds, wrong, begin = defaultdict[str, list[float]](list), list[str](), time.monotonic()
    eras = [*PING] * each_era
    # They take turns: clients that have nothing to do with each other do not ask at the same instant.
    watchers = [
        threading.Thread(target=watch, args=(url, era, begin + shift, period, begin + length, seconds, wrong))
        for era, shift in zip(eras, (number * period / len(eras) for number in range(len(eras))), strict=True)
    ]
    for watcher in watchers:
        watcher.start()
    for watcher in watchers:
        watcher.join()
    print(json.dumps({"seconds": seconds, "wrong": wrong}))


def visit(url: str, visits: int) -> None:
    """Be one client after another, of each era in turn, that connects, pings, lists tools and leaves."""
    for _ in range(visits):
        for era, ping in PING.items():
            probe = Probe(url, era)
            probe.ask(ping)
            probe.ask("tools/list")
            probe.leave()


if __name__ == "__main__":
    if sys.argv[1] == "visit":
        visit(sys.argv[2], int(sys.argv[3]))
    else:
        measure(sys.argv[2], float(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
