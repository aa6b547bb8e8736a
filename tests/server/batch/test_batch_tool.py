"""The tool run_batch: its summary is written when the last of its runs has ended, however it ended."""

from __future__ import annotations

import anyio
import pytest
from mcp.client import Client
from mechinterp_runner.server.app import App
from mechinterp_runner.server.batch.summary import read_summary
from mechinterp_runner.server.mcp_server import make_server

TOOL = "family_1d_sweep"


@pytest.fixture
def served(toy, home, contexts):
    """Call run_batch with specs; gives the answer, once the server has ended, and the rows of its summary."""

    def served(specs, **arguments):
        async def main():
            with anyio.fail_after(60):
                async with Client(make_server(App(home, contexts))) as client:
                    called = await client.call_tool("run_batch", {"specs": specs, **arguments})
                    assert not called.is_error, called.content
                    return called.structured_content

        answer = anyio.run(main)
        return answer, read_summary(home.runs / "summaries" / answer["summary"].rsplit("/", 1)[-1])

    return served


def ask(feature, mode="fine", **given):
    return {"type": TOOL, "feature_id": feature, "variables": {"family": "swim_speed_up", "mode": mode}, **given}


def test_the_summary_has_a_row_for_each_spec_in_order(served, store):
    answer, rows = served([ask(4), ask(2, "fail"), ask(3, "refuse"), ask(4)], wait_s=20)
    assert [row.feature_id for row in rows] == [4, 2, 3, 4]
    assert [row.status for row in rows] == ["done", "failed", "refused", "done"]
    assert [row.spec_id for row in rows[:2]] == [run["run_id"] for run in answer["runs"][:2]]
    assert store.result(rows[0].spec_id).headline == rows[0].headline


def test_runs_that_never_began_are_in_the_summary_too(served, toy):
    answer, rows = served([ask(1, "wait"), ask(2)])
    assert {run["status"] for run in answer["runs"]} <= {"queued", "running"}
    assert [row.status for row in rows] == ["cancelled", "cancelled"]
    assert "the server was stopped" in rows[1].error


def test_the_same_questions_have_the_same_summary_and_outputs_do_not_change_it(served):
    first, rows = served([ask(1), ask(2)], wait_s=20)
    hidden = {"outputs": {"diagnostics": False, "tables": False}}
    second, again = served([ask(1, **hidden), ask(2, **hidden)], wait_s=20)
    assert second["summary"] == first["summary"]
    assert [row.cached for row in again] == [True, True]
    assert [row.warnings for row in again] == [row.warnings for row in rows] == [1, 1]
