"""The text of a run's answers on standard error, while they come.

Owns whose turn it is: one answer has the terminal at a time, and what others say meanwhile follows it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from flows.cli.text import safe

if TYPE_CHECKING:
    from flows.cli.live import Display
    from tasks.context import Progress


class Streamed:
    """A display that also prints answers; everything else is shown by another."""

    def __init__(self, other: Display) -> None:
        self._other = other
        self._speaking: str | None = None
        self._waiting: dict[str, list[Progress]] = {}

    def report(self, progress: Progress) -> None:
        """Print what is said, and hand on all other reports when nobody speaks."""
        if not progress.record:
            self._other.report(progress)
            return
        if self._speaking not in (None, progress.record):
            self._waiting.setdefault(progress.record, []).append(progress)
            return
        self._say(progress)
        if self._speaking is None and self._waiting:
            record = next(iter(self._waiting))
            for earlier in self._waiting.pop(record):
                self.report(earlier)

    def say(self, text: str) -> None:
        """Show one line about the run as a whole."""
        self._other.say(text)

    def _say(self, progress: Progress) -> None:
        if self._speaking is None:
            self._speaking = progress.record
            _write(f"\n[{progress.step}]\n")
        if progress.event == "text":
            _write(progress.text)
        elif progress.event == "again":
            _write(f"\n[{progress.step} begins again: what was said so far does not count]\n")
        else:
            _write("\n" if progress.event == "said" else "\n[it broke off: no answer]\n")
            self._speaking = None


def _write(text: str) -> None:
    # Not `print`: inside a flow run Prefect takes that for its logs.
    sys.stderr.write(safe(text))
    sys.stderr.flush()
