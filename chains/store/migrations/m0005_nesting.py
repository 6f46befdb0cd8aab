"""Migration 5: the items and turns that a record stands inside of become part of its position.

Frozen as it was released; chains.store.schema says what the schema is now. SQLite cannot change the
constraints of a table, so there `records` is copied, and `attempts` with it, whose foreign key goes with the
name of the table that it was made for.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

_TABLES = {
    "records": ("records_value_key",),
    "attempts": ("attempts_record", "attempts_run"),
}
_POSITION = 'UNIQUE (run_id, step, "row", item, turn, sample)'
_NEW_POSITION = 'UNIQUE (run_id, step, "row", path, item, turn, sample)'


def apply(connection: Connection) -> None:
    """Add the column, and take it into the constraint."""
    connection.execute(text("ALTER TABLE records ADD COLUMN path TEXT NOT NULL DEFAULT ''"))
    if connection.dialect.name == "sqlite":
        _copy_tables(connection)
        return
    connection.execute(text("ALTER TABLE records DROP CONSTRAINT records_position"))
    connection.execute(text(f"ALTER TABLE records ADD CONSTRAINT records_position {_NEW_POSITION}"))


def _copy_tables(connection: Connection) -> None:
    made = {
        name: connection.execute(
            text("SELECT sql FROM sqlite_master WHERE name = :name"), {"name": name}
        ).scalar_one()
        for name in (*_TABLES, *(index for indexes in _TABLES.values() for index in indexes))
    }
    assert _POSITION in made["records"]
    made["records"] = made["records"].replace(_POSITION, _NEW_POSITION)
    for name, indexes in reversed(_TABLES.items()):  # attempts first: its key follows the renamed records
        for index in indexes:
            connection.exec_driver_sql(f"DROP INDEX {index}")
        connection.exec_driver_sql(f"ALTER TABLE {name} RENAME TO {name}_before")
    for name, indexes in _TABLES.items():
        connection.exec_driver_sql(made[name])
        columns = ", ".join(_columns(connection, f"{name}_before"))
        connection.exec_driver_sql(f"INSERT INTO {name} ({columns}) SELECT {columns} FROM {name}_before")
        for index in indexes:
            connection.exec_driver_sql(made[index])
    for name in reversed(_TABLES):
        connection.exec_driver_sql(f"DROP TABLE {name}_before")


def _columns(connection: Connection, table: str) -> list[str]:
    return [f'"{row[1]}"' for row in connection.exec_driver_sql(f"PRAGMA table_info({table})")]
