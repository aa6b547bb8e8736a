"""Server processes to measure."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..schemas.errors import RequestError

PACKAGE = __name__.partition(".")[0]
_ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")
_ANONYMOUS = re.compile(r"RssAnon:\s+(\d+) kB")
_STOP_SECONDS = 30


def serve_command(home: Path, *more: str) -> list[str]:
    """The command that serves with its runs in a folder."""
    return [sys.executable, "-m", PACKAGE, "serve", "--home", str(home), *more]


@contextmanager
def running(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Generator[subprocess.Popen[str]]:
    """Run a process, and stop it at the end."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def address_of(process: subprocess.Popen[str]) -> str:
    """Wait until a server says where it listens, and return that address, without a path.

    Raises:
        RequestError: it ended without saying so.
    """
    said = list[str]()
    for line in process.stderr or ():
        said.append(line)
        if found := _ADDRESS.search(line):
            return found[0]
    raise RequestError(f"the server ended before it served: {''.join(said) or 'it said nothing'}")


def anonymous_bytes(pid: int) -> int:
    """Bytes of memory of a process that are its own and not mapped from files.

    Raises:
        RequestError: this system does not tell.
    """
    status = Path(f"/proc/{pid}/status")
    found = _ANONYMOUS.search(status.read_text(encoding="ascii")) if status.is_file() else None
    if found is None:
        raise RequestError(f"{status} does not tell how much memory is anonymous: measure on Linux.")
    return int(found[1]) * 1024
