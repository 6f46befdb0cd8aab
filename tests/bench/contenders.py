"""Who is compared, and how one of them is run: always in a process of its own.

A cold start is measured on the program that a user would start: the command line for Headrace, the script for
the loops.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from endpoint import Endpoint
from workload import write_chain, write_rows

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TIMEOUT_S = 3600


@dataclass(frozen=True)
class Contender:
    """One way to make the calls. `share` is the part of the rows that it is given; the rest is scaled."""

    name: str
    title: str
    script: str
    flags: tuple[str, ...] = ()
    command_line: tuple[str, ...] | None = None
    keeps: str = "nothing"
    prefect: bool = False
    share: float = 1.0


CONTENDERS = (
    Contender(
        "headrace", "Headrace, `--direct`", "contend_headrace.py", (), ("--direct",), keeps="everything"
    ),
    Contender(
        "headrace-prefect",
        "Headrace, Prefect flow",
        "contend_headrace.py",
        ("--prefect",),
        (),
        keeps="everything",
        prefect=True,
    ),
    Contender("aiohttp", "bare aiohttp loop (the limit)", "contend_aiohttp.py"),
    Contender("openai", "bare `AsyncOpenAI` loop", "contend_openai.py"),
    Contender(
        "prefect-task", "one Prefect task per call", "contend_prefect_task.py", prefect=True, share=0.05
    ),
)

PREFECT_FLOW = Contender(
    "prefect-flow", "bare Prefect flow, no-op tasks", "contend_prefect_flow.py", prefect=True
)
"""What a run through Prefect cannot be faster than; it makes no calls."""


@dataclass
class Bench:
    """What all measurements of one go share: the endpoint, the load, a folder, Prefect's API if one runs."""

    endpoint: Endpoint
    folder: Path
    rows: int = 1000
    steps: int = 3
    concurrency: int = 64
    latency: float = 0.2
    sigma: float = 0.0
    temperature: float | None = None
    prefect_url: str | None = None
    faults: Mapping[str, float] = field(default_factory=dict)
    _made: int = 0

    def new_folder(self, name: str) -> Path:
        self._made += 1
        folder = self.folder / f"{self._made:03d}-{name}"
        folder.mkdir()
        return folder

    def reset(self, **options: Any) -> None:
        """Empty the ledger; the endpoint answers as this bench says, and as `options` say on top."""
        self.endpoint.reset(**{"latency": self.latency, "sigma": self.sigma, **self.faults, **options})

    def environment(self) -> dict[str, str]:
        """Return an environment without anything that would change how a contender runs."""
        dropped = ("PREFECT_", "OPENAI_", "HEADRACE_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        prefect = {"PREFECT_API_URL": self.prefect_url} if self.prefect_url else {}
        home = str(self.folder / "prefect-home")
        quiet = {"PREFECT_LOGGING_LEVEL": "ERROR", "DO_NOT_TRACK": "1", "PREFECT_HOME": home}
        return {**kept, **prefect, **quiet, "PYTHONPATH": str(ROOT)}


@dataclass
class Started:
    """A contender's process and where it leaves its figures."""

    process: subprocess.Popen[bytes]
    result: Path
    errors: Path
    at: float

    def finish(self) -> dict[str, Any]:
        """Wait for the end and return the figures; raise with what the process said when it failed."""
        code = self.process.wait(timeout=TIMEOUT_S)
        if code != 0:
            raise RuntimeError(f"a contender ended with {code}:\n{self.errors.read_text()[-3000:]}")
        return json.loads(self.result.read_text())


def start(bench: Bench, who: Contender, folder: Path, data: Path, *flags: str) -> Started:
    """Start a contender's script over a data set."""
    result, errors = folder / "result.json", folder / "errors.txt"
    command = [
        *(sys.executable, str(HERE / who.script), "--url", bench.endpoint.url),
        *("--data", str(data), "--folder", str(folder), "--result", str(result)),
        *("--concurrency", str(bench.concurrency), "--steps", str(bench.steps)),
        *(("--temperature", str(bench.temperature)) if bench.temperature is not None else ()),
        *who.flags,
        *flags,
    ]
    return _spawn(bench, command, result, errors)


def measure(bench: Bench, who: Contender, *flags: str, **options: Any) -> dict[str, Any]:
    """Run a contender over the rows, warm, and return its figures with the ledger's."""
    folder = bench.new_folder(who.name)
    rows = min(bench.rows, max(bench.concurrency, int(bench.rows * who.share)))
    data = write_rows(folder / "rows.jsonl", range(rows))
    warm = write_rows(folder / "warm.jsonl", range(1_000_000, 1_000_001))
    bench.reset(**options)
    found = start(bench, who, folder, data, "--warm-data", str(warm), *flags).finish()
    stats = bench.endpoint.stats()
    stats["calls"] -= bench.steps  # the warm-up's
    found |= {"rows": rows, "ledger": stats, "folder": str(folder)}
    return found


def cold_start(bench: Bench, who: Contender) -> float:
    """Return the seconds from the start of a new process to its first request."""
    folder = bench.new_folder(f"cold-{who.name}")
    data = write_rows(folder / "rows.jsonl", range(1))
    bench.reset()
    if who.command_line is None:
        started = start(bench, who, folder, data)
        started.finish()
    else:
        started = start_command(bench, who, folder, data)
        code = started.process.wait(timeout=TIMEOUT_S)
        if code != 0:
            raise RuntimeError(f"headrace ended with {code}:\n{started.errors.read_text()[-3000:]}")
    shutil.rmtree(folder / "store", ignore_errors=True)
    return bench.endpoint.stats()["first_at"] - started.at


def start_command(bench: Bench, who: Contender, folder: Path, data: Path, *more: str) -> Started:
    """Start `headrace run` over a data set; `more` replaces the chain and its data."""
    assert who.command_line is not None
    chain = write_chain(
        folder / "chain.yaml",
        steps=bench.steps,
        url=bench.endpoint.url,
        concurrency=bench.concurrency,
        temperature=bench.temperature,
    )
    what = more or ("run", str(chain), "--data", str(data))
    command = [sys.executable, "-c", "from flows.cli import main; main()", *what]
    command += [*who.command_line, "--store", str(folder / "store")]
    return _spawn(bench, command, folder / "none.json", folder / "errors.txt")


def _spawn(bench: Bench, command: list[str], result: Path, errors: Path) -> Started:
    with errors.open("ab") as sink:
        at = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=errors.parent,
            env=bench.environment(),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
        )
    return Started(process, result, errors, at)
