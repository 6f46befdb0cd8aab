"""Brings a store to the schema of this program, or refuses.

Owns the table of applied versions and the copy that is made before an existing store changes. Invariant: a
store is at the old schema or at the new one, never between, whatever is killed when.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import (
    Column,
    Connection,
    Double,
    Engine,
    Integer,
    MetaData,
    Table,
    Text,
    insert,
    inspect,
    select,
)

from chains import failpoints
from chains.clock import Clock
from chains.errors import StoreVersion
from chains.store.connecting import Database
from chains.store.migrations import MIGRATIONS, Migration

applied_migrations = Table(
    "migrations",
    MetaData(),
    Column("version", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("applied_at", Double, nullable=False),
)


def migrate(database: Database, *, clock: Clock, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Apply what is missing in one transaction; an existing store is copied first.

    A store that is up to date is only read, so opening it waits for nobody who writes.
    """
    reader, writer = database.reading_engine(), database.writing_engine()
    try:
        with database.errors(), reader.connect() as connection:
            done = applied(connection)
        refuse_newer(done, database.label, migrations)
        if _pending(done, migrations):
            with database.errors():
                _apply(writer, database, clock=clock, migrations=migrations)
    finally:
        reader.dispose()
        writer.dispose()


def _apply(writer: Engine, database: Database, *, clock: Clock, migrations: Sequence[Migration]) -> None:
    with writer.begin() as connection:
        database.lock(connection, "schema")
        # Read again: another process may have migrated while this one waited for the lock.
        done = applied(connection)
        refuse_newer(done, database.label, migrations)
        if done and _pending(done, migrations):
            database.back_up(before=_pending(done, migrations)[0].version)
            failpoints.hit("store.migrate.after_backup")
        applied_migrations.create(connection, checkfirst=True)
        for migration in _pending(done, migrations):
            migration.apply(connection)
            connection.execute(
                insert(applied_migrations).values(
                    version=migration.version, name=migration.name, applied_at=clock.now()
                )
            )
        failpoints.hit("store.migrate.before_commit")
    failpoints.hit("store.migrate.after_commit")


def applied(connection: Connection) -> frozenset[int]:
    """Return the versions that the store has; none for an empty one."""
    if not inspect(connection).has_table(applied_migrations.name):
        return frozenset()
    return frozenset(connection.execute(select(applied_migrations.c.version)).scalars())


def refuse_newer(done: frozenset[int], label: str, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Raise StoreVersion when a newer Headrace has written the store."""
    known = {migration.version for migration in migrations}
    if done - known:
        raise StoreVersion(
            f"The store {label!r} has schema {max(done)}; this Headrace knows up to {max(known)}.",
            hint="Use the Headrace that wrote it, or a newer one.",
        )


def _pending(done: frozenset[int], migrations: Sequence[Migration]) -> list[Migration]:
    return [migration for migration in migrations if migration.version not in done]
