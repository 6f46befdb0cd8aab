"""Writes a fixed sequence to a store, so that a test can kill it anywhere and have it finished again.

python tests/faults/store_golden.py write STORE      the sequence; running it again finishes it
python tests/faults/store_golden.py upgrade STORE    a schema upgrade
python tests/faults/store_golden.py verify STORE     verify, with every orphan old enough to go
python tests/faults/store_golden.py endless STORE    rows for ever; each id is printed once it is on disk
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

from sqlalchemy import text

from chains.clock import Clock
from chains.store import AttemptRow, ModelRow, RecordRow, RunRow, StepRow, Store, open_store
from chains.store.migrating import migrate
from chains.store.migrations import MIGRATIONS, Migration
from chains.store.sqlite import SqliteFile

ROWS = 12
WEIGHTS = bytes(range(256)) * 500


def payload(row: int) -> bytes:
    """Every third row has a payload that is a blob."""
    return b"%d " % row * (40_000 if row % 3 == 0 else 3)


async def write_row(store: Store, row: int) -> None:
    record = RecordRow(id=f"record{row}", run_id="run1", step="triage", row=row, started_at=1.0)
    attempt = AttemptRow(
        id=f"attempt{row}",
        record_id=record.id,
        run_id="run1",
        step="triage",
        number=1,
        request=b"ask",
        started_at=1.0,
    )
    await store.aput(record, attempt)
    await store.aput(replace(attempt, state="ok", response=payload(row), status=200, finished_at=2.0))
    await store.aput(replace(record, status="ok", output=payload(row), attempts=1, finished_at=2.0))


async def write_rows(store: Store) -> None:
    await asyncio.gather(*(write_row(store, row) for row in range(ROWS)))


def write(path: Path) -> None:
    with open_store(path) as store:
        run = RunRow(
            id="run1", chain="golden", chain_hash="h", source=b"chain: golden", rows=ROWS, started_at=1.0
        )
        store.put(run, StepRow(run_id="run1", id="triage", kind="prompt", status="running", started_at=1.0))
        asyncio.run(write_rows(store))
        weights = path.parent / "weights"
        weights.write_bytes(WEIGHTS)
        sha = store.put_file(weights)
        if store.model("tuned") is None:
            files = b'{"adapter/weights": "%s"}' % sha.encode()
            store.publish(ModelRow(name="tuned", kind="adapter", files=files, sha256=sha, created_at=1.0))
        store.materialise(
            {"adapter/weights": sha, "config": store.put_blob(b"{}")}, store.folder("models") / "tuned"
        )
        ended = StepRow(
            run_id="run1", id="triage", kind="prompt", status="ok", started_at=1.0, finished_at=2.0
        )
        store.put(replace(run, status="ok", finished_at=2.0), ended)
        store.write_manifest("run1")


def note(connection) -> None:
    connection.execute(text("ALTER TABLE runs ADD COLUMN note TEXT"))
    connection.execute(text("UPDATE runs SET note = chain"))


UPGRADE = (*MIGRATIONS, Migration(len(MIGRATIONS) + 1, "note", note))


def upgrade(path: Path) -> None:
    migrate(SqliteFile(path / "headrace.db"), clock=Clock(), migrations=UPGRADE)


def verify(path: Path) -> None:
    with open_store(path) as store:
        report = store.verify_report(grace=0)
        print(report.problems, len(report.orphans_removed))


async def endless_caller(store: Store, caller: int) -> None:
    row = caller
    while True:
        size = 70_000 if row % 11 == 0 else 100
        output = (b"%d " % row * size)[:size]
        await store.aput(
            RecordRow(id=f"r{row}", run_id="run1", step="triage", row=row, status="ok", output=output)
        )
        print(row, flush=True)
        row += 8


def endless(path: Path) -> None:
    async def main() -> None:
        await asyncio.gather(*(endless_caller(store, caller) for caller in range(8)))

    with open_store(path) as store:
        run = RunRow(id="run1", chain="golden", chain_hash="h", source=b"x", started_at=1.0)
        store.put(run, StepRow(run_id="run1", id="triage", kind="prompt"))
        asyncio.run(main())


if __name__ == "__main__":
    {"write": write, "upgrade": upgrade, "verify": verify, "endless": endless}[sys.argv[1]](Path(sys.argv[2]))
