"""The Python door: run a spec on an open bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..context.home import Home
from ..schemas.catalogue import Experiment, find
from ..schemas.errors import RequestError, UnknownNameError
from ..schemas.job import Job
from ..schemas.result import ExperimentResult
from ..schemas.spec import ExperimentSpec
from .executor import Executor
from .store.store import Store

if TYPE_CHECKING:
    import pandas as pd

    from ..context.context import Context


def run(
    spec: ExperimentSpec,
    ctx: Context | None = None,
    *,
    home: Path | str | None = None,
    fresh: bool = False,
    job: Job | None = None,
    output_dir: Path | str | None = None,
) -> ExperimentResult:
    """Run a spec, or return its stored answer; the result is stored either way.

    Args:
        spec: the spec.
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
    found = Home.find(home)
    if ctx is None:
        from ..context.contexts import Contexts  # noqa: PLC0415 - numpy and the bundles, only when one is opened

        ctx = Contexts(found).get(spec.model_type)
    folder = Path(output_dir) if output_dir is not None else None
    return Executor(Store(found.runs)).execute(spec, ctx, job=job, fresh=fresh, output_dir=folder)


@dataclass(frozen=True)
class Runner:
    """The runner of one experiment type."""

    experiment: Experiment

    def run(self, spec: ExperimentSpec, ctx: Context, *, home: Path | str | None = None) -> ExperimentResult:
        """Run a spec of this type, as `run` does.

        Raises:
            RequestError: the spec is of another type, or as for `run`.
        """
        if spec.type != self.experiment.type:
            raise RequestError(f"this runner runs {self.experiment.type!r}; the spec is a {spec.type!r}.")
        return run(spec, ctx, home=home)


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
