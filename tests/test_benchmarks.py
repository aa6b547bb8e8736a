"""The benchmarks run, say what they were measured on, and judge by what they measured."""

from __future__ import annotations

import asyncio
import io
import re
import tomllib
from pathlib import Path

import mechinterp_runner
import pytest
from mechinterp_runner.benchmarks.__main__ import BENCHMARKS, main
from mechinterp_runner.benchmarks.frame import Bar, Row, machine, print_rows, take_turns, timed
from rich.console import Console

ROOT = Path(mechinterp_runner.__file__).resolve().parent


def row(seconds: float, reference: float, bar: Bar | None = None) -> Row:
    return Row("a call", seconds, "another", reference, 3, bar)


@pytest.mark.parametrize(
    ("bar", "met"),
    [
        (None, True),
        (Bar("seconds", 0.006), True),
        (Bar("seconds", 0.0059), False),
        (Bar("difference", 0.0041), True),
        (Bar("difference", 0.0039), False),
        (Bar("ratio", 3.0), True),
        (Bar("ratio", 2.9), False),
    ],
)
def test_a_measurement_is_held_against_its_seconds_their_difference_or_their_ratio(bar, met):
    assert row(0.006, 0.002, bar).is_met == met


def test_the_table_says_what_was_measured_beside_its_reference_and_whether_the_bar_is_met():
    console = Console(width=200, record=True, file=io.StringIO())
    print_rows([row(0.006, 0.002, Bar("difference", 0.005)), row(2.5, 0.5, Bar("seconds", 1.0))], console)
    shown = re.sub(r"[ │┃]+", " ", console.export_text())
    assert "a call 6.0 ms another 2.0 ms 3.00 4.0 ms at most 5.0 ms more met 3" in shown
    assert "a call 2.50 s another 500.0 ms 5.00 2.00 s at most 1.00 s MISSED 3" in shown


def test_calls_take_turns_and_their_medians_are_taken():
    made = []

    def call(name: str, *seconds: float):
        left = iter(seconds)

        async def made_call() -> float:
            made.append(name)
            return next(left)

        return made_call

    medians = asyncio.run(take_turns({"a": call("a", 1.0, 9.0, 2.0), "b": call("b", 5.0, 4.0, 6.0)}, 3))
    assert medians == {"a": 2.0, "b": 5.0}
    assert [set(made[start : start + 2]) for start in (0, 2, 4)] == [{"a", "b"}] * 3


def test_a_timed_call_takes_as_long_as_what_it_does():
    assert 0.02 <= asyncio.run(timed(lambda: asyncio.sleep(0.02))()) < 2.0


def test_the_machine_is_named_with_its_cores_its_libraries_and_its_load():
    assert re.search(r"\d+ cores; Python 3\.\d+\.\d+, torch \S+, numpy \S+, mcp 2\.\S+; load", machine())


def test_every_benchmark_measures_both_sides_of_everything_it_promises():
    rows = [row for measure in BENCHMARKS.values() for row in measure(quick=True)]
    ways = [f"{way}, {year} protocol" for way in ("in memory", "over HTTP") for year in (2025, 2026)]
    asked = ("stored answer", "fresh observational run")
    wanted = [f"tool call {way}: {question}" for question in asked for way in ways]
    assert [row.what for row in rows] == [*wanted, *(f"start to initialize over {way}" for way in ("stdio", "HTTP"))]
    assert all(0 < row.reference_seconds < 60 and 0 < row.seconds < 60 for row in rows)
    assert all(row.bar is not None for row in rows)


def test_a_name_that_is_no_benchmark_is_refused_with_those_there_are(capsys):
    with pytest.raises(SystemExit):
        main(["no_such_benchmark"])
    said = capsys.readouterr().err
    assert all(name in said for name in (*BENCHMARKS, "no_such_benchmark"))


def test_the_benchmarks_are_not_installed():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    assert not [name for name in packages if "benchmarks" in name]
