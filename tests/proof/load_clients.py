"""Clients of both eras that ask without a pause for a while; a process of its own, which prints what they saw as JSON.

Each client does what agents do, in an order drawn by lot, and connects anew after some requests. Every answer is
checked; what was not expected is counted and kept.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from mcp import Client
from mcp.types import CallToolResult, TextContent

# A call that takes longer hangs: the longest work asked for is a second of computing, and some of it waits in line.
HANGS = 60.0
REQUESTS_A_SESSION = 25
SCU = "special_charge_up"
ERAS = {"legacy": "legacy", "modern": "2026-07-28"}


@dataclass
class Seen:
    """What all clients of this process saw.

    Attributes:
        asked: requests, by what they were.
        wrong: what was not expected.
        acknowledged: ids of the results that were said to be done.
        slowest: the longest request of each kind, in seconds.
        sessions: how often a client connected.
    """

    asked: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)
    slowest: dict[str, float] = field(default_factory=dict)
    sessions: Counter[str] = field(default_factory=Counter)


@dataclass
class Agent:
    """One connected client, and what it draws lots with."""

    client: Client
    era: str
    random: random.Random
    seen: Seen

    async def call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call a tool that must not fail."""
        called = await self.client.call_tool(tool, arguments)
        assert not called.is_error, f"{tool}({arguments}) answered with an error: {text_of(called)}"
        assert called.structured_content is not None, f"{tool}({arguments}) answered without content"
        return called.structured_content

    async def run(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Run an experiment to its end and note its id."""
        answer = await self.call(tool, arguments)
        assert answer["status"] == "done", f"{tool}({arguments}) ended as {answer['status']}: {answer['headline']}"
        assert answer["headline"], f"{tool}({arguments}) has no headline"
        self.seen.acknowledged.add(answer["spec_id"])
        return answer

    def small_sweep(self) -> dict[str, Any]:
        """A question that needs the model; always of the same few builds, whose vectors the server keeps."""
        few = {"sample_size": 5, "random_seed": self.random.randrange(20)}
        return {"feature_id": self.random.randrange(12), "family": SCU, "rungs": [29, 57], "dataset_slice": few}


def text_of(called: CallToolResult) -> str:
    return " ".join(part.text for part in called.content if isinstance(part, TextContent))


async def ask_stored(agent: Agent) -> None:
    few = {"sample_size": 5}
    await agent.run("family_1d_sweep", {"feature_id": 0, "family": SCU, "rungs": [29, 57], "dataset_slice": few})


async def ask_data(agent: Agent) -> None:
    await agent.run("weapon_sweep", {"feature_id": agent.random.randrange(12)})


async def ask_data_afresh(agent: Agent) -> None:
    answer = await agent.run("weapon_sweep", {"feature_id": agent.random.randrange(12), "options": {"fresh": True}})
    assert not answer["cached"], "a fresh run was answered from the store"


async def ask_model(agent: Agent) -> None:
    await agent.run("family_1d_sweep", agent.small_sweep() | {"options": {"fresh": True}})


async def ask_by_handle(agent: Agent) -> None:
    spec = agent.small_sweep()
    spec = {"type": "family_1d_sweep", "variables": {name: spec.pop(name) for name in ("family", "rungs")}, **spec}
    begun = await agent.call("run_spec", {"spec": spec, "options": {"wait_s": 0, "fresh": True}})
    await agent.run("get_run", {"run_id": begun["run_id"], "wait_s": 45})


async def ask_and_cancel(agent: Agent) -> None:
    spec = {"type": "family_1d_sweep", "feature_id": 0, "variables": {"family": SCU}}
    few = {"sample_size": 400, "random_seed": agent.random.randrange(10**6)}
    begun = await agent.call("run_spec", {"spec": {**spec, "dataset_slice": few}, "options": {"wait_s": 0}})
    await agent.call("cancel_run", {"run_id": begun["run_id"]})


async def ask_and_give_up(agent: Agent) -> None:
    with_options = agent.small_sweep() | {"options": {"fresh": True}}
    try:
        async with asyncio.timeout(agent.random.uniform(0.0, 0.2)):
            await agent.client.call_tool("family_1d_sweep", with_options)
    except TimeoutError:
        pass  # what was wanted: the client has gone on before the answer was there


async def search(agent: Agent) -> None:
    found = await agent.call("list_results", {"type": "weapon_sweep", "limit": 5})
    assert len(found["runs"]) <= 5, "a page of 5 results has more"


async def fetch(agent: Agent) -> None:
    for run_id in list(agent.seen.acknowledged)[:1]:
        await agent.run("get_run", {"run_id": run_id, "max_rows": 5})


async def read(agent: Agent) -> None:
    held = await agent.client.read_resource("mechinterp://skill", cache_mode="bypass")
    assert held.contents, "the guide is empty"
    for run_id in list(agent.seen.acknowledged)[:1]:
        held = await agent.client.read_resource(f"mechinterp://results/{run_id}", cache_mode="bypass")
        assert held.contents, f"result {run_id} is empty"


async def list_tools(agent: Agent) -> None:
    assert (await agent.client.list_tools(cache_mode="bypass")).tools, "no tools were listed"


async def greet(agent: Agent) -> None:
    """Ping; the modern era has none and no other empty request, so it lists the prompts."""
    if agent.era == "legacy":
        await agent.client.session.send_ping()
    else:
        assert (await agent.client.list_prompts(cache_mode="bypass")).prompts, "no prompts were listed"


async def ask_wrongly(agent: Agent) -> None:
    wrong = agent.random.choice([
        ("no_such_tool", {}),
        ("weapon_sweep", {"feature_id": -1}),
        ("weapon_sweep", {"feature_id": 0, "unheard_of": 1}),
        ("family_1d_sweep", {"feature_id": 0, "family": "no_such_family"}),
        ("get_run", {"run_id": "no-such-run"}),
    ])  # fmt: skip
    called = await agent.client.call_tool(*wrong)
    assert called.is_error, f"{wrong} was answered as if it were right"
    assert text_of(called), f"{wrong} was refused without a word"


ASKED: dict[Callable[[Agent], Awaitable[None]], int] = {
    ask_stored: 15, ask_data: 15, ask_data_afresh: 4, ask_model: 1, ask_by_handle: 1, ask_and_cancel: 1,
    ask_and_give_up: 2, search: 10, fetch: 15, read: 8, list_tools: 6, greet: 15, ask_wrongly: 8,
}  # fmt: skip
"""What is asked, and how often."""


async def session(url: str, era: str, chance: random.Random, seen: Seen, until: float) -> None:
    """Connect, ask a while, leave."""
    async with Client(url, mode=ERAS[era]) as client:
        seen.sessions[era] += 1
        agent = Agent(client, era, chance, seen)
        for _ in range(REQUESTS_A_SESSION):
            if time.monotonic() > until:
                return
            [ask] = chance.choices(list(ASKED), list(ASKED.values()))
            began = time.monotonic()
            try:
                async with asyncio.timeout(HANGS):
                    await ask(agent)
            except Exception as error:  # noqa: BLE001 - reported, and the test fails of it
                seen.wrong.append(f"{era}: {ask.__name__}: {type(error).__name__}: {error}"[:500])
            seen.asked[ask.__name__] += 1
            seen.slowest[ask.__name__] = max(seen.slowest.get(ask.__name__, 0.0), time.monotonic() - began)


async def keep_asking(url: str, era: str, seed: int, seen: Seen, until: float) -> None:
    """Be one client after another."""
    chance = random.Random(seed)
    while time.monotonic() < until:
        try:
            await session(url, era, chance, seen, until)
        except Exception as error:  # noqa: BLE001 - reported, and the test fails of it
            seen.wrong.append(f"{era}: its session failed: {error!r}"[:500])


async def main(url: str, seconds: float, each_era: int, seed: int) -> None:
    """Run as many clients of each era at once, and print what they saw."""
    seen, until = Seen(), time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        for number, era in enumerate([*ERAS] * each_era):
            group.create_task(keep_asking(url, era, seed * 1000 + number, seen, until))
    print(json.dumps(vars(seen) | {"acknowledged": sorted(seen.acknowledged)}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
