"""Ask a real Prefect API what it shows."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import Any


def ask(url: str, path: str, body: dict[str, Any]) -> Any:
    """POST to the Prefect API and return its JSON; it answers 503 while its SQLite is locked."""
    request = urllib.request.Request(
        f"{url}/{path}", data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    for _ in range(20):
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return json.loads(reply.read())
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
            time.sleep(0.5)
    raise AssertionError(f"the Prefect API is busy: {path}")


def flow_run(url: str, run_id: str) -> dict[str, Any]:
    """Return the flow run that carries a Headrace run."""
    found = ask(url, "flow_runs/filter", {"flow_runs": {"tags": {"all_": [f"run:{run_id}"]}}})
    assert len(found) == 1, found
    return found[0]


def task_runs(url: str, flow_run_id: str) -> list[dict[str, Any]]:
    """Return the task runs of a flow run."""
    return ask(url, "task_runs/filter", {"flow_runs": {"id": {"any_": [flow_run_id]}}})


def artifacts(url: str, flow_run_id: str) -> list[dict[str, Any]]:
    """Return the artifacts of a flow run."""
    return ask(url, "artifacts/filter", {"flow_runs": {"id": {"any_": [flow_run_id]}}})


def deployment_id(url: str, name: str) -> str:
    """Return the id of the deployment of this name."""
    found = ask(url, "deployments/filter", {"deployments": {"name": {"any_": [name]}}})
    assert len(found) == 1, found
    return found[0]["id"]


def start_flow_run(url: str, deployment: str, parameters: dict[str, Any], key: str | None = None) -> str:
    """Create a flow run of a deployment, as a schedule or the UI does, and return its id."""
    body = {"parameters": parameters, "state": {"type": "SCHEDULED"}, "idempotency_key": key}
    return ask(url, f"deployments/{deployment}/create_flow_run", body)["id"]


def retry_flow_run(url: str, flow_run_id: str) -> None:
    """Do what the UI's Retry button does."""
    state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the UI"}
    answer = ask(url, f"flow_runs/{flow_run_id}/set_state", {"state": state})
    assert answer["status"] == "ACCEPT", answer


def state_of(url: str, flow_run_id: str) -> dict[str, Any]:
    """Return the state of a flow run."""
    with urllib.request.urlopen(f"{url}/flow_runs/{flow_run_id}", timeout=10) as reply:
        return json.loads(reply.read())["state"]


def wait_for_state(url: str, flow_run_id: str, *types: str, seconds: float = 90) -> dict[str, Any]:
    """Return the flow run's state once it is of one of these types."""
    deadline = time.monotonic() + seconds
    while (state := state_of(url, flow_run_id))["type"] not in types:
        assert time.monotonic() < deadline, state
        time.sleep(0.2)
    return state
