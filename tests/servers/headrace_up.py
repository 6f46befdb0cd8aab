"""`headrace up` in a process of its own, with a chain whose Python step does as its ticket says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from servers.ports import free_port
from servers.prefect_api import ask
from servers.waiting import until

CHAIN = """chain: shout
inputs:
  ticket: {type: string}
  tone: {type: string, enum: [warm, brief], default: warm}
steps: {reply: {python: "work.py:answer", args: {text: "{{ inputs.ticket }}"}}}
outputs: {reply: "{{ reply.value }}"}
"""
WORK = """import time


def answer(text):
    if text == "wait":
        time.sleep(120)
    if text == "boom":
        raise ValueError("no such thing")
    if text == "long":
        return "x" * 300_000
    return text.upper()
"""


class Up:
    """`headrace up` in a process of its own, marked in its environment so that what it leaves is found."""

    def __init__(self, folder: Path, *options: str, **environment: str) -> None:
        (folder / "chains").mkdir(exist_ok=True)
        (folder / "chains/shout.yaml").write_text(CHAIN)
        (folder / "chains/work.py").write_text(WORK)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.folder = folder
        self.mark = f"up-{os.getpid()}-{self.port}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        self.environment = kept | {
            "PREFECT_HOME": str(folder / "prefect"),
            "HEADRACE_STORE": str(folder / "store"),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "OMP_NUM_THREADS": "1",
            "UP_MARK": self.mark,
            **environment,
        }
        self.log = folder / "up.log"
        command = [*command_line("up", "chains", "--port", str(self.port), "--limit", "2"), *options]
        with self.log.open("wb") as sink:
            self.process = subprocess.Popen(
                command, cwd=folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
            )

    def stands(self) -> None:
        until(lambda: "' started!" in self.log.read_text() or self.process.poll() is not None)
        assert self.process.poll() is None, self.log.read_text()

    def start_run(self, ticket: str, chain: str = "shout") -> str:
        with urllib.request.urlopen(f"{self.url}/deployments/name/run-chain/{chain}", timeout=20) as reply:
            id_ = json.loads(reply.read())["id"]
        path = f"deployments/{id_}/create_flow_run"
        return ask(self.url, path, {"parameters": {"ticket": ticket}})["id"]

    def state(self, flow_run: str) -> str:
        (found,) = ask(self.url, "flow_runs/filter", {"flow_runs": {"id": {"any_": [flow_run]}}})
        return found["state_type"]

    def runs(self) -> list[dict[str, Any]]:
        done = subprocess.run(
            command_line("runs", "--json"), capture_output=True, cwd=self.folder, env=self.environment
        )
        return json.loads(done.stdout or b"[]")  # no store yet: no runs

    def left(self) -> list[str]:
        """Return the processes that were started below it and live."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if f"UP_MARK={self.mark}".encode() in (entry / "environ").read_bytes():
                        found.append((entry / "cmdline").read_bytes().decode().replace("\0", " "))
                except OSError:
                    continue
        return found


def command_line(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from flows.cli import main; main()", *arguments]
