"""The Python door: run a spec on an open bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..context.home import Home
from ..schemas.catalogue import Experiment, find
from ..schemas.errors import RequestError, UnknownNameError
from ..schemas.job import Job
from ..schemas.result import ExperimentResult
from ..schemas.spec import ExperimentSpec, parse_spec
from .executor import Executor
from .store.store import Store

if TYPE_CHECKING:
    import pandas as pd

    from ..context.context import Context


Spec = ExperimentSpec | Mapping[str, Any]
"""A spec, or its JSON form: what a spec file, a followup's ``spec`` or `json.load` gives."""


def run(
    spec: Spec,
    ctx: Context | None = None,
    *,
    home: Path | str | None = None,
    fresh: bool = False,
    job: Job | None = None,
    output_dir: Path | str | None = None,
) -> ExperimentResult:
    """Run a spec, or return its stored answer; the result is stored either way.

    Args:
        spec: the spec, or its JSON form as a dictionary, such as ``result.followups[0].spec``.
        ctx: the open bundle (`load_context`); default: the bundle the spec names, opened for this run.
        home: the home folder results are stored in; default ``$MECHINTERP_HOME`` or the user data folder.
        fresh: run even if the same question has a stored answer.
        job: progress and cancellation.
        output_dir: folder that gets a copy of the result.

    Raises:
        RequestError: the request is wrong; nothing was run or stored.
        BundleError: the bundle cannot be used.
        StoreError: the folder of runs cannot be used.
    """
    typed, found = _typed(spec), Home.find(home)
    if isinstance(ctx, str | Path):
        raise RequestError(f"ctx must be an open bundle: pass load_context({str(ctx)!r}). Nothing was run.")
    if ctx is None:
        from ..context.contexts import Contexts  # noqa: PLC0415 - numpy and the bundles, only when one is opened

        ctx = Contexts(found).get(typed.model_type)
    folder = Path(output_dir) if output_dir is not None else None
    return Executor(Store(found.runs)).execute(typed, ctx, job=job, fresh=fresh, output_dir=folder)


def _typed(spec: Spec) -> ExperimentSpec:
    return parse_spec(dict(spec) if isinstance(spec, Mapping) else spec)


@dataclass(frozen=True)
class Runner:
    """The runner of one experiment type."""

    experiment: Experiment

    def run(self, spec: Spec, ctx: Context, *, home: Path | str | None = None) -> ExperimentResult:
        """Run a spec of this type, as `run` does.

        Raises:
            RequestError: the spec is of another type, or as for `run`.
        """
        typed = _typed(spec)
        if typed.type != self.experiment.type:
            raise RequestError(
                f"this runner runs {self.experiment.type!r}; the spec is a {typed.type!r}. "
                f"`run` runs a spec of any type. Nothing was run."
            )
        return run(typed, ctx, home=home)


def get_runner_for_type(experiment_type: str) -> Runner:
    """Return the runner of an experiment type (a name or an `ExperimentType`).

    Raises:
        RequestError: there is no such type, or this version cannot run it.
    """
    return Runner(find(str(experiment_type)))


def to_frame(result: ExperimentResult, table: str) -> pd.DataFrame:
    """A table of a result as a pandas DataFrame, its columns in the table's order.

    Raises:
        UnknownNameError: the result has no such table.
    """
    import pandas as pd  # noqa: PLC0415 - a third of a second that no run needs

    if table not in result.tables:
        raise UnknownNameError("table", table, result.tables)
    found = result.tables[table]
    return pd.DataFrame(found.rows, columns=found.columns)
