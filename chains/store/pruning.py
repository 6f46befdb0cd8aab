"""Removes runs that are no longer wanted, and keeps what others still reach.

Owns what is removed with a run, and what happens to records that reused one of its records: the oldest of
them takes its place, so that the answer is still found by its value key, and forks keep what they are linked
to. Models and collections stay, with
their files. Blobs that nothing refers to any more go as in chains.store.collecting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, delete, func, select, update

from chains.errors import InputInvalid, StoreConflict
from chains.store import leasing, linking, schema, spending

_IDS_PER_QUERY = 500


@dataclass(slots=True)
class PruneReport:
    """What pruning removed, or would remove."""

    runs: list[str] = field(default_factory=list)
    records: int = 0
    attempts: int = 0
    blobs: int = 0


def candidates(connection: Connection, before: float | None, run_ids: Sequence[str]) -> list[str]:
    """Return the runs that are named and those that ended before a time; one that is running is refused."""
    table = schema.runs
    found: list[str] = []
    for run_id in dict.fromkeys(run_ids):
        status = connection.execute(select(table.c.status).where(table.c.id == run_id)).scalar()
        if status is None:
            raise InputInvalid(f"There is no run {run_id[:200]!r} in the store.", hint="See `headrace runs`.")
        if status == "running":
            raise StoreConflict(f"The run {run_id!r} is running.", hint="Stop it first: `headrace cancel`.")
        found.append(run_id)
    if before is not None:
        ended: ColumnElement[float] = func.coalesce(table.c.finished_at, table.c.started_at)
        query = select(table.c.id).where(table.c.status != "running", ended < before)
        found += connection.execute(query.order_by(table.c.started_at, table.c.id)).scalars()
    return list(dict.fromkeys(found))


def count(connection: Connection, run_ids: Sequence[str], report: PruneReport) -> None:
    """Add to the report how much the runs hold."""
    for run_id in run_ids:
        report.runs.append(run_id)
        report.records += _number(connection, schema.records.c.run_id == run_id)
        report.attempts += _number(connection, schema.attempts.c.run_id == run_id)


def forks_of(connection: Connection, run_id: str) -> list[str]:
    """Return the runs with records that are read from this run's."""
    table = schema.records
    query = _heirs_of(run_id).where(table.c.linked).with_only_columns(table.c.run_id).distinct()
    return sorted(connection.execute(query).scalars())


def remove_run(connection: Connection, run_id: str) -> None:
    """Remove a run and everything below it, inside a write transaction."""
    table = schema.runs
    if connection.execute(select(table.c.status).where(table.c.id == run_id)).scalar() == "running":
        raise StoreConflict(f"The run {run_id!r} has been started again.", hint="Stop it first.")
    _hand_down(connection, run_id)
    for child in (schema.attempts, schema.records, schema.steps):
        connection.execute(delete(child).where(child.c.run_id == run_id))
    connection.execute(delete(table).where(table.c.id == run_id))
    leasing.forget(connection, [run_id])
    spending.forget(connection, [run_id])


def _number(connection: Connection, where: ColumnElement[bool]) -> int:
    number: int = connection.execute(select(func.count()).where(where)).scalar_one()
    return number


def _hand_down(connection: Connection, run_id: str) -> None:
    """Let the oldest record of another run that reused one of this run's take its place.

    Where a fork is linked to it, that is one of the fork's, which gets its payloads.
    """
    table = schema.records
    heirs: dict[str, list[str]] = {}
    linked: dict[str, str] = {}
    order = (table.c.linked.desc(), table.c.finished_at, table.c.id)
    for record_id, origin, is_linked in connection.execute(_heirs_of(run_id).order_by(*order)):
        heirs.setdefault(origin, []).append(record_id)
        if is_linked:
            linked.setdefault(origin, record_id)
    linking.hand_down(connection, linked)
    for first, *others in heirs.values():
        connection.execute(update(table).where(table.c.id == first).values(reused_from=None))
        for start in range(0, len(others), _IDS_PER_QUERY):
            part = others[start : start + _IDS_PER_QUERY]
            connection.execute(update(table).where(table.c.id.in_(part)).values(reused_from=first))


def _heirs_of(run_id: str) -> Select[Any]:
    """Return the query for records of other runs that have reused one of this run's."""
    table, source = schema.records, schema.records.alias("source")
    query = select(table.c.id, table.c.reused_from, table.c.linked)
    query = query.join(source, source.c.id == table.c.reused_from)
    return query.where(source.c.run_id == run_id, table.c.run_id != run_id)
