"""Start and stop the OpenAI-compatible test server in a process of its own, and read its ledger.

In a conftest: put this folder on `sys.path`, then `from launch import launch`. (Not `tests/` itself: its
folders `chains` and `tasks` would hide the packages.)
"""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Rules = Sequence[dict[str, Any]]
SERVER = Path(__file__).with_name("openai_server.py")
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


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

    def restarted(self, folder: Path, script: Rules = (), **options: Any) -> Running:
        """Let the same process begin anew, with another ledger, script and `latency` or `key`."""
        ledger, rules = _files(folder, script)
        wanted = {"latency": 0.0, "key": None, **options, "ledger": str(ledger), "script": str(rules)}
        address = self.url.removesuffix("/v1") + "/restart"
        request = urllib.request.Request(address, json.dumps(wanted).encode(), method="PUT")
        with _direct.open(request):
            return Running(self.url, ledger, self.process)

    def stop(self) -> None:
        """Kill the process; a second call does nothing."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


def start(
    folder: Path, script: Rules = (), *, latency: float = 0.0, key: str | None = None, port: int = 0
) -> Running:
    """Start a server with its ledger in `folder`; a ledger that is there already is carried on."""
    ledger, rules = _files(folder, script)
    command = [sys.executable, str(SERVER), "--port", str(port), "--ledger", str(ledger)]
    command += ["--latency", str(latency), "--script", str(rules), *(["--key", key] if key else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    if not url:
        raise RuntimeError(f"the test server ended with {process.wait()}")
    return Running(url, ledger, process)


def _files(folder: Path, script: Rules) -> tuple[Path, Path]:
    ledger, rules = folder / "ledger.jsonl", folder / "script.json"
    ledger.touch()
    rules.write_text(json.dumps(list(script)))
    return ledger, rules


@contextlib.contextmanager
def launch(folder: Path, script: Rules = (), **options: Any) -> Iterator[Running]:
    """Run a server for the length of a `with` block."""
    server = start(folder, script, **options)
    try:
        yield server
    finally:
        server.stop()
