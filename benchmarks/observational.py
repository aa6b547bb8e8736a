"""Experiments on data alone, at a million examples and at ten: how long they take beside the bare passes they need.

Each question is asked of one feature first and timed on others, whose columns have been read: what it takes in a server
that has answered it before. A process of its own asks, so that its memory is that of the examples alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..context.context import Context
from ..context.contexts import load_context
from ..schemas.catalogue import find
from ..schemas.job import Job
from ..schemas.spec import parse_spec
from .data import N_FEATURES, write_examples
from .frame import Bar, Row, in_turn
from .passes import Pass, passes
from .process import anonymous_bytes

EXAMPLES, QUICK_EXAMPLES = 1_000_000, 2_000
TIMES_LARGE = 10
HIDDEN, HIDDEN_LARGE = 512, 32
REPEATS = 7
_NAME = "examples"
_PLAIN, _CLUSTERED, _LONG = (Bar("seconds", most) for most in (0.1, 0.4, 1.0))
_RATIO = Bar("ratio", 3.0)
_MEMORY = Bar("bytes", 2e9)


@dataclass(frozen=True)
class Question:
    """An experiment and what it cannot avoid.

    Attributes:
        type: experiment type.
        needs: the bare passes, by their names in `passes`.
        bar: how long it may take.
        variables: of that type.
    """

    type: str
    needs: tuple[str, ...]
    bar: Bar
    variables: dict[str, Any] = field(default_factory=dict)


_OBSERVATIONAL = {"method": "observational"}
_TOKENS = ("read", "by token", "by build and token")
QUESTIONS = (
    Question("feature_overview", (*_TOKENS, "by weapon"), _CLUSTERED),
    Question("token_influence_sweep", _TOKENS, _CLUSTERED, _OBSERVATIONAL),
    Question("binary_presence_effect", _TOKENS, _CLUSTERED, _OBSERVATIONAL),
    Question("core_coverage_analysis", (*_TOKENS, "by weapon"), _CLUSTERED),
    Question("weapon_sweep", ("read", "by weapon", "by build and token"), _CLUSTERED),
    Question("weapon_group_analysis", ("read", "by weapon", "by build and token"), _CLUSTERED),
    Question("kit_sweep", ("read", "by weapon", "by build and token"), _CLUSTERED),
    Question("family_1d_sweep", ("read", "by token", "by build"), _PLAIN, {"family": "swim_speed_up"} | _OBSERVATIONAL),
    Question(
        "family_2d_heatmap",
        ("read", "by token", "by build"),
        _PLAIN,
        {"family_x": "swim_speed_up", "family_y": "special_charge_up"} | _OBSERVATIONAL,
    ),
    Question("pairwise_interactions", (*_TOKENS, "pairs"), _CLUSTERED, _OBSERVATIONAL),
    Question("split_half", ("read", "by token", "by build"), _PLAIN),
    Question("shuffle_null", ("read", "shuffled"), _LONG, {"n_shuffles": 100}),
    Question("frequent_itemsets", ("read", "pairs"), _LONG, {"max_size": 4}),
)


def measure(*, quick: bool = False) -> list[Row]:
    """Every observational type at 1,000,000 examples beside the bare passes; quick: at 2,000."""
    n, repeats = (QUICK_EXAMPLES, 2) if quick else (EXAMPLES, REPEATS)
    asked = _ask(n, HIDDEN, repeats)
    rows = list[Row]()
    for question in QUESTIONS:
        seconds, bare = (asked["questions"][question.type][key] for key in ("seconds", "bare"))
        what, reference = f"{question.type}, {n:,} examples", "bare passes: " + ", ".join(question.needs)
        rows += [Row(what, seconds, reference, bare, repeats, bar) for bar in (question.bar, _RATIO)]
    return rows


def measure_large(*, quick: bool = False) -> list[Row]:
    """The same at ten times as many, beside ten times what so many take; and the memory that is not mapped."""
    n, repeats = (QUICK_EXAMPLES, 2) if quick else (EXAMPLES, 3)
    few, many = (_ask(size, HIDDEN_LARGE, repeats, bare=False) for size in (n, n * TIMES_LARGE))
    rows = [
        Row(
            f"{type_}, {n * TIMES_LARGE:,} examples",
            at["seconds"],
            f"{TIMES_LARGE} times {n:,} examples",
            TIMES_LARGE * few["questions"][type_]["seconds"],
            repeats,
            Bar("ratio", 1.0),
        )
        for type_, at in many["questions"].items()
    ]
    what, reference = (f"anonymous memory, every type asked of {size:,} examples" for size in (n * TIMES_LARGE, n))
    return [*rows, Row(what, many["bytes"], reference, few["bytes"], 1, _MEMORY, unit="B")]


def _ask(n: int, hidden: int, repeats: int, *, bare: bool = True) -> dict[str, Any]:
    """Write so many examples and let a process of its own ask them."""
    with TemporaryDirectory(prefix="bench-") as home:
        write_examples(Path(home, "bundles", _NAME), n, hidden)
        command = [sys.executable, "-m", __name__, home, str(repeats), *(["--bare"] if bare else [])]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    """Ask every question of the examples in a home folder, and print the medians as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("home")
    parser.add_argument("repeats", type=int)
    parser.add_argument("--bare", action="store_true")
    given = parser.parse_args()
    ctx = load_context(_NAME, home=given.home)
    for feature in range(N_FEATURES):
        ctx.effective_max(feature)
    bare = passes(ctx) if given.bare else {}
    medians = {question.type: _asked(question, ctx, bare, given.repeats) for question in QUESTIONS}
    print(json.dumps({"questions": medians, "bytes": anonymous_bytes(os.getpid())}))


def _asked(question: Question, ctx: Context, bare: Mapping[str, Pass], repeats: int) -> dict[str, float]:
    """Seconds of the question and of its bare passes, in turn on the same features; the first feature is not timed."""
    spec = {"type": question.type, "variables": question.variables}
    asked, read = (itertools.cycle(range(N_FEATURES)) for _ in range(2))

    def ask() -> object:
        return find(question.type).run(parse_spec(spec | {"feature_id": next(asked)}), ctx, Job())

    def pass_over() -> object:
        column = ctx.activations(next(read))
        return [bare[name](column) for name in question.needs if bare]

    calls = {"seconds": ask, "bare": pass_over}
    in_turn(calls, 1)
    return in_turn(calls, repeats)


if __name__ == "__main__":
    main()
