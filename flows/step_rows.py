"""The row of a step in the store, as the run goes.

Owns what such a row says of a step. Knows nothing of when it changes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from chains.inside import all_inside
from chains.spec import Chain, Step, kind_of, runs_once
from chains.store import StepRow

if TYPE_CHECKING:
    from chains.loading import ChainFile
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
    return _row(run_id, step_id, step, status, started=started, finished=finished, counts=counts)


def rows_inside(
    run_id: str,
    chain_file: ChainFile,
    step_id: str,
    found: Mapping[str, Mapping[str, int]] | None = None,
    *,
    started: float | None = None,
    finished: float | None = None,
) -> list[StepRow]:
    """Return the rows of the steps inside a step; `found` are the counts of all steps once it has ended."""
    rows = []
    for name, step in all_inside(chain_file, step_id).items():
        counts = (found or {}).get(name, {})
        status = "waiting" if found is None else _status(counts)
        rows.append(_row(run_id, name, step, status, started=started, finished=finished, counts=counts))
    return rows


def _status(counts: Mapping[str, int]) -> StepStatus:
    for word in ("failed", "cancelled", "ok"):
        if counts.get(word) or counts.get(f"within_{word}"):
            return word
    return "skipped"


def _row(
    run_id: str,
    name: str,
    step: Step,
    status: StepStatus,
    *,
    started: float | None,
    finished: float | None,
    counts: Mapping[str, int] | None,
) -> StepRow:
    return StepRow(
        run_id=run_id,
        id=name,
        kind=kind_of(step),
        once=runs_once(step),
        status=status,
        started_at=started,
        finished_at=finished,
        spec=step.model_dump_json(exclude_defaults=True).encode(),
        counts=json.dumps(counts or {}).encode(),
    )
