"""What the scripts of all contenders share: their arguments, a warm-up, and how they are measured.

Each contender runs in a process of its own, does the whole batch once and writes `seconds`, `cpu_s` and
`peak_mb` as JSON. Seconds and CPU are those of the batch, from reading the data set to the last answer;
imports and a warm-up of one row come before. The peak is that of the whole process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--warm-data", type=Path, help="rows to run through first, not measured")
    parser.add_argument("--folder", type=Path, required=True, help="for chain and store")
    parser.add_argument("--result", type=Path, help="file for what was measured")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--store", help="another place for the store than the folder")
    parser.add_argument("--shard-rows", type=int)
    parser.add_argument("--prefect", action="store_true", help="run Headrace as a Prefect flow")
    parser.add_argument("--gate", type=Path, help="begin when this file is there; say so in `--result`.ready")
    parser.add_argument("--repeat", type=int, default=1, help="how often to run the batch, each measured")
    return parser.parse_args()


def contend(given: argparse.Namespace, batch: Callable[[Path], None]) -> None:
    """Warm up, run the batch, write what it took."""
    if given.warm_data is not None:
        batch(given.warm_data)
    if given.gate is not None:
        _wait_at(given.gate, given.result.with_suffix(".ready"))
    seconds, began_cpu = [], cpu_seconds()
    for _ in range(given.repeat):
        began = time.perf_counter()
        batch(given.data)
        seconds.append(time.perf_counter() - began)
    found = {
        "seconds": sum(seconds),
        "each": seconds,
        "cpu_s": cpu_seconds() - began_cpu,
        "peak_mb": peak_mb(),
        "ended_at": time.monotonic(),
    }
    if given.result is not None:
        given.result.write_text(json.dumps(found))


def _wait_at(gate: Path, ready: Path) -> None:
    ready.touch()
    while not gate.exists():
        time.sleep(0.005)


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_mb() -> float:
    """Return the process's own peak; `ru_maxrss` would count that of the process that forked it."""
    for line in Path(f"/proc/{os.getpid()}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
