"""The handle a running experiment holds: progress, cancellation, finished tables, warnings, a count of passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .errors import Cancelled
from .result import Table

ProgressHook = Callable[[int, int, str], None]


@dataclass
class Job:
    """One run of an experiment, seen from inside it.

    Args:
        on_progress: called with (done, total, message); must be cheap and must not raise.
        is_cancelled: asked between batches; True stops the run.

    Attributes:
        cancelled_because: what the record of a stopped run says, set by whoever stops it.
        expected_passes: forward passes the run will make, where they were planned.
    """

    on_progress: ProgressHook | None = None
    is_cancelled: Callable[[], bool] | None = None
    tables: dict[str, Table] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    passes_made: int = 0
    passes_saved: int = 0
    cancelled_because: str = "cancelled"
    expected_passes: int | None = None

    def progress(self, done: int, total: int, message: str = "") -> None:
        """Report progress, after checking whether the run should stop.

        Raises:
            Cancelled: the run was asked to stop.
        """
        self.check()
        if self.on_progress is not None:
            self.on_progress(done, total, message)

    def check(self) -> None:
        """Stop here if the run was cancelled.

        Raises:
            Cancelled: the run was asked to stop.
        """
        if self.is_cancelled is not None and self.is_cancelled():
            raise Cancelled("the run was cancelled")

    def partial(self, table: Table) -> Table:
        """Hand over a finished table; it is stored even when the run fails later."""
        self.tables[table.name] = table
        return table

    def warn(self, message: str) -> None:
        """Add a warning to the result; the same one counts once."""
        if message not in self.warnings:
            self.warnings.append(message)

    def count_passes(self, made: int, saved: int) -> None:
        """Count forward passes made, and those saved by deduplication and the cache."""
        self.passes_made += made
        self.passes_saved += saved
