"""Runs through a real Prefect server, looked at over its API."""

from __future__ import annotations

import base64
import time

import pytest
from servers.prefect_api import artifacts, ask, flow_run, task_runs

pytestmark = pytest.mark.e2e


def settled_task_runs(url: str, flow_run_id: str) -> list[dict]:
    """The server digests task-run events after the run; wait until it has."""
    for _ in range(100):
        found = task_runs(url, flow_run_id)
        if found and all(run["state_type"] not in ("PENDING", "RUNNING", "SCHEDULED") for run in found):
            return found
        time.sleep(0.1)
    raise AssertionError("the task runs did not settle")


def test_a_single_run_shows_one_task_run_and_one_artifact_per_step(prefect_desk, prefect_url: str) -> None:
    desk = prefect_desk()
    done = desk.headrace("run", str(desk.chain), "-i", "ticket=my refund", "--json")
    assert done.code == 0, done.err
    run = flow_run(prefect_url, done.json()["run_id"])
    assert run["name"] == "desk"
    assert "chain:desk" in run["tags"]
    assert run["state_type"] == "COMPLETED"
    names = sorted(task["name"] for task in settled_task_runs(prefect_url, run["id"]))
    assert names == ["reply · row 0", "score · once", "shout · row 0", "triage · row 0"]
    found = {artifact["key"]: artifact["data"] for artifact in artifacts(prefect_url, run["id"])}
    assert set(found) == {"desk-triage", "desk-shout", "desk-reply", "desk-score"}
    assert "Which intent has this ticket" in found["desk-triage"] and "### response" in found["desk-triage"]


def test_a_batch_shows_a_table_and_failed_rows_make_the_flow_run_fail(prefect_desk, prefect_url: str) -> None:
    desk = prefect_desk({"match": "Ticket 3:", "fault": "status", "status": 400})
    done = desk.headrace("run", str(desk.chain), "--data", str(desk.tickets(6)), "--json")
    assert done.code == 1, done.err
    run = flow_run(prefect_url, done.json()["run_id"])
    assert run["state_type"] == "FAILED"
    states = {task["name"]: task["state_type"] for task in settled_task_runs(prefect_url, run["id"])}
    assert states["triage · rows 0-5"] == "FAILED"
    found = {artifact["key"]: artifact["data"] for artifact in artifacts(prefect_url, run["id"])}
    assert found["desk-progress"] == 100.0
    head, _, picture = found["desk-score-confusion"].partition(",")
    assert head == "data:image/svg+xml;base64" and b"delivery" in base64.b64decode(picture)
    table = found["desk-triage"]
    assert "### Slowest rows" in table and "### Failed rows" in table
    # Two requests per row, but the refused row has one and its reply none: Prefect's retries repeat nothing.
    assert desk.sent() == 11


def test_an_api_that_does_not_answer_exits_3_and_names_it(desk) -> None:
    desk.environment["PREFECT_API_URL"] = "http://127.0.0.1:9/api"
    done = desk.headrace("run", str(desk.chain), "-i", "ticket=x")
    assert done.code == 3
    assert "http://127.0.0.1:9/api" in done.err and "--direct" in done.err
    assert desk.sent() == 0


@pytest.mark.slow
def test_without_a_server_a_run_brings_its_own_and_leaves_its_records_behind(desk) -> None:
    done = desk.headrace("run", str(desk.chain), "-i", "ticket=my refund", "--json")
    assert done.code == 0, done.err
    assert "Waiting for a Prefect server" in done.err
    assert (desk.folder / "prefect" / "prefect.db").exists()


def test_a_gate_that_is_not_met_is_an_event_about_the_flow_run(prefect_desk, prefect_url: str) -> None:
    desk = prefect_desk()
    gate = '    metrics: [accuracy, f1_macro]\n    gate: "accuracy.value > 2"\n'
    desk.chain.write_text(desk.chain.read_text().replace("    metrics: [accuracy, f1_macro]\n", gate))
    done = desk.headrace("run", str(desk.chain), "--data", str(desk.tickets(3)), "--json")
    assert done.code == 1
    run_id = done.json()["run_id"]
    about = {"resource": {"id": [f"headrace.run.{run_id}"]}, "event": {"name": ["headrace.gate.failed"]}}
    for _ in range(100):
        found = ask(prefect_url, "events/filter", {"filter": about})["events"]
        if found:
            break
        time.sleep(0.1)
    [event] = found
    assert (
        event["payload"]["step"] == "score"
        and "'accuracy.value > 2' is not met" in event["payload"]["message"]
    )
    assert event["resource"]["headrace.chain"] == "desk"
    flow = flow_run(prefect_url, run_id)
    assert f"prefect.flow-run.{flow['id']}" in {one["prefect.resource.id"] for one in event["related"]}


NESTED = """
chain: nested
inputs: {ticket: {type: string}}
steps:
  answer: {chain: inner.yaml, inputs: {ticket: "{{ inputs.ticket }}"}}
  last: {python: "work.py:length", args: {text: "{{ answer.text }}"}}
outputs: {text: "{{ answer.text }}", length: "{{ last.value }}"}
"""
INNER = """
chain: inner
inputs: {ticket: {type: string}}
models: {m: {provider: openai, model: m, base_url: "%s"}}
defaults: {model: m}
steps:
  draft:
    repeat: {until: "loop.turn == 1", max: 3}
    steps:
      parts: {map: [greeting, body], as: part, prompt: "{{ part }} {{ loop.turn }} {{ inputs.ticket }}"}
outputs: {text: "{{ draft.parts | map(attribute='text') | join(' ') }}"}
"""


@pytest.mark.slow
def test_a_step_is_one_task_run_however_much_lies_inside_it(prefect_desk, prefect_url: str) -> None:
    desk = prefect_desk()
    (desk.folder / "inner.yaml").write_text(INNER % desk.server.url)
    (desk.folder / "work.py").write_text("def length(text):\n    return len(text)\n")
    (desk.folder / "nested.yaml").write_text(NESTED)
    done = desk.headrace("run", "nested.yaml", "--data", str(desk.tickets(3)), "--json")
    assert done.code == 0, done.err
    assert desk.sent() == 3 * 2 * 2
    assert done.json()["counts"]["answer.draft.parts"]["within_ok"] == 3 * 2 * (2 + 1)
    run = flow_run(prefect_url, done.json()["run_id"])
    names = sorted(task["name"] for task in settled_task_runs(prefect_url, run["id"]))
    assert names == ["answer · rows 0-2", "last · rows 0-2"]
