"""Time and ids, passed in wherever logic needs them, so that tests can hold both still."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Final

_DIGITS: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford base 32: no i, l, o, u to misread
_TICK_S: Final = 1e-6
_PAIRS: Final = tuple(high + low for high in _DIGITS for low in _DIGITS)


def elapsed(started: float | None, finished: float | None) -> float | None:
    """Return the seconds between two times of the wall clock; none were lost when it was set back."""
    return None if started is None or finished is None else max(0.0, finished - started)


def iso(seconds: float | None) -> str | None:
    """Return a UTC time as `2026-01-31T12:00:00.123Z`, the form in JSON."""
    from datetime import UTC, datetime  # once per command line, and not in a run's way

    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(slots=True)
class Clock:
    """The process's source of time (UTC seconds), durations (monotonic seconds) and ids."""

    _last: int = field(default=0, repr=False)
    _floor: float = field(default=0.0, repr=False)

    def now(self) -> float:
        """Return seconds since the epoch, UTC."""
        seconds = time.time()  # noqa: TID251 - the one place
        if seconds <= self._floor:
            seconds = self._floor = self._floor + _TICK_S
        return seconds

    def not_before(self, seconds: float) -> None:
        """Tell from now on only times after this one, each later than the last, wherever the machine's is.

        For times that are compared with those of an earlier process or of another machine.
        """
        self._floor = max(self._floor, seconds)

    def monotonic(self) -> float:
        """Return seconds that never go back, for durations."""
        return time.monotonic()

    def new_id(self) -> str:
        """Return a 26-character id that sorts by creation time within this process."""
        millis = max(int(self.now() * 1000), self._last)
        self._last = millis
        value = (millis << 80) | int.from_bytes(os.urandom(10), "big")
        return "".join([_PAIRS[(value >> shift) & 1023] for shift in range(120, -10, -10)])
