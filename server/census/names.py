"""Names in a question to the census, resolved as everywhere: exact in any case, else the nearest is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...runners.census.subjects import KINDS, Kind
from ...schemas.errors import RequestError, UnknownNameError
from ...schemas.facts import ABILITIES
from .table import CensusMeta, subject_title

if TYPE_CHECKING:
    from .arguments import FindArguments


@dataclass(frozen=True, slots=True)
class Subject:
    """Something a question names.

    Attributes:
        kind: what it is.
        title: how headlines call it.
        columns: its columns among the effects of the kind; an ability has one for each of its tokens.
    """

    kind: Kind
    title: str
    columns: tuple[int, ...]

    def title_of(self, meta: CensusMeta, column: int) -> str:
        """Name of one of the columns: of an ability, the token."""
        return subject_title(self.kind, meta.names[self.kind][column])


def subjects_of(meta: CensusMeta, given: FindArguments) -> list[Subject]:
    """Everything the arguments name.

    Raises:
        UnknownNameError: a name that the bundle does not have.
        RequestError: a name of several kinds.
    """
    named: dict[Kind, str | None] = {kind: getattr(given, kind) for kind in KINDS}
    found = [_named(meta, kind, text) for kind, text in named.items() if text is not None]
    return ([] if given.query is None else [_anything(meta, given.query)]) + found


def _named(meta: CensusMeta, kind: Kind, text: str) -> Subject:
    known = _names(meta, kind)
    subject = known.get(_plain(text))
    if subject is None:
        raise UnknownNameError(kind.replace("_", " "), text, _allowed(meta, kind), "Nothing was run.")
    return subject


def _anything(meta: CensusMeta, text: str) -> Subject:
    """The subject of any kind with that name."""
    hits = [subject for kind in KINDS if (subject := _names(meta, kind).get(_plain(text))) is not None]
    if not hits:
        hint = "An ability, weapon, sub, special or weapon class will do. Nothing was run."
        raise UnknownNameError("name", text, [name for kind in reversed(KINDS) for name in _allowed(meta, kind)], hint)
    if len(hits) > 1:
        kinds = " or ".join(f"{hit.kind}={text!r}" for hit in hits)
        raise RequestError(f"{text!r} names several things: give {kinds} instead of query. Nothing was run.")
    return hits[0]


def _allowed(meta: CensusMeta, kind: Kind) -> list[str]:
    """Names to choose from: of abilities, not each token."""
    return sorted(set(meta.families)) if kind == "ability" else list(meta.names[kind])


def _names(meta: CensusMeta, kind: Kind) -> Mapping[str, Subject]:
    """Every accepted name of the subjects of a kind."""
    names = meta.names[kind]
    known = {_plain(name): Subject(kind, subject_title(kind, name), (at,)) for at, name in enumerate(names)}
    if kind == "weapon":
        for at, weapon_id in enumerate(meta.weapon_ids):
            known |= dict.fromkeys((str(weapon_id), f"weapon id {weapon_id}"), Subject(kind, names[at], (at,)))
    if kind == "ability":
        for family in set(meta.families):
            columns = tuple(at for at, held in enumerate(meta.families) if held == family)
            known[_plain(family)] = Subject(kind, family, columns)
            if family in ABILITIES:
                fact = ABILITIES[family]
                known |= dict.fromkeys((_plain(fact.name), _plain(fact.short)), known[_plain(family)])
    return known


def _plain(text: str) -> str:
    """A name without case, and with spaces for underscores."""
    return " ".join(text.replace("_", " ").casefold().split())
