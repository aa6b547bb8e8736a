"""Run the benchmarks and print one table: ``make bench``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from . import overhead, start
from .frame import load, machine, print_rows

BENCHMARKS = {"overhead": overhead.measure, "start": start.measure}


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is named, or everything; the exit status is 1 when a bar was missed."""
    parser = argparse.ArgumentParser(description="Measure the project's speed beside references taken in the same run.")
    parser.add_argument("names", nargs="*", choices=[[], *BENCHMARKS], help="which benchmarks; default: all")
    parser.add_argument("--quick", action="store_true", help="few repeats: to see that it runs, not for figures")
    given = parser.parse_args(argv)
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(machine(), highlight=False)
    rows = [row for name in given.names or BENCHMARKS for row in BENCHMARKS[name](quick=given.quick)]
    print_rows(rows, console)
    console.print(f"afterwards: {load()}", highlight=False)
    missed = [row.what for row in rows if not row.is_met]
    if missed:
        console.print(f"missed: {'; '.join(missed)}", style="bold", highlight=False)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
