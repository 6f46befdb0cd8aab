"""Migration 6: how long each call of a local model waited for its device.

Frozen as it was released; chains.store.schema says what the schema is now.
"""

from __future__ import annotations

from sqlalchemy import Connection


def apply(connection: Connection) -> None:
    """Add the column; what the calls so far waited is in their time and not known."""
    kind = "DOUBLE" if connection.dialect.name == "sqlite" else "DOUBLE PRECISION"
    connection.exec_driver_sql(f"ALTER TABLE attempts ADD COLUMN device_wait_s {kind} NOT NULL DEFAULT 0")
