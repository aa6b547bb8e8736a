"""The documentation is true: generated parts are current, examples give the headline they show, links lead on."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import mechinterp_runner
import pytest
from mechinterp_runner import load_context, run
from mechinterp_runner.schemas.experiment_type import DESIGNED
from mechinterp_runner.schemas.spec import parse_spec
from mechinterp_runner.server.command_line.cli import main

ROOT = Path(mechinterp_runner.__file__).resolve().parent
SECTIONS = ("The question it answers", "When not to use it", "Variables", "Tables", "How to read it", "Example")
_LOADER = importlib.util.spec_from_file_location("fill_pages", ROOT / "docs" / "fill_pages.py")
assert _LOADER is not None
assert _LOADER.loader is not None
PAGES = importlib.util.module_from_spec(_LOADER)
_LOADER.loader.exec_module(PAGES)


def page(name: str) -> str:
    return (ROOT / "docs" / "experiments" / f"{name}.md").read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0].strip()


def test_every_type_has_a_page_and_every_page_a_type():
    names = {path.stem for path in (ROOT / "docs" / "experiments").glob("*.md")}
    assert names == set(DESIGNED)


def test_generated_parts_are_those_of_the_code():
    stale = [
        path.relative_to(ROOT).as_posix()
        for path, blocks in PAGES.wanted().items()
        if PAGES.filled(path.read_text(encoding="utf-8"), blocks) != path.read_text(encoding="utf-8")
    ]
    assert stale == [], "run `make docs`"


@pytest.mark.parametrize("name", DESIGNED)
def test_a_page_has_all_its_sections_in_order_and_says_something_in_each(name):
    text = page(name)
    assert text.startswith(f"# {name}\n")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == list(SECTIONS)
    assert all(len(section(text, title)) > 80 for title in SECTIONS)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return load_context("demo", home=tmp_path_factory.mktemp("home"), device="cpu")


@pytest.mark.parametrize("name", DESIGNED)
def test_the_example_of_a_page_gives_the_headline_it_shows(name, demo, tmp_path):
    example = section(page(name), "Example")
    found = re.search(r"```json\n(.*?)```", example, re.DOTALL)
    assert found is not None
    spec = json.loads(found[1])
    assert spec["type"] == name
    shown = [line.removeprefix("> ") for line in example.splitlines() if line.startswith("> ")]
    result = run(parse_spec(spec), demo, home=tmp_path)
    assert result.success, result.error_message
    assert [result.headline] == shown


@pytest.mark.parametrize("path", ["README.md", "skill.md", "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))])
def test_links_to_files_lead_somewhere(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert [link for link in links if not ((ROOT / path).parent / link).exists()] == []


def commands_of(text: str) -> list[tuple[str, str]]:
    """Commands of the console blocks, each with the headline shown below it."""
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [
        found for block in blocks for found in re.findall(r"^\$ mechinterp-runner (.+)\n# (.+)$", block, re.MULTILINE)
    ]


@pytest.mark.parametrize(("command", "headline"), commands_of((ROOT / "README.md").read_text(encoding="utf-8")))
def test_a_command_of_the_readme_prints_the_headline_shown_below_it(command, headline, tmp_path, capsys):
    assert main([*command.split(), "--home", str(tmp_path), "--format", "markdown"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"# {headline}"
