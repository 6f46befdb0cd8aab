"""Whole runs: the command line in its own process, a real Prefect server, a real OpenAI-compatible server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from servers.launch import Running, start
from servers.prefect_workers import Worker, start_part_worker, wait_until_online

CHAINS = Path(__file__).parent / "chains"
WORDS = ("refund", "delivery", "question")


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Desk:
    """A copy of the chain `desk`, a store and an endpoint of its own."""

    folder: Path
    server: Running
    environment: dict[str, str]

    @property
    def chain(self) -> Path:
        return self.folder / "desk" / "chain.yaml"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def tickets(self, count: int = 20) -> Path:
        path = self.folder / "tickets.jsonl"
        rows = [
            {"ticket": f"Ticket {n}: about my {WORDS[n % 3]}, please.", "intent": WORDS[n % 3]}
            for n in range(count)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", "from flows.cli import main; main()", *arguments]

    def headrace(self, *arguments: str) -> Finished:
        done = subprocess.run(
            self.command(*arguments),
            capture_output=True,
            cwd=self.folder,
            env=self.environment,
            timeout=150,
            stdin=subprocess.DEVNULL,
        )
        return Finished(done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def sent(self) -> int:
        return len([line for line in self.server.ledger() if line["path"].endswith("/chat/completions")])


def environment_of(folder: Path) -> dict[str, str]:
    """Return the environment of commands whose store and Prefect home are in a folder."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "OPENAI_"))}
    return kept | {
        "HEADRACE_STORE": str(folder / "store"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PREFECT_HOME": str(folder / "prefect"),
    }


@pytest.fixture
def prefect_desk(make_desk: Callable[..., Desk], prefect_url: str) -> Callable[..., Desk]:
    """Makes desks whose commands use the Prefect server of the tests."""

    def make(*script: dict[str, Any], **options: Any) -> Desk:
        desk = make_desk(*script, **options)
        desk.environment["PREFECT_API_URL"] = prefect_url
        return desk

    return make


@pytest.fixture
def make_desk(tmp_path: Path) -> Iterator[Callable[..., Desk]]:
    servers: list[Running] = []

    def make(*script: dict[str, Any], **options: Any) -> Desk:
        shutil.copytree(CHAINS / "desk", tmp_path / "desk")
        server = start(tmp_path, script, **options)
        servers.append(server)
        chain = tmp_path / "desk" / "chain.yaml"
        chain.write_text(chain.read_text().replace("http://127.0.0.1:1/v1", server.url))
        return Desk(tmp_path, server, environment_of(tmp_path))

    yield make
    for server in servers:
        server.stop()


@pytest.fixture
def make_tuned_desk(make_desk: Callable[..., Desk], prefect_url: str) -> Callable[..., Desk]:
    """Give a desk whose chain trains a tiny model and asks it, both on a pool."""

    def make(pool: str, max_steps: int = 4, **options: Any) -> Desk:
        desk = make_desk(**options)
        desk.environment |= {"PREFECT_API_URL": prefect_url, "OMP_NUM_THREADS": "1"}
        shutil.copytree(CHAINS / "tuned", desk.chain.parent, dirs_exist_ok=True)
        text = desk.chain.read_text().replace("http://127.0.0.1:1/v1", desk.server.url)
        text = text.replace("pool: gpu", f"pool: {pool}").replace("max_steps: 4", f"max_steps: {max_steps}")
        desk.chain.write_text(text)
        return desk

    return make


@pytest.fixture
def serve_parts(prefect_url: str) -> Iterator[Callable[..., Worker]]:
    """Serve a pool with `headrace worker` until the test ends."""
    started: list[Worker] = []

    def serve(desk: Desk, pool: str, name: str) -> Worker:
        started.append(start_part_worker(desk.folder, pool, name, desk.environment))
        wait_until_online(prefect_url, pool, started[-1])
        return started[-1]

    yield serve
    for worker in started:
        worker.signal(signal.SIGCONT)
        worker.kill()


@pytest.fixture
def desk(make_desk: Callable[..., Desk]) -> Desk:
    return make_desk()
