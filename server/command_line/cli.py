"""The command line: ``mechinterp-runner``."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

from ...schemas.catalogue import catalogue, file_of_command, of_command
from ...schemas.errors import Cancelled, MechinterpError
from ..executor import PROJECT
from ..queries import ListArguments
from . import commands
from .flags import PROGRAM, Parser, add_common, add_compute, add_experiment, add_fields, check_flags

Command = Callable[[argparse.Namespace], int]
_WITHOUT_EXPERIMENTS = (["serve"], ["connect"])
"""Commands that answer before the experiments are imported."""
_EPILOG = (
    "An experiment also runs from a JSON file: --spec-path SPEC.json. Every run is stored in the home folder "
    "($MECHINTERP_HOME, or the user data folder). Exit status: 0 done, 1 the experiment, or a part of a batch, failed, "
    "2 a bad request, 130 stopped."
)
_STOPPED = 130
"""The exit status of what was stopped from the keyboard, as shells have it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        print(f"{PROGRAM}: stopped", file=sys.stderr)
        return _STOPPED


def _run(words: list[str]) -> int:
    if words and file_of_command(words[0]):
        # The products of one experiment are small: threads would wait for one another longer than they save.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    top, parsers = build_parser(words, experiments=words[:1] not in _WITHOUT_EXPERIMENTS)
    check_flags(words, parsers, top)
    given = top.parse_args(words)
    command = _choose(given, top)
    try:
        status = command(given)
        sys.stdout.flush()
    except Cancelled as stopped:
        print(f"{PROGRAM}: {stopped}", file=sys.stderr)
        return _STOPPED
    except MechinterpError as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever read our output has gone; what is left of it goes nowhere instead of failing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


def _choose(given: argparse.Namespace, top: Parser) -> Command:
    if given.list_types:
        return commands.list_types
    if given.command is None:
        if given.spec_path is None:
            top.error("name a command, or give --spec-path SPEC.json or --list-types")
        return commands.run_spec_file
    if given.spec_path is not None:
        top.error(f"--spec-path goes without a command, and {given.command!r} was given too")
    return given.run


def build_parser(words: Sequence[str] = (), *, experiments: bool = True) -> tuple[Parser, dict[str, Parser]]:
    """The parser, and the parsers of its subcommands by name.

    Args:
        words: the command line. One that begins with an experiment gets that subcommand alone, and imports no other.
        experiments: with the subcommands of the experiments, for whose flags all of them are imported.
    """
    top = Parser(prog=PROGRAM, description="Experiments on sparse-autoencoder features.", epilog=_EPILOG)
    top.allow_abbrev = False
    top.add_argument("--version", action="version", version=version(PROJECT))
    top.add_argument("--list-types", action="store_true", help="list the experiment types")
    top.add_argument("--spec-path", metavar="SPEC.json", help="run the spec of this file")
    add_common(top, runs=True, default=None)
    subparsers = top.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=Parser)
    parsers: dict[str, Parser] = {}

    def add(name: str, summary: str, run: Command) -> Parser:
        parser = subparsers.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        parser.set_defaults(run=run)
        parsers[name] = parser
        return parser

    named = of_command(words[0]) if words and experiments else None
    for experiment in ([named] if named else catalogue().values()) if experiments else ():
        parser = add(experiment.cli, experiment.summary, partial(commands.run_flags, experiment))
        add_experiment(parser, experiment)
    if named is None:
        _add_others(add, words, experiments=experiments)
    return top, parsers


def _add_others(add: Callable[[str, str, Command], Any], words: Sequence[str], *, experiments: bool) -> None:
    """The commands that are no experiments."""
    from . import (  # noqa: PLC0415 - not for a line that names an experiment
        batch_command,
        build_command,
        census_command,
        import_command,
        serving,
    )

    if experiments:
        batch = add("batch", "run many specs, skipping those that are answered", batch_command.batch)
        batch_command.add_flags(batch, words if "batch" in words else ())
    results = add("results", "search the stored results, newest first", commands.list_results)
    add_fields(results, ListArguments)
    add_common(results, runs=False)
    show = add("show", "print a stored result", commands.show)
    show.add_argument("id", metavar="ID", help="id of the run")
    add_common(show, runs=False)
    add_common(add("reindex", "read every stored result anew", commands.reindex), runs=False)
    serve = add("serve", "serve MCP over stdin and stdout, or over HTTP", serving.serve)
    serving.add_serve_flags(serve)
    add_compute(add_common(serve, runs=False))
    connect = add("connect", "bridge stdin and stdout to a server shared over HTTP", serving.connect)
    serving.add_connect_flags(connect)
    add_common(add("demo", "see it work: server, client, one experiment", commands.demo), runs=False)
    bundle = add("bundle", "check a bundle", commands.verify_bundle)
    bundle.add_argument("action", choices=("verify",), help="verify: hash every file and compare with the manifest")
    bundle.add_argument("name", nargs="?", metavar="NAME", help="name or folder; default: the default bundle")
    bundle.add_argument("--bundle", metavar="DIR", default=argparse.SUPPRESS, help="folder of the bundle")
    add_common(bundle, runs=False)
    build = add("build", "train a bundle, from a table of builds or the demo one", build_command.build)
    build_command.add_flags(build)
    census_command.add_commands(add)
    imports = add("import", "turn files of the SplatNLP project into a bundle", import_command.run_import)
    import_command.add_flags(imports)
