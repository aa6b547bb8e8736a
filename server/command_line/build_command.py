"""``mechinterp-runner build``: train a bundle."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ...schemas.errors import RequestError

if TYPE_CHECKING:
    from ...context.builder.build import BuildReport

Report = Callable[[str, int, int, str], None]
_MOST_NOTES = 20


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the build command."""
    source = parser.add_argument_group("what to build from")
    source.add_argument("--builds", metavar="TABLE", help="parquet or CSV: weapon_id, one AP column per ability")
    source.add_argument("--demo", action="store_true", help="the demo bundle, from generated builds with planted rules")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder of the new bundle: absent or empty")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of everything (default: 0)")
    parser.add_argument("--steps", type=int, metavar="N", help="training steps of the network")
    parser.add_argument("--threads", type=int, default=argparse.SUPPRESS, metavar="N", help="threads torch may use")
    parser.add_argument(
        "--ignore-columns", metavar="A,B,...", default="", help="columns of the table that are no abilities"
    )


def build(given: argparse.Namespace) -> int:
    """Train a bundle and say what was made of what."""
    if bool(given.builds) == bool(given.demo):
        raise RequestError("build needs one source: --builds TABLE, or --demo. Nothing was built.")
    out = Path(given.out)
    with progress_bar() as report:
        made = _build_demo(given, out, report) if given.demo else _build_table(given, out, report)
    manifest = made.manifest
    print(f"{out}: {manifest.n_features:,} features, {manifest.n_examples:,} examples, in {made.seconds:.0f} s")
    if made.table is not None:
        print(*made.table.lines(), sep="\n")
    print(f"use it with --bundle {out}, or by name from the folder `bundles` of the home folder")
    return 0


def _build_demo(given: argparse.Namespace, out: Path, report: Report) -> BuildReport:
    from dataclasses import replace  # noqa: PLC0415

    from ...context.builder.build import DemoOptions, build_demo  # noqa: PLC0415 - torch

    options = DemoOptions(seed=given.seed)
    if given.threads is not None:
        options = replace(options, threads=given.threads)
    if given.steps is not None:
        options = replace(options, train=replace(options.train, steps=given.steps))
    return build_demo(out, options, report)


def _build_table(given: argparse.Namespace, out: Path, report: Report) -> BuildReport:
    from dataclasses import replace  # noqa: PLC0415

    from ...context.builder.build import TableOptions, build_from_table  # noqa: PLC0415 - torch

    ignored = tuple(part.strip() for part in given.ignore_columns.split(",") if part.strip())
    options = TableOptions(seed=given.seed, threads=given.threads, ignore_columns=ignored)
    if given.steps is not None:
        options = replace(options, train=replace(options.train, steps=given.steps))
    return build_from_table(Path(given.builds), out, options, report)


@contextmanager
def progress_bar() -> Generator[Report]:
    """A bar per stage on a terminal, a line per stage elsewhere; on stderr."""
    console = Console(stderr=True)
    if not sys.stderr.isatty():
        yield _line_per_stage(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, int] = {}

        def report(stage: str, done: int, total: int, note: str) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
            task = progress.tasks[tasks[stage]].id
            progress.update(task, completed=done, total=total, description=f"{stage} {note}".strip())

        yield report


def _line_per_stage(console: Console) -> Report:
    seen: set[str] = set()

    def report(stage: str, done: int, total: int, note: str) -> None:
        if stage not in seen or done == total:
            seen.add(stage)
            console.print(f"{stage}: {done:,} of {total:,} {note}".rstrip(), markup=False, highlight=False)

    return report
