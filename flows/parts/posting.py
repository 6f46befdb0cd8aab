"""Makes the flow run of a part, below that of its run.

Owns what Prefect is asked for then: two requests, since a part waits for each. (`run_deployment` of Prefect
reads the deployment first.) Knows nothing of what becomes of the part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect import Task
from prefect.context import FlowRunContext
from prefect.states import Pending, Scheduled

from flows.closing import PART_OF

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import State

    from flows.parts.part import Part


async def note_below_run(client: PrefectClient, part: Part, key: str) -> UUID | None:
    """Return the task run of the run's flow run by which Prefect shows a part below it, made if need be.

    None where no flow run carries the run.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return None
    shown = Task(_done_elsewhere, name=part.title)
    state: State[Any] = Pending()
    made = await client.create_task_run(
        shown, context.flow_run.id, dynamic_key=key, name=part.title, state=state
    )
    return made.id


async def post(
    client: PrefectClient, part: Part, *, chain: str, deployment: UUID, key: str, below: UUID | None
) -> UUID:
    """Return the flow run of a part, scheduled for now; with a key that was used before, the one it made."""
    state: State[Any] = Scheduled()
    flow_run = await client.create_flow_run_from_deployment(
        deployment,
        parameters=part.parameters(),
        state=state,
        name=f"{chain} · {part.title}",
        tags=[f"chain:{chain}", f"{PART_OF}{part.run_id}"],
        idempotency_key=key,
        parent_task_run_id=below,
    )
    return flow_run.id


def _done_elsewhere() -> None:
    """Stand for a part among the task runs of its run; its flow run does the work."""
