"""Leases: which process works on a run, which on a part of it, and whether somebody asked it to stop.

Owns the table `leases`. A run whose lease has passed is lost: its process is gone or has been paused for too
long. Whoever takes a run over gets a higher fence, and from then on nothing that the old process writes to
the run is taken (chains.store.admitting). A part of a run that another process works on has a lease of its
own, named `RUN.PART`, which ends with the run's. Knows nothing of Prefect's states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Connection, Select, Update, bindparam, collate, delete, or_, select, update

from chains.store import schema
from chains.store.claiming import LONGEST_LEASE_S, give_back_all, is_over
from chains.store.connecting import insert_for, insert_into


@dataclass(frozen=True, slots=True)
class PartLease:
    """How a part of a run stands. `alive`: somebody has it and renews it; `fence` counts who had it."""

    fence: int
    holder: str | None
    alive: bool


def run_of(name: str) -> str:
    """Return the run that a lease is about, by the lease's name."""
    return name.partition(".")[0]


def take(connection: Connection, run_id: str, holder: str, *, until: float, now: float) -> int | None:
    """Give the run to `holder` and return its fence; None where another holder's lease still runs.

    The claims of the holder before are given back, and an old request to cancel is forgotten. Those who work
    on parts of the run for that holder lose them.
    """
    place = {"of": run_id}
    connection.execute(_placed(connection.dialect.name), {"run_id": run_id, "fence": 0})
    before = connection.execute(_looked_at(), place | {"now": now, "limit": now + LONGEST_LEASE_S}).one()
    mine = before.holder == holder
    if before.holder is not None and not mine and not before.over:
        return None
    if before.holder is not None and not mine:
        give_back_all(connection, before.holder)
    if not mine and before.fence:  # one that is new has no parts
        _end_parts(connection, run_id)
    fence: int = before.fence if mine else before.fence + 1
    connection.execute(_given(), place | {"to": holder, "raised": fence, "until": until})
    return fence


def is_held(connection: Connection, run_id: str, holder: str) -> bool:
    """Tell whether the run is this holder's."""
    found = connection.execute(_holding(), {"of": run_id}).first()
    return found is not None and found.holder == holder


def renew(connection: Connection, holder: str, until: float) -> int:
    """Move the end of the leases of a holder; return how many there are."""
    table = schema.leases
    return connection.execute(
        update(table).where(table.c.holder == holder).values(lease_until=until)
    ).rowcount


def release(connection: Connection, run_id: str, holder: str | None = None) -> None:
    """End the lease of a run and give back its holder's claims; with `holder`, only if the lease is its.

    The fence goes up, so that a holder that did not know of it can write no more.
    """
    found = connection.execute(_holding(), {"of": run_id}).first()
    if found is None or found.holder is None or holder not in (None, found.holder):
        return
    give_back_all(connection, found.holder)
    _end_parts(connection, run_id)
    connection.execute(_ended(), {"of": run_id})


def request_cancel(connection: Connection, run_id: str, at: float) -> None:
    """Note that the run should stop."""
    table = schema.leases
    row = insert_into(connection, table).values(run_id=run_id, fence=0, cancel_requested_at=at)
    changes = {"cancel_requested_at": row.excluded.cancel_requested_at}
    connection.execute(row.on_conflict_do_update(index_elements=[table.c.run_id], set_=changes))


def forget(connection: Connection, run_ids: Sequence[str]) -> None:
    """Remove the leases of runs that are removed, and those of their parts."""
    for run_id in run_ids:
        _end_parts(connection, run_id)
    connection.execute(delete(schema.leases).where(schema.leases.c.run_id.in_(list(run_ids))))


def fence_of(name: str) -> Select[tuple[int]]:
    """Return the query for the fence of a lease."""
    return select(schema.leases.c.fence).where(schema.leases.c.run_id == name)


def parts(connection: Connection, run_id: str, now: float) -> dict[str, PartLease]:
    """Return how the parts of a run stand, by the names of their leases."""
    found = connection.execute(_parts(connection.dialect.name), _named_below(run_id)).all()
    over = {
        row.run_id: row.lease_until is None or not now <= row.lease_until <= now + LONGEST_LEASE_S
        for row in found
    }
    return {
        row.run_id: PartLease(row.fence, row.holder, row.holder is not None and not over[row.run_id])
        for row in found
    }


def cancel_requests(names: Sequence[str]) -> Select[Any]:
    """Return the query for the times at which somebody asked for one of these to be stopped."""
    table = schema.leases.c
    return select(table.cancel_requested_at).where(
        table.run_id.in_(list(names)), table.cancel_requested_at.is_not(None)
    )


def _end_parts(connection: Connection, run_id: str) -> None:
    """End the leases of a run's parts, with the claims of their holders."""
    found = connection.execute(_parts(connection.dialect.name), _named_below(run_id)).all()
    for row in found:
        if row.holder is not None:
            give_back_all(connection, row.holder)
    if found:
        table = schema.leases
        connection.execute(delete(table).where(table.c.run_id.in_([row.run_id for row in found])))


def _named_below(run_id: str) -> dict[str, str]:
    """Return the bounds of the names of a run's parts: `/` comes next after the dot."""
    return {"low": f"{run_id}.", "high": f"{run_id}/"}


@cache
def _parts(dialect: str) -> Select[Any]:
    table = schema.leases.c
    # Bounds that an index knows, in the order of bytes whatever the language of the server.
    name = table.run_id if dialect == "sqlite" else collate(table.run_id, "C")
    query = select(table.run_id, table.fence, table.holder, table.lease_until)
    return query.where(name > bindparam("low"), name < bindparam("high"))


def lost(columns: Sequence[Any], now: float) -> Select[Any]:
    """Return the query for `columns` of the runs that are running and whose lease has passed."""
    runs, leases = schema.runs, schema.leases
    query = select(*columns).join(leases, leases.c.run_id == runs.c.id)
    running = runs.c.status == "running"
    return query.where(running, leases.c.holder.is_not(None), is_over(leases.c.lease_until, now)).order_by(
        runs.c.started_at, runs.c.id
    )


# Each run asks these, so they are built once per process.


@cache
def _placed(dialect: str) -> Any:
    return insert_for(schema.leases, dialect).on_conflict_do_nothing()


@cache
def _looked_at() -> Select[Any]:
    table = schema.leases.c
    over = or_(table.lease_until < bindparam("now"), table.lease_until > bindparam("limit")).label("over")
    query = select(table.holder, table.fence, over)
    return query.where(table.run_id == bindparam("of")).with_for_update()


@cache
def _holding() -> Select[Any]:
    table = schema.leases.c
    return select(table.holder).where(table.run_id == bindparam("of")).with_for_update()


@cache
def _given() -> Update:
    values: dict[str, Any] = {
        "holder": bindparam("to"),
        "fence": bindparam("raised"),
        "lease_until": bindparam("until"),
        "cancel_requested_at": None,
    }
    return update(schema.leases).where(schema.leases.c.run_id == bindparam("of")).values(**values)


@cache
def _ended() -> Update:
    table = schema.leases
    values: dict[str, Any] = {"holder": None, "lease_until": None, "fence": table.c.fence + 1}
    return update(table).where(table.c.run_id == bindparam("of")).values(**values)
