"""What /metrics says, read by the library's own parser."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from mechinterp_runner.schemas.spec import parse_spec
from prometheus_client.parser import text_string_to_metric_families

TYPE = "family_1d_sweep"


@pytest.fixture
def scrape(live):
    def read():
        answer = live.ask(path="/metrics")
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/plain; version=")
        samples = [
            sample for family in text_string_to_metric_families(answer.body.decode()) for sample in family.samples
        ]
        return {(sample.name, *sorted(sample.labels.values())): sample.value for sample in samples}

    return read


@pytest.fixture
def run(app):
    def begin(feature=7, **variables):
        spec = {"type": TYPE, "feature_id": feature, "variables": {"family": "special_charge_up"} | variables}
        return app.runs.submit(parse_spec(spec))

    return begin


def test_a_server_that_did_nothing_says_so(scrape):
    values = scrape()
    for slot in ("model", "data"):
        assert values["mechinterp_queue_length", slot] == 0
        assert values["mechinterp_runs_running", slot] == 0
    assert values[("mechinterp_forward_passes_made_total",)] == 0
    assert not [key for key in values if key[0] in {"mechinterp_runs_total", "mechinterp_cache_hits_total"}]


def test_runs_are_counted_by_type_and_outcome(scrape, run):
    done = run().ended.result(10)
    assert run().ended.result(10).cached
    failed = run(mode="fail").ended.result(10)
    assert run(mode="refuse").ended.exception(10)
    values = scrape()
    counted = {key[1:]: value for key, value in values.items() if key[0] == "mechinterp_runs_total"}
    outcomes = {"cached": 1, "done": 1, "failed": 1, "refused": 1}
    assert counted == {tuple(sorted((TYPE, outcome))): count for outcome, count in outcomes.items()}
    assert values["mechinterp_cache_hits_total", TYPE] == 1
    assert values[("mechinterp_forward_passes_made_total",)] == 14
    assert values[("mechinterp_forward_passes_saved_total",)] == 6
    spent = done.duration_seconds + failed.duration_seconds
    assert values["mechinterp_run_seconds_total", TYPE] == pytest.approx(spent)


def test_what_waits_goes_on_and_is_shared_is_shown_while_it_lasts(app, scrape, run, toy):
    first = run(mode="wait")
    assert toy.started.wait(10)
    assert run(mode="wait") is first
    others = [run(feature) for feature in (8, 9)]
    values = scrape()
    assert (values["mechinterp_runs_running", "model"], values["mechinterp_queue_length", "model"]) == (1, 2)
    assert (values["mechinterp_runs_running", "data"], values["mechinterp_queue_length", "data"]) == (0, 0)
    assert values[("mechinterp_shared_calls_total",)] == 1
    app.runs.cancel(first)
    for ended in (first, *others):
        ended.ended.result(10)
    assert scrape()["mechinterp_runs_running", "model"] == 0


def test_observational_runs_are_counted_in_their_own_slot(app, scrape, run, toy):
    first = run(mode="wait", method="observational")
    assert toy.started.wait(10)
    values = scrape()
    assert (values["mechinterp_runs_running", "data"], values["mechinterp_runs_running", "model"]) == (1, 0)
    app.runs.cancel(first)
    first.ended.result(10)


def test_counts_go_on_when_the_last_client_has_left_and_another_comes(app, scrape, run):
    async def come_and_go():
        async with app.serving():
            pass

    run().ended.result(10)
    anyio.run(come_and_go)
    assert scrape()[("mechinterp_runs_total", *sorted((TYPE, "done")))] == 1


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell")
def test_memory_threads_and_files_of_the_process_are_told(scrape):
    values = scrape()
    assert 1 < values[("process_resident_anonymous_memory_bytes",)] < values[("process_resident_memory_bytes",)]
    assert values[("process_threads",)] >= 2
    assert values[("process_open_fds",)] > 3


def test_the_version_is_told(scrape):
    from importlib.metadata import version

    assert scrape()["mechinterp_build_info", version("mechinterp-runner")] == 1
