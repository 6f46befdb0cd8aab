"""Migration 4: which run a fork was made from, and which records are read from another.

Frozen as it was released; chains.store.schema says what the schema is now.
"""

from __future__ import annotations

from sqlalchemy import Connection


def apply(connection: Connection) -> None:
    """Add the columns."""
    connection.exec_driver_sql("ALTER TABLE runs ADD COLUMN forked_from VARCHAR(64)")
    connection.exec_driver_sql("ALTER TABLE records ADD COLUMN linked BOOLEAN NOT NULL DEFAULT false")
