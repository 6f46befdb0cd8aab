"""What each row of a step may see: its inputs and what upstream steps left in the store.

Owns the rules for skipped and failed upstream steps. Knows nothing of how a step does its work or of who
calls it; everything it reads comes from the store, so it is the same after a crash and in another process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tasks.context import RowView

if TYPE_CHECKING:
    from chains.graph import Graph
    from chains.store import Store
    from tasks.row_source import RowSource

ONCE = -1
"""The row number of a once step's record."""
CHUNK = 256
"""Rows whose records are in memory together while a once step reads them all."""

Ending: TypeAlias = tuple[str, bytes | None]
"""The status of a record and its output."""


Verdict: TypeAlias = Literal["run", "skipped", "blocked", "waiting"]


@dataclass(frozen=True, slots=True)
class Upstream:
    """How one upstream step ended for one row."""

    step: str
    status: str
    output: Any


@dataclass(frozen=True, slots=True)
class RowScope:
    """One row's variables, or why the step does not run for it."""

    row: int
    scope: dict[str, Any]
    verdict: Verdict = "run"
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
        for row in self._rows.read(rows):
            ended = [*once, *(_ended(up, found.get(row.number)) for up, found in by_step.items())]
            yield self._judge(step_id, row.number, ended, row.inputs, run_on_skip=run_on_skip)

    def once(self, step_id: str, *, run_on_skip: bool, with_lists: bool = True) -> RowScope:
        """Return a once step's scope: a per-row upstream step is the list over rows that have an output.

        A kind that reads `views` in place of lists has no use for them, and they may be large.
        """
        ended = self._once_upstream(step_id)
        found = self._judge(step_id, ONCE, ended, self._rows.shared, run_on_skip=run_on_skip)
        waits = [up for up in self._per_row_upstream(step_id) if self._waits(up)]
        if waits and found.verdict == "run":
            return replace(found, verdict="waiting", reason=f"step {waits[0]!r} waits for an answer")
        read = set(self._per_row_upstream(step_id)) & self._graph.reads[step_id]
        for upstream in sorted(read) if with_lists else ():
            found.scope[upstream] = [
                _decode(output)
                for rows in self._rows.shards(CHUNK)
                for status, output in self._outputs(upstream, rows).values()
                if status == "ok"
            ]
        return found

    def _waits(self, step_id: str) -> bool:
        """Whether some row of a step waits for a person."""
        return bool(self._store.records(self._run_id, step_id, statuses=("waiting",), payloads=False))

    def views(self, step_id: str) -> Sequence[RowView]:
        """Return every row as a once step sees it, with `row` added; they are read as one iterates."""
        return Views(len(self._rows), lambda: self._views(step_id))

    def newest_upstream(self, step_id: str) -> float:
        """Return when the last record that a once step depends on was finished."""
        return self._store.newest_end(self._run_id, self._graph.needs[step_id])

    def _views(self, step_id: str) -> Iterator[RowView]:
        once = {up.step: up.output for up in self._once_upstream(step_id) if up.output is not None}
        for rows in self._rows.shards(CHUNK):
            by_step = {up: self._outputs(up, rows) for up in self._per_row_upstream(step_id)}
            for row in self._rows.read(rows):
                ended = [_ended(up, found.get(row.number)) for up, found in by_step.items()]
                scope: dict[str, Any] = {"inputs": dict(row.inputs), **once}
                scope |= {up.step: up.output for up in ended if up.output is not None}
                if row.columns is not None:
                    scope["row"] = row.columns
                yield RowView(row.number, scope, {up.step: up.status for up in ended})

    def _judge(
        self,
        step_id: str,
        row: int,
        ended: Sequence[Upstream],
        inputs: Mapping[str, Any],
        *,
        run_on_skip: bool,
    ) -> RowScope:
        scope: dict[str, Any] = {"inputs": dict(inputs)}
        statuses = {upstream.step: upstream.status for upstream in ended}
        scope |= {upstream.step: upstream.output for upstream in ended if upstream.output is not None}
        verdict, reason = verdict_of(self._graph, step_id, ended, run_on_skip=run_on_skip)
        return RowScope(row, scope, verdict, reason, statuses)

    def _once_upstream(self, step_id: str) -> list[Upstream]:
        found = []
        for upstream in sorted(self._graph.needs[step_id] & self._once):
            found.append(_ended(upstream, self._outputs(upstream, range(ONCE, 0)).get(ONCE)))
        return found

    def _per_row_upstream(self, step_id: str) -> list[str]:
        return sorted(self._graph.needs[step_id] - self._once)

    def _outputs(self, step_id: str, rows: range) -> dict[int, Ending]:
        return self._store.outputs(self._run_id, step_id, rows)


def verdict_of(
    graph: Graph, step_id: str, ended: Sequence[Upstream], *, run_on_skip: bool
) -> tuple[Verdict, str]:
    """Say whether a step runs after its upstream steps have ended, and why not."""
    reads, guarded = graph.reads[step_id], graph.guarded[step_id]
    for upstream in ended:
        if upstream.status == "skipped":
            if upstream.step in reads - guarded and not run_on_skip:
                return "skipped", f"step {upstream.step!r} was skipped"
        elif upstream.status == "waiting":
            return "waiting", f"step {upstream.step!r} waits for an answer"
        elif upstream.status != "ok":
            return "blocked", f"step {upstream.step!r} {_ENDINGS.get(upstream.status, 'did not end')}"
    return "run", ""


class Views(Sequence[RowView]):
    """The rows as a sequence that is read anew, in chunks, each time somebody iterates over it."""

    def __init__(self, count: int, read: Callable[[], Iterator[RowView]]) -> None:
        self._count = count
        self._read = read

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[RowView]:
        return self._read()

    def __getitem__(self, place: Any) -> Any:
        raise TypeError("the rows of a run are read in order; iterate over them")


_ENDINGS = {
    "failed": "failed",
    "blocked": "could not run",
    "cancelled": "was stopped",
    "running": "was interrupted",
}


def _ended(step_id: str, ending: Ending | None) -> Upstream:
    if ending is None:
        return Upstream(step_id, "missing", None)
    status, output = ending
    return Upstream(step_id, status, _decode(output) if status == "ok" else None)


def _decode(output: bytes | None) -> Any:
    return json.loads(output) if output is not None else None
