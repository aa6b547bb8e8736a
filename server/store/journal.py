"""Runs in flight, on disk: what a process that was killed had promised.

Each process that runs something keeps a folder of its own in ``runs/running``: a lock file it holds as long as it
lives, and the spec of every run that has begun or whose handle was given away. A folder whose lock can be taken belongs
to a process that is gone, and so its specs are runs that were interrupted.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ...schemas.errors import StoreError
from ...schemas.spec import ExperimentSpec
from . import files

_LOCK = "alive.lock"
_log = logging.getLogger(__name__)


class Journal:
    """The runs in flight of this process, and those that other processes left behind.

    Args:
        root: the folder ``runs/running``; made when something is first noted.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._guard = threading.Lock()
        self._folder: Path | None = None
        self._held: FileLock | None = None

    def note(self, spec: ExperimentSpec) -> None:
        """Note that a run is in flight; noting it twice is noting it once.

        Raises:
            StoreError: the folder cannot be written.
        """
        folder = self._own_folder()
        try:
            (folder / f"{spec.id}.json").write_bytes(spec.model_dump_json().encode())
        except OSError as error:
            raise files.store_error("write in the folder", folder, error) from error

    def strike(self, spec_id: str) -> None:
        """Take a run off the journal: it has ended, and what it left is stored."""
        if self._folder is not None:
            # What stays behind when the disk refuses is cleared by the next recovery: its result is stored.
            with suppress(OSError):
                (self._folder / f"{spec_id}.json").unlink(missing_ok=True)

    @contextmanager
    def noted(self, spec: ExperimentSpec) -> Generator[None]:
        """Note a run for as long as the block lasts."""
        self.note(spec)
        try:
            yield
        finally:
            self.strike(spec.id)

    def elsewhere(self, spec_id: str) -> bytes | None:
        """The spec of a run that a live process other than this one has in flight; None when there is none."""
        for folder in self._folders():
            path = folder / f"{spec_id}.json"
            if folder != self._folder and path.is_file() and not self._is_abandoned(folder):
                return path.read_bytes()
        return None

    def recover(self, bury: Callable[[bytes, str], None]) -> int:
        """Hand over what dead processes had in flight and clear their folders away.

        Args:
            bury: gets each spec as it was noted, and its file's name; it stores the run as interrupted.

        Returns:
            How many runs were handed over.
        """
        return sum(self._clear(folder, bury) for folder in self._folders() if folder != self._folder)

    @staticmethod
    def _clear(folder: Path, bury: Callable[[bytes, str], None]) -> int:
        try:
            with FileLock(folder / _LOCK, timeout=0):
                found = sorted(folder.glob("*.json"))
                for path in found:
                    bury(path.read_bytes(), path.stem)
                    path.unlink()
                shutil.rmtree(folder, ignore_errors=True)
                return len(found)
        except Timeout:
            return 0  # its process is alive, or another one recovers it now
        except (OSError, StoreError) as error:
            _log.warning("runs that were interrupted stay in %s for now: %s", folder, error)
            return 0

    def close(self) -> None:
        """Give the folder of this process up; runs still noted in it count as interrupted."""
        with self._guard:
            if self._held is not None and self._folder is not None:
                self._held.release()
                if not any(self._folder.glob("*.json")):
                    shutil.rmtree(self._folder, ignore_errors=True)
            self._held = self._folder = None

    def _own_folder(self) -> Path:
        with self._guard:
            if self._folder is None:
                self._folder, self._held = self._claim()
            return self._folder

    def _claim(self) -> tuple[Path, FileLock]:
        """Make the folder of this process: locked before it gets the name that others look for."""
        name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        hidden, folder = self.root / f"{files.TEMPORARY}{name}", self.root / name
        files.make_folder(hidden)
        lock = FileLock(hidden / _LOCK, thread_local=False)  # another thread may give it up
        try:
            lock.acquire(timeout=0)
            hidden.rename(folder)
        except (OSError, Timeout) as error:
            raise StoreError(
                f"cannot note runs in flight in {self.root}: {error}. Name another with --home."
            ) from error
        return folder, lock

    def _folders(self) -> list[Path]:
        if not self.root.is_dir():
            return []
        return sorted(path for path in self.root.iterdir() if not path.name.startswith("."))

    @staticmethod
    def _is_abandoned(folder: Path) -> bool:
        try:
            with FileLock(folder / _LOCK, timeout=0):
                return True
        except (Timeout, OSError):
            return False
