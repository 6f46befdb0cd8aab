"""Start and stop the OpenAI-compatible test server in a process of its own, and read its ledger.

In a test: put `tests/` on `sys.path` (a conftest does it), then `from servers.launch import launch`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SERVER = Path(__file__).with_name("openai_server.py")


@dataclass(frozen=True)
class Running:
    """A running server: `url` ends in `/v1`."""

    url: str
    ledger_path: Path
    process: subprocess.Popen[str]

    def ledger(self) -> list[dict[str, Any]]:
        """Return every request so far, in order; `raw` is the body's exact bytes."""
        lines = [json.loads(line) for line in self.ledger_path.read_text("utf-8").splitlines()]
        for line in lines:
            line["raw"] = line["body"].encode() if "body" in line else base64.b64decode(line["base64"])
        return lines

    def stop(self) -> None:
        """Kill the process; a second call does nothing."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


def start(
    folder: Path,
    script: Sequence[dict[str, Any]] = (),
    *,
    latency: float = 0.0,
    key: str | None = None,
    port: int = 0,
) -> Running:
    """Start a server with its ledger in `folder`; a ledger that is there already is carried on."""
    ledger = folder / "ledger.jsonl"
    ledger.touch()
    rules = folder / "script.json"
    rules.write_text(json.dumps(list(script)))
    command = [sys.executable, str(SERVER), "--port", str(port), "--ledger", str(ledger)]
    command += ["--latency", str(latency), "--script", str(rules), *(["--key", key] if key else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    if not url:
        raise RuntimeError(f"the test server ended with {process.wait()}")
    return Running(url, ledger, process)


@contextlib.contextmanager
def launch(folder: Path, script: Sequence[dict[str, Any]] = (), **options: Any) -> Iterator[Running]:
    """Run a server for the length of a `with` block."""
    server = start(folder, script, **options)
    try:
        yield server
    finally:
        server.stop()
