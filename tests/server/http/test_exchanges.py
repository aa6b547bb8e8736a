"""Sessions that end under what their clients said last."""

from __future__ import annotations

import logging

import anyio
from mcp.client import Client
from mechinterp_runner.server.http.exchanges import Exchanges


def test_clients_that_leave_in_the_middle_of_what_they_say_are_no_fault(live, caplog):
    async def visit(client_leaves_after):
        async with Client(live.url, mode="legacy") as client:
            with anyio.move_on_after(client_leaves_after):
                await client.list_tools()

    async def main():
        for _ in range(10):
            async with anyio.create_task_group() as visits:
                for leaves_after in [0.0, 0.02] * 4:
                    visits.start_soon(visit, leaves_after)

    anyio.run(main)
    assert live.ask().status == 200
    said = [record for record in caplog.records if not record.name.startswith("mcp.client")]
    assert [record.getMessage() for record in said if record.levelno >= logging.ERROR] == []


def test_an_acknowledgement_waits_for_what_it_acknowledges_and_gives_way_to_an_error():
    said = []

    async def main(then):
        async def app(_scope, _receive, send):
            await send({"type": "http.response.start", "status": 202, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            assert said == []
            if then:
                await send({"type": "http.response.start", "status": then, "headers": []})
                await send({"type": "http.response.body", "body": b"why"})

        async def send(message):
            said.append(message.get("status") or message["body"])

        scope = {"type": "http", "method": "POST", "headers": []}
        await Exchanges(app)(scope, None, send)

    anyio.run(main, None)
    assert said == [202, b""]
    said.clear()
    anyio.run(main, 500)
    assert said == [500, b"why"]
