"""Workers of Prefect pools in process groups of their own, to be killed with all that they have started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servers.prefect_api import ask


@dataclass(frozen=True)
class Worker:
    """A running worker of a pool."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def descendants(self) -> list[int]:
        """Return the ids of all processes below this one, and its own; they may be in other groups."""
        parents: dict[int, list[int]] = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                except (OSError, ValueError, IndexError):
                    continue
                parents.setdefault(parent, []).append(int(folder.name))
        found = [self.process.pid]
        for pid in found:
            found.extend(parents.get(pid, []))
        return found

    def signal(self, number: int) -> None:
        """Send a signal to the worker and to all that it has started."""
        for pid in self.descendants():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def kill(self) -> None:
        """Kill the worker and its flow runs at once."""
        self.signal(signal.SIGKILL)
        self.process.wait(timeout=20)


def start_worker(folder: Path, pool: str, name: str, environment: Mapping[str, str], *options: str) -> Worker:
    """Start a process worker of a pool, which is made if it is not there."""
    from flows.pools import worker_environment

    command = ["-m", "prefect", "worker", "start", "--pool", pool, "--type", "process", "--name", name]
    return _start(folder, name, [*command, *options], {**environment, **worker_environment()})


def start_part_worker(folder: Path, pool: str, name: str, environment: Mapping[str, str]) -> Worker:
    """Start `headrace worker` for a pool, which is made if it is not there."""
    command = ["-c", "from flows.cli import main; main()", "worker", "--pool", pool, "--name", name]
    return _start(folder, name, command, environment)


def _start(folder: Path, name: str, command: list[str], environment: Mapping[str, str]) -> Worker:
    log = folder / f"{name}.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Worker(name, process, log)


def wait_until_online(url: str, pool: str, *workers: Worker) -> None:
    """Return when the server has heard of these workers."""
    wanted = {worker.name for worker in workers}
    for _ in range(600):
        for worker in workers:
            assert worker.process.poll() is None, worker.log.read_text()
        try:
            found: list[dict[str, Any]] = ask(url, f"work_pools/{pool}/workers/filter", {})
        except OSError:
            found = []  # the first worker makes the pool
        if wanted <= {entry["name"] for entry in found if entry["status"] == "ONLINE"}:
            return
        time.sleep(0.1)
    raise AssertionError(f"the workers of {pool} did not come up")
