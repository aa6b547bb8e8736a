"""`mechinterp-runner import splatnlp`, from the command line to the experiments that are run on what it made."""

import json

import anyio
import numpy as np
import pytest
from mechinterp_runner.context.bundle import Bundle
from mechinterp_runner.context.contexts import Contexts
from mechinterp_runner.context.home import Home
from mechinterp_runner.context.splatnlp import importer
from mechinterp_runner.server.command_line.cli import main


@pytest.fixture
def cli(artefacts, capsys, monkeypatch):
    """Run the command line in a home folder of its own; returns (status, stdout, stderr)."""
    monkeypatch.setenv("MECHINTERP_HOME", str(artefacts.folder / "my home"))

    def cli(*words):
        try:
            status = main([str(word) for word in words])
        except SystemExit as error:
            status = error.code
        out, err = capsys.readouterr()
        return status, out, err

    return cli


def flags(files):
    return [word for name, path in files.items() for word in (f"--{name.replace('_', '-')}", path)]


@pytest.fixture
def everything(artefacts):
    return artefacts.vocabularies() | artefacts.network() | artefacts.activations(dense=True)


@pytest.fixture
def imported(cli, everything):
    """The bundle `ultra`, imported from the command line."""
    status, out, err = cli("import", "splatnlp", *flags(everything), "--name", "ultra", "--verify", 25)
    assert status == 0, err
    assert err == ""
    return out


def test_an_import_says_what_it_made_and_how_well_it_agrees(imported, artefacts):
    lines = imported.splitlines()
    folder = artefacts.folder / "my home" / "bundles" / "ultra"
    assert lines[0] == f"{folder}: 12 features, 304 examples, a model"
    assert lines[1].startswith("verified on 25 examples: the largest difference is ")
    assert lines[-1] == "use it with --model ultra"
    assert [path.name for path in folder.parent.iterdir()] == ["ultra"]


def test_a_spec_for_ultra_is_answered_by_the_bundle_of_that_name(imported, cli, artefacts):
    spec = {
        "type": "family_1d_sweep", "feature_id": 2, "model_type": "ultra", "id": "asked",
        "variables": {"family": "special_charge_up"},
    }  # fmt: skip
    path = artefacts.json("spec.json", spec)
    status, out, err = cli("--spec-path", path, "--format", "json", "--device", "cpu")
    assert status == 0, err
    assert json.loads(out)["provenance"]["bundle"] == "ultra"
    status, out, _ = cli("weapon-sweep", "--feature-id", 2, "--model", "ultra", "--method", "observational")
    assert status == 0
    assert "bundle `ultra`" in out
    # The demo bundle is not what answers once another is there.
    assert "bundle `ultra`" in cli("weapon-sweep", "--feature-id", 3, "--method", "observational")[1]


def test_mcp_clients_ask_ultra_and_see_where_it_came_from(imported, artefacts):
    from mcp.client import Client
    from mechinterp_runner.server.app import App
    from mechinterp_runner.server.mcp_server import make_server

    home = Home.find(artefacts.folder / "my home")

    async def use():
        async with Client(make_server(App(home, Contexts(home))), mode="auto") as client:
            described = await client.call_tool("describe_context", {"model_type": "ultra"})
            spec = {"type": "weapon_sweep", "feature_id": 1, "model_type": "ultra"}
            run = await client.call_tool("run_spec", {"spec": spec})
            return described, run

    described, run = anyio.run(use)
    view = described.structured_content
    assert view["bundles"] == ["demo", "ultra"]
    assert view["origins"]["demo"] == "mechinterp-runner build --demo: generated from archetypes"
    assert f"model {artefacts.folder / 'model_ultra.pth'}" in view["origins"]["ultra"]
    made_by = view["context"]["made_by"]
    assert made_by["command"] == "mechinterp-runner import splatnlp"
    assert made_by["inputs"]["sae"]["path"].endswith("sae_model_ultra.pth")
    assert made_by["verified"]["rows"] == 25
    assert not run.is_error, run.content
    assert view["context"]["missing"].keys() == {"examples/build_id.npy"}


def test_the_imported_bundle_verifies_and_is_not_hashed_again_when_opened(imported, cli, artefacts, monkeypatch):
    assert cli("bundle", "verify", "ultra")[0] == 0
    from mechinterp_runner.context import bundle

    monkeypatch.setattr(bundle, "sha256_of", lambda path: pytest.fail(f"{path} was hashed"))
    home = Home.find(artefacts.folder / "my home")
    assert Contexts(home).get("ultra").n_features == 12


def test_weights_alone_say_what_they_are_good_for(cli, artefacts):
    files = artefacts.vocabularies() | artefacts.network()
    _, out, _ = cli("import", "splatnlp", *flags(files), "--name", "bare")
    assert "12 features, no examples: interventions on dataset_slice.contexts only, a model" in out


def test_an_observational_bundle_refuses_interventions_and_answers_the_rest(cli, artefacts):
    files = artefacts.vocabularies() | artefacts.activations(dense=True)
    status, out, _ = cli("import", "splatnlp", *flags(files), "--name", "full")
    assert status == 0
    assert "no model: observational experiments only" in out
    sweep = ["family-sweep", "--feature-id", 1, "--family", "special_charge_up", "--model", "full"]
    status, _, err = cli(*sweep, "--method", "interventional")
    assert status == 2
    assert "needs the model" in err
    assert cli(*sweep, "--method", "observational")[0] == 0
    status, out, _ = cli("overview", "--feature-id", 1, "--model", "full")
    assert status == 0
    assert "the bundle has no SAE weights" in out
    status, _, err = cli("decoder", "--feature-id", 1, "--model", "full")
    assert status == 2
    assert "has no model, and this experiment reads its output layer" in err


def test_differences_beyond_rounding_are_warned_of(cli, artefacts):
    artefacts.acts[:] = np.minimum(artefacts.acts + 0.01, 6.0)
    files = artefacts.vocabularies() | artefacts.network() | artefacts.activations(dense=True)
    status, out, err = cli("import", "splatnlp", *flags(files), "--name", "ultra", "--verify", 10)
    assert status == 0
    assert "verified on 10 examples: the largest difference is 0.01" in out
    assert "warning: that is more than rounding" in err


def test_a_table_of_builds_says_what_was_skipped(cli, artefacts):
    path = artefacts.folder / "tokenized data.csv"
    one, two = (artefacts.contents.vocabulary[token] for token in ("comeback", "ninja_squid"))
    path.write_text(f'ability_tags,weapon_id\n"[{one}, {two}]",0\n"[{one}]",77\n')
    files = artefacts.vocabularies() | artefacts.network() | {"tokenized_csv": path}
    status, out, _ = cli("import", "splatnlp", *flags(files), "--name", "full", "--instances-per-build", 2)
    assert status == 0
    assert "1 rows used (1 builds)" in out
    assert "skipped: a weapon id outside the weapon vocabulary: 1" in out
    assert "line 3: a weapon id outside the weapon vocabulary" in out


@pytest.mark.parametrize(
    ("name", "said"),
    [("demo", "is that of the shipped bundle"), ("../up", "is not allowed"), ("ultra", "there is a bundle 'ultra'")],
)
def test_a_name_that_cannot_be_taken_is_refused_before_anything_is_read(cli, artefacts, monkeypatch, name, said):
    bundles = artefacts.folder / "my home" / "bundles"
    (bundles / "ultra").mkdir(parents=True)
    monkeypatch.setattr(importer, "make_plan", lambda *_: pytest.fail("it was read"))
    status, _, err = cli("import", "splatnlp", *flags(artefacts.vocabularies()), "--name", name)
    assert status == 2
    assert said in err
    assert "Nothing was imported" in err
    assert [path.name for path in bundles.iterdir()] == ["ultra"]


def test_a_wrong_file_ends_with_status_2_and_its_name(cli, artefacts, everything):
    files = everything | {"params": artefacts.params(hidden_dim=16)}
    status, out, err = cli("import", "splatnlp", *flags(files), "--name", "ultra")
    assert (status, out) == (2, "")
    assert "encoder.weight" in err
    assert err.startswith("mechinterp-runner: error: ")


def test_an_interrupted_import_says_how_to_go_on_and_does(cli, artefacts, everything, monkeypatch):
    words = ["import", "splatnlp", *flags(everything), "--name", "ultra"]

    def interrupt(*_given, **_named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(importer, "compute_pooled", interrupt)
        status, _, err = cli(*words)
    assert status == 130
    assert "the same command goes on" in err
    assert cli(*words)[0] == 0
    bundle = Bundle.open(artefacts.folder / "my home" / "bundles" / "ultra", hash_files=True)
    assert bundle.manifest.n_examples == 304


def test_importing_is_among_the_commands_and_its_help_names_every_file(cli):
    assert " import " in cli("--help")[1]
    _, out, _ = cli("import", "--help")
    for flag in ("--model", "--params", "--sae", "--vocab", "--weapon-vocab", "--tokenized-csv", "--activations"):
        assert flag in out
    assert "--pooled-cache" not in out  # it would do nothing here
    assert cli("import", "elsewhere", "--name", "x", "--vocab", "a", "--weapon-vocab", "b")[0] == 2
