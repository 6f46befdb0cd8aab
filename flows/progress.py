"""Counts what a run's steps report, for whoever shows it.

Owns the numbers (rows done, failed, reused, retried; tokens; cost; time). Knows nothing of terminals or of
Prefect. Called from the run's event loop only, so it needs no lock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from chains.clock import Clock
from tasks.context import Progress

Report = Callable[[Progress], None]


def ignore(_: Progress) -> None:
    """Take a report and do nothing."""


@dataclass(slots=True)
class StepProgress:
    """One step's numbers so far."""

    total: int
    done: int = 0
    failed: int = 0
    skipped: int = 0
    waiting: int = 0
    reused: int = 0
    retried: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost_micro: int = 0
    cost_known: bool = True
    items: int = 0
    items_done: int = 0
    started: float | None = None
    ended: float | None = None
    note: str = ""

    @property
    def finished(self) -> bool:
        """Whether every row has ended."""
        return self.done >= self.total

    def seconds(self, now: float) -> float:
        """Return how long the step has been at work."""
        return 0.0 if self.started is None else (self.ended or now) - self.started

    def eta(self, now: float) -> float | None:
        """Return the seconds left at the present pace, or None before the first row."""
        if self.started is None or not self.done or self.finished:
            return None
        return self.seconds(now) / self.done * (self.total - self.done)


@dataclass(slots=True)
class Monitor:
    """The numbers of all steps of one run, in order."""

    clock: Clock
    steps: dict[str, StepProgress] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def __call__(self, progress: Progress) -> None:
        """Take one report."""
        if progress.step not in self.steps:
            if progress.text:
                self.messages.append(progress.text)
            return
        step = self.steps[progress.step]
        match progress.event:
            case "started":
                step.started = step.started if step.started is not None else self.clock.monotonic()
            case "row":
                self._row(step, progress)
            case "items":
                step.items += progress.total
            case "item":
                step.items_done += 1
                step.reused += progress.reused
                self._spent(step, progress)
            case "retry":
                step.retried += 1
            case "message":
                step.note = progress.text
            case "ended":
                pass

    def _row(self, step: StepProgress, progress: Progress) -> None:
        step.done += 1
        step.failed += progress.status in ("failed", "blocked")
        step.skipped += progress.status == "skipped"
        step.waiting += progress.status == "waiting"
        step.reused += progress.reused
        self._spent(step, progress)
        if step.finished:
            step.ended, step.note = self.clock.monotonic(), ""

    def _spent(self, step: StepProgress, progress: Progress) -> None:
        step.tokens_in += progress.tokens_in
        step.tokens_out += progress.tokens_out
        step.cost_micro += progress.cost_micro or 0
        if (
            progress.cost_micro is None
            and not progress.reused
            and (progress.tokens_in or progress.tokens_out)
        ):
            step.cost_known = False
