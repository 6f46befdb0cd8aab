"""Run leases: which process works on a run, and whether somebody asked it to stop.

Owns the table `leases`. A run whose lease has passed is lost: its process is gone or has been paused for too
long. Whoever takes a run over gets a higher fence, and from then on nothing that the old process writes to
the run is taken (chains.store.admitting). Knows nothing of Prefect's states.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Select, Update, bindparam, delete, or_, select, update

from chains.store import schema
from chains.store.claiming import LONGEST_LEASE_S, give_back_all, is_over
from chains.store.connecting import insert_for, insert_into


def take(connection: Connection, run_id: str, holder: str, *, until: float, now: float) -> int | None:
    """Give the run to `holder` and return its fence; None where another holder's lease still runs.

    The claims of the holder before are given back, and an old request to cancel is forgotten.
    """
    place = {"of": run_id}
    connection.execute(_placed(connection.dialect.name), {"run_id": run_id, "fence": 0})
    before = connection.execute(_looked_at(), place | {"now": now, "limit": now + LONGEST_LEASE_S}).one()
    mine = before.holder == holder
    if before.holder is not None and not mine and not before.over:
        return None
    if before.holder is not None and not mine:
        give_back_all(connection, before.holder)
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
    connection.execute(_ended(), {"of": run_id})


def request_cancel(connection: Connection, run_id: str, at: float) -> None:
    """Note that the run should stop."""
    table = schema.leases
    row = insert_into(connection, table).values(run_id=run_id, fence=0, cancel_requested_at=at)
    changes = {"cancel_requested_at": row.excluded.cancel_requested_at}
    connection.execute(row.on_conflict_do_update(index_elements=[table.c.run_id], set_=changes))


def forget(connection: Connection, run_ids: Sequence[str]) -> None:
    """Remove the leases of runs that are removed."""
    connection.execute(delete(schema.leases).where(schema.leases.c.run_id.in_(list(run_ids))))


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
