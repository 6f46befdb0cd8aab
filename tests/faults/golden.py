"""A whole run that something happens to, and what is left of it.

Owns the golden chain (`desk` with a step that keeps blobs and one that makes a folder) and how its commands
are run: each in a process of its own. Knows nothing of what happens to a run, or of what must hold then.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from servers.launch import Running

from chains import failpoints
from chains.clock import Clock
from chains.store import Store, open_store
from chains.store.migrating import migrate
from chains.store.migrations import MIGRATIONS
from chains.store.sqlite import SqliteFile

ROOT = Path(failpoints.__file__).parents[1]
DESK = ROOT / "tests" / "e2e" / "chains" / "desk"
ROWS = 6
CALLS = 2 * ROWS
WORDS = ("refund", "delivery", "question")
STEPS = """
  long:
    python: functions.py:long
    args: {text: "{{ inputs.ticket }}", intent: "{{ triage.intent }}"}
  ready:
    prepare: examples.jsonl
    text: "{{ row.text }}"
  reply:
"""
LONG = """

def long(text: str, intent: str) -> str:
    return text * (4_000 if intent == "refund" else 1)
"""


MAIN = "from flows.cli import main; main()"


@dataclass(frozen=True)
class Crash:
    """Kill `command` (`run`, `resume`, `verify`) when it comes to `point` for the `count`-th time."""

    point: str
    count: int = 1
    command: str = "run"
    store: str = "new"
    """`new`, `old` (of an earlier schema) or `bucket` (with its blobs behind a URL)."""

    def __str__(self) -> str:
        where = {"new": "", "old": " in an old store", "bucket": " with a bucket"}[self.store]
        return f"{self.command} at {self.point} {self.count}{where}"


@dataclass
class Golden:
    """A copy of the chain, its rows and its store; `server` counts what it was asked."""

    folder: Path
    server: Running
    store: str = "new"
    environment: dict[str, str] = field(default_factory=dict)
    in_flight: Counter[bytes] = field(default_factory=Counter)
    """Requests that nobody had answered, as far as the store knew, when the run was killed."""

    def __post_init__(self) -> None:
        shutil.copytree(DESK, self.folder / "desk")
        chain = self.folder / "desk" / "chain.yaml"
        text = chain.read_text().replace("http://127.0.0.1:1/v1", self.server.url)
        chain.write_text(text.replace("\n  reply:\n", STEPS, 1))
        functions = self.folder / "desk" / "functions.py"
        functions.write_text(functions.read_text() + LONG)
        examples = ({"text": f"A customer asks question {number}."} for number in range(8))
        (self.folder / "desk" / "examples.jsonl").write_text("".join(json.dumps(e) + "\n" for e in examples))
        rows = (
            {"ticket": f"Ticket {number}: about my {WORDS[number % 3]}.", "intent": WORDS[number % 3]}
            for number in range(ROWS)
        )
        (self.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if self.store == "old":
            (self.folder / "store").mkdir()
            file = SqliteFile(self.folder / "store" / "headrace.db")
            migrate(file, clock=Clock(), migrations=MIGRATIONS[:1])

    def headrace(
        self, *arguments: str, points: str = "", code: str = MAIN
    ) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, points=points, code=code)
        out, err = process.communicate(timeout=90)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def start(self, *arguments: str, points: str = "", code: str = MAIN) -> subprocess.Popen[str]:
        foreign = ("PREFECT_", "HEADRACE_", "OPENAI_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        environment = kept | self.environment
        environment |= {
            "PYTHONPATH": str(ROOT),
            "HEADRACE_STORE": str(self.folder / "store"),
            failpoints.VARIABLE: points,
        }
        if self.store == "bucket":
            environment["HEADRACE_BLOBS"] = self._bucket
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def command(self, name: str) -> tuple[str, ...]:
        """Return the arguments of a command; before there is a run, to finish it is to start it."""
        out = ("--out", "out.jsonl", "--direct", "--json")
        if name == "verify":
            return ("verify",)
        if name == "resume" and self.run_id is not None:
            return ("resume", self.run_id, *out)
        return ("run", "desk/chain.yaml", "--data", "rows.jsonl", *out)

    def kill(self, crash: Crash) -> None:
        """Run the command until it is killed, and note what was in flight then."""
        done = self.headrace(*self.command(crash.command), points=f"{crash.point}=kill@{crash.count}")
        assert done.returncode == -signal.SIGKILL, f"{crash} was not reached: {done.stdout}{done.stderr}"
        self.in_flight.update(self.look("SELECT request FROM attempts WHERE state = 'intent'"))

    def finish(self) -> None:
        """Run the rest without a fault."""
        done = self.headrace(*self.command("resume"))
        assert done.returncode == 0, done.stdout + done.stderr

    @property
    def run_id(self) -> str | None:
        runs = self.look("SELECT id FROM runs")
        assert len(runs) <= 1, "the rest of a run became a run of its own"
        return runs[0] if runs else None

    def look(self, query: str) -> list[Any]:
        """Ask a copy: to open the database itself would mend what the crash left."""
        with TemporaryDirectory() as folder:
            for path in (self.folder / "store").glob("headrace.db*"):
                shutil.copy(path, folder)
            with closing(sqlite3.connect(Path(folder) / "headrace.db")) as connection:
                try:
                    return [value for (value,) in connection.execute(query)]
                except sqlite3.OperationalError as error:
                    assert "no such table" in str(error)  # the crash came before the schema
                    return []

    def opened(self) -> Store:
        return open_store(self.folder / "store", blobs=self._bucket if self.store == "bucket" else None)

    @property
    def _bucket(self) -> str:
        (self.folder / "bucket").mkdir(exist_ok=True)
        return f"file://{self.folder}/bucket"

    def asked(self) -> Counter[bytes]:
        return Counter(line["raw"] for line in self.server.ledger())

    def hashes(self) -> dict[str, str]:
        """Return the hash of every record's output, and of what `--out` names."""
        with self.opened() as store:
            found = {
                f"{record.step} {record.row} {record.status}": record.output or b""
                for record in store.records(str(self.run_id))
            }
        found["out.jsonl"] = (self.folder / "out.jsonl").read_bytes()
        # The paths of the files that a step made are the only thing that tells one folder from another.
        here = str(self.folder.resolve()).encode()
        return {
            name: hashlib.sha256(content.replace(here, b"")).hexdigest() for name, content in found.items()
        }

    def add_orphans(self, number: int) -> None:
        """Leave blobs that nothing refers to, as a crash does, and let them be old enough to go."""
        with self.opened() as store:
            for n in range(number):
                name = store.blobs.put(b"orphan %d" % n)
                os.utime(self.folder / "store" / "blobs" / name[:2] / name, (0, 0))
