"""The Prefect flow `run-part`: a part of a run, in the process of a worker.

Owns how a part ends in Prefect's eyes. Only its name comes in, and only counts go out; what it does is in
flows.parts and in the store.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.settings import get_current_settings
from prefect.states import Cancelled, Completed, Failed

from chains.settings import get_settings
from flows.executor import execute_part
from flows.parts.joining import join, open_store_of
from flows.parts.part import Part
from flows.prefect_starter import PrefectStarter, counted

OVER_BUDGET = "OverBudget"
"""The name of the state of a part that a budget has stopped."""


@flow(
    name="run-part",
    retries=0,
    log_prints=True,
    persist_result=False,
    # Nothing is left there; named, so that Prefect need not ask its server for the place.
    result_storage=Path(get_current_settings().results.local_storage_path),
)
async def run_part(  # noqa: PLR0917 - the name of a part, as Prefect carries it
    run_id: str,
    run_fence: int,
    steps: list[str],
    first_row: int | None,
    end_row: int | None,
    since: float,
    folder: str | None = None,
) -> Any:
    """Do some steps of a run over rows `first_row` to `end_row` (exclusive); without rows, once steps."""
    rows = range(first_row, end_row) if first_row is not None and end_row is not None else None
    part = Part(run_id, run_fence, tuple(steps), rows, since, folder)
    settings = get_settings()
    with open_store_of(part, settings) as store:
        run = join(part, store=store, settings=settings)
        try:
            end = await execute_part(run, part, PrefectStarter(run, whole=False))
        finally:
            run.lease.give_back()
    words = "; ".join(f"{step}: {counted(counts)}" for step, counts in end.counts.items())
    if end.over_budget is not None:
        return Failed(name=OVER_BUDGET, message=end.over_budget)
    if end.cancelled:
        return Cancelled(message=f"stopped; {words}")
    return Completed(message=words)
