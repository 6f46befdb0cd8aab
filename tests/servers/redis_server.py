"""A private Redis server on a free port, which keeps nothing and wants a password."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from servers.ports import free_port


def missing() -> str | None:
    """Say why no server can be started on this machine, or None."""
    return None if shutil.which("redis-server") else "Redis is not installed (apt-get install redis-server)"


@contextmanager
def redis_server(password: str) -> Iterator[str]:
    """Run a server; give `host:port`."""
    port = free_port()
    asked = {"--port": str(port), "--bind": "127.0.0.1", "--requirepass": password, "--save": ""}
    process = subprocess.Popen(
        ["redis-server", *(word for option in asked.items() for word in option)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(port, process)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=20)


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=2).close()
            return
        except OSError:
            assert process.poll() is None, "the Redis server ended"
            time.sleep(0.05)
    raise AssertionError("the Redis server did not come up")
