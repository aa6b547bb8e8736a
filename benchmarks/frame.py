"""What every benchmark is made of: calls timed in turn, a row for each beside its reference, one table."""

from __future__ import annotations

import asyncio
import os
import platform
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from ..context.device import cpu_count

Call = Callable[[], Awaitable[float]]
"""Does what is measured and says how many seconds it took."""
_LIBRARIES = ("torch", "numpy", "mcp")


@dataclass(frozen=True, slots=True)
class Bar:
    """What a measurement must stay under.

    Attributes:
        of: what is held against it: the seconds themselves, the seconds above the reference, or the ratio to it.
        most: the most that is allowed; seconds, or a ratio.
    """

    of: Literal["seconds", "difference", "ratio"]
    most: float

    def __str__(self) -> str:
        if self.of == "ratio":
            return f"at most {self.most:g} x"
        return f"at most {_shown(self.most)}{' more' if self.of == 'difference' else ''}"


@dataclass(frozen=True, slots=True)
class Row:
    """A measurement and its reference, taken in the same run.

    Attributes:
        what: what was measured.
        seconds: how long it took: a median.
        reference: what it is compared to.
        reference_seconds: how long that took, just before or after.
        repeats: how often each was measured.
        bar: what it must stay under, if anything.
    """

    what: str
    seconds: float
    reference: str
    reference_seconds: float
    repeats: int
    bar: Bar | None = None

    @property
    def ratio(self) -> float:
        """How many times the reference it took."""
        return self.seconds / self.reference_seconds

    @property
    def difference(self) -> float:
        """Seconds above the reference."""
        return self.seconds - self.reference_seconds

    @property
    def is_met(self) -> bool:
        """Whether it stays under its bar."""
        return self.bar is None or getattr(self, self.bar.of) <= self.bar.most


def timed(work: Callable[[], Awaitable[object]]) -> Call:
    """A call that is timed from begin to end."""

    async def call() -> float:
        began = time.perf_counter()
        await work()
        return time.perf_counter() - began

    return call


async def take_turns(calls: Mapping[str, Call], repeats: int, pause: float = 0.0) -> dict[str, float]:
    """Make calls one after the other, round after round, so that what else the machine does hits all of them alike.

    The order is drawn anew for each round: what a call finds in the caches of the processor depends on the one before.

    Args:
        calls: what to measure, by name.
        repeats: rounds.
        pause: seconds before each call, in which what the one before left behind comes to rest.

    Returns:
        The median of each, in seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    chance = random.Random(0)
    for _ in range(repeats):
        for name in chance.sample(list(calls), len(calls)):
            await asyncio.sleep(pause)
            seconds[name].append(await calls[name]())
    return {name: statistics.median(values) for name, values in seconds.items()}


def print_rows(rows: list[Row], console: Console) -> None:
    """Print measurements as a table."""
    table = Table("what", "median", "reference", "its median", "ratio", "more", "bar", "", "repeats")
    for row in rows:
        met = "" if row.bar is None else "met" if row.is_met else "MISSED"
        shown = (_shown(row.seconds), row.reference, _shown(row.reference_seconds), f"{row.ratio:.2f}")
        table.add_row(row.what, *shown, _shown(row.difference), str(row.bar or ""), met, str(row.repeats))
    console.print(table)


def machine() -> str:
    """What the figures were measured on."""
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    return f"{_processor()}, {cpu_count()} cores; Python {platform.python_version()}, {libraries}; {load()}"


def load() -> str:
    """How busy the machine is with everything that runs on it."""
    return f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load unknown"


def _processor() -> str:
    known = Path("/proc/cpuinfo")
    if known.is_file():
        names = [line.partition(":")[2].strip() for line in known.read_text().splitlines() if "model name" in line]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def _shown(seconds: float) -> str:
    return f"{seconds:.2f} s" if abs(seconds) >= 1 else f"{seconds * 1e3:.1f} ms"
