"""A store's database as one SQLite file in WAL mode.

Owns the pragmas, how a write transaction begins, the copy before an upgrade, and our errors for the driver's.

`synchronous=FULL`: an `intent` row must be on disk before a paid request leaves, so each commit is synced.
Group commit shares that cost; NORMAL would lose the last commits of a WAL at a power cut.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.pool import NullPool

from chains.clock import Clock
from chains.errors import EnvironmentLacks, HeadraceError, StoreBusy, StoreConflict, StoreDamaged
from chains.store.connecting import Lock
from chains.store.files import sync_folder, temporary_name

BUSY_TIMEOUT_S: Final = 30.0
_PAUSE_S: Final = 0.02
_FULL: Final = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
_BUSY: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_CLOSED: Final = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}
_DAMAGED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class SqliteFile:
    """A database file on a local disk. `busy_timeout` is how long a write waits for another process."""

    def __init__(self, path: Path, *, busy_timeout: float = BUSY_TIMEOUT_S) -> None:
        self.path = path
        self.label = str(path)
        self._busy_timeout = busy_timeout

    def writing_engine(self) -> Engine:
        """Return an engine whose transactions take the write lock when they begin, so none fails half-way."""
        engine = create_engine(self._url(), poolclass=NullPool, connect_args={"check_same_thread": False})
        self._prepare_connections(engine, "PRAGMA synchronous=FULL", "PRAGMA journal_size_limit=67108864")
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        return engine

    def reading_engine(self) -> Engine:
        """Return an engine whose connections cannot write; each statement sees the last commit."""
        engine = create_engine(
            self._url(),
            pool_size=4,
            max_overflow=28,
            isolation_level="AUTOCOMMIT",
            connect_args={"check_same_thread": False},
        )
        self._prepare_connections(engine, "PRAGMA query_only=ON")
        return engine

    def prepare(self, clock: Clock) -> None:
        """Switch to WAL. While another process does the same, SQLite refuses at once, so the wait is here."""
        if self.path.exists() and not os.access(self.path, os.W_OK):
            raise EnvironmentLacks(
                f"The store's {str(self.path)!r} cannot be written by this user.",
                hint="Change its rights, or name another folder with HEADRACE_STORE.",
            )
        deadline = clock.monotonic() + self._busy_timeout
        engine = self.writing_engine()
        try:
            while True:
                try:
                    with self.errors():
                        _use_write_ahead_log(engine)
                    return
                except StoreBusy:
                    if clock.monotonic() > deadline:
                        raise
                    time.sleep(_PAUSE_S)
        finally:
            engine.dispose()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn the driver's errors into ours."""
        try:
            yield
        except (DBAPIError, sqlite3.Error) as error:
            raise _translated(error, self.label) from error

    @contextmanager
    def snapshot(self, engine: Engine) -> Iterator[Connection]:
        """Give a reading connection on which all statements see the same state."""
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            try:
                yield connection
            finally:
                connection.exec_driver_sql("ROLLBACK")

    def lease_time(self, connection: Connection, clock: Clock) -> float:
        """Return the machine's monotonic time: all who can open the file are on one machine."""
        return clock.monotonic()

    def lock(self, connection: Connection, what: Lock, *, shared: bool = False) -> None:
        """Do nothing: a write transaction has the whole file."""

    def back_up(self, before: int) -> None:
        """Copy the file beside itself. The caller holds the write lock, so the copy is the state before."""
        temporary = self.path.with_name(temporary_name())
        try:
            source, copy = sqlite3.connect(self.path), sqlite3.connect(temporary)
            try:
                source.backup(copy)
            finally:
                source.close()
                copy.close()
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(self.path.with_name(f"{self.path.stem}.before-{before}.db"))
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(self.path.parent)

    def set_aside(self) -> Path | None:
        """Move a damaged file out of the way and return where it is; None where there is none."""
        if not self.path.exists():
            return None
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.damaged-{number}")).exists():
            number += 1
        for suffix in ("-wal", "-shm", ""):
            part = self.path.with_name(self.path.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
        sync_folder(self.path.parent)
        return aside

    def problems(self, connection: Connection) -> list[str]:
        """Return what SQLite finds wrong with the file."""
        found = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
        return [f"The database: {text}" for text in found if text != "ok"]

    def _url(self) -> URL:
        return URL.create("sqlite", database=str(self.path))

    def _prepare_connections(self, engine: Engine, *pragmas: str) -> None:
        waiting = f"PRAGMA busy_timeout={int(self._busy_timeout * 1000)}"

        @event.listens_for(engine, "connect")
        def prepare(connection: Any, _: Any) -> None:
            # Transactions begin where SQLAlchemy says, also before DDL, not where the driver guesses.
            connection.isolation_level = None
            cursor = connection.cursor()
            for pragma in (waiting, "PRAGMA foreign_keys=ON", *pragmas):
                cursor.execute(pragma)
            cursor.close()


def _use_write_ahead_log(engine: Engine) -> None:
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


def _translated(error: DBAPIError | sqlite3.Error, label: str) -> HeadraceError:
    # While a connection is being made, the driver's errors come without SQLAlchemy's wrapping.
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(error, IntegrityError):
        return StoreConflict(
            f"A row contradicts what the store holds: {cause}.",
            hint="Write its run, step or record before it or with it; a position holds one record.",
        )
    # Extended codes carry the primary one in their low byte.
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
    where = f"The store {label!r}"
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
