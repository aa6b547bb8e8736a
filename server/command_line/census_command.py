"""``mechinterp-runner census`` and ``mechinterp-runner find-features``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from ...schemas.errors import RequestError
from ...schemas.faults import explain
from ...schemas.job import Job
from ..census.arguments import FindArguments
from ..render import command_of, number
from .commands import compute_of, home_of, interruptible
from .flags import Parser, add_common, add_compute, add_fields, flag, format_of, grouped
from .progress import progress_shown

if TYPE_CHECKING:
    from ...context.context import Context
    from ..census.found import EffectView, FeatureList, FeatureRow

_SHOWN = 20
_MIB = 1 << 20


def add_commands(add: Callable[[str, str, Callable[[argparse.Namespace], int]], Parser]) -> None:
    """The two commands and their flags."""
    taken = add("census", "summarise every feature of a bundle, for find-features", take)
    taken.add_argument("--features", metavar="A-B", help="only these features; default: all")
    taken.add_argument("--block", type=int, metavar="N", help="features read in one pass; default: what memory holds")
    taken.add_argument("--memory", type=int, metavar="MIB", default=1024, help="memory of a pass (default: 1024 MiB)")
    taken.add_argument("--fresh", action="store_true", default=argparse.SUPPRESS, help="take it even if it is stored")
    searched = add("find-features", "search the census: which features go with a name", search)
    searched.add_argument("words", nargs="*", metavar="NAME", help="an ability, weapon, sub, special or weapon class")
    add_fields(searched, FindArguments)
    for parser, dest in ((taken, "model"), (searched, "fields.model_type")):
        where = add_common(parser, runs=False)
        where("--model", metavar="NAME", dest=dest, default=argparse.SUPPRESS, help="name of the bundle")
        where("--bundle", metavar="DIR", default=argparse.SUPPRESS, help="folder of a bundle, instead of --model")
        add_compute(where)


def take(given: argparse.Namespace) -> int:
    """Take the census and show the most remarkable features."""
    from ..census.find import counts, strongest  # noqa: PLC0415 - numpy, not for --help
    from ..census.table import CensusTable  # noqa: PLC0415
    from ..census.take import CensusOptions, take_census  # noqa: PLC0415

    options = CensusOptions(_span(given.features), given.block, given.memory * _MIB)
    ctx = _opened(given, getattr(given, "model", None))
    with interruptible() as stopped, progress_shown(every=0.0) as report:
        job = Job(on_progress=report, is_cancelled=stopped)
        path = take_census(ctx, home_of(given), options, job=job, fresh=bool(given.fresh))
    census = CensusTable.open(path)
    if format_of(given) == "json":
        print(census.meta.model_dump_json(indent=1))
    else:
        _print_features(given, strongest(census, _SHOWN))
        print(counts(census), f"stored: {path}", sep="\n")
    return 0


def search(given: argparse.Namespace) -> int:
    """Search the census."""
    from ..census.api import census_of  # noqa: PLC0415 - numpy, not for --help
    from ..census.find import find  # noqa: PLC0415

    fields = grouped(given, "fields")
    if given.words:
        fields["query"] = " ".join(given.words)
    try:
        wanted = FindArguments.model_validate(fields)
    except ValidationError as error:
        raise RequestError(explain(error, {}, called=flag)) from error
    found = find(census_of(_opened(given, wanted.model_type), home_of(given)), wanted)
    if format_of(given) == "json":
        print(found.model_dump_json(indent=1))
    else:
        _print_found(given, found)
    return 0


def _opened(given: argparse.Namespace, name: str | None) -> Context:
    from ...context.contexts import Contexts  # noqa: PLC0415 - numpy and the bundles: not for --help

    folder = Path(given.bundle) if given.bundle else None
    return Contexts(home_of(given), compute=compute_of(given)).get(name, path=folder)


def _span(text: str | None) -> tuple[int, int] | None:
    """First feature, and the one after the last, of ``A-B`` or ``A``."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())
    if match is None:
        raise RequestError(f"--features {text!r} is no range: write A-B, such as 0-99, or one number. Nothing was run.")
    return int(match[1]), int(match[2] or match[1]) + 1


def _print_found(given: argparse.Namespace, found: FeatureList) -> None:
    console, form = Console(), format_of(given)
    if form == "markdown":
        print(f"# {found.headline}", *(f"> **Warning:** {warning}" for warning in found.warnings), sep="\n\n")
    else:
        console.print(Text(found.headline, style="bold"))
        for warning in found.warnings:
            console.print(Text(f"warning: {warning}", style="yellow"))
    _print_features(given, found.features)
    for followup in found.followups:
        console.print(Text(f"next: {followup.reason}", style="cyan"), soft_wrap=True)
        console.print(Text(f"  {command_of(followup.spec)}"), soft_wrap=True)
    if found.more:
        print(f"{found.total:,} match: --{found.more.replace('=', ' ')}")


def _print_features(given: argparse.Namespace, rows: list[FeatureRow]) -> None:
    """A table of features."""
    cells = [_cells(row) for row in rows]
    names = list(cells[0]) if cells else []
    if format_of(given) == "markdown":
        lines = [names, ["---"] * len(names), *(list(line.values()) for line in cells)]
        print("", *("| " + " | ".join(line) + " |" for line in lines if line), "", sep="\n")
    elif cells:
        grid = Grid(*names)
        for line in cells:
            grid.add_row(*(Text(cell) for cell in line.values()))
        Console().print(grid)


def _cells(row: FeatureRow) -> dict[str, str]:
    """A feature as the cells of a table, by column."""
    effects = {"effect": "; ".join(_effect_text(each) for each in row.effects)} if row.effects else {}
    near = "-" if row.nearest_feature is None else f"{row.nearest_feature} ({number(row.nearest_cosine)})"
    cells = {"feature": str(row.feature_id)} | effects | {"active": f"{row.rate:.2%}"}
    return cells | {"goes most with": row.label, "nearest (cosine)": near}


def _effect_text(effect: EffectView) -> str:
    share = "" if effect.share is None else f" ({effect.share:.0%})"
    held = "" if effect.adjusted is None else f", adjusted {effect.adjusted:+.2f}"
    return f"{effect.subject} {effect.effect:+.3g}{share}{held}, z {number(effect.z)}"
