"""What a client needs to validate a spec loads in no time."""

import json
import subprocess
import sys

_PROBE = """
import json, pkgutil, sys, importlib
import mechinterp_runner.schemas as schemas
for module in pkgutil.iter_modules(schemas.__path__, schemas.__name__ + "."):
    importlib.import_module(module.name)
alone = sorted(sys.modules)
from mechinterp_runner.schemas.catalogue import catalogue
print(json.dumps([alone, len(catalogue()), sorted(sys.modules)]))
"""
HEAVY = {"torch", "mcp", "pandas", "scipy.stats"}


def test_schemas_and_all_runners_import_neither_torch_nor_mcp_nor_pandas_nor_scipy_stats():
    done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    alone, runners, discovered = json.loads(done.stdout)
    assert runners >= 3
    assert not HEAVY & set(discovered)
    assert not {"numpy", *HEAVY} & set(alone)
    layers = {name.split(".")[1] for name in alone if name.startswith("mechinterp_runner.")}
    assert layers == {"schemas"}
