"""Tells Prefect what a deployed chain's run came to: an artifact that a caller reads, and an event.

Owns the names that callers rely on: the artifact's key and the event's. Knows nothing of how a run is run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from chains.settings import get_settings
from chains.store import open_store
from flows.results import travelling_result

if TYPE_CHECKING:
    from chains.store import RunRow

EVENT = "headrace.run."
"""An event's name begins so and ends in the run's status, as in `headrace.run.ok`."""


def result_key(chain: str) -> str:
    """Return the key of the artifact that holds a run's result."""
    return f"{chain}-result".replace("_", "-")


async def tell_result(flow_run_id: str) -> None:
    """Leave the result of a flow run's run as an artifact of it, and emit its event.

    A flow run that opened no run has its reason in its state. What Prefect does not take is logged: the run
    is what its records say.
    """
    import httpx
    from prefect import get_run_logger
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import ArtifactCreate

    with open_store(get_settings().store) as store:
        run = next(iter(store.runs(limit=1, flow_run=flow_run_id)), None)
        if run is None:
            return
        result = _storable(travelling_result(store, run))
    artifact = ArtifactCreate(
        type="json",
        key=result_key(run.chain),
        description=f"{run.status} · run {run.id}",
        data=result,  # as an object: Prefect's own artifact classes would make a text of it
        flow_run_id=UUID(flow_run_id),
    )
    try:
        async with get_client() as client:
            await client.create_artifact(artifact)
    except httpx.HTTPError as error:
        get_run_logger().warning("The result of run %s could not be left as an artifact: %s", run.id, error)
    _emit(run, result)


def _emit(run: RunRow, result: dict[str, Any]) -> None:
    from prefect.events import emit_event

    resource = {
        "prefect.resource.id": f"headrace.run.{run.id}",
        "prefect.resource.name": run.id,
        "headrace.chain": run.chain,
        "headrace.version": run.chain_hash,
    }
    told = ("run_id", "chain", "status", "rows", "cost_micro", "error")
    emit_event(f"{EVENT}{run.status}", resource=resource, payload={name: result[name] for name in told})


def _storable(value: Any) -> Any:
    """Return JSON values without what a database may refuse: lone surrogates and NUL."""
    match value:
        case str():
            return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
        case dict():
            return {_storable(key): _storable(item) for key, item in value.items()}
        case list():
            return [_storable(item) for item in value]
        case _:
            return value
