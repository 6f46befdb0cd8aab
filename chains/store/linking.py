"""Records of a fork that are read from the run that it was made from.

Owns the link: a record at its own place in the fork, without payloads, attempts or cost of its own. A link
always leads to a record that has its payloads itself, however many forks lie between. Before such a record
goes or is written again, its payloads are handed down. Reading goes through
`WITH_LINKED` and `record_columns`, so whoever reads records need not know of links.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from sqlalchemy import Column, Connection, FromClause, and_, bindparam, func, insert, or_, select, update

from chains.clock import Clock
from chains.errors import StoreConflict
from chains.store import schema
from chains.store.shapes import RECORDS

_PER_STATEMENT: Final = 500
_ENDED: Final = ("ok", "skipped", "failed", "blocked")
_JUDGES: Final = "-"
_OF_STEPS_OWN: Final = (_JUDGES, ".")
"""`score-polite` are the records of a judge of the step `score`, and `draft.write` those of a step inside
`draft`: they go where its own go."""

_origin = schema.records.alias("origin")
WITH_LINKED: Final[FromClause] = schema.records.outerjoin(
    _origin, and_(schema.records.c.linked, _origin.c.id == schema.records.c.reused_from)
)
"""The records, each beside the one that it is read from, if there is one."""

_PAYLOADS: Final = frozenset(name for pair in RECORDS.payload_columns for name in pair[:2])
_LEFT_OUT: Final = _PAYLOADS | {"id", "tokens_in", "tokens_out", "cost_micro", "worker"}
"""What a linked record does not take over: what is read from the other, and what the other has paid."""


@dataclass(frozen=True, slots=True)
class Link:
    """The records of one step of a run that a fork takes over: all but those of the rows in `leave`.

    `leave` None are all rows. Of those rows, what lies inside the step's record is taken over too where it
    stands: with `items`, in other items; with `turn`, in earlier turns; with `again`, in that first turn
    outside of these steps.
    """

    step: str
    leave: frozenset[int] | None = frozenset()
    items: frozenset[int] | None = None
    turn: int | None = None
    again: frozenset[str] | None = None

    def takes(self, row: Mapping[str, Any]) -> bool:
        """Whether a record of the step is taken over; `row` is by column."""
        if self.leave is not None and row["row"] not in self.leave:
            return True
        item, turn = _frames(self.step, row)
        if self.items is not None and (item is None or item not in self.items):
            return item is not None
        if turn is None or (self.turn is None and self.again is None):
            return False
        first = self.turn or 0
        return turn < first or (turn == first and self.again is not None and _name(row) not in self.again)


_FRAME: Final = re.compile(r"([a-z][a-z0-9_]*)\[(item|turn) ([0-9]+)\]")


def _frames(step: str, row: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Return the item and the turn of a step of the chain's own level that a record stands in."""
    if row["step"] == step:
        return (row["item"] if row["item"] >= 0 else None), None
    found: dict[str, int] = {}
    for name, word, number in _FRAME.findall(row["path"]):
        if name == step:
            found.setdefault(word, int(number))
    if "turn" not in found and row["turn"] >= 0:
        found["turn"] = row["turn"]
    return found.get("item"), found.get("turn")


def _name(row: Mapping[str, Any]) -> str:
    """Return the name that a step has in the step around it, without what only belongs to it."""
    return str(row["step"]).split(".")[1].partition(_JUDGES)[0]


def payload(column: str) -> Any:
    """Return a payload column of a record as it is read: its own, else that of the linked one."""
    return func.coalesce(schema.records.c[column], _origin.c[column])


@cache
def record_columns() -> tuple[Any, ...]:
    """Return what a record with its payloads is decoded from; select it from `WITH_LINKED`."""
    return tuple(
        payload(column.name) if column.name in _PAYLOADS else column
        for column in RECORDS.columns(payloads=True)
    )


def link(connection: Connection, *, source: str, fork: str, links: Sequence[Link], clock: Clock) -> int:
    """Make the records that a fork takes over, in the transaction that begins it; return how many."""
    table, runs = schema.records, schema.runs.c
    status = connection.execute(select(runs.status).where(runs.id == source)).scalar()
    if status in (None, "running"):
        raise StoreConflict(
            f"The run {source!r} {'has been removed' if status is None else 'is running'}.",
            hint="A run is replayed when it has ended.",
        )
    kept = [column for column in table.columns if column.name not in _LEFT_OUT]
    number = 0
    for one in links:
        _add_steps(connection, source, fork, one.step)
        query = select(table.c.id, *kept).where(table.c.run_id == source, _of_step(table.c.step, one.step))
        query = query.where(table.c.status.in_(_ENDED)).order_by(table.c.step, table.c.row, table.c.id)
        for part in connection.execute(query).partitions(_PER_STATEMENT):
            rows = list(_linked(part, kept, one, fork=fork, clock=clock))
            if rows:
                connection.execute(insert(table), rows)
                number += len(rows)
    return number


def _linked(
    found: Sequence[Any], kept: Sequence[Column[Any]], one: Link, *, fork: str, clock: Clock
) -> Iterator[dict[str, Any]]:
    names = [column.name for column in kept]
    for record_id, *values in found:
        row: dict[str, Any] = dict(zip(names, values, strict=True))
        if not one.takes(row):
            continue
        origin = row["reused_from"] if row["linked"] else record_id
        more = {"run_id": fork, "id": clock.new_id(), "attempts": 0, "linked": True, "reused_from": origin}
        yield row | more


def _add_steps(connection: Connection, source: str, fork: str, step: str) -> None:
    """Add the rows of what belongs to a step and is not in the chain itself, such as its judges."""
    table = schema.steps
    query = select(table).where(
        table.c.run_id == source, table.c.id.startswith(step + _JUDGES, autoescape=True)
    )
    rows = [dict(row._mapping) | {"run_id": fork} for row in connection.execute(query)]
    if rows:
        connection.execute(insert(table), rows)


def _of_step(column: Column[Any], step: str) -> Any:
    own = (column.startswith(step + sign, autoescape=True) for sign in _OF_STEPS_OWN)
    return or_(column == step, *own)


def hand_down(connection: Connection, heirs: Mapping[str, str]) -> None:
    """Give linked records (the values of `heirs`) the payloads of what they are read from (its keys)."""
    table, origin = schema.records, schema.records.alias("handed_down")
    values: dict[str, Any] = {
        name: select(origin.c[name]).where(origin.c.id == bindparam("gone")).scalar_subquery()
        for name in _PAYLOADS
    }
    statement = update(table).where(table.c.id == bindparam("heir")).values(linked=False, **values)
    pairs = [{"gone": gone, "heir": heir} for gone, heir in heirs.items()]
    for start in range(0, len(pairs), _PER_STATEMENT):
        connection.execute(statement, pairs[start : start + _PER_STATEMENT])


def part(connection: Connection, run_id: str) -> None:
    """Give the forks of a run payloads of their own, before the run's records are written again."""
    table, origin = schema.records, schema.records.alias("origin_of_fork")
    query = select(table.c.id, table.c.reused_from).join(origin, origin.c.id == table.c.reused_from)
    query = query.where(origin.c.run_id == run_id, table.c.linked).order_by(table.c.id)
    heirs: dict[str, str] = {}
    others: list[dict[str, str]] = []
    for record_id, gone in connection.execute(query):
        if gone in heirs:
            others.append({"one": record_id, "first": heirs[gone]})
        else:
            heirs[gone] = record_id
    hand_down(connection, heirs)
    again = update(table).where(table.c.id == bindparam("one")).values(reused_from=bindparam("first"))
    for start in range(0, len(others), _PER_STATEMENT):
        connection.execute(again, others[start : start + _PER_STATEMENT])
