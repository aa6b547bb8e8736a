"""Run the benchmarks and print one table: ``make bench``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from . import mapped, network, observational, overhead, start
from .frame import load, machine, markdown, print_rows

BENCHMARKS = {
    "start": start.measure,
    "overhead": overhead.measure,
    "network": network.measure,
    "mapped": mapped.measure,
    "observational": observational.measure,
    "large": observational.measure_large,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is named, or everything; the exit status is 1 when a bar was missed."""
    parser = argparse.ArgumentParser(description="Measure the project's speed beside references taken in the same run.")
    parser.add_argument("names", nargs="*", choices=[[], *BENCHMARKS], help="which benchmarks; default: all")
    parser.add_argument("--quick", action="store_true", help="few repeats: to see that it runs, not for figures")
    parser.add_argument("--output", metavar="FILE", type=Path, help="write the table there too, in Markdown")
    given = parser.parse_args(argv)
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(before := machine(), highlight=False)
    rows = [row for name in given.names or BENCHMARKS for row in BENCHMARKS[name](quick=given.quick)]
    print_rows(rows, console)
    console.print(after := f"afterwards: {load()}", highlight=False)
    if given.output is not None:
        given.output.write_text(f"{before}; {after}\n\n{markdown(rows)}", encoding="utf-8")
    missed = [row.what for row in rows if not row.is_met]
    if missed:
        console.print(f"missed: {'; '.join(missed)}", style="bold", highlight=False)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
