"""Command-line flags, derived from the typed specs."""

from __future__ import annotations

import argparse
import difflib
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

from pydantic import BaseModel

from ...schemas.catalogue import Experiment
from ...schemas.errors import RequestError, nearest
from ...schemas.spec import DatasetSlice, ExperimentSpec, parse_spec
from ..tools.schema import Schema, schema_of

PROGRAM = "mechinterp-runner"
FORMATS = ("table", "markdown", "json")
EXAMPLES = {
    "feature_id": "0",
    "family": "special_charge_up",
    "family_x": "run_speed_up",
    "family_y": "ink_resistance_up",
    "modulator_token": "haunt",
}
"""Values of required fields, for the example of a command."""
_RECORD = ("id", "description", "parent_hypothesis", "rationale", "parent_spec_id", "constraints")
_SLICE_ALIASES = {"random_seed": ("--seed",)}
_GROUPS = ("variables", "dataset_slice", "spec")


class Parser(argparse.ArgumentParser):
    """A parser whose errors name the nearest word that would have been right, and whose help may end in an example."""

    example: str | None = None

    def format_help(self) -> str:
        """The help, and the example in a line of its own, so that it can be copied."""
        return super().format_help() + (f"\nexample:\n  {self.example}\n" if self.example else "")

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
                near = nearest_flag(name, own)
                guess = f": did you mean {near}?" if near else f". Allowed: {' '.join(sorted(own))}"
                parser.error(f"unknown flag {name}{guess}")
            skip = own[name] and not given


def nearest_flag(given: str, flags: Mapping[str, bool]) -> str | None:
    """The flag that was most likely meant: one that has all the words given, else one that is spelt nearly so.

    Args:
        given: the flag as it was given.
        flags: the flags there are, and whether each takes a value: those that do come first.
    """
    plain = {name.removeprefix("--"): takes_value for name, takes_value in flags.items()}
    asked = given.removeprefix("--")
    having = [name for name in plain if _words(asked) <= _words(name)]
    # "--tokens" is short for "--candidate-tokens", though by its letters it is nearer to "--top-k".
    closest = min(
        having,
        key=lambda name: (not plain[name], not name.startswith(asked[:3]), asked not in name, len(name)),
        default=None,
    )
    near = closest or next(iter(difflib.get_close_matches(asked, plain, n=1, cutoff=0.7)), None)
    return f"--{near}" if near else None


def _words(name: str) -> set[str]:
    """The words of a flag, in the singular."""
    return {re.sub("ies$", "y", word).removesuffix("s") for word in name.split("-")}


def _options(parser: argparse.ArgumentParser) -> dict[str, bool]:
    """The long flags of a parser, and whether each takes a value."""
    actions = parser._actions  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    return {
        option: action.nargs is None
        for action in actions
        for option in action.option_strings
        if option.startswith("--")
    }


def add_common(
    parser: argparse.ArgumentParser, *, runs: bool, default: object = argparse.SUPPRESS
) -> Callable[..., Any]:
    """Flags that do not depend on the type; without a default, so that those before the subcommand count too.

    Returns:
        What adds a further flag to the group "where and how".
    """
    where = parser.add_argument_group("where and how")
    where.add_argument("--home", metavar="DIR", default=default, help="home folder of bundles and runs")
    if runs:
        where.add_argument("--bundle", metavar="DIR", default=default, help="folder of a bundle, instead of --model")
        add_compute(where.add_argument, default=default)
        where.add_argument("--fresh", action="store_true", default=default, help="run even if the answer is stored")
        where.add_argument(
            "--dry-run", action="store_true", default=default, help="say what would run, and run nothing"
        )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--format", choices=FORMATS, default=default, help="default: table on a terminal, else markdown"
    )
    if runs:
        output.add_argument("--output-dir", metavar="DIR", default=default, help="put a copy of the result there")
    return where.add_argument


def add_compute(add: Callable[..., Any], *, default: object = argparse.SUPPRESS) -> None:
    """The flags of what it runs on."""
    add("--device", metavar="NAME", default=default, help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    add("--dtype", metavar="NAME", default=default, help="float32, float64 or bfloat16 (default: float32)")
    add("--threads", type=int, metavar="N", default=default, help="threads torch may use (default: as torch chooses)")
    kept = "keep pooled vectors there from one process to the next (default: $MECHINTERP_POOLED_CACHE)"
    add("--pooled-cache", metavar="DIR", default=default, help=kept)


def add_experiment(parser: Parser, experiment: Experiment) -> None:
    """The flags of an experiment type: what it requires, its other variables, the slice, the record, and the common."""
    base = schema_of(ExperimentSpec)["properties"]
    variables = schema_of(experiment.variables)
    short = {field: (flag(alias),) for alias, field in experiment.aliases.items()}
    required = parser.add_argument_group("required")
    _add(required.add_argument, "spec", "feature_id", base["feature_id"])
    optional = parser.add_argument_group("variables")
    for name, schema in variables.get("properties", {}).items():
        group = required if name in variables.get("required", []) else optional
        _add(group.add_argument, "variables", name, schema, short.get(name, ()))
    group = parser.add_argument_group("slice (which examples it is about; default: all)")
    for name, schema in schema_of(DatasetSlice)["properties"].items():
        # A type that takes no contexts says so itself, and what to do instead.
        hidden = name == "contexts" and not experiment.spec.takes_contexts
        _add(group.add_argument, "dataset_slice", name, schema, _SLICE_ALIASES.get(name, ()), hidden=hidden)
    group = parser.add_argument_group("record")
    for name in _RECORD:
        _add(group.add_argument, "spec", name, base[name])
    _add(add_common(parser, runs=True), "spec", "model_type", base["model_type"], ("--model",))
    properties = {**base, **variables.get("properties", {})}
    needed = " ".join(f"{flag(name)} {_metavar(properties[name].get('type'))}" for name in _required(experiment))
    parser.usage = f"{PROGRAM} {experiment.cli} {needed} [options]"
    parser.example = example_of(experiment)


def _required(experiment: Experiment) -> list[str]:
    """The fields that have no default."""
    return ["feature_id", *schema_of(experiment.variables).get("required", [])]


def example_of(experiment: Experiment) -> str:
    """A complete command of the type, with the flags it requires."""
    words = [f"{flag(name)} {EXAMPLES.get(name, name.upper())}" for name in _required(experiment)]
    return " ".join([PROGRAM, experiment.cli, *words])


def add_fields(parser: argparse.ArgumentParser, model: type[BaseModel]) -> None:
    """A flag for each field of a model."""
    for name, schema in schema_of(model)["properties"].items():
        _add(parser.add_argument, "fields", name, schema)


def _add(
    add: Callable[..., Any], group: str, name: str, schema: Schema, more: Iterable[str] = (), *, hidden: bool = False
) -> None:
    options: dict[str, Any] = {"dest": f"{group}.{name}", "default": argparse.SUPPRESS, "help": _help(schema)}
    kind = schema.get("type")
    if kind == "boolean":
        options["action"] = argparse.BooleanOptionalAction
    elif kind == "array" and schema["items"].get("type") == "object":
        options |= {"type": _json_list, "metavar": "FILE", "help": f"{options['help']} FILE holds their list as JSON."}
    elif kind == "array":
        options |= {"type": _listed, "metavar": "A,B,..."}
    elif kind == "object":
        options |= {"type": json.loads, "metavar": "JSON"}
    else:
        options["metavar"] = "|".join(map(str, schema["enum"])) if "enum" in schema else _metavar(kind)
    if hidden:
        options["help"] = argparse.SUPPRESS
    add(*more, flag(name), **options)


def _metavar(kind: object) -> str:
    return {"integer": "N", "number": "X"}.get(str(kind), "TEXT")


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _json_list(path: str) -> list[Any]:
    """The list in a JSON file; argparse shows what is wrong with it."""
    try:
        found: object = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, list):
        raise argparse.ArgumentTypeError(f"{path} must hold a JSON list; it holds {type(found).__name__}")
    return cast("list[Any]", found)


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


def flags_of(fields: Mapping[str, Any]) -> str:
    """Fields as the flags that give them."""

    def one(name: str, value: Any) -> str:  # noqa: ANN401 - a parsed value
        if isinstance(value, bool):
            return flag(name) if value else flag(f"no_{name}")
        return f"{flag(name)} {shlex.quote(str(value))}"

    return " ".join(one(name, value) for name, value in fields.items())


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
        return parse_spec(data, called=flag)
    except RequestError as error:
        complete = set(_required(experiment)) <= {*data, *data["variables"]}
        example = " " if complete else f"\nA complete command:\n  {example_of(experiment)}\n"
        raise RequestError(f"{error}{example}`{PROGRAM} {experiment.cli} --help` lists the flags.") from error


def format_of(given: argparse.Namespace) -> str:
    """The format asked for: by default a table on a terminal, else markdown."""
    return given.format or ("table" if sys.stdout.isatty() else "markdown")
