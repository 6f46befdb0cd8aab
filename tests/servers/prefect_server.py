"""A real Prefect server in a process of its own, on a home and a port of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from servers.ports import free_port


@contextmanager
def prefect_server(home: Path, *options: str, port: int | None = None, **settings: str) -> Iterator[str]:
    """Run a server whose files are in `home`, on a port or on any free one; give the address of its API."""
    home.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    own = {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    command += options
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env=os.environ | own | settings,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        url = f"http://127.0.0.1:{port}/api"
        try:
            _wait(url, process)
            yield url
        finally:
            process.terminate()
            process.wait(timeout=20)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(1800):
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except OSError:
            assert process.poll() is None, "the Prefect server ended"
            time.sleep(0.05)
    raise AssertionError("the Prefect server did not come up")
