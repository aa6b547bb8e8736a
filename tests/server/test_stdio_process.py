"""The server as a real process over stdio."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys

import anyio
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters

SERVE = [sys.executable, "-m", "mechinterp_runner", "serve"]
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


def talk(home, use, mode="auto"):
    parameters = StdioServerParameters(
        command=SERVE[0], args=SERVE[1:], env=dict(os.environ) | {"MECHINTERP_HOME": str(home.root)}
    )

    async def main():
        with anyio.fail_after(120):
            async with Client(parameters, mode=mode) as client:
                return await use(client)

    return anyio.run(main)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_an_experiment_runs_through_a_real_process_and_is_stored(home, data_bundle, mode):
    question = {"feature_id": 1, "family": "swim_speed_up", "method": "observational"}

    async def use(client):
        await client.list_tools()
        refused = await client.call_tool("family_1d_sweep", question | {"famly": 1})
        assert refused.is_error
        called = await client.call_tool("family_1d_sweep", question | {"options": {"spec_id": "mine"}})
        return called.structured_content

    answer = talk(home, use, mode)
    assert answer["spec_id"] == "mine"
    stored = json.loads((home.runs / "results" / "mine__f1__family-1d-sweep.json").read_text())
    assert stored["headline"] == answer["headline"]
    assert stored["success"], stored["error_message"]


def test_initialize_is_answered_before_torch_and_numpy_are_imported(tmp_path):
    command = [sys.executable, "-X", "importtime", *SERVE[1:], "--home", str(tmp_path)]
    log = tmp_path / "imports.txt"
    with log.open("w") as stderr:
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True)
        server.stdin.write(json.dumps(INITIALIZE) + "\n")
        server.stdin.flush()
        answer = json.loads(server.stdout.readline())
        server.communicate(timeout=60)
    assert answer["result"]["serverInfo"]["name"] == "mechinterp-runner"
    assert "describe_context" in answer["result"]["instructions"]
    [icon] = answer["result"]["serverInfo"]["icons"]
    assert base64.b64decode(icon["src"].removeprefix("data:image/svg+xml;base64,")).startswith(b"<svg")
    assert server.returncode == 0
    imported = {line.rsplit("|", 1)[-1].strip() for line in log.read_text().splitlines()}
    assert "mcp.server" in imported
    assert not {"torch", "numpy", "scipy"} & imported, "the client hung up before the server had any need of them"


def test_garbage_on_the_wire_does_not_stop_the_server(tmp_path):
    lines = ["this is no JSON", '{"jsonrpc": "2.0"}', json.dumps(INITIALIZE)]
    done = subprocess.run(
        [*SERVE, "--home", str(tmp_path)],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["id"] for answer in answers if "result" in answer] == [1]
