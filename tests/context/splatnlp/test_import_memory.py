"""Memory does not grow with what is imported: measured in processes of their own, on files of two sizes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

_PROBE = """
import json, sys, threading
from pathlib import Path

import pandas, zarr  # what libraries take is not what the data take
from mechinterp_runner.context.splatnlp.importer import import_splatnlp
from mechinterp_runner.context.splatnlp.sources import ImportOptions, Sources

folder, block_bytes = Path(sys.argv[1]), int(sys.argv[2])
paths = {name: Path(path) for name, path in json.loads(sys.argv[3]).items()}

def resident():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) << 10

seen, stop = [], threading.Event()
def watch():
    while not stop.wait(0.003):
        seen.append(resident())

before = resident()
thread = threading.Thread(target=watch)
thread.start()
made = import_splatnlp(Sources(**paths), folder / "home" / "big", ImportOptions(block_bytes=block_bytes))
stop.set()
thread.join()
print(json.dumps([max(seen) - before, made.manifest.n_examples, "torch" in sys.modules]))
"""
FEATURES, BLOCK = 500, 1 << 20


@pytest.fixture
def grown(artefacts):
    """Write a folder of so many batches of 2,000 rows, and measure its import: growth of RssAnon in bytes."""

    def grown(batches):
        rng = np.random.default_rng(0)
        folder = artefacts.folder / f"of {batches}"
        vocabulary = artefacts.contents.vocabulary
        real = [index for token, index in vocabulary.items() if not token.startswith("<")]
        for batch in range(batches):
            tokens = rng.permuted(np.tile(real, (2000, 1)), axis=1)[:, :6].tolist()
            rows = list(zip(rng.integers(4, size=2000).tolist(), tokens, strict=True))
            artefacts.parquet(folder, batch, rows)
            block = rng.random((2000, FEATURES), dtype=np.float32)
            block[rng.random(block.shape, dtype=np.float32) > 0.1] = 0.0
            path = folder / "activations" / f"batch_{batch:04d}.zarr"
            path.parent.mkdir(exist_ok=True)
            zarr.create_array(str(path), shape=block.shape, dtype="float32", chunks=(250, FEATURES))[:] = block
        (folder / "conversion_metadata.json").write_text(json.dumps({"n_batches": batches}))
        paths = {name: str(path) for name, path in artefacts.vocabularies().items()} | {"activations": str(folder)}
        command = [sys.executable, "-c", _PROBE, str(folder), str(BLOCK), json.dumps(paths)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        assert done.returncode == 0, done.stderr
        growth, n, torch = json.loads(done.stdout)
        assert (n, torch) == (2000 * batches, False)
        return growth

    return grown


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="RssAnon is read from /proc")
def test_five_times_the_activations_take_no_more_memory(grown):
    small, large = grown(2), grown(10)
    assert large < small + 4 * BLOCK  # the dense activations are 32 times a block more
