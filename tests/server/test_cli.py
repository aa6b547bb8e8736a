"""The command line: flags from specs, formats, exit status, and what it says when a word is wrong."""

from __future__ import annotations

import json

import pytest
from mechinterp_runner.schemas.catalogue import find
from mechinterp_runner.schemas.errors import Cancelled
from mechinterp_runner.schemas.experiment_type import runner_names
from mechinterp_runner.schemas.result import ExperimentResult
from mechinterp_runner.server.command_line import commands
from mechinterp_runner.server.command_line.cli import build_parser, main
from mechinterp_runner.server.command_line.flags import spec_of
from mechinterp_runner.server.render import command_of

SWEEP = ["family-sweep", "--feature-id", "7", "--family", "special_charge_up"]


@pytest.fixture
def cli(toy, contexts, monkeypatch, capsys):
    """Run the command line on the toy experiment; returns (status, stdout, stderr)."""
    from mechinterp_runner.context import contexts as module

    monkeypatch.setattr(module, "Contexts", lambda home, compute=None: contexts)

    def cli(*words):
        try:
            status = main([str(word) for word in words])
        except SystemExit as error:
            status = error.code
        out, err = capsys.readouterr()
        return status, out, err

    return cli


def test_a_run_prints_markdown_when_stdout_is_no_terminal(cli):
    status, out, _ = cli(*SWEEP)
    assert status == 0
    assert out.startswith("# special_charge_up drives feature 7\n")
    assert "| rung | mean_delta |" in out
    assert "Stored in `" in out


def test_json_alone_is_on_stdout_and_loads_as_a_result(cli, store):
    status, out, _ = cli(*SWEEP, "--format", "json", "--id", "mine")
    assert status == 0
    assert ExperimentResult.model_validate_json(out) == store.result("mine")


def test_a_table_with_bars_is_printed_for_a_terminal(cli):
    _, out, _ = cli(*SWEEP, "--format", "table")
    assert "█" in out
    assert "special_charge_up drives feature 7" in out
    assert "warning: a warning of the run" in out
    assert "mechinterp-runner family-sweep --feature-id 7 --family swim_speed_up" in out


def test_every_field_of_the_spec_has_a_flag(cli, store):
    words = ["--rungs", "3,12", "--no-include-absent", "--percentile-min", "10", "--sample-size", "50", "--seed", "4"]
    record = ["--constraints", "max_ap_budget", "--description", "why", "--parent-hypothesis", "h1", "--id", "mine"]
    status, _, _ = cli(*SWEEP, *words, *record, "--weapon-filter", "40,Splattershot", "--model", "demo")
    assert status == 0
    spec = store.spec("mine")
    assert (spec.variables.rungs, spec.variables.include_absent) == ((3, 12), False)
    assert (spec.dataset_slice.percentile_min, spec.dataset_slice.random_seed) == (10.0, 4)
    assert spec.dataset_slice.weapon_filter == ("40", "Splattershot")
    assert (spec.constraints, spec.description, spec.parent_hypothesis) == (("max_ap_budget",), "why", "h1")
    assert "rungs" in store.result("mine").provenance.spec_passed["variables"]
    assert "mode" not in store.result("mine").provenance.spec_passed["variables"]


def test_an_alias_is_another_name_of_its_flag(cli):
    assert cli("family-sweep", "--feature-id", 7, "--fam", "special_charge_up")[0] == 0


def test_flags_before_the_command_count_too(cli, tmp_path):
    status, out, _ = cli("--format", "json", "--home", tmp_path / "other", *SWEEP)
    assert status == 0
    assert json.loads(out)["success"]
    assert len(list((tmp_path / "other" / "runs" / "results").iterdir())) == 1


def test_a_spec_file_runs_as_its_flags_would(cli, tmp_path, store):
    file = tmp_path / "spec.json"
    spec = {"id": "20250607_142531", "type": "family_1d_sweep", "feature_id": 7, "model_type": "demo"}
    file.write_text(json.dumps(spec | {"variables": {"family": "special_charge_up"}}))
    status, out, _ = cli("--spec-path", file, "--format", "json", "--output-dir", tmp_path / "out")
    assert status == 0
    assert json.loads(out)["spec_path"] == str(file)
    copy = tmp_path / "out" / "20250607_142531__f7__family-1d-sweep.json"
    assert ExperimentResult.model_validate_json(copy.read_text()) == store.result("20250607_142531")
    assert cli(*SWEEP, "--format", "json")[1].count('"cached": true') == 1


def test_a_dry_run_runs_nothing_in_both_modes(cli, tmp_path, toy, home):
    file = tmp_path / "spec.json"
    file.write_text('{"type": "family_1d_sweep", "feature_id": 7, "variables": {"family": "swim_speed_up"}}')
    for words in (SWEEP, ["--spec-path", file]):
        status, out, _ = cli(*words, "--dry-run", "--format", "json")
        assert status == 0
        assert json.loads(out)["forward_passes"] == 1000
    assert toy.runs == 0
    assert not home.runs.exists() or not list(home.runs.rglob("*.json"))


def test_a_failed_experiment_is_status_one_and_prints_what_it_finished(cli):
    status, out, _ = cli(*SWEEP, "--mode", "fail")
    assert status == 1
    assert "**Failed:** ZeroDivisionError: the experiment's own fault" in out
    assert "| 57 |" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["famly-sweep", "--feature-id", "7"], "unknown word 'famly-sweep': did you mean 'family-sweep'?"),
        (["family-sweep", "--famly", "x"], "unknown flag --famly: did you mean --family?"),
        (["family-sweep", "--sampel-size=3"], "unknown flag --sampel-size: did you mean --sample-size?"),
        (["--spec-pth", "x"], "unknown flag --spec-pth: did you mean --spec-path?"),
        (["family-sweep", "--feature-id", "7"], "missing argument '--family' (Family to sweep)"),
        ([*SWEEP, "--mode", "fin"], "--mode: Input should be 'fine'"),
        ([*SWEEP, "--mode", "fin"], "got 'fin': did you mean 'fine'?"),
        ([*SWEEP, "--rungs", "3,x"], "--rungs: Input should be a valid integer; got 'x' (rungs are the AP 3, 6, 12,"),
        ([*SWEEP[:2], "-1", *SWEEP[3:]], "--feature-id: Input should be greater than or equal to 0; got '-1'"),
        ([*SWEEP, "--sample-size", "0"], "--sample-size: Input should be greater than or equal to 1; got '0'"),
        ([*SWEEP, "--model", "ultra"], "unknown bundle 'ultra'"),
        ([*SWEEP, "--constraints", "one_rung"], "got 'one_rung': did you mean 'one_rung_per_family'?"),
        ([*SWEEP, "--format", "jsn"], "unknown word 'jsn': did you mean 'json'?"),
        ([*SWEEP, "--threads", "many"], "--threads"),
        ([], "name a command"),
        (["--spec-path", "x.json", *SWEEP], "--spec-path goes without a command"),
        ([*SWEEP, "--spec-path", "x.json"], "unknown flag --spec-path"),
        (["--home", "results", "--famly", "x"], "unknown flag --famly"),
        ([*SWEEP, "left over"], "left over"),
        (["--spec-path", "nowhere.json"], "nowhere.json cannot be read: No such file"),
        (["show", "nothing"], "unknown run id 'nothing': no result is stored in"),
        (["results", "--limit", "0"], "--limit: Input should be greater"),
        (["bundle", "verfy"], "unknown word 'verfy': did you mean 'verify'?"),
        (["build", "--out", "x"], "build needs one source"),
    ],
)
def test_a_bad_request_is_status_two_with_one_clear_message(cli, toy, words, message):
    status, out, err = cli(*words)
    assert status == 2
    assert message in err
    assert "Traceback" not in err
    assert out == ""
    assert toy.runs == 0


def test_a_spec_file_that_is_no_json_is_named(cli, tmp_path):
    file = tmp_path / "spec.json"
    file.write_bytes(b"\xff\xfe{")
    status, _, err = cli("--spec-path", file)
    assert status == 2
    assert f"{file} is not JSON" in err


def test_stored_results_are_listed_and_shown(cli):
    cli(*SWEEP, "--id", "mine", "--parent-hypothesis", "h1")
    assert "`mine` family_1d_sweep f7 demo: special_charge_up drives feature 7" in cli("results")[1]
    assert json.loads(cli("results", "--parent-hypothesis", "h2", "--format", "json")[1])["total"] == 0
    assert "mine" in cli("results", "--format", "table")[1]
    assert cli("show", "mine")[1].startswith("# special_charge_up drives feature 7")


def test_reindex_says_what_it_found(cli, store):
    cli(*SWEEP)
    (store.results / "broken.json").write_text("{")
    status, out, _ = cli("reindex")
    assert status == 0
    assert "1 results in" in out
    assert "unreadable: broken.json" in out


def test_types_are_listed_with_their_commands(cli):
    status, out, _ = cli("--list-types")
    assert status == 0
    assert "family_1d_sweep" in out
    assert "family-sweep" in out
    assert json.loads(cli("--list-types", "--format", "json")[1])["types"][0]["command"] == "family-sweep"


def test_a_bundle_is_verified_and_a_flipped_byte_found(cli, data_bundle):
    status, out, _ = cli("bundle", "verify", "toy")
    assert status == 0
    assert "8 features, 600 examples" in out
    assert cli("bundle", "verify", str(data_bundle))[1] == out
    file = data_bundle / "pooled.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    status, _, err = cli("bundle", "verify", "--bundle", data_bundle)
    assert status == 2
    assert "pooled.npy does not have the SHA-256" in err


@pytest.mark.parametrize("name", runner_names())
def test_every_command_has_help_and_its_flags_make_its_spec(name, capsys):
    experiment = find(name)
    with pytest.raises(SystemExit) as done:
        main([experiment.cli, "--help"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    for variable in experiment.variables.model_fields:
        assert f"--{variable.replace('_', '-')}" in shown
    for alias in experiment.aliases:
        assert f"--{alias.replace('_', '-')}" in shown


def test_a_command_made_of_a_spec_gives_the_spec_back():
    spec = {
        "type": "family_1d_sweep",
        "feature_id": 3,
        "model_type": "demo",
        "variables": {"family": "swim_speed_up", "rungs": [3, 12], "include_absent": False},
        "dataset_slice": {"sample_size": 5, "weapon_filter": ["Splattershot Jr."]},
        "constraints": ["max_ap_budget"],
        "parent_spec_id": "mine",
    }
    import shlex

    words = shlex.split(command_of(spec))
    assert words[0] == "mechinterp-runner"
    parser, _ = build_parser()
    made = spec_of(find("family_1d_sweep"), parser.parse_args(words[1:]))
    dumped = made.model_dump(mode="json", exclude_unset=True)
    assert dumped == spec


def test_a_type_without_a_runner_has_no_command():
    assert command_of({"type": "not_yet", "feature_id": 1}) is None


def test_the_first_interrupt_cancels_and_the_next_is_left_to_python():
    import signal

    before = signal.getsignal(signal.SIGINT)
    with commands.interruptible() as stopped:
        assert not stopped()
        signal.raise_signal(signal.SIGINT)
        assert stopped()
        assert signal.getsignal(signal.SIGINT) is before
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("end", "said"), [(KeyboardInterrupt(), "stopped"), (Cancelled("the run was cancelled"), "the run was cancelled")]
)
def test_what_is_stopped_from_the_keyboard_is_status_130_without_a_traceback(cli, monkeypatch, end, said):
    def stop(_given):
        raise end

    monkeypatch.setattr(commands, "reindex", stop)
    assert cli("reindex") == (130, "", f"mechinterp-runner: {said}\n")


def test_a_reader_that_goes_away_is_no_error(home, data_bundle):
    import subprocess
    import sys

    command = [sys.executable, "-m", "mechinterp_runner", "--list-types", "--format", "json"]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    writer.stdout.close()
    _, errors = writer.communicate(timeout=60)
    assert (writer.returncode, errors) == (0, "")
