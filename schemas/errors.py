"""The exceptions of the project, one tree.

::

    MechinterpError
    ├── RequestError          the caller can fix it by asking differently; nothing was run or written
    │   ├── UnknownNameError  a name that is not in the allowed set, with the nearest that is
    │   ├── EmptySliceError   a dataset slice that leaves no example, naming the filter that emptied it
    │   └── IdTakenError      a spec id that another spec already has
    ├── BundleError           a bundle that is missing a part, corrupt or not a bundle
    ├── StoreError            the runs folder cannot be read or written
    └── Cancelled             the run was asked to stop and did
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MechinterpError(Exception):
    """Base of every error this project raises on purpose."""


class RequestError(MechinterpError):
    """The request is wrong: its message says what was got, what is allowed and what to do next."""


class UnknownNameError(RequestError):
    """A name outside an allowed set.

    Args:
        what: the kind of name in words, such as ``"family"``.
        got: the name as it was given.
        allowed: every name that would have been accepted.
        hint: what to do next, when it is more than choosing another name.
        meant: the name that was surely meant; default: the most similar one.
    """

    def __init__(
        self, what: str, got: object, allowed: Iterable[str], hint: str = "", meant: str | None = None
    ) -> None:
        names = [str(name) for name in allowed]
        near = meant or nearest(str(got), names)
        guess = f": did you mean {near!r}?" if near else "."
        shown = ", ".join(names[:60]) + (f", … ({len(names)} in all)" if len(names) > 60 else "")
        tail = f" {hint}" if hint else ""
        super().__init__(f"unknown {what} {got!r}{guess} Allowed: {shown or '(none)'}.{tail}")
        self.got = got
        self.suggestion = near


class EmptySliceError(RequestError):
    """A dataset slice left no example."""


class IdTakenError(RequestError):
    """A spec id is already used by a different spec."""


class BundleError(MechinterpError):
    """A bundle cannot be used."""


class StoreError(MechinterpError):
    """The folder of runs cannot be used."""


class Cancelled(MechinterpError):  # noqa: N818 - an outcome, not a fault
    """The run was stopped on request."""


def nearest(got: str, names: Iterable[str]) -> str | None:
    """Return the name most like ``got``, or None when none is close."""
    by_lower = {name.lower(): name for name in names}
    matches = difflib.get_close_matches(got.lower(), by_lower, n=1, cutoff=0.6)
    if matches:
        return by_lower[matches[0]]
    containing = [name for lower, name in by_lower.items() if got and got.lower() in lower]
    return min(containing, key=len) if containing else None
