"""Removes from Prefect the flow runs of Headrace that ended long ago; the runs in the store stay.

Owns which flow runs are ours and how many go at once. Knows nothing of the store.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from prefect.client.orchestration import PrefectClient

OURS = ("run-chain", "run-part", "sweep")
"""The names of the flows whose flow runs are removed; those of others are nobody's business here."""
AT_ONCE = 100
MOST = 2000
"""How many go in one sweep: each is a request, and the next sweep goes on."""


async def forget_flow_runs(client: PrefectClient, *, days: float, now: datetime) -> int:
    """Delete the flow runs of our flows that ended more than `days` ago; return how many.

    Their artifacts go too, and in Prefect's database their task runs, states and logs. A flow run that
    somebody else deleted meanwhile is not counted.
    """
    from prefect.client.schemas.filters import (
        ArtifactFilter,
        ArtifactFilterFlowRunId,
        FlowFilter,
        FlowFilterName,
        FlowRunFilter,
        FlowRunFilterEndTime,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import TERMINAL_STATES
    from prefect.exceptions import ObjectNotFound

    flows = FlowFilter(name=FlowFilterName(any_=list(OURS)))
    ended = FlowRunFilter(
        end_time=FlowRunFilterEndTime(before_=now - timedelta(days=days)),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(TERMINAL_STATES))),
    )
    gone = 0
    while gone < MOST:
        found = await client.read_flow_runs(flow_filter=flows, flow_run_filter=ended, limit=AT_ONCE)
        if not found:
            break
        of_these = ArtifactFilterFlowRunId(any_=[flow_run.id for flow_run in found])
        for artifact in await client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=of_these)):
            with suppress(ObjectNotFound):
                await client.delete_artifact(artifact.id)
        for flow_run in found:
            try:
                await client.delete_flow_run(flow_run.id)
                gone += 1
            except ObjectNotFound:
                continue
    return gone
