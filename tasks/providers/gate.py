"""Who may call a model now: one gate per model, shared by all callers of a process.

Owns the limit of calls in flight and what a 429 teaches: after one, everybody waits until the time that the
endpoint named. Where only a few of the latest answers were 429, the gate then opens as wide as before; else
one call at a time, widening with every success, so that callers in a queue do not spend their tries on
learning the same thing. While the endpoint is down (see .circuit) only probes get through. Knows nothing of
what is called. Invariant: never more than `concurrency` callers are inside.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from datetime import UTC, datetime

from chains.clock import Clock
from chains.errors import CallRefused, HeadraceError
from tasks.providers.circuit import Circuit

LONGEST_WAIT = 120.0
"""Seconds that a caller waits when asked to; with more the row fails and names the time."""
FEW_REFUSED = 0.125
"""Up to this share of 429 the endpoint refuses a few calls only; beyond it, it is over its limit."""
MEMORY = 0.97
"""How much of that share is left after one answer: it looks back over some thirty of them."""


class Gate:
    """Lets callers through; `pause`, `shut`, `widen` and `unreached` tell it what the endpoint said."""

    def __init__(
        self, concurrency: int, *, clock: Clock | None = None, circuit: Circuit | None = None
    ) -> None:
        self.concurrency = concurrency
        self._clock = clock or Clock()
        self._circuit = circuit or Circuit(self._clock)
        # The rows that may be worked on: the next ones render their prompts while calls are under way.
        self.rows = asyncio.Semaphore(2 * concurrency)
        # The callers who may make ready what they need inside while they wait: enough for a disk's latency.
        self.line = asyncio.Semaphore(max(1, concurrency // 2))
        self._inside = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._arrivals = 0
        self._width = float(concurrency)
        self._threshold = float(concurrency)
        self._open_at = -math.inf
        self._width_before: float | None = None
        self._refused_share = FEW_REFUSED  # of an endpoint that nothing is known of, every 429 counts
        self._timer: asyncio.TimerHandle | None = None
        self._shut: HeadraceError | None = None

    @property
    def inside(self) -> int:
        """Callers that are through and not done."""
        return self._inside

    @property
    def wait(self) -> float:
        """Seconds until the gate opens again; 0 when it is open."""
        return max(0.0, self._open_at - self._clock.monotonic())

    @property
    def is_open(self) -> bool:
        """Whether callers who come now wait for places only, and neither for a time nor for the endpoint."""
        return self._shut is None and self.wait == 0 and not self._circuit.is_open

    def enter(self, tries: int = 0) -> Place:
        """Wait for a place and hold it: `async with`. Callers with more tries behind them go first."""
        return Place(self, tries)

    def leave(self) -> None:
        """Give a place back."""
        self._inside -= 1
        if self._waiting:
            self._admit()

    def pause(self, seconds: float) -> None:
        """Hold everybody back for a while and go on carefully: the endpoint said it is too much."""
        now = self._clock.monotonic()
        if now >= self._open_at:
            self._reopen()
            # Calls that were sent before the pause come back with the same news; it counts once.
            self._width_before = self._width
            self._threshold = max(1.0, min(self._width, self._inside) / 2)
            self._width = 1.0
        self._refused_share = MEMORY * self._refused_share + (1 - MEMORY)
        self._open_at = max(self._open_at, now + seconds)
        if self.wait > LONGEST_WAIT:
            self._turn_away(self._too_long())
        self._admit()

    def shut(self, error: HeadraceError) -> None:
        """Let nobody through any more: every further call would get the same refusal."""
        self._shut = error
        self._turn_away(error)

    def refusal(self) -> HeadraceError | None:
        """Return why nobody is let through any more, if so: a caller inside may have waited since."""
        return copy_of(self._shut) if self._shut is not None else None

    def widen(self) -> None:
        """Let more in after an answer: doubling up to half of what was too much, then slowly."""
        self._refused_share *= MEMORY
        if self._width < self.concurrency:
            step = 1.0 if self._width < self._threshold else 1.0 / self._width
            self._width = min(float(self.concurrency), self._width + step)
            self._admit()

    def reached(self) -> None:
        """Note that the endpoint answered, whatever it said."""
        if self._circuit.reached():
            self._admit()

    def unreached(self, caller: str, error: HeadraceError) -> bool:
        """Note a call that reached nothing; return whether the endpoint counts as down from now on."""
        opened = self._circuit.unreached(caller, error)
        if self._circuit.is_open:
            self._admit()
        return opened

    async def wait_for_place(self, tries: int) -> None:
        """Return when the caller is inside; raise where it never will be."""
        if self._shut is not None:
            raise copy_of(self._shut)
        if self.wait > LONGEST_WAIT:
            raise self._too_long()
        self._reopen()
        if not self._waiting and self._free():
            self._take()
            return
        if self._circuit.gives_up:
            raise self._circuit.failure()
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._arrivals += 1
        heapq.heappush(self._waiting, (-tries, self._arrivals, place))
        self._admit()
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                self.leave()
            place.cancel()
            raise

    def _reopen(self) -> None:
        """After a pause, judge by the latest answers whether it was a matter of a few refusals."""
        if self._width_before is not None and self.wait == 0:
            if self._refused_share <= FEW_REFUSED:
                self._width = max(self._width, self._width_before)
            self._width_before = None

    def _free(self) -> bool:
        if self._circuit.is_open:
            return self._circuit.may_probe and self.wait == 0
        return self._inside < int(self._width) and self.wait == 0

    def _take(self) -> None:
        self._inside += 1
        if self._circuit.is_open:
            self._circuit.probing()

    def _admit(self) -> None:
        self._reopen()
        while self._waiting and (self._waiting[0][2].done() or self._free()):
            _, _, place = heapq.heappop(self._waiting)
            if not place.done():
                self._take()
                place.set_result(None)
        if self._waiting and self._circuit.gives_up:
            self._turn_away(self._circuit.failure())
        if self._waiting and (self.wait > 0 or self._circuit.is_open):
            self._wake_later(max(self.wait, self._circuit.next_change if self._circuit.is_open else 0.0))

    def _wake_later(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds + 0.001, self._admit)

    def _turn_away(self, error: HeadraceError) -> None:
        for _, _, place in self._waiting:
            if not place.done():
                place.set_exception(copy_of(error))
        self._waiting.clear()

    def _too_long(self) -> CallRefused:
        return refuse_wait(self.wait, self._clock)


class Place:
    """A caller's place inside a gate, for the length of an `async with`."""

    __slots__ = ("_gate", "_tries")

    def __init__(self, gate: Gate, tries: int) -> None:
        self._gate = gate
        self._tries = tries

    async def __aenter__(self) -> None:
        await self._gate.wait_for_place(self._tries)

    async def __aexit__(self, *raised: object) -> None:
        self._gate.leave()


def refuse_wait(seconds: float, clock: Clock) -> CallRefused:
    """Return the error for an endpoint that asks for more patience than a run has."""
    until = datetime.fromtimestamp(clock.now() + seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return CallRefused(
        f"the endpoint asks to wait {seconds:.0f} s, until {until}; {LONGEST_WAIT:.0f} s is the most.",
        hint="Resume the run after that time, or use another model or account.",
    )


def copy_of(error: HeadraceError) -> HeadraceError:
    """Return a fresh error of the same class and text, so that tracebacks of callers do not mix."""
    return type(error)(error.message, hint=error.hint)
