"""What a tool call costs beyond the work: a warm call over MCP against the same call from Python.

The reference does all that does not belong to the protocol: it checks the question, answers it from the store or runs
and stores it (`Executor.execute`), cuts the result to what is shown and writes it as text. A tool call does that on a
worker thread, and checks, sends, reads and checks again what is said. The client's own work is counted.

Over HTTP the work is done by another process, so the reference is not its own: it is the same call in this process, on
a store of the same size, timed in turn with it. Both processes run the same code on the same bundle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mcp.client import Client

from ..context.home import DEMO, Home
from ..schemas.errors import RequestError
from ..schemas.spec import parse_spec
from ..server.answers import Sent, answer
from ..server.app import App
from ..server.http.settings import MCP_PATH
from ..server.mcp_server import Server, make_server
from .frame import Bar, Call, Row, take_turns, timed
from .process import address_of, running, serve_command

ERAS = {"2025 protocol": "legacy", "2026 protocol": "auto"}
BARS = {"in memory": Bar("difference", 0.005), "over HTTP": Bar("difference", 0.015)}
REPEATS, QUICK_REPEATS = 60, 2
# After a computation, threads of OpenBLAS keep a core busy for 2^26 cycles, which the other process would miss.
_PAUSE = 0.05
_IN_PROCESS = "the call from Python"
Target = Server | str


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        name: what it stands for.
        type: experiment type.
        variables: of that type.
        fresh: run every time.
    """

    name: str
    type: str
    variables: dict[str, Any]
    fresh: bool

    def from_python(self, app: App) -> Call:
        """The call from Python."""

        async def ask() -> None:
            spec = parse_spec({"type": self.type, "feature_id": 0, "model_type": DEMO, "variables": self.variables})
            result = app.executor.execute(spec, app.contexts.get(DEMO), fresh=self.fresh)
            Sent.of(answer(result, app.store.path(result.spec_id)))

        return timed(ask)

    def from_client(self, client: Client) -> Call:
        """The tool call."""
        arguments = {"feature_id": 0, "model_type": DEMO, **self.variables, "options": {"fresh": self.fresh}}

        async def ask() -> None:
            called = await client.call_tool(self.type, arguments)
            if called.is_error:
                raise RequestError(f"the call that is measured failed: {called.content}")

        return timed(ask)


QUESTIONS = (
    Question("stored answer", "family_1d_sweep", {"family": "special_charge_up"}, fresh=False),
    Question("fresh observational run", "weapon_sweep", {}, fresh=True),
)


def measure(*, quick: bool = False) -> list[Row]:
    """Measure the overhead of tool calls, in memory and over HTTP, in both eras of the protocol."""
    return asyncio.run(_measure(QUICK_REPEATS if quick else REPEATS))


async def _measure(repeats: int) -> list[Row]:
    async with AsyncExitStack() as stack:
        here, there = (Path(stack.enter_context(TemporaryDirectory(prefix="bench-"))) for _ in range(2))
        app = App.at(Home.find(here))
        served = stack.enter_context(running(serve_command(there, "--transport", "http", "--port", "0")))
        targets = {"in memory": make_server(app, warm=True), "over HTTP": address_of(served) + MCP_PATH}
        return [row for question in QUESTIONS for row in await _ask(question, app, targets, repeats)]


async def _ask(question: Question, app: App, targets: Mapping[str, Target], repeats: int) -> list[Row]:
    """Time one question in every way, once everything is warm.

    The server closes a connection on which nothing was said for five seconds, and opening a bundle takes about as long:
    connections that are measured are opened when everything has answered once.
    """
    await question.from_python(app)()
    for target in targets.values():
        async with Client(target) as first:
            await question.from_client(first)()
    async with AsyncExitStack() as stack:
        clients = {
            (way, era): await stack.enter_async_context(Client(target, mode=mode))
            for way, target in targets.items()
            for era, mode in ERAS.items()
        }
        calls = {_IN_PROCESS: question.from_python(app)}
        calls |= {f"{way}, {era}": question.from_client(client) for (way, era), client in clients.items()}
        await take_turns(calls, 2)
        medians = await take_turns(calls, repeats, pause=_PAUSE if question.fresh else 0.0)
    return [
        Row(
            f"tool call {way}, {era}: {question.name}",
            medians[f"{way}, {era}"],
            _IN_PROCESS,
            medians[_IN_PROCESS],
            repeats,
            BARS[way],
        )
        for way, era in clients
    ]
