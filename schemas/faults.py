"""What is wrong with a spec, in words: the value got, what is allowed, the nearest name, and where a key belongs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from .errors import nearest
from .facts import STANDARD_RUNGS
from .manifest import NAME_PATTERN

Called = Callable[[str], str]
_GROUPS = ("variables", "dataset_slice", "outputs")
_UNION_TAGS = {"str", "int"}
_KINDS = {
    "tuple_type": "Input should be a list",
    "model_type": "Input should be a JSON object",
    "int_parsing": "Input should be a valid integer",
    "int_from_float": "Input should be a valid integer",
    "float_parsing": "Input should be a valid number",
    "bool_parsing": "Input should be true or false",
}
"""Words of ours for the kinds of fault whose own message speaks of Python."""
_NAME_WORDS = "Input should be letters, digits, '.', '_' and '-' only, at most 64, and begin with a letter or digit"
_TIME_WORDS = "Input should be a date or a time, such as 2025-06-07 or 2025-06-07T14:25"
_MOST_SHOWN = 80


@dataclass(frozen=True, slots=True)
class _Names:
    """How a door calls the fields of a spec.

    Attributes:
        model: the typed spec.
        flat: without ``variables.`` before the type's own variables, as the tools do.
        called: the name of a field wherever it stands, as the command line has a flag for each.
    """

    model: type[BaseModel]
    flat: bool
    called: Called | None

    def path(self, place: list[str | int]) -> str:
        """The name of the field at a place; empty where a door has none for it."""
        if self.called is not None:
            inside = place[1:] if place[:1] and place[0] in _GROUPS else place
            if not inside or inside[0] in _GROUPS:
                return ""
            deeper = inside[1:] if _fields_of(inside[1:]) else []
            return ".".join([self.called(str(inside[0])), *map(str, deeper)])
        return ".".join(map(str, place[1:] if self.flat and place[:1] == ["variables"] else place))

    def group(self, name: str) -> str:
        """Where the fields of a group stand, "" being the spec itself."""
        top = not name or (self.flat and name == "variables")
        return "at the top, in no object of its own" if top else f"in {name!r}"


def explain(error: ValidationError, data: Any, *, flat: bool = False, called: Called | None = None) -> str:  # noqa: ANN401
    """Say in words what is wrong with a spec, every fault of it.

    Args:
        error: what validation found.
        data: the spec as it was given.
        flat: name the type's variables as the flat doors do, without ``variables.`` before them.
        called: makes the name of a field, where a door does not name it by its path.
    """
    names = _Names(_model_of(data), flat, called)
    lines = [_explain_one(item, names) for item in error.errors()]
    said = "; ".join(dict.fromkeys(lines))
    return f"{said}{'' if said.endswith('?') else '.'} Nothing was run."


def _model_of(data: Any) -> type[BaseModel]:  # noqa: ANN401 - JSON of any shape
    from .catalogue import find, runner_names  # noqa: PLC0415 - the catalogue imports the specs, they this module
    from .spec import ExperimentSpec  # noqa: PLC0415

    name = cast("dict[str, Any]", data).get("type") if isinstance(data, dict) else None
    return find(str(name)).spec if name in runner_names() else ExperimentSpec


def _explain_one(item: Any, names: _Names) -> str:  # noqa: ANN401 - pydantic's own dictionary
    kind = str(item["type"])
    if kind == "extra_forbidden":
        return _unknown(_fields_of(item["loc"]), names)
    # Steps of pydantic's own are no part of the path that its reader knows.
    loc = [part for part in item["loc"] if not str(part).startswith(("function-", "lax-or", "json-or"))]
    place = [part for part in loc if part not in _UNION_TAGS]
    where, path = _fields_of(place), names.path(place)
    if kind == "missing":
        return f"missing argument {path!r}{_what_is_missing(where, names.model)}"
    if kind == "value_error":
        message = str(item["msg"]).removeprefix("Value error, ").rstrip(".").removesuffix(". Nothing was run")
        return f"{path}: {message}" if path else message
    message = "Input should be a valid string or integer" if loc != place else _words_for(item)
    return f"{path}: {message}; got {_shown(item.get('input'))}{_hint(item, where)}"


def _fields_of(place: Iterable[str | int]) -> list[str]:
    """A place without the positions in lists."""
    return [part for part in place if isinstance(part, str)]


def _words_for(item: Any) -> str:  # noqa: ANN401
    kind, message = str(item["type"]), str(item["msg"])
    if kind == "string_pattern_mismatch" and item["ctx"]["pattern"] == NAME_PATTERN:
        return _NAME_WORDS
    if kind.startswith(("datetime", "date_")):
        return _TIME_WORDS
    return _KINDS.get(kind) or message.replace("Tuple", "List").replace(" after validation", "")


def _hint(item: Any, where: list[str]) -> str:  # noqa: ANN401
    if item["type"] == "literal_error":
        near = nearest(str(item["input"]), re.findall(r"'([^']*)'", item["ctx"]["expected"]))
        return f": did you mean {near!r}?" if near else ""
    if where and {"rung", "rungs"} & set(where[-1].split("_")):
        return f" (rungs are the AP {', '.join(map(str, STANDARD_RUNGS))})"
    return ""


def _shown(value: Any) -> str:  # noqa: ANN401
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 1]}…"


def _what_is_missing(where: list[str], model: type[BaseModel]) -> str:
    """What a missing field is for; for the variables as a whole, what they must hold."""
    field = fields_at(model, where[:-1]).get(where[-1])
    if where == ["variables"]:
        required = [name for name, each in fields_at(model, where).items() if each.is_required()]
        return f" with {' and '.join(map(repr, required))} in it" if required else ""
    words = (field.description or "").rstrip(".") if field else ""
    return f" ({words})" if words else ""


def _unknown(where: list[str], names: _Names) -> str:
    """An unknown key: where it belongs, else the nearest that would have been right, else all that are."""
    *group, key = where
    own = fields_at(names.model, group)
    near = nearest(key, own)
    said = f"unknown argument {names.path([*where])!r}"
    others = {name: fields_at(names.model, [name] if name else []) for name in _other_groups(group, names)}
    homes = [names.group(name) for name, fields in others.items() if key in fields]
    if homes:
        return f"{said}: it belongs {' or '.join(homes)}" + (f", or did you mean {near!r}?" if near else "")
    if near is None:
        near = nearest(key, [f"{name}.{field}" for name, fields in others.items() if name for field in fields])
    guess = f": did you mean {near!r}?" if near else "."
    return f"{said}{guess} Allowed: {', '.join(own)}"


def _other_groups(group: list[str], names: _Names) -> list[str]:
    everywhere = ["variables", "dataset_slice"] if names.flat else ["", *_GROUPS]
    return [name for name in everywhere if [name] != (group or [""])]


def fields_at(model: type[BaseModel], where: list[str]) -> dict[str, FieldInfo]:
    """The fields allowed at a place of a model; none where it has no object."""
    for part in where:
        field = model.model_fields.get(part)
        found = _model_in(field.annotation) if field else None
        if found is None:
            return {}
        model = found
    return model.model_fields


def _model_in(annotation: Any) -> type[BaseModel] | None:  # noqa: ANN401 - a type, or a form of several
    """The model that a field holds: itself, or in a list or an option."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part)) is not None), None)
