"""Pools and deployments on a real Prefect server."""

from __future__ import annotations

import os

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.cli import doctor
from flows.pools import code_root, ensure_deployment, ensure_pool, pool_state, worker_environment
from flows.sweep import sweep


@pytest.fixture
async def client(prefect_url: str):
    with temporary_settings({PREFECT_API_URL: prefect_url}):
        async with get_client() as found:
            yield found


async def test_a_pool_is_made_once_and_stays_as_it_was_set_up(client) -> None:
    made = await ensure_pool(client, "pools-one", limit=3)
    again = await ensure_pool(client, "pools-one", limit=7)
    assert (again.id, again.concurrency_limit, again.type) == (made.id, 3, "process")
    assert "command" in again.base_job_template["job_configuration"]  # workers heed the job variables


async def test_a_pool_without_workers_says_so_and_one_that_is_not_there_is_none(client) -> None:
    await ensure_pool(client, "pools-two")
    found = await pool_state(client, "pools-two")
    assert found is not None and found.workers == () and found.kind == "process"
    assert await pool_state(client, "no-such-pool") is None


async def test_a_deployment_is_made_once_and_names_the_code_by_its_import(client) -> None:
    await ensure_pool(client, "pools-three")
    made = await ensure_deployment(client, sweep, "pools-three", pool="pools-three", tags=["headrace"])
    again = await ensure_deployment(client, sweep, "pools-three", pool="pools-three", tags=["other"])
    found = await client.read_deployment(made)
    assert again == made and found.tags == ["headrace"]
    assert found.entrypoint == "flows.sweep.sweep" and found.work_pool_name == "pools-three"
    assert found.job_variables["command"].endswith("-m flows.engine")
    assert list(found.parameter_openapi_schema["properties"]) == ["store", "forget_after_days"]


async def test_a_deployment_moves_to_another_pool(client) -> None:
    for name in ("pools-four", "pools-five"):
        await ensure_pool(client, name)
    made = await ensure_deployment(client, sweep, "pools-moved", pool="pools-four")
    await ensure_deployment(client, sweep, "pools-moved", pool="pools-five")
    assert (await client.read_deployment(made)).work_pool_name == "pools-five"


def test_a_worker_finds_the_code_and_asks_for_work_twice_a_second() -> None:
    environment = worker_environment()
    assert environment["PREFECT_WORKER_QUERY_SECONDS"] == "0.5"
    root = code_root()
    assert root is None or str(root) in environment["PYTHONPATH"].split(os.pathsep)


async def test_the_doctor_tells_who_serves_a_pool(
    client, prefect_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ensure_pool(client, "pools-served")
    await ensure_pool(client, "pools-deserted")
    await client.send_worker_heartbeat("pools-served", "one", heartbeat_interval_seconds=30)
    monkeypatch.setenv("PREFECT_API_URL", prefect_url)
    found = {finding.what: finding for finding in doctor._pools()}
    assert found["pool pools-served"].state == "ok" and "one" in found["pool pools-served"].text
    assert found["pool pools-deserted"].state == "note"
    assert "headrace worker --pool pools-deserted" in found["pool pools-deserted"].text
