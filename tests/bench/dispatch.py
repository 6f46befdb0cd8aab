"""From a run's decision to send a step to another pool to that step's first line of work.

    python tests/bench/dispatch.py [--times 10]

A real Prefect server, store and workers: one run of a chain whose Python steps write down the time, each
second one of them on a pool. The pool is served by `headrace worker`, then by a process worker as
`headrace up` starts it. The first trip is told apart: what is imported for the first time is compiled then.

Beside the whole it tells when Prefect had the part, when a worker took it and when its flow run began, all
counted from the end of the step here; and how much processor time the process of the step there had used.
On a busy machine look at the least and at the processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from servers.prefect_api import ask
from servers.prefect_server import prefect_server
from servers.prefect_workers import start_part_worker, start_worker, wait_until_online

MAIN = "from flows.cli import main; main()"
WORK = """import time


def begin(before):
    return [time.time(), time.process_time()]
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


@dataclass(frozen=True)
class Trip:
    """One way to the pool, in seconds since the end of the step before it, and the processor's seconds."""

    sent: float
    taken: float
    begun: float
    at_work: float
    processor: float


def dispatch(folder: Path, url: str, kind: str, times: int) -> list[Trip]:
    """Go to a pool so many times; `kind` is that of its worker."""
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
        run = store.runs(limit=1)[0]
        records = {record.step: record for record in store.records(run.id)}
    began = {step: json.loads(record.output or b"null")["value"] for step, record in records.items()}
    parts = ask(url, "flow_runs/filter", {"flow_runs": {"tags": {"all_": [f"part-of:{run.id}"]}}})
    states = {part["parameters"]["steps"][0]: _states(url, part["id"]) for part in parts}
    trips = []
    for number in range(times):
        before, (at_work, processor) = began[f"here{number}"][0], began[f"there{number}"]
        seen = states[f"there{number}"]
        moments = [seen["Scheduled"], seen["Pending"], seen["Running"], at_work]
        trips.append(Trip(*(moment - before for moment in moments), processor))
    return trips


def _states(url: str, flow_run: str) -> dict[str, float]:
    """Return when a flow run came into its states."""
    with urllib.request.urlopen(f"{url}/flow_run_states/?flow_run_id={flow_run}", timeout=60) as reply:
        found = json.loads(reply.read())
    return {state["name"]: datetime.fromisoformat(state["timestamp"]).timestamp() for state in found}


def _environment(folder: Path, url: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT_", "HEADRACE_")) and name != "PYTHONDONTWRITEBYTECODE"
    }
    return kept | {
        "PREFECT_API_URL": url,
        "PREFECT_HOME": str(folder / "home"),
        "HEADRACE_STORE": str(folder / "store"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PYTHONPYCACHEPREFIX": str(folder / "compiled"),
    }


def main() -> None:
    """Measure both kinds of worker and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--times", type=int, default=10, help="how often the pool is gone to (10)")
    times = parser.parse_args().times
    with tempfile.TemporaryDirectory() as name, prefect_server(Path(name) / "prefect") as url:
        for kind in ("warm", "cold"):
            folder = Path(name) / kind
            folder.mkdir()
            first, *trips = dispatch(folder, url, kind, times + 1)
            _tell(kind, first, trips)


def _tell(kind: str, first: Trip, trips: Sequence[Trip]) -> None:
    whole = [trip.at_work for trip in trips]
    least, middle, most = min(whole), statistics.median(whole), max(whole)
    print(
        f"{kind}: median {middle:.2f} s, least {least:.2f}, most {most:.2f} of {len(trips)}; "
        f"first {first.at_work:.2f}; load {os.getloadavg()[0]:.1f}"
    )
    stages = {
        name: statistics.median(getattr(trip, name) for trip in trips) for name in ("sent", "taken", "begun")
    }
    used = [after.processor - before.processor for before, after in pairwise([first, *trips])]
    if kind == "cold":
        used = [trip.processor for trip in trips]
    told = ", ".join(f"{name} after {seconds:.2f} s" for name, seconds in stages.items())
    print(f"  {told}; processor time of the worker's process {statistics.median(used):.2f} s a trip")
    slowest = max(trips, key=lambda trip: trip.at_work)
    print(f"  the slowest: sent {slowest.sent:.2f}, taken {slowest.taken:.2f}, begun {slowest.begun:.2f}")


if __name__ == "__main__":
    main()
