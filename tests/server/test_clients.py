"""docs/clients.md is true: every block in it is run, and every server that it names is started and asked."""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import httpx2
import mechinterp_runner
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mechinterp_runner.server.command_line.cli import main

ROOT = Path(mechinterp_runner.__file__).resolve().parent
PAGE = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SHELL = [text for language, text in BLOCKS if language == "sh"]
SHARED = [text for text in SHELL if "--transport http" in text and "claude" not in text]
LINES = [text for text in SHELL if text not in SHARED]
CONFIGURATIONS = [block for block in BLOCKS if block[0] in {"json", "toml"}]
[AGENT] = [text for language, text in BLOCKS if language == "python"]
TO_ANSWER = 90
HOME, ADDRESS, PORT = "/home/you", "127.0.0.1:8321", "--port 8321"
# Programs that are not here: what they are told is written down, every word ended by one mark, every call by another.
WORD, CALL = "\037", "\036"
ABSENT = ("claude", "codex", "npx")
RECORDER = f"""#!/bin/sh
{{ printf '%s{WORD}' "${{0##*/}}" "$@"; printf '{CALL}'; }} >>"$CALLS"
"""


@dataclass(frozen=True)
class Server:
    """What a client is told of a server: the words of a command and its variables, or an address and its headers."""

    words: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Place:
    """The home folder of somebody who has followed the page, and the shared server that runs there."""

    home: Path
    port: int
    printed: str

    def filled(self, text: str) -> str:
        """What the page says, for this place."""
        return text.replace(HOME, str(self.home)).replace(ADDRESS, f"127.0.0.1:{self.port}")

    @property
    def token(self) -> str:
        return (self.home / ".mechinterp-token").read_text().strip()

    def sh(self, text: str) -> subprocess.CompletedProcess[str]:
        (self.home / "calls").write_text("")
        return subprocess.run(
            ["sh", "-euc", self.filled(text)],
            env=environment(self.home), cwd=self.home, capture_output=True, text=True, timeout=TO_ANSWER, check=False,
        )  # fmt: skip

    def calls(self) -> list[list[str]]:
        """What the last shell block told the programs that are not here."""
        written = (self.home / "calls").read_text()
        return [call.split(WORD)[:-1] for call in written.split(CALL)[:-1]]

    def server(self, words, env=None, headers=None) -> Server:
        """A server as a client is told of it, with the variables filled in as the client does it."""

        def known(text: str) -> str:
            text = re.sub(r"\$\{(?:env:|input:)?(?:MECHINTERP_TOKEN|mechinterp-token)\}", self.token, text)
            text = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", text)
            assert "${" not in text
            return text

        pairs = [tuple((name, known(value)) for name, value in (given or {}).items()) for given in (env, headers)]
        return Server(tuple(known(word) for word in words), *pairs)


def environment(home: Path) -> dict[str, str]:
    """The environment of somebody's shell: nobody's settings, and no proxy."""
    left_out = re.compile(r"MECHINTERP_.*|.*_proxy", re.IGNORECASE)
    path = os.pathsep.join([str(home / "bin"), str(home / "mechinterp-runner/.venv/bin"), os.environ["PATH"]])
    own = {name: value for name, value in os.environ.items() if not left_out.fullmatch(name)}
    return {**own, "HOME": str(home), "PATH": path, "CALLS": str(home / "calls"), "OMP_NUM_THREADS": "1"}


def put_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Somebody's home folder, with the shared server that the page says how to start."""
    home = tmp_path_factory.mktemp("you")
    put_program(
        home / "mechinterp-runner/.venv/bin/mechinterp-runner",
        f'#!/bin/sh\nexec "{sys.executable}" -m mechinterp_runner "$@"\n',
    )
    for name in ("python", "python3"):
        put_program(home / "bin" / name, f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    for name in ABSENT:
        put_program(home / "bin" / name, RECORDER)
    (home / "agent.py").write_text(AGENT)
    [text] = SHARED
    assert PORT in text
    command = ["sh", "-euc", text.replace(PORT, "--port 0")]
    with subprocess.Popen(
        command, env=environment(home), cwd=home, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            printed = next((line for line in process.stderr if "serving MCP" in line), "")
            assert printed, "the server did not start"
            yield Place(home, int(re.search(r":(\d+)/mcp", printed)[1]), printed)
        finally:
            os.killpg(process.pid, signal.SIGTERM)


async def _use(server: Server, home: Path, mode: str, use):
    with anyio.fail_after(TO_ANSWER):
        if not server.words[0].startswith("http"):
            assert Path(server.words[0]).is_absolute(), "clients do not know the path of the shell"
            # A client gives a server what its configuration names, and a few variables more.
            own = {"HOME": str(home), "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
            command = StdioServerParameters(
                command=server.words[0], args=list(server.words[1:]), env=own | dict(server.env)
            )
            async with Client(command, mode=mode) as client:
                return await use(client)
        [url] = server.words
        timeout = httpx2.Timeout(30, read=300)
        async with (
            httpx2.AsyncClient(headers=dict(server.headers), timeout=timeout, trust_env=False) as http,
            Client(streamable_http_client(url, http_client=http), mode=mode) as client,
        ):
            return await use(client)


@functools.cache
def tools_of(server: Server, home: Path) -> frozenset[str]:
    """Start a server, or connect to it, and list its tools; once for all clients that are told the same."""

    async def use(client):
        return frozenset(tool.name for tool in (await client.list_tools()).tools)

    return anyio.run(_use, server, home, "auto", use)


def check(server: Server, home: Path) -> None:
    """Connect as a client would; a server of its own has been told where its home is."""
    assert {"feature_overview", "run_spec", "get_run"} <= tools_of(server, home)
    if "serve" in server.words:
        assert dict(server.env) == {"MECHINTERP_HOME": str(home / "mechinterp")}
    if "connect" not in server.words:
        assert ("--toolsets" in server.words) == ("weapon_sweep" not in tools_of(server, home))


# -- blocks -------------------------------------------------------------------------------------------------------


def test_every_block_of_the_page_is_of_a_kind_that_is_tried():
    assert {language for language, _ in BLOCKS} == {"sh", "json", "toml", "python", "text"}
    assert PAGE.count("```") == 2 * len(BLOCKS)
    assert len(SHARED) == 1


@pytest.mark.parametrize(("language", "text"), CONFIGURATIONS, ids=range(len(CONFIGURATIONS)))
def test_every_server_of_a_configuration_is_started_and_lists_its_tools(place, language, text):
    text = place.filled(text)
    data = json.loads(text) if language == "json" else tomllib.loads(text)
    entries = data.get("mcpServers") or data.get("servers") or data.get("mcp_servers")
    assert entries
    for entry in entries.values():
        headers = entry.get("headers")
        if "bearer_token_env_var" in entry:
            headers = {"Authorization": f"Bearer ${{{entry['bearer_token_env_var']}}}"}
        words = [entry["url"]] if "url" in entry else [entry["command"], *entry["args"]]
        check(place.server(words, entry.get("env"), headers), place.home)


@pytest.mark.parametrize("text", LINES, ids=range(len(LINES)))
def test_every_line_for_the_shell_runs_and_names_a_server_that_answers(place, text):
    if "curl" in text and shutil.which("curl") is None:
        pytest.skip("no curl here")
    done = place.sh(text)
    assert done.returncode == 0, done.stderr
    called = place.calls()
    assert len(called) == len(re.findall(rf"^(?:{'|'.join(ABSENT)}) ", text, re.MULTILINE))
    for program, *words in called:
        if program == "npx":
            _inspect(place, words)
        else:
            check(_added(place, words), place.home)
    if "agent.py" in text:
        shown = [block for language, block in BLOCKS if language == "text" and "overview:" in block]
        assert done.stdout.startswith(shown[0])
        assert re.search(r"^\| 29 \| 29 \| special_charge_up_29 \|", done.stdout, re.MULTILINE), (
            "the note has the table"
        )
        # Both ways of running it store into the folder that was named, and not into the platform's own.
        assert list((place.home / "mechinterp" / "runs" / "results").glob("*__f0__family-1d-sweep.json"))
        assert not (place.home / ".local").exists()


def test_the_shared_server_says_what_the_page_shows(place):
    assert place.printed == place.filled(next(text for language, text in BLOCKS if language == "text"))


def test_the_agent_is_short_and_passes_the_spec_of_a_followup_on_unchanged():
    assert len(AGENT.splitlines()) < 60
    assert 'spec=lead["spec"]' in AGENT


def test_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)#]+)", PAGE) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


def _parser() -> argparse.ArgumentParser:
    return argparse.ArgumentParser(allow_abbrev=False)


def _pairs(given: list[str] | None, separator: str) -> dict[str, str]:
    return dict(re.split(separator, pair, maxsplit=1) for pair in given or ())


def _added(place: Place, words: list[str]) -> Server:
    """The server of ``claude mcp add`` or ``codex mcp add``, whose --env and --header take all words that follow."""
    head, command = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    parser = _parser()
    parser.add_argument("what", nargs=3)
    parser.add_argument("--transport", choices=["stdio", "http"], default="stdio")
    parser.add_argument("--url")
    parser.add_argument("--bearer-token-env-var")
    parser.add_argument("address", nargs="?")
    for name in ("--env", "--header"):
        parser.add_argument(name, nargs="+")
    given, rest = parser.parse_known_args(head)
    assert given.what[:2] == ["mcp", "add"]
    url = given.url or given.address or (rest[0] if rest else None)
    assert bool(url) != bool(command)
    headers = _pairs(given.header, ": ")
    if given.bearer_token_env_var:
        headers = {"Authorization": f"Bearer ${{{given.bearer_token_env_var}}}"}
    return place.server(command or [url], _pairs(given.env, "="), headers)


def _inspect(place: Place, words: list[str]) -> None:
    """Make the request of an Inspector line, whose own options come first, then the server, then the request."""
    assert words[:2] == ["-y", "@modelcontextprotocol/inspector@2.12.0"]
    end = words.index("--method") if "--method" in words else len(words)
    parser = _parser()
    for name in ("--cli", "-q"):
        parser.add_argument(name, action="store_true")
    parser.add_argument("-e", action="append")
    parser.add_argument("--header", action="append")
    parser.add_argument("--protocol-era", choices=["legacy", "modern"])
    parser.add_argument("target", nargs=argparse.REMAINDER)
    given = parser.parse_args(words[2:end])
    server = place.server(given.target, _pairs(given.e, "="), _pairs(given.header, ": "))
    if end == len(words):
        assert not given.cli
        check(server, place.home)
        return
    assert given.cli
    mode = {"legacy": "legacy", "modern": "2026-07-28", None: "auto"}[given.protocol_era]
    asked = _request(words[end:])
    if asked.method == "tools/list":
        check(server, place.home)
    else:
        anyio.run(_use, server, place.home, mode, functools.partial(_answered, asked))


def _request(words: list[str]) -> argparse.Namespace:
    parser = _parser()
    parser.add_argument("--method", choices=["tools/list", "tools/call", "resources/read"])
    parser.add_argument("--strict", action="store_true")
    parser.add_argument("--format", choices=["json"])
    parser.add_argument("--tool-name")
    parser.add_argument("--tool-arg", nargs="+")
    parser.add_argument("--tool-args-json", type=json.loads)
    parser.add_argument("--uri")
    return parser.parse_args(words)


async def _answered(asked: argparse.Namespace, client: Client) -> None:
    if asked.method == "resources/read":
        assert (await client.read_resource(asked.uri)).contents[0].text
        return
    given = {name: json.loads(value) for name, value in _pairs(asked.tool_arg, "=").items()}
    called = await client.call_tool(asked.tool_name, asked.tool_args_json or given)
    assert not called.is_error, called.content[0].text


# -- when it does not connect -------------------------------------------------------------------------------------


def told(text: str, printed: str) -> None:
    """A message is in the page's table, and is what is printed."""
    assert f"| `{text}" in PAGE
    assert text in printed, printed


def test_a_misspelt_toolset_is_told_as_the_page_shows(capsys):
    assert main(["serve", "--toolsets", "corre"]) == 2
    told("unknown toolset 'corre': did you mean 'core'?", capsys.readouterr().err)


def test_a_port_that_is_taken_is_told_as_the_page_shows(capsys, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "--transport", "http", "--port", port, "--home", str(tmp_path)]) == 2
    told("another program listens there", capsys.readouterr().err)


def test_a_token_that_others_can_read_is_told_as_the_page_shows(capsys, tmp_path):
    (tmp_path / "token").write_text("a-token-of-enough-characters")
    (tmp_path / "token").chmod(0o644)
    assert main(["connect", "http://127.0.0.1:1", "--token-file", str(tmp_path / "token")]) == 2
    told("others can read the token file", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("mechinterp-runner connect http://127.0.0.1:1", "no server answers at http://127.0.0.1:1/mcp"),
        ("mechinterp-runner connect http://127.0.0.1:8321", "needs its bearer token"),
        (
            "MECHINTERP_TOKEN=another-token-than-the-servers mechinterp-runner connect http://127.0.0.1:8321",
            "does not know this bearer token",
        ),
    ],
)
def test_a_bridge_that_cannot_connect_says_what_the_page_shows(place, line, text):
    done = place.sh(f"{line} </dev/null")
    assert done.returncode == 1
    told(text, done.stderr)


@pytest.mark.parametrize(
    ("path", "host", "status", "text"),
    [
        ("/mcp", "127.0.0.1", 401, "needs its bearer token"),
        ("/healthz", "lab.example.org", 421, "is not one this server goes by"),
        ("/", "127.0.0.1", 404, None),
    ],
)
def test_a_request_that_is_refused_is_told_as_the_page_shows(place, path, host, status, text):
    headers = {"host": host} | ({"authorization": f"Bearer {place.token}"} if status == 404 else {})
    answered = httpx2.get(f"http://127.0.0.1:{place.port}{path}", headers=headers, trust_env=False)
    assert answered.status_code == status
    assert f"HTTP {status}" in PAGE
    if text is not None:
        told(text, answered.text)
