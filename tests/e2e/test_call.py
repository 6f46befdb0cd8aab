"""Callers of a deployed chain, on a server that asks for a password: the client, the commands, bare HTTP."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from time import sleep
from typing import Any
from uuid import uuid4

import pytest
from servers.headrace_up import Up, command_line
from servers.ports import free_port
from servers.waiting import until

from chains.errors import EnvironmentLacks, InputInvalid, StepFailed, TimedOut
from flows.client import acall, begin_call, call, deployment_of
from flows.prefect_server import ask_api

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

AUTH = "admin:correct horse"
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    standing = Up(tmp_path_factory.mktemp("call"), PREFECT_SERVER_API_AUTH_STRING=AUTH)
    standing.stands()
    yield standing
    standing.process.send_signal(signal.SIGINT)
    standing.process.wait(timeout=60)


@pytest.fixture(autouse=True)
def known(up: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", up.url)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", AUTH)


def headrace(up: Up, *arguments: str, auth: str | None = AUTH) -> subprocess.CompletedProcess[str]:
    environment = up.environment | {"PREFECT_API_URL": up.url}
    environment |= {"PREFECT_API_AUTH_STRING": auth} if auth else {}
    return subprocess.run(
        command_line(*arguments), capture_output=True, text=True, cwd=up.folder, env=environment, timeout=120
    )


def bare(up: Up, *arguments: str, auth: str | None = AUTH) -> subprocess.CompletedProcess[str]:
    """Run an example in a Python that finds no installed package."""
    environment = {"PREFECT_API_URL": up.url} | ({"PREFECT_API_AUTH_STRING": auth} if auth else {})
    command = [sys.executable, "-I", "-S", str(EXAMPLES / "call_over_rest.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def test_a_program_with_nothing_installed_gets_the_outputs_with_a_password_and_401_without(up: Up) -> None:
    done = bare(up, "shout", "ticket=where is it")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"reply": "WHERE IS IT"}
    refused = bare(up, "shout", "ticket=x", auth=None)
    assert refused.returncode == 1 and refused.stderr.startswith("401: ")
    wrong = bare(up, "shout", "ticket=x", "tone=loud")
    assert wrong.stderr.startswith("409: ") and "'tone'" in wrong.stderr
    failed = bare(up, "shout", "ticket=boom")
    assert failed.returncode == 1 and "no such thing" in failed.stderr


def test_the_client_returns_outputs_and_raises_what_went_wrong(up: Up) -> None:
    assert call("shout", {"ticket": "one"}) == {"reply": "ONE"}
    assert asyncio.run(acall("shout", {"ticket": "two"}, timeout=60)) == {"reply": "TWO"}
    with pytest.raises(StepFailed, match=r"step 'reply', row 0: .*no such thing"):
        call("shout", {"ticket": "boom"})
    with pytest.raises(InputInvalid, match="'tone'"):
        call("shout", {"ticket": "x", "tone": "loud"})
    with pytest.raises(InputInvalid, match="no deployed chain 'shuot'"):
        call("shuot", {"ticket": "x"})


def test_a_call_with_the_same_key_is_the_same_run(up: Up) -> None:
    first = begin_call("shout", {"ticket": "once"}, idempotency_key="order-7")
    second = begin_call("shout", {"ticket": "once"}, idempotency_key="order-7")
    assert first.flow_run_id == second.flow_run_id
    assert first.outputs() == second.outputs() == {"reply": "ONCE"}


def test_the_wait_has_an_end_and_the_run_goes_on(up: Up) -> None:
    begun = begin_call("shout", {"ticket": "wait"})
    with pytest.raises(TimedOut, match=rf"has not answered after 0.5 s.*{begun.flow_run_id} goes on"):
        begun.outputs(timeout=0.5)
    until(lambda: [run for run in up.runs() if run["status"] == "running"])
    (run,) = [run for run in up.runs() if run["status"] == "running"]
    assert headrace(up, "cancel", run["run"]).returncode == 0


def test_long_outputs_stay_in_the_store_and_say_so(up: Up) -> None:
    begun = begin_call("shout", {"ticket": "long"})
    with pytest.raises(EnvironmentLacks, match="more than 256 KiB"):
        begun.outputs()
    run_id = begun.result()["run_id"]
    found = json.loads(headrace(up, "result", run_id, "--json").stdout)
    assert found["outputs"] == {"reply": "x" * 300_000}


def test_the_commands_call_a_chain_and_read_a_result(up: Up) -> None:
    done = headrace(up, "call", "shout", "-i", "ticket=hello", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["outputs"] == {"reply": "HELLO"}
    read = headrace(up, "result", result["run_id"], "--json")
    assert json.loads(read.stdout) == result
    begun = json.loads(headrace(up, "call", "shout", "-i", "ticket=later", "--no-wait", "--json").stdout)
    until(lambda: state(up, begun["flow_run_id"]) == "COMPLETED")
    failed = headrace(up, "call", "shout", "-i", "ticket=boom")
    assert failed.returncode == 1 and "step 'reply', row 0" in failed.stderr
    wrong = headrace(up, "call", "shout", "-i", "ticket=x", "--option", "limit=many")
    assert wrong.returncode == 2 and "--option limit must be a whole number" in wrong.stderr
    refused = headrace(up, "call", "shout", "-i", "ticket=x", auth=None)
    assert refused.returncode == 3 and "refuses this user" in refused.stderr
    data = up.folder / "chains/two.jsonl"
    data.write_text('{"ticket": "a"}\n{"ticket": "b"}\n{"ticket": "c"}\n')
    rows = headrace(up, "call", "shout", "--data", "two.jsonl", "--option", "limit=2", "--json")
    found = json.loads(rows.stdout)
    assert [row["outputs"]["reply"] for row in found["row_outputs"]] == ["A", "B"]
    assert json.loads(headrace(up, "result", found["run_id"], "--json").stdout) == found


def test_the_example_service_answers_with_a_chain(up: Up) -> None:
    port = free_port()
    environment = up.environment | {"PREFECT_API_URL": up.url, "PREFECT_API_AUTH_STRING": AUTH}
    command = [sys.executable, "-m", "uvicorn", "service:app", "--port", str(port), "--log-level", "warning"]
    service = subprocess.Popen(command, cwd=EXAMPLES, env=environment, stdin=subprocess.DEVNULL)

    def post(chain: str, body: dict[str, str]) -> tuple[int, object]:
        address = f"http://127.0.0.1:{port}/run/{chain}"
        headers = {"Content-Type": "application/json", "Idempotency-Key": f"{chain}-{body}"}
        request = urllib.request.Request(address, data=json.dumps(body).encode(), headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=150) as reply:
                return reply.status, json.loads(reply.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def listens() -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/docs", timeout=5).close()
        except OSError:
            return False
        return True

    try:
        until(listens)
        assert post("shout", {"ticket": "hi"}) == (200, {"reply": "HI"})
        assert post("nobody", {"ticket": "hi"})[0] == 404
        code, told = post("shout", {"ticket": "hi", "tone": "loud"})
        assert code == 422 and "'tone'" in json.dumps(told)
        code, told = post("shout", {"ticket": "boom"})
        assert code == 502 and "no such thing" in json.dumps(told)
    finally:
        service.terminate()
        service.wait(timeout=20)


def test_an_event_starts_a_chain_and_its_end_is_an_event(up: Up) -> None:
    automation = json.loads((EXAMPLES / "ticket_automation.json").read_text())
    automation["actions"][0]["deployment_id"] = deployment_of("shout")["id"]
    request(up, "automations/", automation)

    def started() -> dict[str, Any] | None:
        """The server needs a moment to know a new automation; what arrives before is not looked at."""
        event = {"event": "tickets.arrived", "occurred": datetime.now(UTC).isoformat(), "id": str(uuid4())}
        event["resource"] = {"prefect.resource.id": "tickets.17"}
        event["payload"] = {"ticket": "from an event"}
        request(up, "events", [event])
        sleep(2)
        found = request(up, "flow_runs/filter", {"sort": "START_TIME_DESC"})
        return next((run for run in found if run["parameters"].get("ticket") == "from an event"), None)

    flow_run = until(started)
    until(lambda: state(up, flow_run["id"]) == "COMPLETED")

    def told() -> dict[str, Any] | None:
        chosen = {
            "event": {"name": ["headrace.run.ok"]},
            "related": {"id": [f"prefect.flow-run.{flow_run['id']}"]},
        }
        return next(iter(request(up, "events/filter", {"filter": chosen})["events"]), None)

    ended = until(told)
    assert ended["resource"]["headrace.chain"] == "shout" and ended["payload"]["status"] == "ok"
    found = headrace(up, "result", ended["payload"]["run_id"], "--json")
    assert json.loads(found.stdout)["outputs"] == {"reply": "FROM AN EVENT"}


def state(up: Up, flow_run: str) -> str:
    return request(up, f"flow_runs/{flow_run}")["state_type"]


def request(up: Up, path: str, body: object = None) -> Any:
    return json.loads(ask_api(f"{up.url}/{path}", body, timeout=20) or b"null")
