"""Which tools a server shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from ...schemas.catalogue import Toolset, catalogue, runner_names
from ...schemas.errors import UnknownNameError
from ..app import App
from .feature_tools import feature_tools
from .run_tools import experiment_tool, run_tools
from .served import ServedTool
from .store_tools import store_tools

TOOLSETS: tuple[str, ...] = get_args(Toolset)
AROUND = (
    "run_spec",
    "run_batch",
    "get_run",
    "cancel_run",
    "list_experiment_types",
    "validate_spec",
    "list_results",
    "describe_context",
    "find_features",
    "take_census",
)
"""The tools around the experiments."""


@dataclass(frozen=True, slots=True)
class Selection:
    """A choice of tools.

    Attributes:
        toolsets: sets of experiment types; the tools around the experiments come with every set.
        tools: names of tools, beside those of the sets.
    """

    toolsets: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()

    def check(self) -> None:
        """Check the names.

        Raises:
            UnknownNameError: a toolset or a tool does not exist.
        """
        for name in self.toolsets:
            if name not in TOOLSETS:
                raise UnknownNameError("toolset", name, TOOLSETS, "Nothing was started.")
        known = (*runner_names(), *AROUND)
        for name in self.tools:
            if name not in known:
                raise UnknownNameError("tool", name, known, "Nothing was started.")


def select(app: App, selection: Selection) -> Sequence[ServedTool]:
    """The tools of a selection; all tools when it names none.

    Raises:
        UnknownNameError: a toolset or a tool does not exist.
    """
    experiments = {item.type: experiment_tool(app, item) for item in catalogue().values()}
    around = {tool.name: tool for tool in (*run_tools(app), *store_tools(app), *feature_tools(app))}
    known = experiments | around
    selection.check()
    if not selection.toolsets and not selection.tools:
        return list(known.values())
    of_sets = {item.type for item in catalogue().values() if item.toolset in selection.toolsets}
    around_too = set(around) if selection.toolsets else set[str]()
    return [tool for name, tool in known.items() if name in {*of_sets, *around_too, *selection.tools}]
