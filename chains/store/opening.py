"""Opens a store: makes its folder, its database and its schema, or says in one sentence why not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from chains.clock import Clock
from chains.errors import EnvironmentLacks, InputInvalid, StoreDamaged
from chains.store.blobs import Blobs
from chains.store.connecting import Database
from chains.store.files import disk_errors
from chains.store.migrating import migrate
from chains.store.places import LocalPlace, Place
from chains.store.sqlite import BUSY_TIMEOUT_S, SqliteFile
from chains.store.store import Store

if TYPE_CHECKING:
    from chains.settings import Settings

DATABASE: Final = "headrace.db"
RUNS: Final = "runs"
_SERVER_SCHEMES: Final = ("postgresql://", "postgres://", "postgresql+psycopg://")


def open_store(
    location: str | Path | None = None,
    *,
    clock: Clock | None = None,
    busy_timeout: float = BUSY_TIMEOUT_S,
    home: str | Path | None = None,
    blobs: str | Path | None = None,
) -> Store:
    """Open the store in a folder or on a PostgreSQL server, made if needed.

    What is left out is as the settings name it. `home` is the folder for collections, models and work of a
    store on a server; `blobs` is a folder or an fsspec URL, the store's folder if nothing names another.
    `busy_timeout` is how many seconds a write waits for another process before it is a
    StoreBusy.
    """
    clock = clock or Clock()
    if location is None:
        location = _settings().store
    path = _folder(location, home)
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    _refuse_read_only(path)
    database = _database(location, path, busy_timeout)
    place, beside = _places(blobs, path)
    with disk_errors(path):
        database.prepare(clock)
        migrate(database, clock=clock)
    return Store(path, database, Blobs(place, others=RUNS), manifests=beside, clock=clock)


def open_to_rebuild(location: str | Path | None = None, *, home: str | Path | None = None) -> Store:
    """Open a store whose database may be lost or damaged; a damaged file is set aside and made anew."""
    if location is None:
        location = _settings().store
    if is_server(location):
        return open_store(location, home=home)
    try:
        store = open_store(location)
        with store.database.errors(), store.database.snapshot(store.database.reading_engine()) as connection:
            sound = not store.database.problems(connection)
    except StoreDamaged:
        sound = False
    else:
        if sound:
            return store
        store.close()
    SqliteFile(_folder(location, home) / DATABASE).set_aside()
    return open_store(location)


def store_exists(location: str | Path) -> bool:
    """Tell whether a folder holds a store; of a server it is only known once it is opened."""
    return is_server(location) or (Path(location).expanduser() / DATABASE).exists()


def is_server(location: str | Path) -> bool:
    """Tell whether a location names a database server and not a folder."""
    return isinstance(location, str) and location.startswith(_SERVER_SCHEMES)


def _database(location: str | Path, path: Path, busy_timeout: float) -> Database:
    if not is_server(location):
        return SqliteFile(path / DATABASE, busy_timeout=busy_timeout)
    from chains.store.postgres import PostgresServer  # its driver is an extra

    return PostgresServer(str(location), busy_timeout=busy_timeout)


def _places(given: str | Path | None, path: Path) -> tuple[Place, Place]:
    """Return where the blobs and the manifests lie: beside each other, so that either finds the other."""
    named = given if given is not None else _settings().blobs
    if named is not None and "://" in str(named):
        from chains.store.remote import RemotePlace  # fsspec takes a while to import

        url = str(named).rstrip("/")
        return RemotePlace(url), RemotePlace(f"{url}/{RUNS}")
    folder = path / "blobs" if named is None else Path(named).expanduser().absolute()
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return LocalPlace(folder), LocalPlace((path if named is None else folder) / RUNS)


def _folder(location: str | Path, home: str | Path | None) -> Path:
    folder = location
    if is_server(location):
        folder = home if home is not None else _settings().home
    if "://" in str(folder) or "\0" in str(folder):
        # An address may hold a password: its beginning says enough.
        raise InputInvalid(
            f"{str(folder).partition('://')[0][:200]!r} is no folder.",
            hint="Name a folder on a local disk, or a database as postgresql://user:password@host/database.",
        )
    return Path(folder).expanduser().absolute()


def _settings() -> Settings:
    from chains.settings import get_settings  # heavy, and not needed where all is given

    return get_settings()


def _refuse_read_only(path: Path) -> None:
    if not os.access(path, os.W_OK):
        raise EnvironmentLacks(
            f"The store's {str(path)!r} cannot be written by this user.",
            hint="Change its rights, or name another folder with HEADRACE_STORE.",
        )
