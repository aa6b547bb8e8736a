"""The wheel holds what the program needs to run, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = {".git", ".venv", "build", "dist", ".pytest_cache", ".ruff_cache", ".hypothesis", "__pycache__"}


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    work = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, work / "source", ignore=lambda _, names: LEFT_OUT & set(names))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", "."]
    subprocess.run([*command, "./source"], cwd=work, check=True, capture_output=True, timeout=240)
    with zipfile.ZipFile(next(work.glob("*.whl"))) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_the_demo_bundle_the_facts_and_the_skill(wheel_names):
    inside = {name.removeprefix("mechinterp_runner/") for name in wheel_names}
    demo = {f"context/demo/{path.relative_to(ROOT / 'context/demo').as_posix()}" for path in demo_files()}
    assert demo <= inside
    assert {"schemas/data/weapons.csv", "schemas/data/abilities.csv", "schemas/data/archetypes.json"} <= inside
    assert {"skill.md", "py.typed", "__main__.py", "server/icon.svg"} <= inside
    guides = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert {"docs/glossary.md", "docs/methods.md"} <= guides <= inside


def demo_files() -> list[Path]:
    return [path for path in (ROOT / "context" / "demo").rglob("*") if path.suffix in {".json", ".npy", ".safetensors"}]


def test_the_wheel_holds_every_module_of_the_tree(wheel_names):
    folders = ("schemas", "context", "runners", "server")
    modules = {path.relative_to(ROOT).as_posix() for folder in folders for path in (ROOT / folder).rglob("*.py")}
    assert modules
    assert {f"mechinterp_runner/{module}" for module in modules} <= wheel_names


def test_the_wheel_holds_no_tests_no_build_leftovers_and_no_scripts(wheel_names):
    strays = [
        name
        for name in wheel_names
        if name.split("/")[1] in {"tests", "build", "benchmarks", ".ci", "Makefile"}
        or (name.split("/")[1] == "docs" and not name.endswith(".md"))
        or name.endswith((".sh", ".parquet"))
    ]
    assert strays == []
    assert {name.split("/")[0].split("-")[0] for name in wheel_names} == {"mechinterp_runner"}
