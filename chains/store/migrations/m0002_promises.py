"""Migration 2: claims, what was spent, rate slots and run leases.

Owns these tables as they were released, frozen here; chains.store.schema says what the schema is now.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Connection, Double, MetaData, String, Table

_metadata = MetaData()

Table(
    "claims",
    _metadata,
    Column("key", String(200), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("lease_until", Double, nullable=False),
)

Table(
    "spend",
    _metadata,
    Column("scope", String(200), primary_key=True),
    Column("calls", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("cost_micro", BigInteger, nullable=False),
    Column("unknown_calls", BigInteger, nullable=False),
)

Table(
    "slots",
    _metadata,
    Column("name", String(200), primary_key=True),
    Column("requests", Double, nullable=False),
    Column("tokens", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
)

Table(
    "leases",
    _metadata,
    Column("run_id", String(64), primary_key=True),
    Column("holder", String(64)),
    Column("fence", BigInteger, nullable=False),
    Column("lease_until", Double),
    Column("cancel_requested_at", Double),
)


def apply(connection: Connection) -> None:
    """Create the tables."""
    _metadata.create_all(connection, checkfirst=False)
