"""Which tools a server shows."""

from __future__ import annotations

import re
from pathlib import Path

import anyio
import mechinterp_runner
import pytest
from mcp.client import Client
from mechinterp_runner.context.home import Home
from mechinterp_runner.schemas.catalogue import catalogue
from mechinterp_runner.schemas.errors import UnknownNameError
from mechinterp_runner.server.app import App
from mechinterp_runner.server.mcp_server import make_server
from mechinterp_runner.server.tools.toolsets import AROUND, TOOLSETS, Selection

PAGE = (Path(mechinterp_runner.__file__).resolve().parent / "docs" / "server.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    return App.at(Home.find(tmp_path_factory.mktemp("home")))


def shown(app, selection=None):
    async def main():
        async with Client(make_server(app, selection=selection)) as client:
            return [tool.name for tool in (await client.list_tools()).tools]

    return anyio.run(main)


def test_all_tools_are_shown_by_default(app):
    assert sorted(shown(app)) == sorted([*catalogue(), *AROUND])


def test_a_toolset_shows_its_types_and_the_tools_around_them(app):
    assert sorted(shown(app, Selection(("weapons",)))) == sorted(
        ["weapon_sweep", "kit_sweep", "weapon_group_analysis", *AROUND]
    )


def test_named_tools_are_shown_alone_or_beside_a_toolset(app):
    assert shown(app, Selection(tools=("weapon_sweep", "get_run"))) == ["weapon_sweep", "get_run"]
    both = shown(app, Selection(("output",), ("split_half",)))
    assert sorted(both) == sorted(["decoder_output_analysis", "split_half", *AROUND])


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection(("wepons",)), "unknown toolset 'wepons': did you mean 'weapons'"),
        (Selection(tools=("weapon_swep",)), "unknown tool 'weapon_swep': did you mean 'weapon_sweep'"),
    ],
)
def test_an_unknown_name_is_refused_before_anything_starts(app, selection, message):
    with pytest.raises(UnknownNameError, match=message):
        make_server(app, selection=selection)


def test_the_page_lists_the_sets_as_they_are():
    rows = re.findall(r"^\| `(\w+)` \| (`\w+`(?:, `\w+`)*) \|$", PAGE, re.MULTILINE)
    told = {name: sorted(re.findall(r"`(\w+)`", types)) for name, types in rows}
    made = {name: sorted(item.type for item in catalogue().values() if item.toolset == name) for name in TOOLSETS}
    assert told == made
