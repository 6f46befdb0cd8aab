"""Opens a store: makes its folder, its database and its schema, or says in one sentence why not."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from sqlalchemy import Engine

from chains.clock import Clock
from chains.errors import EnvironmentLacks, InputInvalid, StoreBusy
from chains.store.blobs import open_blobs
from chains.store.connecting import database_errors, reading_engine, use_write_ahead_log, writing_engine
from chains.store.files import disk_errors
from chains.store.migrating import migrate
from chains.store.store import Store

DATABASE: Final = "headrace.db"
BUSY_TIMEOUT_S: Final = 30.0
_PAUSE_S: Final = 0.02


def open_store(
    location: str | Path | None = None, *, clock: Clock | None = None, busy_timeout: float = BUSY_TIMEOUT_S
) -> Store:
    """Open the store in a folder, made if needed; without a location, the one that the settings name.

    `busy_timeout` is how many seconds a write waits for another process before it is a StoreBusy.
    """
    clock = clock or Clock()
    path = _folder(location)
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    database = path / DATABASE
    _refuse_read_only(path, database)
    blobs = open_blobs(path / "blobs")
    writer = writing_engine(database, busy_timeout=busy_timeout)
    reader = reading_engine(database, busy_timeout=busy_timeout)
    try:
        _use_wal(writer, database, clock, busy_timeout)
        with database_errors(database), disk_errors(path):
            migrate(writer, reader, database, clock=clock)
    finally:
        writer.dispose()
        reader.dispose()
    return Store(path, database, blobs, clock=clock, busy_timeout=busy_timeout)


def _folder(location: str | Path | None) -> Path:
    if location is None:
        from chains.settings import get_settings  # not needed where a location is given

        location = get_settings().store
    if "://" in str(location) or "\0" in str(location):
        raise InputInvalid(f"{str(location)!r} is no folder.", hint="Name a folder on a local disk.")
    return Path(location).expanduser().absolute()


def _refuse_read_only(path: Path, database: Path) -> None:
    for place in (path, database):
        if place.exists() and not os.access(place, os.W_OK):
            raise EnvironmentLacks(
                f"The store's {str(place)!r} cannot be written by this user.",
                hint="Change its rights, or name another folder with HEADRACE_STORE.",
            )


def _use_wal(engine: Engine, database: Path, clock: Clock, busy_timeout: float) -> None:
    """Switch to WAL. While another process does the same, SQLite refuses at once, so the wait is here."""
    deadline = clock.monotonic() + busy_timeout
    while True:
        try:
            with database_errors(database):
                use_write_ahead_log(engine)
            return
        except StoreBusy:
            if clock.monotonic() > deadline:
                raise
            time.sleep(_PAUSE_S)
