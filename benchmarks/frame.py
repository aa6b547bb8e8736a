"""What every benchmark is made of: calls timed in turn, a row for each beside its reference, one table."""

from __future__ import annotations

import asyncio
import os
import platform
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from ..context.device import cpu_count

Call = Callable[[], Awaitable[float]]
"""Does what is measured and says how many seconds it took."""
Unit = Literal["s", "B"]
_LIBRARIES = ("torch", "numpy", "mcp")


@dataclass(frozen=True, slots=True)
class Bar:
    """What a measurement must stay under.

    Attributes:
        of: what is held against it: the seconds or bytes themselves, what they are above the reference, or the ratio.
        most: the most that is allowed; seconds, bytes, or a ratio.
    """

    of: Literal["seconds", "bytes", "difference", "ratio"]
    most: float

    def __str__(self) -> str:
        if self.of == "ratio":
            return f"at most {self.most:.3g} x"
        shown = _shown(self.most, "B" if self.of == "bytes" else "s")
        return f"at most {shown}{' more' if self.of == 'difference' else ''}"


@dataclass(frozen=True, slots=True)
class Row:
    """A measurement and its reference, taken in the same run.

    Attributes:
        what: what was measured.
        amount: how long it took, or how much memory: a median.
        reference: what it is compared to.
        reference_amount: how long or how much that was, just before or after.
        repeats: how often each was measured.
        bar: what it must stay under, if anything.
        unit: seconds or bytes.
    """

    what: str
    amount: float
    reference: str
    reference_amount: float
    repeats: int
    bar: Bar | None = None
    unit: Unit = "s"

    @property
    def ratio(self) -> float:
        """How many times the reference it is."""
        return self.amount / self.reference_amount

    @property
    def difference(self) -> float:
        """How much above the reference it is."""
        return self.amount - self.reference_amount

    @property
    def is_met(self) -> bool:
        """Whether it stays under its bar."""
        if self.bar is None:
            return True
        held = {"ratio": self.ratio, "difference": self.difference}.get(self.bar.of, self.amount)
        return held <= self.bar.most

    def cells(self) -> tuple[str, ...]:
        """What the table shows of it, a text for each of `COLUMNS`."""
        met = "" if self.bar is None else "met" if self.is_met else "MISSED"
        own, other, more = (_shown(it, self.unit) for it in (self.amount, self.reference_amount, self.difference))
        judged = str(self.bar or ""), met, str(self.repeats)
        return (self.what, own, self.reference, other, f"{self.ratio:.3g}", more, *judged)


COLUMNS = ("what", "median", "reference", "its median", "ratio", "more", "bar", "", "repeats")


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


def in_turn(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Time plain calls as `take_turns` does; the medians, in seconds."""

    async def wait_for(work: Callable[[], object]) -> object:
        return work()

    return asyncio.run(take_turns({name: timed(partial(wait_for, work)) for name, work in calls.items()}, repeats))


def print_rows(rows: Sequence[Row], console: Console) -> None:
    """Print measurements as a table."""
    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*row.cells())
    console.print(table)


def markdown(rows: Sequence[Row]) -> str:
    """Measurements as a table in Markdown."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *(row.cells() for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


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


def _shown(amount: float, unit: Unit) -> str:
    if unit == "B":
        return f"{amount / 1e6:.0f} MB"
    if abs(amount) >= 1:
        return f"{amount:.2f} s"
    return f"{amount * 1e3:.1f} ms" if abs(amount) >= 1e-3 else f"{amount * 1e6:.0f} µs"
