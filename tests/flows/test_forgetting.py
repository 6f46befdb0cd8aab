"""The sweep removes old flow runs of Headrace from Prefect, if it is told to, and no others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from prefect import Flow, flow
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterId
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Failed, Running

from flows import forgetting
from flows.run_part import run_part


@flow(name="somebody-elses")
def other() -> None:
    """Stand for a flow that is not ours."""


@pytest.fixture
async def client(prefect_url: str) -> AsyncIterator[PrefectClient]:
    with temporary_settings({PREFECT_API_URL: prefect_url}):
        async with get_client() as found:
            yield found


async def flow_run(client: PrefectClient, of: Flow[..., Any], state: Any) -> UUID:
    given = {"run_id": "r", "run_fence": 1, "steps": ["a"], "first_row": None, "end_row": None, "since": 0.0}
    made = await client.create_flow_run(of, parameters=given if of is run_part else {})
    await client.set_flow_run_state(made.id, Running(), force=True)
    if state is not None:
        await client.set_flow_run_state(made.id, state, force=True)
    return made.id


async def there(client: PrefectClient, flow_run_id: UUID) -> bool:
    try:
        await client.read_flow_run(flow_run_id)
    except ObjectNotFound:
        return False
    return True


async def test_what_ended_long_ago_goes_and_what_is_young_at_work_or_not_ours_stays(
    client: PrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgetting, "AT_ONCE", 1)
    done, failed = await flow_run(client, run_part, Completed()), await flow_run(client, run_part, Failed())
    running, foreign = await flow_run(client, run_part, None), await flow_run(client, other, Completed())
    left = await client.create_artifact(ArtifactCreate(key="left", type="markdown", flow_run_id=done))
    now = datetime.now(UTC)
    assert await forgetting.forget_flow_runs(client, days=30, now=now) == 0
    assert await there(client, done)
    later = now + timedelta(days=31)
    assert await forgetting.forget_flow_runs(client, days=30, now=later) >= 2
    assert [await there(client, one) for one in (done, failed, running, foreign)] == [
        False,
        False,
        True,
        True,
    ]
    assert not await client.read_artifacts(
        artifact_filter=ArtifactFilter(id=ArtifactFilterId(any_=[left.id]))
    )


async def test_one_sweep_has_a_bound_and_the_next_goes_on(
    client: PrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = datetime.now(UTC) + timedelta(days=31)
    await forgetting.forget_flow_runs(client, days=30, now=later)
    for _ in range(3):
        await flow_run(client, run_part, Completed())
    monkeypatch.setattr(forgetting, "AT_ONCE", 1)
    monkeypatch.setattr(forgetting, "MOST", 2)
    later = datetime.now(UTC) + timedelta(days=31)
    assert await forgetting.forget_flow_runs(client, days=30, now=later) == 2
    assert await forgetting.forget_flow_runs(client, days=30, now=later) == 1
