"""Finds a step's slowest and failed records without holding all of a run's.

Owns the reading in chunks; knows nothing of how records are shown.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chains.clock import elapsed

if TYPE_CHECKING:
    from chains.store import RecordRow
    from flows.prepared import PreparedRun

AT_ONCE = 4096
"""Records without payloads that are read together."""


@dataclass(slots=True)
class Listing:
    """A step's records in numbers: how many, the slowest, and the first that failed or were blocked."""

    rows: int = 0
    failed_rows: int = 0
    slowest: list[RecordRow] = field(default_factory=list)
    failed: list[RecordRow] = field(default_factory=list)


def seconds_of(record: RecordRow) -> float:
    """Return how long a record took; one that has not ended took no time yet."""
    return elapsed(record.started_at, record.finished_at) or 0.0


def list_step(run: PreparedRun, step_id: str, *, shown: int) -> Listing:
    """Return a step's listing, with up to `shown` records of each sort; the failed ones with payloads."""
    found = Listing()
    for rows in run.rows.shards(AT_ONCE):
        records = run.store.records(run.run_id, step_id, rows=rows, payloads=False)
        found.rows += len(records)
        found.slowest = heapq.nlargest(shown, [*found.slowest, *records], key=seconds_of)
        failed = [record for record in records if record.status in ("failed", "blocked")]
        found.failed_rows += len(failed)
        for record in failed[: shown - len(found.failed)]:
            whole = run.store.record(run.run_id, step_id, record.row)
            found.failed += [whole] if whole is not None else []
    return found


def first_failed(run: PreparedRun) -> tuple[RecordRow | None, int]:
    """Return the first record that failed, and how many did."""
    counts = run.store.counts(run.run_id)
    number = sum(counts.get(step_id, {}).get("failed", 0) for step_id in run.graph.order)
    return (next(_failed(run), None), number) if number else (None, 0)


def _failed(run: PreparedRun) -> Iterator[RecordRow]:
    for step_id in run.graph.order:
        for rows in (range(-1, 0), *run.rows.shards(AT_ONCE)):
            for record in run.store.records(
                run.run_id, step_id, rows=rows, statuses=("failed",), payloads=False
            ):
                whole = run.store.record(run.run_id, step_id, record.row)
                if whole is not None:
                    yield whole
