"""A team over one server: planner, runner, summariser, investigator; nothing but handles passes between them."""

from __future__ import annotations

import sys

import anyio
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters

PLAN = {
    "type": "feature_overview",
    "feature_id": 3,
    "parent_hypothesis": "h001",
    "rationale": "feature 3 is active in few builds: what do they share?",
}
DONE = {"done", "failed", "cancelled", "interrupted"}


@pytest.fixture(params=["legacy", "auto"])
def era(request):
    return request.param


async def call(client, name, **arguments):
    called = await client.call_tool(name, arguments, read_timeout_seconds=120)
    assert not called.is_error, called.content[0].text
    return called.structured_content


async def planner(client) -> str:
    """Writes a spec and hands the handle over before the run is done."""
    checked = await call(client, "validate_spec", spec=PLAN)
    assert checked["valid"]
    begun = await call(client, "run_spec", spec=PLAN, options={"wait_s": 0})
    return begun["run_id"]


async def summariser(client, handle: str) -> tuple[str, list[str]]:
    """Waits for a run, reads its note, and queues what it suggests; hands over the new handles."""
    answer = await call(client, "get_run", run_id=handle, wait_s=60)
    assert answer["status"] == "done"
    note = (await call(client, "get_run", run_id=handle, response_format="markdown"))["note"]
    specs = [item["spec"] for item in answer["followups"] if item["spec"]["type"] != "minimal_cores"]
    batch = await call(client, "run_batch", specs=specs)
    return note, [row["run_id"] for row in batch["runs"]]


async def investigator(client, handles: list[str]) -> list[dict]:
    """Follows the handles to their results and walks from the hypothesis to every run of the thread."""
    answers = []
    for handle in handles:
        while (answer := await call(client, "get_run", run_id=handle, wait_s=60))["status"] not in DONE:
            pass
        answers.append(answer)
    return answers


def test_a_team_finds_a_planted_rule_with_nothing_but_handles_passed_between_them(tmp_path, era):
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "mechinterp_runner", "serve", "--home", str(tmp_path)]
    )

    async def main():
        async with Client(server, mode=era) as client:
            first = await planner(client)
            note, handles = await summariser(client, first)
            answers = await investigator(client, handles)
            thread = await call(client, "list_results", parent_spec_id=first)
            root = await call(client, "list_results", parent_hypothesis="h001")
            found = await call(client, "list_results", text="share h001")
            return first, note, answers, thread, root, found

    first, note, answers, thread, root, found = anyio.run(main)
    assert note.startswith("# feature 3 (active in 2.9%) goes most with run_speed_up (RSU)")
    assert "CORRELATIONAL" in note
    headlines = {answer["experiment_type"]: answer["headline"] for answer in answers}
    assert "drives feature 3" in headlines["family_1d_sweep"]
    assert "only both together act" in headlines["pairwise_interactions"]
    assert {row["spec_id"] for row in thread["runs"]} == {answer["run_id"] for answer in answers}
    assert first in {row["spec_id"] for row in root["runs"]}
    assert [row["rationale"] for row in root["runs"] if row["spec_id"] == first] == [PLAN["rationale"]]
    assert first in {row["spec_id"] for row in found["runs"]}, "its rationale and hypothesis are searched too"
