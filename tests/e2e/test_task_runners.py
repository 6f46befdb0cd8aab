"""A run whose shards a Dask cluster does: real worker processes, on one store."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from servers.prefect_api import ask

from chains.store import open_store

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def cluster_desk(make_desk: Callable, prefect_url: str):
    """A desk whose rows go to a cluster of two processes, in shards of 5."""

    def make(runner: str, *script, **options):
        desk = make_desk(*script, **options)
        desk.environment |= {
            "PREFECT_API_URL": prefect_url,
            "HEADRACE_TASK_RUNNER": runner,
            "HEADRACE_SHARD_ROWS": "5",
        }
        return desk

    return make


def outputs(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def store_of(desk):
    return open_store(desk.environment["HEADRACE_STORE"])


def workers_of(desk, step: str) -> Counter[str]:
    with store_of(desk) as store:
        run = store.runs()[0]
        return Counter(record.worker for record in store.records(run.id, step))


def as_in_one_process(desk, data: Path) -> list[dict]:
    here = desk.folder / "here.jsonl"
    desk.environment["HEADRACE_STORE"] = str(desk.folder / "other")
    done = desk.headrace("run", str(desk.chain), "--data", str(data), "--direct", "--out", str(here))
    assert done.code == 0, done.err
    return outputs(here)


@pytest.mark.parametrize(
    "runner",
    [
        "dask:2",
        pytest.param(
            "ray:2", marks=pytest.mark.skipif(find_spec("prefect_ray") is None, reason="needs prefect-ray")
        ),
    ],
)
def test_rows_run_on_a_cluster_as_they_do_in_one_process(cluster_desk, prefect_url: str, runner: str) -> None:
    desk = cluster_desk(runner)
    data, away = desk.tickets(60), desk.folder / "away.jsonl"
    done = desk.headrace("run", str(desk.chain), "--data", str(data), "--out", str(away), "--json")
    assert done.code == 0, done.err
    found = done.json()
    assert found["counts"]["reply"]["ok"] == 60
    assert desk.sent() == 120
    triage, reply = workers_of(desk, "triage"), workers_of(desk, "reply")
    assert None not in triage and len(triage) == 2 and set(reply) == set(triage)
    assert set(workers_of(desk, "score")) == {None}  # once steps stay in the process of the run
    with store_of(desk) as store:
        flow_run = store.runs()[0].prefect_flow_run_id
    wanted = {"flow_runs": {"id": {"any_": [flow_run]}}}
    names = Counter(run["name"] for run in ask(prefect_url, "task_runs/filter", wanted))
    assert names["triage · rows 0-4"] == 1 and len(names) == 37
    assert outputs(away) == as_in_one_process(desk, data)


def wait_for(what: Callable[[], bool]) -> None:
    for _ in range(1800):
        if what():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come to that")


def test_a_killed_worker_costs_the_calls_in_flight_and_nothing_else(cluster_desk) -> None:
    desk = cluster_desk("dask:2", latency=0.3)
    data, away = desk.tickets(60), desk.folder / "away.jsonl"
    running = desk.start("run", str(desk.chain), "--data", str(data), "--out", str(away))
    wait_for(lambda: desk.sent() > 30)
    one = next(worker for worker in workers_of(desk, "triage") if worker)
    os.kill(int(one.rpartition("-")[2]), signal.SIGKILL)
    output, errors = running.communicate(timeout=240)
    assert running.returncode == 0, (output, errors)
    with store_of(desk) as store:
        attempts = list(store.attempts_of_run(store.runs()[0].id))
    states = Counter(attempt.state for attempt in attempts)
    finished = Counter(attempt.record_id for attempt in attempts if attempt.state == "ok")
    assert set(finished.values()) == {1} and len(finished) == 120
    assert states["intent"] == 0 and states["ambiguous"] <= 16  # eight under way, eight next in line
    assert 120 <= desk.sent() <= 120 + states["ambiguous"]
    assert outputs(away) == as_in_one_process(desk, data)


def test_failed_rows_and_a_stop_are_told_and_a_resume_does_the_rest(cluster_desk) -> None:
    desk = cluster_desk("dask:2", {"match": "Ticket 3:", "fault": "status", "status": 400}, latency=0.2)
    running = desk.start("run", str(desk.chain), "--data", str(desk.tickets(120)))
    wait_for(lambda: desk.sent() > 40)
    stopped = desk.headrace("cancel", "last")
    assert stopped.code == 0, stopped.err
    output, errors = running.communicate(timeout=90)
    assert running.returncode == 130, (output, errors)
    with store_of(desk) as store:
        run = store.runs()[0]
        before = store.counts(run.id)["triage"]
        states = {attempt.state for attempt in store.attempts_of_run(run.id)}
    assert run.status == "cancelled" and before["failed"] == 1 and 0 < before["ok"] < 119
    assert "intent" not in states
    done = desk.headrace("resume", "last", "--json")
    assert done.code == 1, done.err  # row 3 is refused again
    counts = done.json()["counts"]
    assert counts["triage"]["ok"] == 119 and counts["triage"]["failed"] == 1
    assert counts["reply"]["ok"] == 119 and counts["reply"]["blocked"] == 1
    with store_of(desk) as store:
        attempts = store.attempts_of_run(run.id)
    finished = Counter(attempt.record_id for attempt in attempts if attempt.state == "ok")
    assert set(finished.values()) == {1} and len(finished) == 238
