"""Several processes on one store: how much faster are N of them than one?

Each process runs a batch of its own, of the same size, with the same concurrency; all begin together. Where
the endpoint is not the limit, N processes should make N times the calls, as long as the machine has the CPU
for all of them, the server and the endpoint: what that comes to is the table's last column.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from contenders import Bench, Contender, Started, start
from workload import write_rows

READY_LIMIT_S = 120


def processes(
    bench: Bench,
    who: Contender,
    *,
    store: str | None,
    numbers: Sequence[int],
    server_cpu: Callable[[], float],
    say: Any,
) -> dict[str, Any]:
    """Run each number of processes in turn and return the calls per second of each.

    `server_cpu` tells the CPU seconds that the store's server has used so far.
    """
    found = {}
    for number in numbers:
        say(f"{number} processes")
        found[str(number)] = _together(bench, who, store, number, server_cpu)
    return found


def table(found: dict[str, Any]) -> list[list[str]]:
    first = next(iter(found.values()))
    lines = [["processes", "calls/s", "times one process", "client CPU per call"]]
    lines[0] += ["the store's server per call", "cores in use, server and endpoint included"]
    for number, figures in found.items():
        lines.append(
            [
                number,
                f"{figures['calls_s']:.0f}",
                f"{figures['calls_s'] / first['calls_s']:.2f}",
                f"{1000 * figures['cpu_s'] / figures['calls']:.2f} ms",
                f"{1000 * figures['server_cpu_s'] / figures['calls']:.2f} ms",
                f"{figures['all_cpu_s'] / figures['seconds']:.2f}",
            ]
        )
    return lines


def _together(
    bench: Bench, who: Contender, store: str | None, number: int, server_cpu: Callable[[], float]
) -> dict[str, float]:
    folder = bench.new_folder(f"{number}-processes")
    gate = folder / "go"
    bench.reset()
    begun = [_one(bench, who, folder / str(n), store or str(folder / "store"), gate) for n in range(number)]
    _wait_ready(begun)
    bench.reset()
    gate.touch()
    began, began_cpu = time.monotonic(), server_cpu()
    figures = [one.finish() for one in begun]
    server, stats = server_cpu() - began_cpu, bench.endpoint.stats()
    calls = stats["calls"]
    seconds = max(one["ended_at"] for one in figures) - began
    cpu = sum(one["cpu_s"] for one in figures)
    return {
        "calls": calls,
        "seconds": seconds,
        "calls_s": calls / seconds,
        "cpu_s": cpu,
        "server_cpu_s": server,
        "all_cpu_s": cpu + server + stats["cpu_s"],
    }


def _one(bench: Bench, who: Contender, folder: Path, store: str, gate: Path) -> Started:
    folder.mkdir()
    first = 1_000_000 * int(folder.name)
    data = write_rows(folder / "rows.jsonl", range(first, first + bench.rows))
    warm = write_rows(folder / "warm.jsonl", range(first - 1, first))
    return start(bench, who, folder, data, "--warm-data", str(warm), "--store", store, "--gate", str(gate))


def _wait_ready(begun: Sequence[Started]) -> None:
    until = time.monotonic() + READY_LIMIT_S
    while not all(one.result.with_suffix(".ready").exists() for one in begun):
        if time.monotonic() > until or any(one.process.poll() is not None for one in begun):
            raise RuntimeError("a process did not come up:\n" + "".join(o.errors.read_text() for o in begun))
        time.sleep(0.02)
