"""Completions: what the arguments of prompts and templates can be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from mcp.server import MCPServer
from mcp.shared.exceptions import MCPError
from mcp.types import (
    INVALID_PARAMS,
    Completion,
    CompletionArgument,
    CompletionContext,
    PromptReference,
    ResourceTemplateReference,
)

from ...schemas.catalogue import catalogue
from ...schemas.errors import UnknownNameError
from ...schemas.manifest import is_name
from ..app import App
from ..store.index import Query
from .reading import read, unchecked_bundle

_SHOWN = 100
"""The most values the protocol lets an answer hold."""
_LOOKED_AT = 10_000
"""How many of the newest results that mention what was typed are looked at."""
Reference = PromptReference | ResourceTemplateReference
Chosen = Mapping[str, str]
"""The arguments that are filled in already."""
Source = Callable[[App, str, Chosen], Iterable[str]]


def add_completions(server: MCPServer[App], app: App) -> None:
    """Complete arguments by their names, whichever prompt or template they belong to."""

    @server.completion()
    async def complete(  # pyright: ignore[reportUnusedFunction] - the decorator registers it
        reference: Reference, argument: CompletionArgument, context: CompletionContext | None
    ) -> Completion | None:
        await _check_reference(server, reference)
        source = SOURCES.get(argument.name)
        if source is None:
            return None
        chosen = (context.arguments if context else None) or {}
        return await read(app, lambda: matching(argument.value, source(app, argument.value, chosen)))


def matching(typed: str, names: Iterable[str]) -> Completion:
    """The names that begin with what was typed, in any case, then those that hold it elsewhere."""
    wanted = typed.casefold()
    begin: list[str] = []
    within: list[str] = []
    for name in names:
        place = name.casefold().find(wanted)
        if place >= 0:
            (within if place else begin).append(name)
    found = begin + within
    return Completion(values=found[:_SHOWN], total=len(found), has_more=len(found) > _SHOWN)


async def _check_reference(server: MCPServer[App], reference: Reference) -> None:
    if isinstance(reference, PromptReference):
        what, got, known = "prompt", reference.name, [prompt.name for prompt in await server.list_prompts()]
    else:
        what, got = "resource template", reference.uri
        known = [template.uri_template for template in await server.list_resource_templates()]
    if got not in known:
        raise MCPError(code=INVALID_PARAMS, message=str(UnknownNameError(what, got, known)))


def _features(app: App, typed: str, chosen: Chosen) -> Iterable[str]:
    """Feature numbers that begin with what was typed; a digit in their middle means nothing."""
    numbers = map(str, range(unchecked_bundle(app.home, chosen.get("model_type")).manifest.n_features))
    return (number for number in numbers if number.startswith(typed))


def _families(app: App, _typed: str, chosen: Chosen) -> Iterable[str]:
    return unchecked_bundle(app.home, chosen.get("model_type")).vocabulary().families


def _weapons(app: App, _typed: str, chosen: Chosen) -> Iterable[str]:
    """Names of weapons, then their tokens (which hold the kit ids); slices accept both."""
    weapons = unchecked_bundle(app.home, chosen.get("model_type")).weapon_vocabulary()
    return dict.fromkeys([*sorted(kit.name for kit in weapons.facts), *weapons.tokens])


def _types(_app: App, _typed: str, _chosen: Chosen) -> Iterable[str]:
    return catalogue()


def _results(app: App, typed: str, _chosen: Chosen) -> Iterable[str]:
    """Ids, newest first; the search finds what was typed in ids among other places."""
    _, entries = app.store.search(Query(text=typed, limit=_LOOKED_AT))
    return [entry.spec_id for entry in entries]


def _tables(app: App, _typed: str, chosen: Chosen) -> Iterable[str]:
    """Tables of the result that was chosen, none if it is not stored; of every type when none was chosen."""
    if "id" not in chosen:
        return sorted({name for experiment in catalogue().values() for name in experiment.tables})
    entry = app.store.find(chosen["id"]) if is_name(chosen["id"]) else None
    return app.store.load(entry).tables if entry else ()


def _bundles(app: App, _typed: str, _chosen: Chosen) -> Iterable[str]:
    return app.home.bundle_names()


SOURCES: Mapping[str, Source] = {
    "feature_id": _features,
    "model_type": _bundles,
    "family": _families,
    "weapon": _weapons,
    "type": _types,
    "id": _results,
    "run_id": _results,
    "name": _tables,
}
"""Where the values of an argument come from, by its name."""
