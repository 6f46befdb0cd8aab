"""How many rows a second the store takes, beside a bare loop of sqlite3.

    python tests/bench/bench_store.py [--callers 64] [--rows 1000]

The bare loop writes the same columns with the same durability in transactions of as many rows as there are
callers: what is left to win by any store on SQLite. Nothing here is asserted.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import tempfile
import time
from pathlib import Path

from chains.store import RecordRow, RunRow, StepRow, Store, open_store
from chains.store.shapes import encode

PAYLOAD = b"an answer of a usual length " * 20


def record(row: int) -> RecordRow:
    times = {"started_at": 1.0, "finished_at": 2.0}
    return RecordRow(
        id=f"r{row}",
        run_id="run1",
        step="a",
        row=row,
        status="ok",
        value_key=f"{row:064d}",
        output=PAYLOAD,
        **times,
    )


async def through_the_store(store: Store, callers: int, rows: int) -> tuple[float, int]:
    async def caller(first: int) -> None:
        for row in range(first, first + rows):
            await store.aput(record(row))

    before, began = store.transactions, time.perf_counter()
    await asyncio.gather(*(caller(number * rows) for number in range(callers)))
    return time.perf_counter() - began, store.transactions - before


def through_sqlite3(like: Path, database: Path, callers: int, rows: int) -> float:
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    schema = sqlite3.connect(like)
    for (sql,) in schema.execute("SELECT sql FROM sqlite_master WHERE tbl_name = 'records' AND sql NOT NULL"):
        connection.execute(sql)
    schema.close()
    values = [tuple(encode(record(row))[0].values()) for row in range(callers * rows)]
    names = ", ".join(f'"{name}"' for name in encode(record(0))[0])
    statement = f"INSERT INTO records ({names}) VALUES ({', '.join('?' * len(values[0]))})"
    began = time.perf_counter()
    for start in range(0, len(values), callers):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(statement, values[start : start + callers])
        connection.execute("COMMIT")
    took = time.perf_counter() - began
    connection.close()
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--rows", type=int, default=1000, help="rows per caller")
    given = parser.parse_args()
    total = given.callers * given.rows
    with tempfile.TemporaryDirectory() as folder, open_store(Path(folder) / "store") as store:
        run = RunRow(id="run1", chain="bench", chain_hash="h", source=b"x", started_at=1.0)
        store.put(run, StepRow(run_id="run1", id="a", kind="prompt"))
        bare = through_sqlite3(
            store.path / "headrace.db", Path(folder) / "bare.db", given.callers, given.rows
        )
        took, transactions = asyncio.run(through_the_store(store, given.callers, given.rows))
    print(f"store    {total / took:10,.0f} rows/s   {transactions:,} transactions for {total:,} rows")
    print(f"sqlite3  {total / bare:10,.0f} rows/s   in groups of {given.callers}")
    print(f"the store takes {took / bare:.1f} times as long")


if __name__ == "__main__":
    main()
