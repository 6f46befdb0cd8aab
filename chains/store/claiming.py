"""Claims: who is working on a value key, so that two runs that want one answer pay for it once.

Owns the table `claims`: a row is a claim, and no row means free. A claim ends when it is given back or when
its lease passes; whoever takes it then gets a higher fence, and what the old holder writes under its own is
refused. Knows nothing of the work that is claimed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Delete,
    and_,
    bindparam,
    delete,
    func,
    not_,
    or_,
    select,
    update,
)

from chains.errors import InputInvalid
from chains.store import schema
from chains.store.connecting import insert_into
from chains.store.names import checked_id

LEASE_S: Final = 30.0
LONGEST_LEASE_S: Final = 600.0
"""A lease that ends later than this from now was given before a restart of the machine, and is over."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The wish to be the only one who works on `key`. `anew`: also where a record has the answer already."""

    key: str
    holder: str
    lease: float = LEASE_S
    anew: bool = False


def checked_lease(seconds: float) -> float:
    """Return the length of a lease if it is one that can be kept."""
    if not 0 < seconds <= LONGEST_LEASE_S:
        raise InputInvalid(
            f"A lease of {seconds!r} seconds cannot be given.",
            hint=f"Use up to {LONGEST_LEASE_S:.0f} seconds and renew it.",
        )
    return seconds


def checked_claim(claim: Claim) -> Claim:
    """Return the claim if its parts are such as the table holds."""
    if not 0 < len(claim.key) <= 200:
        raise InputInvalid(f"{claim.key[:200]!r} cannot be claimed.", hint="Use 1 to 200 characters.")
    checked_id(claim.holder, "holder")
    checked_lease(claim.lease)
    return claim


def is_over(until: ColumnElement[float], now: float) -> ColumnElement[bool]:
    """Tell in SQL whether a lease has ended."""
    return or_(until < now, until > now + LONGEST_LEASE_S)


def take(connection: Connection, wanted: Sequence[Claim], now: float) -> dict[str, int]:
    """Claim what is free, each key for the first who wants it; return the fences by key."""
    first: dict[str, Claim] = {}
    for claim in wanted:
        first.setdefault(claim.key, claim)
    # In the order of keys, so that two processes wait for each other in one direction only.
    rows = [
        {
            "key": key,
            "holder": first[key].holder,
            "fence": int(now * 1000),
            "lease_until": now + first[key].lease,
        }
        for key in sorted(first)
    ]
    table = schema.claims
    statement = insert_into(connection, table)
    new = statement.excluded
    changes = {"holder": new.holder, "fence": table.c.fence + 1, "lease_until": new.lease_until}
    statement = statement.on_conflict_do_update(
        index_elements=[table.c.key], set_=changes, where=is_over(table.c.lease_until, now)
    )
    got = connection.execute(statement.returning(table.c.key, table.c.fence), rows) if rows else ()
    return {key: fence for key, fence in got}


def give_back(connection: Connection, keys: Sequence[str], holder: str | None = None) -> None:
    """End claims; with a holder, only where they are the holder's."""
    table = schema.claims
    query = delete(table).where(table.c.key.in_(list(keys)))
    connection.execute(query if holder is None else query.where(table.c.holder == holder))


def give_back_all(connection: Connection, holder: str) -> None:
    """End every claim of a holder."""
    connection.execute(_given_back(), {"of": holder})


@cache
def _given_back() -> Delete:
    return delete(schema.claims).where(schema.claims.c.holder == bindparam("of"))


def renew(connection: Connection, holder: str, until: float) -> int:
    """Move the end of every claim of a holder; return how many there are."""
    table = schema.claims
    return connection.execute(
        update(table).where(table.c.holder == holder).values(lease_until=until)
    ).rowcount


def live(connection: Connection, keys: Sequence[str], now: float) -> dict[str, str]:
    """Return the holders of those keys that are claimed."""
    table = schema.claims
    query = select(table.c.key, table.c.holder).where(table.c.key.in_(list(keys)))
    found = connection.execute(query.where(not_(is_over(table.c.lease_until, now))))
    return {key: holder for key, holder in found}


def fences(connection: Connection, keys: Sequence[str]) -> Mapping[str, int]:
    """Return the fences of claims, ended or not, and keep them so until the transaction ends."""
    table = schema.claims
    query = select(table.c.key, table.c.fence).where(table.c.key.in_(list(keys)))
    found = connection.execute(query.order_by(table.c.key).with_for_update())
    return {key: fence for key, fence in found}


def answered(connection: Connection, keys: Sequence[str]) -> dict[str, str]:
    """Return by value key the id of a record that `reusable` would find."""
    table, source = schema.records, schema.records.alias("source")
    source_there = or_(table.c.reused_from.is_(None), source.c.id.is_not(None))
    usable = and_(table.c.status == "ok", source_there, table.c.linked.is_(False))
    query = (
        select(table.c.value_key, func.max(table.c.id))
        .outerjoin(source, source.c.id == table.c.reused_from)
        .where(table.c.value_key.in_(list(keys)), usable)
        .group_by(table.c.value_key)
    )
    return {key: record_id for key, record_id in connection.execute(query)}
