"""A manifest says in one line where its bundle came from, whatever was written into it."""

import pytest
from mechinterp_runner.schemas.manifest import Manifest


@pytest.mark.parametrize(
    ("made_by", "line"),
    [
        ({}, "not stated"),
        ({"command": "mechinterp-runner build --builds", "builds": "b.csv"}, "mechinterp-runner build --builds: b.csv"),
        ({"command": "import", "inputs": {"sae": {"path": "/a b/s.pth", "bytes": 3}}}, "import: sae /a b/s.pth"),
        ({"command": "by hand", "inputs": ["x"]}, "by hand"),
        ({"command": "by hand", "inputs": {"x": 3}}, "by hand"),
    ],
)
def test_the_origin_names_the_command_and_the_files(made_by, line):
    manifest = Manifest(
        format_version=1, model=None, n_features=3, hidden_dim=None, n_examples=0, n_tokens=0, files={}, made_by=made_by
    )
    assert manifest.origin() == line
    assert Manifest.model_validate_json(manifest.model_dump_json()).hidden_dim is None
