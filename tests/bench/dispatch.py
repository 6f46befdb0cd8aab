"""From a run's decision to send a step to another pool to that step's first line of work.

    python tests/bench/dispatch.py [--times 5]

A real Prefect server, store and workers: one run of a chain whose Python steps write down the time, each
second one of them on a pool. The pool is served by `headrace worker`, then by a process worker as
`headrace up` starts it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from servers.prefect_server import prefect_server
from servers.prefect_workers import start_part_worker, start_worker, wait_until_online

MAIN = "from flows.cli import main; main()"
WORK = """import time


def begin(before):
    return time.time()
"""


def chain(pool: str, times: int) -> str:
    """Return a chain that goes to the pool and back, so many times."""
    lines = ["chain: dispatch", "steps:", '  here0: {python: "work.py:begin", args: {before: ""}}']
    for number in range(times):
        sent = f'args: {{before: "{{{{ here{number}.value }}}}"}}, pool: {pool}'
        back = f'args: {{before: "{{{{ there{number}.value }}}}"}}'
        lines.append(f'  there{number}: {{python: "work.py:begin", {sent}}}')
        lines.append(f'  here{number + 1}: {{python: "work.py:begin", {back}}}')
    return "\n".join(lines) + "\n"


def dispatch(folder: Path, url: str, kind: str, times: int) -> list[float]:
    """Return the seconds between the end of a step here and the beginning of the next one there."""
    pool, environment = f"dispatch_{kind}", _environment(folder, url)
    start = start_part_worker if kind == "warm" else start_worker
    worker = start(folder, pool, f"{kind}-worker", environment)
    try:
        wait_until_online(url, pool, worker)
        (folder / "chain.yaml").write_text(chain(pool, times))
        (folder / "work.py").write_text(WORK)
        command = [sys.executable, "-c", MAIN]
        ran = subprocess.run(
            [*command, "run", "chain.yaml"], cwd=folder, env=environment, capture_output=True
        )
        if ran.returncode != 0:
            raise SystemExit(ran.stderr.decode() + worker.log.read_text())
    finally:
        worker.kill()
    from chains.store import open_store

    with open_store(environment["HEADRACE_STORE"]) as store:
        records = {record.step: record for record in store.records(store.runs(limit=1)[0].id)}
    began = {step: json.loads(record.output or b"null")["value"] for step, record in records.items()}
    return [began[f"there{number}"] - began[f"here{number}"] for number in range(times)]


def _environment(folder: Path, url: str) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "HEADRACE_"))
    }
    return kept | {
        "PREFECT_API_URL": url,
        "PREFECT_HOME": str(folder / "home"),
        "HEADRACE_STORE": str(folder / "store"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }


def main() -> None:
    """Measure both kinds of worker and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--times", type=int, default=5, help="how often the pool is gone to (5)")
    times = parser.parse_args().times
    with tempfile.TemporaryDirectory() as name, prefect_server(Path(name) / "prefect") as url:
        for kind in ("warm", "cold"):
            folder = Path(name) / kind
            folder.mkdir()
            found = dispatch(folder, url, kind, times)
            each = ", ".join(f"{seconds:.2f}" for seconds in found)
            print(f"{kind}: median {statistics.median(found):.2f} s of {each}; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
