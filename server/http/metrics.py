"""What the server did and what it uses, as Prometheus text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from ...schemas.catalogue import find
from ..app import App
from ..executor import PROJECT, needs_model

CONTENT_TYPE = CONTENT_TYPE_LATEST
_STATUS = Path("/proc/self/status")
_ROW = re.compile(r"^(RssAnon|Threads):\s+(\d+)", re.MULTILINE)


def text(app: App) -> bytes:
    """The metrics of an app and of this process, as they are now."""
    registry = CollectorRegistry()
    registry.register(_Runs(app))
    registry.register(_Process())
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Runs(Collector):
    """Reads the tally and the queue when it is asked."""

    def __init__(self, app: App) -> None:
        self._app = app

    def collect(self) -> Iterable[Metric]:
        """Yield what the runs add up to, and what waits and goes on."""
        # Plain copies: workers go on counting while this reads.
        tally = self._app.runs.tally
        ended, seconds = dict(tally.ended), dict(tally.seconds)
        runs = CounterMetricFamily("mechinterp_runs", "Runs that ended, by outcome.", labels=["type", "outcome"])
        cached = CounterMetricFamily("mechinterp_cache_hits", "Runs answered from the store.", labels=["type"])
        for (name, outcome), count in sorted(ended.items()):
            runs.add_metric([name, outcome], count)
            if outcome == "cached":
                cached.add_metric([name], count)
        spent = CounterMetricFamily("mechinterp_run_seconds", "Seconds spent running.", labels=["type"])
        for name, value in sorted(seconds.items()):
            spent.add_metric([name], value)
        yield from (runs, cached, spent)
        yield CounterMetricFamily("mechinterp_forward_passes_made", "Forward passes made.", tally.passes_made)
        yield CounterMetricFamily(
            "mechinterp_forward_passes_saved", "Passes that deduplication and the cache saved.", tally.passes_saved
        )
        yield CounterMetricFamily("mechinterp_shared_calls", "Calls that joined a run in flight.", tally.shared)
        yield from self._slots()
        yield InfoMetricFamily("mechinterp_build", "What is running.", {"version": version(PROJECT)})

    def _slots(self) -> Iterable[Metric]:
        states = Counter[tuple[str, str]]()
        for run in self._app.runs.in_flight():
            states["model" if needs_model(run.spec, find(run.spec.type)) else "data", run.state] += 1
        queued = GaugeMetricFamily("mechinterp_queue_length", "Runs that wait, by slot.", labels=["slot"])
        running = GaugeMetricFamily("mechinterp_runs_running", "Runs that go on, by slot.", labels=["slot"])
        for slot in ("model", "data"):
            queued.add_metric([slot], states[slot, "queued"])
            running.add_metric([slot], states[slot, "running"])
        return queued, running


class _Process(Collector):
    """What Prometheus' own collector leaves out; nothing where the system does not tell."""

    def collect(self) -> Iterable[Metric]:
        """Yield the memory that is this process' own, and its threads."""
        found = dict(_ROW.findall(_STATUS.read_text(encoding="ascii"))) if _STATUS.is_file() else {}
        if "RssAnon" in found:
            yield GaugeMetricFamily(
                "process_resident_anonymous_memory_bytes",
                "Resident memory that maps no file, in bytes.",
                int(found["RssAnon"]) * 1024,
            )
        if "Threads" in found:
            yield GaugeMetricFamily("process_threads", "Threads of the process.", int(found["Threads"]))
