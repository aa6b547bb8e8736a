"""What the runs of a server add up to."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

from ...schemas.result import ExperimentResult


@dataclass
class Tally:
    """Counts since the server started; written by workers, read by whoever asks.

    Attributes:
        ended: runs by (experiment type, outcome); outcomes are done, failed, cancelled, refused, and cached for
            answers that came from the store.
        seconds: time spent running, by type.
        passes_made: forward passes made.
        passes_saved: forward passes that deduplication and the cache saved.
        shared: calls that joined a run in flight.
    """

    ended: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    seconds: Counter[str] = field(default_factory=Counter[str])
    passes_made: int = 0
    passes_saved: int = 0
    shared: int = 0
    _guard: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def joined(self) -> None:
        """Count a call that joined a run in flight."""
        with self._guard:
            self.shared += 1

    def count(self, experiment_type: str, outcome: str) -> None:
        """Count a run that left no result."""
        with self._guard:
            self.ended[experiment_type, outcome] += 1

    def add(self, result: ExperimentResult) -> None:
        """Count a result."""
        with self._guard:
            if result.cached:
                self.ended[result.experiment_type, "cached"] += 1
                return
            self.ended[result.experiment_type, result.status] += 1
            self.seconds[result.experiment_type] += result.duration_seconds  # pyright: ignore[reportArgumentType] - counters add floats too
            self.passes_made += result.provenance.forward_passes_made
            self.passes_saved += result.provenance.forward_passes_saved
