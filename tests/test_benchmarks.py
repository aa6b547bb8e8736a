"""The benchmarks run, say what they were measured on, and judge by what they measured."""

from __future__ import annotations

import asyncio
import io
import re
import tomllib
from pathlib import Path

import mechinterp_runner
import pytest
from mechinterp_runner.benchmarks import frame
from mechinterp_runner.benchmarks.__main__ import BENCHMARKS, main
from mechinterp_runner.benchmarks.frame import Bar, Row, in_turn, machine, markdown, print_rows, take_turns, timed
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
    assert "a call 6.0 ms another 2.0 ms 3 4.0 ms at most 5.0 ms more met 3" in shown
    assert "a call 2.50 s another 500.0 ms 5 2.00 s at most 1.00 s MISSED 3" in shown


def test_memory_is_held_against_its_bytes_and_shown_in_megabytes():
    held = Row("a server", 250e6, "before", 100e6, 1, Bar("bytes", 200e6), unit="B")
    assert not held.is_met
    assert held.cells() == ("a server", "250 MB", "before", "100 MB", "2.5", "150 MB", "at most 200 MB", "MISSED", "1")


def test_the_table_is_written_as_markdown():
    head, rule, line = markdown([row(0.006, 0.002, Bar("ratio", 5.0))]).splitlines()
    assert head.startswith("| what | median | reference |")
    assert set(rule) == set("| -")
    assert line == "| a call | 6.0 ms | another | 2.0 ms | 3 | 4.0 ms | at most 5 x | met | 3 |"


def test_plain_calls_take_turns_too():
    medians = in_turn({"nothing": lambda: None, "something": lambda: sum(range(200_000))}, 3)
    assert 0 < medians["nothing"] < medians["something"]


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


WAYS = [f"{way}, {year} protocol" for way in ("in memory", "over HTTP") for year in (2025, 2026)]
PROMISED = {
    "overhead": [f"tool call {w}: {asked}" for asked in ("stored answer", "fresh observational run") for w in WAYS],
    "start": [
        "start to initialize over stdio",
        "start to initialize over HTTP",
        "start to the first interventional run, demo bundle",
        "command line, cold: weapon-sweep on 2,000 examples",
    ],
    "network": [
        "evaluate(): 4 x 12 sets on cpu (48 distinct)",
        "evaluate() of a second feature: 4 x 12 sets on cpu (48 distinct)",
        "16 features of 24 sets on cpu in one call",
    ],
    "mapped": [
        "activations() from pooled vectors, 2,000 x 512",
        "anonymous memory of an idle server, 2,000 examples mapped",
    ],
}


@pytest.mark.parametrize("name", PROMISED)
def test_a_benchmark_measures_both_sides_of_everything_it_promises(name, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    rows = BENCHMARKS[name](quick=True)
    assert [row.what for row in rows if "cuda" not in row.what] == PROMISED[name]
    assert all(row.reference_amount > 0 and row.amount > 0 for row in rows)
    assert all(row.amount < 120 for row in rows if row.unit == "s")
    assert all(row.bar is not None for row in rows)
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_the_table_is_written_to_a_file_with_the_machine_and_misses_are_the_exit_status(monkeypatch, tmp_path, capsys):
    missed = [row(2.0, 1.0, Bar("seconds", 1.5)), row(1.0, 1.0)]
    monkeypatch.setitem(BENCHMARKS, "network", lambda *, quick: missed)
    assert main(["network", "--output", str(tmp_path / "table.md")]) == 1
    written = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert frame.machine().split(";")[0] in written
    assert markdown(missed) in written
    assert "missed: a call" in capsys.readouterr().out


def test_a_name_that_is_no_benchmark_is_refused_with_those_there_are(capsys):
    with pytest.raises(SystemExit):
        main(["no_such_benchmark"])
    said = capsys.readouterr().err
    assert all(name in said for name in (*BENCHMARKS, "no_such_benchmark"))


def test_the_benchmarks_are_not_installed():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    assert not [name for name in packages if "benchmarks" in name]
