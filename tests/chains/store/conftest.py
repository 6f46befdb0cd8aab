"""Stores of each kind with one run and one step in them, and rows that need only what a test is about."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers.postgres_server import missing, postgres_server
from sqlalchemy import create_engine, text

from chains.store import AttemptRow, RecordRow, RunRow, StepRow, Store, open_store

BACKENDS = ("sqlite", "postgres")
_names = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL server."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    # Not below pytest's own folder, which the server's user cannot enter.
    with tempfile.TemporaryDirectory(prefix="headrace-postgres-") as folder:
        Path(folder).chmod(0o755)
        with postgres_server(Path(folder) / "server") as url:
            yield url


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def location(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Where a new store of this kind may be made."""
    if backend == "sqlite":
        return str(tmp_path / "store")
    url = request.getfixturevalue("postgres")
    name = f"store{next(_names)}"
    engine = create_engine(f"{url.replace('postgresql', 'postgresql+psycopg')}/postgres")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return f"{url}/{name}"


@pytest.fixture
def again(location: str, tmp_path: Path) -> Callable[..., Store]:
    """Opens the store of the test, also a second time."""

    def reopen(**arguments) -> Store:
        return open_store(location, home=tmp_path / "store", **arguments)

    return reopen


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
