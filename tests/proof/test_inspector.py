"""The official Inspector's command line against the server, over both transports and in both eras of the protocol."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mechinterp_runner
import pytest
from mechinterp_runner.schemas.catalogue import catalogue

ROOT = Path(mechinterp_runner.__file__).resolve().parent
# The Inspector's exit statuses.
UNREACHABLE, TOOL_ERROR, UNPORTABLE = 4, 5, 6
# Three types, with what the rules that were planted in the demo bundle say about the features.
CALLS = [
    (
        "family_1d_sweep",
        {"feature_id": 0, "family": "special_charge_up", "dataset_slice": {"sample_size": 60}},
        "special_charge_up (SCU) drives feature 0: +2.0",
        "a step at 29 AP",
    ),
    ("weapon_sweep", {"feature_id": 9}, "stands out on feature 9", "CORRELATIONAL"),
    ("feature_overview", {"feature_id": 0}, "goes most with special_charge_up (SCU) at 29 AP", "CORRELATIONAL"),
]
Inspect = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module", params=["stdio", "http"])
def target(request, tmp_path_factory) -> list[str]:
    """The words that name the server: a command, or a URL."""
    if request.param == "http":
        return [request.getfixturevalue("bare_server").url]
    home = tmp_path_factory.mktemp("stdio")
    environment = ["-e", f"MECHINTERP_HOME={home}", "-e", "OMP_NUM_THREADS=1"]
    return ["--cwd", str(home), *environment, sys.executable, "-m", "mechinterp_runner", "serve"]


@pytest.fixture(scope="module", params=["legacy", "modern"])
def inspect(request, tool, target) -> Inspect:
    """Run one method through the Inspector; without -q it would print what it warns of."""

    def call(method: str, *words: str) -> subprocess.CompletedProcess[str]:
        era = ["--protocol-era", request.param, "--format", "json"]
        return tool("mcp-inspector", "--cli", *target, *era, "--method", method, *words)

    return call


def result_of(done: subprocess.CompletedProcess[str]) -> dict:
    """The result of a method that went well: nothing was warned of on the way."""
    said = f"{' '.join(done.args)}\nexit status {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr}"
    assert done.returncode == 0, said
    assert "Traceback" not in done.stderr, said
    assert not [line for line in done.stderr.splitlines() if "warn" in line.lower() or "portability" in line], said
    return json.loads(done.stdout)


def test_every_tool_is_listed_with_a_portable_schema_and_no_warning(inspect):
    listed = result_of(inspect("tools/list", "--strict"))
    assert "schemaFindings" not in listed
    names = [tool["name"] for tool in listed["result"]["tools"]]
    assert {*catalogue(), "run_spec", "validate_spec", "get_run", "list_results", "describe_context"} <= set(names)
    assert all(tool["outputSchema"] for tool in listed["result"]["tools"])


@pytest.mark.parametrize(("name", "arguments", "finding", "kind"), CALLS, ids=[call[0] for call in CALLS])
def test_an_experiment_runs_and_finds_what_was_planted(inspect, name, arguments, finding, kind):
    words = json.dumps({**arguments, "options": {"fresh": True}})
    answer = result_of(inspect("tools/call", "--tool-name", name, "--tool-args-json", words))["result"]
    shown = answer["structuredContent"]
    assert finding in shown["headline"]
    assert kind in shown["headline"]
    assert shown["experiment_type"] == name
    assert json.loads(answer["content"][0]["text"])["headline"] == shown["headline"]


def test_a_wrong_argument_is_a_tool_error_that_says_nothing_was_run(inspect):
    done = inspect("tools/call", "--tool-name", "weapon_sweep", "--tool-args-json", '{"feature": 9}')
    assert done.returncode == TOOL_ERROR, done.stderr
    text = json.loads(done.stdout)["result"]["content"][0]["text"]
    assert "feature_id" in text
    assert "Nothing was run." in text


def test_the_guides_are_listed_and_read(inspect):
    listed = {item["uri"] for item in result_of(inspect("resources/list"))["result"]["resources"]}
    types = {f"mechinterp://experiment-types/{name}" for name in catalogue()}
    assert {"mechinterp://skill", "mechinterp://glossary", *types} <= listed
    [read] = result_of(inspect("resources/read", "--uri", "mechinterp://skill"))["result"]["contents"]
    assert read["text"] == (ROOT / "skill.md").read_text(encoding="utf-8")


def test_the_templates_of_stored_results_are_listed(inspect):
    listed = result_of(inspect("resources/templates/list"))["result"]["resourceTemplates"]
    assert {item["uriTemplate"] for item in listed} == {
        "mechinterp://results/{id}",
        "mechinterp://results/{id}/tables/{name}",
        "mechinterp://specs/{id}",
        "mechinterp://experiment-types/{type}",
    }


def test_a_prompt_is_listed_and_written_for_its_arguments(inspect):
    listed = {item["name"] for item in result_of(inspect("prompts/list"))["result"]["prompts"]}
    assert listed == {"plan_experiments", "summarize_result", "investigate_feature"}
    words = ("--prompt-name", "investigate_feature", "--prompt-args", "feature_id=7")
    [message] = result_of(inspect("prompts/get", *words))["result"]["messages"]
    assert message["role"] == "user"
    assert "feature 7" in message["content"]["text"].lower()


@pytest.mark.parametrize(("era", "stateless"), [("legacy", False), ("modern", True)])
def test_the_inspector_speaks_the_era_it_is_told_to(tool, bare_server, era, stateless):
    words = ("--protocol-era", era, "--format", "json", "--method", "tools/call", "--tool-name", "describe_context")
    meta = result_of(tool("mcp-inspector", "--cli", bare_server.url, *words))["result"].get("_meta", {})
    assert ("io.modelcontextprotocol/serverInfo" in meta) == stateless


def test_an_unportable_schema_would_have_been_seen(tool, fixture_server):
    done = tool("mcp-inspector", "--cli", fixture_server.url, "--method", "tools/list", "--strict", "--format", "json")
    assert done.returncode == UNPORTABLE
    found = json.loads(done.stdout)["schemaFindings"]
    assert [(item["toolName"], item["findings"][0]["rule"]) for item in found] == [("unportable", "boolean-schema")]


def test_an_unreachable_server_would_have_been_seen(tool):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    done = tool("mcp-inspector", "--cli", f"http://127.0.0.1:{port}/mcp", "--method", "tools/list", "--format", "json")
    assert done.returncode == UNREACHABLE, done.stderr
