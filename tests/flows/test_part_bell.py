"""Prefect's event stream wakes the worker of a pool when a part is sent to it, and for nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.part_bell import Bell
from flows.pools import ensure_deployment, ensure_pool
from flows.run_part import run_part

PART = {"run_id": "r", "run_fence": 1, "steps": ["a"], "first_row": None, "end_row": None, "since": 0.0}


@pytest.fixture
async def client(prefect_url: str) -> AsyncIterator[PrefectClient]:
    with temporary_settings({PREFECT_API_URL: prefect_url}):
        async with get_client() as found:
            yield found


async def test_the_bell_rings_for_a_part_of_its_own_deployment_once(client: PrefectClient) -> None:
    for pool in ("bell-ours", "bell-theirs"):
        await ensure_pool(client, pool)
    ours = await ensure_deployment(client, run_part, "bell-ours", pool="bell-ours")
    theirs = await ensure_deployment(client, run_part, "bell-theirs", pool="bell-theirs")
    bell = Bell(ours)
    listening = asyncio.create_task(bell.listen())
    try:
        await client.create_flow_run_from_deployment(theirs, parameters=PART)
        assert not await bell.wait(1)
        await client.create_flow_run_from_deployment(ours, parameters=PART)
        assert await bell.wait(60)
        assert not await bell.wait(0.1)
    finally:
        listening.cancel()
