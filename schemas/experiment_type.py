"""The experiment types: one for every type the methods define and every file in ``runners/``."""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from pathlib import Path

DESIGNED = (
    "family_1d_sweep",
    "family_2d_heatmap",
    "frequent_itemsets",
    "minimal_cores",
    "pairwise_interactions",
    "conditional_interactions",
    "split_half",
    "shuffle_null",
    "weapon_sweep",
    "kit_sweep",
    "binary_presence_effect",
    "core_coverage_analysis",
    "token_influence_sweep",
    "within_family_interference",
    "weapon_group_analysis",
    "decoder_output_analysis",
    "feature_overview",
)
"""The types of the methods reference; one of them without a file in ``runners/`` cannot be run by this version."""


_RUNNERS = Path(__file__).resolve().parent.parent / "runners"


@cache
def runner_names() -> tuple[str, ...]:
    """Names of the experiments this version can run: the file names in ``runners/``, read without importing them."""
    return tuple(sorted(path.stem for path in _RUNNERS.glob("*.py") if not path.stem.startswith("_")))


def runner_file(name: str) -> Path:
    """The file of an experiment."""
    return _RUNNERS / f"{name}.py"


_NAMES = (*DESIGNED, *(name for name in runner_names() if name not in DESIGNED))
ExperimentType = StrEnum("ExperimentType", {name.upper(): name for name in _NAMES})
"""Every experiment type, as ``ExperimentType.FAMILY_1D_SWEEP``."""
