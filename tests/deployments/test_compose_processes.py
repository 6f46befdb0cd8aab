"""The stack of compose.yaml without containers: the same processes, commands and settings, started by hand.

PostgreSQL, Redis with a password, the Prefect API without its services, the services, what `apply` does, and
a worker of the pool `cpu`. An event makes a chain run over a data set.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from servers import postgres_server, redis_server
from servers.launch import start
from servers.prefect_server import prefect_server
from servers.waiting import until

from chains.store import open_store

psycopg = pytest.importorskip("psycopg")
pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
SERVICES = yaml.safe_load((ROOT / "deployments" / "compose.yaml").read_text())["services"]
DESK = ROOT / "tests" / "e2e" / "chains" / "desk"
PASSWORD = "a-password-0"
EVENT = "headrace.data.arrived"
_VARIABLE = re.compile(r"\$\{\w+:(?:(\?)[^}]*|-)\}")


def environment_of(service: str, places: Mapping[str, str]) -> dict[str, str]:
    """What Compose would give a service, with this machine's addresses."""
    found = {}
    for name, value in SERVICES[service]["environment"].items():
        text = _VARIABLE.sub(lambda match: PASSWORD if match[1] else "", value)
        for ours, here in places.items():
            text = text.replace(ours, here)
        found[name] = text
    return found


@contextmanager
def running(command: list[str], environment: Mapping[str, str], log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=dict(environment),
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


@pytest.fixture
def postgres() -> Iterator[str]:
    with postgres_server.temporary_postgres() as url:
        with psycopg.connect(f"{url}/postgres", autocommit=True) as connection:
            connection.execute("CREATE DATABASE prefect")  # by the image, from POSTGRES_DB
            connection.execute((ROOT / "deployments" / "postgres.sql").read_text())
        yield url


def ask(url: str, path: str, body: dict[str, Any]) -> Any:
    auth = base64.b64encode(f"headrace:{PASSWORD}".encode()).decode()
    headers = {"Authorization": f"Basic {auth}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/{path}", data=json.dumps(body).encode(), headers=headers)
    with urllib.request.urlopen(request, timeout=20) as reply:
        return json.loads(reply.read())


@pytest.mark.timeout(500)
def test_the_stack_runs_a_chain_when_data_arrives(postgres: str, tmp_path: Path) -> None:
    pytest.importorskip("prefect_redis")
    reason = redis_server.missing()
    if reason is not None:
        pytest.skip(reason)
    endpoint = start(tmp_path, [])
    chain = tmp_path / "chain.yaml"
    for path in DESK.rglob("*"):
        if path.is_file():
            target = tmp_path / path.relative_to(DESK)
            target.parent.mkdir(exist_ok=True)
            target.write_text(path.read_text().replace("http://127.0.0.1:1/v1", endpoint.url))
    rows = [{"ticket": f"Ticket {n}: about my refund, please.", "intent": "refund"} for n in range(20)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    # Jobs of the pool start by `python`: the one of this environment has to come first.
    base = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    base |= {"PREFECT_HOME": str(tmp_path / "prefect"), "HOME": str(tmp_path)}
    base |= {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    with ExitStack() as stack:
        stack.callback(endpoint.stop)
        redis = stack.enter_context(redis_server.redis_server(PASSWORD))
        places = {"@postgres:5432": f"@{postgres.partition('@')[2]}", "@redis:6379": f"@{redis}"}
        server = environment_of("server", places)
        assert SERVICES["server"]["command"][-1] == "--no-services"
        home = tmp_path / "server"
        url = stack.enter_context(prefect_server(home, "--no-services", **server))
        services = SERVICES["services"]["command"]
        stack.enter_context(running(services, base | server, tmp_path / "services.log"))

        places["http://server:4200"] = url.removesuffix("/api")
        client = base | environment_of("cpu", places)
        client |= {"HEADRACE_BLOBS": str(tmp_path / "blobs"), "HEADRACE_HOME": str(tmp_path / "home")}
        client |= {"OPENAI_API_KEY": "unused", "PREFECT_WORKER_QUERY_SECONDS": "1"}
        applied = subprocess.run(
            [sys.executable, str(ROOT / "deployments" / "apply.py")],
            env=client,
            capture_output=True,
            text=True,
        )
        assert applied.returncode == 0, applied.stdout + applied.stderr
        worker = [
            word for word in SERVICES["cpu"]["command"] if word != "--with-healthcheck"
        ]  # its port is fixed
        log = tmp_path / "worker.log"
        stack.enter_context(running(worker, client, log))

        payload = json.dumps({"chain": str(chain), "data": str(data)})
        emitting = [
            "prefect",
            "event",
            "emit",
            EVENT,
            "--resource-id",
            "headrace.data.t",
            "--payload",
            payload,
        ]
        subprocess.run([sys.executable, "-m", *emitting], env=client, check=True, capture_output=True)

        def ended() -> Any:
            runs = ask(url, "flow_runs/filter", {"flow_runs": {"tags": {"all_": ["chain:desk"]}}})
            return [run for run in runs if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED")]

        [run] = until(ended, "the end of a flow run")
        assert run["state_type"] == "COMPLETED", log.read_text()[-3000:]

        def settled() -> bool:
            tasks = ask(url, "task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
            return len(tasks) == 4 and all(task["state_type"] == "COMPLETED" for task in tasks)

        until(settled, "what Redis tells of the task runs")
    store_url = client["HEADRACE_STORE"]
    with open_store(store_url, home=tmp_path / "home", blobs=tmp_path / "blobs") as store:
        [ours] = store.runs()
        assert (ours.status, ours.prefect_flow_run_id) == ("ok", run["id"])
        replies = [record.status for record in store.records(ours.id) if record.step == "reply"]
        assert replies == ["ok"] * len(rows)
