"""Stops a run: by Ctrl-C, by `headrace cancel`, by a budget, or because another process took it over.

Owns the way from the wish to the end of the run's tasks. Knows nothing of what those do.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from chains.errors import Cancelled
from flows.prepared import PreparedRun
from tasks.context import Progress

GRACE_SECONDS = 10.0
"""How long calls in flight may end after the first wish to stop."""


@dataclass(slots=True)
class Stop:
    """Whether and why the run is being stopped."""

    reason: str | None = None
    by_user: bool = False
    failed: bool = False
    lost: bool = False
    over_budget: bool = False

    def asked(self) -> bool:
        """Whether no new row may begin."""
        return self.reason is not None

    def calls(self, run: PreparedRun, reason: str) -> None:
        """Let no new call begin; those in flight go on."""
        self.reason = reason
        for providers, _ in run.all_services:
            providers.stop(Cancelled(f"the run was stopped before this call: {reason}"))


def listen(
    stop: Stop,
    run: PreparedRun,
    group: Sequence[asyncio.Task[Any]],
    report: Callable[[Progress], None],
    *,
    grace: float = GRACE_SECONDS,
) -> Callable[[], None]:
    """Let Ctrl-C, SIGTERM and `headrace cancel` stop calls, with a grace for those in flight.

    A second signal cancels at once, and so does the loss of the run. Return what undoes it.
    """
    loop = asyncio.get_running_loop()

    def cancel() -> None:
        for task in group:
            task.cancel()

    def ask(reason: str) -> None:
        if stop.by_user:
            return
        stop.by_user = True
        stop.calls(run, reason)
        again = "; press Ctrl-C again to drop those in flight" if reason == "Ctrl-C" else ""
        report(Progress("", "message", text=f"Stopping ({reason}): no new calls{again}."))
        loop.call_later(grace, cancel)

    def signalled() -> None:
        if stop.by_user:
            cancel()
        ask("Ctrl-C")

    def lose() -> None:
        stop.lost, stop.reason = True, "taken over"
        cancel()

    def cancelled_from_outside() -> None:
        loop.call_soon_threadsafe(ask, "headrace cancel")

    def lost() -> None:
        loop.call_soon_threadsafe(lose)

    run.lease.listen(cancel=cancelled_from_outside, lost=lost)
    old = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in old:
            # The loop's own way would look at each of the system's signals, and does the same.
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(signalled))
    except ValueError:
        return lambda: None  # not the main thread: whoever owns the signals cancels this task instead

    def restore() -> None:
        for number, handler in old.items():
            signal.signal(number, handler)

    return restore
