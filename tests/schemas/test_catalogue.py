"""Experiments are found by their files; one that is broken stops the program and never vanishes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import mechinterp_runner
import pytest
from mechinterp_runner.schemas.catalogue import catalogue, find
from mechinterp_runner.schemas.errors import RequestError, UnknownNameError
from mechinterp_runner.schemas.experiment_type import DESIGNED, runner_names
from mechinterp_runner.schemas.spec import ExperimentSpec, Variables

ROOT = Path(mechinterp_runner.__file__).parent
RUNNER = """
from typing import Literal
from pydantic import Field
from ..schemas.catalogue import Plan, experiment
from ..schemas.result import Findings
from ..schemas.spec import ExperimentSpec, Variables

class TasteVariables(Variables):
    flavour: str = Field(default="salt", description="Flavour.")

class TasteSpec(ExperimentSpec):
    type: Literal["taste"] = "taste"
    variables: TasteVariables = TasteVariables()

def plan(spec, ctx):
    return Plan(contexts=0, conditions="none")

@experiment("taste", spec=TasteSpec, plan=plan, cli="taste", summary="How it tastes.", tables={},
            methods=("observational",), cost="data", toolset="core", aliases={"f": "flavour"})
def run(spec, ctx, job):
    return Findings(headline=spec.variables.flavour)
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package that holds the schemas and no runner yet."""
    folder = tmp_path / "mechinterp_runner"
    shutil.copytree(ROOT / "schemas", folder / "schemas", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "__init__.py", folder)
    (folder / "runners").mkdir()
    (folder / "runners" / "__init__.py").touch()
    return folder


def python(package: Path, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=package.parent, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(package.parent)},
    )  # fmt: skip


def test_a_new_file_is_a_new_experiment_with_nothing_else_touched(package):
    (package / "runners" / "taste.py").write_text(RUNNER)
    code = (
        "from mechinterp_runner import ExperimentSpec, ExperimentType, catalogue\n"
        "spec = ExperimentSpec(type=ExperimentType.TASTE, feature_id=1, variables={'flavour': 'sweet'})\n"
        "found = catalogue()['taste']\n"
        "print(list(catalogue()), type(spec).__name__, found.cli, found.variables.__name__, dict(found.aliases))\n"
        "print(found.run(spec, None, None).headline)"
    )
    done = python(package, code)
    assert done.stdout.splitlines() == ["['taste'] TasteSpec taste TasteVariables {'f': 'flavour'}", "sweet"], (
        done.stderr
    )


def test_a_runner_whose_import_fails_stops_the_program_with_its_own_error(package):
    (package / "runners" / "taste.py").write_text(RUNNER)
    (package / "runners" / "broken.py").write_text("import a_module_that_is_not_there\n")
    done = python(package, "from mechinterp_runner.schemas.catalogue import catalogue; catalogue()")
    assert done.returncode != 0
    assert "No module named 'a_module_that_is_not_there'" in done.stderr


def test_a_runner_whose_import_fails_keeps_failing_when_it_is_asked_for(package):
    (package / "runners" / "broken.py").write_text("raise ImportError('not this one')\n")
    code = (
        "from mechinterp_runner.schemas.catalogue import find\n"
        "for _ in range(2):\n"
        "    try:\n"
        "        find('broken')\n"
        "    except ImportError as error:\n"
        "        print(error)"
    )
    assert python(package, code).stdout.splitlines() == ["not this one", "not this one"]


def test_a_runner_registered_under_another_name_than_its_files_is_refused(package):
    (package / "runners" / "smell.py").write_text(RUNNER)
    done = python(package, "from mechinterp_runner.schemas.catalogue import catalogue; catalogue()")
    assert done.returncode != 0
    assert "ValueError: experiment 'taste' must be in the file of its name, not in smell.py" in done.stderr


def test_a_file_that_registers_nothing_is_refused(package):
    (package / "runners" / "idle.py").write_text("x = 1\n")
    done = python(package, "from mechinterp_runner.schemas.catalogue import catalogue; catalogue()")
    assert done.returncode != 0
    assert "runners/idle.py registers no experiment of its name" in done.stderr


def test_a_file_that_begins_with_an_underscore_is_no_experiment(package):
    (package / "runners" / "_helper.py").write_text("raise ImportError\n")
    done = python(package, "from mechinterp_runner.schemas.catalogue import catalogue; print(dict(catalogue()))")
    assert done.stdout.strip() == "{}", done.stderr


@pytest.mark.parametrize("name", runner_names())
def test_every_experiment_says_what_it_is(name):
    experiment = catalogue()[name]
    assert (experiment.type, find(name)) == (name, experiment)
    assert issubclass(experiment.spec, ExperimentSpec)
    assert issubclass(experiment.variables, Variables)
    assert experiment.summary.endswith(".")
    assert experiment.tables
    assert set(experiment.methods) <= {"interventional", "observational", "both"}
    assert set(experiment.aliases.values()) <= set(experiment.variables.model_fields)
    for row in experiment.tables.values():
        assert [field for field, info in row.model_fields.items() if not info.description] == []


COMMANDS = {
    "family_1d_sweep": "family-sweep", "family_2d_heatmap": "heatmap", "frequent_itemsets": "itemsets",
    "minimal_cores": "minimal-cores", "pairwise_interactions": "interactions",
    "conditional_interactions": "conditional", "split_half": "split-half", "shuffle_null": "shuffle-null",
    "weapon_sweep": "weapon-sweep", "kit_sweep": "kit-sweep", "binary_presence_effect": "binary",
    "core_coverage_analysis": "coverage", "token_influence_sweep": "token-influence",
    "within_family_interference": "interference", "weapon_group_analysis": "weapon-groups",
    "decoder_output_analysis": "decoder", "feature_overview": "overview",
}  # fmt: skip
ALIASES = {
    "binary_presence_effect": {"tokens": "binary_tokens"},
    "core_coverage_analysis": {"tokens": "tokens_to_check", "threshold": "coverage_threshold"},
    "weapon_sweep": {"top_k": "top_k_weapons"},
}
REQUIRED = {
    "family_1d_sweep": {"family"}, "family_2d_heatmap": {"family_x", "family_y"},
    "conditional_interactions": {"modulator_token"}, "within_family_interference": {"family"},
}  # fmt: skip


def test_every_type_that_is_designed_runs_under_the_name_that_scripts_call():
    assert {name: experiment.cli for name, experiment in catalogue().items()} == COMMANDS
    assert set(COMMANDS) == set(DESIGNED)


@pytest.mark.parametrize("name", COMMANDS)
def test_only_what_no_default_can_stand_for_is_required(name):
    experiment = find(name)
    required = {key for key, field in experiment.variables.model_fields.items() if field.is_required()}
    assert required == REQUIRED.get(name, set())
    assert experiment.aliases.items() >= ALIASES.get(name, {}).items()


def test_an_unknown_type_and_one_without_a_runner_are_told_apart(monkeypatch):
    with pytest.raises(UnknownNameError, match="did you mean 'weapon_sweep'"):
        find("weapn_sweep")
    rest = tuple(name for name in runner_names() if name != "kit_sweep")
    monkeypatch.setattr("mechinterp_runner.schemas.catalogue.runner_names", lambda: rest)
    with pytest.raises(RequestError, match="'kit_sweep' is defined but this version cannot run it"):
        find("kit_sweep")
