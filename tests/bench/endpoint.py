"""Start the endpoint in a process of its own, set it up, and read its ledger."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SERVER = Path(__file__).with_name("endpoint_server.py")
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Endpoint:
    """A running endpoint; `url` ends in `/v1`."""

    url: str
    process: subprocess.Popen[str]

    def reset(self, **options: Any) -> None:
        """Empty the ledger and take other options (`Options` in endpoint_server.py)."""
        self._send("/reset", method="PUT", body=json.dumps(options).encode())

    def stats(self) -> dict[str, Any]:
        return self._send("/stats")

    def ids(self) -> dict[str, list[list[float | None]]]:
        """Return when each marked call came and when it was answered (None: never), try by try."""
        return self._send("/ids")

    def _send(self, path: str, *, method: str = "GET", body: bytes | None = None) -> Any:
        request = urllib.request.Request(self.url.removesuffix("/v1") + path, body, method=method)
        with _direct.open(request, timeout=30) as reply:
            return json.loads(reply.read())


@contextlib.contextmanager
def endpoint() -> Iterator[Endpoint]:
    """Run an endpoint for the length of a `with` block."""
    process = subprocess.Popen([sys.executable, str(SERVER)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield Endpoint(process.stdout.readline().strip(), process)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
