"""What a part of a run is, and how it is named.

Owns the few values that travel to the process that does the part. Knows nothing of how they travel.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.counts import ShardCounts
from tasks.scopes import ONCE


@dataclass(frozen=True, slots=True)
class Part:
    """Some steps of a run over a range of its rows; `rows` is None where they are once steps only.

    `run_fence`: that of the run's lease when the part was made, so that a part of a process that has lost
    the run does nothing. `since`: when that process began with the run. `folder`: the store's, for processes
    of the same machine.
    """

    run_id: str
    run_fence: int
    steps: tuple[str, ...]
    rows: range | None
    since: float
    folder: str | None = None

    @property
    def name(self) -> str:
        """The name of the part's lease in the store."""
        steps = hashlib.sha256("\n".join(self.steps).encode()).hexdigest()[:8]
        return f"{self.run_id}.{steps}-{'once' if self.rows is None else self.rows.start}"

    @property
    def title(self) -> str:
        """The part as people see it, such as `triage, reply · rows 0-1023`."""
        return f"{', '.join(self.steps)} · {self.place}"

    @property
    def place(self) -> str:
        """The part's rows in words."""
        if self.rows is None:
            return "once"
        return (
            f"rows {self.rows.start}-{self.rows.stop - 1}" if len(self.rows) > 1 else f"row {self.rows.start}"
        )

    @property
    def span(self) -> range:
        """The numbers of the rows of its records; once steps have theirs in front."""
        if self.rows is None:
            return range(ONCE, 0)
        return range(ONCE if self.rows.start == 0 else self.rows.start, self.rows.stop)

    def parameters(self) -> dict[str, Any]:
        """Return the part as the parameters of the flow `run-part`."""
        return {
            "run_id": self.run_id,
            "run_fence": self.run_fence,
            "steps": list(self.steps),
            "first_row": self.rows.start if self.rows is not None else None,
            "end_row": self.rows.stop if self.rows is not None else None,
            "since": self.since,
            "folder": self.folder,
        }


@dataclass(slots=True)
class PartEnd:
    """How a part ended: what its steps counted, and whether it was stopped before all rows were done."""

    counts: Mapping[str, ShardCounts] = field(default_factory=dict)
    over_budget: str | None = None
    cancelled: bool = False

    @property
    def statuses(self) -> Counter[str]:
        """The rows of all steps together, by status."""
        total: Counter[str] = Counter()
        for counts in self.counts.values():
            total += counts.statuses
        return total
