"""Runs in flight, on disk: what a process that was killed had promised.

Each process that runs something keeps a folder of its own in ``runs/running``: a lock file it holds as long as it
lives, and the spec of every run that has begun or whose handle was given away. A folder whose lock can be taken belongs
to a process that is gone, and so its specs are runs that were interrupted. On a network file system, where locks may
not reach other hosts, a host judges its own processes only: those of another are taken to be alive.
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

from ...schemas.errors import RequestError, StoreError
from ...schemas.manifest import is_name
from ...schemas.spec import ExperimentSpec, parse_spec_json
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
        try:
            path = self._own_folder() / f"{spec.id}.json"
            if not path.is_file():
                with files.temporary(path.parent, spec.model_dump_json().encode(), sync=False) as written:
                    written.replace(path)
        except OSError as error:
            raise files.store_error("note runs in flight in", self.root, error) from error

    def strike(self, spec_id: str) -> None:
        """Take a run off the journal: it has ended, and what it left is stored."""
        folder = self._folder
        if folder is not None:
            # What stays behind when the disk refuses is cleared by the next recovery: its result is stored.
            with suppress(OSError):
                (folder / f"{spec_id}.json").unlink(missing_ok=True)

    @contextmanager
    def noted(self, spec: ExperimentSpec) -> Generator[None]:
        """Note a run for as long as the block lasts."""
        self.note(spec)
        try:
            yield
        finally:
            self.strike(spec.id)

    def elsewhere(self, spec_id: str) -> bytes | None:
        """The spec of a run that a live process other than this one has in flight; None when there is none to read."""
        if not is_name(spec_id):
            return None
        for folder in self._folders():
            noted = None if folder == self._folder else _read_note(folder / f"{spec_id}.json")
            if noted is not None and not self._is_abandoned(folder):
                return noted
        return None

    def recover(self, bury: Callable[[bytes, str], None]) -> int:
        """Hand over what dead processes had in flight and clear their folders away.

        What cannot be handed over stays for the next recovery, with a warning.

        Args:
            bury: gets each spec as it was noted, and its file's name; it stores the run as interrupted.

        Returns:
            How many runs were handed over.
        """
        self.clear_leftovers()
        return sum(_clear(folder, bury) for folder in self._folders() if folder != self._folder and self._reach(folder))

    def clear_leftovers(self) -> int:
        """Delete what processes left that were killed before their folder or note had its name; says how many."""
        return files.remove_leftovers(self.root)

    def close(self) -> None:
        """Give the folder of this process up; a later note makes a new one.

        Whoever shares this journal must have ended its runs: those still noted count as interrupted from now on.
        """
        with self._guard:
            self._give_up()

    def _give_up(self) -> None:
        if self._held is not None and self._folder is not None:
            self._held.release()
            if not any(self._folder.glob("*.json")):
                shutil.rmtree(self._folder, ignore_errors=True)
        self._held = self._folder = None

    def _own_folder(self) -> Path:
        """The folder of this process, made when there is none, or when somebody has cleared it away."""
        with self._guard:
            if self._folder is not None and not (self._folder / _LOCK).is_file():
                _log.warning("%s was cleared away while its process lives; runs are noted anew", self._folder)
                self._give_up()
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
            lock.release()
            shutil.rmtree(hidden, ignore_errors=True)
            raise StoreError(
                f"cannot note runs in flight in {self.root}: {error}. Name another with --home."
            ) from error
        return folder, lock

    def _folders(self) -> list[Path]:
        try:
            return sorted(path for path in self.root.iterdir() if not path.name.startswith("."))
        except FileNotFoundError:
            return []
        except OSError as error:
            _log.warning("runs in flight cannot be listed: %s", error)
            return []

    def _reach(self, folder: Path) -> bool:
        """Whether the lock of a folder tells if its process is alive."""
        host = folder.name.rsplit("-", 2)[0]
        return host == socket.gethostname() or not files.on_network(self.root)

    def _is_abandoned(self, folder: Path) -> bool:
        if not self._reach(folder):
            return False
        try:
            with FileLock(folder / _LOCK, timeout=0):
                return True
        except (Timeout, OSError):
            return False


def _read_note(path: Path) -> bytes | None:
    """A spec as it was noted; None when it is not there, or no longer, or cannot be read."""
    try:
        noted = path.read_bytes()
        parse_spec_json(noted, path.stem)
    except FileNotFoundError:
        return None
    except (OSError, RequestError) as error:
        _log.warning("the run noted in %s cannot be told: %s", path, error)
        return None
    return noted


def _clear(folder: Path, bury: Callable[[bytes, str], None]) -> int:
    try:
        with FileLock(folder / _LOCK, timeout=0):
            count = sum(_hand_over(path, bury) for path in sorted(folder.glob("*.json")))
            if not any(folder.glob("*.json")):
                shutil.rmtree(folder, ignore_errors=True)
            return count
    except (Timeout, FileNotFoundError):
        return 0  # its process is alive, or another one recovers it now or has done so
    except OSError as error:
        _log.warning("runs that were interrupted stay in %s for now: %s", folder, error)
        return 0


def _hand_over(path: Path, bury: Callable[[bytes, str], None]) -> bool:
    """Hand over one run that was in flight; the others do not suffer for one that cannot be."""
    try:
        bury(path.read_bytes(), path.stem)
        path.unlink()
    except (OSError, StoreError) as error:
        _log.warning("the run that was interrupted stays in %s for now: %s", path, error)
        return False
    return True
