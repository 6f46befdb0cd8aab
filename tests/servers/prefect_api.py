"""Ask a real Prefect API what it shows."""

from __future__ import annotations

import json
import urllib.request
from typing import Any


def ask(url: str, path: str, body: dict[str, Any]) -> Any:
    """POST to the Prefect API and return its JSON."""
    request = urllib.request.Request(
        f"{url}/{path}", data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.loads(reply.read())


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
