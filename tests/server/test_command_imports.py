"""A command imports its own experiment and no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from mechinterp_runner.schemas.catalogue import catalogue, of_command
from mechinterp_runner.server.command_line.cli import main

_PROBE = """
import json, sys
from mechinterp_runner.server.command_line.cli import build_parser
parsers = build_parser(json.loads(sys.argv[1]))[1]
runners = [name for name in sys.modules if name.startswith("mechinterp_runner.runners.") and name.count(".") == 2]
print(json.dumps([sorted(parsers), [name.rpartition(".")[2] for name in runners]]))
"""


def probe(*words: str) -> tuple[list[str], set[str]]:
    command = [sys.executable, "-c", _PROBE, json.dumps(words)]
    parsers, runners = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return parsers, set(runners) & set(catalogue())


def test_every_experiment_is_found_by_its_command():
    assert {experiment.cli: of_command(experiment.cli) for experiment in catalogue().values()} == {
        experiment.cli: experiment for experiment in catalogue().values()
    }


@pytest.mark.parametrize("word", ["", "no-such-command", "serve", "weapon_sweep", 'weapon-sweep", summary="'])
def test_other_words_name_no_experiment(word):
    assert of_command(word) is None


def test_a_command_imports_its_own_experiment():
    parsers, runners = probe("weapon-sweep", "--feature-id", "0")
    assert runners == {"weapon_sweep"}
    assert "weapon-sweep" in parsers


def test_a_line_that_names_no_experiment_has_them_all():
    parsers, runners = probe("--help")
    assert runners == set(catalogue())
    assert {experiment.cli for experiment in catalogue().values()} <= set(parsers)


@pytest.mark.parametrize(("words", "threads"), [(["weapon-sweep", "--help"], "1"), (["--help"], None)])
def test_one_experiment_takes_one_thread_for_its_small_products(words, threads, monkeypatch):
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    monkeypatch.setattr(os, "environ", environment)
    with pytest.raises(SystemExit):
        main(words)
    assert environment.get("OPENBLAS_NUM_THREADS") == threads


def test_threads_that_were_asked_for_stay(monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    with pytest.raises(SystemExit):
        main(["weapon-sweep", "--help"])
    assert os.environ["OPENBLAS_NUM_THREADS"] == "3"
