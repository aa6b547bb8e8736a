"""How the command line treats its reader: what it suggests and explains, and how it fits a narrow screen."""

from __future__ import annotations

import errno
import io
import json
import os
import shlex
from pathlib import Path

import pytest
from mechinterp_runner import load_context, run
from mechinterp_runner.schemas.catalogue import catalogue, find
from mechinterp_runner.schemas.experiment_type import runner_names
from mechinterp_runner.schemas.result import ExperimentResult, Table
from mechinterp_runner.schemas.spec import parse_spec
from mechinterp_runner.server.command_line import terminal
from mechinterp_runner.server.command_line.cli import build_parser, main
from mechinterp_runner.server.command_line.flags import example_of, nearest_flag, spec_of
from pydantic import BaseModel
from rich.console import Console

SWEEP = ["family-sweep", "--feature-id", "7", "--family", "special_charge_up"]


@pytest.fixture
def call(home, capsys):
    """Run the command line; returns (status, stdout, stderr)."""

    def call(*words):
        try:
            status = main([str(word) for word in words])
        except SystemExit as error:
            status = error.code
        return (status, *capsys.readouterr())

    return call


@pytest.fixture
def toy_call(toy, contexts, monkeypatch, call):
    """The same, with the toy experiment."""
    from mechinterp_runner.context import contexts as module

    monkeypatch.setattr(module, "Contexts", lambda home, compute=None: contexts)
    return call


# -- what is required -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", runner_names())
def test_a_command_without_its_required_flags_names_them_and_shows_a_complete_one(name, call):
    experiment = find(name)
    status, out, err = call(experiment.cli)
    assert (status, out) == (2, "")
    required = [field for field, info in experiment.variables.model_fields.items() if info.is_required()]
    for field in ("feature_id", *required):
        assert f"missing argument '--{field.replace('_', '-')}' (" in err
    assert f"\n  {example_of(experiment)}\n" in err
    parser, _ = build_parser()
    assert spec_of(experiment, parser.parse_args(shlex.split(example_of(experiment))[1:])).type == name


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return load_context("demo", home=tmp_path_factory.mktemp("home"), device="cpu")


@pytest.mark.parametrize("name", runner_names())
def test_the_example_of_a_command_is_a_question_that_can_be_asked(name, demo):
    parser, _ = build_parser()
    spec = spec_of(find(name), parser.parse_args(shlex.split(example_of(find(name)))[1:]))
    assert "no example" not in find(name).plan(spec, demo).conditions


@pytest.mark.parametrize("name", runner_names())
def test_help_groups_flags_and_marks_what_is_required(name, call):
    experiment = find(name)
    _, out, _ = call(experiment.cli, "--help")
    titles = ["\nrequired:", "\nvariables:", "\nslice (which examples", "\nrecord:", "\nwhere and how:", "\noutput:"]
    places = [out.index(title) for title in (*titles, "\nexample:")]
    assert places == sorted(places)
    required, rest = out[places[0] : places[1]], out[places[1] :]
    for field, info in experiment.variables.model_fields.items():
        written = f"--{field.replace('_', '-')}"
        assert written in (required if info.is_required() else rest)
        assert (f"{written} TEXT" in out.splitlines()[0]) == info.is_required()
    assert "--feature-id N" in required


def test_a_fraction_that_a_type_reads_itself_is_told_once(home, demo):
    data = {"type": "core_coverage_analysis", "feature_id": 0, "variables": {"effective_max_percentile": 0.995}}
    warnings = run(data, demo).diagnostics.warnings
    assert len([warning for warning in warnings if "read as a fraction" in warning]) == 1
    assert len([note for note in parse_spec(data).notes if "read as a fraction" in note]) == 1


def test_every_flag_of_every_command_has_help():
    _, parsers = build_parser()
    silent = [
        (name, action.option_strings)
        for name, parser in parsers.items()
        for action in parser._actions
        if not action.help
    ]
    assert silent == []


# -- suggestions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "given", "meant"),
    [
        ("interactions", "--tokens", "--candidate-tokens"),
        ("interactions", "--token", "--candidate-tokens"),
        ("conditional", "--tokens", "--candidate-tokens"),
        ("conditional", "--modulator", "--modulator-token"),
        ("family-sweep", "--tokens", "--stable-tokens"),
        ("family-sweep", "--rung", "--rungs"),
        ("heatmap", "--rungs", "--rungs-x"),
        ("binary", "--rungs", "--primary-rungs"),
        ("coverage", "--check", "--tokens-to-check"),
        ("decoder", "--steering", "--steer"),
        ("itemsets", "--condition", "--condition-on"),
        ("minimal-cores", "--clamp", "--clamp-families"),
        ("minimal-cores", "--exclude-family", "--exclude-families"),
        ("weapon-sweep", "--weapons", "--weapon-filter"),
        ("overview", "--min-percentile", "--percentile-min"),
        ("overview", "--sampel-size", "--sample-size"),
    ],
)
def test_an_unknown_flag_is_answered_with_the_one_that_was_meant(command, given, meant, call):
    status, _, err = call(command, given, "x")
    assert status == 2
    assert f"unknown flag {given}: did you mean {meant}?" in err


@pytest.mark.parametrize("name", runner_names())
def test_a_list_flag_with_a_letter_missing_is_recognised(name):
    experiment = find(name)
    _, parsers = build_parser()
    options = {text: a.nargs is None for a in parsers[experiment.cli]._actions for text in a.option_strings}
    lists = [field for field, info in experiment.variables.model_fields.items() if "tuple" in str(info.annotation)]
    for written in [f"--{field.replace('_', '-')}" for field in lists]:
        assert nearest_flag(written[:3] + written[4:], options) == written


def test_a_flag_like_no_other_is_answered_with_all_of_them(call):
    _, _, err = call("overview", "--zzz", "x")
    assert "unknown flag --zzz. Allowed: " in err
    assert "--feature-id" in err


def test_a_value_that_is_refused_is_named_with_its_flag_and_what_is_allowed(call):
    _, _, err = call("family-sweep", "--feature-id", "0", "--family", "special_charge_up", "--rungs", "1,2,99")
    assert "--rungs: Input should be less than or equal to 57; got '99' (rungs are the AP 3, 6, 12," in err
    assert "rungs.2" not in err


# -- fractions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["table", "markdown", "json"])
def test_a_percentile_that_looks_like_a_fraction_is_noted_in_the_result(form, toy_call):
    _, out, _ = toy_call(*SWEEP, "--percentile-min", "0.9", "--format", form)
    assert "percentile_min 0.9 was read as 0.9 %" in out.replace("\n", " ")


def test_a_percentile_that_looks_like_a_fraction_is_noted_by_a_dry_run(toy_call, tmp_path):
    file = tmp_path / "spec.json"
    spec = {"type": "family_1d_sweep", "feature_id": 7, "variables": {"family": "x"}}
    file.write_text(json.dumps(spec | {"dataset_slice": {"percentile_max": 0.9}}))
    for words in ([*SWEEP, "--percentile-max", "0.9"], ["--spec-path", file]):
        _, out, _ = toy_call(*words, "--dry-run")
        assert out.count("- note: percentile_max 0.9 was read as 0.9 %") == 1
        _, out, _ = toy_call(*words, "--dry-run", "--format", "json")
        assert [note for note in json.loads(out)["notes"] if note.startswith("percentile_max 0.9")]


# -- the dry run, the list --------------------------------------------------------------------------------------------


def test_a_dry_run_speaks_to_people(toy_call):
    _, out, _ = toy_call(*SWEEP, "--dry-run", "--sample-size", "50", "--rungs", "3,12")
    assert out.startswith("Dry run: family_1d_sweep of feature 7 on bundle demo. Nothing was run.\n")
    assert "- variables: family special_charge_up; rungs 3, 12; include_absent yes; " in out
    assert "\n- slice: sample_size 50\n" in out
    assert "\n- forward passes: 1,000, about 1.0 s\n" in out
    assert "\n- stored answer: none, so it would be run\n" in out
    assert "\n- note: a note\n" in out
    assert not [mark for mark in ("None", "True", "{", "[") if mark in out]


def test_a_dry_run_of_an_answered_question_names_the_answer(toy_call):
    toy_call(*SWEEP, "--id", "mine")
    _, out, _ = toy_call(*SWEEP, "--dry-run")
    assert "\n- stored answer: mine\n" in out
    assert "`mechinterp-runner show mine` prints the answer" in out


@pytest.mark.parametrize("form", ["table", "markdown"])
def test_an_empty_store_says_so_and_how_to_begin(form, call):
    status, out, _ = call("results", "--format", form)
    assert status == 0
    assert out.startswith("no result is stored in ")
    assert "`mechinterp-runner overview --feature-id 0`" in out


@pytest.mark.parametrize("form", ["table", "markdown"])
def test_filters_that_match_nothing_are_named_beside_how_much_is_stored(form, toy_call):
    toy_call(*SWEEP)
    _, out, _ = toy_call("results", "--feature-id", "8", "--no-success", "--text", "a b", "--format", form)
    assert out == "none of the 1 stored results matches --feature-id 8 --no-success --text 'a b'\n"


def test_a_list_counts_what_is_shown_what_matches_and_what_is_stored(toy_call):
    for rungs in ("3", "6", "12"):
        toy_call(*SWEEP, "--rungs", rungs, "--parent-hypothesis", "h1" if rungs == "3" else "h2")
    assert toy_call("results", "--limit", "2")[1].endswith("\n2 of 3 stored results\n")
    last = toy_call("results", "--parent-hypothesis", "h2", "--limit", "1")[1].splitlines()[-1]
    assert last == "1 of 2 results that match --parent-hypothesis h2; 3 stored in all"
    assert toy_call("results", "--offset", "9")[1] == "--offset 9 is past the last of 3 results\n"


def test_showing_a_result_of_an_empty_store_says_that_it_is_empty(call):
    status, _, err = call("show", "mine")
    assert status == 2
    assert "unknown run id 'mine': no result is stored in" in err


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["results"],
        ["show", "x"],
        ["reindex"],
        ["serve"],
        ["bundle", "verify"],
        ["overview", "--feature-id", "0"],
        ["demo"],
    ],
)
def test_a_home_that_is_a_file_is_refused_by_every_command(words, call, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    status, out, err = call(*words, "--home", file)
    assert (status, out) == (2, "")
    assert f"the home folder {file} is a file: name a folder" in err
    assert file.read_text() == ""


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is not JSON: it is empty. Nothing was run."),
        (b"\x89PNG\r\n\x1a\n", "is not JSON: it is not text (byte 0x89 at position 0). Nothing was run."),
        (b"[1, 2]", ": a spec is a JSON object; got a list. Nothing was run."),
        (
            b'{"reason": "r", "spec": {"type": "feature_overview"}}',
            "such as a followup: pass its `spec`. Nothing was run.",
        ),
        (b'{"type": "feature_overview", "feature_id": 0, "sample_size": 5}', "it belongs in 'dataset_slice'. Nothing"),
    ],
)
def test_a_file_that_holds_no_spec_is_refused_with_its_name_and_why(content, told, call, tmp_path):
    file = tmp_path / "spec.json"
    file.write_bytes(content)
    status, out, err = call("--spec-path", file)
    assert (status, out) == (2, "")
    assert f"error: {file}" in err
    assert told in err


def test_a_folder_and_nothing_at_all_are_no_spec_files(call, tmp_path):
    assert f"--spec-path {tmp_path} cannot be read: Is a directory" in call("--spec-path", tmp_path)[2]
    assert "--spec-path names no file" in call("--spec-path", "")[2]


def test_a_spec_file_that_may_not_be_read_is_refused(call, tmp_path, monkeypatch):
    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    status, _, err = call("--spec-path", tmp_path / "spec.json")
    assert status == 2
    assert "cannot be read: Permission denied" in err


# -- narrow screens ---------------------------------------------------------------------------------------------------


class Line(BaseModel):
    name: str
    delta_from_global: float


@pytest.fixture
def narrow():
    """A screen of 60 columns."""
    return Console(file=io.StringIO(), width=60, force_terminal=False)


def lines_of(console) -> list[str]:
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_types_fit_a_narrow_screen(call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    _, out, _ = call("--list-types", "--format", "table")
    assert max(map(len, out.splitlines())) <= 60
    assert all(f"{item.cli} ({item.type})" in out for item in catalogue().values())


def test_results_are_paragraphs_on_a_narrow_screen(toy_call, monkeypatch):
    toy_call(*SWEEP, "--id", "mine")
    monkeypatch.setenv("COLUMNS", "60")
    _, out, _ = toy_call("results", "--format", "table")
    assert [line.rstrip() for line in out.splitlines()] == [
        "mine family_1d_sweep of feature 7, demo",
        "  special_charge_up drives feature 7",
        "1 of 1 stored results",
    ]


def test_words_of_a_table_stay_whole_on_a_narrow_screen(narrow):
    rows = [Line(name=name, delta_from_global=value) for name, value in (("shooter", 2.0), ("splatana", -1.0))]
    terminal.print_table(
        narrow, Table(name="classes", columns=[*Line.model_fields], rows=[r.model_dump() for r in rows])
    )
    shown = lines_of(narrow)
    assert max(map(len, shown)) <= 60
    assert any("shooter" in line and "█" in line for line in shown)
    assert any("splatana" in line and "▒" in line for line in shown)


def test_what_is_not_for_a_terminal_has_no_escape_codes(toy_call):
    for form in ("table", "markdown", "json"):
        _, out, _ = toy_call(*SWEEP, "--format", form)
        assert "\x1b" not in out
    assert ExperimentResult.model_validate_json(out).success
