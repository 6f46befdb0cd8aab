"""What a run returns: the chain's `outputs:` rendered for each row, from the store.

Nothing here is stored: outputs are a function of the records, so they can always be derived again. Rows are
read a few hundred at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from chains.errors import TemplateFailed
from chains.graph import nested_templates
from chains.references import references
from chains.store.files import atomic_file, remove_abandoned
from chains.templates import render_value
from tasks.scopes import CHUNK, ONCE

if TYPE_CHECKING:
    from chains.spec import Chain
    from chains.store import RecordRow, Store
    from tasks.row_source import RowSource


class Recorded(Protocol):
    """A run whose records are read: one that is under way here, or one of the store."""

    @property
    def run_id(self) -> str:
        """The run's id."""

    @property
    def chain(self) -> Chain:
        """The chain of the run."""

    @property
    def rows(self) -> RowSource:
        """Its rows."""

    @property
    def store(self) -> Store:
        """Where its records are."""

    @property
    def once(self) -> frozenset[str]:
        """The steps that run once over all rows."""


def run_outputs(run: Recorded) -> dict[str, Any]:
    """Return the outputs of a run's first row; an output that reads a step without a result is null."""
    first = run.rows.first
    records = run.store.records(run.run_id, rows=range(first.number, first.number + 1))
    return _outputs(run, first.inputs, {record.step: record for record in records}, _once(run))


def every_row(run: Recorded) -> Iterator[dict[str, Any]]:
    """Yield `{row, status, outputs, errors}` for each row, in order.

    A row is `ok` when each of its steps has ended, and each once step that the outputs read; `failed` when
    one has failed; `waiting` where a person has to answer; else `cancelled`: the run was stopped before the
    row was done.
    """
    once = _once(run)
    needed = frozenset(run.chain.steps) - run.once
    once_ended = _once_ended(run)
    for rows in run.rows.shards(CHUNK):
        records: dict[int, dict[str, RecordRow]] = {}
        for record in run.store.records(run.run_id, rows=rows):
            if record.step in run.chain.steps and record.step not in run.once:
                records.setdefault(record.row, {})[record.step] = record
        for row in run.rows.read(rows):
            found = records.get(row.number, {})
            errors = {
                step_id: json.loads(record.error or b"{}").get("message")
                for step_id, record in found.items()
                if record.status in ("failed", "blocked")
            }
            outputs = _outputs(run, row.inputs, found, once)
            ended = {name for name, record in found.items() if record.status in ("ok", "skipped")}
            waits = any(record.status == "waiting" for record in found.values())
            done = "ok" if once_ended and needed <= ended else "cancelled"
            status = "failed" if errors else "waiting" if waits else done
            yield {"row": row.number, "status": status, "outputs": outputs, "errors": errors}


def write_outputs(run: Recorded, path: Path) -> int:
    """Write one JSON line per row to `path`, atomically, and return their number."""
    remove_abandoned(path.parent)
    number = 0
    with atomic_file(path) as file:
        for line in every_row(run):
            number += 1
            file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
    return number


def _once_ended(run: Recorded) -> bool:
    """Whether the once steps that the outputs read have come to an end."""
    templates = nested_templates(("outputs",), run.chain.outputs)
    read = {found.root for template in templates for found in references(template.source)}
    records = [run.store.record(run.run_id, step_id, ONCE) for step_id in read & run.once]
    return all(record is not None and record.status not in ("running", "cancelled") for record in records)


def _once(run: Recorded) -> dict[str, Any]:
    found = {step_id: run.store.record(run.run_id, step_id, ONCE) for step_id in run.once}
    return {step_id: _output(record) for step_id, record in found.items() if _has_output(record)}


def _outputs(
    run: Recorded, inputs: Mapping[str, Any], records: Mapping[str, RecordRow], once: Mapping[str, Any]
) -> dict[str, Any]:
    scope: dict[str, Any] = {"inputs": dict(inputs), **once}
    for step_id, record in records.items():
        if step_id not in run.once and _has_output(record):
            scope[step_id] = _output(record)
    outputs: dict[str, Any] = {}
    for name, template in run.chain.outputs.items():
        try:
            outputs[name] = render_value(template, scope)
        except TemplateFailed:
            outputs[name] = None
    return outputs


def _has_output(record: RecordRow | None) -> bool:
    return record is not None and record.status == "ok" and record.output is not None


def _output(record: RecordRow | None) -> Any:
    assert record is not None and record.output is not None  # whoever calls has asked `_has_output`
    return json.loads(record.output)
