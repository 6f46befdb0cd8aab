"""Finds a Prefect API, or starts one for the length of a run.

Owns the choice: `PREFECT_API_URL`, else a server on Prefect's usual port, else one of our own with Prefect's
usual home, so that its runs are there when the user opens the UI later. Imports nothing of Prefect: a
server takes 4 to 18 s to come up, and it is started before the slow imports and awaited after them.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chains.clock import Clock
from chains.errors import EnvironmentLacks

USUAL_URL = "http://127.0.0.1:4200/api"
START_LIMIT_SECONDS = 90.0
_UNTIL_STDIN_CLOSES = '("$@"; kill 0) & read -r _; kill 0'
"""Runs a command until it ends or the pipe to us closes, so that a killed run leaves no server behind."""


@dataclass(slots=True)
class PrefectApi:
    """An API to use: `url`, and the process behind it where it is ours."""

    url: str
    process: subprocess.Popen[bytes] | None = None
    log: Path | None = None

    @property
    def ours(self) -> bool:
        """Whether this process started the server."""
        return self.process is not None

    def wait(self, say: Callable[[str], None]) -> None:
        """Return when the API answers, and point Prefect at it. Raises EnvironmentLacks when none does."""
        clock = Clock()
        begun, told = clock.monotonic(), False
        while not _answers(self.url):
            waited = clock.monotonic() - begun
            if self.process is None or self.process.poll() is not None or waited > START_LIMIT_SECONDS:
                raise EnvironmentLacks(f"no Prefect API answers at {self.url}.", hint=self._hint())
            if not told:
                say("Waiting for a Prefect server, 5 to 20 s (`prefect server start` keeps one running).")
                told = True
            _pause()
        os.environ["PREFECT_API_URL"] = self.url

    def settle(self, flow_run_id: str | None, limit: float = 10.0) -> None:
        """Wait until the server has digested the task runs of an ended flow run; it lags by events."""
        clock = Clock()
        begun = clock.monotonic()
        while flow_run_id and clock.monotonic() - begun < limit:
            if not self._count_open_tasks(flow_run_id):
                return
            _pause()

    def _count_open_tasks(self, flow_run_id: str) -> int:
        body = {
            "flow_runs": {"id": {"any_": [flow_run_id]}},
            "task_runs": {"state": {"type": {"any_": ["PENDING", "RUNNING", "SCHEDULED"]}}},
        }
        request = urllib.request.Request(
            f"{self.url}/task_runs/count",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as reply:
                return int(reply.read())
        except (OSError, ValueError):
            return 0

    def stop(self) -> None:
        """Stop the server if it is ours; the end of this process, however it comes, does the same."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
            self.process.wait(timeout=20)

    def _hint(self) -> str:
        if self.log is not None:
            return f"Its log is {str(self.log)!r}. `--direct` runs without Prefect."
        return "Start it, unset PREFECT_API_URL, or run with --direct."


def find() -> PrefectApi | None:
    """Return the API that is configured, else the one on Prefect's usual port, if there is one."""
    configured = _configured_url()
    if configured:
        return PrefectApi(configured)
    return PrefectApi(USUAL_URL) if _answers(USUAL_URL) else None


def start(folder: Path) -> PrefectApi:
    """Start a server of our own, which logs to `folder`; it is not awaited here."""
    port = _free_port()
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "prefect-server.log"
    environment = os.environ | {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as sink:
        process = subprocess.Popen(
            ["sh", "-c", _UNTIL_STDIN_CLOSES, "sh", *command],
            stdin=subprocess.PIPE,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C stops the run first; `kill 0` reaches this group only
        )
    return PrefectApi(f"http://127.0.0.1:{port}/api", process, log)


def running_api() -> str | None:
    """Return the address of an API that answers now, or None."""
    configured = _configured_url()
    for url in (configured,) if configured else (USUAL_URL,):
        if _answers(url):
            return url
    return None


def _configured_url() -> str | None:
    """Return the API that the environment or the active Prefect profile names."""
    if url := os.environ.get("PREFECT_API_URL"):
        return url
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    profiles = home / "profiles.toml"
    if not profiles.exists():
        return None
    import tomllib

    content: dict[str, Any] = tomllib.loads(profiles.read_text())
    name = os.environ.get("PREFECT_PROFILE", content.get("active", ""))
    url = content.get("profiles", {}).get(name, {}).get("PREFECT_API_URL")
    return str(url) if url else None


def _answers(url: str) -> bool:
    """Whether a Prefect API answers at `url` (its version is a JSON string)."""
    try:
        with urllib.request.urlopen(f"{url}/admin/version", timeout=2) as reply:
            return isinstance(json.loads(reply.read()), str)
    except (OSError, ValueError, urllib.error.URLError):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _pause() -> None:
    import time

    time.sleep(0.1)
