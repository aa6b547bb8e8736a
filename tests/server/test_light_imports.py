"""What a command does not need is not imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

_PROBE = """
import contextlib, io, json, sys
from mechinterp_runner.server.command_line.cli import main
status = 0
with contextlib.redirect_stdout(io.StringIO()):
    try:
        status = main(json.loads(sys.argv[1]))
    except SystemExit as error:
        status = error.code or 0
heavy = ("torch", "mcp", "pandas", "scipy.stats", "scipy", "numpy", "zarr", "ray")
print(json.dumps([status, [name for name in heavy if name in sys.modules]]))
"""


def probe(*words, home):
    command = [sys.executable, "-c", _PROBE, json.dumps(words)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"MECHINTERP_HOME": str(home)}, check=False
    )
    assert done.stdout, done.stderr
    status, heavy = json.loads(done.stdout)
    assert status == 0, done.stderr
    return set(heavy)


@pytest.mark.parametrize("words", [["--help"], ["--list-types"], ["family-sweep", "--help"], ["results"]])
def test_looking_around_imports_no_torch_mcp_or_pandas(tmp_path, words):
    assert not {"torch", "mcp", "pandas", "scipy.stats", "zarr", "ray"} & probe(*words, home=tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        ["weapon-sweep", "--feature-id", "0", "--method", "observational"],
        ["family-sweep", "--feature-id", "0", "--family", "swim_speed_up", "--method", "observational"],
    ],
)
def test_an_observational_run_imports_no_torch_mcp_or_pandas(home, data_bundle, words):
    assert not {"torch", "mcp", "pandas", "zarr", "ray"} & probe(*words, home=home.root)


def test_importing_the_package_imports_nothing_and_its_names_are_there():
    code = (
        "import sys, mechinterp_runner as m;"
        "assert 'pydantic' not in sys.modules and 'numpy' not in sys.modules;"
        "assert all(getattr(m, name) is not None for name in m.__all__);"
        "assert set(m.__all__) <= set(dir(m));"
        "assert not {'torch', 'mcp', 'pandas'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
