"""Results for people."""

from __future__ import annotations

import io

import pytest
from mechinterp_runner.schemas.result import (
    Aggregates,
    ConstraintViolation,
    Diagnostics,
    ExperimentResult,
    Finding,
    Table,
)
from mechinterp_runner.server.answers import Cut, answer
from mechinterp_runner.server.command_line.terminal import print_result, print_table
from mechinterp_runner.server.render import bars, finding_line, number, to_markdown
from rich.console import Console


@pytest.fixture
def result():
    rows = [{"rung": rung, "mean_delta": rung / 7, "label": "a|b", "empty": None} for rung in range(30)]
    table = Table(name="rung_deltas", columns=["rung", "mean_delta", "label", "empty"], rows=rows, notes=["a note"])
    return ExperimentResult(
        spec_id="mine",
        feature_id=7,
        experiment_type="family_1d_sweep",
        headline="it drives feature 7",
        aggregates=Aggregates(mean_delta=0.123456, n_samples=500, custom={"shape": "step", "curve": [1.5, None]}),
        tables={"rung_deltas": table, "none": Table(name="none", columns=["x"], rows=[])},
        diagnostics=Diagnostics(
            relu_floor_detected=True,
            warnings=["mind the floor"],
            constraint_violations=[ConstraintViolation(id="max_ap_budget", hard=False, contexts=12, example="c3")],
        ),
        success=True,
        duration_seconds=1.5,
    )


def printed(print_to, *arguments, width=100, **options):
    console = Console(file=io.StringIO(), width=width, **options)
    print_to(console, *arguments)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (True, "yes"), (0.000123456, "0.0001235"), (12, "12"), ([1.0, None], "1, -"), ({"a": 0.5}, "a: 0.5")],
)
def test_values_are_shown_with_four_digits_and_a_dash_for_none(value, shown):
    assert number(value) == shown


def test_markdown_leads_with_the_headline_then_warnings(result):
    note = to_markdown(result)
    assert note.startswith("# it drives feature 7\n")
    assert note.index("> **Warning:** mind the floor") < note.index("## Aggregates") < note.index("## Table")


def test_markdown_tables_are_cut_and_say_so(result):
    note = to_markdown(result, max_rows=20)
    assert "… 10 more rows" in note
    assert "a\\|b" in note
    assert "empty" not in note
    assert "No rows." in note
    assert "constraint max_ap_budget: 12 contexts, such as c3" in note


def test_a_finding_says_effect_interval_share_and_population():
    finding = Finding(
        subject="SCU at 29 AP", relation="raises feature 0", effect=2.1, ci_low=2.0, ci_high=2.2, status="present",
        responder_rate=0.5, n=500, method="interventional", population="all examples",
    )  # fmt: skip
    assert finding_line(finding) == (
        "SCU at 29 AP raises feature 0: 2.1 [2, 2.2] activation "
        "(present, in 50.0% of contexts; n = 500; interventional; all examples)"
    )


def test_bars_share_one_scale_and_tell_signs_apart():
    assert bars([2.0, -1.0, None, 0.0], 10) == ["█" * 10, "▒" * 5, "", ""]
    assert bars([2.0, -1.0], 4, plain=True) == ["####", "--"]
    assert bars([None, 0.0], 4) == ["", ""]


def test_a_terminal_table_fits_the_width_and_says_what_it_hides(result):
    wide = {f"column_{index}": 0.5 for index in range(30)}
    table = Table(name="t", columns=["rung", *wide, "mean_delta"], rows=[{"rung": 3, **wide, "mean_delta": 1.0}])
    shown = printed(print_table, table, width=80)
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert "more columns in the stored result" in shown
    assert "rung" in shown
    assert "10 more rows" in printed(print_table, result.tables["rung_deltas"])


def test_a_failed_result_says_why_on_every_surface(result):
    failed = result.model_copy(update={"success": False, "error_message": "it broke [bold]here[/bold]"})
    assert "failed: it broke [bold]here[/bold]" in printed(print_result, failed, None)
    assert "**Failed:** it broke" in to_markdown(failed)


def test_an_answer_shows_the_page_asked_for(result):
    page = answer(result, None, Cut(max_rows=5, offset=27, table="rung_deltas")).tables["rung_deltas"]
    assert [row["rung"] for row in page.rows] == [27, 28, 29]
    assert (page.first_row, page.total_rows, page.more) == (27, 30, None)
    first = answer(result, None, Cut(max_rows=5)).tables["rung_deltas"]
    assert first.more == 'get_run(run_id="mine", table="rung_deltas", offset=5, max_rows=100)'


def test_a_concise_answer_rounds_and_a_detailed_one_does_not(result):
    assert answer(result).aggregates["mean_delta"] == 0.1235
    assert answer(result, None, Cut("detailed")).aggregates["mean_delta"] == 0.123456
