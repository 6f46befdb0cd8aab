"""Several processes on one store, forks, and a lock that another process holds.

pytest tests/faults/test_store_processes.py
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from chains import failpoints
from chains.errors import StoreBusy
from chains.store import RecordRow, RunRow, StepRow, Store, open_store

ROOT = Path(failpoints.__file__).parents[1]
WRITER = """
import asyncio, sys
from chains.store import *
async def main(store, first, number):
    async def one(row):
        output = b"x" * ((70_000 if row % 10 == 0 else 10) + row)
        await store.aput(RecordRow(id=f"r{row}", run_id="run1", step="a", row=row, output=output))
    await asyncio.gather(*(one(row) for row in range(first, first + number)))
with open_store(sys.argv[1]) as store:
    store.put(RunRow(id="run1", chain="c", chain_hash="h", source=b"x", started_at=1.0),
              StepRow(run_id="run1", id="a", kind="prompt"))
    asyncio.run(main(store, int(sys.argv[2]), int(sys.argv[3])))
"""
FORK = """
import os, sys
from chains.store import *
with open_store(sys.argv[1]) as store:
    store.put(RunRow(id="run1", chain="c", chain_hash="h", source=b"x", started_at=1.0),
              StepRow(run_id="run1", id="a", kind="prompt"))
    store.runs()
    child = os.fork()
    who, first = ("child", 0) if child == 0 else ("parent", 100)
    for row in range(first, first + 50):
        output = b"x" * 70_000
        store.put(RecordRow(id=f"{who}{row}", run_id="run1", step="a", row=row, status="ok", output=output))
        assert store.record("run1", "a", row) is not None
    if child == 0:
        sys.exit(0)      # a whole interpreter shutdown, which frees what the child inherited
    assert os.waitpid(child, 0)[1] == 0
    for row in range(200, 210):
        store.put(RecordRow(id=f"late{row}", run_id="run1", step="a", row=row, status="ok"))
    assert len(store.records("run1")) == 110
    assert store.verify() == []
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    with process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


@pytest.fixture
def store(tmp_path):
    with open_store(tmp_path / "store", busy_timeout=0.2) as opened:
        opened.put(
            RunRow(id="run1", chain="c", chain_hash="h", source=b"x", started_at=1.0),
            StepRow(run_id="run1", id="a", kind="prompt"),
        )
        yield opened


def record(row: int) -> RecordRow:
    return RecordRow(id=f"r{row}", run_id="run1", step="a", row=row, status="ok")


def test_processes_that_open_a_new_store_at_once_and_write_lose_nothing(tmp_path):
    path = tmp_path / "store"
    processes = [start(WRITER, path, 1000 * number, 300) for number in range(3)]
    for process in processes:
        finish(process)
    with open_store(path) as store:
        records = store.records("run1")
        assert {r.row for r in records} == {1000 * number + row for number in range(3) for row in range(300)}
        assert all(len(r.output) == (70_000 if r.row % 10 == 0 else 10) + r.row for r in records)
        assert store.verify() == []


def test_verify_beside_a_writer_finds_nothing_wrong_and_removes_nothing_wanted(tmp_path):
    path = tmp_path / "store"
    with open_store(path) as store:
        process = start(WRITER, path, 0, 600)
        looks = 0
        while process.poll() is None or looks == 0:
            # With no age to wait for, only the rule under the write lock protects a fresh blob.
            assert store.verify(grace=0) == []
            looks += 1
        finish(process)
        assert store.verify(grace=0) == []
        assert len(store.records("run1")) == 600


def test_a_forked_child_opens_its_own_connections(tmp_path):
    finish(start(FORK, tmp_path / "store"))
    with open_store(tmp_path / "store") as store:
        assert store.verify() == []
        assert len(store.records("run1", payloads=False)) == 110


@pytest.fixture
def holder(store):
    """Another connection, holding the write lock."""
    connection = sqlite3.connect(store.path / "headrace.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    yield connection
    connection.close()


def test_a_lock_held_by_another_is_busy_after_the_wait_and_no_longer(store: Store, holder):
    began = time.monotonic()
    with pytest.raises(StoreBusy, match="locked by another process"):
        store.put(record(0))
    assert 0.1 < time.monotonic() - began < 5
    assert store.records("run1") == []
    holder.execute("ROLLBACK")
    store.put(record(0))
    assert len(store.records("run1")) == 1


def test_reads_and_opening_go_on_while_another_holds_the_lock(store: Store, holder):
    assert store.run("run1") is not None
    assert store.verify() == []
    with open_store(store.path, busy_timeout=0.2) as other:
        assert len(other.runs()) == 1


def test_a_write_that_waits_for_the_lock_goes_through_when_it_is_free(tmp_path, store: Store):
    with open_store(store.path, busy_timeout=10) as patient:
        connection = sqlite3.connect(
            store.path / "headrace.db", isolation_level=None, check_same_thread=False
        )
        connection.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.05, lambda: connection.execute("ROLLBACK"))
        timer.start()
        patient.put(record(1))
        timer.join()
        connection.close()
    assert store.record("run1", "a", 1) is not None
