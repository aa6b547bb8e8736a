"""The official conformance suite, at both revisions, against the server with its fixtures and without."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

# Of each revision: what it requires; what the suite runs beside that and does not score; what the server does not serve
# (streams that can be resumed: a run goes on without its client, and get_run fetches it; the extension for tasks, for
# which the library of the protocol has no runtime); and what needs no fixture, by which the bare server is judged.
SCENARIOS: dict[str, dict[str, list[str]]] = json.loads(
    (Path(__file__).with_name("conformance_scenarios.json")).read_text(encoding="utf-8")
)
# Checks of the scenario server-stateless that call a fixture.
OF_FIXTURES = {
    "sep-2575-server-rejects-undeclared-capability",
    "sep-2575-missing-capability-http-400",
    "sep-2575-server-sends-prompts-list-changed-on-subscription",
    "sep-2575-server-sends-tools-list-changed-on-subscription",
}
Checks = dict[str, list[dict]]


def named(*kinds: str) -> list[tuple[str, str]]:
    """Revision and name of every scenario of these kinds."""
    return [(revision, name) for revision, lists in SCENARIOS.items() for kind in kinds for name in lists[kind]]


def suite(tool, served, folder: Path, *words: str) -> tuple[str, Checks]:
    """Run scenarios: what the suite said, and the checks of each."""
    done = tool("conformance", "server", "--url", served.url, *words, "-o", str(folder))
    checks = {}
    for file in folder.glob("*/checks.json"):
        scenario = re.fullmatch(r"server-(.+)-\d{4}-\d\d-\d\dT[\d-]+Z", file.parent.name)[1]
        checks[scenario] = json.loads(file.read_text(encoding="utf-8"))
    return f"{done.stdout}\n{done.stderr}\nexit status {done.returncode}", checks


def both_revisions(tool, served, folder: Path) -> dict[str, tuple[str, Checks]]:
    """Run what each revision requires."""
    return {revision: suite(tool, served, folder / revision, "--requirements", revision) for revision in SCENARIOS}


def assert_passed(checks: list[dict]) -> None:
    """Something beyond the form of the messages was checked, and nothing failed, warned or was left out."""
    bad = [check for check in checks if check["status"] not in {"SUCCESS", "INFO"}]
    assert not bad, json.dumps(bad, indent=1)
    assert {check["id"] for check in checks if check["status"] == "SUCCESS"} - {"wire-schema-valid"}


@pytest.fixture(scope="module")
def with_fixtures(tool, fixture_server, tmp_path_factory):
    return both_revisions(tool, fixture_server, tmp_path_factory.mktemp("conformance"))


@pytest.fixture(scope="module")
def without_fixtures(tool, bare_server, tmp_path_factory):
    return both_revisions(tool, bare_server, tmp_path_factory.mktemp("conformance"))


@pytest.mark.parametrize(("revision", "count"), [("2025-11-25", 30), ("2026-07-28", 37)])
def test_the_suite_runs_every_scenario_that_a_revision_requires_and_scores_all_passed(with_fixtures, revision, count):
    said, checks = with_fixtures[revision]
    lists = SCENARIOS[revision]
    assert len(lists["required"]) == count
    assert set(checks) == {*lists["required"], *lists["further"], *lists["not served"]}, said
    assert said.endswith("exit status 0"), said


@pytest.mark.parametrize(("revision", "scenario"), named("required", "further"))
def test_a_scenario_passes_with_its_fixtures(with_fixtures, revision, scenario):
    assert_passed(with_fixtures[revision][1][scenario])


@pytest.mark.parametrize(("revision", "scenario"), named("without fixtures"))
def test_a_scenario_that_needs_no_fixture_passes_on_the_bare_server(without_fixtures, revision, scenario):
    assert_passed(without_fixtures[revision][1][scenario])


def test_the_bare_server_is_stateless_in_all_that_needs_no_fixture(without_fixtures):
    checks = without_fixtures["2026-07-28"][1]["server-stateless"]
    assert {check["id"] for check in checks if check["status"] != "SUCCESS"} == OF_FIXTURES
    assert len({check["id"] for check in checks if check["status"] == "SUCCESS"}) > 20


def test_a_server_that_is_built_with_a_store_for_messages_resumes_streams(tool, resumable_server, tmp_path):
    words = ("--scenario", "server-sse-polling", "--spec-version", "2025-11-25")
    said, checks = suite(tool, resumable_server, tmp_path, *words)
    assert set(checks) == {"server-sse-polling"}, said
    assert_passed(checks["server-sse-polling"])


def test_no_scenario_makes_a_server_print_a_traceback(with_fixtures, without_fixtures, fixture_server, bare_server):
    for served in (fixture_server, bare_server):
        assert "Traceback" not in served.stderr, served.stderr
