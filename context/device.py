"""Where the network runs: device, precision, threads."""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..schemas.errors import RequestError

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "float64", "bfloat16"]
PRECISIONS = ("float32", "float64", "bfloat16")
DEVICES = ("auto", "cpu", "cuda", "mps")
DEFAULT_CACHE_BYTES = 1 << 30
"""Memory for cached pooled vectors."""
POOLED_CACHE = "MECHINTERP_POOLED_CACHE"
"""Environment variable: a folder for pooled vectors."""
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


@dataclass(frozen=True, slots=True)
class Compute:
    """What was asked for; ``auto`` takes cuda, then mps (which has no float64), then the CPU.

    Attributes:
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        dtype: precision of the network.
        threads: threads torch may use on a CPU; None leaves the choice to torch.
        pooled_cache: folder in which pooled vectors are kept from one process to the next; None: that of
            ``$MECHINTERP_POOLED_CACHE``, and where that is not set, none.
    """

    device: str = "auto"
    dtype: str = "float32"
    threads: int | None = None
    pooled_cache: Path | None = None

    def __post_init__(self) -> None:
        if not _DEVICE.fullmatch(self.device):
            raise RequestError(f"device {self.device!r} is not known: one of {', '.join(DEVICES)} (or cuda:N).")
        if self.dtype not in PRECISIONS:
            raise RequestError(f"dtype {self.dtype!r} is not known: one of {', '.join(PRECISIONS)}.")
        if self.threads is not None and self.threads < 1:
            raise RequestError(f"threads must be at least 1; got {self.threads}.")

    def resolved_device(self) -> str:
        """The device that will be used; imports torch only where a choice has to be made.

        Raises:
            RequestError: the device asked for is not there.
        """
        if self.device == "cpu":
            return "cpu"
        import torch  # noqa: PLC0415 - one second that observational runs need not pay

        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        there["mps"] = there["mps"] and self.dtype != "float64"
        if self.device == "auto":
            return next(name for name, available in there.items() if available)
        kind, _, number = self.device.partition(":")
        if not there[kind] or (number and int(number) >= torch.cuda.device_count()):
            available = ", ".join(name for name, found in there.items() if found)
            raise RequestError(
                f"device {self.device!r} is not available here for {self.dtype}: {available} is. Choose that, or auto."
            )
        return self.device

    def cache_folder(self) -> Path | None:
        """The folder in which pooled vectors are kept, if any."""
        named = os.environ.get(POOLED_CACHE)
        return self.pooled_cache or (Path(named).expanduser() if named else None)

    def torch_dtype(self) -> torch.dtype:
        """The precision as torch names it."""
        import torch  # noqa: PLC0415

        return {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}[self.dtype]

    def apply_threads(self) -> int:
        """Set the number of threads torch may use, and return it."""
        import torch  # noqa: PLC0415

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        return torch.get_num_threads()


@contextmanager
def full_precision() -> Generator[None]:
    """Make products of float32 in float32: TF32, which keeps 10 bits of 23, is off; afterwards all is as it was."""
    import torch  # noqa: PLC0415

    # The older of torch's two interfaces knows CUDA alone; the newer must not be mixed with it.
    name, off = "allow_tf32", False
    backends: tuple[object, ...] = (torch.backends.cuda.matmul,)
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        name, off = "fp32_precision", "ieee"
        backends = (*backends, getattr(torch.backends.mkldnn, "matmul"))  # noqa: B009 - torch does not declare it
    before = [getattr(backend, name) for backend in backends]
    try:
        for backend in backends:
            setattr(backend, name, off)
        yield
    finally:
        for backend, was in zip(backends, before, strict=True):
            setattr(backend, name, was)


def cpu_count() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
