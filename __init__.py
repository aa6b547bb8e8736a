"""Typed, reproducible interpretability experiments on sparse-autoencoder features.

Example::

    from mechinterp_runner import ExperimentSpec, ExperimentType, load_context, run

    ctx = load_context("demo")
    spec = ExperimentSpec(
        type=ExperimentType.FAMILY_1D_SWEEP, feature_id=0, variables={"family": "special_charge_up"}
    )
    print(run(spec, ctx).get_summary())
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .context.contexts import load_context
    from .schemas.catalogue import catalogue
    from .schemas.experiment_type import ExperimentType
    from .schemas.result import ExperimentResult
    from .schemas.spec import DatasetSlice, ExperimentSpec
    from .server.api import get_runner_for_type, run, to_frame
    from .server.batch.batch import run_batch
    from .server.batch.cluster import ClusterOptions
    from .server.census.api import census, find_features

__version__: str
__all__ = [
    "ClusterOptions",
    "DatasetSlice",
    "ExperimentResult",
    "ExperimentSpec",
    "ExperimentType",
    "__version__",
    "catalogue",
    "census",
    "find_features",
    "get_runner_for_type",
    "load_context",
    "run",
    "run_batch",
    "to_frame",
]

_HOMES = {
    "ClusterOptions": "server.batch.cluster",
    "DatasetSlice": "schemas.spec",
    "ExperimentResult": "schemas.result",
    "ExperimentSpec": "schemas.spec",
    "ExperimentType": "schemas.experiment_type",
    "catalogue": "schemas.catalogue",
    "census": "server.census.api",
    "find_features": "server.census.api",
    "get_runner_for_type": "server.api",
    "load_context": "context.contexts",
    "run": "server.api",
    "run_batch": "server.batch.batch",
    "to_frame": "server.api",
}


def __getattr__(name: str) -> object:
    """Import what is asked for when it is asked for: importing the package costs nothing."""
    if name == "__version__":
        return version("mechinterp-runner")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
