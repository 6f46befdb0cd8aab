"""What every transaction asks before it writes: may this program, and may this process, still write here?

Owns the one statement that reads the store's version and the fences of the runs that are leased here; one,
because each statement is a round trip where the store is on a server. Knows nothing of what is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Connection, Select, bindparam, func, select

from chains.store import schema
from chains.store.connecting import driver_text
from chains.store.migrating import applied_migrations


@dataclass(frozen=True, slots=True)
class Standing:
    """The newest version that was applied to the store, and by run the fence of its lease now."""

    version: int
    fences: Mapping[str, int | None]


def standing(connection: Connection, runs: Sequence[str]) -> Standing:
    """Return how the store stands for a process that has leased `runs`."""
    text, order = driver_text(_statement(len(runs)), connection.dialect)
    named = {f"run_{number}": run_id for number, run_id in enumerate(runs)}
    parameters = named if order is None else tuple(named[name] for name in order)
    version, *fences = connection.exec_driver_sql(text, parameters).one()
    return Standing(version, dict(zip(runs, fences, strict=True)))


@cache
def _statement(runs: int) -> Select[Any]:
    leases = schema.leases.c
    newest = select(func.max(applied_migrations.c.version)).scalar_subquery()
    fences = [
        select(leases.fence).where(leases.run_id == bindparam(f"run_{number}")).scalar_subquery()
        for number in range(runs)
    ]
    return select(newest, *fences)
