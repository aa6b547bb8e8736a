"""``mechinterp-runner build``: train a bundle."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ...schemas.errors import RequestError
from .progress import progress_shown

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
    with stages_shown() as report:
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
def stages_shown() -> Generator[Report]:
    """A hook that shows how far each stage is."""
    with progress_shown() as show:
        yield lambda stage, done, total, note: show(done, total, f"{stage} {note}".rstrip())
