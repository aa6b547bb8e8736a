"""Who is answered: every route with each kind of request that must not be."""

from __future__ import annotations

import logging
import secrets

import anyio
import pytest
from mechinterp_runner.schemas.errors import RequestError
from mechinterp_runner.server.http.guard import Guard
from mechinterp_runner.server.http.settings import HttpSettings, read_token

TOKEN = secrets.token_urlsafe(24)
BEARER = {"authorization": f"Bearer {TOKEN}"}
ROUTES = {
    ("GET", "/healthz"): 200,
    ("HEAD", "/healthz"): 200,
    ("PUT", "/healthz"): 405,
    ("GET", "/metrics"): 200,
    ("POST", "/metrics"): 405,
    ("POST", "/mcp"): 400,
    ("GET", "/mcp"): 406,
    ("DELETE", "/mcp"): 400,
    ("OPTIONS", "/mcp"): 405,
    ("GET", "/mcp/"): 307,
    ("GET", "/healthz/"): 307,
    ("GET", "/nowhere"): 404,
    ("POST", "/nowhere"): 404,
}
FAULTS = {
    "no token": ({}, 401),
    "another token": ({"authorization": "Bearer " + "x" * 32}, 401),
    "part of the token": ({"authorization": f"Bearer {TOKEN[:-1]}"}, 401),
    "the token in another scheme": ({"authorization": f"Basic {TOKEN}"}, 401),
    "a foreign host": (BEARER | {"host": "evil.example.org"}, 421),
    "a host that begins like ours": (BEARER | {"host": "localhost.evil.example.org:80"}, 421),
    "a host with a name for a port": (BEARER | {"host": "localhost:evil.example.org"}, 421),
    "a foreign origin": (BEARER | {"origin": "http://evil.example.org"}, 403),
    "an origin that begins like ours": (BEARER | {"origin": "http://localhost.evil.example.org"}, 403),
    "no origin at all": (BEARER | {"origin": "null"}, 403),
}


@pytest.fixture
def guarded(start):
    return start(token=TOKEN, max_request_bytes=2000)


def test_a_request_with_the_token_from_this_machine_is_passed_on_every_route(guarded):
    for route, status in ROUTES.items():
        for headers in ({}, {"host": "localhost:99"}, {"host": "[::1]"}, {"origin": "http://localhost:5173"}):
            assert guarded.ask(*route, headers=BEARER | headers).status == status, (route, headers)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_request_that_must_not_be_answered_is_refused_on_every_route(guarded, fault):
    headers, status = FAULTS[fault]
    for route, otherwise in ROUTES.items():
        answer = guarded.ask(*route, headers=headers)
        if status == 401 and route[1] == "/healthz":
            assert answer.status == otherwise, route
            continue
        assert answer.status == status, route
        assert answer.headers["www-authenticate"] == ("Bearer" if status == 401 else None)
        assert route[0] == "HEAD" or answer.message["error"]["message"]
        assert TOKEN.encode() not in answer.body


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "in chunks"])
def test_a_request_that_is_too_large_is_refused_on_every_route(guarded, announced):
    for route, otherwise in ROUTES.items():
        body = b"x" * 2001 if announced else (b"x" * 667 for _ in range(3))
        assert guarded.ask(*route, body, BEARER).status == 413, route
        within = b"x" * 2000 if announced else (b"x" * 500 for _ in range(4))
        assert guarded.ask(*route, within, BEARER).status == otherwise, route


@pytest.mark.parametrize(("headers", "status"), [({}, b" 401 "), (BEARER, b" 413 ")])
def test_a_large_request_is_refused_unread(guarded, headers, status):
    wire = guarded.send("POST", "/mcp", b"x" * 5000, headers, part=200)
    assert status in wire.recv(1000)


def test_two_hosts_or_two_tokens_are_refused(guarded):
    for twice, status in (("host: 127.0.0.1", b" 400 "), (f"authorization: Bearer {TOKEN}", b" 401 ")):
        lines = ["GET /metrics HTTP/1.1", "host: 127.0.0.1", f"authorization: Bearer {TOKEN}", twice, "", ""]
        wire = guarded.send("GET", "/", b"", {}, part=0)
        wire.sendall("\r\n".join(lines).encode())
        assert status in wire.recv(1000)


def test_without_a_token_this_machine_is_answered_and_foreign_pages_are_not(live):
    assert live.ask(path="/metrics").status == 200
    assert live.ask(path="/metrics", headers={"origin": "https://evil.example.org"}).status == 403
    assert live.ask(path="/metrics", headers={"host": "evil.example.org"}).status == 421


def test_hosts_and_origins_that_were_allowed_are_answered_by_the_sdk_too(start):
    live = start(
        allowed_hosts=("lab.example.org", "other.example.org:81"), allowed_origins=("https://notes.example.org",)
    )
    given = {
        ("host", "lab.example.org:5"): True,
        ("host", "other.example.org:81"): True,
        ("host", "other.example.org:82"): False,
        ("host", "other.example.org"): False,
        ("origin", "https://notes.example.org"): True,
        ("origin", "https://notes.example.org:444"): True,
        ("origin", "http://notes.example.org"): False,
    }
    for (name, value), allowed in given.items():
        refused = 421 if name == "host" else 403
        assert live.ask(headers={name: value}).status == (200 if allowed else refused), value
        assert live.ask("GET", "/mcp", headers={name: value}).status == (406 if allowed else refused), value


def test_the_token_is_in_no_log_metric_or_text(guarded, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    for headers in (BEARER, {"authorization": f"Basic {TOKEN}"}, BEARER | {"host": "evil.example.org"}):
        answer = guarded.ask(path="/metrics", headers=headers)
        assert TOKEN.encode() not in answer.body
    guarded.stop()
    assert caplog.records
    written = "".join(capfd.readouterr())
    assert TOKEN not in caplog.text + written + repr(HttpSettings(token=TOKEN))


def passed_by_guard(scope):
    """Whether a guard passes a scope on, and what it sends instead."""
    sent, passed = [], []

    async def app(*_):
        passed.append(True)

    async def receive():
        return {"type": "http.request", "body": b""}

    async def send(message):
        sent.append(message)

    anyio.run(Guard(app, HttpSettings()), scope, receive, send)
    return bool(passed), sent


@pytest.mark.parametrize("hosts", [[], [b"localhost", b"localhost"], [b"localhost", b"evil.example.org"]])
def test_a_request_must_name_one_host(hosts):
    scope = {"type": "http", "method": "GET", "path": "/healthz", "headers": [(b"host", host) for host in hosts]}
    passed, sent = passed_by_guard(scope)
    assert (passed, sent[0]["status"]) == (False, 421)
    assert passed_by_guard(scope | {"headers": [(b"host", b"localhost")]}) == (True, [])


def test_a_websocket_is_closed_before_the_app_sees_it():
    scope = {"type": "websocket", "path": "/mcp", "headers": [(b"host", b"localhost")]}
    assert passed_by_guard(scope) == (False, [{"type": "websocket.close", "code": 1008}])


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"port": 65536}, "--port 65536"),
        ({"port": -1}, "--port -1"),
        ({"host": ""}, "--host is empty"),
        ({"max_request_bytes": 10}, "--max-request-bytes 10"),
        ({"token": "short"}, "has 5 characters"),
        ({"token": ""}, "is empty"),
        ({"token": "x" * 20 + " y"}, "white space"),
        ({"token": "x" * 20 + "é"}, "printable ASCII"),
        ({"host": "0.0.0.0", "allowed_hosts": ("lab.example.org",)}, "bearer token is needed"),
        ({"host": "0.0.0.0", "token": TOKEN}, "--allowed-host"),
        ({"host": "::", "token": TOKEN}, "--allowed-host"),
        ({"host": "192.168.1.7", "token": TOKEN}, "--allowed-host"),
        ({"allowed_hosts": ("http://lab.example.org",)}, "--allowed-host 'http://lab.example.org'"),
        ({"allowed_hosts": ("*",)}, "--allowed-host '*'"),
        ({"allowed_hosts": ("Lab.example.org",)}, "lower case"),
        ({"allowed_origins": ("notes.example.org",)}, "--allowed-origin 'notes.example.org'"),
    ],
)
def test_wrong_settings_are_told_before_anything_is_opened(settings, told):
    with pytest.raises(RequestError) as caught:
        HttpSettings(**settings).check()
    assert told in str(caught.value)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "localhost", "::1"])
def test_loopback_needs_no_token(host):
    HttpSettings(host=host).check()


def test_a_server_for_others_needs_a_token_and_a_name_and_answers_to_no_other():
    settings = HttpSettings(host="0.0.0.0", token=TOKEN, allowed_hosts=("lab.example.org:8321",))
    settings.check()
    assert [host.name for host in settings.hosts] == ["lab.example.org"]
    assert settings.origins == ()


def test_a_token_comes_from_a_private_file_or_the_environment(tmp_path):
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    path.chmod(0o600)
    assert read_token(path, {"MECHINTERP_TOKEN": "y" * 20}) == TOKEN
    assert read_token(None, {"MECHINTERP_TOKEN": TOKEN}) == TOKEN
    assert read_token(None, {}) is None


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_token_file_that_others_can_read_is_refused_with_what_to_do(tmp_path, mode):
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(mode)
    with pytest.raises(RequestError, match="chmod 600"):
        read_token(path, {})


@pytest.mark.parametrize("content", [b"", b"\n", b"short", b"secret words of mine\n", b"se\xfccret-of-some-length"])
def test_a_token_file_that_holds_no_good_token_is_refused_without_quoting_it(tmp_path, content):
    path = tmp_path / "token"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(RequestError) as caught:
        read_token(path, {})
    assert str(path) in str(caught.value)
    assert "secret" not in str(caught.value).replace("import secrets", "").replace("secrets.token_urlsafe", "")
    assert caught.value.__cause__ is None


def test_a_token_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RequestError, match="No such file"):
        read_token(tmp_path / "none", {})
    with pytest.raises(RequestError, match="MECHINTERP_TOKEN is empty"):
        read_token(None, {"MECHINTERP_TOKEN": ""})
