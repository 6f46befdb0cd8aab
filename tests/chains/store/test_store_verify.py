"""pytest tests/chains/store/test_store_verify.py"""

from __future__ import annotations

import dataclasses
import json
import os
import sqlite3
import subprocess
import sys

import pytest

from chains.store import ModelRow, open_store
from chains.store.collecting import remove_orphans
from chains.store.files import temporary_name

OLD = 1_000_000_000
BIG = b"big" * 40_000


@pytest.fixture
def damage(store, backend, location):
    """Runs SQL on the database behind the store's back, with its constraints off."""

    def in_file(sql: str) -> None:
        connection = sqlite3.connect(store.path / "headrace.db")
        connection.execute("PRAGMA foreign_keys=OFF")
        connection.executescript(sql)
        connection.close()

    def on_server(sql: str) -> None:
        import psycopg

        with psycopg.connect(location) as connection:
            connection.execute("SET session_replication_role = replica")
            connection.execute(sql)

    return in_file if backend == "sqlite" else on_server


def age(path) -> None:
    os.utime(path, (OLD, OLD), follow_symlinks=False)


def test_a_store_in_use_is_clean(store, record_row, attempt_row):
    store.put(record_row(0, status="running", output=BIG), attempt_row(request=BIG))
    report = store.verify_report()
    assert (report.problems, report.blobs_checked, report.strangers) == ([], 1, [])


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        ("DELETE FROM steps", "records record-0 of run run1 has no row in steps"),
        ("DELETE FROM runs", "has no row in runs"),
        ("DELETE FROM records", "attempts attempt-1 of run run1 has no row in records"),
        ("UPDATE attempts SET step = 'other'", "attempts attempt-1 of run run1 has no row in records"),
        ("UPDATE runs SET status = 'ok'", "records record-0 is 'running', and its run run1 has ended"),
        ("UPDATE runs SET status = 'failed'", "attempts attempt-1 is 'intent', and its run run1 has ended"),
        ("UPDATE runs SET status = 'cancelled'", "steps triage is 'running', and its run run1 has ended"),
        ("UPDATE models SET is_latest = TRUE", "The model 'm' has several latest versions"),
        ("UPDATE runs SET files = 'not json'", "runs run1: files is not JSON"),
        ("UPDATE runs SET files = '[1]'", "runs run1: files is not JSON of the form"),
        ('UPDATE models SET files = \'{"a": "../x"}\'', "models m 2: files names '../x', which is no blob"),
    ],
)
def test_each_broken_promise_is_named(store, record_row, attempt_row, damage, sql, named):
    model = ModelRow(name="m", kind="full", files=b"{}", sha256="s", created_at=1.0)
    store.put(record_row(0, status="running"), attempt_row())
    store.publish(model)
    store.publish(model)
    assert store.verify() == []
    damage(sql)
    assert named in "\n".join(store.verify())


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_two_records_at_one_position_are_found_also_without_the_constraint(store, record_row, damage):
    store.put(record_row(0))
    damage(
        "CREATE TABLE copy AS SELECT * FROM records; DROP TABLE records; ALTER TABLE copy RENAME TO records;"
        "INSERT INTO records SELECT * FROM records; UPDATE records SET id = rowid;"
    )
    assert "share the position ('run1', 'triage', 0, '', -1, -1, 0)" in "\n".join(store.verify())


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_database_file_that_was_overwritten_is_reported_and_not_a_crash(store, record_row):
    store.put(*(record_row(row, output=b"x" * 3000) for row in range(200)))
    store.close()
    path = store.path / "headrace.db"
    content = bytearray(path.read_bytes())
    content[8192:24576] = os.urandom(16384)
    path.write_bytes(content)
    with open_store(store.path) as again:
        assert "damaged" in "\n".join(again.verify()) or "The database:" in "\n".join(again.verify())


def test_blobs_that_a_model_or_run_names_are_checked_and_kept(store, run_row, files):
    sha = store.put_blob(BIG)
    listed = json.dumps({"adapter.safetensors": sha}).encode()
    store.put(dataclasses.replace(run_row, id="run2", files=listed))
    files.age(sha)
    assert store.verify_report(grace=0).orphans_removed == []
    files.remove(sha)
    assert store.verify() == [f"runs run2: files: The blob {sha} is missing."]


def test_a_blob_that_nothing_refers_to_is_removed_when_it_is_old(store, files):
    sha = store.blobs.put(BIG)
    assert store.verify_report().orphans_removed == []
    assert store.blobs.exists(sha)
    files.age(sha)
    report = store.verify_report()
    assert (report.orphans_removed, report.problems) == ([sha], [])
    assert not store.blobs.exists(sha)


def test_the_blob_of_a_payload_that_was_replaced_is_removed(store, record_row):
    store.put(record_row(output=BIG))
    store.put(record_row(output=BIG + b"2"))
    assert len(store.verify_report(grace=0).orphans_removed) == 1
    assert store.record("run1", "triage", 0).output == BIG + b"2"
    assert store.verify() == []


def test_what_was_put_by_itself_is_never_an_orphan(store, files):
    sha = store.put_blob(BIG)
    files.age(sha)
    assert store.verify_report(grace=0).orphans_removed == []
    assert store.get_blob(sha) == BIG


def test_what_was_put_by_itself_stays_when_a_payload_of_the_same_content_is_replaced(store, record_row):
    sha = store.put_blob(BIG)
    store.put(record_row(output=BIG))
    store.put(record_row(output=b"small"))
    assert store.verify_report(grace=0).orphans_removed == []
    assert store.get_blob(sha) == BIG


def test_an_old_orphan_that_is_put_again_is_young_again(store, record_row, files):
    sha = store.blobs.put(BIG)
    files.age(sha)
    store.put(record_row(output=BIG))
    assert store.verify_report().orphans_removed == []
    assert store.blobs.exists(sha)


def test_a_blob_that_vanishes_between_its_write_and_the_commit_is_written_again(
    store, record_row, monkeypatch, files
):
    put = store.blobs.put

    def put_and_lose(data: bytes) -> str:
        monkeypatch.undo()
        sha = put(data)
        files.remove(sha)
        return sha

    monkeypatch.setattr(store.blobs, "put", put_and_lose)
    store.put(record_row(output=BIG))
    assert store.record("run1", "triage", 0).output == BIG


def test_a_blob_that_a_row_took_up_since_it_was_found_unwanted_stays(store, record_row, files):
    store.put(record_row(output=BIG))
    [sha] = files.all()
    files.age(sha)
    writer = store._writer()
    assert writer.do_blocking(lambda c: remove_orphans(c, store.blobs, [sha], before=1e12)) == []
    assert store.record("run1", "triage", 0).output == BIG


def test_in_a_damaged_store_no_blob_is_removed(store, damage, files):
    sha = store.blobs.put(BIG)
    files.age(sha)
    damage("UPDATE runs SET files = 'not json'")
    assert store.verify_report().orphans_removed == []
    assert store.blobs.exists(sha)


def test_a_temporary_file_of_a_process_that_is_gone_is_removed(store):
    code = "from chains.store.files import temporary_name; print(temporary_name())"
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    name = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    dead = store.path / "blobs" / name.stdout.strip()
    dead.write_bytes(b"half")
    folder = store.folder("work") / name.stdout.strip()
    folder.mkdir()
    (folder / "file").write_bytes(b"half")
    mine = store.path / temporary_name()
    mine.write_bytes(b"being written")
    age(mine)
    report = store.verify_report()
    assert sorted(report.temporaries_removed) == sorted([f"blobs/{dead.name}", f"work/{dead.name}"])
    assert report.problems == []
    assert mine.exists() and not dead.exists() and not folder.exists()


def test_a_temporary_file_of_another_machine_is_removed_only_when_it_is_old(store):
    theirs = store.path / temporary_name().replace(temporary_name()[5:13], "0" * 8)
    theirs.write_bytes(b"half")
    assert store.verify_report().temporaries_removed == []
    age(theirs)
    assert store.verify_report().temporaries_removed == [theirs.name]


def test_what_does_not_belong_among_the_blobs_is_listed_and_left_alone(store):
    stranger = store.path / "blobs" / "notes.txt"
    stranger.write_text("mine")
    assert store.verify_report().strangers == ["notes.txt"]
    assert stranger.exists()
