"""``mechinterp-runner batch``: where specs come from, what is printed, and the exit status."""

from __future__ import annotations

import json
import re
import signal

import pyarrow.parquet as pq
import pytest
from mechinterp_runner.schemas.catalogue import find
from mechinterp_runner.schemas.experiment_type import runner_names
from mechinterp_runner.server.batch.batch import Progress
from mechinterp_runner.server.command_line import batch_command
from mechinterp_runner.server.command_line.cli import main
from mechinterp_runner.server.command_line.flags import Parser
from mechinterp_runner.server.store.index import Query

MANY = ["batch", "--features", "0-3", "--type", "family-sweep", "--family", "swim_speed_up"]


@pytest.fixture
def cli(toy, home, data_bundle, capsys):
    """Run the command line on the toy experiment; returns (status, stdout, stderr)."""

    def cli(*words):
        try:
            status = main([str(word) for word in words])
        except SystemExit as error:
            status = error.code
        return status, *capsys.readouterr()

    return cli


@pytest.fixture
def specs_file(tmp_path):
    def write(*specs):
        path = tmp_path / "specs.jsonl"
        path.write_text("\n".join(json.dumps(spec) for spec in specs))
        return path

    return write


def spec(feature, mode="fine", **given):
    variables = {"family": "swim_speed_up", "mode": mode, "method": "observational"}
    return {"type": "family_1d_sweep", "feature_id": feature, "variables": variables, **given}


def test_a_question_about_many_features_takes_the_flags_of_its_type(cli, toy, store, tmp_path):
    path = tmp_path / "out.parquet"
    words = [*MANY, "--method", "observational", "--rungs", "3,12", "--seed", "4", "--parent-hypothesis", "h1"]
    status, out, err = cli(*words, "--summary", path)
    assert (status, err) == (0, "")
    assert re.fullmatch(r"4 specs: 4 run, 0 answered already, 0 failed, in 0:00:0\d; summary: .*out\.parquet\n", out)
    rows = pq.read_table(path).to_pylist()
    assert [row["feature_id"] for row in rows] == [0, 1, 2, 3]
    assert json.loads(rows[0]["variables"])["rungs"] == [3, 12]
    assert json.loads(rows[0]["dataset_slice"])["random_seed"] == 4
    assert store.search(Query(parent_hypothesis="h1"))[0] == 4
    assert cli(*words)[1].startswith("4 specs: 0 run, 4 answered already, 0 failed")
    assert toy.runs == 4


def test_a_file_of_specs_is_run_and_failures_are_listed_with_status_one(cli, specs_file):
    path = specs_file(spec(0), spec(1, "fail"), spec(2))
    status, out, _ = cli("batch", path)
    assert status == 1
    lines = out.splitlines()
    assert lines[0].startswith("3 specs: 2 run, 0 answered already, 1 failed")
    assert re.match(r"- failed: `\S+` family_1d_sweep f1: ZeroDivisionError: ", lines[1])
    assert lines[-1] == "the same command tries the failed ones again"
    answer = json.loads(cli("batch", path, "--format", "json")[1])
    assert (answer["skipped"], answer["failed"], answer["left"]) == (2, 1, 0)
    assert [(failure["feature_id"], failure["status"]) for failure in answer["failures"]] == [(1, "failed")]


def test_ctrl_c_stops_the_batch_and_the_same_command_goes_on(cli, toy, specs_file, monkeypatch):
    findings = toy._findings

    def interrupted(spec, table):
        if toy.runs == 3:
            signal.raise_signal(signal.SIGINT)
        return findings(spec, table)

    monkeypatch.setattr(toy, "_findings", interrupted)
    path = specs_file(*(spec(feature) for feature in range(7)))
    status, out, err = cli("batch", path)
    assert status == 1
    lines = out.splitlines()
    assert lines[0].startswith("7 specs: 3 run, 0 answered already, 0 failed, 4 not run, in ")
    assert lines[1:] == ["the same command goes on with the rest"]
    assert "Traceback" not in err
    assert cli("batch", path)[1].startswith("7 specs: 4 run, 3 answered already, 0 failed, in ")


def test_a_batch_that_is_stopped_at_once_says_so_and_goes_on_too(cli, toy, specs_file, monkeypatch):
    def killed(spec, table):
        raise KeyboardInterrupt

    path = specs_file(spec(0), spec(1))
    with monkeypatch.context() as once:
        once.setattr(toy, "_findings", killed)
        status, out, err = cli("batch", path)
    assert (status, out) == (130, "")
    assert err == "stopped; the same command goes on with the rest\n"
    assert cli("batch", path)[1].startswith("2 specs: 2 run, 0 answered already, 0 failed")


def test_a_dry_run_counts_and_runs_nothing(cli, toy, specs_file, home):
    cli("batch", specs_file(spec(0)))
    status, out, _ = cli("batch", specs_file(spec(0), spec(1), spec(1)), "--dry-run")
    assert status == 0
    assert out == "3 specs: 1 have a stored answer, 1 ask what another asks, 1 would be run\n"
    answer = json.loads(cli("batch", specs_file(spec(0), spec(1), spec(1)), "--dry-run", "--format", "json")[1])
    assert answer == {"total": 3, "stored": 1, "asked_twice": 1, "to_run": 1}
    assert toy.runs == 1
    assert len(list((home.runs / "summaries").iterdir())) == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["batch"], "batch needs one source of specs"),
        (["batch", "x.jsonl", *MANY[1:]], "batch needs one source of specs"),
        (["batch", "--features", "0-3"], "batch needs one source of specs"),
        (["batch", "nowhere.jsonl"], "nowhere.jsonl: it cannot be read as text"),
        (["batch", "--features", "3", "--type", "famly-sweep"], "unknown experiment type 'famly-sweep'"),
        ([*MANY, "--famly", "x"], "unknown flag --famly: did you mean --family?"),
        ([*MANY[:-2]], "missing argument '--family'"),
        ([*MANY, "--feature-id", "3"], "--feature-id is for a single run: a batch takes --features instead"),
        ([*MANY, "--output-dir", "x"], "--output-dir is for a single run: a batch takes --summary instead"),
        ([*MANY, "--workers", "2"], "--workers goes with --engine ray"),
        ([*MANY, "--features", "0-99"], "92 of 100 specs are wrong"),
        ([*MANY, "--model", "ultra"], "unknown bundle 'ultra'"),
    ],
)
def test_a_bad_request_is_status_two_and_runs_nothing(cli, toy, words, told):
    status, out, err = cli(*words)
    assert status == 2
    assert told in err
    assert out == ""
    assert toy.runs == 0


def test_wrong_specs_are_named_by_their_lines_or_features(cli, tmp_path):
    path = tmp_path / "specs.jsonl"
    path.write_text("\n".join(["", json.dumps(spec(1, id="a")), "", json.dumps(spec(99)), json.dumps(spec(2, id="a"))]))
    told = cli("batch", path)[2].splitlines()
    assert told[1].startswith("line 4: feature_id 99 is out of range")
    path.write_text("\n".join(["", json.dumps(spec(1, id="a")), "", json.dumps(spec(2, id="a"))]))
    assert cli("batch", path)[2].splitlines()[1].startswith("line 4: id 'a' is that of another spec of the batch")
    assert cli(*MANY, "--features", "6-9")[2].splitlines()[1].startswith("feature 8: feature_id 8 is out of range")


def test_an_empty_file_is_no_batch(cli, specs_file):
    status, _, err = cli("batch", specs_file())
    assert status == 2
    assert "holds no spec" in err


@pytest.mark.parametrize("name", runner_names())
def test_the_help_of_a_batch_shows_the_flags_of_every_type(name):
    parser = Parser(prog="batch")
    batch_command.add_flags(parser, ["batch", "--features", "0-3", "--type", name])
    shown = parser.format_help()
    for variable in find(name).variables.model_fields:
        assert f"--{variable.replace('_', '-')}" in shown
    assert "--features" in shown
    assert "--feature-id" not in shown
    assert "--percentile-min" in shown


def test_the_pace_of_a_batch_says_failures_rate_and_time_left():
    assert batch_command.pace_of(Progress(100)) == "specs"
    assert batch_command.pace_of(Progress(100, skipped=10, done=38, failed=2, seconds=20.0)) == (
        "specs, 2 failed, 2 a second, 0:00:25 left"
    )
    assert batch_command.pace_of(Progress(100, skipped=10)) == "specs"
