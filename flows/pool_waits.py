"""What the row of a step says while its pool has not picked it up, and how that reads.

Owns the form of that note, which goes when the step is picked up or ends. Knows nothing of pools.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from chains.clock import Clock

if TYPE_CHECKING:
    from chains.store import StepRow, Store

_POOL, _SINCE = "waits_for_pool", "waits_since"


def note_wait(store: Store, run_id: str, steps: Collection[str], *, pool: str, since: float) -> None:
    """Write that steps of a run have waited for a pool since then."""
    _write(store, run_id, steps, {_POOL: pool, _SINCE: since})


def note_no_wait(store: Store, run_id: str, steps: Collection[str]) -> None:
    """Write that steps of a run wait no more."""
    _write(store, run_id, steps, {})


def wait_text(step: StepRow) -> str | None:
    """Return what people are shown of a step that waits, such as `waiting for pool 'gpu' (37 s)`."""
    noted = json.loads(step.counts or b"{}")
    if step.status != "running" or _POOL not in noted:
        return None
    return f"waiting for pool {noted[_POOL]!r} ({max(Clock().now() - noted[_SINCE], 0):.0f} s)"


def wait_of_run(store: Store, run_id: str) -> str | None:
    """Return the same of a run: the first of its steps that waits."""
    return next((text for step in store.steps(run_id) if (text := wait_text(step)) is not None), None)


def _write(store: Store, run_id: str, steps: Collection[str], note: dict[str, object]) -> None:
    rows = [row for row in store.steps(run_id) if row.id in steps and row.status == "running"]
    store.hand_over(*(replace(row, counts=json.dumps(note).encode()) for row in rows))
