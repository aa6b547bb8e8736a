"""The census from Python, and the one question all doors ask: which census there is to search."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ...context.home import Home
from ...schemas.errors import RequestError
from ...schemas.faults import explain
from ...schemas.job import Job
from .arguments import FindArguments
from .find import find
from .found import FeatureList
from .store import CensusStore
from .table import CensusTable
from .take import DEFAULT_MEMORY, CensusOptions, small_census, take_census

if TYPE_CHECKING:
    import pandas as pd

    from ...context.context import Context


def census(
    ctx: Context | str | None = None,
    *,
    home: Path | str | None = None,
    features: tuple[int, int] | None = None,
    block: int | None = None,
    memory: int = DEFAULT_MEMORY,
    fresh: bool = False,
    job: Job | None = None,
) -> pd.DataFrame:
    """Take the census of a bundle, or read the stored one: a row a feature (docs/census.md says what each column is).

    Args:
        ctx: the open bundle (`load_context`), or its name; default: the default bundle.
        home: the home folder; default ``$MECHINTERP_HOME`` or the user data folder.
        features: first feature and the one after the last; default: all.
        block: features that are read in one pass; default: as many as fit into the memory.
        memory: bytes that a pass may take.
        fresh: take it even if it is stored.
        job: progress and cancellation; finished blocks of a cancelled census are kept.

    Raises:
        RequestError: the request is wrong; nothing was run.
        StoreError: the home folder cannot be written.
        Cancelled: the job was stopped.
    """
    found = Home.find(home)
    options = CensusOptions(features=features, block=block, memory=memory)
    path = take_census(_opened(ctx, found), found, options, job=job, fresh=fresh)
    return CensusTable.open(path).frame()


def find_features(
    query: str | None = None,
    ctx: Context | str | None = None,
    *,
    home: Path | str | None = None,
    **arguments: Any,  # noqa: ANN401 - the fields of FindArguments
) -> FeatureList:
    """Search the census: ``find_features("Ink Storm")``, ``find_features(ability="haunt", direction="lowers")``.

    Args:
        query: any name: ability, token, weapon, sub, special or weapon class.
        ctx: the open bundle, or its name; default: the default bundle.
        home: the home folder.
        arguments: the other fields of `FindArguments`.

    Raises:
        RequestError: the bundle has no census and is too large to take it now, or an argument is wrong.
    """
    try:
        given = FindArguments.model_validate({"query": query, **arguments})
    except ValidationError as error:
        raise RequestError(explain(error, {})) from error
    found = Home.find(home)
    return find(census_of(_opened(ctx or given.model_type, found), found), given)


def _opened(ctx: Context | str | None, home: Home) -> Context:
    if ctx is not None and not isinstance(ctx, str):
        return ctx
    from ...context.contexts import Contexts  # noqa: PLC0415 - numpy and the bundles

    return Contexts(home).get(ctx)


def census_of(ctx: Context, home: Home) -> CensusTable:
    """The census of a bundle: stored, or taken now where that is a matter of seconds.

    Raises:
        RequestError: there is none, and the bundle is too large to take it now.
    """
    store = CensusStore.of(ctx, home)
    if store.path().is_file():
        return ctx.derived(("census", store.path().stat().st_mtime_ns), lambda: CensusTable.open(store.path()))
    found = small_census(ctx) or store.find()
    if found is None:
        named = ctx.name in home.bundle_names() and home.bundle_path(ctx.name) == ctx.bundle.path
        where = f"--model {ctx.name}" if named else shlex.join(["--bundle", str(ctx.bundle.path)])
        raise RequestError(
            f"bundle {ctx.name!r} has no census yet, and find_features searches one: take it with the tool take_census "
            f"or with `mechinterp-runner census {where}` ({ctx.n_features:,} features, {len(ctx.data):,} examples). "
            f"Nothing was run."
        )
    return found
