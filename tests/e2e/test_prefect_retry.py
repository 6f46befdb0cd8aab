"""Flow runs that Prefect starts again, on a real server with a real runner."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from servers.prefect_api import (
    deployment_id,
    retry_flow_run,
    start_flow_run,
    state_of,
    wait_for_state,
)

from chains.store import open_store

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SERVE = "from flows.run_chain import run_chain; run_chain.serve(name={name!r}, print_starting_message=False)"


@pytest.fixture
def serve(prefect_url: str) -> Iterator[Callable[..., str]]:
    """Serve the flow `run-chain` from a process of its own; give the deployment's id."""
    runners: list[subprocess.Popen[bytes]] = []

    def start(desk, name: str) -> str:
        desk.environment |= {"PREFECT_API_URL": prefect_url, "PREFECT_RUNNER_POLL_FREQUENCY": "1"}
        with (desk.folder / "runner.log").open("wb") as log:
            runner = subprocess.Popen(
                [sys.executable, "-c", SERVE.format(name=name)],
                cwd=desk.folder,
                env=desk.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        runners.append(runner)
        for _ in range(300):
            try:
                return deployment_id(prefect_url, name)
            except AssertionError:
                assert runner.poll() is None, (desk.folder / "runner.log").read_text()
                time.sleep(0.1)
        raise AssertionError("the deployment did not appear")

    yield start
    for started in runners:
        started.terminate()
        started.wait(timeout=30)


def runs_of(desk) -> list:
    with open_store(desk.store) as store:
        return store.runs()


def test_the_retry_button_finishes_the_same_run(make_desk: Callable, serve, prefect_url: str) -> None:
    desk = make_desk({"match": "Ticket 3:", "fault": "status", "status": 400, "times": 1})
    deployment = serve(desk, "retried")
    parameters = {"chain": str(desk.chain), "data": str(desk.tickets(6))}
    flow_run = start_flow_run(prefect_url, deployment, parameters)
    assert wait_for_state(prefect_url, flow_run, "FAILED", "COMPLETED", "CRASHED")["type"] == "FAILED"
    (before,) = runs_of(desk)
    assert (before.status, before.prefect_flow_run_id) == ("failed", flow_run)
    assert desk.sent() == 11
    retry_flow_run(prefect_url, flow_run)
    assert wait_for_state(prefect_url, flow_run, "FAILED", "COMPLETED", "CRASHED")["type"] == "COMPLETED"
    (after,) = runs_of(desk)
    assert (after.id, after.status) == (before.id, "ok")
    assert desk.sent() == 13  # the refused row's triage and its reply


def test_a_schedule_that_fires_twice_with_one_key_makes_one_run(desk, serve, prefect_url: str) -> None:
    deployment = serve(desk, "keyed")
    parameters = {"chain": str(desk.chain), "inputs": {"ticket": "my refund"}}
    first = start_flow_run(prefect_url, deployment, parameters, "nightly 2026-01-31")
    second = start_flow_run(prefect_url, deployment, parameters, "nightly 2026-01-31")
    assert first == second
    assert wait_for_state(prefect_url, first, "COMPLETED", "FAILED", "CRASHED")["type"] == "COMPLETED"
    third = start_flow_run(prefect_url, deployment, parameters, "nightly 2026-01-31")
    assert third == first and state_of(prefect_url, third)["type"] == "COMPLETED"
    assert len(runs_of(desk)) == 1 and desk.sent() == 2
