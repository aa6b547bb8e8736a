"""The specs of a batch: a file of them or one question about many features, all checked before one is run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from ...schemas.catalogue import Experiment, find, runner_names
from ...schemas.errors import RequestError
from ...schemas.spec import ExperimentSpec, parse_spec

T = TypeVar("T")
Item = ExperimentSpec | Mapping[str, Any] | str
"""A spec: typed, in its JSON form, or as a line of JSON."""
_MOST_FEATURES = 1_000_000
_SHOWN_ERRORS = 10
_RANGE = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?")


def parse_features(text: str) -> list[int]:
    """Features of a list such as ``0,5,10-20``, each once, in the order given.

    Raises:
        RequestError: a part is neither a number nor a range, or they are too many.
    """
    found = dict[int, None]()
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise RequestError(
                f"--features {part.strip()!r} is neither a feature nor a range of them from low to high: write "
                f"0-24575, or 0,5,10-20. Nothing was run."
            )
        found.update(dict.fromkeys(range(first, min(last, first + _MOST_FEATURES) + 1)))
        if len(found) > _MOST_FEATURES:
            raise RequestError(f"--features names more than {_MOST_FEATURES:,}: send them in parts. Nothing was run.")
    return list(found)


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a JSONL file that hold something, with their numbers from 1; read as they are asked for.

    Raises:
        RequestError: the file cannot be read as text.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as stream:
            yield from ((at, line) for at, line in enumerate(stream, 1) if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"path {path}: it cannot be read as text: {error}. Nothing was run.") from error


def for_features(spec: ExperimentSpec, features: Iterable[int]) -> Iterator[dict[str, Any]]:
    """The same question about each of some features, in the JSON form."""
    fields = spec.model_dump(mode="json", exclude_unset=True, exclude={"id"})
    return (fields | {"feature_id": feature} for feature in features)


class Reader:
    """Turns items into typed specs, fast: the type of each is looked up once.

    Args:
        model_type: the bundle of specs that name none.
    """

    def __init__(self, model_type: str | None = None) -> None:
        self._model_type = model_type
        self._types: dict[str, Experiment] = {}

    def __call__(self, item: Item) -> ExperimentSpec:
        """The typed spec.

        Raises:
            RequestError: what is wrong with it, every fault named.
        """
        if isinstance(item, ExperimentSpec):
            return item
        data = _json_object(item)
        if self._model_type is not None:
            data = {"model_type": self._model_type} | data
        name = data.get("type")
        if not isinstance(name, str) or (name not in self._types and name not in runner_names()):
            return parse_spec(data)
        if name not in self._types:
            self._types[name] = find(name)
        try:
            return self._types[name].spec.model_validate(data)
        except ValidationError:
            return parse_spec(data)  # says in words what is wrong


def _json_object(item: object) -> dict[str, Any]:
    if isinstance(item, str):
        try:
            item = json.loads(item)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"no JSON: {error}.") from error
    if not isinstance(item, Mapping):
        raise RequestError(f"expected a spec, a JSON object; got {type(item).__name__}.")
    return dict(cast("Mapping[str, Any]", item))


def each_checked(items: Iterable[tuple[str, Item]], check: Callable[[Item], T]) -> list[T]:
    """What ``check`` gives for each item.

    Args:
        items: each with the words for its place, such as ``"line 3"``.
        check: raises RequestError for what is wrong.

    Raises:
        RequestError: some are wrong; the first of them are named with their places.
    """
    checked, wrong, total = list[T](), list[str](), 0
    for place, item in items:
        total += 1
        try:
            checked.append(check(item))
        except RequestError as error:
            wrong.append(f"{place}: {error}")
    refuse(wrong, total)
    return checked


def refuse(wrong: list[str], total: int) -> None:
    """Raise RequestError that names the first of what is wrong, if anything is."""
    if wrong:
        more = f"\n... and {len(wrong) - _SHOWN_ERRORS:,} more" if len(wrong) > _SHOWN_ERRORS else ""
        told = "\n".join(wrong[:_SHOWN_ERRORS])
        raise RequestError(f"{len(wrong):,} of {total:,} specs are wrong, and none was run:\n{told}{more}")
