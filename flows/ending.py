"""How a run and its steps ended: the statuses, and the last rows that the store gets.

Owns what counts as failed, and the closing of a run. Knows nothing of how steps are run. Invariant: only who
has the run's lease closes it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from chains.errors import StoreConflict
from chains.inside import all_inside
from chains.store import RunRow
from chains.store.rows import RunStatus, StepStatus
from flows.costs import cost_of_run
from flows.prepared import PreparedRun
from flows.stopping import Stop
from tasks.recording import DONE


def step_status(total: Counter[str], rows_left: int) -> StepStatus:
    """Decide how a step ended; with rows left the run was stopped before the step was done."""
    if total["failed"] or total["blocked"]:
        return "failed"
    if total["waiting"]:
        return "waiting"
    if rows_left > 0:
        return "cancelled"
    return "ok" if total["ok"] else "skipped"


def run_status(run: PreparedRun, stop: Stop, ended: Mapping[str, Counter[str]]) -> RunStatus:
    """Decide how the run ended, by the chain's `on_error` and `max_failed_rows`.

    `ended`: how the rows of each step ended.
    """
    if stop.by_user:
        return "cancelled"
    if stop.failed:
        return "failed"
    if any(statuses["waiting"] for statuses in ended.values()):
        return "waiting"
    if not run.once and all(set(statuses) <= DONE for statuses in ended.values()):
        return "ok"
    counts = run.store.counts(run.run_id)
    if any(counts.get(step_id, {}).get("failed") for step_id in run.once):
        return "failed"
    failed = any(counts.get(step_id, {}).get("failed") for step_id in run.graph.order)
    if failed and run.chain.on_error != "skip" and _too_many_failed(run):
        return "failed"
    return "ok"


def _too_many_failed(run: PreparedRun) -> bool:
    """Whether more rows failed than the chain allows; a row counts once, however many of its steps failed."""
    number = 0
    for rows in run.shards:
        records = run.store.records(run.run_id, rows=rows, statuses=("failed", "blocked"), payloads=False)
        number += len({record.row for record in records if record.step in run.chain.steps})
        if number > run.chain.max_failed_rows:
            return True
    return False


def taken_over(run: PreparedRun) -> StoreConflict:
    """Return the error of a process whose run is another's by now."""
    return StoreConflict(
        f"run {run.run_id} was taken over by another process while this one was paused.",
        hint="This process has stopped; the run goes on there.",
    )


def close_run(run: PreparedRun, status: RunStatus) -> dict[str, Any]:
    """End a run in the store, give its lease back, and return what it comes to.

    Raises StoreConflict where another process has it.
    """
    from flows.outputs import run_outputs

    outputs = run_outputs(run) if len(run.rows) == 1 else None
    result: dict[str, Any] = {}

    def row(found: Mapping[str, dict[str, int]]) -> RunRow:
        names = [name for step in run.graph.order for name in (step, *all_inside(run.chain_file, step))]
        counts = {name: found[name] for name in names if name in found}
        result.update(
            run_id=run.run_id,
            status=status,
            rows=len(run.rows),
            counts=counts,
            cost_micro=cost_of_run(counts),
            outputs=outputs,
        )
        encoded = json.dumps(result, ensure_ascii=False).encode("utf-8", "surrogatepass")
        return replace(run.row, status=status, finished_at=run.clock.now(), result=encoded)

    if not run.lease.end(row):
        raise taken_over(run)
    run.store.write_manifest_aside(run.run_id)
    return result
