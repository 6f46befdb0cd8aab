"""A store's database on a PostgreSQL server.

Owns the driver's options, the advisory locks that stand for SQLite's one write lock where it matters, and
our errors for the server's. Everything runs at READ COMMITTED; rows that are read to be changed are locked.
An upgrade needs no copy: the server takes a migration back as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, func, make_url, select
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError
from sqlalchemy.pool import NullPool

from chains.clock import Clock
from chains.errors import (
    EnvironmentLacks,
    HeadraceError,
    InputInvalid,
    StoreBusy,
    StoreConflict,
    StoreDamaged,
)
from chains.store.connecting import Lock, TryAgain

SCHEMES: Final = ("postgresql://", "postgres://", "postgresql+psycopg://")
_CONNECT_TIMEOUT_S: Final = 10
# Any numbers that nobody else on the server uses: "head" in ASCII, and one for each lock.
_LOCK_SPACE: Final = 0x68656164
_LOCKS: Final[dict[Lock, int]] = {"schema": 1, "models": 2, "blobs": 3}
_UNDONE: Final = {"40001", "40P01", "57P01", "57P02", "57P03", "53300"}
_WAITED: Final = {"55P03", "57014"}
_FULL: Final = {"53100", "53200"}
_NOT_ALLOWED: Final = {"42501", "25006", "3D000", "3F000"}
_DAMAGED: Final = {"XX001", "XX002"}


class PostgresServer:
    """A database on a server. `busy_timeout` is how long a write waits for a lock."""

    def __init__(self, location: str, *, busy_timeout: float) -> None:
        self._url = _checked(location)
        self.label = self._url.set(drivername="postgresql").render_as_string(hide_password=True)
        self._busy_timeout = busy_timeout

    def writing_engine(self) -> Engine:
        """Return an engine that keeps no connection but the one that is in use."""
        # An `intent` row must be on disk before a paid request leaves, whatever the server's default is.
        durable = "-c synchronous_commit=on"
        waiting = f"-c lock_timeout={int(self._busy_timeout * 1000)}"
        return self._engine(f"{durable} {waiting}", poolclass=NullPool)

    def reading_engine(self) -> Engine:
        """Return an engine whose connections cannot write; each statement sees the last commit."""
        # A server that was restarted has closed the pooled connections: each is tried before it is used.
        return self._engine(
            "-c default_transaction_read_only=on",
            pool_size=4,
            max_overflow=28,
            pool_pre_ping=True,
            isolation_level="AUTOCOMMIT",
        )

    def prepare(self, clock: Clock) -> None:
        """Connect once, so that a wrong address is one sentence."""
        engine = self.reading_engine()
        try:
            with self.errors(), engine.connect() as connection:
                connection.execute(select(1))
        except TryAgain as error:
            raise EnvironmentLacks(
                error.message, hint="Start the server, or correct HEADRACE_STORE."
            ) from error
        finally:
            engine.dispose()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn the driver's errors into ours."""
        try:
            yield
        except DBAPIError as error:
            raise _translated(error, self.label) from error

    @contextmanager
    def snapshot(self, engine: Engine) -> Iterator[Connection]:
        """Give a reading connection on which all statements see the same state."""
        with engine.connect() as connection:
            repeatable = connection.execution_options(isolation_level="REPEATABLE READ")
            with repeatable.begin() as transaction:
                try:
                    yield repeatable
                finally:
                    transaction.rollback()

    def lease_time(self, connection: Connection, clock: Clock) -> float:
        """Return the server's time, the only one that all processes share."""
        now: float = connection.execute(select(func.date_part("epoch", func.clock_timestamp()))).scalar_one()
        return now

    def lock(self, connection: Connection, what: Lock, *, shared: bool = False) -> None:
        """Hold an advisory lock until the transaction ends."""
        hold = func.pg_advisory_xact_lock_shared if shared else func.pg_advisory_xact_lock
        connection.execute(select(hold(_LOCK_SPACE, _LOCKS[what])))

    def back_up(self, before: int) -> None:
        """Do nothing: a migration that fails leaves nothing behind."""

    def problems(self, connection: Connection) -> list[str]:
        """Find nothing: the server checks its own files (`pg_amcheck`)."""
        return []

    def _engine(self, options: str, **arguments: Any) -> Engine:
        given = str(self._url.query.get("options", ""))
        connect = {
            "connect_timeout": _CONNECT_TIMEOUT_S,
            "application_name": "headrace",
            "options": f"{given} {options}".strip(),
        }
        return create_engine(self._url, connect_args=connect, **arguments)


def _checked(location: str) -> URL:
    try:
        import psycopg  # noqa: F401 - asked for here, so that its absence is one sentence
    except ImportError as error:
        raise EnvironmentLacks(
            "A store on PostgreSQL needs the driver psycopg 3.", hint="Install `headrace[postgres]`."
        ) from error
    try:
        url = make_url(location)
    except (ArgumentError, ValueError) as error:
        raise InputInvalid(
            "The address of the PostgreSQL store cannot be read.",
            hint="Write postgresql://user:password@host:port/database, with %XX for other characters.",
        ) from error
    if not url.database:
        raise InputInvalid(
            "The address of the PostgreSQL store names no database.",
            hint="Write postgresql://user:password@host:port/database.",
        )
    return url.set(drivername="postgresql+psycopg")


def _translated(error: DBAPIError, label: str) -> HeadraceError:
    cause = " ".join(str(error.orig).split())
    if isinstance(error, IntegrityError):
        return StoreConflict(
            f"A row contradicts what the store holds: {cause}.",
            hint="Write its run, step or record before it or with it; a position holds one record.",
        )
    state = getattr(error.orig, "sqlstate", None)
    where = f"The store {label!r}"
    if state is None or state.startswith("08") or state in _UNDONE:
        if state is None and "authentication failed" in cause:
            return EnvironmentLacks(f"{where} cannot be opened: {cause}.", hint="Correct HEADRACE_STORE.")
        return TryAgain(f"{where} is not there or busy: {cause}.", hint="Try again when the server is up.")
    if state in _WAITED:
        return StoreBusy(
            f"{where} is locked by another process.", hint="Try again when that process is done."
        )
    if state in _FULL:
        return EnvironmentLacks(f"{where} cannot be written: {cause}.", hint="Free some space on its disk.")
    if state.startswith("28") or state in _NOT_ALLOWED:
        return EnvironmentLacks(f"{where} cannot be used: {cause}.", hint="Check the rights of its user.")
    if state in _DAMAGED:
        return StoreDamaged(f"{where} is damaged: {cause}.", hint="Restore it from a backup.")
    return StoreDamaged(f"{where} refused a statement: {cause}.")
