"""Run leases: which process works on a run, and whether somebody asked it to stop.

Owns the table `leases`. A run whose lease has passed is lost: its process is gone or has been paused for too
long. Whoever takes a run over gets a higher fence, and from then on nothing that the old process writes to
the run is taken (chains.store.admitting). Knows nothing of Prefect's states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select, delete, select, update

from chains.store import schema
from chains.store.claiming import give_back_all, is_over
from chains.store.connecting import insert_into


def take(connection: Connection, run_id: str, holder: str, *, until: float, now: float) -> int | None:
    """Give the run to `holder` and return its fence; None where another holder's lease still runs.

    The claims of the holder before are given back, and an old request to cancel is forgotten.
    """
    table = schema.leases
    connection.execute(insert_into(connection, table).values(run_id=run_id, fence=0).on_conflict_do_nothing())
    query = select(table.c.holder, table.c.fence, is_over(table.c.lease_until, now).label("over"))
    before = connection.execute(query.where(table.c.run_id == run_id).with_for_update()).one()
    mine = before.holder == holder
    if before.holder is not None and not mine and not before.over:
        return None
    if before.holder is not None and not mine:
        give_back_all(connection, before.holder)
    fence: int = before.fence if mine else before.fence + 1
    values = {"holder": holder, "fence": fence, "lease_until": until, "cancel_requested_at": None}
    connection.execute(update(table).where(table.c.run_id == run_id).values(**values))
    return fence


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
    table = schema.leases
    found = connection.execute(
        select(table.c.holder).where(table.c.run_id == run_id).with_for_update()
    ).first()
    if found is None or found.holder is None or holder not in (None, found.holder):
        return
    give_back_all(connection, found.holder)
    values = {"holder": None, "lease_until": None, "fence": table.c.fence + 1}
    connection.execute(update(table).where(table.c.run_id == run_id).values(**values))


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
