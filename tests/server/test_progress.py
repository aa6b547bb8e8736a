"""How far a command is: a bar on a terminal, a line now and then elsewhere, and how long it takes yet."""

from __future__ import annotations

import io
import sys

import pytest
from mechinterp_runner.server.command_line import progress
from mechinterp_runner.server.command_line.progress import progress_shown
from mechinterp_runner.server.pace import pace


@pytest.mark.parametrize(
    ("done", "left", "seconds", "told"),
    [
        (0, 100, 5.0, ""),
        (5, 95, 0.0, ""),
        (40, 50, 20.0, "2 a second, 0:00:25 left"),
        (1, 24575, 10.0, "0.1 a second, 68:15:50 left"),
        (64, 0, 3.0, "21.3 a second, 0:00:00 left"),
        (24_576, 24_576, 20.0, "1,229 a second, 0:00:20 left"),
    ],
)
def test_the_pace_says_rate_and_time_left(done, left, seconds, told):
    assert pace(done, left, seconds) == told


def test_where_there_is_no_terminal_a_line_is_shown_now_and_then():
    now, lines = [0.0], []
    report = progress._now_and_then(lines.append, 10.0, lambda: now[0])
    for second in range(1, 31):
        now[0] = float(second)
        report(second, 60, "[specs]" if second < 30 else "")
    assert lines == ["10 of 60 [specs]", "20 of 60 [specs]", "30 of 60"]


def test_what_takes_little_time_says_nothing_unless_every_step_shall_be_shown(capsys):
    with progress_shown() as report:
        report(1, 2, "features")
    assert capsys.readouterr().err == ""
    with progress_shown(every=0.0) as report:
        report(1, 2, "features")
    assert capsys.readouterr().err == "1 of 2 features\n"


def test_a_terminal_shows_how_many_and_what(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    with progress_shown() as report:
        report(3, 24, "forward [passes]")
    shown = screen.getvalue()
    assert "3/24" in shown
    assert "forward [passes]" in shown
