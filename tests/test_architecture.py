"""The shape of the code: which way imports go, what is packaged, and how long things are."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import mechinterp_runner
import pytest

ROOT = Path(mechinterp_runner.__file__).resolve().parent
TESTS = Path(__file__).resolve().parent
LAYERS = ("schemas", "context", "runners", "server")
PACKAGE = "mechinterp_runner"
OUTSIDE = {"tests", "docs", "benchmarks", "build", "dist", "runs", "out"}
MAX_LINES, MAX_FUNCTION = 400, 50


def own_files(folder: Path) -> list[Path]:
    """Python files below a folder of the project, leaving out what is hidden, built or installed."""
    return sorted(
        path
        for path in folder.rglob("*.py")
        if not any(part.startswith(".") or part in {"build", "dist"} for part in path.relative_to(ROOT).parts)
    )


SOURCES = [path for path in own_files(ROOT) if path.relative_to(ROOT).parts[0] not in OUTSIDE]
EVERYTHING = own_files(ROOT)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(path: Path) -> Iterator[tuple[str, ...]]:
    """Dotted names that a file imports anywhere in it, relative ones made absolute."""
    here = (PACKAGE, *path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            yield from ((*module, alias.name) for alias in node.names)


def test_the_four_layers_are_there():
    assert all((ROOT / layer).is_dir() for layer in LAYERS)
    assert len(SOURCES) > 40


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_go_down_only(layer):
    above = LAYERS[LAYERS.index(layer) + 1 :]
    wrong = [
        (name_of(path), ".".join(name))
        for path in SOURCES
        if path.relative_to(ROOT).parts[0] == layer
        for name in imported(path)
        if name[0] == PACKAGE and (len(name) < 2 or name[1] not in LAYERS or name[1] in above)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("library", "layers"),
    [
        ("mcp", {"server"}),
        ("torch", {"context"}),
        ("pandas", {"context", "runners", "server"}),
        ("zarr", {"context"}),
        ("ray", {"server"}),
    ],
)
def test_a_heavy_library_is_imported_by_its_layers_only(library, layers):
    users = {path.relative_to(ROOT).parts[0] for path in SOURCES if any(name[0] == library for name in imported(path))}
    assert users <= layers


def test_schemas_need_pydantic_and_the_standard_library_alone():
    names = {name[0] for path in SOURCES if path.relative_to(ROOT).parts[0] == "schemas" for name in imported(path)}
    assert names - set(sys.stdlib_module_names) == {"pydantic", PACKAGE}


@pytest.mark.parametrize("layer", LAYERS)
def test_code_inside_the_package_imports_it_relatively(layer):
    for path in SOURCES:
        if path.relative_to(ROOT).parts[0] == layer:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and not node.level:
                    assert (node.module or "").split(".")[0] != PACKAGE, name_of(path)


def test_the_packages_listed_are_the_folders_of_the_tree():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {path.parent for path in SOURCES}
    found = {".".join((PACKAGE, *folder.relative_to(ROOT).parts)) for folder in folders}
    assert sorted(settings["packages"]) == sorted(found)
    assert [name_of(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []
    assert set(settings["package-data"]) <= found
    assert not any("**" in glob for globs in settings["package-data"].values() for glob in globs)


def test_tests_are_no_package_and_their_names_are_unique():
    assert list(TESTS.rglob("__init__.py")) == []
    names = [path.name for path in TESTS.rglob("*.py") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))


def test_no_test_imports_relatively():
    for path in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.level), path.name


def test_no_file_is_longer_than_400_lines():
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in EVERYTHING}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}


def test_no_function_is_longer_than_50_lines_with_its_docstring():
    long = {}
    for path in EVERYTHING:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION:
                    long[f"{name_of(path)}:{node.name}"] = lines
    assert long == {}


def test_the_root_package_gives_its_names_only_when_they_are_asked_for():
    code = (
        "import sys, mechinterp_runner as m\n"
        "inside = lambda: sorted(name for name in sys.modules if name.startswith('mechinterp_runner.'))\n"
        "assert inside() == [], inside()\n"
        "m.ExperimentType\n"
        "assert inside() == ['mechinterp_runner.schemas', 'mechinterp_runner.schemas.experiment_type'], inside()\n"
        "m.DatasetSlice\n"
        "assert not [name for name in inside() if '.context' in name or '.server' in name]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_root_package_gives_what_the_brief_imports_and_nothing_unknown():
    wanted = {"ExperimentSpec", "ExperimentType", "load_context", "run", "get_runner_for_type"}
    assert wanted <= set(mechinterp_runner.__all__) <= set(dir(mechinterp_runner))
    assert all(getattr(mechinterp_runner, name) is not None for name in mechinterp_runner.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Experimentspec'"):
        _ = mechinterp_runner.Experimentspec
