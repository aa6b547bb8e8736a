"""``mechinterp-runner batch``: many specs, from a file or one question about many features."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ...schemas.catalogue import Experiment, find, of_command
from ...schemas.errors import RequestError, UnknownNameError
from ..batch.specs import Item, Reader, each_checked, for_features, lines_of, parse_features
from ..pace import clock, pace
from .commands import compute_of, home_of, interruptible
from .flags import PROGRAM, Parser, add_common, add_experiment, format_of, spec_of
from .progress import progress_shown

if TYPE_CHECKING:
    from ...schemas.spec import ExperimentSpec
    from ..batch.batch import Batch, Prepared, Progress
    from ..batch.cluster import ClusterOptions
    from ..batch.planning import Planned

_ONE_SPEC = {"spec.feature_id": "--features", "spec.id": "no id", "output_dir": "--summary"}
"""Flags of a single run that a batch does not take, and what it takes instead."""
_SHOWN_FAILURES = 10


def add_flags(parser: Parser, words: Sequence[str]) -> None:
    """The flags of the batch command; with those of the experiment that ``--type`` names among ``words``."""
    parser.add_argument("specs", nargs="?", metavar="SPECS.jsonl", help="a file of specs, one JSON object a line")
    many = parser.add_argument_group("one question about many features, instead of a file")
    many.add_argument("--type", metavar="NAME", help="experiment type or its command; its flags are taken too")
    many.add_argument("--features", metavar="A-B,C,...", help="such as 0-24575, or 0,5,10-20")
    batch = parser.add_argument_group("batch")
    batch.add_argument("--summary", metavar="FILE", help="the Parquet summary (default: one in runs/summaries)")
    batch.add_argument("--engine", choices=("local", "ray"), default="local", help="where it runs (default: local)")
    ray = parser.add_argument_group("with --engine ray")
    ray.add_argument(
        "--ray-address", metavar="HOST:PORT", help="a running cluster, or auto (default: one started here)"
    )
    ray.add_argument("--workers", type=int, metavar="N", help="processes with a context each (default: all that fit)")
    ray.add_argument("--cpus-per-worker", type=float, default=1, metavar="X", help="default: 1")
    ray.add_argument("--gpus-per-worker", type=float, metavar="X", help="default: 1 where the cluster has GPUs, else 0")
    experiment = _experiment(_type_in(words))
    if experiment is None:
        add = add_common(parser, runs=True)
        add("--model", metavar="TEXT", dest="spec.model_type", default=argparse.SUPPRESS, help="bundle of all specs")
    else:
        add_experiment(parser, experiment)
    for action in parser._actions:  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        if action.dest in _ONE_SPEC:
            action.help = argparse.SUPPRESS
    parser.usage = f"{PROGRAM} batch (SPECS.jsonl | --features A-B --type NAME [flags of the type]) [options]"
    parser.example = f"{PROGRAM} batch --features 0-255 --type token_influence_sweep --method observational"


def _type_in(words: Sequence[str]) -> str | None:
    """The type that ``--type`` names, wherever it stands."""
    given = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    given.add_argument("--type", nargs="?")
    return given.parse_known_args(list(words))[0].type


def _experiment(name: str | None) -> Experiment | None:
    """The experiment of a type's name or command."""
    try:
        return None if name is None else of_command(name) or find(name)
    except UnknownNameError:
        return None  # said when the command runs, so that --help is shown all the same


def batch(given: argparse.Namespace) -> int:
    """Run the batch; 0 when every spec has an answer, 1 when some have none."""
    from ..batch.batch import Prepared, opened  # noqa: PLC0415 - numpy and the bundles, not for --help

    _check(given)
    home, bundle = home_of(given), Path(given.bundle) if given.bundle else None
    items = list(_items(given))
    specs = each_checked(items, Reader(getattr(given, "spec.model_type", None)))
    if not specs:
        raise RequestError(f"{given.specs} holds no spec. Nothing was run.")
    places = [place for place, _ in items]
    # Ray prints what happens to its processes on stdout, which is for the answer.
    quiet = redirect_stdout(sys.stderr) if given.engine == "ray" else nullcontext()
    try:
        with quiet, opened(home, bundle, compute_of(given), _cluster(given)) as (engine, worker):
            prepared = Prepared(specs, home, engine, worker, fresh=bool(given.fresh), places=places)
            if given.dry_run:
                text, status = _plan_text(prepared.plan(), len(specs), format_of(given)), 0
            else:
                text, status = _run(prepared, given)
    except KeyboardInterrupt:
        print("stopped; the same command goes on with the rest", file=sys.stderr)
        return 130
    print(text)
    return status


def _run(prepared: Prepared, given: argparse.Namespace) -> tuple[str, int]:
    """What became of the batch in words, and the exit status."""
    with interruptible() as stopped, progress_shown() as report:
        done = prepared.run(
            Path(given.summary) if given.summary else None,
            lambda now: report(now.total - now.left, now.total, pace_of(now)),
            stopped,
        )
    return _as_json(done) if format_of(given) == "json" else _report(done), 0 if done.success else 1


def _check(given: argparse.Namespace) -> None:
    """Raise RequestError unless the flags name one source of specs."""
    many = given.features is not None or given.type is not None
    if (given.specs is not None) == many or (many and None in {given.features, given.type}):
        raise RequestError(
            "batch needs one source of specs: a file, `batch SPECS.jsonl`, or `--features 0-255 --type NAME`. "
            "Nothing was run."
        )
    if given.type is not None and _experiment(given.type) is None:
        find(given.type)
    for name, instead in _ONE_SPEC.items():
        if getattr(given, name, None) is not None:
            wrong = "--" + name.removeprefix("spec.").replace("_", "-")
            raise RequestError(f"{wrong} is for a single run: a batch takes {instead} instead. Nothing was run.")
    for name in ("ray_address", "workers", "gpus_per_worker"):
        if getattr(given, name) is not None and given.engine != "ray":
            raise RequestError(f"--{name.replace('_', '-')} goes with --engine ray. Nothing was run.")


def _items(given: argparse.Namespace) -> Iterable[tuple[str, Item]]:
    """The specs with the words for their places."""
    if given.specs is not None:
        return ((f"line {at}", line) for at, line in lines_of(Path(given.specs)))
    features = parse_features(given.features)
    setattr(given, "spec.feature_id", features[0])
    return ((f"feature {item['feature_id']}", item) for item in for_features(_question(given), features))


def _question(given: argparse.Namespace) -> ExperimentSpec:
    experiment = _experiment(given.type)
    assert experiment is not None  # noqa: S101 - _check has found it
    return spec_of(experiment, given)


def _cluster(given: argparse.Namespace) -> ClusterOptions | None:
    if given.engine == "local":
        return None
    from ..batch.cluster import ClusterOptions  # noqa: PLC0415

    return ClusterOptions(given.ray_address, given.workers, given.cpus_per_worker, given.gpus_per_worker)


# -- what is shown --------------------------------------------------------------------------------------------------


def pace_of(now: Progress) -> str:
    """Failures, rate and time left, as far as they are known."""
    failed = f"{now.failed:,} failed" if now.failed else ""
    return ", ".join(filter(None, ["specs", failed, pace(now.done + now.failed, now.left, now.seconds)]))


def _plan_text(planned: Planned, total: int, form: str) -> str:
    twins = sum(map(len, planned.twins.values()))
    stored = len(planned.answered) + len(planned.to_alias)
    if form == "json":
        return json.dumps({"total": total, "stored": stored, "asked_twice": twins, "to_run": len(planned.tasks)})
    asked = f", {twins:,} ask what another asks" if twins else ""
    return f"{total:,} specs: {stored:,} have a stored answer{asked}, {len(planned.tasks):,} would be run"


def _report(done: Batch) -> str:
    """What became of the batch; on one line when all went well."""
    now = done.progress
    said = [f"{now.done:,} run", f"{now.skipped:,} answered already", f"{now.failed:,} failed"]
    said += [f"{now.left:,} not run"] if now.left else []
    lines = [f"{now.total:,} specs: {', '.join(said)}, in {clock(now.seconds)}; summary: {done.summary}"]
    failures = done.failures
    lines += [
        f"- {row.status}: `{row.spec_id}` {row.type} f{row.feature_id}: {row.error}"
        for row in failures[:_SHOWN_FAILURES]
    ]
    if len(failures) > _SHOWN_FAILURES:
        lines.append(f"... and {len(failures) - _SHOWN_FAILURES:,} more: status and error in the summary name all")
    if not done.success:
        lines.append(f"the same command {'goes on with the rest' if now.left else 'tries the failed ones again'}")
    return "\n".join(lines)


def _as_json(done: Batch) -> str:
    counts = asdict(done.progress) | {"left": done.progress.left}
    failures = [
        {name: getattr(row, name) for name in ("spec_id", "type", "feature_id", "status", "error")}
        for row in done.failures
    ]
    return json.dumps({**counts, "summary": str(done.summary), "failures": failures}, indent=1)
