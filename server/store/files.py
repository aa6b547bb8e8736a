"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import logging
import os
import secrets
import shutil
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ...schemas.errors import StoreError

TEMPORARY = ".tmp-"
_LEFTOVER_SECONDS = 3600
_NETWORK = ("nfs", "cifs", "smb", "sshfs", "lustre", "gpfs", "beegfs", "ceph", "afs", "9p", "gluster")
_REMEDIES = {
    errno.ENOSPC: "Free some space there, or name another folder with --home.",
    errno.EDQUOT: "Free some of your quota, or name another folder with --home.",
    errno.EROFS: "Name a folder that can be written with --home.",
    errno.EACCES: "Make the folder writable for you, or name another with --home.",
    errno.EPERM: "Its file system refuses this (hard links are needed): name another folder with --home.",
    errno.EOPNOTSUPP: "Its file system has no hard links: name another folder with --home.",
}
_log = logging.getLogger(__name__)


def on_network(folder: Path, mounts: Path = Path("/proc/mounts")) -> bool:
    """Whether the folder is on a network file system, as far as the system tells."""
    if not mounts.is_file():
        return False
    found, kind = "", ""
    resolved = folder.resolve()
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        parts = line.split()
        if len(parts) > 2 and resolved.is_relative_to(parts[1]) and len(parts[1]) >= len(found):
            found, kind = parts[1], parts[2]
    return any(name in kind for name in _NETWORK)


def store_error(action: str, path: Path, error: OSError) -> StoreError:
    """Say which folder could not be used, why in words, and what to do."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    remedy = _REMEDIES.get(error.errno or 0, "Look at the folder, or name another with --home.")
    return StoreError(f"cannot {action} {path}: {reason}. {remedy}")


def make_folder(folder: Path) -> None:
    """Create the folder and those above it.

    Raises:
        StoreError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise store_error("create the folder", folder, error) from error


def check_writable(folder: Path, proven: Path | None = None) -> None:
    """Create the folder if need be and prove that a file can be published in it, by publishing one.

    Args:
        folder: where a file is to be published.
        proven: a folder that was just proven so. One of the same file system to which the system grants access is
            believed without a file of its own, which would change its time, and the index list it anew.

    Raises:
        StoreError: it cannot be written.
    """
    make_folder(folder)
    name = folder / f"{TEMPORARY}{secrets.token_hex(8)}-probe"
    try:
        if proven is not None and _is_as_writable(folder, proven):
            return
        with temporary(folder, b"probe", sync=False) as written:
            os.link(written, name)
        name.unlink()
    except OSError as error:
        raise store_error("write in the folder", folder, error) from error


def _is_as_writable(folder: Path, proven: Path) -> bool:
    if os.name != "posix" or folder.stat().st_dev != proven.stat().st_dev:
        return False  # elsewhere access to a folder says nothing of the files in it
    return os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)


@contextmanager
def temporary(folder: Path, data: bytes, *, sync: bool = True) -> Generator[Path]:
    """Give a file of the folder that holds ``data``, on disk if ``sync``; it is gone afterwards."""
    path = folder / f"{TEMPORARY}{secrets.token_hex(8)}"
    try:
        with path.open("xb") as stream:
            stream.write(data)
            stream.flush()
            if sync:
                os.fsync(stream.fileno())
        yield path
    finally:
        path.unlink(missing_ok=True)


def publish(path: Path, data: bytes) -> bool:
    """Make ``path`` appear with ``data`` in it, durably; False, and nothing written, when it is already there.

    Raises:
        StoreError: the folder cannot be written; nothing was left in it.
    """
    try:
        with temporary(path.parent, data) as written:
            try:
                os.link(written, path)
            except FileExistsError:
                return False
            _sync_or_take_back(path)
    except OSError as error:
        raise store_error("write", path, error) from error
    return True


def publish_all(contents: Mapping[Path, bytes]) -> set[Path]:
    """Make many files appear as `publish` does, durably when this returns; returns those that were there already.

    The folders are synced once for all, so that a file costs less than one that is published alone.

    Raises:
        StoreError: a folder cannot be written; none of the files was left in it.
    """
    made, taken = list[Path](), set[Path]()
    at = next(iter(contents), Path())
    try:
        with ExitStack() as stack:
            written = dict[Path, Path]()
            for at, data in contents.items():
                written[at] = stack.enter_context(temporary(at.parent, data))
            for at, source in written.items():
                try:
                    os.link(source, at)
                    made.append(at)
                except FileExistsError:
                    taken.add(at)
        for folder in {path.parent for path in made}:
            sync_folder(folder)
    except OSError as error:
        for path in made:
            path.unlink(missing_ok=True)
        raise store_error("write", at, error) from error
    return taken


def _sync_or_take_back(path: Path) -> None:
    try:
        sync_folder(path.parent)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def replace(path: Path, data: bytes) -> None:
    """Write ``path``, taking the place of what is there, in one step.

    Raises:
        StoreError: the folder cannot be written; what was there is still there.
    """
    make_folder(path.parent)
    try:
        with temporary(path.parent, data) as written:
            written.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise store_error("write", path, error) from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, on the systems where a folder can be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path) -> bytes:
    """Content of a file of the store.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise store_error("read", path, error) from error


def remove_leftovers(folder: Path) -> int:
    """Delete the temporary files and folders that no writer can still be at work on; says how many."""
    old, count = time.time() - _LEFTOVER_SECONDS, 0
    for path in folder.glob(f"{TEMPORARY}*"):
        try:
            if path.stat().st_mtime < old:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                count += 1
        except FileNotFoundError:
            continue  # its writer was at work after all
        except OSError as error:
            _log.warning("what an interrupted writer left stays: %s", error)
    return count
