"""The bundles that are open: each loaded once, by name, the least recently used closed when memory runs short."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

from ..schemas.errors import RequestError
from ..schemas.manifest import MANIFEST
from .device import DEFAULT_CACHE_BYTES, Compute
from .home import Home

if TYPE_CHECKING:
    from .context import Context

Stamp = tuple[int, int, int]
_MAX_OPEN = 4


class Contexts:
    """Opens bundles by name and keeps them open.

    Args:
        home: where bundles are.
        compute: device, precision and threads of every context.
        memory_budget: bytes that cached pooled vectors of all open bundles may take together.
        max_open: how many bundles stay open.
    """

    def __init__(
        self,
        home: Home,
        *,
        compute: Compute | None = None,
        memory_budget: int = DEFAULT_CACHE_BYTES,
        max_open: int = _MAX_OPEN,
    ) -> None:
        self.home, self._compute, self._max_open = home, compute or Compute(), max_open
        self._cache_bytes = memory_budget // max_open
        self._open: OrderedDict[Path, tuple[Stamp | None, Context]] = OrderedDict()
        self._locks: dict[Path, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, name: str | None = None, *, path: Path | None = None) -> Context:
        """Return the context of a bundle, opening it if need be; callers that ask at once wait for one opening.

        A bundle whose folder was replaced since is opened anew.

        Args:
            name: a bundle's name; None takes the default one.
            path: a bundle's folder, instead of a name.

        Raises:
            UnknownNameError: no bundle of that name.
            BundleError: the bundle is missing a part or corrupt.
        """
        if path is None:
            folder = self.home.bundle_path(name or self.home.default_bundle())
        else:
            folder = Path(os.path.normpath(path.expanduser().absolute()))
            if name not in {None, folder.name}:
                raise RequestError(
                    f"the bundle at {path} is called {folder.name!r}, not {name!r}: leave one of the two out."
                )
        with self._lock:
            gate = self._locks.setdefault(folder, threading.Lock())
        with gate:
            stamp = _stamp(folder)
            with self._lock:
                if folder in self._open and self._open[folder][0] == stamp:
                    self._open.move_to_end(folder)
                    return self._open[folder][1]
            from .bundle import Bundle  # noqa: PLC0415 - a server answers before it has imported numpy
            from .context import Context  # noqa: PLC0415

            bundle = Bundle.open(folder, stamps=self.home.root / "verified")
            context = Context(folder.name, bundle, compute=self._compute, cache_bytes=self._cache_bytes)
            with self._lock:
                self._open[folder] = stamp, context
                self._open.move_to_end(folder)
                while len(self._open) > self._max_open:
                    self._open.popitem(last=False)
            return context

    def loaded(self) -> tuple[str, ...]:
        """Names of the open bundles, most recently used last."""
        with self._lock:
            return tuple(context.name for _, context in self._open.values())


def _stamp(folder: Path) -> Stamp | None:
    """Tells a bundle from one that took its place: its manifest's file, size and time of change; None without one."""
    try:
        found = (folder / MANIFEST).stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def load_context(
    name: str | None = None,
    *,
    home: Path | str | None = None,
    bundle: Path | str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    threads: int | None = None,
    pooled_cache: Path | str | None = None,
) -> Context:
    """Open a bundle for experiments.

    Args:
        name: a bundle's name in the home folder; default: the only one besides demo, else demo.
        home: the home folder; default ``$MECHINTERP_HOME`` or the platform's user data folder.
        bundle: a bundle's folder, instead of a name.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        dtype: "float32", "float64" or "bfloat16".
        threads: threads torch may use.
        pooled_cache: folder in which pooled vectors are kept from one process to the next; default
            ``$MECHINTERP_POOLED_CACHE``, else none.

    Raises:
        UnknownNameError: no bundle of that name.
        BundleError: the bundle is missing a part or corrupt.
    """
    folder = None if pooled_cache is None else Path(pooled_cache).expanduser()
    contexts = Contexts(Home.find(home), compute=Compute(device, dtype, threads, folder))
    return contexts.get(name, path=Path(bundle) if bundle is not None else None)
