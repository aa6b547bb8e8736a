"""Resources: the guides of the package, and what the store holds."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Callable
from pathlib import Path

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from mcp.server.mcpserver.resources import FileResource
from mcp.types import Annotations, Resource

from ...schemas.catalogue import catalogue
from ...schemas.errors import MechinterpError, RequestError, UnknownNameError
from ...schemas.result import Table
from ..app import App
from ..store.index import Entry, Query
from ..store.store import Store
from .reading import read

PACKAGE = Path(__file__).resolve().parents[2]
LISTED = 20
"""How many of the newest results the list of resources shows."""
_TITLE = 100
_MARKDOWN, _JSON, _CSV = "text/markdown", "application/json", "text/csv"
_GUIDES = (
    ("skill", "skill.md", "How to use this server", "Which tool answers which question; workflows; traps."),
    ("glossary", "docs/glossary.md", "Glossary", "What every word of a result means, a paragraph each."),
    (
        "methods",
        "docs/methods.md",
        "Methods",
        "How every number is computed; dataset_slice; constraints.",
    ),
)
_RESULT = "A stored result in full, unrounded: findings, aggregates, tables, diagnostics, followups, provenance."
_TABLE = "A table of a stored result as CSV, whole and unrounded: all its rows, however many. Null is empty."
_SPEC = "The spec of a stored result, ready for run_spec: all but its id and date, so that it can be run or changed."
_TYPE = "The page of an experiment type: its question, when not to use it, variables, columns, how to read it, example."


def add_type_pages(server: MCPServer[App]) -> None:
    """Add the page of every experiment type; imports all of them."""
    for name, experiment in catalogue().items():
        uri, file = f"mechinterp://experiment-types/{name}", f"docs/experiments/{name}.md"
        server.add_resource(_guide(uri, name, file, name.replace("_", " ").capitalize(), experiment.summary))


def add_resources(server: MCPServer[App], app: App) -> None:
    """Add the guides as resources, and templates for what the store holds."""
    for name, file, title, description in _GUIDES:
        server.add_resource(_guide(f"mechinterp://{name}", name, file, title, description))

    @server.resource(
        "mechinterp://experiment-types/{type}",
        name="experiment-type",
        title="Experiment type",
        description=_TYPE,
        mime_type=_MARKDOWN,
    )
    async def experiment_type(type: str) -> str:  # noqa: A002 - named as in the URI
        # Pages there are have entries of their own, which are looked up first.
        return await _found(app, lambda: _no_page(type))

    @server.resource(
        "mechinterp://results/{id}", name="result", title="Stored result", description=_RESULT, mime_type=_JSON
    )
    async def result(id: str) -> str:  # noqa: A002
        return await _found(app, lambda: app.store.result(id).model_dump_json())

    @server.resource(
        "mechinterp://results/{id}/tables/{name}",
        name="result-table",
        title="Table of a stored result",
        description=_TABLE,
        mime_type=_CSV,
    )
    async def table(id: str, name: str) -> str:  # noqa: A002
        return await _found(app, lambda: as_csv(_table(app.store, id, name)))

    @server.resource("mechinterp://specs/{id}", name="spec", title="Stored spec", description=_SPEC, mime_type=_JSON)
    async def spec(id: str) -> str:  # noqa: A002
        return await _found(app, lambda: app.store.spec(id).model_dump_json(exclude={"id", "created_at"}))


async def newest_results(app: App) -> list[Resource]:
    """The newest stored results, for the list of resources.

    Raises:
        MCPError: the folder of results cannot be read.
    """
    _, entries = await read(app, lambda: app.store.search(Query(limit=LISTED)))
    return [_listed(entry) for entry in entries]


def _guide(uri: str, name: str, file: str, title: str, description: str) -> FileResource:
    return FileResource(
        uri=uri, name=name, title=title, description=description, mime_type=_MARKDOWN, path=PACKAGE / file
    )


def _listed(entry: Entry) -> Resource:
    outcome = "" if entry.success else f"; failed: {entry.error_message}"
    about = f"{entry.experiment_type} of feature {entry.feature_id}, bundle {entry.bundle}"
    return Resource(
        uri=f"mechinterp://results/{entry.spec_id}",
        name=entry.spec_id,
        title=textwrap.shorten(entry.headline or about, _TITLE, placeholder=" …"),
        description=about + outcome,
        mime_type=_JSON,
        annotations=Annotations(last_modified=entry.stored_at) if entry.stored_at else None,
    )


async def _found(app: App, work: Callable[[], str]) -> str:
    """Read on a worker thread; what is not there, and what cannot be read, in words the client gets to see."""
    try:
        return await app.read(work)
    except RequestError as error:
        raise ResourceNotFoundError(str(error)) from error
    except MechinterpError as error:
        raise ResourceError(str(error)) from error


def _no_page(name: str) -> str:
    raise UnknownNameError("experiment type", name, catalogue(), "Each has a page mechinterp://experiment-types/TYPE.")


def _table(store: Store, spec_id: str, name: str) -> Table:
    tables = store.result(spec_id).tables
    if name not in tables:
        raise UnknownNameError("table", name, tables, f"mechinterp://results/{spec_id} holds the whole result.")
    return tables[name]


def as_csv(table: Table) -> str:
    """A table as CSV with a header (RFC 4180): null is an empty cell, a list, an object or a truth value is JSON."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(table.columns)
    writer.writerows([_cell(row.get(column)) for column in table.columns] for row in table.rows)
    return text.getvalue()


def _cell(value: object) -> object:
    """What the csv module is given: it writes a float with all its digits and None as nothing."""
    as_it_is = value is None or (isinstance(value, str | int | float) and not isinstance(value, bool))
    return value if as_it_is else json.dumps(value, ensure_ascii=False)
