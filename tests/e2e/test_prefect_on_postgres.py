"""The main path with Prefect's server on PostgreSQL: pools, a worker, a run from the API, and its trimming.

What the deployments folder sets up is what runs here; the store is on PostgreSQL too.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from servers.postgres_server import temporary_postgres
from servers.prefect_api import artifacts, ask, start_flow_run, task_runs, wait_for_state
from servers.prefect_server import prefect_server

from chains.store import open_store

psycopg = pytest.importorskip("psycopg")
pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "deployments" / "compose.yaml").read_text())
TUNED = ("TASK_RUN_RECORDER", "EVENT_PERSISTER", "DB_VACUUM")


@pytest.fixture(scope="module")
def databases() -> Iterator[str]:
    """The address of a PostgreSQL server with the databases that deployments/postgres.sql asks for."""
    with temporary_postgres() as url:
        with psycopg.connect(f"{url}/postgres", autocommit=True) as connection:
            connection.execute("CREATE DATABASE prefect")
            connection.execute((ROOT / "deployments" / "postgres.sql").read_text())
        yield url


@pytest.fixture(scope="module")
def api(databases: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server on it, with the settings that compose.yaml gives for many runs."""
    tuned = {
        name: value
        for name, value in COMPOSE["x-prefect-server"].items()
        if any(part in name for part in TUNED)
    }
    tuned["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = (
        databases.replace("postgresql:", "postgresql+asyncpg:") + "/prefect"
    )
    tuned["PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS"] = "3"
    with prefect_server(tmp_path_factory.mktemp("prefect-on-postgres"), **tuned) as url:
        applied = subprocess.run(
            [sys.executable, str(ROOT / "deployments" / "apply.py")],
            env=os.environ | {"PREFECT_API_URL": url, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert applied.returncode == 0, applied.stdout + applied.stderr
        yield url


@contextmanager
def worker(desk: Any, url: str, pool: str) -> Iterator[None]:
    """A process worker as docs/cluster.md starts it."""
    # The pool's jobs start by `python`: the one of this environment has to come first.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    asked = {"PREFECT_API_URL": url, "PREFECT_WORKER_QUERY_SECONDS": "1", "PATH": path}
    with (desk.folder / "worker.log").open("wb") as log:
        started = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool],
            env=desk.environment | asked,
            cwd=desk.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield
        finally:
            started.send_signal(signal.SIGTERM)
            started.wait(timeout=60)


def deployment(url: str, name: str) -> str:
    found = ask(url, "deployments/filter", {"deployments": {"name": {"any_": [name]}}})
    return next(one["id"] for one in found if one["entrypoint"] == "flows.run_chain.run_chain")


def settled(url: str, flow_run: str, number: int) -> list[dict[str, Any]]:
    for _ in range(300):
        found = task_runs(url, flow_run)
        if len(found) == number and all(task["state_type"] == "COMPLETED" for task in found):
            return found
        time.sleep(0.1)
    raise AssertionError(f"the task runs did not settle: {[task['state_type'] for task in found]}")


def test_a_run_from_the_api_goes_through_a_pool_and_is_trimmed_when_it_is_old(
    make_desk: Callable[..., Any], databases: str, api: str
) -> None:
    desk = make_desk()
    data = desk.tickets(30)
    alone = desk.headrace("run", str(desk.chain), "--data", str(data), "--direct", "--json")
    assert alone.code == 0, alone.err
    with open_store(desk.store) as store:
        expected = [record.output for record in store.records(alone.json()["run_id"])]

    store_url = f"{databases}/headrace"
    desk.environment["HEADRACE_STORE"] = store_url
    parameters = {"chain": str(desk.chain), "data": str(data)}
    with worker(desk, api, "cpu"):
        flow_run = start_flow_run(api, deployment(api, "any-chain"), parameters)
        state = wait_for_state(api, flow_run, "COMPLETED", "FAILED", "CRASHED", seconds=150)
    assert state["type"] == "COMPLETED", (desk.folder / "worker.log").read_text()[-3000:]
    with open_store(store_url, home=desk.folder / "home") as store:
        (run,) = store.runs()
        assert (run.status, run.prefect_flow_run_id) == ("ok", flow_run)
        assert [record.output for record in store.records(run.id)] == expected
    assert {task["name"].partition(" · ")[0] for task in settled(api, flow_run, 4)} == {
        *("triage", "shout", "reply", "score")
    }
    assert len(artifacts(api, flow_run)) >= 4

    # Prefect's own service removes what ended before its retention: a flow run with all that hangs on it.
    with psycopg.connect(f"{databases}/prefect", autocommit=True) as connection:
        connection.execute("UPDATE flow_run SET end_time = end_time - interval '31 days'")
    for _ in range(300):
        if not ask(api, "flow_runs/filter", {"flow_runs": {"id": {"any_": [flow_run]}}}):
            break
        time.sleep(0.2)
    else:
        raise AssertionError("the old flow run is still there")
    assert task_runs(api, flow_run) == []
    for _ in range(100):
        if not artifacts(api, flow_run):
            break
        time.sleep(0.2)
    assert artifacts(api, flow_run) == []
    with open_store(store_url, home=desk.folder / "home") as store:
        assert len(list(store.records(run.id))) == len(expected), "the store keeps its own"
