"""pytest tests/chains/store/test_store_migrations.py"""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest
from sqlalchemy import Connection, inspect, text

from chains.clock import Clock
from chains.errors import InputInvalid, StoreConflict, StoreVersion
from chains.store import open_store
from chains.store.migrating import applied, migrate
from chains.store.migrations import MIGRATIONS, Migration
from chains.store.sqlite import SqliteFile


def add_a_column(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE runs ADD COLUMN note TEXT"))


NEXT = (*MIGRATIONS, Migration(len(MIGRATIONS) + 1, "note", add_a_column))


@pytest.fixture
def engine(store):
    engine = store.database.writing_engine()
    yield engine
    engine.dispose()


def versions(engine) -> frozenset[int]:
    with engine.connect() as connection:
        return applied(connection)


def columns(store) -> set[str]:
    with store._reading_engine().connect() as connection:
        return {column["name"] for column in inspect(connection).get_columns("runs")}


def columns_of(path) -> set[str]:
    connection = sqlite3.connect(path)
    found = {row[1] for row in connection.execute("PRAGMA table_info(runs)")}
    connection.close()
    return found


def test_versions_count_up_from_one_without_gaps():
    assert [migration.version for migration in MIGRATIONS] == list(range(1, len(MIGRATIONS) + 1))


def test_a_new_store_gets_every_migration_and_no_copy(store, engine):
    assert versions(engine) == {migration.version for migration in MIGRATIONS}
    assert list(store.path.glob("*before*")) == []


def test_opening_again_migrates_nothing(store, again):
    with again() as reopened:
        assert reopened.run("run1") is not None
        assert reopened.transactions == 0


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_an_existing_store_is_copied_and_then_migrated(store, engine):
    migrate(store.database, clock=Clock(), migrations=NEXT)
    assert versions(engine) == {migration.version for migration in NEXT}
    assert "note" in columns(store)
    copy = store.path / f"headrace.before-{NEXT[-1].version}.db"
    assert "note" not in columns_of(copy)
    connection = sqlite3.connect(copy)
    assert connection.execute("SELECT id FROM runs").fetchall() == [("run1",)]
    connection.close()


def test_a_migration_that_fails_leaves_the_store_as_it_was(store, engine):
    def fail(connection: Connection) -> None:
        add_a_column(connection)
        raise ZeroDivisionError

    broken = (*MIGRATIONS, Migration(len(MIGRATIONS) + 1, "broken", fail))
    with pytest.raises(ZeroDivisionError):
        migrate(store.database, clock=Clock(), migrations=broken)
    assert versions(engine) == {migration.version for migration in MIGRATIONS}
    assert "note" not in columns(store)
    assert store.verify() == []


def test_a_store_of_a_newer_headrace_is_refused_with_both_versions(store, again):
    migrate(store.database, clock=Clock(), migrations=NEXT)
    with pytest.raises(
        StoreVersion, match=rf"schema {len(NEXT)}; this Headrace knows up to {len(MIGRATIONS)}"
    ):
        again()


def test_a_program_that_was_open_during_an_upgrade_writes_nothing_more(store, engine, record_row):
    store.put(record_row(0))
    migrate(store.database, clock=Clock(), migrations=NEXT)
    with pytest.raises(StoreVersion):
        store.put(record_row(1))
    assert [record.row for record in store.records("run1")] == [0]


@pytest.mark.parametrize("location", ["mysql://host/db", "s3://bucket", "a\0b"])
def test_a_location_that_is_no_folder_is_refused(location):
    with pytest.raises(InputInvalid, match="no folder"):
        open_store(location)


def test_without_a_location_the_settings_name_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADRACE_STORE", str(tmp_path / "named"))
    with open_store() as store:
        assert store.path == tmp_path / "named"


def test_a_store_from_before_nesting_keeps_its_records_and_attempts(tmp_path):
    path = tmp_path / "headrace.db"
    file = SqliteFile(path)
    file.prepare(Clock())
    migrate(file, clock=Clock(), migrations=MIGRATIONS[:3])
    connection = sqlite3.connect(path)
    connection.executescript(
        """
        INSERT INTO runs (id, chain, chain_hash, rows, status, started_at) VALUES ('r', 'c', 'h', 1, 'ok', 1);
        INSERT INTO steps (run_id, id, kind, once, status) VALUES ('r', 's', 'prompt', 0, 'ok');
        INSERT INTO records (id, run_id, step, row, item, turn, sample, status, output, attempts)
            VALUES ('rec', 'r', 's', 0, -1, -1, 0, 'ok', X'7B7D', 1);
        INSERT INTO attempts (id, record_id, run_id, step, number, state, started_at, wait_s)
            VALUES ('att', 'rec', 'r', 's', 1, 'ok', 1, 0);
        """
    )
    connection.close()
    with open_store(tmp_path) as store:
        [record] = store.records("r")
        assert (record.id, record.path, record.output) == ("rec", "", b"{}")
        assert [attempt.id for attempt in store.attempts("rec")] == ["att"]
        assert not [problem for problem in store.verify() if "position" in problem or "parent" in problem]
        with pytest.raises(StoreConflict):  # the foreign key names the new table
            store.put(replace(store.attempts("rec")[0], id="att2", record_id="none"))
