"""How the rows of a shard ended, and whether the run is being stopped.

Owns the numbers that a unit hands to the executor. Knows nothing of how a row is run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class ShardCounts:
    """How the rows of one shard ended."""

    statuses: Counter[str] = field(default_factory=Counter)
    resumed: int = 0
    reused: int = 0
    first_error: str | None = None
    over_budget: str | None = None

    @property
    def failed(self) -> int:
        """Rows that failed here or could not run because of an earlier failure."""
        return self.statuses["failed"] + self.statuses["blocked"]

    @property
    def ended(self) -> int:
        """Rows that have come to an end of their own; not those that are left for a resume."""
        return self.statuses.total() - self.statuses["cancelled"] - self.statuses["waiting"]

    def add(self, other: ShardCounts) -> None:
        """Count another shard's rows in."""
        self.statuses += other.statuses
        self.resumed += other.resumed
        self.reused += other.reused
        self.first_error = self.first_error or other.first_error


@dataclass(frozen=True, slots=True)
class Stopping:
    """Says whether the run is being stopped; rows that have not begun are then left for a resume.

    `on_budget` is told, with the reason, when a call was not made because a budget would not cover it.
    """

    asked: Callable[[], bool] = lambda: False
    on_failure: Callable[[], None] = lambda: None
    on_budget: Callable[[str], None] = lambda _: None
