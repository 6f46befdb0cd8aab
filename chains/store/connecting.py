"""Opens the database: one engine for the writer, one for readers, and our errors for the driver's.

Owns what is particular to a database product: pragmas, how a write transaction begins, snapshots, the upsert.
A second product is added here and nowhere else.

`synchronous=FULL`: an `intent` row must be on disk before a paid request leaves, so each commit is synced.
Group commit shares that cost; NORMAL would lose the last commits of a WAL at a power cut.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.pool import NullPool
from sqlalchemy.sql.dml import Insert

from chains.clock import Clock
from chains.errors import EnvironmentLacks, HeadraceError, StoreBusy, StoreConflict, StoreDamaged

_FULL: Final = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
_BUSY: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_CLOSED: Final = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}
_DAMAGED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def writing_engine(database: Path, *, busy_timeout: float) -> Engine:
    """Return an engine whose transactions take the write lock when they begin, so none fails half-way."""
    engine = create_engine(_url(database), poolclass=NullPool, connect_args={"check_same_thread": False})
    _prepare_connections(
        engine, busy_timeout, "PRAGMA synchronous=FULL", "PRAGMA journal_size_limit=67108864"
    )
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def reading_engine(database: Path, *, busy_timeout: float) -> Engine:
    """Return an engine whose connections cannot write; each statement sees the last commit."""
    engine = create_engine(
        _url(database),
        pool_size=4,
        max_overflow=28,
        isolation_level="AUTOCOMMIT",
        connect_args={"check_same_thread": False},
    )
    _prepare_connections(engine, busy_timeout, "PRAGMA query_only=ON")
    return engine


@contextmanager
def snapshot(engine: Engine) -> Iterator[Connection]:
    """Give a reading connection on which all statements see the same state."""
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN")
        try:
            yield connection
        finally:
            connection.exec_driver_sql("ROLLBACK")


def insert_into(connection: Connection, table: Table) -> Any:
    """Return the product's own insert, which can say what to do about a row that is there."""
    return {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[connection.dialect.name](table)


@cache
def upsert(table: Table, dialect: str) -> Insert:
    """Return the insert that replaces a row of the same primary key."""
    keys = [column.name for column in table.primary_key]
    insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[dialect](table)
    changes = {
        column.name: insert.excluded[column.name] for column in table.columns if column.name not in keys
    }
    if table.name == "blobs":
        # A pin outlives a later write of the same content as a payload.
        changes["pinned"] = table.c.pinned | insert.excluded.pinned
    statement: Insert = insert.on_conflict_do_update(index_elements=keys, set_=changes)
    return statement


@contextmanager
def database_errors(database: Path) -> Iterator[None]:
    """Turn the driver's errors into ours."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        raise _translated(error, database) from error


def copy_database(database: Path, target: Path) -> None:
    """Copy the committed state of a database that others may be using."""
    source, copy = sqlite3.connect(database), sqlite3.connect(target)
    try:
        source.backup(copy)
    finally:
        source.close()
        copy.close()


def lease_time(connection: Connection, clock: Clock) -> float:
    """Return seconds on a clock that every process on the store shares and that is never set back.

    SQLite's users are on one machine, whose monotonic clock they share; a server's ask the server.
    """
    if connection.dialect.name == "sqlite":
        return clock.monotonic()
    now: float = connection.exec_driver_sql(
        "SELECT EXTRACT(EPOCH FROM clock_timestamp())::float8"
    ).scalar_one()
    return now


def integrity_problems(connection: Connection) -> list[str]:
    """Return what the database product itself finds wrong with its files."""
    found = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
    return [f"The database: {text}" for text in found if text != "ok"]


def _url(database: Path) -> URL:
    return URL.create("sqlite", database=str(database))


def _prepare_connections(engine: Engine, busy_timeout: float, *pragmas: str) -> None:
    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        # Transactions begin where SQLAlchemy says, also before DDL, not where the driver guesses.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (f"PRAGMA busy_timeout={int(busy_timeout * 1000)}", "PRAGMA foreign_keys=ON", *pragmas):
            cursor.execute(pragma)
        cursor.close()


def use_write_ahead_log(engine: Engine) -> None:
    """Switch the file to WAL, which it remembers; readers and the writer then do not wait for each other."""
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        mode = cursor.fetchone()
        cursor.close()
    finally:
        connection.close()
    if mode is None or str(mode[0]).lower() != "wal":
        raise EnvironmentLacks(
            f"The store's file system does not support SQLite's write-ahead log (it stays in mode {mode!r}).",
            hint="Put the store on a local disk.",
        )


def _translated(error: DBAPIError | sqlite3.Error, database: Path) -> HeadraceError:
    # While a connection is being made, the driver's errors come without SQLAlchemy's wrapping.
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(error, IntegrityError):
        return StoreConflict(
            f"A row contradicts what the store holds: {cause}.",
            hint="Write its run, step or record before it or with it; a position holds one record.",
        )
    # Extended codes carry the primary one in their low byte.
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
    where = f"The store {str(database)!r}"
    if code in _BUSY:
        return StoreBusy(
            f"{where} is locked by another process.", hint="Try again when that process is done."
        )
    if code in _FULL:
        return EnvironmentLacks(f"{where} cannot be written: {cause}.", hint="Free some space on its disk.")
    if code in _CLOSED:
        return EnvironmentLacks(
            f"{where} cannot be opened for writing: {cause}.",
            hint="Check the rights on its folder, or name another with HEADRACE_STORE.",
        )
    if code in _DAMAGED:
        return StoreDamaged(f"{where} is damaged: {cause}.", hint="Restore `headrace.db` from a backup.")
    return StoreDamaged(f"{where} refused a statement: {cause}.")
