"""Migration 3: which worker made a record, where it was not the process of the run itself.

Frozen as it was released; chains.store.schema says what the schema is now.
"""

from __future__ import annotations

from sqlalchemy import Connection


def apply(connection: Connection) -> None:
    """Add the column."""
    connection.exec_driver_sql("ALTER TABLE records ADD COLUMN worker TEXT")
