"""A real Prefect process worker in its own process group, for tests that run deployments."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def worker(
    pool: str, environment: Mapping[str, str], folder: Path, *, limit: int = 2
) -> Iterator[subprocess.Popen[bytes]]:
    """Serve `pool` with one worker until the block ends; its flow runs end with it.

    It runs `limit` flow runs at once: each is a process, and a schedule may ask for more than a machine has.
    """
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
    command += ["--limit", str(limit)]
    with (folder / f"worker-{pool}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**environment, "PREFECT_WORKER_QUERY_SECONDS": "1", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=20)
