"""The end of a run, and what one that nobody works on any more has left open.

Owns what such a transaction changes, and the sums over a run's records. The statements are built once: to
build them takes longer than the database does, and a short run is little more. Knows nothing of what a result
says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Update,
    and_,
    bindparam,
    case,
    func,
    literal,
    or_,
    select,
    update,
)

from chains.store import leasing, schema

Counts = dict[str, dict[str, int]]

_SUMS: Final = ("reused", "tokens_in", "tokens_out", "cost_micro", "attempts", "cost_unknown")
WITHIN: Final = "within_"
"""What comes before the status of a record that lies within a row's: of an item, a turn, a sample."""


def end(
    connection: Connection, run_id: str, holder: str, *, now: float, write: Callable[[Counts], None]
) -> bool:
    """End what is open in a run, have its row written from its counts, and end its lease.

    False, and nothing is written, where the run is not the holder's any more.
    """
    if not leasing.is_held(connection, run_id, holder):
        return False
    close_open(connection, run_id, now)
    write(counted(connection.execute(sums_of_run(), {"of": run_id}).all()))
    leasing.release(connection, run_id, holder)
    return True


def close_open(connection: Connection, run_id: str, now: float) -> int:
    """End what is under way in a run; return the number of its calls, which may have been paid."""
    values = {"of": run_id, "now": now}
    attempts = connection.execute(_closing("attempts"), values).rowcount
    connection.execute(_closing("records"), values)
    connection.execute(_closing("steps"), values)
    return attempts


def close_part(connection: Connection, run_id: str, steps: Sequence[str], rows: range, *, now: float) -> int:
    """Do the same for some steps, and those inside them, over a range of rows."""
    values, records = {"of": run_id, "now": now}, schema.records.c
    inside = (records.step.startswith(f"{step}.", autoescape=True) for step in steps)
    of_steps = or_(records.step.in_(list(steps)), *inside)
    part = and_(of_steps, records.row >= rows.start, records.row < rows.stop)
    ids = select(records.id).where(records.run_id == run_id, part)
    lost = _closing("attempts").where(schema.attempts.c.record_id.in_(ids))
    number = connection.execute(lost, values).rowcount
    connection.execute(_closing("records").where(part), values)
    return number


def number_of_rows() -> ColumnElement[int]:
    """Return the number of records that stand for a whole row."""
    return func.sum(case((schema.of_whole_rows(), 1), else_=0))


def sum_columns() -> tuple[ColumnElement[Any], ...]:
    """Return what is added up over records, as `counted` reads it."""
    table = schema.records.c
    unknown = and_(table.attempts > 0, table.cost_micro.is_(None))
    return (
        func.count(table.reused_from),
        func.sum(table.tokens_in),
        func.sum(table.tokens_out),
        func.sum(table.cost_micro),
        func.sum(table.attempts),
        func.sum(case((unknown, 1), else_=0)),
    )


@cache
def sums_of_run() -> Select[Any]:
    """Return the query that `counted` reads; the run is the parameter `of`."""
    table = schema.records.c
    status = case((schema.of_whole_rows(), table.status), else_=literal(WITHIN) + table.status).label("which")
    query = select(table.step, status, func.count(), *sum_columns()).where(table.run_id == bindparam("of"))
    return query.group_by(table.step, status).order_by(table.step, status)


@cache
def sums_of_rows() -> Select[Any]:
    """Return the same query for the rows from `start` to before `stop`."""
    row = schema.records.c.row
    return sums_of_run().where(row >= bindparam("start"), row < bindparam("stop"))


def counted(found: Sequence[Any]) -> Counts:
    """Return by step how many rows have each status, and the sums over all records.

    Records that lie within those of rows are counted as `within_ok` and so on.
    """
    counts: Counts = {}
    for step, status, number, *sums in found:
        of_step = counts.setdefault(step, dict.fromkeys(_SUMS, 0))
        if number:
            of_step[status] = of_step.get(status, 0) + int(number)
        for name, value in zip(_SUMS, sums, strict=True):
            of_step[name] += int(value or 0)
    return counts


@cache
def _closing(name: str) -> Update:
    """Return the update that ends what is under way in one of the tables of a run."""
    table = schema.metadata.tables[name]
    column, old, new = ("state", "intent", "ambiguous") if name == "attempts" else _STOPPED
    where = (table.c.run_id == bindparam("of"), table.c[column] == old)
    return update(table).where(*where).values({column: new, "finished_at": bindparam("now")})


_STOPPED: Final = ("status", "running", "cancelled")
