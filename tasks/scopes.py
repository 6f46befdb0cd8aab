"""What each row of a step may see: its inputs and what upstream steps left in the store.

Owns the rules for skipped and failed upstream steps. Knows nothing of how a step does its work or of who
calls it; everything it reads comes from the store, so it is the same after a crash and in another process.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from tasks.context import RowView

if TYPE_CHECKING:
    from chains.graph import Graph
    from chains.store import RecordRow, Store

ONCE = -1
"""The row number of a once step's record."""


@dataclass(frozen=True, slots=True)
class RowSource:
    """The rows of a run: typed inputs per row, the data set's columns per row, and the run's own inputs."""

    shared: Mapping[str, Any]
    inputs: Sequence[Mapping[str, Any]]
    columns: Sequence[Mapping[str, Any]] | None = None

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True, slots=True)
class Upstream:
    """How one upstream step ended for one row."""

    step: str
    status: str
    output: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class RowScope:
    """One row's variables, or why the step does not run for it."""

    row: int
    scope: dict[str, Any]
    verdict: Literal["run", "skipped", "blocked"] = "run"
    reason: str = ""
    statuses: dict[str, str] = field(default_factory=dict)


class Scopes:
    """Builds the scopes of a run's steps from its store."""

    def __init__(
        self, *, store: Store, run_id: str, graph: Graph, once: frozenset[str], rows: RowSource
    ) -> None:
        self._store = store
        self._run_id = run_id
        self._graph = graph
        self._once = once
        self._rows = rows

    def per_row(self, step_id: str, rows: range, *, run_on_skip: bool) -> Iterator[RowScope]:
        """Yield the scope of each row of a per-row step."""
        once = self._once_upstream(step_id)
        by_step = {up: self._outputs(up, rows) for up in self._per_row_upstream(step_id)}
        for row in rows:
            ended = [*once, *(_ended(up, found.get(row)) for up, found in by_step.items())]
            yield self._judge(step_id, row, ended, self._rows.inputs[row], run_on_skip=run_on_skip)

    def once(self, step_id: str, *, run_on_skip: bool) -> RowScope:
        """Return a once step's scope: a per-row upstream step is the list over rows that have an output."""
        ended = self._once_upstream(step_id)
        found = self._judge(step_id, ONCE, ended, self._rows.shared, run_on_skip=run_on_skip)
        everything = range(len(self._rows))
        for upstream in self._per_row_upstream(step_id):
            outputs = self._outputs(upstream, everything)
            found.scope[upstream] = [
                _decode(record) for _, record in sorted(outputs.items()) if record.status == "ok"
            ]
        return found

    def views(self, step_id: str) -> list[RowView]:
        """Return every row as a once step sees it, with `row` added."""
        everything = range(len(self._rows))
        once = {up.step: up.output for up in self._once_upstream(step_id) if up.output is not None}
        by_step = {up: self._outputs(up, everything) for up in self._per_row_upstream(step_id)}
        views = []
        for row in everything:
            ended = [_ended(up, found.get(row)) for up, found in by_step.items()]
            scope: dict[str, Any] = {"inputs": dict(self._rows.inputs[row]), **once}
            scope |= {up.step: up.output for up in ended if up.output is not None}
            if self._rows.columns is not None:
                scope["row"] = self._rows.columns[row]
            views.append(RowView(row=row, scope=scope, statuses={up.step: up.status for up in ended}))
        return views

    def _judge(
        self,
        step_id: str,
        row: int,
        ended: Sequence[Upstream],
        inputs: Mapping[str, Any],
        *,
        run_on_skip: bool,
    ) -> RowScope:
        reads, guarded = self._graph.reads[step_id], self._graph.guarded[step_id]
        scope: dict[str, Any] = {"inputs": dict(inputs)}
        statuses = {upstream.step: upstream.status for upstream in ended}
        scope |= {upstream.step: upstream.output for upstream in ended if upstream.output is not None}
        for upstream in ended:
            if upstream.status == "skipped":
                if upstream.step in reads - guarded and not run_on_skip:
                    reason = f"step {upstream.step!r} was skipped"
                    return RowScope(row, scope, "skipped", reason, statuses)
            elif upstream.status != "ok":
                reason = f"step {upstream.step!r} {_ENDINGS.get(upstream.status, 'did not end')}"
                return RowScope(row, scope, "blocked", reason, statuses)
        return RowScope(row, scope, statuses=statuses)

    def _once_upstream(self, step_id: str) -> list[Upstream]:
        found = []
        for upstream in sorted(self._graph.needs[step_id] & self._once):
            found.append(_ended(upstream, self._store.record(self._run_id, upstream, ONCE)))
        return found

    def _per_row_upstream(self, step_id: str) -> list[str]:
        return sorted(self._graph.needs[step_id] - self._once)

    def _outputs(self, step_id: str, rows: range) -> dict[int, RecordRow]:
        records = self._store.records(self._run_id, step_id, rows=rows)
        return {record.row: record for record in records}


_ENDINGS = {
    "failed": "failed",
    "blocked": "could not run",
    "cancelled": "was stopped",
    "running": "was interrupted",
}


def _ended(step_id: str, record: RecordRow | None) -> Upstream:
    if record is None:
        return Upstream(step_id, "missing", None)
    return Upstream(step_id, record.status, _decode(record) if record.status == "ok" else None)


def _decode(record: RecordRow) -> Any:
    return json.loads(record.output) if record.output is not None else None
