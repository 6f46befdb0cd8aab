"""The row of a step in the store, as the run goes.

Owns what such a row says of a step. Knows nothing of when it changes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from chains.spec import Chain, kind_of, runs_once
from chains.store import StepRow

if TYPE_CHECKING:
    from chains.store.rows import StepStatus


def step_row(
    run_id: str,
    chain: Chain,
    step_id: str,
    status: StepStatus = "waiting",
    *,
    started: float | None = None,
    finished: float | None = None,
    counts: Mapping[str, int] | None = None,
) -> StepRow:
    """Return the row of a step of a run."""
    step = chain.steps[step_id]
    return StepRow(
        run_id=run_id,
        id=step_id,
        kind=kind_of(step),
        once=runs_once(step),
        status=status,
        started_at=started,
        finished_at=finished,
        spec=step.model_dump_json(exclude_defaults=True).encode(),
        counts=json.dumps(counts or {}).encode(),
    )
