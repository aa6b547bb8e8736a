"""Where things live: bundles and runs below one home folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_data_path

from ..schemas.errors import RequestError, UnknownNameError
from ..schemas.manifest import MANIFEST, is_name

DEMO = "demo"
ENV_HOME = "MECHINTERP_HOME"


@dataclass(frozen=True, slots=True)
class Home:
    """The home folder: ``bundles/NAME`` and ``runs``; nothing is created until something is written."""

    root: Path

    @classmethod
    def find(cls, given: Path | str | None = None) -> Home:
        """Take the folder given, else ``$MECHINTERP_HOME``, else the platform's user data folder."""
        if given is None and os.environ.get(ENV_HOME):
            given = os.environ[ENV_HOME]
        root = Path(given) if given is not None else user_data_path("mechinterp-runner", appauthor=False)
        return cls(root.expanduser().absolute())

    @property
    def bundles(self) -> Path:
        """Folder that holds one folder a bundle."""
        return self.root / "bundles"

    @property
    def runs(self) -> Path:
        """Folder of stored specs and results."""
        return self.root / "runs"

    def bundle_names(self) -> tuple[str, ...]:
        """Names of the bundles there are: the shipped demo first, then those of the home folder."""
        found: list[str] = []
        if self.bundles.is_dir():
            found = [path.name for path in sorted(self.bundles.iterdir()) if (path / MANIFEST).is_file()]
        return (DEMO, *(name for name in found if name != DEMO and is_name(name)))

    def default_bundle(self) -> str:
        """The only bundle there is besides demo, else demo."""
        others = self.bundle_names()[1:]
        return others[0] if len(others) == 1 else DEMO

    def bundle_path(self, name: str) -> Path:
        """Folder of the bundle with that name.

        Raises:
            UnknownNameError: when there is none.
            RequestError: when the name is not a legal one (it is never read as a path).
        """
        if not is_name(name):
            raise RequestError(
                f"bundle name {name!r} is not allowed: letters, digits, '.', '_' and '-' only, at most 64, no path. "
                f"Bundles here: {', '.join(self.bundle_names())}."
            )
        if name == DEMO and not (self.bundles / DEMO / MANIFEST).is_file():
            return demo_path()
        if name not in self.bundle_names():
            raise UnknownNameError(
                "bundle",
                name,
                self.bundle_names(),
                f"A bundle is a folder {self.bundles}{os.sep}NAME with a {MANIFEST}.",
            )
        return self.bundles / name


def demo_path() -> Path:
    """Folder of the demo bundle inside the package."""
    return Path(__file__).resolve().parent / DEMO
