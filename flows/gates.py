"""Tells Prefect that a gate was not met, as an event that an automation can wait for.

Owns the event's name and what it carries. The measured numbers stay in the store and in the step's artifact.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from chains.errors import GateNotMet
from tasks.scopes import ONCE

if TYPE_CHECKING:
    from flows.prepared import PreparedRun

EVENT = "headrace.gate.failed"


def tell_failed_gate(run: PreparedRun, step_id: str, status: str) -> None:
    """Emit the event if the step has a gate that was not met; Prefect adds flow run and deployment."""
    if status != "failed" or getattr(run.chain.steps[step_id], "gate", None) is None:
        return
    record = run.store.record(run.run_id, step_id, ONCE)
    error = json.loads(record.error or b"{}") if record is not None else {}
    if error.get("type") != GateNotMet.__name__:
        return
    from prefect.events import emit_event

    emit_event(
        EVENT,
        resource={
            "prefect.resource.id": f"headrace.run.{run.run_id}",
            "prefect.resource.name": run.run_id,
            "headrace.chain": run.chain.chain,
        },
        payload={
            "chain": run.chain.chain,
            "run_id": run.run_id,
            "step": step_id,
            "message": error["message"],
        },
    )
