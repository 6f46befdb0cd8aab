"""A run whose rows other processes do: workers of a Prefect pool, on one store."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers.postgres_server import temporary_postgres
from servers.prefect_api import ask
from servers.prefect_workers import Worker, start_worker, wait_until_online

from chains.store import open_store

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def start_workers(prefect_url: str, tmp_path: Path) -> Iterator[Callable[..., list[Worker]]]:
    started: list[Worker] = []

    def start(desk, pool: str, *names: str, options: tuple[str, ...] = ()) -> list[Worker]:
        new = [start_worker(tmp_path, pool, name, desk.environment, *options) for name in names]
        started.extend(new)
        wait_until_online(prefect_url, pool, *new)
        return new

    yield start
    for worker in started:
        worker.signal(signal.SIGCONT)
        worker.kill()


def part_runs(url: str, run_id: str) -> list[dict]:
    """The flow runs of a run's parts."""
    return ask(url, "flow_runs/filter", {"flow_runs": {"tags": {"all_": [f"part-of:{run_id}"]}}})


def outputs(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_run_on_the_workers_of_a_pool_as_they_do_in_one_process(
    prefect_desk, prefect_url: str, start_workers
) -> None:
    desk = prefect_desk()
    desk.environment |= {"HEADRACE_SHARD_ROWS": "5", "HEADRACE_PART_ROWS": "15"}
    data = str(desk.tickets(40))
    start_workers(desk, "parts-plain", "one", "two")
    away = desk.folder / "away.jsonl"
    done = desk.headrace(
        "run", str(desk.chain), "--data", data, "--shards-on", "parts-plain", "--out", str(away), "--json"
    )
    assert done.code == 0, done.err
    found = done.json()
    assert found["counts"]["reply"]["ok"] == 40
    assert found["counts"]["score"]["ok"] == 41  # its own record, and one for each row
    assert desk.sent() == 80
    parts = part_runs(prefect_url, found["run_id"])
    assert sorted(run["name"] for run in parts) == [
        f"desk · triage, shout, reply · {rows}" for rows in ("rows 0-14", "rows 15-29", "rows 30-39")
    ]
    assert {run["state_type"] for run in parts} == {"COMPLETED"}
    here = desk.folder / "here.jsonl"
    desk.environment["HEADRACE_STORE"] = str(desk.folder / "other")
    again = desk.headrace("run", str(desk.chain), "--data", data, "--direct", "--out", str(here), "--json")
    assert again.code == 0, again.err
    assert outputs(away) == outputs(here)


def wait_for(what: Callable[[], bool], seconds: float = 90) -> None:
    for _ in range(int(seconds * 20)):
        if what():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come to that")


def alive_parts(desk, run_id: str) -> int:
    with open_store(desk.environment["HEADRACE_STORE"], home=desk.folder / "home") as store:
        return sum(lease.alive for lease in store.part_leases(run_id).values())


def run_id_of(desk) -> str:
    with open_store(desk.environment["HEADRACE_STORE"], home=desk.folder / "home") as store:
        runs = store.runs()
    return runs[0].id if runs else ""


@pytest.fixture(params=["sqlite", "postgres"])
def at_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment in which everybody finds the store of the test."""
    if request.param == "sqlite":
        yield {"HEADRACE_STORE": str(tmp_path / "store")}
        return
    with temporary_postgres() as url:
        yield {"HEADRACE_STORE": f"{url}/postgres", "HEADRACE_HOME": str(tmp_path / "home")}


def test_a_worker_that_is_killed_costs_the_calls_in_flight_and_nothing_else(
    prefect_desk, prefect_url: str, start_workers, at_store: dict[str, str]
) -> None:
    desk = prefect_desk(latency=0.3)
    desk.environment |= {"HEADRACE_SHARD_ROWS": "20", "HEADRACE_PART_ROWS": "60", **at_store}
    # Eight calls under way, and as many next in line whose intents are written already.
    rows, in_flight, pool = 240, 16, f"parts-killed-{len(at_store)}"
    data, away = str(desk.tickets(rows)), desk.folder / "away.jsonl"
    one, _ = start_workers(desk, pool, f"{pool}-one", f"{pool}-two", options=("--limit", "1"))
    running = desk.start("run", str(desk.chain), "--data", data, "--shards-on", pool, "--out", str(away))
    wait_for(lambda: desk.sent() > 40 and alive_parts(desk, run_id_of(desk)) == 2, seconds=150)
    one.kill()
    output, errors = running.communicate(timeout=240)
    assert running.returncode == 0, (output, errors)
    assert b"was lost" in errors and b"sent again" in errors
    run_id = run_id_of(desk)
    with open_store(desk.environment["HEADRACE_STORE"], home=desk.folder / "home") as store:
        attempts = [attempt for attempt in store.attempts_of_run(run_id)]
        states = Counter(attempt.state for attempt in attempts)
        finished = Counter(attempt.record_id for attempt in attempts if attempt.state == "ok")
    assert set(finished.values()) == {1} and len(finished) == 2 * rows
    assert states["intent"] == 0 and states["ambiguous"] <= in_flight
    assert 2 * rows <= desk.sent() <= 2 * rows + states["ambiguous"]
    lost = [run for run in part_runs(prefect_url, run_id) if run["state_type"] == "CRASHED"]
    assert len(lost) == 1
    here = desk.folder / "here.jsonl"
    desk.environment["HEADRACE_STORE"] = str(desk.folder / "other")
    again = desk.headrace("run", str(desk.chain), "--data", data, "--direct", "--out", str(here), "--json")
    assert again.code == 0, again.err
    assert outputs(away) == outputs(here)
