"""What the store needs of a database product, and the statements whose form depends on it.

Owns the interface. Each product is a module of its own (chains.store.sqlite, chains.store.postgres) and is
named nowhere else but in chains.store.opening.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache, lru_cache
from typing import Any, Literal, Protocol, TypeAlias

from sqlalchemy import Connection, Dialect, Engine, Table
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.dml import Insert
from sqlalchemy.sql.expression import ClauseElement

from chains.clock import Clock
from chains.errors import StoreBusy

Lock: TypeAlias = Literal["schema", "models", "blobs"]


class TryAgain(StoreBusy):
    """The server undid the transaction or was not there; the same transaction may go through later."""


class Database(Protocol):
    """One database of some product. `label` names it in messages and holds no password."""

    label: str

    def writing_engine(self) -> Engine:
        """Return an engine for the one writing connection of a process."""
        ...

    def reading_engine(self) -> Engine:
        """Return an engine whose connections cannot write; each statement sees the last commit."""
        ...

    def prepare(self, clock: Clock) -> None:
        """Make the database ready for its first connection, or say in one sentence why not."""
        ...

    def errors(self) -> AbstractContextManager[None]:
        """Turn the driver's errors into ours."""
        ...

    def snapshot(self, engine: Engine) -> AbstractContextManager[Connection]:
        """Give a reading connection on which all statements see the same state."""
        ...

    def lease_time(self, connection: Connection, clock: Clock) -> float:
        """Return seconds on a clock that every process on the store shares and that nobody sets back."""
        ...

    def lock(self, connection: Connection, what: Lock, *, shared: bool = False) -> None:
        """Hold a lock until the transaction ends, where a write transaction alone keeps nobody out."""
        ...

    def back_up(self, before: int) -> None:
        """Copy the store before migration `before`, where an upgrade cannot be undone otherwise."""
        ...

    def problems(self, connection: Connection) -> list[str]:
        """Return what the product itself finds wrong with its files."""
        ...


@lru_cache(maxsize=256)
def driver_text(
    statement: ClauseElement, dialect: Dialect, columns: tuple[str, ...] | None = None
) -> tuple[str, tuple[str, ...] | None]:
    """Return a statement as the driver takes it, and the order of its values where it takes them by place.

    For what is asked in every transaction: the library's own way from a statement to the driver takes longer
    than the database does. The statement must be the same object each time, its values plain; `columns` are
    those that an insert fills.
    """
    compiled = (
        statement.compile(dialect=dialect)
        if columns is None
        else statement.compile(dialect=dialect, column_keys=columns)
    )
    assert isinstance(compiled, SQLCompiler)
    return str(compiled), tuple(compiled.positiontup) if compiled.positiontup is not None else None


def insert_into(connection: Connection, table: Table) -> Any:
    """Return the product's own insert, which can say what to do about a row that is there."""
    return insert_for(table, connection.dialect.name)


def insert_for(table: Table, dialect: str) -> Any:
    """Return the insert of a database product."""
    # Each product's module takes some 40 ms to load, and a process needs one of them.
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table)
    from sqlalchemy.dialects import sqlite

    return sqlite.insert(table)


@cache
def upsert(table: Table, dialect: str) -> Insert:
    """Return the insert that replaces a row of the same primary key."""
    keys = [column.name for column in table.primary_key]
    insert = insert_for(table, dialect)
    changes = {
        column.name: insert.excluded[column.name] for column in table.columns if column.name not in keys
    }
    if table.name == "blobs":
        # A pin outlives a later write of the same content as a payload.
        changes["pinned"] = table.c.pinned | insert.excluded.pinned
    statement: Insert = insert.on_conflict_do_update(index_elements=keys, set_=changes)
    return statement
