"""What a run came to, read from the store alone: for callers, after the process of the run has ended.

Owns the document that callers get (`headrace result`, the artifact of a deployed chain). The chain is the
one that the run was made with, as the store kept it. Knows nothing of Prefect.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chains.clock import iso
from flows.binding import bind_rows, open_data
from flows.outputs import every_row
from flows.request import request_of
from flows.resuming import is_dead

if TYPE_CHECKING:
    from chains.spec import Chain
    from chains.store import RunRow, Store
    from tasks.row_source import RowSource

TRAVELS = 256 * 1024
"""Bytes of a result that go through Prefect; what is longer is read from the store."""


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A run that is read and not run."""

    run_id: str
    chain: Chain
    rows: RowSource
    store: Store

    @property
    def once(self) -> frozenset[str]:
        """The steps that run once over all rows."""
        from chains.spec import runs_once

        return frozenset(name for name, step in self.chain.steps.items() if runs_once(step))


def result_of(store: Store, run: RunRow, *, rows: bool = True) -> dict[str, Any]:
    """Return a run's result: `outputs` for a single row, `row_outputs` for a data set.

    `rows` false leaves the rows of a data set out. Raises InputInvalid where it is not any more what the run
    read.
    """
    recorded = json.loads(run.result or b"{}")
    single = run.data_path is None
    found = {
        "run_id": run.id,
        "chain": run.chain,
        "version": run.chain_hash,
        "status": "interrupted" if is_dead(run) else run.status,
        "rows": run.rows,
        "outputs": recorded.get("outputs") if single else None,
        "row_outputs": None,
        "error": _first_error(store, run) if run.status == "failed" else None,
        "counts": recorded.get("counts") or {},
        "cost_micro": recorded.get("cost_micro"),
        "started_at": iso(run.started_at),
        "finished_at": iso(run.finished_at),
    }
    if rows and not single and run.status != "running":
        found["row_outputs"] = list(every_row(_recorded(store, run)))
    return found


def travelling_result(store: Store, run: RunRow) -> dict[str, Any]:
    """Return a run's result as it goes through Prefect: without its outputs where they are long."""
    whole = result_of(store, run, rows=_may_travel(run))
    if len(_encoded(whole)) <= TRAVELS and (run.data_path is None or whole["row_outputs"] is not None):
        return whole
    note = (
        f"The outputs are more than {TRAVELS // 1024} KiB and stay in the store: "
        f"`headrace result {run.id} --json` reads them."
    )
    return whole | {"outputs": None, "row_outputs": None, "note": note}


def _may_travel(run: RunRow) -> bool:
    """Whether the rows are few enough to look how long they are: even an empty one takes some bytes."""
    return run.rows * 64 <= TRAVELS


def _encoded(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _recorded(store: Store, run: RunRow) -> RecordedRun:
    chain, request = chain_of(run), request_of(run)
    rows, _ = bind_rows(chain, request, open_data(request, run, store))
    return RecordedRun(run.id, chain, rows, store)


def chain_of(run: RunRow) -> Chain:
    """Return the chain that a run was made with; it was checked when the run began."""
    from chains.loading.validation import validate
    from chains.source.document import read_document
    from chains.source.findings import Findings

    document = read_document(run.source, run.chain)
    return validate(document.value, Findings(document, run.chain)).chain


def _first_error(store: Store, run: RunRow) -> dict[str, Any] | None:
    """Return the first failure: the step, the row and what was said."""
    counts = store.counts(run.id)
    for step_id in chain_of(run).steps:
        if not counts.get(step_id, {}).get("failed"):
            continue
        for start in range(-1, max(run.rows, 1), 4096):
            rows = range(start, start + 4096)
            for record in store.records(run.id, step_id, rows=rows, statuses=("failed",)):
                said = json.loads(record.error or b"{}")
                row = record.row if record.row >= 0 else None
                message = str(said.get("message") or "").removeprefix(f"step {step_id!r}: ")
                return {"step": step_id, "row": row, "type": said.get("type"), "message": message}
    return None
