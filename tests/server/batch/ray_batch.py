"""A program for a test: a batch on a local Ray whose workers die. Ray has threads and warnings of its own.

Usage: python ray_batch.py HOME MARKS, with the specs as JSON on stdin; writes the rows to MARKS/rows.json.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import ray
from mechinterp_runner.server.batch import cluster
from mechinterp_runner.server.batch.batch import run_batch

KILLED_ONCE, KILLS_ALWAYS = 3, 5


class Mortal(cluster.Actor):
    """A worker that kills its own process: the first time it gets one spec, and every time it gets another."""

    marks: Path

    def answer(self, spec):
        if spec.feature_id == KILLS_ALWAYS:
            os.kill(os.getpid(), signal.SIGKILL)
        if spec.feature_id == KILLED_ONCE and not (self.marks / "died").exists():
            (self.marks / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().answer(spec)


def main() -> None:
    home, marks = sys.argv[1:]
    Mortal.marks = Path(marks)
    cluster.Actor = Mortal
    specs, options = json.load(sys.stdin), cluster.ClusterOptions(workers=2)
    small = {"num_cpus": 2, "object_store_memory": 80 * 1024 * 1024, "include_dashboard": False}
    ray.init(address="local", log_to_driver=False, logging_level="ERROR", **small)
    done = run_batch(specs, home=home, device="cpu", cluster=options)
    with Path(marks, "rows.json").open("w") as stream:
        json.dump([asdict(row) for row in done.rows], stream, default=str)


if __name__ == "__main__":
    main()
