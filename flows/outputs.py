"""What a run returns: the chain's `outputs:` rendered for each row, from the store.

Nothing here is stored: outputs are a function of the records, so they can always be derived again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chains.errors import TemplateFailed
from chains.store.files import atomic_write
from chains.templates import render_value
from tasks.scopes import ONCE

if TYPE_CHECKING:
    from flows.prepared import PreparedRun


def run_outputs(run: PreparedRun, row: int) -> dict[str, Any]:
    """Return the outputs of one row; an output that reads a step without a result is null."""
    return _render(run, _scope(run, row))


def every_row(run: PreparedRun) -> Iterator[dict[str, Any]]:
    """Yield `{row, status, outputs, errors}` for each row, in order."""
    for row in range(len(run.rows)):
        records = [r for r in run.store.records(run.run_id, rows=range(row, row + 1)) if r.row == row]
        errors = {
            r.step: json.loads(r.error or b"{}").get("message")
            for r in records
            if r.status in ("failed", "blocked")
        }
        status = "failed" if errors else "ok"
        yield {"row": row, "status": status, "outputs": run_outputs(run, row), "errors": errors}


def write_outputs(run: PreparedRun, path: Path) -> int:
    """Write one JSON line per row to `path`, atomically, and return their number."""
    lines = [json.dumps(line, ensure_ascii=False) for line in every_row(run)]
    atomic_write(path, ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass"))
    return len(lines)


def _scope(run: PreparedRun, row: int) -> dict[str, Any]:
    scope: dict[str, Any] = {"inputs": dict(run.rows.inputs[row])}
    for step_id in run.graph.order:
        record = run.store.record(run.run_id, step_id, ONCE if step_id in run.once else row)
        if record is not None and record.status == "ok" and record.output is not None:
            scope[step_id] = json.loads(record.output)
    return scope


def _render(run: PreparedRun, scope: dict[str, Any]) -> dict[str, Any]:
    outputs: dict[str, Any] = {}
    for name, template in run.chain.outputs.items():
        try:
            outputs[name] = render_value(template, scope)
        except TemplateFailed:
            outputs[name] = None
    return outputs
