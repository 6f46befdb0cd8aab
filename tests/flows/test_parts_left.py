"""Parts whose run is gone give back their place in the pool."""

from __future__ import annotations

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Pending, Running

from flows.closing import PART_OF, crash_parts
from flows.pools import ensure_deployment, ensure_pool
from flows.run_part import run_part


@pytest.fixture
async def client(prefect_url: str):
    with temporary_settings({PREFECT_API_URL: prefect_url}):
        async with get_client() as found:
            yield found


@pytest.fixture
async def send(client):
    """Give a function that makes the flow run of a part in a state."""
    await ensure_pool(client, "parts-left")
    deployment = await ensure_deployment(client, run_part, "parts-left", pool="parts-left")

    async def make(run_id: str, state):
        given = {"run_id": run_id, "run_fence": 1, "steps": ["a"], "first_row": None, "end_row": None}
        made = await client.create_flow_run_from_deployment(
            deployment, parameters={**given, "since": 0.0}, tags=[f"{PART_OF}{run_id}"]
        )
        await client.set_flow_run_state(made.id, state, force=True)
        return made.id

    return make


async def test_what_the_process_before_had_sent_is_crashed_and_what_has_ended_stays(client, send) -> None:
    running, pending = await send("left1", Running()), await send("left1", Pending())
    ended, other = await send("left1", Completed()), await send("left2", Running())
    assert await crash_parts(["left1"]) == 2
    states = [(await client.read_flow_run(one)).state.type for one in (running, pending, ended, other)]
    assert states == ["CRASHED", "CRASHED", "COMPLETED", "RUNNING"]
    assert await crash_parts(["left1"]) == 0 == await crash_parts([])
