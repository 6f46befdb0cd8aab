"""Finds a Prefect API, or starts one for the length of a run.

Owns the choice: `PREFECT_API_URL`, else a server on Prefect's usual port, else one of our own with Prefect's
usual home, so that its runs are there when the user opens the UI later. Imports nothing of Prefect: a
server takes 4 to 18 s to come up, and it is started before the slow imports and awaited after them.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

from chains.clock import Clock
from chains.errors import EnvironmentLacks
from flows.children import start_child

USUAL_URL = "http://127.0.0.1:4200/api"
START_LIMIT_SECONDS = 90.0
BUSY_SECONDS = 20.0
"""How long a server that is there may take to answer; one that is not refuses at once."""
REFUSED_HINT = "Set PREFECT_API_KEY for Prefect Cloud, PREFECT_API_AUTH_STRING for a server of your own"
State = Literal["ok", "refuses", "silent"]


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

    def name(self) -> None:
        """Point Prefect at it; to be called before Prefect is imported."""
        os.environ["PREFECT_API_URL"] = self.url

    def wait(self, say: Callable[[str], None]) -> None:
        """Return when the API answers. Raises EnvironmentLacks when none does."""
        clock = Clock()
        begun, told = clock.monotonic(), False
        while not self.answers():
            waited = clock.monotonic() - begun
            if self.process is None or self.process.poll() is not None or waited > START_LIMIT_SECONDS:
                shown = without_password(self.url)
                raise EnvironmentLacks(f"no Prefect API answers at {shown}.", hint=self._hint())
            if not told:
                say("Waiting for a Prefect server, 5 to 20 s (`prefect server start` keeps one running).")
                told = True
            _pause()

    def answers(self) -> bool:
        """Whether the API answers this user. Raises EnvironmentLacks where it refuses."""
        state = _state(self.url, BUSY_SECONDS)
        if state == "refuses":
            raise self._refusal()
        return state == "ok"

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
        try:
            return int(ask_api(f"{self.url}/task_runs/count", body, timeout=5))
        except (OSError, ValueError, HTTPException):
            return 0

    def stop(self) -> None:
        """Stop the server if it is ours; the end of this process, however it comes, does the same."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
            self.process.wait(timeout=20)

    def _refusal(self) -> EnvironmentLacks:
        return EnvironmentLacks(
            f"the Prefect API at {without_password(self.url)} answers, but refuses this user.",
            hint=f"{REFUSED_HINT}, or run with --direct.",
        )

    def _hint(self) -> str:
        if self.log is not None:
            return f"Its log is {str(self.log)!r}. `--direct` runs without Prefect."
        return "Start it, unset PREFECT_API_URL, or run with --direct."


def without_password(url: str) -> str:
    """Return an address as it may be shown: without a user and a password."""
    return _split_user(url)[0]


def find() -> PrefectApi | None:
    """Return the API that is configured, else the one on Prefect's usual port, if there is one."""
    configured = configured_url()
    if configured:
        return PrefectApi(configured)
    return PrefectApi(USUAL_URL) if _state(USUAL_URL) == "ok" else None


def start(folder: Path) -> PrefectApi:
    """Start a server of our own, which logs to `folder`; it is not awaited here.

    Raises EnvironmentLacks where the folder cannot be made.
    """
    port = _free_port()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentLacks(
            f"the folder {str(folder)!r} for a Prefect server's log cannot be made: {error.strerror}.",
            hint="Name another store with HEADRACE_STORE or --store, or run with --direct.",
        ) from error
    log = folder / "prefect-server.log"
    # `-P`: a folder `flows` where the user is must not be taken for ours.
    command = [sys.executable, "-P", "-m", "flows.prefect_process", str(port)]
    with log.open("wb") as sink:
        process = start_child(command, environment=server_environment(), sink=sink)
    return PrefectApi(f"http://127.0.0.1:{port}/api", process, log)


def server_command(host: str, port: int) -> list[str]:
    """Return the command that serves Prefect's API and UI at an address."""
    return [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port)]


def server_environment() -> dict[str, str]:
    """Return the environment of a server of ours: it sends no statistics and logs what is wrong."""
    return os.environ | {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
    }


@dataclass(frozen=True, slots=True)
class Looked:
    """What was found where a Prefect API should be; `url` may be shown."""

    url: str
    state: State
    configured: bool


def look() -> Looked:
    """Look for an API, where it is configured or on Prefect's usual port."""
    configured = configured_url()
    url = configured or USUAL_URL
    return Looked(without_password(url), _state(url), configured is not None)


def configured_url() -> str | None:
    """Return the API that the environment or the active Prefect profile names."""
    return _setting("PREFECT_API_URL")


def _setting(name: str) -> str | None:
    return os.environ.get(name) or _profile().get(name)


def _profile() -> dict[str, str]:
    """Return the active Prefect profile; raise EnvironmentLacks where the file is damaged."""
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    path = Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml").expanduser()
    if not path.exists():
        return {}
    import tomllib

    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        name = os.environ.get("PREFECT_PROFILE") or content.get("active", "")
        found = content.get("profiles", {}).get(name, {})
        return {key: str(value) for key, value in found.items() if value}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise EnvironmentLacks(
            f"Prefect's profiles in {str(path)!r} cannot be read: {error}.",
            hint="Correct the file or remove it; `--direct` runs without Prefect.",
        ) from error


def _state(url: str, timeout: float = 3) -> State:
    """Ask for the version, a JSON string; Prefect Cloud tells none, and is asked for a flow run."""
    try:
        try:
            is_api = isinstance(json.loads(ask_api(f"{url}/admin/version", timeout=timeout)), str)
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            is_api = isinstance(
                json.loads(ask_api(f"{url}/flow_runs/filter", {"limit": 1}, timeout=timeout)), list
            )
    except urllib.error.HTTPError as error:
        return "refuses" if error.code in (401, 403) else "silent"
    except (OSError, ValueError, HTTPException):
        return "silent"
    return "ok" if is_api else "silent"


def ask_api(url: str, body: dict[str, Any] | None = None, *, timeout: float = 3) -> bytes:
    """GET, or POST a body, in the user's name as Prefect's own client does; raise OSError as urllib does."""
    address, user = _split_user(url)
    headers = {"Content-Type": "application/json"}
    if key := _setting("PREFECT_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    elif user or (user := _setting("PREFECT_API_AUTH_STRING") or ""):
        headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data=data, headers=headers)
    with urllib.request.urlopen(request, timeout=timeout) as reply:
        found: bytes = reply.read()
        return found


def _split_user(url: str) -> tuple[str, str]:
    """Split an address into what may be shown and its `user:password`."""
    scheme, mark, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    user, at, host = host.rpartition("@")
    return (f"{scheme}{mark}{host}{slash}{path}", unquote(user)) if at else (url, "")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _pause() -> None:
    import time

    time.sleep(0.05)
