"""The reading half of the store.

Owns every query. Reads go over connections of their own, which cannot write, and see the last commit.
With `payloads=False` no payload leaves the database and no blob is opened.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine, Select, bindparam, func, or_, select

from chains.errors import InputInvalid, StoreDamaged
from chains.store import schema
from chains.store.blobs import Blobs
from chains.store.connecting import Database
from chains.store.linking import WITH_LINKED, payload, record_columns
from chains.store.names import checked_id
from chains.store.rows import AttemptRow, CollectionRow, ModelRow, RecordRow, RunRow, StepRow
from chains.store.run_life import counted, sums_of_rows, sums_of_run
from chains.store.shapes import ATTEMPTS, COLLECTIONS, MODELS, RECORDS, RUNS, STEPS, RowT, Shape, decode

_KEYS_PER_QUERY: Final = 500
_PREFIXES_SHOWN: Final = 5


class Reads:
    """What can be read from a store; `Store` adds writing."""

    path: Path
    database: Database
    blobs: Blobs

    def _reading_engine(self) -> Engine:
        raise NotImplementedError

    def run(self, id_or_prefix: str) -> RunRow | None:
        """Return the run of this id, or the only one whose id begins so; InputInvalid if several do."""
        prefix = checked_id(id_or_prefix, "run id")
        table = schema.runs.c
        exact = self._rows(RUNS, self._select(RUNS).where(table.id == prefix))
        if exact:
            return exact[0]
        begins = self._select(RUNS).where(table.id.startswith(prefix, autoescape=True))
        found = self._rows(RUNS, begins.order_by(table.id).limit(_PREFIXES_SHOWN))
        if len(found) > 1:
            raise InputInvalid(
                f"{prefix!r} begins the ids of several runs: {', '.join(run.id for run in found)}.",
                hint="Give more of the id.",
            )
        return found[0] if found else None

    def runs(
        self,
        limit: int = 50,
        chain: str | None = None,
        *,
        flow_run: str | None = None,
        payloads: bool = True,
    ) -> list[RunRow]:
        """Return the newest runs, newest first: all, those of a chain, or those of a Prefect flow run."""
        table = schema.runs.c
        query = self._select(RUNS, payloads).order_by(table.started_at.desc(), table.id.desc()).limit(limit)
        query = query.where(table.chain == chain) if chain else query
        query = query.where(table.prefect_flow_run_id == flow_run) if flow_run else query
        return self._rows(RUNS, query, payloads)

    def steps(self, run_id: str, *, payloads: bool = True) -> list[StepRow]:
        """Return the steps of a run, in the order in which they began; those that did not come last."""
        table = schema.steps.c
        query = self._select(STEPS, payloads).where(table.run_id == run_id)
        order = (table.started_at.is_(None), table.started_at, table.id)
        return self._rows(STEPS, query.order_by(*order), payloads)

    def records(
        self,
        run_id: str,
        step: str | Sequence[str] | None = None,
        *,
        rows: range | Sequence[int] | None = None,
        statuses: Sequence[str] | None = None,
        payloads: bool = True,
        within: bool = False,
    ) -> list[RecordRow]:
        """Return records of a run, by step, row, item, turn and sample; name rows one by one only if few.

        One for each row of a step; `within` gives those of its items, turns and samples too.
        """
        table = schema.records.c
        query = self._select(RECORDS, payloads).where(table.run_id == run_id)
        if not within:
            query = query.where(schema.of_whole_rows())
        if isinstance(step, str):
            query = query.where(table.step == step)
        elif step is not None:
            query = query.where(table.step.in_(list(step)))
        if isinstance(rows, range):
            query = query.where(table.row >= rows.start, table.row < rows.stop)
        elif rows is not None:
            query = query.where(table.row.in_(list(rows)))
        if statuses is not None:
            query = query.where(table.status.in_(list(statuses)))
        order = (table.step, table.row, table.path, table.turn, table.item, table.sample)
        found = self._rows(RECORDS, query.order_by(*order), payloads)
        if isinstance(rows, range) and rows.step != 1:
            return [record for record in found if record.row in rows]
        return found

    def record(
        self,
        run_id: str,
        step: str,
        row: int,
        *,
        path: str = "",
        item: int = -1,
        turn: int = -1,
        sample: int = 0,
    ) -> RecordRow | None:
        """Return the record at a position."""
        place = {"run_id": run_id, "step": step, "row": row, "path": path}
        found = self._values(_at_position(), place | {"item": item, "turn": turn, "sample": sample})
        return decode(RECORDS, found[0], self.blobs, payloads=True) if found else None

    def samples(self, record: RecordRow) -> list[RecordRow]:
        """Return the records of the samples that a record's answer is made of, in order."""
        place = {name: getattr(record, name) for name in _PLACE}
        return [
            decode(RECORDS, values, self.blobs, payloads=True) for values in self._values(_samples(), place)
        ]

    def outputs(self, run_id: str, step: str, rows: range) -> dict[int, tuple[str, bytes | None]]:
        """Return by row the status and the output of a step's rows; other payloads are left unread."""
        span = {"run_id": run_id, "step": step, "start": rows.start, "stop": rows.stop}
        return {
            row: (status, inline if reference is None else self.blobs.get(reference))
            for row, status, inline, reference in self._values(_outputs_of_rows(), span)
        }

    def newest_end(self, run_id: str, steps: Collection[str] | None = None) -> float:
        """Return when the last record of a run, or of some of its steps, was finished; 0 where none is."""
        query = select(func.max(schema.records.c.finished_at)).where(schema.records.c.run_id == run_id)
        if steps is not None:
            query = query.where(schema.records.c.step.in_(sorted(steps)))
        return self._values(query)[0][0] or 0.0

    def attempts(self, record_id: str, *, payloads: bool = True) -> list[AttemptRow]:
        """Return the attempts of a record, in order."""
        found = self._values(_attempts_of_record(payloads), {"record_id": record_id})
        return [decode(ATTEMPTS, values, self.blobs, payloads=payloads) for values in found]

    def attempts_of_run(
        self, run_id: str, step: str | None = None, *, payloads: bool = True
    ) -> list[AttemptRow]:
        """Return the attempts of a run, or of one of its steps, in the order in which they began."""
        table = schema.attempts.c
        query = self._select(ATTEMPTS, payloads).where(table.run_id == run_id)
        if step is not None:
            query = query.where(table.step == step)
        return self._rows(ATTEMPTS, query.order_by(table.started_at, table.number, table.id), payloads)

    def reusable(self, value_keys: Sequence[str]) -> dict[str, RecordRow]:
        """Return for each key the newest record that ended ok, leaving out what cannot be used.

        That is a record whose source has been removed, or whose blob is damaged: its step runs anew. A linked
        record is left out for the one that it is read from.
        """
        found: dict[str, RecordRow] = {}
        keys = list(dict.fromkeys(value_keys))
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            part = keys[start : start + _KEYS_PER_QUERY]
            for values in self._values(_newest_per_key(), {"keys": part}):
                try:
                    record = decode(RECORDS, values, self.blobs, payloads=True)
                except StoreDamaged:
                    continue
                if record.value_key is not None:
                    found[record.value_key] = record
        return found

    def counts(self, run_id: str, rows: range | None = None) -> dict[str, dict[str, int]]:
        """Return for each step of a run how many rows have each status, and the sums over all its records.

        `rows` counts those of a range of rows only, -1 being the row of once steps.
        Sums: `reused`, `tokens_in`, `tokens_out`, `cost_micro`, `attempts`, and `cost_unknown`, the number of
        records that called out and whose cost is not known.
        """
        if rows is None:
            return counted(self._values(sums_of_run(), {"of": run_id}))
        return counted(self._values(sums_of_rows(), {"of": run_id, "start": rows.start, "stop": rows.stop}))

    def models(self, name: str | None = None, *, payloads: bool = True) -> list[ModelRow]:
        """Return all versions of one model or of all, newest version first."""
        table = schema.models.c
        query = self._select(MODELS, payloads).order_by(table.name, table.version.desc())
        return self._rows(MODELS, query if name is None else query.where(table.name == name), payloads)

    def model(self, name: str, version: int | None = None) -> ModelRow | None:
        """Return a version of a model; without one, the version that is `@latest`."""
        table = schema.models.c
        which = table.is_latest.is_(True) if version is None else table.version == version
        return self._first(MODELS, self._select(MODELS).where(table.name == name, which))

    def collection(self, name: str) -> CollectionRow | None:
        """Return what is known of a collection."""
        return self._first(COLLECTIONS, self._select(COLLECTIONS).where(schema.collections.c.name == name))

    def collections(self) -> list[CollectionRow]:
        """Return all collections, by name."""
        return self._rows(COLLECTIONS, self._select(COLLECTIONS).order_by(schema.collections.c.name))

    def _select(self, shape: Shape[Any], payloads: bool = True) -> Select[Any]:
        if shape is RECORDS and payloads:
            return select(*record_columns()).select_from(WITH_LINKED)
        return select(*shape.columns(payloads=payloads))

    def _rows(self, shape: Shape[RowT], query: Select[Any], payloads: bool = True) -> list[RowT]:
        return [decode(shape, values, self.blobs, payloads=payloads) for values in self._values(query)]

    def _first(self, shape: Shape[RowT], query: Select[Any]) -> RowT | None:
        found = self._rows(shape, query.limit(1))
        return found[0] if found else None

    def _values(self, query: Select[Any], parameters: Mapping[str, Any] | None = None) -> Sequence[Any]:
        with self.database.errors(), self._reading_engine().connect() as connection:
            return connection.execute(query, parameters).all()


# Asked once per row, so built once per process: building them takes longer than the database does.


_PLACE: Final = ("run_id", "step", "row", "path", "item", "turn")
"""What samples of one record share."""


@cache
def _at_position() -> Select[Any]:
    position = [schema.records.c[name] == bindparam(name) for name in (*_PLACE, "sample")]
    return select(*record_columns()).select_from(WITH_LINKED).where(*position)


@cache
def _samples() -> Select[Any]:
    place = [schema.records.c[name] == bindparam(name) for name in _PLACE]
    query = select(*record_columns()).select_from(WITH_LINKED)
    query = query.where(*place, schema.records.c.sample > 0)
    return query.order_by(schema.records.c.sample)


@cache
def _outputs_of_rows() -> Select[Any]:
    table = schema.records.c
    query = select(table.row, table.status, payload("output"), payload("output_blob"))
    query = query.select_from(WITH_LINKED)
    query = query.where(table.run_id == bindparam("run_id"), table.step == bindparam("step"))
    query = query.where(table.row >= bindparam("start"), table.row < bindparam("stop"))
    return query.where(schema.of_whole_rows()).order_by(table.row)


@cache
def _attempts_of_record(payloads: bool) -> Select[Any]:
    table = schema.attempts.c
    query = select(*ATTEMPTS.columns(payloads=payloads)).where(table.record_id == bindparam("record_id"))
    return query.order_by(table.number, table.id)


@cache
def _newest_per_key() -> Select[Any]:
    records, source = schema.records, schema.records.alias("source")
    newest = func.row_number().over(
        partition_by=records.c.value_key,
        order_by=(records.c.finished_at.desc().nulls_last(), records.c.id.desc()),
    )
    ranked = (
        select(records.c.id, newest.label("place"))
        .outerjoin(source, source.c.id == records.c.reused_from)
        .where(records.c.value_key.in_(bindparam("keys", expanding=True)), records.c.status == "ok")
        .where(or_(records.c.reused_from.is_(None), source.c.id.is_not(None)), records.c.linked.is_(False))
        .subquery()
    )
    columns = RECORDS.columns(payloads=True)
    return select(*columns).join(ranked, ranked.c.id == records.c.id).where(ranked.c.place == 1)
