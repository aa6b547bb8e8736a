"""Input and output schemas that every client can read, derived from the models, and arguments checked against them.

Clients differ in what they accept: combinators at the root, ``$ref``, tuples and titles make some refuse the tool or
the whole list. So references are inlined, an optional value is its type alone (null, or leaving it out, gives the
default), and objects refuse unknown keys.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from pydantic import BaseModel, Field, ValidationError

from ...schemas.catalogue import Experiment
from ...schemas.errors import RequestError, nearest
from ...schemas.manifest import Name
from ...schemas.spec import ConstraintId, DatasetSlice, ExperimentSpec, Strict, explain, no_contexts, parse_spec
from ..answers import DEFAULT_ROWS, Cut, Form

Schema = dict[str, Any]
M = TypeVar("M", bound=BaseModel)
_DROPPED = {"title", "$defs", "discriminator", "examples"}
_DETAILS = {"description", "default", "enum", "pattern", "maxLength", "minimum", "maximum", "exclusiveMinimum"}
"""What a schema in brief leaves out; it is checked all the same."""
_MAX_ROWS = 500
_MAX_WAIT = 300.0
DEFAULT_WAIT = 45.0


class ReadOptions(Strict):
    """How a result is shown."""

    max_rows: int | None = Field(
        default=None, ge=1, le=_MAX_ROWS, description=f"Rows of each table; {DEFAULT_ROWS} by default."
    )
    response_format: Form = Field(
        default="concise", description="concise (default), detailed (provenance, unrounded) or markdown (a note)."
    )

    def cut(self, *, offset: int = 0, table: str | None = None) -> Cut:
        """The cut these options ask for."""
        return Cut(self.response_format, self.max_rows, offset, table)


class RunOptions(ReadOptions):
    """How a spec is run and its result shown."""

    wait_s: float = Field(
        default=DEFAULT_WAIT,
        ge=0,
        le=_MAX_WAIT,
        description=f"Seconds to wait, {DEFAULT_WAIT:g} by default; what takes longer goes on, for get_run.",
    )

    fresh: bool = Field(default=False, description="Run even if the same question has a stored answer.")


class ExperimentOptions(RunOptions):
    """What an experiment tool takes beside the question itself."""

    constraints: tuple[ConstraintId, ...] | None = Field(default=None, description="Constraints on constructed sets.")
    spec_id: Name | None = Field(default=None, description="Id of the run; made up when not given.")
    description: str | None = Field(default=None, description="What this run is for.")
    parent_hypothesis: str | None = Field(default=None, description="Hypothesis it belongs to.")
    rationale: str | None = Field(default=None, description="Why this experiment was chosen.")
    parent_spec_id: Name | None = Field(default=None, description="Run whose result led to it.")


_SLICE_LINE = "Which examples; default: all. Percentiles: 0-100."
_CONTEXTS_LINE = "Examples (default: all) or contexts {weapon, tokens}. Percentiles: 0-100."
_OPTIONS_LINE = "wait_s: seconds to wait (45); response_format: concise, detailed or markdown; fresh: run again."


def portable(schema: Schema, *, nullable: bool = False, brief: bool = False) -> Schema:
    """Rewrite a JSON schema so that every client can read it.

    Args:
        schema: as pydantic writes it.
        nullable: keep null as a possible value (for outputs, which do hold it).
        brief: leave out descriptions, defaults, choices and bounds, and all but the first kind of a list's items.

    Raises:
        TypeError: the schema is recursive or has a tuple of fixed length, which cannot be written so.
    """
    definitions = cast("dict[str, Schema]", schema.get("$defs", {}))
    return _rewrite(schema, definitions, (), nullable=nullable, brief=brief)


def _rewrite(schema: Schema, definitions: dict[str, Schema], above: tuple[str, ...], **how: bool) -> Schema:
    if "$ref" in schema:
        name = str(schema["$ref"]).rsplit("/", 1)[-1]
        if name in above:
            raise TypeError(f"schema of {name} is recursive")
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        return _rewrite({**definitions[name], **rest}, definitions, (*above, name), **how)
    if "prefixItems" in schema:
        raise TypeError("a tuple of fixed length has no portable schema: use a list or an object")
    if "anyOf" in schema and not how["nullable"]:
        kinds = [kind for kind in schema["anyOf"] if kind.get("type") != "null"]
        if len(kinds) == 1 or how["brief"]:
            rest = {key: value for key, value in schema.items() if key != "anyOf"}
            return _rewrite({**kinds[0], **rest}, definitions, above, **how)
    dropped = _DROPPED | _DETAILS if how["brief"] else _DROPPED
    if "properties" in schema:
        dropped = dropped | {"description"}  # a model's docstring, which is for readers of the code
    kept = {key: value for key, value in schema.items() if key not in dropped and not _empty_default(key, value)}
    return {key: _part(key, value, definitions, above, **how) for key, value in kept.items()} | _closed(schema)


def _part(key: str, value: Any, definitions: dict[str, Schema], above: tuple[str, ...], **how: bool) -> Any:  # noqa: ANN401
    if key == "properties":
        return {name: _rewrite(item, definitions, above, **how) for name, item in value.items()}
    if key == "anyOf":
        return [_rewrite(item, definitions, above, **how) for item in value]
    if key in {"items", "additionalProperties"} and isinstance(value, dict):
        return _rewrite(cast("Schema", value), definitions, above, **how)
    return value


def _empty_default(key: str, value: Any) -> bool:  # noqa: ANN401
    return key == "default" and (value is None or value == [] or isinstance(value, dict))


def _closed(schema: Schema) -> Schema:
    return {"additionalProperties": False} if "properties" in schema else {}


def schema_of(model: type[BaseModel]) -> Schema:
    """Portable input schema of a model."""
    return portable(model.model_json_schema())


def output_schema_of(model: type[BaseModel]) -> Schema:
    """Portable output schema of a model: its own fields in full, those of the models in it in brief."""
    whole = model.model_json_schema()
    shown = portable(whole, nullable=True)
    in_brief = portable(whole, nullable=True, brief=True)["properties"]
    shown["properties"] = {
        name: in_brief[name] | {key: part[key] for key in ("description", "enum") if key in part}
        for name, part in shown["properties"].items()
    }
    return shown


def experiment_schema(experiment: Experiment) -> Schema:
    """Input schema of an experiment's tool: the type's variables beside feature, bundle, slice and options."""
    base = ExperimentSpec.model_json_schema()["properties"]
    variables = schema_of(experiment.variables)
    properties: Schema = {"feature_id": portable(base["feature_id"])}
    properties["model_type"] = {"type": "string", "description": "Bundle; default: see describe_context."}
    clash = {*properties, "dataset_slice", "options"} & set(variables.get("properties", {}))
    if clash:
        raise TypeError(f"variables of {experiment.type} have names every tool uses: {', '.join(sorted(clash))}")
    properties |= variables.get("properties", {})
    takes = experiment.spec.takes_contexts
    part = properties["dataset_slice"] = in_one_line(DatasetSlice, _CONTEXTS_LINE if takes else _SLICE_LINE)
    # In all but the line in brief: what a context holds is told by list_experiment_types, and checked by the spec.
    if takes:
        part["properties"]["contexts"] = {"type": "array", "items": {"type": "object"}}
    else:
        del part["properties"]["contexts"]
    properties["options"] = in_one_line(ExperimentOptions, _OPTIONS_LINE)
    return {
        "type": "object",
        "properties": properties,
        "required": ["feature_id", *variables.get("required", [])],
        "additionalProperties": False,
    }


def in_one_line(model: type[BaseModel], line: str) -> Schema:
    """A nested object in brief: its keys, and a line; list_experiment_types(type=...) describes them."""
    return {**portable(model.model_json_schema(), brief=True), "description": line}


# -- arguments ----------------------------------------------------------------------------------------------------


def check(
    arguments: dict[str, Any], schema: Schema, where: str = "", other_names: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Decode arguments sent as JSON strings, drop those that are null, refuse unknown ones.

    Args:
        arguments: as the client sent them.
        schema: what is allowed.
        where: prefix of names in messages.
        other_names: names that are understood beside those of the schema.

    Raises:
        RequestError: an argument is unknown or a required one is missing.
    """
    properties = cast("dict[str, Schema]", schema.get("properties", {}))
    checked: dict[str, Any] = {}
    for given, value in arguments.items():
        name = (other_names or {}).get(given, given)
        if name not in properties:
            if (where, name) == ("dataset_slice.", "contexts"):
                raise RequestError(f"{no_contexts('this type')}. Nothing was run.")
            near = nearest(name, properties)
            guess = f": did you mean {near!r}?" if near else "."
            homes = [key for key, part in properties.items() if name in part.get("properties", {})]
            guess = f": it belongs in {homes[0]!r}." if homes else guess
            allowed = ", ".join(properties) or "none"
            raise RequestError(f"unknown argument {where + name!r}{guess} Allowed: {allowed}. Nothing was run.")
        part = _decoded(value, properties[name], where + name)
        if part is not None:
            checked[name] = part
    missing = [where + name for name in schema.get("required", []) if name not in checked]
    if missing:
        raise RequestError(f"missing argument {', '.join(missing)}. Allowed: {', '.join(properties)}. Nothing was run.")
    return checked


def _decoded(value: Any, schema: Schema, where: str) -> Any:  # noqa: ANN401
    """Some clients send lists and objects as JSON text."""
    kind = schema.get("type")
    if isinstance(value, str) and kind in {"array", "object"}:
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            got = value[:80]
            raise RequestError(f"{where}: expected a JSON {kind}; got {got!r}. Nothing was run.") from error
    if kind == "array" and isinstance(value, list) and schema.get("items", {}).get("type") == "object":
        return [_decoded(item, schema["items"], f"{where}.{at}") for at, item in enumerate(cast("list[Any]", value))]
    if kind == "object" and "properties" in schema:
        if value is not None and not isinstance(value, dict):
            raise RequestError(f"{where}: expected a JSON object; got {value!r}. Nothing was run.")
        return None if value is None else check(cast("dict[str, Any]", value), schema, f"{where}.")
    return value


def validated(model: type[M], data: dict[str, Any], where: str = "") -> M:
    """Validate checked arguments into a model.

    Raises:
        RequestError: a value is out of bounds or of the wrong kind.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise RequestError(where + explain(error, {})) from error


def spec_and_options(experiment: Experiment, arguments: dict[str, Any]) -> tuple[ExperimentSpec, ExperimentOptions]:
    """Turn an experiment tool's checked arguments into the typed spec and the options.

    Raises:
        RequestError: what is wrong, by the names the tool uses.
    """
    given = dict(arguments)
    options = validated(ExperimentOptions, given.pop("options", {}), "options.")
    data: dict[str, Any] = {"type": experiment.type}
    data |= {name: given.pop(name) for name in ("feature_id", "model_type", "dataset_slice") if name in given}
    data["variables"] = given
    record = options.model_dump(exclude_none=True, exclude={"max_rows", "response_format", "fresh", "wait_s"})
    if "spec_id" in record:
        record["id"] = record.pop("spec_id")
    return parse_spec(data | record, flat=True), options
