"""Several processes on one PostgreSQL store, one of them killed or paused, and a server that restarts.

pytest tests/faults/test_store_postgres.py
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from servers.postgres_server import missing, postgres_server, restart
from sqlalchemy import Engine, create_engine, text

from chains import failpoints
from chains.errors import EnvironmentLacks, HeadraceError, StoreBusy, StoreConflict
from chains.store import AttemptRow, Claim, RecordRow, RunRow, StepRow, Verdict, open_store

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")

ROOT = Path(failpoints.__file__).parents[1]
WORKER = """
import asyncio, sys, time
from chains.store import *
LOCATION, HOME, ME, ROWS = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
LIMITS = [Limit("run:run1", calls=150), Limit("day:2026-01-31", usd_micro=10**9)]
ONE = Usage(tokens=10, cost_micro=5)
async def row(store, number):
    mine = f"{ME}-{number}"
    key = f"{number:064d}"
    while True:
        record = RecordRow(id=mine, run_id="run1", step="a", row=number, turn=int(ME[1:]), value_key=key)
        intent = AttemptRow(id=mine, record_id=mine, run_id="run1", step="a", number=1, started_at=1.0)
        verdict = await store.begin_attempt(
            record, intent, limits=LIMITS, estimate=ONE, claim=Claim(key, ME, lease=1.5))
        if not verdict.claimed_by:
            break
        await asyncio.sleep(0.05)
    if not verdict.allowed:
        print("done" if verdict.done else f"over {verdict.unit}", number, flush=True)
        return
    print("paid", number, flush=True)
    await asyncio.sleep(0.01)
    store.hand_over(
        AttemptRow(id=mine, record_id=mine, run_id="run1", step="a", number=1, state="ok", started_at=1.0),
        settle=Settlement(LIMITS, ONE, ONE))
    from dataclasses import replace
    await store.aput(replace(record, status="ok", output=b"x" * 70_000, finished_at=2.0), fence=verdict.fence)
async def main():
    await asyncio.gather(*(row(store, number) for number in range(ROWS)))
with open_store(LOCATION, home=HOME) as store:
    asyncio.run(main())
"""


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory(prefix="headrace-postgres-") as name:
        Path(name).chmod(0o755)
        yield Path(name) / "server"


@pytest.fixture(scope="module")
def server(folder):
    with postgres_server(folder) as url:
        yield url


@pytest.fixture
def location(server, request):
    name = re.sub(r"[^a-z]", "", request.node.name.lower())[:60]
    engine = create_engine(f"{server.replace('postgresql', 'postgresql+psycopg')}/postgres")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return f"{server}/{name}"


@pytest.fixture
def store(location, tmp_path):
    with open_store(location, home=tmp_path / "home", busy_timeout=5) as opened:
        opened.put(
            RunRow(id="run1", chain="c", chain_hash="h", source=b"x", started_at=1.0),
            StepRow(run_id="run1", id="a", kind="prompt"),
        )
        yield opened


def start(location: str, home: Path, name: str, rows: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, location, str(home), name, str(rows)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> list[str]:
    with process:
        out, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    return out.splitlines()


def test_three_processes_that_want_the_same_pay_for_each_answer_once(store, location, tmp_path):
    workers = [start(location, tmp_path / "home", f"w{number}", 60) for number in range(3)]
    lines = [line for worker in workers for line in finish(worker)]
    paid = [line for line in lines if line.startswith("paid")]
    assert len(paid) == len(set(paid)) == 60
    assert len([line for line in lines if line.startswith("done")]) == 120
    assert store.spent("run:run1").calls == 60
    assert store.spent("day:2026-01-31").cost_micro == 300
    assert store.verify() == []


def test_who_waited_for_a_claim_sees_the_answer_that_its_holder_wrote(store, location):
    """The holder writes its record and gives the claim back in one transaction; another waits for its row."""
    key = "k" * 64
    engine = create_engine(location.replace("postgresql", "postgresql+psycopg"))

    async def main() -> tuple[Verdict, Verdict]:
        mine = record_of("mine", key)
        first = await store.begin_attempt(mine, intent_of(mine), claim=Claim(key, "first"))
        with engine.begin() as holder:
            holder.execute(text("UPDATE records SET status = 'ok' WHERE id = 'mine'"))
            holder.execute(text("DELETE FROM claims WHERE key = :key"), {"key": key})
            other = record_of("other", key, row=1)
            asking = asyncio.create_task(
                store.begin_attempt(other, intent_of(other), claim=Claim(key, "second"))
            )
            await asyncio.to_thread(wait_for_a_lock, engine)
        return first, await asking

    first, second = asyncio.run(main())
    assert first.allowed and first.fence
    assert (second.allowed, second.done) == (False, "mine")
    assert store.claimed_by(key) is None
    engine.dispose()


def record_of(name: str, key: str, row: int = 0) -> RecordRow:
    return RecordRow(id=name, run_id="run1", step="a", row=row, value_key=key)


def intent_of(record: RecordRow) -> AttemptRow:
    return AttemptRow(id=record.id, record_id=record.id, run_id="run1", step="a", number=1, started_at=1.0)


def wait_for_a_lock(engine: Engine) -> None:
    query = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with engine.connect() as connection:
            if connection.execute(query).scalar_one():
                return
        time.sleep(0.02)
    raise AssertionError("nobody waits for a lock")


def test_a_shared_budget_is_not_passed_by_any_process(store, location, tmp_path):
    workers = [start(location, tmp_path / "home", f"w{number}", 200) for number in range(2)]
    lines = [line for worker in workers for line in finish(worker)]
    assert len([line for line in lines if line.startswith("paid")]) == 150
    assert "over calls" in " ".join(lines)
    assert store.spent("run:run1").calls == 150


def test_what_a_killed_process_had_claimed_is_finished_by_the_others(store, location, tmp_path):
    doomed = start(location, tmp_path / "home", "w0", 60)
    first = doomed.stdout.readline()
    doomed.send_signal(signal.SIGKILL)
    rest = doomed.communicate()[0]
    before = {line for line in (first + rest).splitlines() if line.startswith("paid")}
    answered = {record.row for record in store.records("run1", statuses=["ok"], within=True)}
    lines = finish(start(location, tmp_path / "home", "w1", 60))
    paid = {int(line.split()[1]) for line in lines if line.startswith("paid")}
    # Paid again is only what was under way when the process was killed.
    assert paid == set(range(60)) - answered
    assert len(before) >= len(answered)
    assert {record.row for record in store.records("run1", statuses=["ok"], within=True)} == set(range(60))


def test_a_server_that_restarts_under_a_writer_loses_nothing(store, folder):
    async def main() -> list[object]:
        async def write(row: int) -> None:
            await asyncio.sleep(row * 0.01)
            await store.aput(RecordRow(id=f"r{row}", run_id="run1", step="a", row=row, status="ok"))

        writing = asyncio.gather(*(write(row) for row in range(150)), return_exceptions=True)
        await asyncio.sleep(0.3)
        await asyncio.to_thread(restart, folder)
        return await writing

    results = asyncio.run(main())
    there = {record.row for record in store.records("run1", payloads=False)}
    acknowledged = {row for row, result in enumerate(results) if result is None}
    assert acknowledged <= there
    # A commit whose answer was lost is an error: nobody knows whether it was done.
    assert all(result is None or isinstance(result, StoreBusy) for result in results)
    assert len(acknowledged) > 100


def test_two_processes_that_open_a_new_database_at_once_both_find_its_schema(location, tmp_path):
    code = (
        "import sys; from chains.store import open_store; open_store(sys.argv[1], home=sys.argv[2]).close()"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, location, str(tmp_path / "home")]
    opening = [
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for process in opening:
        assert process.communicate(timeout=60)[1] == ""
        assert process.returncode == 0
    with open_store(location, home=tmp_path / "home") as store:
        assert store.verify() == []


def test_a_paused_process_whose_run_was_taken_over_writes_nothing_more(store, location, tmp_path):
    with open_store(location, home=tmp_path / "home") as paused:
        assert paused.lease_run("run1", "paused", 0.2)
        time.sleep(0.3)
        assert store.lease_run("run1", "other")
        with pytest.raises(StoreConflict, match="taken over"):
            paused.put(RecordRow(id="late", run_id="run1", step="a", row=0, status="ok"))


@pytest.mark.parametrize("where", ["127.0.0.1:1/db", "127.0.0.1:1/"])
def test_a_server_that_is_not_there_is_one_sentence_without_the_password(tmp_path, where):
    with pytest.raises(HeadraceError, match=r"HEADRACE_STORE|names no database") as raised:
        open_store(f"postgresql://user:s3cret@{where}", home=tmp_path)
    assert "s3cret" not in str(raised.value)


def test_a_database_that_does_not_exist_is_named(server, tmp_path):
    with pytest.raises(EnvironmentLacks, match='database "nowhere" does not exist'):
        open_store(f"{server}/nowhere", home=tmp_path)
