"""A long batch: is memory flat, is the last tenth as fast as the first, how large is the store?"""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

from contenders import Bench, Contender, start
from workload import write_rows

SAMPLE_S = 1.0
PAYLOADS = {
    "records": ("inputs", "messages", "output", "error"),
    "attempts": ("request", "response"),
}


def flatness(bench: Bench, who: Contender, *, say: Any) -> dict[str, Any]:
    """Run the batch once and watch it."""
    folder = bench.new_folder(f"flat-{who.name}")
    data = write_rows(folder / "rows.jsonl", range(bench.rows))
    calls = bench.rows * bench.steps
    bench.reset(mark_every=max(1, calls // 100))
    begun = start(bench, who, folder, data)
    memory = _watched(begun.process.pid, say, bench)
    figures = begun.finish()
    stats = bench.endpoint.stats()
    times = [stats["first_at"], *stats["marks"]]
    tenth = len(stats["marks"]) // 10
    return {
        "rows": bench.rows,
        "seconds": figures["seconds"],
        "calls": stats["calls"],
        "cpu_s": figures["cpu_s"],
        "peak_mb": figures["peak_mb"],
        "memory_mb": memory,
        "tenths_calls_s": [
            tenth * (calls // 100) / (times[(n + 1) * tenth] - times[n * tenth]) for n in range(10)
        ],
        **_size(folder / "store"),
    }


def table(found: dict[str, Any]) -> list[list[str]]:
    tenths, memory = found["tenths_calls_s"], found["memory_mb"]
    mid = memory[len(memory) // 2]
    heads = ["rows", "calls/s", "first tenth", "last tenth", "last : first", "peak memory"]
    heads += ["memory half-way", "memory at the end", "store per record beyond its payload"]
    return [
        heads,
        [
            f"{found['rows']:,}",
            f"{found['calls'] / found['seconds']:.0f}",
            f"{tenths[0]:.0f} calls/s",
            f"{tenths[-1]:.0f} calls/s",
            f"{tenths[-1] / tenths[0]:.3f}",
            f"{found['peak_mb']:.0f} MB",
            f"{mid:.0f} MB",
            f"{memory[-1]:.0f} MB",
            f"{found['beyond_payload'] / found['records']:.0f} bytes",
        ],
    ]


def _watched(pid: int, say: Any, bench: Bench) -> list[float]:
    """Sample the resident memory (MB) of a process until it ends."""
    samples: list[float] = []
    stop = threading.Event()
    status = Path(f"/proc/{pid}/status")
    told = time.monotonic()
    while not stop.wait(SAMPLE_S):
        try:
            lines = status.read_text().splitlines()
        except OSError:
            break
        found = [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")]
        if not found:  # a zombie: it has ended and waits for us
            break
        samples += found
        if time.monotonic() - told > 30:
            told = time.monotonic()
            say(f"{bench.endpoint.stats()['answered']:,} answered, {samples[-1]:.0f} MB")
    return samples or [0.0]


def _size(store: Path) -> dict[str, int]:
    files = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    with sqlite3.connect(store / "headrace.db") as database:
        payload = sum(
            database.execute(f"SELECT coalesce(sum(length({column})), 0) FROM {table}").fetchone()[0]
            for table, columns in PAYLOADS.items()
            for column in columns
        )
        records = database.execute("SELECT count(*) FROM records").fetchone()[0]
    return {"store": files, "payload": payload, "records": records, "beyond_payload": files - payload}
