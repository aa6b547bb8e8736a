"""How fast something long goes, and how long it takes yet, in words."""

from __future__ import annotations

_WHOLE = 100


def pace(done: int, left: int, seconds: float) -> str:
    """Rate and time left; empty while nothing is done.

    Args:
        done: pieces that took the seconds.
        left: pieces that are still to be done.
        seconds: since the first was begun.
    """
    if not done or seconds <= 0:
        return ""
    rate = done / seconds
    told = f"{rate:,.0f}" if rate >= _WHOLE else f"{rate:.3g}"
    return f"{told} a second, {clock(left / rate)} left"


def clock(seconds: float) -> str:
    """A time as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
