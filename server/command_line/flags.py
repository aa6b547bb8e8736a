"""Command-line flags, derived from the typed specs."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, cast

from pydantic import BaseModel

from ...schemas.catalogue import Experiment
from ...schemas.errors import RequestError, nearest
from ...schemas.spec import DatasetSlice, ExperimentSpec, parse_spec
from ..tools.schema import Schema, schema_of

PROGRAM = "mechinterp-runner"
FORMATS = ("table", "markdown", "json")
_RECORD = ("id", "description", "parent_hypothesis", "rationale", "parent_spec_id", "constraints")
_SLICE_ALIASES = {"random_seed": ("--seed",)}
_GROUPS = ("variables", "dataset_slice", "spec")


class Parser(argparse.ArgumentParser):
    """A parser whose errors name the nearest word that would have been right."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong on stderr and leave with status 2."""
        match = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if match:
            words = [word.strip(" '") for word in match[2].split(",")]
            near = nearest(match[1], words)
            guess = f": did you mean {near!r}?" if near else "."
            message = f"unknown word {match[1]!r}{guess} Allowed: {', '.join(words)}"
        elif message.startswith("unrecognized arguments"):
            message += "; a list is written A,B without spaces, or in quotes"
        self.exit(2, f"{self.prog}: error: {message}\n`{self.prog} --help` shows what there is. Nothing was run.\n")


def flag(name: str) -> str:
    """The flag of a field."""
    return "--" + name.replace("_", "-")


def check_flags(argv: Sequence[str], parsers: Mapping[str, Parser], top: Parser) -> None:
    """Leave with status 2 when a flag of ``argv`` is one its command does not have, naming the nearest."""
    parser, skip = top, False
    for word in argv:
        name, given = word.split("=", 1)[0], "=" in word
        if skip:
            skip = False
        elif word == "--":
            return
        elif parser is top and not word.startswith("-"):
            if word not in parsers:
                return  # the parser itself says that there is no such command
            parser = parsers[word]
        elif name.startswith("--"):
            own = _options(parser)
            if name not in own:
                near = nearest(name, own)
                guess = f": did you mean {near}?" if near else "."
                parser.error(f"unknown flag {name}{guess} Allowed: {' '.join(sorted(own))}")
            skip = own[name] and not given


def _options(parser: argparse.ArgumentParser) -> dict[str, bool]:
    """The long flags of a parser, and whether each takes a value."""
    actions = parser._actions  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    return {
        option: action.nargs is None
        for action in actions
        for option in action.option_strings
        if option.startswith("--")
    }


def add_common(parser: argparse.ArgumentParser, *, runs: bool, default: object = argparse.SUPPRESS) -> None:
    """Flags that do not depend on the type; without a default, so that those before the subcommand count too."""
    group = parser.add_argument_group("where and how")
    group.add_argument("--home", metavar="DIR", default=default, help="home folder of bundles and runs")
    group.add_argument("--format", choices=FORMATS, default=default, help="table on a terminal, else markdown")
    if not runs:
        return
    group.add_argument("--output-dir", metavar="DIR", default=default, help="put a copy of the result there")
    group.add_argument("--bundle", metavar="DIR", default=default, help="folder of a bundle, instead of --model")
    group.add_argument("--device", default=default, help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    group.add_argument("--dtype", default=default, help="float32, float64 or bfloat16 (default: float32)")
    group.add_argument("--threads", type=int, metavar="N", default=default, help="threads torch may use")
    group.add_argument("--fresh", action="store_true", default=default, help="run even if the answer is stored")
    group.add_argument("--dry-run", action="store_true", default=default, help="say what would run, and run nothing")


def add_experiment(parser: argparse.ArgumentParser, experiment: Experiment) -> None:
    """The flags of an experiment type: feature and bundle, its variables, the slice, the record."""
    base = schema_of(ExperimentSpec)["properties"]
    group = parser.add_argument_group("the question")
    _add(group.add_argument, "spec", "feature_id", base["feature_id"])
    _add(group.add_argument, "spec", "model_type", base["model_type"], ("--model",))
    short = {field: (flag(alias),) for alias, field in experiment.aliases.items()}
    for name, schema in schema_of(experiment.variables).get("properties", {}).items():
        _add(group.add_argument, "variables", name, schema, short.get(name, ()))
    group = parser.add_argument_group("which examples")
    for name, schema in schema_of(DatasetSlice)["properties"].items():
        _add(group.add_argument, "dataset_slice", name, schema, _SLICE_ALIASES.get(name, ()))
    group = parser.add_argument_group("the record")
    for name in _RECORD:
        _add(group.add_argument, "spec", name, base[name])


def add_fields(parser: argparse.ArgumentParser, model: type[BaseModel]) -> None:
    """A flag for each field of a model."""
    for name, schema in schema_of(model)["properties"].items():
        _add(parser.add_argument, "fields", name, schema)


def _add(add: Callable[..., Any], group: str, name: str, schema: Schema, more: Iterable[str] = ()) -> None:
    options: dict[str, Any] = {"dest": f"{group}.{name}", "default": argparse.SUPPRESS, "help": _help(schema)}
    kind = schema.get("type")
    if kind == "boolean":
        options["action"] = argparse.BooleanOptionalAction
    elif kind == "array":
        options |= {"type": _listed, "metavar": "A,B,..."}
    elif kind == "object":
        options |= {"type": json.loads, "metavar": "JSON"}
    else:
        options["metavar"] = "|".join(map(str, schema["enum"])) if "enum" in schema else _metavar(kind)
    add(*more, flag(name), **options)


def _metavar(kind: object) -> str:
    return {"integer": "N", "number": "X"}.get(str(kind), "TEXT")


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _help(schema: Schema) -> str:
    words = str(schema.get("description", ""))
    default = schema.get("default")
    if default is not None and "default" not in words:
        words += f" (default: {_text(default)})"
    return words.replace("%", "%%")


def _text(value: object) -> str:
    return ",".join(map(str, cast("list[object]", value))) if isinstance(value, list) else str(value)


def grouped(given: argparse.Namespace, group: str) -> dict[str, Any]:
    """What was given for the fields of a group."""
    prefix = f"{group}."
    return {name.removeprefix(prefix): value for name, value in vars(given).items() if name.startswith(prefix)}


def spec_of(experiment: Experiment, given: argparse.Namespace) -> ExperimentSpec:
    """The typed spec of an experiment's flags.

    Raises:
        RequestError: what is wrong, by the names of the flags.
    """
    data: dict[str, Any] = {"type": experiment.type, **grouped(given, "spec")}
    data |= {"variables": grouped(given, "variables"), "dataset_slice": grouped(given, "dataset_slice")}
    if not data["dataset_slice"]:
        del data["dataset_slice"]
    try:
        return parse_spec(data, flat=True)
    except RequestError as error:
        raise RequestError(f"{error} `{PROGRAM} {experiment.cli} --help` lists the flags.") from error


def format_of(given: argparse.Namespace) -> str:
    """The format asked for: by default a table on a terminal, else markdown."""
    return given.format or ("table" if sys.stdout.isatty() else "markdown")
