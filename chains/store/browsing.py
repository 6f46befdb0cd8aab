"""The reads of whoever looks at runs: pages of runs and records, sums, neighbours, what came before.

Owns these queries; they read no more than a page needs, and no blob for a list. Knows nothing of how anything
is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Select, and_, case, func, not_, or_, select

from chains.store import schema
from chains.store.linking import WITH_LINKED, payload
from chains.store.names import checked_id
from chains.store.reading import Reads
from chains.store.rows import RecordRow, RunRow
from chains.store.run_life import counted, number_of_rows, sum_columns
from chains.store.shapes import RECORDS, RUNS, decode

PREVIEW: Final = 400
"""Bytes of a payload that a list reads."""


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Where the time of a step's calls went, in seconds over all of them together."""

    queue: float = 0.0
    device: float = 0.0
    call: float = 0.0
    failed: float = 0.0
    pause: float = 0.0


@dataclass(frozen=True, slots=True)
class Listed:
    """A record as a list shows it: without payloads, with the beginnings of its output and its error."""

    record: RecordRow
    output: bytes | None
    error: bytes | None
    is_large: bool


class Browses(Reads):
    """Reads for pages; `Store` adds writing."""

    def page_of_runs(
        self,
        *,
        limit: int,
        offset: int = 0,
        chain: str | None = None,
        status: str | None = None,
        ids: Sequence[str] | None = None,
    ) -> list[RunRow]:
        """Return runs without payloads, newest first."""
        table = schema.runs.c
        query = self._filtered(self._select(RUNS, False), chain, status, ids)
        query = query.order_by(table.started_at.desc(), table.id.desc()).limit(limit).offset(offset)
        return self._rows(RUNS, query, False)

    def number_of_runs(
        self, *, chain: str | None = None, status: str | None = None, ids: Sequence[str] | None = None
    ) -> int:
        """Return how many runs there are."""
        query = select(func.count()).select_from(schema.runs)
        return int(self._values(self._filtered(query, chain, status, ids))[0][0])

    def chains_of_runs(self) -> list[str]:
        """Return the names of all chains that have run."""
        table = schema.runs.c
        return [name for (name,) in self._values(select(table.chain).distinct().order_by(table.chain))]

    def states_of_runs(self) -> list[tuple[str, str]]:
        """Return the id of each run, newest first, and a text that changes whenever the run does."""
        table = schema.runs.c
        query = select(table.id, table.status, table.finished_at, table.heartbeat_at)
        rows = self._values(query.order_by(table.started_at.desc(), table.id.desc()))
        return [(name, " ".join(map(str, state))) for name, *state in rows]

    def small_results(self, run_ids: Sequence[str]) -> dict[str, bytes]:
        """Return what runs wrote at their end; what is long enough to be a blob is left out."""
        table = schema.runs.c
        query = select(table.id, table.result).where(table.id.in_(list(run_ids)), table.result.is_not(None))
        return {name: bytes(result) for name, result in self._values(query)}

    def sums(self, run_ids: Sequence[str]) -> dict[str, dict[str, int]]:
        """Return for each run what `counts` says of its steps, over all of them together."""
        table = schema.records.c
        query = select(table.run_id, table.status, number_of_rows(), *sum_columns())
        query = query.where(table.run_id.in_(list(run_ids))).group_by(table.run_id, table.status)
        return counted(self._values(query))

    def page_of_records(
        self,
        run_id: str,
        step: str,
        *,
        limit: int,
        offset: int = 0,
        status: str | None = None,
        within: bool = False,
    ) -> list[Listed]:
        """Return records of a step by row, with the beginnings of what they say.

        `within`: those inside the rows' own, of a step that stands in another one.
        """
        table = schema.records.c
        rows = and_(table.sample == 0, not_(schema.of_whole_rows())) if within else schema.of_whole_rows()
        query = self._list().where(table.run_id == run_id, table.step == step, rows)
        query = query.where(table.status == status) if status else query
        order = (table.row, table.path, table.turn, table.item)
        return self._listed(query.order_by(*order).limit(limit).offset(offset))

    def records_within(self, record: RecordRow, inside: str, *, limit: int) -> list[Listed]:
        """Return the records inside another: the items of its map, and those of the steps inside its step.

        `inside` is the path of records directly inside it.
        """
        table = schema.records.c
        same = [table[name] == getattr(record, name) for name in ("run_id", "row")]
        own = table.step == record.step
        items = and_(
            own, table.item >= 0, *(table[name] == getattr(record, name) for name in ("path", "turn"))
        )
        below = table.step.startswith(f"{record.step}.", autoescape=True)
        if inside:
            below = and_(
                below, or_(table.path == inside, table.path.startswith(f"{inside}.", autoescape=True))
            )
        found = or_(items, below) if record.item < 0 else below
        query = self._list().where(*same, table.sample == 0, found)
        # Items by their number; what stands in a turn as it went.
        order = (table.path, table.turn, case((own, 0.0), else_=table.started_at), table.item)
        return self._listed(query.order_by(*order).limit(limit))

    def _list(self) -> Select[Any]:
        previews = [func.substr(payload(name), 1, PREVIEW) for name in ("output", "error")]
        query = select(*RECORDS.columns(payloads=False), payload("output_blob"), *previews)
        return query.select_from(WITH_LINKED)

    def _listed(self, query: Select[Any]) -> list[Listed]:
        found = []
        for *values, blob, output, error in self._values(query):
            record = decode(RECORDS, values, self.blobs, payloads=False)
            found.append(Listed(record, output, error, blob is not None))
        return found

    def small_outputs(self, run_id: str, step: str, *, limit: int) -> list[tuple[int, bytes]]:
        """Return the outputs of a step's first rows by row; what is long enough to be a blob stays closed."""
        table = schema.records.c
        output = payload("output")
        query = select(table.row, output).select_from(WITH_LINKED)
        query = query.where(table.run_id == run_id, table.step == step, schema.of_whole_rows())
        query = query.where(table.row >= 0, output.is_not(None)).order_by(table.row).limit(limit)
        return [(int(row), bytes(output)) for row, output in self._values(query)]

    def neighbours(self, record: RecordRow) -> tuple[int | None, int | None]:
        """Return the rows before and after a record's that the step has records of."""
        table = schema.records.c
        place = (table.run_id == record.run_id, table.step == record.step)
        before = select(func.max(table.row)).where(*place, table.row < record.row)
        after = select(func.min(table.row)).where(*place, table.row > record.row)
        return self._values(before)[0][0], self._values(after)[0][0]

    def records_of_row(self, run_id: str, row: int) -> list[RecordRow]:
        """Return a row's records of all steps, without payloads."""
        table, steps = schema.records.c, schema.steps.c
        # Step by step, which the index of positions answers; a run's rows are not gone through.
        of_run = select(steps.id).where(steps.run_id == run_id)
        query = self._select(RECORDS, False).where(table.run_id == run_id, table.row == row)
        return self._rows(RECORDS, query.where(table.step.in_(of_run)).order_by(table.started_at), False)

    def times_of_steps(self, run_id: str) -> dict[str, StepTimes]:
        """Return where the time of each step's calls went; steps without calls are left out."""
        table = schema.attempts.c
        took = func.coalesce(table.finished_at - table.started_at, 0.0)
        ok, first = table.state == "ok", table.number == 1
        parts = (
            case((first, table.wait_s), else_=0.0),
            table.device_wait_s,
            case((ok, took - table.device_wait_s), else_=0.0),
            case((ok, 0.0), else_=took - table.device_wait_s),
            case((first, 0.0), else_=table.wait_s),
        )
        query = select(table.step, *(func.sum(part) for part in parts)).where(table.run_id == run_id)
        return {
            step: StepTimes(*(max(0.0, float(value)) for value in values))
            for step, *values in self._values(query.group_by(table.step))
        }

    def begun_elsewhere(self, run_id: str) -> dict[str, float]:
        """Return when the first record of each step began that another process than the run's has made."""
        table = schema.records.c
        query = select(table.step, func.min(table.started_at)).where(table.run_id == run_id)
        rows = self._values(query.where(table.worker.is_not(None)).group_by(table.step))
        return {step: float(at) for step, at in rows if at is not None}

    def ended(self, run_id: str) -> list[tuple[str, float]]:
        """Return the id and the end of each record of a run that has ended."""
        table = schema.records.c
        query = select(table.id, table.finished_at).where(table.run_id == run_id)
        return [(name, at) for name, at in self._values(query.where(table.finished_at.is_not(None)))]

    def records_by_id(self, ids: Sequence[str]) -> list[RecordRow]:
        """Return the records of these ids that are there; name few."""
        return self._rows(RECORDS, self._select(RECORDS).where(schema.records.c.id.in_(list(ids))))

    def earlier(self, run: RunRow, record: RecordRow, *, limit: int = 5) -> list[RecordRow]:
        """Return the records at the same place in earlier runs of the chain, newest run first."""
        table, runs = schema.records.c, schema.runs.c
        query = self._select(RECORDS).join(schema.runs, runs.id == table.run_id)
        query = query.where(runs.chain == run.chain, runs.started_at < run.started_at)
        for name in ("step", "row", "path", "item", "turn", "sample"):
            query = query.where(table[name] == getattr(record, name))
        return self._rows(RECORDS, query.order_by(runs.started_at.desc(), runs.id.desc()).limit(limit))

    def last_row(self, run_id: str) -> int:
        """Return the highest row that a run has a record of; -1 where it has none."""
        query = select(func.max(schema.records.c.row)).where(schema.records.c.run_id == run_id)
        found = self._values(query)[0][0]
        return -1 if found is None else int(found)

    def record_by_id(self, record_id: str) -> RecordRow | None:
        """Return a record by its id."""
        query = self._select(RECORDS).where(schema.records.c.id == checked_id(record_id, "record id"))
        return self._first(RECORDS, query)

    def _filtered(
        self, query: Select[Any], chain: str | None, status: str | None, ids: Sequence[str] | None
    ) -> Select[Any]:
        table = schema.runs.c
        query = query.where(table.chain == chain) if chain else query
        query = query.where(table.status == status) if status else query
        return query.where(table.id.in_(list(ids))) if ids is not None else query
