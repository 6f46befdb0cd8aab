"""`deployments/apply.py` against a real Prefect server with basic auth, as that of compose.yaml has it."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import PrefectClient, get_client
from prefect.events import Event
from prefect.events.clients import PrefectEventsClient
from prefect.events.schemas.automations import AutomationCore
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect.states import Running
from servers.prefect_server import prefect_server

from flows.gates import EVENT

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS = ROOT / "deployments"
AUTH = "headrace:a-password"

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def guarded_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with prefect_server(tmp_path_factory.mktemp("guarded"), PREFECT_SERVER_API_AUTH_STRING=AUTH) as url:
        yield url


def apply(
    url: str, *options: str, folder: Path = DEPLOYMENTS, password: str = AUTH
) -> subprocess.CompletedProcess:
    environment = os.environ | {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": password}
    return subprocess.run(
        [sys.executable, str(folder / "apply.py"), *options],
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=150,
    )


@pytest.fixture(scope="module")
def applied(guarded_url: str) -> str:
    """A server to which the folder was applied twice."""
    for options in (("--gpus", "2"), ()):
        done = apply(guarded_url, *options)
        assert done.returncode == 0, done.stdout + done.stderr
    return guarded_url


@pytest.fixture
async def client(applied: str):
    with temporary_settings({PREFECT_API_URL: applied, PREFECT_API_AUTH_STRING: AUTH}):
        async with get_client() as found:
            yield found


def test_the_api_wants_the_password_and_tells_its_health_to_anybody(guarded_url: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(f"{guarded_url}/work_pools/filter", data=b"{}"))
    refused.value.close()
    assert refused.value.code == 401
    with urllib.request.urlopen(f"{guarded_url}/health") as reply:
        assert reply.status == 200


@pytest.mark.slow
async def test_pools_have_their_limits_and_queues(client: PrefectClient) -> None:
    for name, wanted in yaml.safe_load((DEPLOYMENTS / "pools.yaml").read_text()).items():
        pool = await client.read_work_pool(name)
        assert (pool.type, pool.concurrency_limit) == ("process", wanted["concurrency_limit"])
        queues = {queue.name: queue for queue in await client.read_work_queues(work_pool_name=name)}
        for queue, options in wanted["queues"].items():
            assert queues[queue].priority == options["priority"]
            assert queues[queue].concurrency_limit == options.get("concurrency_limit")


async def test_every_deployment_names_a_flow_that_is_there(
    client: PrefectClient,
) -> None:
    wanted = yaml.safe_load((DEPLOYMENTS / "prefect.yaml").read_text())["deployments"]
    for spec in wanted:
        flow = load_flow_from_entrypoint(spec["entrypoint"])
        found = await client.read_deployment_by_name(f"{flow.name}/{spec['name']}")
        assert found.entrypoint == spec["entrypoint"] and found.enforce_parameter_schema
        assert not found.pull_steps, "the code is in the image"
        assert found.work_pool_name == spec["work_pool"]["name"]
        assert found.work_queue_name == spec["work_pool"]["work_queue_name"]
        assert found.tags == ["headrace"]


async def test_schedules_keep_their_time_zones_and_only_the_sweep_is_active(client: PrefectClient) -> None:
    sweep = await client.read_deployment_by_name("sweep/sweep")
    [every] = sweep.schedules
    assert every.active and every.schedule.interval.total_seconds() == 300
    pattern = await client.read_deployment_by_name("run-chain/support-scheduled")
    found = {schedule.slug: schedule for schedule in pattern.schedules}
    assert not any(schedule.active for schedule in found.values())
    assert found["weekday-mornings"].schedule.cron == "30 6 * * 1-5"
    assert found["weekday-mornings"].schedule.timezone == "Europe/Berlin"
    assert found["every-six-hours"].schedule.interval.total_seconds() == 6 * 3600
    assert found["last-friday"].schedule.timezone == "America/New_York"


async def test_applying_again_leaves_one_of_each_automation(client: PrefectClient) -> None:
    names = sorted(automation.name for automation in await client.read_automations())
    assert names == ["headrace · failed gates", "headrace · lost runs", "run a chain when data arrives"]


async def _emit(event: Event) -> None:
    async with PrefectEventsClient() as events:
        await events.emit(event)


async def _until(question: Callable[[], Any], what: str) -> Any:
    for _ in range(300):
        if found := await question():
            return found
        await asyncio.sleep(0.2)
    raise AssertionError(what)


async def test_an_event_starts_a_chain_over_the_data_that_it_names(client: PrefectClient) -> None:
    payload = {"chain": "support", "data": "/data/tickets.jsonl"}
    resource = {"prefect.resource.id": "headrace.data.tickets"}
    await _emit(Event(event="headrace.data.arrived", resource=resource, payload=payload))

    async def started() -> Any:
        runs = await client.read_flow_runs()
        return next((run for run in runs if run.parameters.get("data") == payload["data"]), None)

    run = await _until(started, "no flow run was made")
    assert run.parameters["chain"] == "support" and run.work_pool_name == "cpu"


async def test_a_failed_gate_pauses_the_deployment_whose_run_it_was(client: PrefectClient) -> None:
    deployment = await client.read_deployment_by_name("run-chain/support-scheduled")
    about = {"prefect.resource.role": "deployment"}
    about["prefect.resource.id"] = f"prefect.deployment.{deployment.id}"
    resource = {"prefect.resource.id": "headrace.run.r1", "headrace.chain": "support"}
    await _emit(Event(event=EVENT, resource=resource, related=[about], payload={"step": "score"}))

    async def paused() -> bool:
        return (await client.read_deployment(deployment.id)).paused

    assert await _until(paused, "the deployment goes on")


@pytest.mark.slow
async def test_a_flow_run_whose_heart_stops_is_marked_crashed(client: PrefectClient, tmp_path: Path) -> None:
    wanted = yaml.safe_load((DEPLOYMENTS / "automations" / "lost-runs.yaml").read_text())
    wanted["trigger"]["within"] = 10  # the shortest that Prefect takes
    wanted["name"] = "lost runs, soon"
    await client.create_automation(AutomationCore.model_validate(wanted))
    deployment = await client.read_deployment_by_name("run-chain/support-scheduled")
    run = await client.create_flow_run_from_deployment(deployment.id, state=Running())
    await asyncio.sleep(3)  # the automation has to be known to the service before the event is
    tag = {"prefect.resource.id": "prefect.tag.headrace", "prefect.resource.role": "tag"}
    resource = {"prefect.resource.id": f"prefect.flow-run.{run.id}"}
    await _emit(Event(event="prefect.flow-run.heartbeat", resource=resource, related=[tag]))

    async def crashed() -> bool:
        return (await client.read_flow_run(run.id)).state_type == "CRASHED"

    assert await _until(crashed, "the flow run is still Running")


def test_a_wrong_password_and_a_pool_of_another_kind_end_in_words(applied: str, tmp_path: Path) -> None:
    refused = apply(applied, "--kind", "docker")
    assert refused.returncode != 0 and "of kind 'process', not 'docker'" in refused.stderr
    assert "401" in apply(applied, password="headrace:wrong").stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
async def test_pools_of_containers_are_made_from_their_own_templates(
    kind: str, client: PrefectClient, applied: str, tmp_path: Path
) -> None:
    folder = tmp_path / "deployments"
    shutil.copytree(DEPLOYMENTS, folder)
    pools = (
        (folder / "pools.yaml").read_text().replace("cpu:", f"{kind}-cpu:").replace("gpu:", f"{kind}-gpu:")
    )
    (folder / "pools.yaml").write_text(pools)
    for pool in ("cpu", "gpu"):
        (folder / "pools" / f"{kind}-{pool}.json").rename(folder / "pools" / f"{kind}-{kind}-{pool}.json")
    (folder / "prefect.yaml").write_text("deployments: []\n")
    apply(applied, "--kind", kind, folder=folder)
    for pool in ("cpu", "gpu"):
        found = await client.read_work_pool(f"{kind}-{pool}")
        image = found.base_job_template["variables"]["properties"]["image"]["default"]
        assert found.type == kind and image.startswith(f"headrace-{pool}:")
