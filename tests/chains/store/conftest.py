"""Stores of each kind with one run and one step in them, and rows that need only what a test is about."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers.postgres_server import temporary_postgres
from servers.s3_server import s3_server
from sqlalchemy import create_engine, text, update

from chains.clock import Clock
from chains.store import AttemptRow, RecordRow, RunRow, StepRow, Store, open_store
from chains.store.schema import claims, leases, slots

BACKENDS = ("sqlite", "postgres")  # with `-s3`: the blobs in a bucket
BUCKET = "headrace"
_names = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL server."""
    with temporary_postgres() as url:
        yield url


@pytest.fixture(scope="session")
def s3() -> Iterator[dict[str, str]]:
    """The environment in which an S3 server with a bucket is found."""
    with s3_server(BUCKET) as environment:
        yield environment


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def location(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Where a new store of this kind may be made."""
    if backend.startswith("sqlite"):
        return str(tmp_path / "store")
    url = f"{request.getfixturevalue('postgres')}/postgres"
    # A schema of its own and not a database: those are 300 files each.
    name = f"store{next(_names)}"
    engine = create_engine(url.replace("postgresql", "postgresql+psycopg"))
    with engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {name}"))
    engine.dispose()
    return f"{url}?options=-csearch_path%3D{name}"


@pytest.fixture
def blobs_at(
    backend: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Where the blobs of a new store may lie."""
    if not backend.endswith("-s3"):
        return str(tmp_path / "store" / "blobs")
    for name, value in request.getfixturevalue("s3").items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/store{next(_names)}"


@pytest.fixture
def again(location: str, blobs_at: str, tmp_path: Path) -> Callable[..., Store]:
    """Opens the store of the test, also a second time."""

    def reopen(**arguments) -> Store:
        return open_store(location, home=tmp_path / "store", blobs=blobs_at, **arguments)

    return reopen


class BlobFiles:
    """What lies behind a store's blobs, for a test to look at and to spoil."""

    def __init__(self, store: Store) -> None:
        self._place = store.blobs.place

    def read(self, sha256: str) -> bytes:
        with self._place.open(f"{sha256[:2]}/{sha256}") as file:
            return file.read()

    def write(self, sha256: str, data: bytes) -> None:
        self._place.write(f"{sha256[:2]}/{sha256}", lambda file: file.write(data))

    def remove(self, sha256: str) -> None:
        self._place.remove(f"{sha256[:2]}/{sha256}")

    def age(self, sha256: str) -> None:
        os.utime(self._place.path(f"{sha256[:2]}/{sha256}"), (1_000_000_000, 1_000_000_000))

    def all(self) -> list[str]:
        return [name.rpartition("/")[2] for name, _ in self._place.names()]


@pytest.fixture
def files(store: Store) -> BlobFiles:
    return BlobFiles(store)


@pytest.fixture
def run_row() -> RunRow:
    return RunRow(
        id="run1", chain="support", chain_hash="c" * 64, source=b"chain: support\n", started_at=100.0
    )


@pytest.fixture
def step_row() -> StepRow:
    return StepRow(run_id="run1", id="triage", kind="prompt", status="running", started_at=101.0)


@pytest.fixture
def store(again: Callable[..., Store], run_row: RunRow, step_row: StepRow) -> Iterator[Store]:
    with again() as opened:
        opened.put(run_row, step_row)
        yield opened


@pytest.fixture
def record_row() -> Callable[..., RecordRow]:
    def make(row: int = 0, **fields) -> RecordRow:
        given = {
            "id": f"record-{row}",
            "run_id": "run1",
            "step": "triage",
            "status": "ok",
            "started_at": 102.0,
        }
        return RecordRow(row=row, **{**given, **fields})

    return make


@pytest.fixture
def attempt_row() -> Callable[..., AttemptRow]:
    def make(number: int = 1, **fields) -> AttemptRow:
        given = {"id": f"attempt-{number}", "record_id": "record-0", "run_id": "run1", "step": "triage"}
        return AttemptRow(number=number, **{**given, "started_at": 103.0, **fields})

    return make


class SetClock(Clock):
    """A clock whose two faces are set by the test."""

    __slots__ = ("time", "wall")

    def __init__(self) -> None:
        super().__init__()
        self.time, self.wall = 1000.0, 2_000_000_000.0

    def now(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.time


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def shared(
    again: Callable[..., Store], run_row: RunRow, step_row: StepRow, clock: SetClock
) -> Iterator[Store]:
    """A store whose leases pass when the test says so."""
    with again(clock=clock) as opened:
        opened.put(run_row, step_row)
        yield opened


@pytest.fixture
def elapse(shared: Store, backend: str, clock: SetClock) -> Callable[[float], None]:
    """Lets time pass: on the clock, and where the time is a server's, by making what it keeps older."""

    def older(table, column, seconds: float):
        return update(table).values({column: table.c[column] - seconds})

    def elapse(seconds: float) -> None:
        clock.time += seconds
        if backend != "sqlite":
            for table, column in ((claims, "lease_until"), (leases, "lease_until"), (slots, "updated_at")):
                statement = older(table, column, seconds)
                shared._write(lambda connection, statement=statement: connection.execute(statement))

    return elapse
