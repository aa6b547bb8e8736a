"""How far a command is: a bar on a terminal, a line now and then elsewhere; on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console

from ...schemas.job import ProgressHook

_LINE_SECONDS = 10.0


@contextmanager
def progress_shown(every: float = _LINE_SECONDS) -> Generator[ProgressHook]:
    """A hook that shows how many of how many are done, and what.

    Args:
        every: seconds between two lines, where there is no terminal; what takes less says nothing.
    """
    console = Console(stderr=True)
    if not sys.stderr.isatty():
        yield _now_and_then(lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True), every)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415 - for terminals

    said = TextColumn("{task.description}", markup=False)
    with Progress(BarColumn(), MofNCompleteColumn(), said, console=console, transient=True) as shown:
        bar = shown.add_task("", total=None)
        yield lambda done, total, message: shown.update(bar, completed=done, total=total, description=message)


def _now_and_then(
    show: Callable[[str], None], every: float, clock: Callable[[], float] = time.monotonic
) -> ProgressHook:
    """A hook that shows a line when some time has passed since the last."""
    last = clock()

    def report(done: int, total: int, message: str) -> None:
        nonlocal last
        if clock() - last >= every:
            last = clock()
            show(f"{done:,} of {total:,} {message}".rstrip())

    return report
