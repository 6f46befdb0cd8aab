"""Whether an endpoint is there at all: what several calls in a row learn, the others need not learn again.

Owns one small state: closed, or open since a moment with one probe per interval. Knows nothing of queues,
retries or HTTP. A short outage is waited out; only when it lasts beyond `PATIENCE` are callers turned away.
"""

from __future__ import annotations

import math

from chains.clock import Clock
from chains.errors import ConnectionFailed, HeadraceError

FAILURES = 5
"""Calls of different rows in a row that reach nothing, before the circuit opens."""
INTERVAL = 2.0
"""Seconds between two probes of an endpoint that is down."""
PATIENCE = 20.0
"""Seconds that callers wait for an endpoint that is down; after that they fail at once."""


class Circuit:
    """Counts calls that reached nothing; `reached` and `unreached` tell it how each one ended."""

    def __init__(self, clock: Clock, *, interval: float = INTERVAL, patience: float = PATIENCE) -> None:
        self._clock = clock
        self._interval = interval
        self._patience = patience
        self._callers: set[str] = set()
        self._first_at = math.inf
        self._open = False
        self._probe_at = math.inf
        self._last = ""

    @property
    def is_open(self) -> bool:
        """Whether the endpoint counts as down."""
        return self._open

    @property
    def may_probe(self) -> bool:
        """Whether it is time to try whether the endpoint is back."""
        return self._open and self._clock.monotonic() >= self._probe_at

    @property
    def gives_up(self) -> bool:
        """Whether the outage has lasted so long that nobody waits for its end."""
        return self._open and self._clock.monotonic() - self._first_at >= self._patience

    @property
    def next_change(self) -> float:
        """Seconds until a probe is due or patience ends, whichever comes first."""
        now = self._clock.monotonic()
        ends = self._first_at + self._patience
        return max(0.0, min(self._probe_at, ends if ends > now else math.inf) - now)

    def probing(self) -> None:
        """A probe is on its way; the next one is due an interval later."""
        self._probe_at = self._clock.monotonic() + self._interval

    def unreached(self, caller: str, error: HeadraceError) -> bool:
        """Note a call that reached nothing; return whether that opened the circuit."""
        now = self._clock.monotonic()
        self._first_at = min(self._first_at, now)
        self._callers.add(caller)
        self._last = error.message
        if self._open or len(self._callers) < FAILURES:
            return False
        self._open = True
        self._probe_at = now + self._interval
        return True

    def reached(self) -> bool:
        """Note that the endpoint answered, whatever it said; return whether that closed the circuit."""
        was_open = self._open
        if self._callers:
            self._callers.clear()
            self._first_at = self._probe_at = math.inf
            self._open = False
        return was_open

    def failure(self) -> ConnectionFailed:
        """Return the error for callers that are turned away."""
        since = self._clock.monotonic() - self._first_at
        return ConnectionFailed(
            f"the endpoint is down: for {since:.0f} s no call has reached it. The last one: {self._last}",
            hint="No call was made for this row. Resume the run when the endpoint is back.",
        )
