"""The demonstration on the embedded bundle, as a newcomer types it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from mechinterp_runner.server.store.index import Query
from mechinterp_runner.server.store.store import Store


@pytest.mark.slow
def test_the_demo_finds_the_planted_threshold_and_says_where_the_result_is(home):
    command = [sys.executable, "-m", "mechinterp_runner", "demo", "--home", str(home.root)]
    environment = os.environ | {"COLUMNS": "160", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", env=environment, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    store = Store(home.runs)
    (spec_id,) = [entry.spec_id for entry in store.search(Query())[1]]
    result = store.result(spec_id)
    assert result.aggregates.custom["threshold_rung"] == 29
    assert result.headline[:60] in done.stdout
    assert str(store.path(spec_id)) in done.stdout
    assert "█" in done.stdout
    assert "family_1d_sweep" in done.stdout
    assert "mechinterp-runner weapon-sweep" in done.stdout
