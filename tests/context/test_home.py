"""Bundles are found by name below one home folder, and a name is never a path."""

from pathlib import Path

import pytest
from mechinterp_runner.context import home as module
from mechinterp_runner.context.home import Home, demo_path
from mechinterp_runner.schemas.errors import RequestError, UnknownNameError


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.find(tmp_path / "home")


def add(home: Home, name: str) -> Path:
    folder = home.bundles / name
    folder.mkdir(parents=True)
    (folder / "bundle.json").touch()
    return folder


def test_the_folder_given_wins_over_the_environment_and_that_over_the_platforms(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "user_data_path", lambda name, **_how: tmp_path / "platform" / name)
    monkeypatch.delenv("MECHINTERP_HOME", raising=False)
    assert Home.find().root == tmp_path / "platform" / "mechinterp-runner"
    monkeypatch.setenv("MECHINTERP_HOME", "")
    assert Home.find().root == tmp_path / "platform" / "mechinterp-runner"
    monkeypatch.setenv("MECHINTERP_HOME", str(tmp_path / "env"))
    assert Home.find().root == tmp_path / "env"
    assert Home.find(tmp_path / "given").root == tmp_path / "given"


def test_a_home_is_absolute_and_knows_the_users_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    assert Home.find("here").root == tmp_path / "here"
    assert Home.find("~/x").root == tmp_path / "user" / "x"


def test_looking_creates_nothing(home):
    assert home.bundle_names() == ("demo",)
    assert (home.bundles, home.runs) == (home.root / "bundles", home.root / "runs")
    assert not home.root.exists()


@pytest.mark.parametrize(
    "name", ["../x", "..", ".", "", "/etc", "a/b", "a\\b", ".hidden", "a b", "a\n", "x" * 65, "~", "demo/../demo"]
)
def test_a_name_is_never_a_path(home, name):
    add(home, "real")
    (home.bundles / "a").mkdir()
    add(home, "a/b")
    add(home, "../x")
    with pytest.raises(RequestError, match=r"bundle name .* is not allowed: .*no path. Bundles here: demo, real\."):
        home.bundle_path(name)


def test_bundles_are_the_demo_first_and_then_the_folders_with_a_manifest_and_a_legal_name(home):
    for name in ("zeta", "alpha", ".hidden", "two words"):
        add(home, name)
    (home.bundles / "no_manifest").mkdir()
    (home.bundles / "file").touch()
    assert home.bundle_names() == ("demo", "alpha", "zeta")
    assert home.bundle_path("alpha") == home.bundles / "alpha"


def test_the_default_is_the_only_bundle_besides_demo_else_demo(home):
    assert home.default_bundle() == "demo"
    add(home, "mine")
    assert home.default_bundle() == "mine"
    add(home, "demo")
    assert home.default_bundle() == "mine"
    add(home, "other")
    assert home.default_bundle() == "demo"


def test_the_demo_is_the_one_that_ships_unless_the_home_has_its_own(home):
    assert home.bundle_path("demo") == demo_path()
    own = add(home, "demo")
    assert home.bundle_path("demo") == own
    assert home.bundle_names() == ("demo",)


def test_an_unknown_bundle_is_answered_with_the_nearest_and_where_they_live(home):
    add(home, "ultra")
    with pytest.raises(UnknownNameError, match="unknown bundle 'ulta': did you mean 'ultra'") as caught:
        home.bundle_path("ulta")
    assert str(home.bundles) in str(caught.value)
