"""Two fuzzers of others against the server: mcp-adversarial, which speaks stdio only, and mcp-fuzzer over HTTP."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
import urllib.request
from importlib.resources import files

import jsonschema
import pytest
from mcp import Client

HOSTILE = {"control_chars", "injection_preamble", "oversize_string", "path_traversal", "unicode_format"}
# mcp-fuzzer makes numbers that JSON has no word for; its own client cannot send them, and nothing reaches the server.
NOT_SENT = "Out of range float values are not JSON compliant"
# Findings that are none. An error names the value that was given, as it must; it is text for a model and goes into no
# page, shell or database. Every call that was answered counts as malformed; whether it was is checked below. And HTTP
# without TLS never leaves this machine.
HARMLESS = {"injection_reflection", "accepted_malformed", "insecure_transport"}
RUNS = 6


async def tools_of(url: str) -> dict[str, dict]:
    """Name and input schema of each tool."""
    async with Client(url) as client:
        return {tool.name: tool.input_schema for tool in (await client.list_tools()).tools}


@pytest.fixture(scope="module")
def tools(bare_server):
    return asyncio.run(tools_of(bare_server.url))


@pytest.fixture(scope="module")
def fuzzed(tool, bare_server, tmp_path_factory):
    """The report of mcp-fuzzer on all tools: its findings, the outcomes of each tool, and what it said."""
    out = tmp_path_factory.mktemp("fuzzer")
    done = tool(
        "mcp-fuzzer", "--mode", "tools", "--phase", "both", "--runs", str(RUNS), "--protocol", "streamablehttp",
        "--endpoint", bare_server.url, "--seed", "1", "--security-audit", "--security-audit-intrusive",
        "--fail-if-no-tools", "--output-dir", str(out),
    )  # fmt: skip
    said = f"{done.stdout}\n{done.stderr}\nexit status {done.returncode}"
    [report] = out.glob("sessions/*/*_fuzzing_results.json")
    outcomes = json.loads(report.read_text(encoding="utf-8"))["data"]["tools_tested"]
    return json.loads((out / "findings.json").read_text(encoding="utf-8"))["findings"], outcomes, said


@pytest.mark.parametrize("command", ["serve", "connect"])
def test_hostile_strings_harm_no_tool_over_stdio_nor_through_the_bridge_to_http(
    tool, bare_server, tools, tmp_path, command
):
    words = [sys.executable, "-m", "mechinterp_runner", command]
    if command == "connect":
        words.append(bare_server.url)
    report = tmp_path / "report.json"
    hostile = files("mcp_adversarial") / "fixtures" / "generic"
    done = tool(
        "mcp-adversarial", "run", "--server", shlex.join(words), "--fixtures", str(hostile), "--report", str(report),
        "--timeout", "60",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(report.read_text(encoding="utf-8"))["results"]
    assert {result["fixture_id"] for result in results} == {f"generic_{name}" for name in HOSTILE}
    assert all(set(result["tool"].split(",")) == set(tools) for result in results)


def test_every_tool_is_fuzzed_in_both_phases_without_crash_anomaly_or_exception(fuzzed, tools):
    _, outcomes, said = fuzzed
    assert said.endswith("exit status 0"), said
    assert {tool["name"]: tool["runs"] for tool in outcomes} == dict.fromkeys(tools, 2 * RUNS), said
    for tool in outcomes:
        assert {tool["outcomes"][bad] for bad in ("crashed", "anomaly", "safety_blocked")} == {0}, said
        assert {error["message"] for error in tool["exception_details"]} <= {NOT_SENT}, said
    reached = sum(tool["runs"] - tool["outcomes"]["exceptions"] for tool in outcomes)
    assert reached > 0.85 * 2 * RUNS * len(tools), said


def test_the_fuzzer_finds_no_hole(fuzzed):
    findings, _, said = fuzzed
    assert [finding for finding in findings if finding["category"] not in HARMLESS] == [], said


def test_what_the_server_answered_was_valid_by_the_published_schema(fuzzed, tools):
    findings, _, said = fuzzed
    accepted = [finding for finding in findings if finding["category"] == "accepted_malformed"]
    assert accepted, said
    for finding in accepted:
        validator = jsonschema.Draft202012Validator(tools[finding["target"]])
        assert list(validator.iter_errors(finding["evidence"]["input"])) == [], finding


def post(url: str, body: str, **headers: str) -> tuple[str, str]:
    """Post a message as it stands: the session and the answer."""
    accept = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    asked = urllib.request.Request(url, body.encode(), {**accept, **headers})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return answer.headers["mcp-session-id"], answer.read().decode()


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN", "1e999"])
def test_a_number_that_the_fuzzer_could_not_send_is_refused_by_name(bare_server, number):
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
    session, _ = post(bare_server.url, json.dumps(message))
    call = {"name": "weapon_sweep", "arguments": {"feature_id": 0, "min_effect": "NUMBER"}}
    message |= {"id": 2, "method": "tools/call", "params": call}
    _, answer = post(bare_server.url, json.dumps(message).replace('"NUMBER"', number), **{"mcp-session-id": session})
    assert "min_effect: " in answer
    assert "Nothing was run." in answer
    assert '"isError":true' in answer


@pytest.mark.parametrize("mode", ["resources", "prompts"])
def test_hostile_requests_for_pages_are_refused(tool, bare_server, tmp_path, mode):
    done = tool(
        "mcp-fuzzer", "--mode", mode, "--phase", "both", "--protocol-phase", "aggressive", "--runs-per-type", "5",
        "--protocol", "streamablehttp", "--endpoint", bare_server.url, "--seed", "1", "--output-dir", str(tmp_path),
        "--spec-resource-uri", "mechinterp://skill", "--spec-prompt-name", "investigate_feature",
        "--spec-prompt-args", '{"feature_id": "7"}',
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Failed: 0 | Warned: 0" in done.stdout, done.stdout
    findings = json.loads((tmp_path / "findings.json").read_text(encoding="utf-8"))["findings"]
    assert {finding["category"] for finding in findings} <= HARMLESS


def test_the_server_is_well_afterwards_and_no_answer_held_a_traceback(fuzzed, bare_server, tools):
    findings, _, said = fuzzed
    assert "Traceback" not in bare_server.stderr, bare_server.stderr
    assert "Traceback" not in said + json.dumps(findings)
    assert asyncio.run(tools_of(bare_server.url)) == tools
